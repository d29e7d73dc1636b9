"""The published displays, the running of experiments, the controls and the study of asymmetries."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr

from neuroattn.analyses import (
    plot_asymmetry,
    plot_displays,
    plot_search_times,
    search_asymmetry,
    search_controls,
)
from neuroattn.results import Scanpath
from neuroattn.search import (
    VGG16,
    Condition,
    EccNet,
    Experiment,
    PixelMatch,
    RandomSearch,
    SearchConfig,
    SearchTrial,
    experiments,
    fit_rt,
    human_rt,
    items,
    random_weights,
    run_experiment,
    without_eccentricity,
)
from neuroattn.search.experiments import EXPERIMENTS

# side, target, cells, cell, background, most fixations, trials
PUBLISHED = {
    "curvature": (339, 48, 36, 56, 0, 37, 180),
    "lighting": (198, 31, 16, 49, 27, 17, 180),
    "intersection": (615, 177, 9, 205, 255, 10, 216),
    "letters": (615, 177, 9, 205, 255, 10, 216),
    "orientation": (339, 69, 16, 84, 255, 17, 240),
    "orientation_mixed": (339, 69, 16, 84, 255, 17, 240),
}
# Offsets of an item in its cell run from 0 to one below this.
JITTER = {"curvature": 8, "lighting": 18, "intersection": 27, "letters": 27, "orientation": 15}


@pytest.mark.parametrize("name", list(PUBLISHED))
def test_published_geometry(name):
    side, target, n_cells, cell, background, limit, n_trials = PUBLISHED[name]
    experiment = EXPERIMENTS[name]()
    assert experiment.name == name
    assert experiment.n_trials == n_trials
    trial = replace(experiment, n_per_size=1).trials()[-1]
    assert trial.image.shape == (side, side, 3)
    assert trial.target.shape == (target, target, 3)
    assert trial.cells.shape == (n_cells, side, side)
    assert (trial.cells.sum((1, 2)) == cell**2).all()
    assert trial.background == background == trial.image[-1, -1, 0]
    assert (trial.max_fixations, trial.px_per_degree) == (limit, 30)


@pytest.mark.parametrize("name", list(JITTER))
def test_items_use_the_published_range_of_offsets(name):
    experiment = EXPERIMENTS[name](n_per_size=1)
    for condition in experiment.conditions:
        assert experiment._jitter_px(condition) == (JITTER[name],) * 2
    spots = Experiment(
        "spots",
        tuple(map(spot, experiment.conditions)),
        (1,),
        experiment.field_deg,
        experiment.grid,
        150,
        jitter_deg=JITTER[name] / 30,
    )
    offsets = []
    for trial in spots.trials(spots.conditions[0].name):
        offsets.append(np.argwhere(trial.image[..., 0] == 0)[0] - np.argwhere(trial.target_mask)[0])
    assert np.min(offsets, 0).tolist() == [0, 0]
    assert np.max(offsets, 0).tolist() == [JITTER[name] - 1] * 2


def spot(condition):
    """Return a condition of single pixels, to see where items are put."""
    dot = items.Item("dot", 1 / 30, lambda y, x: np.zeros(y.shape))
    return Condition(condition.name, [dot], [dot])


def test_drawings_have_the_published_edges():
    def box(patch, ink):
        where = np.argwhere(patch == ink)
        return (*where.min(0), *where.max(0))

    assert box(items.bar(0).draw(), 0) == (4, 30, 63, 38)
    assert box(items.line(0).draw(), 255) == (21, 6, 26, 41)
    cross, broken = items.cross().draw(), items.non_cross().draw()
    assert (cross == 0).sum() == 165 * 16 + 17 * 165 - 16 * 17
    assert (broken[6:171, 80:96] == 0).all()
    assert (broken[55:72, 6:88] == 0).all()
    assert (broken[105:121, 88:171] == 0).all()
    assert (broken == 0).sum() == 165 * 16 + 17 * (80 - 6) + 16 * (171 - 96)
    assert (items.letter_l().draw() == 0).sum() == 165 * 16 + 17 * (165 - 16)
    assert (items.letter_t().draw() == 0).sum() == 165 * 16 + 16 * (165 - 16)
    disc = items.disc("bottom").draw()
    assert disc[0, 0] == 27
    np.testing.assert_array_equal(disc[1:30, 15], np.arange(1, 30) // 2 * 17)
    np.testing.assert_array_equal(items.disc("top").draw(), disc[::-1])
    np.testing.assert_array_equal(items.disc("right").draw(), disc.T)
    np.testing.assert_array_equal(items.disc("left").draw(), disc.T[:, ::-1])
    arc = items.arc(0).draw() / 255
    # 75 degrees of a ring between 27.5 and 32.5 px, sagging to rows 26 to 31 in its middle.
    assert arc.sum() == pytest.approx(np.deg2rad(75) / 2 * (32.5**2 - 27.5**2), rel=0.01)
    assert np.flatnonzero(arc[:, 24]).tolist() == [26, 27, 28, 29, 30]


def test_orientations_run_clockwise():
    def moments(patch, ink):
        y, x = np.nonzero(patch == ink)
        return np.cov(x, -y)[0, 1]  # above 0: from the lower left to the upper right

    assert moments(items.bar(20).draw(), 0) > 1
    assert moments(items.bar(-20).draw(), 0) < -1
    assert moments(items.line(45).draw(), 255) < -1  # clockwise from horizontal
    # A slanted bar has the area of an upright one.
    ink = 1 - items.bar(20).draw() / 255
    assert ink.sum() == pytest.approx(540, rel=0.005)


def test_scale_changes_pixels_not_degrees():
    for make in EXPERIMENTS.values():
        coarse = make(n_per_size=1, px_per_degree=15)
        assert np.allclose(np.array(coarse.size_px) / 15, np.array(make().size_px) / 30, atol=1 / 15)
    fine, coarse = items.cross().draw(60), items.cross().draw(30)
    np.testing.assert_array_equal(fine[::2, ::2], coarse)
    whole = items.letter_t().draw(10)
    assert (255.0 - whole).sum() * 9 == pytest.approx((255.0 - items.letter_t().draw(30)).sum(), rel=0.01)


def test_heterogeneous_distractors_are_the_published_eight():
    hard, easy = experiments.orientation_mixed().conditions
    shared = {f"bar {angle}" for angle in (-80, -60, -40, -20, 40, 60, 80)}
    assert {item.name for item in hard.distractors} == shared | {"bar 0"}
    assert {item.name for item in easy.distractors} == shared | {"bar 20"}
    assert (hard.target[0].name, easy.target[0].name) == ("bar 20", "bar 0")


def test_curvature_balances_orientations():
    hard, _ = experiments.curvature().conditions
    shown, target = hard.draw_items(32, np.random.default_rng(0))
    angles = [int(item.name.split()[1]) for item in shown]
    assert [angles.count(angle) for angle in (45, 90, 135, 180)] == [8, 8, 8, 8]
    assert shown[target].name.startswith("line")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"set_sizes": (37,)}, r"set_sizes must be different numbers from 1 to the 36 cells, got \(37,\)"),
        ({"set_sizes": (8, 8)}, "set_sizes must be different"),
        ({"grid": (8, 8)}, "must fit cells of 42 x 42 px, got items of 48 px"),
        ({"jitter_deg": 1.0}, "must fit cells of 56 x 56 px, got items of 48 px and 30 offsets"),
        ({"n_per_size": 0}, "n_per_size must be at least 1, got 0"),
        ({"px_per_degree": 0}, "px_per_degree must be above 0, got 0"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        (
            {"conditions": (experiments.curvature().conditions[0],) * 2},
            "conditions must be two of different names",
        ),
    ],
)
def test_wrong_experiments_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(experiments.curvature(), **change)


def test_items_of_one_display_share_a_background():
    with pytest.raises(ValueError, match=r"must have one background, got \[0, 255\]"):
        Condition("mixed", [items.bar()], [items.line()])
    with pytest.raises(ValueError, match="variants must be one of"):
        Condition("bars", [items.bar()], [items.bar()], "all")


class Oracle:
    """Find the target with one saccade per item, and never look for it in displays of more than `limit`."""

    config = None

    def __init__(self, limit=100, per_item=1.0):
        self.limit, self.per_item, self.seeds = limit, per_item, []

    def search_batch(self, trials, *, batch_size=8, seed=0, progress=None):
        self.seeds.append(seed)
        paths = []
        for i, trial in enumerate(trials):
            size = trial.attrs["set_size"]
            n = round(self.per_item * size) if "T among" not in trial.attrs["condition"] else 1
            found = size <= self.limit
            paths.append(
                Scanpath(np.zeros(n + 1), np.zeros(n + 1), image_size=trial.image.shape[1::-1], found=found)
            )
            if progress is not None:
                progress(i + 1, len(trials))
        return paths


LETTERS = experiments.letters(n_per_size=2, px_per_degree=3)


def test_results_are_labelled():
    model = Oracle(limit=6)
    seen = []
    results = run_experiment(model, LETTERS, seed=3, progress=lambda *state: seen.append(state))
    assert results.condition.values.tolist() == ["L among Ts"] * 6 + ["T among Ls"] * 6
    assert results.set_size.values.tolist() == [3, 3, 6, 6, 9, 9] * 2
    assert results.repetition.values.tolist() == [0, 1] * 6
    assert results.n_saccades.values.tolist() == [3, 3, 6, 6, 9, 9] + [1] * 6
    assert results.found.values.tolist() == [True, True, True, True, False, False] * 2
    assert results.cap.values.tolist() == [9] * 12
    np.testing.assert_allclose(results.rt_linear[:4], 252.359 * np.array([3, 3, 6, 6]) + 376.271)
    assert results.rt_linear[4:6].isnull().all()
    assert results.rt_linear.attrs["source"] == "hard-coded in the published code, no data for the fit"
    assert results.attrs["conditions"] == ["L among Ts", "T among Ls"]
    assert results.attrs["unfound"] == ["dropped", "cap"]
    assert results.attrs["seed"] == 3
    assert seen == [(i, 12) for i in range(1, 13)]
    assert len(set(model.seeds)) == 2, "conditions must not draw alike"
    alone = run_experiment(model, LETTERS, condition="T among Ls", seed=3)
    xr.testing.assert_equal(alone, results.isel(trial=slice(6, None)))
    assert model.seeds[2] == model.seeds[1]


def test_the_published_rule_is_for_the_published_configuration():
    model = Oracle()
    for config, published in ((SearchConfig.paper(), True), (SearchConfig.clean(), False)):
        model.config = config
        assert ("set_size" in run_experiment(model, LETTERS).attrs["unfound"]) is published


def test_a_model_must_say_what_it_found():
    class Silent(Oracle):
        def search_batch(self, trials, **settings):
            return [replace(path, found=None) for path in super().search_batch(trials, **settings)]

    with pytest.raises(
        ValueError, match="model must say whether it found the target, got found None on trial 0"
    ):
        run_experiment(Silent(), LETTERS)
    with pytest.raises(ValueError, match="condition must be one of 'L among Ts', 'T among Ls', got 'L'"):
        run_experiment(Oracle(), LETTERS, condition="L")


def test_fit_of_reaction_times_recovers_a_line():
    rt = human_rt("curvature")
    saccades = (rt - 400) / 50
    fit = fit_rt(saccades.isel(set_size=[2, 0]), rt)
    assert fit.ms_per_saccade.item() == pytest.approx(50)
    assert fit.intercept.item() == pytest.approx(400)
    assert fit.r.item() == pytest.approx(1)
    assert fit.n.item() == 4
    with pytest.raises(ValueError, match="n_saccades must take at least two values"):
        fit_rt(xr.ones_like(rt), rt)


def test_random_search_visits_items_once_in_any_order():
    trials = experiments.lighting(n_per_size=40, px_per_degree=10).trials("shaded left to right")
    paths = RandomSearch().search_batch(trials, seed=1)
    assert all(path.found for path in paths)
    sizes = np.array([trial.attrs["set_size"] for trial in trials])
    n = np.array([path.n_saccades for path in paths])
    for size in (1, 6, 12):
        # Without return the rank of the target is uniform on 1 to the number of items.
        ranks = n[sizes == size]
        assert ranks.min() >= 1
        assert ranks.max() <= size
        assert ranks.mean() == pytest.approx((size + 1) / 2, abs=4 * size / np.sqrt(12 * 40))
    for trial, path in zip(trials[-5:], paths[-5:], strict=True):
        y, x = path.y[1:].astype(int), path.x[1:].astype(int)
        visited = trial.cells[:, y, x].argmax(0)
        assert len(set(visited)) == len(visited)
        assert visited[-1] == trial.attrs["target_cell"]
    again = RandomSearch().search_batch(trials[:5], seed=1)
    assert [p.x.tolist() for p in again] == [p.x.tolist() for p in paths[:5]]
    other = RandomSearch().search_batch(trials, seed=2)
    assert [p.n_saccades for p in other] != [p.n_saccades for p in paths]


def test_pixel_match_goes_where_the_pixels_agree():
    """Neither contrast alone nor the same pattern in grey will do."""
    target = np.full((12, 12, 3), 120, np.uint8)
    target[3:9, 3:9] = (250, 20, 20)
    faint = (120 + (target.astype(int) - 120) // 4).astype(np.uint8)
    grey = np.broadcast_to(target.mean(-1, keepdims=True).astype(np.uint8), target.shape)
    image = np.full((60, 90, 3), 120, np.uint8)
    image[10:22, 10:22], image[10:22, 60:72], image[40:52, 70:82] = faint, grey, target
    mask = np.zeros((60, 90), bool)
    mask[40:52, 70:82] = True
    path = PixelMatch(ior_deg=0.8).search(image, target, target_mask=mask, px_per_degree=10)
    assert (path.found, path.n_saccades, path.image_size) == (True, 1, (90, 60))
    assert abs(path.x[1] - 76) <= 2
    assert abs(path.y[1] - 46) <= 2
    trials = experiments.lighting(n_per_size=3).trials()
    assert [path.n_saccades for path in PixelMatch().search_batch(trials)] == [1] * 18


def test_free_controls_close_what_they_have_seen():
    image = np.zeros((30, 40), np.uint8)
    image[0:4, 0:4] = 255
    mask = image > 0
    trial = SearchTrial(image, image[:4, :4], target_mask=mask, px_per_degree=10, max_fixations=500)
    for model in (RandomSearch(), PixelMatch()):
        path = model.search_batch([trial])[0]
        assert path.found
        gaps = np.maximum(abs(np.subtract.outer(path.x, path.x)), abs(np.subtract.outer(path.y, path.y)))
        assert gaps[np.triu_indices(len(path), 1)].min(initial=5) >= 5
    absent = replace(trial, target_mask=None)
    path = RandomSearch().search_batch([absent])[0]
    assert path.found is None
    assert len(path) < 500, "the image is used up before the fixations are"
    at_target = RandomSearch().search_batch([replace(trial, start=(3, 3))])[0]
    assert (at_target.found, at_target.n_saccades) == (True, 0)
    with pytest.raises(ValueError, match="px_per_degree must be given for a search without cells"):
        RandomSearch().search_batch([replace(trial, px_per_degree=None)])


@pytest.fixture(scope="module")
def narrow():
    torch.manual_seed(0)
    return EccNet(VGG16(widths=(2, 2, 4, 4, 4)), SearchConfig.clean())


def test_controls_of_a_network(narrow):
    before = {name: weight.clone() for name, weight in narrow.backbone.state_dict().items()}
    blind = without_eccentricity(narrow)
    assert (blind.backbone, max(blind.config.slopes)) == (narrow.backbone, 0)
    assert narrow.config == SearchConfig.clean()
    first, second = random_weights(narrow, seed=1), random_weights(narrow, seed=2)
    assert first.config == narrow.config
    for name, weight in narrow.backbone.state_dict().items():
        assert torch.equal(weight, before[name]), "the model itself must not change"
        if name.endswith("weight"):
            drawn = first.backbone.state_dict()[name]
            assert not torch.equal(drawn, weight)
            assert not torch.equal(drawn, second.backbone.state_dict()[name])
    wide = random_weights(EccNet(VGG16(widths=(8, 8, 16, 16, 32))))
    weight = wide.backbone.block5_conv3.weight
    assert float(weight.var() * weight[0].numel()) == pytest.approx(2, rel=0.1)
    assert "no eccentricity" in search_controls(narrow)
    assert "no eccentricity" not in search_controls(blind)
    assert list(search_controls(PixelMatch())) == ["pixel match", "random"]
    with pytest.raises(
        TypeError, match="model must have a backbone that is a Module or holds one, got Plain"
    ):
        random_weights(EccNet(type("Plain", (), {})()))


def test_study_runs_a_network_with_its_controls(narrow, tmp_path):
    experiment = replace(experiments.lighting(n_per_size=1, px_per_degree=8), set_sizes=(1, 4))
    seen = []
    result = search_asymmetry(
        narrow, [experiment], out=tmp_path, n_resamples=10, progress=lambda *state: seen.append(state)
    )
    assert result.model.values.tolist() == [
        "model",
        "no eccentricity",
        "random weights",
        "pixel match",
        "random",
    ]
    assert result.kind.values.tolist() == ["model"] + ["control"] * 4
    ours = run_experiment(narrow, experiment)
    np.testing.assert_array_equal(
        result["mean"].sel(model="model", unfound="cap").values.ravel(), ours.n_saccades.values
    )
    assert (result["mean"].sel(model=["pixel match", "random"], set_size=1, unfound="cap") == 1).all()
    assert seen[-1] == ("random, shaded top to bottom", 20, 20)
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)
    assert len(list(tmp_path.rglob("*.nc"))) == 10


def test_study_resumes_and_refuses_other_settings(tmp_path):
    model = Oracle()
    first = search_asymmetry({"oracle": model}, [LETTERS], out=tmp_path, n_resamples=20)
    ran = len(model.seeds)
    again = search_asymmetry({"oracle": model}, [LETTERS], out=tmp_path, n_resamples=20)
    assert (ran, len(model.seeds)) == (2, 2)
    xr.testing.assert_identical(again, first)
    next(tmp_path.rglob("oracle/letters/T*.nc")).unlink()
    xr.testing.assert_identical(
        search_asymmetry({"oracle": model}, [LETTERS], out=tmp_path, n_resamples=20), first
    )
    assert len(model.seeds) == 3
    with pytest.raises(ValueError, match="out must not hold trials of other settings"):
        search_asymmetry({"oracle": model}, [replace(LETTERS, seed=9)], out=tmp_path)
    with pytest.raises(ValueError, match="out must not hold trials of other settings"):
        search_asymmetry({"oracle": model}, [LETTERS], out=tmp_path, seed=1)


def test_any_names_may_be_kept(tmp_path):
    """Points, slashes and colons are not parts of a path."""
    bars = [replace(items.bar(angle), name=name) for angle, name in ((0, "a/b 0.5"), (20, "a/b 0.25"))]
    experiment = Experiment.pair(
        *bars, set_sizes=(1, 2), field_deg=6, grid=(2, 2), n_per_size=1, px_per_degree=5
    )
    kept = [
        search_asymmetry(
            {"a: 1/2": RandomSearch()}, [experiment], out=tmp_path, n_resamples=5, controls=False
        )
        for _ in range(2)
    ]
    xr.testing.assert_identical(*kept)
    assert len(list(tmp_path.rglob("*.nc"))) == 2


def test_polarity_is_claimed_only_beyond_the_controls():
    class Noisy(Oracle):
        """As slow as the oracle in one condition, but not twice alike."""

        def search_batch(self, trials, **settings):
            paths = super().search_batch(trials, **settings)
            return [replace(p, x=p.x[: len(p) - i % 2], y=p.y[: len(p) - i % 2]) for i, p in enumerate(paths)]

    experiment = replace(LETTERS, n_per_size=12)
    result = search_asymmetry({"steep": Noisy()}, [experiment], n_resamples=200)
    claim = result.claim.sel(unfound="cap")
    assert claim.sel(model="steep").item() == 1
    assert (claim.sel(model=result.kind == "control") == 0).all()
    reverse = replace(experiment, conditions=experiment.conditions[::-1])
    assert search_asymmetry(Noisy(), [reverse], n_resamples=200).claim.sel(model="model", unfound="cap") == -1
    # A difference of slopes that the controls reach as well is no claim.
    weak = search_asymmetry({"weak": Noisy(per_item=0.2)}, [experiment], n_resamples=200)
    assert weak.claim.sel(model="weak", unfound="cap") == 0
    alone = search_asymmetry(Noisy(), [experiment], controls=False, n_resamples=20)
    assert (alone.claim == 0).all()


def test_people_stand_beside_published_experiments_only():
    free = Experiment.pair(
        items.bar(0), items.bar(20), set_sizes=(1, 4), field_deg=11.3, grid=(4, 4), n_per_size=1
    )
    both = [replace(free, px_per_degree=10), replace(experiments.orientation(n_per_size=1), px_per_degree=10)]
    result = search_asymmetry(RandomSearch(), both, controls=False, n_resamples=10)
    assert result.human_index.isnull().values.tolist() == [True, False]
    assert result.human_index.values[1] == pytest.approx(0.611, abs=1e-3)
    assert result.human_rt.sel(experiment="orientation", role="hard", set_size=4) == 547.37
    assert result.human_rt.attrs["source"] == "read off published figures, no errors"
    assert result.slope_r.isnull().all(), "four slopes say nothing"
    for figure in (plot_asymmetry(result), plot_search_times(result), plot_displays(both)):
        figure.canvas.draw()
    with pytest.raises(ValueError, match="experiments must have different names"):
        search_asymmetry(RandomSearch(), [both[0], both[0]])
    with pytest.raises(ValueError, match="models must not have the name of a control, got 'random'"):
        search_asymmetry({"random": RandomSearch()}, both)


@pytest.mark.parametrize("name", list(EXPERIMENTS))
def test_people_were_measured_at_the_set_sizes_of_the_displays(name):
    experiment, rt = EXPERIMENTS[name](), human_rt(name)
    assert rt.set_size.values.tolist() == list(experiment.set_sizes)
    slopes = rt.polyfit("set_size", 1).polyfit_coefficients.sel(degree=1)
    assert slopes.sel(role="hard") > slopes.sel(role="easy")
