"""The report of every command: one file that is valid, says what its intervals are, and can be cited."""

import html.parser
import re
from importlib.metadata import version

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

from neuroattn import __version__
from neuroattn.analyses import (
    compare_attention_layers,
    compare_attentions,
    decode_trials,
    evaluate_encoder,
    evaluate_scanpath_models,
    map_attention,
    run_encoder_study,
    search_image,
    study_asymmetries,
    write_decoding_report,
    write_maps_report,
    write_samples_report,
)
from neuroattn.analyses import search_asymmetry as measure_asymmetry
from neuroattn.analyses.maps_report import describe_maps
from neuroattn.analyses.search_report import summarise_asymmetries
from neuroattn.analyses.search_run import search_blindly
from neuroattn.analyses.style import THEME
from neuroattn.datasets import Recording, Trials, make_search_arrays
from neuroattn.eeg import MotorImageryClassifier
from neuroattn.encoding import load_backbone
from neuroattn.results import Scanpath, label_rois
from neuroattn.scanpath import ConditionalLogit
from neuroattn.search import VGG16, EccNet, PixelMatch, RandomSearch, SearchTrial, experiments

VOID = frozenset({"meta", "link", "img", "br", "hr", "input"})
TINY_VGG = {"widths": (2, 2, 2, 2, 2)}


