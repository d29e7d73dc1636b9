"""Reference models of scanpaths: probabilities by hand, planted parameters, and bad input."""

import numpy as np
import pytest
from sklearn.base import clone

from neuroattn.datasets import ObjectScene, ScanpathDataset, make_search_arrays
from neuroattn.results import Scanpath
from neuroattn.scanpath import (
    CentreBias,
    ConditionalLogit,
    MemoryFullRandom,
    NearestUnvisited,
    PixelModel,
    PositionMarkov,
    SaliencySampling,
    UniformChoice,
    gold_standard,
    sampled_scanpaths,
)
from neuroattn.scanpath.base import object_paths

MODELS = {
    "uniform": UniformChoice(),
    "centre": CentreBias(n_columns=32),
    "saliency": SaliencySampling(np.arange(1.0, 13).reshape(3, 4)),
    "markov": PositionMarkov(),
    "logit": ConditionalLogit(),
    "memory": MemoryFullRandom(lapse=0.1),
    "nearest": NearestUnvisited(lapse=None),
}


@pytest.fixture(scope="module")
def planted():
    return make_search_arrays(n_scenes=40, n_observers=8, grid=(2, 3), seed=3)


@pytest.fixture(scope="module", params=list(MODELS))
def model(request, planted):
    return clone(MODELS[request.param]).fit(planted)


def row_scene(n=3, **fields):
    """Objects in a row, 20 px apart."""
    return ObjectScene.from_grid((20 * n, 20), rows=1, columns=n, name="row", **fields)


def one_path(objects, scene, *, first="free"):
    """A data set of one path over the centres of a scene's objects; -1 is the background."""
    objects = np.asarray(objects)
    x = np.where(objects < 0, 0, scene.x[objects])
    y = np.where(objects < 0, 0, scene.y[objects])
    path = Scanpath(
        x, y, scene.size, objects=objects, first_fixation=first, attrs={"scene": "row", "observer": "a"}
    )
    return ScanpathDataset.from_scanpaths([path], scenes={"row": scene})


def test_each_conditional_sums_to_one(model, planted):
    steps = model.conditional(planted.scene_of(0), [1, 4, 4])
    np.testing.assert_allclose(np.exp(steps.log_prob).sum("object"), 1)
    assert ((steps.end_log_prob <= 0) & np.isfinite(steps.end_log_prob)).all()


def test_log_prob_of_a_data_set_is_that_of_its_conditionals(model, planted):
    log_prob = model.log_prob(planted)
    paths, lengths, _ = object_paths(planted)
    for i in (0, 100, len(planted) - 1):
        path = paths[i, : lengths[i]]
        steps = model.conditional(planted.scene_of(i), path, observer=planted[i].attrs["observer"])
        expected = steps.log_prob.values[np.arange(len(path)), path]
        np.testing.assert_allclose(log_prob.values[i, 1 : lengths[i] + 1], expected)
        goes_on = np.log1p(-np.exp(steps.end_log_prob.values[:-1])).sum()
        np.testing.assert_allclose(log_prob.end_log_prob[i], goes_on + steps.end_log_prob.values[-1])


def test_samples_have_the_probabilities_of_the_model(model, planted):
    scene = planted.scene_of(0)
    samples = model.sample(scene, n=4000, seed=0, max_fixations=2)
    first = np.bincount(samples.object.values[:, 0][samples.length > 0], minlength=6) / 4000
    steps = model.conditional(scene, [])
    expected = np.exp(steps.log_prob.values[0]) * (1 - np.exp(steps.end_log_prob.values[0]))
    np.testing.assert_allclose(first, expected, atol=4 * 0.5 / np.sqrt(4000))
    for i in np.flatnonzero(samples.length == 2)[:3]:
        path = samples.object.values[i]
        steps = model.conditional(scene, path)
        np.testing.assert_allclose(samples.log_prob[i], steps.log_prob.values[[0, 1], path])
        p = np.exp(steps.log_prob.values[1])
        bits = -(p * np.log2(np.where(p > 0, p, 1))).sum()
        np.testing.assert_allclose(samples.entropy[i, 1], bits, atol=1e-12)


