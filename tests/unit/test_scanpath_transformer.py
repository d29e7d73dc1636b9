"""The object attention transformer: what it may know, its probabilities, its samples, and a planted searcher."""

import itertools
import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from torch import nn

from neuroattn._backbones import Backbone, Preprocessing
from neuroattn.attention import gaussian_position
from neuroattn.datasets import ObjectScene, ScanpathDataset, make_search_arrays
from neuroattn.scanpath import ObjectAttentionTransformer
from neuroattn.scanpath.base import object_paths
from neuroattn.scanpath.estimator import _collate_scenes, _Trials

SMALL = {"dim": 32, "heads": 2, "layers": 1, "feedforward": 32, "lr": 3e-3}


def make_model(target="label", appearance="none", **options):
    return ObjectAttentionTransformer(
        target=target, appearance=appearance, **{**SMALL, "epochs": 1, **options}
    )


@pytest.fixture(scope="module")
def searchers():
    """Sixty simulated searches of arrays of six, and as many people as make a difference."""
    return make_search_arrays(n_scenes=60, n_observers=5, seed=0)


@pytest.fixture(scope="module")
def few(searchers):
    return searchers[:30]


@pytest.fixture(scope="module")
def trained(searchers):
    """A model and the scenes that it has not seen."""
    train, test = searchers.split("image", test_size=0.25, seed=0)
    return make_model(epochs=25, durations=True, observers=True).fit(train), test


@pytest.fixture(scope="module")
def random_model(few):
    """A model whose weights are large, so that small errors show."""
    model = make_model("exemplar", "precomputed", observers=True).fit(few)
    with torch.no_grad():
        for parameter in model.network_.parameters():
            if parameter.ndim > 1:
                parameter.mul_(2)
    return model


# A planted searcher


def test_planted_searcher_is_learned(trained):
    model, test = trained
    assert model.score(test) > 0.1  # bits a fixation beyond uniform choice, on scenes not seen
    losses = [row["valid_loss"] for row in model.history_]
    assert min(losses) < losses[0] - 1
    effect, returns = [], []
    for scene in test.scenes.values():
        match = scene.matches_target
        first = np.exp(model.conditional(scene, []).log_prob.values[0])
        effect.append(first[match].mean() - first[~match].mean())
        other = int(np.flatnonzero(~match)[0])
        returns.append(np.exp(model.conditional(scene, [other]).log_prob.values[1, other]))
    assert np.mean(effect) > 0.1
    assert np.mean(returns) < 0.14  # below chance, 1 / 6: the searcher seldom returns


def test_planted_ends_and_durations_are_learned(trained):
    model, test = trained
    scene = next(iter(test.scenes.values()))
    target = int(np.flatnonzero(scene.matches_target)[0])
    other = (target + 1) % scene.n_objects
    ends = [np.exp(model.conditional(scene, [i]).end_log_prob.values[1]) for i in (target, other)]
    assert ends[0] > 0.7 > 0.2 > ends[1]
    samples = model.sample(scene, n=300, seed=0)
    assert float(samples.duration.median()) == pytest.approx(0.25, rel=0.2)
    assert float(np.log(samples.duration).std()) == pytest.approx(0.3, rel=0.4)
    np.testing.assert_array_equal(samples.duration.notnull(), samples.object >= 0)
    assert model.predict(scene).duration == pytest.approx(0.25, rel=0.3)


# What the model may know


def outputs(model, scene):
    expected = model.conditional(scene, [0, 2, 1])
    return np.concatenate([expected.log_prob.values.ravel(), expected.end_log_prob.values])


def test_exemplar_and_label_do_not_know_which_object_is_the_target(few):
    scene = few.scene_of(0)
    # Two objects have the category; which of them is the target is known to the data set alone.
    labels = ("a", "b", "a", "c", "c", "b")
    scenes = [replace(scene, labels=labels, target_label="a", target=i) for i in (0, 2)]
    hidden = [replace(scene, labels=None, target_label=None, target=i) for i in range(6)]
    for target, appearance in (("exemplar", "precomputed"), ("label", "none"), ("none", "precomputed")):
        model = make_model(target, appearance).fit(few)
        given = hidden if target != "label" else scenes
        for other in given[1:]:
            np.testing.assert_array_equal(outputs(model, given[0]), outputs(model, other))
    oracle = make_model("oracle", "precomputed").fit(few)
    assert np.abs(outputs(oracle, hidden[0]) - outputs(oracle, hidden[1])).max() > 1e-3