def make_recording(name, seed=0):
    """Make 40 images whose brightness two regions respond to."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (40, 32, 40, 3), np.uint8)
    images[::2] //= 3
    responses = images.mean((1, 2, 3))[:, None] / 40 + rng.normal(size=(40, 4))
    rois = label_rois({"V1": [True, True, False, False], "FFA": [False, False, True, True]})
    ids = np.char.add(f"{name}-", np.arange(40).astype(str))
    return Recording(name, responses.astype("f4"), rois, stimulus_ids=ids, images=images)


@pytest.fixture(scope="module")
def group(tmp_path_factory):
    """Folder of the encoders of two subjects, and of their features."""
    root = tmp_path_factory.mktemp("group")
    run_encoder_study(
        {name: make_recording(name, seed) for seed, name in enumerate(("subj01", "subj02"))},
        root / "group",
        models=["attention", "ridge"],
        options={"attention": {"epochs": 1}},
        backbone=load_backbone("test_vit", weights="random", image_size=32),
        cache=root / "cache",
        split="test=12,seed=0",
        n_seeds=2,
        n_shuffles=9,
    )
    return root


def make_trials():
    rng = np.random.default_rng(0)
    runs = pd.DataFrame(
        {"subject": np.repeat(["a", "b"], 16), "session": "1", "run": np.tile([1, 1, 2, 2], 8)}
    )
    return Trials(
        rng.normal(size=(32, 3, 300)),
        np.tile(["left", "right"], 16),
        runs.astype(str),
        ["C3", "Cz", "C4"],
        sfreq=100,
        tmin=-0.5,
    )


def fit_encoder(folder, group):
    return group / "group" / "subj01" / "report.html"


def fit_encoder_of_a_group(folder, group):
    return group / "group" / "report.html"


def eval_encoder(folder, group):
    other = make_recording("other", seed=5)
    study = group / "group" / "subj01"
    evaluate_encoder(study, other, folder, cache=group / "cache", n_shuffles=9, command="a <b>")
    return folder / "report.html"


def attention_maps(folder, group):
    images = make_recording("other", seed=5).images[:6]
    maps = map_attention(group / "group" / "subj01", images, cache=group / "cache", per_head=True)
    write_maps_report(folder / "report.html", maps, images, source="photos.zip")
    return folder / "report.html"


def decode_eeg_fit(folder, group):
    scores = decode_trials(make_trials(), ["tangent-space", "slow-signals"], n_permutations=5)
    write_decoding_report(folder / "report.html", scores, config={"dataset": "two people"})
    return folder / "report.html"


def decode_eeg_study(folder, group):
    quick = MotorImageryClassifier(n_epochs=1, batch_size=8)
    out = folder / "study"
    compare_attentions({"one": make_trials()}, ["eca"], out=out, n_seeds=1, seed=3, classifier=quick)
    return out / "report.html"


def predict_scanpath_evaluate(folder, group):
    data = make_search_arrays(n_scenes=8, n_observers=3, grid=(2, 3), seed=0)
    evaluate_scanpath_models(data, {}, folder, n_folds=2, n_samples=1)
    return folder / "report.html"


def predict_scanpath_sample(folder, group):
    data = make_search_arrays(n_scenes=8, n_observers=3, seed=0)
    scene = data.scene_of(0)
    samples = ConditionalLogit().fit(data).sample(scene, n=30, seed=4)
    samples = samples.assign_attrs(fitted_to="simulated searches", simulated=1)
    write_samples_report(folder / "report.html", samples, scene, model="conditional-logit")
    return folder / "report.html"


def search_run(folder, group):
    pixels = np.full((48, 64), 128, np.uint8)
    pixels[24:40, 40:56] = np.random.default_rng(0).integers(0, 256, (16, 16))
    mask = np.zeros((48, 64), bool)
    mask[24:40, 40:56] = True
    trial = SearchTrial(pixels, pixels[24:40, 40:56], mask, max_fixations=4, px_per_degree=8)
    search_image(EccNet(VGG16(**TINY_VGG)), trial, folder / "run", network="VGG16, random weights")
    return folder / "run" / "report.html"


def search_asymmetry(folder, group):
    displays = [
        experiments.lighting(n_per_size=1, px_per_degree=15),
        experiments.letters(n_per_size=1, px_per_degree=15),
    ]
    study_asymmetries(PixelMatch(), displays, folder / "study", name="a <b>", n_resamples=20)
    return folder / "study" / "report.html"


def compare_attention(folder, group):
    sizes = {"n_train": 64, "n_test": 16, "steps": 2, "width": 16, "depth": 1, "lengths": [16, 32]}
    compare_attention_layers(["manar", "static"], out=folder / "study", n_seeds=2, **sizes)
    return folder / "study" / "report.html"


VERBS = [
    compare_attention,
    fit_encoder,
    fit_encoder_of_a_group,
    eval_encoder,
    attention_maps,
    decode_eeg_fit,
    decode_eeg_study,
    predict_scanpath_evaluate,
    predict_scanpath_sample,
    search_run,
    search_asymmetry,
]


class Tree(html.parser.HTMLParser):
    """Tags with their attributes, checked to be balanced, and the text of chosen elements."""

    def __init__(self, markup):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.texts = [], [], []
        self.feed(markup)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        assert len(given) == len(attributes), f"an attribute of {tag} is given twice"
        self.tags.append((tag, given))
        if tag not in VOID:
            self.open.append((tag, given.get("class", "").split()))

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        self.texts.append((list(self.open), data))

    def text(self, *selectors):
        """Return the text of every element within others, each given as tag or tag.class."""
        found = {}
        for path, data in self.texts:
            wanted = list(selectors)
            for element in path:
                tag, _, name = wanted[0].partition(".")
                if element[0] == tag and (not name or name in element[1]):
                    wanted.pop(0)
                    if not wanted:
                        found.setdefault(id(element), []).append(data)
                        break
        return [" ".join(" ".join(parts).split()) for parts in found.values()]


@pytest.fixture(scope="module", params=VERBS, ids=lambda verb: verb.__name__)
def markup(request, tmp_path_factory, group):
    torch.manual_seed(0)
    return request.param(tmp_path_factory.mktemp("verb"), group).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def tree(markup):
    return Tree(markup)


def test_page_is_one_file_that_loads_nothing(markup, tree):
    assert not {tag for tag, _ in tree.tags} & {"script", "link", "iframe", "object", "embed", "base", "img"}
    for tag, attributes in tree.tags:
        assert not any(name.startswith("on") for name in attributes), f"{tag} has a script"
        for name in ("src", "srcset", "href", "xlink:href", "data"):
            value = attributes.get(name, "#")
            assert value.startswith(("#", "data:image/png;base64,", "https://doi.org/10.")), (tag, value[:80])
    assert not re.search(r"url\((?!#)|@import", markup)
    assert len(markup) < 4e6


def test_page_is_valid(markup, tree):
    assert markup.startswith("<!DOCTYPE html>")
    assert ("html", {"lang": "en"}) in tree.tags
    ids = [attributes["id"] for _, attributes in tree.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert len(tree.text("h1")) == len(tree.text("title")) == 1
    assert "a <b>" not in markup, "names are text"


def test_page_fits_a_phone_and_the_dark(markup, tree):
    viewports = [a["content"] for tag, a in tree.tags if tag == "meta" and a.get("name") == "viewport"]
    assert viewports == ["width=device-width, initial-scale=1"]
    light, dark = markup.split("@media (prefers-color-scheme: dark)")[:2]
    for role, (by_day, by_night) in THEME.items():
        assert f"--{role}: {by_day};" in light
        assert f"--{role}: {by_night};" in dark
    body = markup.partition("<body>")[2]
    for role in ("ink", "muted", "paper"):
        assert THEME[role][0] not in body, "colours of charts follow the theme"


def test_every_figure_says_what_was_resampled(tree):
    captions = tree.text("figcaption")
    charts = [attributes for tag, attributes in tree.tags if tag == "svg"]
    assert len(captions) == len(charts) >= 1
    labels = [attributes.get("aria-label", "") for attributes in charts]
    assert len(set(labels)) == len(labels)
    assert all(
        len(label) > 10 and attributes["role"] == "img"
        for label, attributes in zip(labels, charts, strict=True)
    )
    unit = r"over (the )?(\d+ )?(test images|images|subjects|trials|displays|drawn paths|\w+s)"
    for caption in captions:
        assert re.match(r"Figure \d+\. \S", caption)
        none = "Nothing was resampled, and no interval is drawn." in caption
        some = re.search(rf"(bootstrap|Student's t|Wilson interval|standard errors)[^.]* {unit}", caption)
        resampled = re.search(r"resamples, \w+", caption)
        assert none or some or resampled, caption


def test_methods_can_be_pasted_and_cite_what_they_use(tree):
    (methods,) = tree.text("p.paste")
    assert f"neuroattn {__version__}" in methods
    assert f"torch {version('torch')}" in methods
    assert re.search(r"; seeds? \d", methods)
    references = tree.text("ol.references", "li")
    numbers = {int(number) for number in re.findall(r"\[(\d+)\]", methods)}
    assert numbers == set(range(1, len(references) + 1)) != set()
    assert all(re.search(r" \(\d{4}\)\. ", reference) for reference in references)


def test_maps_of_one_place_and_of_none_are_told_apart():
    """A map at one place in all images, one at a place of its own in each, and a uniform one."""
    weights = np.zeros((1, 8, 3, 4, 4))
    weights[:, :, 0, 1, 2] = 1
    for i in range(8):
        weights[:, i, 1, i // 4, i % 4] = 1
    weights[:, :, 2] = 1 / 16
    table = describe_maps(xr.DataArray(weights, dims=("seed", "stimulus", "query", "y", "x")))
    np.testing.assert_allclose(table.extent, [1 / 16, 1 / 16, 1])
    np.testing.assert_allclose(table.extent_interval, np.repeat(table.extent.values[:, None], 2, 1))
    assert table.same_place[0] == pytest.approx(1)
    assert table.same_place[1] < 0
    assert np.isnan(table.same_place[2])
    assert table.attrs["resampled"] == "images"


def test_narrower_intervals_need_more_images():
    rng = np.random.default_rng(0)
    few, many = (
        describe_maps(
            xr.DataArray(
                rng.dirichlet(np.ones(9), (1, n, 1)).reshape(1, n, 1, 3, 3),
                dims=("seed", "stimulus", "query", "y", "x"),
            )
        )
        for n in (5, 80)
    )
    widths = [np.ptp(table.extent_interval.values) for table in (few, many)]
    assert 0 < widths[1] < widths[0] / 2


def test_one_search_stands_beside_blind_ones():
    pixels = np.full((64, 64), 90, np.uint8)
    pixels[8:24, 40:56] = 255
    trial = SearchTrial(pixels, pixels[8:24, 40:56], pixels == 255, max_fixations=6, px_per_degree=8)
    needed = search_blindly(EccNet(VGG16(**TINY_VGG)), trial, seed=1)
    assert needed["pixel match"] == [1]
    found = [n for n in needed["random"] if n is not None]
    assert 0 < len(found) < 100  # a target of a sixteenth of the image, five looks
    assert all(1 <= n <= 5 for n in found)
    assert search_blindly(EccNet(VGG16(**TINY_VGG)), trial, seed=1) == needed


def test_a_search_without_a_known_target_is_not_judged(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64), np.uint8)
    trial = SearchTrial(pixels, pixels[:16, :16], max_fixations=3, px_per_degree=8)
    search_image(EccNet(VGG16(**TINY_VGG)), trial, tmp_path / "run")
    page = Tree((tmp_path / "run" / "report.html").read_text(encoding="utf-8"))
    assert "Beside searches without features" not in page.text("h2")
    assert "nobody knows whether it was found" in page.text("div.summary")[0]


class Slow:
    """Search item after item where the hard target is shown, and find the easy one at once."""

    config = None

    def search_batch(self, trials, *, batch_size=1, seed=0, progress=None):
        hard = experiments.lighting().conditions[0].name
        saccades = [trial.attrs["set_size"] if trial.attrs["condition"] == hard else 1 for trial in trials]
        return [
            Scanpath(np.zeros(n + 1), np.zeros(n + 1), trial.image.shape[1::-1], found=True)
            for n, trial in zip(saccades, trials, strict=True)
        ]


def test_asymmetries_are_claimed_beside_controls_only():
    displays = [experiments.lighting(n_per_size=3, px_per_degree=15)]
    beside = measure_asymmetry(Slow(), displays, n_resamples=50)
    assert summarise_asymmetries(beside)[0] == (
        "model: beyond all controls, the condition that is harder for people is harder in 1 of 1 experiment (lighting)."
    )
    alone = measure_asymmetry(Slow(), displays, controls=False, n_resamples=50)
    assert "no asymmetry may be claimed" in summarise_asymmetries(alone)[0]
    nothing = measure_asymmetry(RandomSearch(), displays, n_resamples=50)
    assert "is neither in 1 of 1 experiment" in summarise_asymmetries(nothing)[0]


def test_paths_that_never_reach_the_target_are_said_so(tmp_path):
    data = make_search_arrays(n_scenes=8, n_observers=3, seed=0)
    scene = data.scene_of(0)
    samples = ConditionalLogit().fit(data).sample(scene, n=10, seed=4)
    elsewhere = int((scene.target + 1) % scene.n_objects)
    samples["object"] = samples.object.where(samples.object < 0, elsewhere)
    samples = samples.assign_attrs(fitted_to="one", simulated=0)
    write_samples_report(tmp_path / "report.html", samples, scene, model="logit")
    page = Tree((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "0 % of them reach the target" in page.text("div.summary")[0]
    assert not page.text("p.banner")
    rows = page.text("tr")
    assert any(row.startswith(f"{elsewhere} ") and "100 % 100 to 100 %" in row for row in rows)