def test_the_sum_over_all_paths_and_ends_is_one(planted):
    # Every path of up to two fixations, or the rest that is longer: the events exclude each other and are all.
    model, scene = clone(MODELS["logit"]).fit(planted), planted.scene_of(0)
    total = 0.0
    for path in [[], *([i] for i in range(6)), *([i, j] for i in range(6) for j in range(6))]:
        steps = model.conditional(scene, path)
        chosen = steps.log_prob.values[np.arange(len(path)), path].sum()
        goes_on = np.log1p(-np.exp(steps.end_log_prob.values[: len(path)])).sum()
        ends = np.exp(steps.end_log_prob.values[-1]) if len(path) < 2 else 1.0  # two: however it goes on
        total += np.exp(chosen + goes_on) * ends
    assert total == pytest.approx(1)


def test_fewer_samples_are_the_first_of_more(planted):
    model, scene = clone(MODELS["logit"]).fit(planted), planted.scene_of(0)
    many, few = (model.sample(scene, n=n, seed=5) for n in (20, 7))
    np.testing.assert_array_equal(few.object, many.object[:7])
    assert not np.array_equal(many.object, model.sample(scene, n=20, seed=6).object)


def test_no_return_visits_each_object_once_and_then_ends(planted):
    model = UniformChoice().fit(planted)
    model.end_rate_ = np.full((2, 1), 1e-12)
    samples = model.sample(planted.scene_of(0), n=20, seed=0, max_fixations=9, no_return=True)
    assert (np.sort(samples.object.values[:, :6], axis=1) == np.arange(6)).all()
    assert (samples.length == 6).all()


def test_temperature_and_top_p_sharpen(planted):
    model, scene = clone(MODELS["logit"]).fit(planted), planted.scene_of(0)
    best = int(model.conditional(scene, []).log_prob.values[0].argmax())
    for sharp in ({"temperature": 0.01}, {"top_p": 0.0}):
        samples = model.sample(scene, n=50, seed=0, max_fixations=1, **sharp)
        assert set(samples.object.values[samples.length > 0, 0].tolist()) == {best}


def test_the_greedy_path_takes_the_best_object_and_ends_on_the_target(planted):
    model, scene = clone(MODELS["logit"]).fit(planted), planted.scene_of(0)
    path = model.predict(scene)
    steps = model.conditional(scene, path.objects)
    np.testing.assert_array_equal(steps.log_prob.values[: len(path)].argmax(1), path.objects)
    assert path.found
    assert scene.matches_target[path.objects[-1]]


def test_ends_are_the_rates_of_the_data(planted):
    rate = UniformChoice().fit(planted).end_rate_
    # The searcher stops with probability .95 on the target and .02 elsewhere.
    assert rate[1, 1] == pytest.approx(0.95, abs=0.07)
    assert rate[0, 1:3] == pytest.approx(0.02, abs=0.03)
    assert rate[0, 0] < 0.01


def test_samples_become_scanpaths(planted):
    model, scene = clone(MODELS["logit"]).fit(planted), planted.scene_of(0)
    samples = model.sample(scene, n=6, seed=0)
    paths = sampled_scanpaths(samples, scene)
    assert [len(path) for path in paths] == samples.length.values.tolist()
    assert paths[0].first_fixation == "free"
    np.testing.assert_array_equal(paths[1].x, scene.x[paths[1].objects])


def test_initial_and_background_fixations_are_not_scored():
    scene = row_scene(target=2)
    data = one_path([1, 0, -1, 2], scene, first="initial")
    log_prob = UniformChoice().fit(data).log_prob(data).values[0]
    np.testing.assert_allclose(log_prob, [np.nan, -np.log(3), np.nan, -np.log(3)])


def test_markov_transitions_by_hand():
    data = one_path([0, 1, 0, 1, 2], row_scene())
    model = PositionMarkov(pseudo_count=1).fit(data)
    np.testing.assert_allclose(model.transition_[0], [1 / 5, 3 / 5, 1 / 5])
    np.testing.assert_allclose(model.transition_[1], [2 / 5, 1 / 5, 2 / 5])
    np.testing.assert_allclose(model.transition_[3], [2 / 4, 1 / 4, 1 / 4])  # from the start
    bits = model.bits_per_fixation(data).values[0]
    np.testing.assert_allclose(bits[1], -np.log2(3 / 5))