def test_the_cue_is_read(few):
    scene = few.scene_of(0)
    model = make_model("exemplar", "precomputed").fit(few)
    other = replace(scene, exemplar_features=-scene.exemplar_features)
    assert np.abs(outputs(model, scene) - outputs(model, other)).max() > 1e-4
    model = make_model("label", "none").fit(few)
    other = replace(scene, target=None, target_label=scene.labels[0])
    assert not scene.matches_target[0]
    assert np.abs(outputs(model, scene) - outputs(model, other)).max() > 1e-3


@pytest.mark.parametrize(
    ("target", "appearance", "field", "message"),
    [
        ("label", "none", "labels", "must have labels and target_label"),
        ("exemplar", "precomputed", "exemplar_features", "must have exemplar_features"),
        ("exemplar", "cnn", "exemplar", "must have an exemplar"),
        ("oracle", "none", "target", "must have a target for target='oracle', got None"),
        ("none", "precomputed", "features", "must have features"),
        ("none", "cnn", "image", "must have an image"),
    ],
)
def test_what_a_scene_lacks_is_named(few, target, appearance, field, message):
    name = few.data.scene.values[0]
    lacking = {"features": None, "exemplar_features": None} if field == "features" else {field: None}
    scenes = {**few.scenes, name: replace(few.scenes[name], **lacking)}
    with pytest.raises(ValueError, match=f"scene '{name}'.*{message}|{message}"):
        make_model(target, appearance).fit(ScanpathDataset(few.data, scenes))


def test_options_are_checked(few):
    with pytest.raises(TypeError, match="target"):
        ObjectAttentionTransformer()
    for options, message in (
        ({"target": "cue"}, "target must be one of"),
        ({"appearance": "vgg"}, "appearance must be one of"),
        ({"target": "exemplar"}, "appearance must not be 'none'"),
        ({"dim": 18}, "dim must be a multiple of 4"),
        ({"heads": 3}, "heads must divide dim"),
        ({"dropout": 2}, "dropout must be between 0 and 1"),
        ({"by": "day"}, "by must be one of"),
    ):
        with pytest.raises(ValueError, match=message):
            make_model(**options).fit(few)
    name = few.data.scene.values[0]
    holes = replace(few.scenes[name], features=np.full((6, 16), np.nan))
    with pytest.raises(ValueError, match=f"features of scene '{name}' must be finite"):
        make_model("none", "precomputed").fit(ScanpathDataset(few.data, {**few.scenes, name: holes}))
    with pytest.raises(ValueError, match="dataset must have durations"):
        make_model(durations=True).fit(ScanpathDataset(few.data.drop_vars("duration"), few.scenes))


# Laws of the network


def test_order_of_objects_does_not_matter(random_model, few):
    scene, order = few.scene_of(0), np.array([3, 0, 5, 1, 4, 2])
    shuffled = ObjectScene(
        scene.boxes[order],
        scene.size,
        features=scene.features[order],
        exemplar_features=scene.exemplar_features,
    )
    path = np.array([0, 4, 4, 2])
    ours = random_model.conditional(scene, path)
    theirs = random_model.conditional(shuffled, np.argsort(order)[path])
    np.testing.assert_allclose(ours.log_prob.values[:, order], theirs.log_prob.values, atol=1e-4)
    np.testing.assert_allclose(ours.end_log_prob, theirs.end_log_prob, atol=1e-4)
    assert np.ptp(ours.log_prob.values) > 0.1


