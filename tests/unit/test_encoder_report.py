"""The encoder report: one whole file that says what was found, and only that."""

import html
import html.parser
import re

import numpy as np
import pytest
import xarray as xr

from neuroattn._references import REFERENCES
from neuroattn.analyses import encoder_report, seed_agreement, write_encoder_report
from neuroattn.analyses.encoder_report import summarise, verdicts
from neuroattn.analyses.report import Cell, Figures, Paragraph, Section, Table, render_report

MODELS = ["attention", "ridge", "pooled-ridge", "factorized", "probe"]
KINDS = {
    "V1": "retinotopic",
    "V4": "pooled-linear",
    "FFA": "routed",
    "PPA": "routed",
    "rest": "noise",
    "gap": "",
}
# Mean r of each model in each kind of region; attention wins where responses are routed, and loses in V1.
LEVELS = {
    "retinotopic": [0.42, 0.52, 0.20, 0.47, 0.24],
    "pooled-linear": [0.42, 0.44, 0.48, 0.43, 0.44],
    "routed": [0.55, 0.38, 0.30, 0.36, 0.41],
    "noise": [0.0, 0.0, 0.0, 0.0, 0.0],
    "": [np.nan] * 5,
}


def make_results(*, unit_kind="voxel", models=MODELS, rois=KINDS, n_units=120, ceiling=True):
    """Make the arguments of write_encoder_report, shaped like those of a run."""
    rng = np.random.default_rng(0)
    names = list(rois)
    side = np.repeat(["left", "right"], n_units // 2) if unit_kind == "vertex" else np.full(n_units, "none")
    full = [name for name in names if name != "gap"]
    label = np.tile(np.arange(len(full)).repeat(-(-n_units // (2 * len(full))))[: n_units // 2], 2)
    members = np.stack(
        [label == full.index(name) if name in full else np.zeros(n_units, bool) for name in names]
    )
    order = [MODELS.index(model) for model in models]
    level = np.array([LEVELS[list(rois.values())[names.index(full[i])]] for i in label])[:, order].T
    r = (
        level[:, None]
        + 0.1 * rng.standard_normal((1, 1, n_units))
        + 0.03 * rng.standard_normal((len(models), 2, n_units))
    )
    nc = rng.uniform(0.05, 0.8, n_units) if ceiling else np.full(n_units, np.nan)
    score = np.where(nc >= 0.1, np.sign(r) * r**2 / nc, np.nan)
    coords = {
        "subject": ["subj01"], "model": models, "seed": [0, 1], "roi": names, "bound": ["low", "high"],
        "hemisphere": ("unit", side), "unit_kind": ("unit", np.full(n_units, unit_kind)),
        "vertex_index": ("unit", np.tile(np.arange(n_units // 2), 2)),
        "membership": (("roi", "unit"), members),
    }  # fmt: skip
    scores = xr.Dataset(
        {
            "correlation": (("subject", "model", "seed", "unit"), r[None]),
            "correlation_ci": (
                ("subject", "model", "seed", "unit", "bound"),
                r[None, ..., None] + [-0.1, 0.1],
            ),
            "noise_ceiling": (("subject", "unit"), nc[None]),
            "r2_over_ceiling": (("subject", "model", "seed", "unit"), score[None]),
        },
        coords,
        {"neuroattn_version": "0.1.0", "seed": 0, "config": "{}", "simulated": 1, "min_ceiling": 0.1},
    )
    regions = np.concatenate([np.ones((1, n_units), bool), members])
    table = {"n_units": ("roi", regions.sum(1)), "n_dropped": ("roi", (regions & ~(nc >= 0.1)).sum(1))}
    for name, values in (("correlation", r.mean(1)), ("r2_over_ceiling", score.mean(1))):
        mean, median = np.full((2, len(models), len(regions)), np.nan)
        for j, region in enumerate(regions):
            inside = values[:, region & np.isfinite(values).all(0)]
            if inside.size:
                mean[:, j], median[:, j] = inside.mean(1), np.median(inside, 1)
        half = np.where(np.isfinite(mean), 0.05, np.nan)
        table |= {
            name: (("model", "roi"), mean), f"{name}_median": (("model", "roi"), median),
            f"{name}_ci": (("model", "roi", "bound"), np.stack([mean - half, mean + half], -1)),
            f"{name}_shuffled": (("model", "roi"), mean * 0 + 0.004),
        }  # fmt: skip
    mean = table["correlation"][1]
    difference = np.full_like(mean, np.nan)
    best = np.zeros(len(regions), int)
    if len(models) > 1:
        best = 1 + np.nan_to_num(mean[1:], nan=-1).argmax(0)
        difference[0] = mean[0] - mean[best, np.arange(len(regions))]
    table |= {
        "best_baseline": ("roi", np.array(models)[best]), "difference": (("model", "roi"), difference),
        "difference_ci": (("model", "roi", "bound"), np.stack([difference - 0.03, difference + 0.03], -1)),
    }  # fmt: skip
    roi_scores = xr.Dataset(table, {"model": models, "roi": ["all", *names], "bound": ["low", "high"]})

    ids = np.array([f"scene{i}" for i in range(6)])
    masks = np.zeros((6, 2, 28, 28), bool)
    images = rng.integers(60, 120, (6, 28, 28, 3), np.uint8)
    for i in range(6):
        for category in range(2):
            y, x = rng.integers(0, 18, 2)
            masks[i, category, y : y + 9, x : x + 9] = True
            images[i, y : y + 9, x : x + 9] = (230, 170, 60) if category else (70, 150, 220)
    sides = ("left", "right") if unit_kind == "vertex" else ("none",)
    queries = [(roi, s) for s in sides for roi in full]
    weights = rng.gamma(2, 1, (2, 6, len(queries), 7, 7))
    for q, (roi, _) in enumerate(queries):
        if rois[roi] == "routed":
            weights[:, :, q] += 12 * masks[:, ["FFA", "PPA"].index(roi)].reshape(6, 7, 4, 7, 4).mean((2, 4))
    roi, side = zip(*queries, strict=True)
    attention = xr.DataArray(
        weights / weights.sum((-2, -1), keepdims=True),
        dims=("seed", "stimulus", "query", "y", "x"),
        coords={"stimulus": ids, "roi": ("query", list(roi)), "hemisphere": ("query", list(side))},
    )
    truth = xr.Dataset(
        {
            "kind": ("roi", list(rois.values())),
            "object_mask": (("stimulus", "category", "y", "x"), masks),
            "cue": ("roi", [{"FFA": "face", "PPA": "house"}.get(roi, "") for roi in names]),
        },
        {"roi": names, "stimulus": ids, "category": ["face", "house"]},
    )
    config = {
        "command": "neuroattn fit-encoder --demo", "dataset": "simulated subject",
        "backbone": "efficientnet_lite0", "layer": "blocks.4", "split": "grouped by image", "seeds": [0, 1],
        "epochs": 20, "n_train": 480,
        "n_test": 120, "n_bootstrap": 1000, "notes": ["2 units never vary and were dropped"],
        "versions": {"torch": "2.11.0", "neuroattn": "0.1.0"}, "durations": {"features": 21.4, "fit": 62.0},
    }  # fmt: skip
    return {
        "scores": scores, "roi_scores": roi_scores, "attention": attention, "images": images, "truth": truth,
        "config": config, "surface": "fsaverage5" if unit_kind == "vertex" else None,
    }  # fmt: skip


class Page(html.parser.HTMLParser):
    """Elements, attributes and visible text of a page; every element that opens must close."""

    VOID = frozenset({"meta", "link", "img", "br", "hr", "input"})

    def __init__(self, markup):
        super().__init__(convert_charrefs=True)
        self.open, self.attributes, self.texts, self.headings = [], [], [], []
        self.feed(markup)
        self.close()
        assert not self.open
        self.text = " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag, attributes):
        self.attributes += [(tag, name, value) for name, value in attributes]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.attributes += [(tag, name, value) for name, value in attributes]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)
        if self.open and self.open[-1] != "style":
            self.texts.append(data)

    def named(self, name):
        return [value for _, key, value in self.attributes if key == name]


def write(path, **changes):
    """Write a report, without maps of attention unless they are given, and return its markup."""
    arguments = make_results() | {"attention": None, "images": None} | changes
    write_encoder_report(path / "report.html", **arguments)
    return (path / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def markup(tmp_path_factory):
    return write(tmp_path_factory.mktemp("report"), **make_results(unit_kind="vertex"))


@pytest.fixture(scope="module")
def page(markup):
    return Page(markup)


def test_every_model_and_region_is_named(page):
    for name in [*MODELS, *KINDS, "all"]:
        assert name in page.text


def test_every_part_is_there(page):
    assert page.headings == [
        "Accuracy by region", "Against the best baseline", "Unit by unit", "What the regions attend to",
        "What was planted, what was found", "What was run", "Methods, ready to paste",
    ]  # fmt: skip


def test_page_loads_nothing(markup, page):
    tags = {tag for tag, _, _ in page.attributes}
    assert not tags & {"script", "link", "iframe", "object"}
    for name in ("src", "href", "xlink:href"):
        for value in page.named(name):
            assert value.startswith(("#", "data:image/png", "https://doi.org/"))
    assert not re.search(r"url\((?!#)|@import", markup)


def test_ids_are_unique(page):
    ids = page.named("id")
    assert len(ids) > 10
    assert len(ids) == len(set(ids))


def test_page_is_small(markup):
    assert len(markup) < 4e6


def test_values_and_intervals_are_in_the_table(page):
    cell = make_results()["roi_scores"].sel(model="ridge", roi="V1")
    low, high = cell.correlation_ci.values
    assert f"{float(cell.correlation):.2f} {low:.2f} to {high:.2f}" in page.text


def test_region_without_units_is_said_so_and_has_no_number(page):
    row = page.text.split(" gap ")[-1]
    assert "gap 0 no units" in page.text
    assert not row.startswith("0.00")


def test_simulated_banner_iff_simulated(tmp_path, page):
    banner = "The responses are simulated. Nothing here is evidence about real brains."
    assert banner in page.text
    results = make_results()
    results["scores"].attrs["simulated"] = 0
    measured = Page(write(tmp_path, scores=results["scores"], truth=None)).text
    assert banner not in measured
    assert "imulated" not in measured.replace("simulated subject", "")


def test_summary_says_where_the_simple_model_wins(page):
    assert (
        "The attention model predicts better than the best baseline in 2 of 5 regions: FFA, PPA. "
        "A baseline predicts better in 2 of 5 regions: V1 (ridge), V4 (pooled-ridge)." in page.text
    )


def test_planted_truth_is_judged(page):
    assert "FFA routed attention attention ✓ as planted" in page.text
    assert "V1 retinotopic factorized ridge ✗ missed" in page.text
    assert "rest noise none none predicts above chance ✓ as planted" in page.text


def test_failed_recovery_is_said(tmp_path):
    results = make_results()
    results["truth"]["kind"].loc["V1"] = "routed"
    results["roi_scores"]["correlation_ci"].loc[{"roi": "rest"}] += 0.2
    text = Page(write(tmp_path, truth=results["truth"], roi_scores=results["roi_scores"])).text
    assert "V1 routed attention ridge ✗ missed" in text
    assert "✗ false alarm" in text


def test_attention_on_the_cued_object_is_measured(page):
    # Uniform attention would give 1.0; the fabricated maps of FFA follow the face.
    value = float(re.search(r"FFA routed .*? ([\d.]+) × uniform", page.text).group(1))
    assert value > 2


def test_methods_name_the_resampling_unit_and_cite_the_models_used(tmp_path, page):
    assert "95 % percentile bootstraps over test images (1,000 resamples)" in page.text
    assert "2505.17329" in page.text
    assert "2506.10178" in page.text
    few = Page(write(tmp_path, **make_results(models=["attention", "ridge"]))).text
    assert "2505.17329" in few
    assert "2506.10178" not in few


def test_without_attention_and_truth(tmp_path):
    page = Page(write(tmp_path, truth=None))
    assert "What the regions attend to" not in page.headings
    assert "What was planted, what was found" not in page.headings


def test_maps_stand_alone_without_images(tmp_path):
    assert (
        "Attention maps, left hemisphere"
        in Page(write(tmp_path, **make_results(unit_kind="vertex") | {"images": None, "surface": None})).text
    )


def test_neurons_have_no_surface(tmp_path):
    text = Page(write(tmp_path, **make_results(unit_kind="neuron"))).text
    assert "Correlation of single neurons" in text
    assert "fsaverage" not in text


def test_vertices_of_another_mesh_are_not_drawn_on_fsaverage(tmp_path):
    text = Page(write(tmp_path, **make_results(unit_kind="vertex") | {"surface": None})).text
    assert "fsaverage" not in text
    assert "Correlation of single vertices" in text


def test_unknown_ceiling(tmp_path):
    text = Page(write(tmp_path, **make_results(ceiling=False))).text
    assert "The noise ceiling of these responses is unknown" in text
    assert "r² / noise ceiling" not in text


def test_one_model_is_compared_with_nothing(tmp_path):
    page = Page(write(tmp_path, **make_results(models=["ridge"])))
    assert "No model was compared with a baseline" in page.text
    assert "Against the best baseline" not in page.headings


def test_reason_for_a_missing_model_is_given(tmp_path):
    config = make_results()["config"] | {"not_applicable": {"probe": "no spatial tokens"}}
    assert "probe: no spatial tokens" in Page(write(tmp_path, config=config)).text


def test_hostile_names_are_text(tmp_path):
    hostile = "<script>alert($1)</script>"
    rois = {"V1": "retinotopic", hostile: "pooled-linear", "FFA": "routed"}
    markup = write(tmp_path, **make_results(rois=rois))
    assert hostile in Page(markup).text
    assert "<script" not in markup


def test_broken_input_leaves_the_old_report(tmp_path):
    (tmp_path / "report.html").write_text("old")
    with pytest.raises(ValueError, match="roi_scores must have 'best_baseline'"):
        write(tmp_path, roi_scores=make_results()["roi_scores"].drop_vars("best_baseline"))
    assert (tmp_path / "report.html").read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.html"]


def test_verdicts_need_the_whole_interval_beyond_zero():
    scores = make_results()["roi_scores"]
    scores["difference_ci"].loc[{"roi": "FFA"}] = [-0.001, 0.4]
    assert verdicts(scores)["FFA"] == ""
    assert verdicts(scores)["PPA"] == "attention"
    assert verdicts(scores)["V1"] == "ridge"
    assert "gap" not in verdicts(scores)
    assert "Neither is clearly better in 2 of 5: FFA, rest." in summarise(scores)[0]


def test_agreement_is_high_only_where_maps_follow_the_image():
    attention = make_results()["attention"]
    same, different = seed_agreement(attention), seed_agreement(attention, different_images=True)
    routed = np.isin(attention.roi, ["FFA", "PPA"])
    assert (same[routed] > 0.8).all()
    assert (different[routed] < 0.4).all()
    assert (abs(same[~routed]) < 0.3).all()


def test_agreement_equals_numpy_over_pairs_of_seeds():
    maps = np.random.default_rng(3).random((3, 2, 1, 4, 5))
    attention = xr.DataArray(maps, dims=("seed", "stimulus", "query", "y", "x"))
    flat = maps.reshape(3, 2, -1)
    pairs = [np.corrcoef(flat[i, s], flat[j, s])[0, 1] for i, j in ((0, 1), (0, 2), (1, 2)) for s in range(2)]
    np.testing.assert_allclose(seed_agreement(attention), [np.mean(pairs)], rtol=1e-12)


def test_agreement_of_one_seed_is_unknown(tmp_path):
    attention = make_results()["attention"].isel(seed=[0])
    assert np.isnan(seed_agreement(attention)).all()
    assert (
        "With one seed the agreement of these maps is unknown"
        in Page(write(tmp_path, attention=attention)).text
    )


def test_agreement_of_a_constant_map_is_unknown():
    attention = xr.DataArray(np.full((2, 3, 1, 4, 4), 1 / 16), dims=("seed", "stimulus", "query", "y", "x"))
    assert np.isnan(seed_agreement(attention)).all()


def test_agreement_names_the_axes_it_needs():
    with pytest.raises(
        ValueError, match=r"attention must have shape \(seed, stimulus, query, y, x\), got \(2, 3\)"
    ):
        seed_agreement(xr.DataArray(np.zeros((2, 3)), dims=("y", "x")))


def test_shell_numbers_tables_and_leaves_out_empty_sections(tmp_path):
    table = Table("Counts.", ["Region", "Units"], [[Cell("V1"), Cell("3", "of 4")]])
    render_report(
        tmp_path / "page.html", title="T & T", subtitle="", summary=[],
        sections=[Section("Empty", []), Section("Full", [table, Paragraph("a < b"), table, Figures([])])],
    )  # fmt: skip
    page = Page((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert page.headings == ["Full"]
    assert "Table 1." in page.text
    assert "Table 2." in page.text
    assert "a < b" in page.text
    assert "T & T" in page.text


def test_every_reference_has_a_doi():
    for _, key in encoder_report._MODELS.values():
        assert REFERENCES[key].doi.startswith("10.")