def test_markov_refuses_scenes_of_other_layouts(planted):
    free = make_search_arrays(n_scenes=3, n_observers=1, seed=0)
    with pytest.raises(ValueError, match="scenes must hold object i in one place"):
        PositionMarkov().fit(free)
    with pytest.raises(ValueError, match="scenes must have 6 objects like the others, got 3 in 'row'"):
        PositionMarkov().fit(planted).conditional(row_scene(), [])


def test_rules_by_hand():
    scene = row_scene(4)
    data = one_path([0], scene)
    nearest = np.exp(NearestUnvisited().fit(data).conditional(scene, [1, 0, 2, 3]).log_prob.values)
    np.testing.assert_allclose(nearest[0], [0, 0.5, 0.5, 0])  # the start is the centre
    np.testing.assert_allclose(nearest[1], [0.5, 0, 0.5, 0])
    np.testing.assert_allclose(nearest[2:], [[0, 0, 1, 0], [0, 0, 0, 1], [0, 0, 1, 0]])
    memory = np.exp(MemoryFullRandom(lapse=0.2).fit(data).conditional(scene, [1, 0, 2, 3]).log_prob.values)
    np.testing.assert_allclose(memory[1], 0.05 + 0.8 * np.array([1, 0, 1, 1]) / 3)
    np.testing.assert_allclose(memory[4], 0.25)


def test_lapses_are_fitted(planted):
    searcher = MemoryFullRandom(lapse=0.3).fit(planted)
    searcher.end_rate_ = np.full((2, 1), 0.05)
    paths = [
        Scanpath(
            path.x,
            path.y,
            path.image_size,
            objects=path.objects,
            first_fixation="free",
            attrs={"scene": name, "observer": "a"},
        )
        for seed, (name, scene) in enumerate(planted.scenes.items())
        for path in sampled_scanpaths(searcher.sample(scene, n=10, seed=seed, max_fixations=5), scene)
    ]
    data = ScanpathDataset.from_scanpaths(paths, scenes=planted.scenes)
    assert MemoryFullRandom(lapse=None).fit(data).lapse_ == pytest.approx(0.3, abs=0.06)


def test_memory_full_search_finds_linearly(planted):
    model = MemoryFullRandom().fit(planted)
    model.end_rate_ = np.full((2, 1), 1e-12)
    scene = planted.scene_of(0)
    objects = model.sample(scene, n=3000, seed=0, max_fixations=6).object.values
    found = (objects == scene.target).cumsum(1).clip(0, 1).mean(0)
    np.testing.assert_allclose(found, np.arange(1, 7) / 6, atol=0.035)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_conditional_logit_recovers_a_planted_searcher(seed):
    weights = {"centre": -1.0, "distance": -4.0, "horizontal": 0.5, "visited": -2.5, "target": 1.5}
    data = make_search_arrays(n_scenes=120, n_observers=8, n_objects=8, weights=weights, seed=seed)
    found = ConditionalLogit().fit(data).coefficients(level=0.999)
    for name in found.feature.values.tolist():
        low, high = found.interval.sel(feature=name).values
        assert low < weights.get(name, 0.0) < high, name
    assert (found.standard_error < 0.6).all()


def test_intervals_of_the_conditional_logit_cover():
    inside = []
    for seed in range(12):
        data = make_search_arrays(n_scenes=30, n_observers=4, grid=(2, 3), seed=100 + seed)
        found = ConditionalLogit(penalty=0.1).fit(data).coefficients(level=0.9)
        planted = {"distance": -4.0, "horizontal": 0.5, "visited": -2.5, "target": 1.5}
        for name, value in planted.items():
            low, high = found.interval.sel(feature=name).values
            inside.append(low < value < high)
    # 48 intervals of level .9: 43 expected inside, three standard deviations are 6.
    assert 37 <= sum(inside) <= 48
    assert (found.interval.diff("bound") < 4.5).all()