def test_scenes_of_other_sizes_in_a_batch_do_not_matter(random_model, few):
    scene = few.scene_of(0)
    large = ObjectScene(
        np.concatenate([scene.boxes, scene.boxes + 5]),
        scene.size,
        features=np.concatenate([scene.features] * 2),
        exemplar_features=scene.exemplar_features,
    )
    network, inputs = random_model.network_, [random_model._inputs(s) for s in (scene, large)]
    paths = torch.tensor([[[0, 3, 5]], [[11, 2, 7]]])
    with torch.no_grad():
        memory = network.memory(_collate_scenes(inputs))
        scores, end = network.read(network.continue_paths(paths, memory), memory)
        alone = network.memory(_collate_scenes(inputs[:1]))
        expected, expected_end = network.read(network.continue_paths(paths[:1], alone), alone)
    torch.testing.assert_close(scores[:1, ..., :6], expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(end[:1], expected_end, atol=1e-5, rtol=1e-5)
    assert (scores[0, ..., 6:] == -torch.inf).all()
    assert scores[1].isfinite().all()


@pytest.mark.parametrize("observers", [(None,) * 4, ("1", "2", None, "nobody")])
def test_cached_decoding_equals_decoding_whole_paths(random_model, few, observers):
    from neuroattn.scanpath.base import PathState

    scene, rng = few.scene_of(0), np.random.default_rng(0)
    paths = rng.integers(scene.n_objects, size=(4, 9))  # more steps than there is room for at first
    random_model.max_fixations_ = 3
    whole, end = random_model._teacher_forced(scene, paths, observers)
    state = PathState(scene, observers, paths[:, :0])
    for step in range(10):
        state.past = paths[:, :step]
        log_prob, ends = random_model._step(state)
        np.testing.assert_allclose(log_prob, whole[:, step], atol=1e-4)
        np.testing.assert_allclose(ends, end[:, step], atol=1e-4)
    np.testing.assert_allclose(np.exp(whole).sum(-1), 1, atol=1e-9)


def test_observers_have_codes_and_strangers_their_mean(random_model, few):
    scene = few.scene_of(0)
    first, second, nobody, none = (
        random_model.conditional(scene, [1, 2], observer=o).log_prob.values
        for o in ("1", "2", "nobody", None)
    )
    assert np.abs(first - second).max() > 1e-2
    np.testing.assert_array_equal(nobody, none)
    weight = random_model.network_.observer.weight
    with torch.no_grad():
        weight.copy_(weight.mean(0).expand_as(weight))
    same = random_model.conditional(scene, [1, 2], observer="1").log_prob.values
    np.testing.assert_allclose(same, nobody, atol=1e-4)


# Samples, beams, likelihood


def test_samples_follow_the_probabilities(trained):
    model, test = trained
    scene = test.scene_of(0)
    samples = model.sample(scene, n=3000, seed=1)
    expected = np.exp(model.conditional(scene, []).log_prob.values[0])
    first = samples.object.values[:, 0]
    counts = np.bincount(first[first >= 0], minlength=scene.n_objects) / (first >= 0).sum()
    np.testing.assert_allclose(counts, expected, atol=0.04)
    row = int(np.argmax(samples.length.values))
    path = samples.object.values[row, : int(samples.length[row])]
    steps = model.conditional(scene, path).log_prob.values
    np.testing.assert_allclose(
        samples.log_prob.values[row, : len(path)], [steps[i, o] for i, o in enumerate(path)], atol=1e-4
    )
    assert samples.length.max() <= model.max_fixations_


def test_samples_are_those_of_the_seed_however_many(trained):
    model, test = trained
    scene = test.scene_of(0)
    many, few = model.sample(scene, n=50, seed=4), model.sample(scene, n=5, seed=4)
    steps = few.sizes["fixation"]
    for name in ("object", "length"):
        np.testing.assert_array_equal(
            many[name][:5, :steps] if name == "object" else many[name][:5], few[name]
        )
    np.testing.assert_allclose(many.duration[:5, :steps], few.duration, rtol=1e-4)
    assert not np.array_equal(model.sample(scene, n=50, seed=5).object, many.object)


def test_no_return(trained):
    model, test = trained
    objects = model.sample(test.scene_of(0), n=50, seed=0, temperature=3.0, no_return=True).object.values
    for path in objects:
        path = path[path >= 0]
        assert len(set(path)) == len(path)
    assert (objects >= 0).sum() > 50


def test_beam_finds_the_best_of_all_paths(random_model, few):
    scene = replace(few.scene_of(0), labels=None, target=None, target_label=None)
    scene = ObjectScene(
        scene.boxes[:3], scene.size, features=scene.features[:3], exemplar_features=scene.exemplar_features
    )
    totals = {}
    for length in range(3):
        for path in itertools.product(range(3), repeat=length):
            expected = random_model.conditional(scene, np.array(path, int))
            goes_on = np.log1p(-np.exp(expected.end_log_prob.values[:length]))
            chosen = [expected.log_prob.values[i, o] for i, o in enumerate(path)]
            end = expected.end_log_prob.values[length] if length < 2 else 0  # cut: the end costs nothing
            totals[path] = float(goes_on.sum() + np.sum(chosen) + end)
    assert np.exp(list(totals.values())).sum() == pytest.approx(1, abs=1e-5)
    found = random_model.beam(scene, width=13, max_fixations=2)
    assert len(found) == 13
    assert {tuple(p.objects): p.attrs["path_log_prob"] for p in found} == pytest.approx(totals, abs=1e-4)
    order = [p.attrs["path_log_prob"] for p in found]
    assert order == sorted(order, reverse=True)
    assert random_model.beam(scene, width=3, max_fixations=2)[0].attrs["path_log_prob"] == pytest.approx(
        order[0], abs=1e-4
    )


def test_score_is_that_of_the_likelihood_trained_on(trained):
    """The validation loss, without durations, equals what log_prob says of the same trials."""
    model, test = trained
    quiet = clone(model).set_params(durations=False, observers=False, epochs=2, dropout=0.0).fit(test)
    train, valid = test.split("image", test_size=0.1, seed=0)
    log_prob = quiet.log_prob(valid)
    events = float(log_prob.notnull().sum()) + len(valid)
    total = float(log_prob.sum() + log_prob.end_log_prob.sum())
    assert min(row["valid_loss"] for row in quiet.history_) == pytest.approx(-total / events, rel=1e-4)
    assert not set(train.data.image.values) & set(valid.data.image.values)


# Looks


def test_looks_are_computed_once_a_scene(few):
    model = make_model("exemplar", "cnn", crop_size=(24, 24)).fit(few)
    inputs = {name: model._inputs(scene) for name, scene in few.scenes.items()}
    trials = _Trials(few, inputs, model._observer_index, False)
    batch, _ = trials.collate(list(range(20)))
    seen = []
    model.network_.pictures.register_forward_hook(lambda module, given, result: seen.append(len(given[0])))
    model.network_.memory(batch.scenes)
    n_scenes = len(set(few.data.scene.values[:20]))
    assert seen == [n_scenes * 7]  # six objects and the exemplar
    assert n_scenes < 20
    expected = object_paths(few)[0][:20]
    np.testing.assert_array_equal(
        batch.objects.numpy()[expected[:, : batch.objects.shape[1]] >= 0], expected[expected >= 0]
    )


def test_pictures_are_learned_from(few):
    model = make_model("exemplar", "cnn", crop_size=(24, 24)).fit(few)
    scene = few.scene_of(0)
    other = replace(scene, image=255 - scene.pixels())
    assert np.abs(outputs(model, scene) - outputs(model, other)).max() > 1e-5


def test_backbone_features_are_standardised(few, tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.ReLU())
    backbone = Backbone(net, Preprocessing((127.0,) * 3, (128.0,) * 3), layer="1", input_size=(16, 16))
    model = make_model("exemplar", backbone).fit(few)
    assert model.network_.features.in_features == 4
    assert (model.network_.feature_scale > 0).all()
    assert model.network_.feature_mean.abs().max() > 0
    model.save(tmp_path / "model")
    loaded = ObjectAttentionTransformer.load(tmp_path / "model", backbone=backbone)
    np.testing.assert_array_equal(outputs(model, few.scene_of(0)), outputs(loaded, few.scene_of(0)))
    with pytest.raises(ValueError, match="backbone must be the one of training"):
        ObjectAttentionTransformer.load(tmp_path / "model")


def test_other_numbers_of_features_are_refused(random_model, few):
    scene = few.scene_of(0)
    wide = replace(scene, features=np.ones((6, 3)), exemplar_features=np.ones(3))
    with pytest.raises(ValueError, match="must have 16 features as in training, got 3"):
        random_model.predict(wide)


# Estimator


def test_fit_is_reproducible_and_leaves_the_random_state(few):
    before = torch.get_rng_state()
    models = [make_model(epochs=2).fit(few) for _ in range(2)]
    assert models[0].history_ == models[1].history_
    torch.testing.assert_close(torch.get_rng_state(), before)
    assert make_model(epochs=2, seed=1).fit(few).history_ != models[0].history_


def test_clone_pickle_and_files(trained, tmp_path):
    model, test = trained
    assert clone(model).get_params() == model.get_params()
    scene = test.scene_of(0)
    model.save(tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["params"]["target"] == "label"
    for again in (pickle.loads(pickle.dumps(model)), ObjectAttentionTransformer.load(tmp_path / "model")):
        np.testing.assert_array_equal(outputs(model, scene), outputs(again, scene))
        assert again.get_params() == model.get_params()
        assert again.sample(scene, n=3, seed=0).identical(model.sample(scene, n=3, seed=0))
    with pytest.raises(FileNotFoundError, match=r"must hold config\.json"):
        ObjectAttentionTransformer.load(tmp_path)


def test_early_stopping_keeps_the_best_weights(few):
    model = make_model(epochs=8, patience=2, lr=0.3).fit(few)
    losses = [row["valid_loss"] for row in model.history_]
    assert len(losses) == int(np.argmin(losses)) + 1 + 2 or len(losses) == 8
    _, valid = few.split("image", test_size=0.1, seed=0)
    log_prob = model.log_prob(valid)
    events = float(log_prob.notnull().sum()) + len(valid)
    assert -float(log_prob.sum() + log_prob.end_log_prob.sum()) / events == pytest.approx(
        min(losses), rel=1e-3
    )


def test_an_interrupted_fit_is_interrupted(few, monkeypatch):
    def interrupt(self, trials):
        raise KeyboardInterrupt

    monkeypatch.setattr(_Trials, "collate", interrupt)
    model = make_model(epochs=5)
    with pytest.raises(KeyboardInterrupt):
        model.fit(few)
    with pytest.raises(NotFittedError):
        model.predict(few.scene_of(0))


# Positions


def test_position_code_at_free_places():
    anchors = torch.linspace(0, 1, 11, dtype=torch.float64)
    x = torch.rand(50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    code = gaussian_position(x, 16, sigma=0.15, anchors=anchors, norm=2.0)
    exact = 4 * torch.exp(-((x[:, None] - x) ** 2) / (2 * 0.15**2))
    torch.testing.assert_close(code @ code.T, exact, atol=4 * 2e-3, rtol=0)
    at = gaussian_position(anchors, 16, sigma=0.15, anchors=anchors)
    gram = torch.exp(-((anchors[:, None] - anchors) ** 2) / (2 * 0.15**2))
    torch.testing.assert_close(at @ at.T, gram, atol=1e-9, rtol=0)
    assert float(gaussian_position(torch.tensor(9.0), 16, sigma=0.15, anchors=anchors).norm()) < 1e-6


def test_position_code_checks_its_arguments():
    anchors = torch.arange(5.0)
    with pytest.raises(ValueError, match="dim must be at least the number of anchors, 5, got 4"):
        gaussian_position(anchors, 4, sigma=1.0, anchors=anchors)
    with pytest.raises(ValueError, match=r"sigma must be above 0, got 0\.0"):
        gaussian_position(anchors, 8, sigma=0.0, anchors=anchors)