def test_logit_weights_are_the_maximum(planted):
    model = ConditionalLogit(penalty=0.5).fit(planted)

    def objective(weights):
        other = clone(model).fit(planted[:1])
        other.weights_ = weights
        return -float(other.log_prob(planted).sum()) + 0.25 * float(weights @ weights)

    best = objective(model.weights_)
    for i in range(len(model.weights_)):
        for step in (-0.05, 0.05):
            moved = model.weights_.copy()
            moved[i] += step
            assert objective(moved) > best


def test_centre_bias_finds_the_centre_and_integrates_over_boxes():
    scene = ObjectScene([[0, 0, 50, 40], [50, 0, 50, 40]], (100, 40), name="row")
    rng = np.random.default_rng(0)
    x, y = np.clip(rng.normal(60, 10, 500), 0, 99), np.clip(rng.normal(20, 4, 500), 0, 39)
    path = Scanpath(
        x, y, scene.size, objects=scene.assign(x, y), first_fixation="free", attrs={"scene": "row"}
    )
    data = ScanpathDataset.from_scanpaths([path], scenes={"row": scene})
    model = CentreBias(n_columns=200).fit(data)
    np.testing.assert_allclose(model.centre_, [0.6, 0.5], atol=0.01)
    p = np.exp(model.conditional(scene, []).log_prob.values[0])
    np.testing.assert_allclose(p, [0.159, 0.841], atol=0.02)  # a normal beyond one standard deviation
    free = ScanpathDataset(data.data.drop_vars("object"), data.scenes)  # densities need no objects
    density = clone(model).fit(free).log_density(free)
    np.testing.assert_allclose(density.max(), -np.log(2 * np.pi * 10 * 4), atol=0.1)


def test_boxes_smaller_than_the_cells_of_a_map():
    scene = ObjectScene([[11, 11, 4, 4], [71, 11, 4, 8]], (100, 40), name="row")
    model = SaliencySampling([[1.0, 3.0]]).fit(one_path([0], scene))
    p = np.exp(model.conditional(scene, []).log_prob.values[0])
    np.testing.assert_allclose(p, [1 / 7, 6 / 7], atol=0.03)  # areas 1 to 2, densities 1 to 3


def test_overlapping_boxes_share_no_pixel():
    # The small box takes its pixels from the large one.
    scene = ObjectScene([[0, 0, 100, 100], [0, 0, 50, 100]], (100, 100), name="row")
    data = one_path([0], scene)
    model = SaliencySampling(np.ones((10, 10))).fit(data)
    np.testing.assert_allclose(np.exp(model.conditional(scene, []).log_prob[0]), [0.5, 0.5])


def test_a_pixel_model_sees_the_path():
    class Repeller(PixelModel):
        def conditional_log_density(self, scene, x, y):
            weight = np.ones((4, 6))
            for at in np.asarray(x, int) * 6 // scene.size[0]:
                weight[:, at] = 0.01
            return np.log(weight / weight.sum() / (scene.size[0] * scene.size[1] / 24))

    scene = row_scene(3)
    data = one_path([0, 1], scene)
    steps = np.exp(Repeller().fit(data).conditional(scene, [1]).log_prob.values)
    np.testing.assert_allclose(steps[0], 1 / 3)
    assert steps[1, 1] < steps[1, 0]


def test_saliency_from_a_callable_and_bad_maps(planted):
    model = SaliencySampling(lambda scene: np.eye(4) if scene.name == "array0001" else -np.eye(4)).fit(
        planted
    )
    assert model.conditional(planted.scenes["array0001"], []).log_prob.shape == (1, 6)
    with pytest.raises(ValueError, match=r"saliency must be a map .* scene 'array0000'"):
        model.conditional(planted.scenes["array0000"], [])


def test_the_gold_standard_uses_the_others_and_only_them():
    rng = np.random.default_rng(0)
    scenes = {f"s{i}": row_scene(6) for i in range(10)}
    liked = {name: rng.choice(6, 3, replace=False) for name in scenes}

    def data(odd):
        # All but one observer follow a path of the scene's own.
        paths = []
        for name, scene in scenes.items():
            for observer in range(5):
                objects = odd if observer == 4 else liked[name]
                paths.append(
                    Scanpath(
                        scene.x[objects],
                        scene.y[objects],
                        scene.size,
                        objects=objects,
                        first_fixation="free",
                        attrs={"observer": str(observer), "image": name, "scene": name},
                    )
                )
        return ScanpathDataset.from_scanpaths(paths, scenes=scenes)

    one, other = (gold_standard(data(np.array(odd)), over="objects") for odd in ([0, 0, 0], [5, 5, 5]))
    same = one.observer.values != "4"
    assert float(one.log_prob[same].mean()) > np.log(0.5)
    assert float(one.log_prob[~same].mean()) < np.log(1 / 6)
    # Nobody's own fixations help to predict them: the odd one is as badly predicted wherever it goes.
    assert float(other.log_prob[~same].mean()) < np.log(1 / 6)
    assert set(one.bandwidth.values.tolist()) == {0.01}


def test_the_gold_standard_over_pixels_is_a_density():
    scene = ObjectScene(np.empty((0, 4)), (40, 30), name="row")
    rng = np.random.default_rng(0)
    grid_x, grid_y = (axis.ravel() + 0.5 for axis in np.meshgrid(np.arange(40), np.arange(30)))
    other = Scanpath(
        rng.uniform(0, 40, 5), rng.uniform(0, 30, 5), scene.size, first_fixation="free",
        attrs={"observer": "b", "scene": "row", "image": "1"},
    )  # fmt: skip
    probe = Scanpath(
        grid_x,
        grid_y,
        scene.size,
        first_fixation="free",
        attrs={"observer": "a", "scene": "row", "image": "1"},
    )
    second = Scanpath([1], [1], scene.size, first_fixation="free", attrs={"observer": "a", "scene": "two"})
    data = ScanpathDataset.from_scanpaths([probe, other, second], scenes={"row": scene, "two": scene})
    found = gold_standard(
        data, over="pixels", bandwidths=[0.1], previous_bandwidths=[np.inf], floors=[0.1], n_folds=2
    )
    assert float(np.exp(found.log_prob[0]).sum()) == pytest.approx(1, abs=0.01)
    assert float(np.exp(found.log_prob[0]).max()) > 1.5 / 1200
    assert float(found.log_prob[2, 0]) == pytest.approx(-np.log(1200))  # nobody else saw it


def test_bad_input_is_named(planted):
    model, scene = UniformChoice().fit(planted), planted.scene_of(0)
    with pytest.raises(ValueError, match=r"objects must be indices of the scene's 6 objects, got \[6\]"):
        model.conditional(scene, [6])
    with pytest.raises(ValueError, match=r"temperature must be above 0, got 0"):
        model.sample(scene, seed=0, temperature=0)
    with pytest.raises(TypeError, match="seed must be a whole number"):
        model.sample(scene, seed=None)
    with pytest.raises(ValueError, match="dataset must have objects"):
        model.log_prob(ScanpathDataset(planted.data.drop_vars("object"), planted.scenes))
    with pytest.raises(ValueError, match="over must be one of 'objects', 'pixels'"):
        gold_standard(planted, over="pictures")
    with pytest.raises(ValueError, match="lapse must be between 0 and 1, got 2"):
        MemoryFullRandom(lapse=2).fit(planted)


def test_empty_paths_count_for_the_end_only():
    scene = row_scene()
    paths = [
        Scanpath(
            scene.x[objects],
            scene.y[objects],
            scene.size,
            objects=np.array(objects, int),
            first_fixation="free",
            attrs={"scene": "row"},
        )
        for objects in ([], [0, 1])
    ]
    data = ScanpathDataset.from_scanpaths(paths, scenes={"row": scene})
    model = UniformChoice().fit(data)
    assert model.end_rate_[0, 0] == pytest.approx(0.5)
    log_prob = model.log_prob(data)
    assert log_prob[0].isnull().all()
    assert float(log_prob.end_log_prob[0]) == pytest.approx(np.log(0.5))
