import inspect

import numpy as np
import pytest
import torch
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file
from sklearn.base import clone

import neuroattn.encoding.training as training
from neuroattn.datasets import make_nsd_like
from neuroattn.encoding import BrainEncoder, PooledRidgeEncoder, SharedBrainEncoder, load_encoder
from neuroattn.encoding.features import FeatureDataset
from neuroattn.encoding.shared import SubjectBatches, SubjectDataset, shared_holdout
from neuroattn.metrics import pearson_r
from neuroattn.results import label_rois

SIZES = {"subj01": (40, 6), "subj02": (24, 4)}  # stimuli, units


def make_subjects(channels=8, grid=(3, 4)):
    """Return features, responses and regions of two subjects whose units read one channel each."""
    rng = np.random.default_rng(0)
    X, y, rois = {}, {}, {}
    for subject, (n, n_units) in SIZES.items():
        X[subject] = rng.normal(size=(n, channels, *grid)).astype(np.float32)
        y[subject] = 3 * X[subject].mean((2, 3))[:, :n_units] + 7
        units = np.arange(n_units)
        rois[subject] = label_rois({"V1": units < 3, "FFA": units == 3}, hemisphere=["left"] * n_units)
    return X, y, rois


def decoder_of(encoder):
    """Return the tensors of a subject's network that are no queries, mixture or readout."""
    own = ("queries", "mix.", "readout.")
    return {k: v for k, v in encoder.network_.state_dict().items() if not k.startswith(own)}


def standard_error(encoder, X, y):
    """Return the mean squared error of standardised responses."""
    return np.mean(((encoder.predict(X) - y) / encoder.target_scale_) ** 2)


@pytest.mark.parametrize("options", [{}, {"layers": 2, "position": "learned", "width": 12, "norm": "post"}])
def test_one_subject_is_a_brain_encoder_to_the_bit(options):
    X, y, rois = make_subjects()
    groups = np.arange(40) // 2
    alone = BrainEncoder(rois["subj01"], epochs=4, seed=3, **options).fit(X["subj01"], y["subj01"], groups)
    shared = SharedBrainEncoder({"a": rois["subj01"]}, epochs=4, seed=3, **options)
    shared.fit({"a": X["subj01"]}, {"a": y["subj01"]}, {"a": groups})
    np.testing.assert_array_equal(shared.predict(X["subj01"], subject="a"), alone.predict(X["subj01"]))
    np.testing.assert_array_equal(shared.attention(X["subj01"], subject="a"), alone.attention(X["subj01"]))
    for name in ("train_loss", "valid_loss"):
        assert [row[name] for row in shared.history_] == [row[name] for row in alone.history_]


def test_parameters_are_those_of_a_brain_encoder():
    def described(cls):
        return {k: p.default for k, p in inspect.signature(cls).parameters.items()}

    assert described(SharedBrainEncoder) == described(BrainEncoder)
    assert clone(SharedBrainEncoder({"a": None}, heads=2)).get_params()["heads"] == 2


def test_subjects_hold_one_decoder_and_own_queries():
    X, y, rois = make_subjects()
    shared = SharedBrainEncoder(rois, epochs=2).fit(X, y)
    one, two = (e.network_ for e in shared.encoders_.values())
    for name in ("layers", "norm", "queries", "readout"):
        assert (getattr(one, name) is getattr(two, name)) == (name in ("layers", "norm"))
    assert torch.equal(one.input_mean, two.input_mean)
    tokens = np.concatenate([x.transpose(1, 0, 2, 3).reshape(8, -1) for x in X.values()], 1)
    assert one.input_mean.numpy() == pytest.approx(tokens.mean(1), abs=0.05)  # watched rows are left out
    assert one.input_scale.numpy() == pytest.approx(tokens.std(1), abs=0.05)


def test_watched_loss_is_the_mean_over_subjects():
    X, y, rois = make_subjects()
    groups = {"subj01": np.arange(40), "subj02": np.arange(24) + 100}
    shared = SharedBrainEncoder(rois, epochs=3, batch_size=4, validation_fraction=0.3)
    shared.fit(X, y, groups)
    folds = shared_holdout({s: len(x) for s, x in X.items()}, 0.3, 0, groups)
    assert len({len(valid) for _, valid in folds.values()}) == 2
    errors = [
        standard_error(shared.encoders_[s], X[s][valid], y[s][valid]) for s, (_, valid) in folds.items()
    ]
    assert min(row["valid_loss"] for row in shared.history_) == pytest.approx(np.mean(errors), rel=1e-4)


def test_batches_are_of_one_subject_and_subjects_take_turns():
    parts = [FeatureDataset(np.zeros((n, 2, 1, 1)), np.arange(n), np.zeros((n, 3))) for n in (12, 6)]
    batches = list(SubjectBatches([torch.utils.data.SequentialSampler(p) for p in parts], batch_size=3))
    assert [subject for subject, _ in batches] == [0, 1, 0, 0, 1, 0]
    assert sorted((s, i) for s, items in batches for i in items) == [
        (s, i) for s, part in enumerate(parts) for i in range(len(part))
    ]
    weights = [float(SubjectDataset(parts)[s, items][1][1]) * len(items) for s, items in batches]
    assert sum(weights) == 18
    assert sum(w for w, (s, _) in zip(weights, batches, strict=True) if s == 1) == 9


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 30), min_size=8, max_size=20), min_size=1, max_size=3),
    st.integers(0, 5),
)
def test_no_subject_trains_on_a_stimulus_that_any_subject_watches(ids, seed):
    groups = {str(i): own for i, own in enumerate(ids)}
    try:
        folds = shared_holdout({s: len(own) for s, own in groups.items()}, 0.4, seed, groups)
    except ValueError:  # a subject has nothing to train on, or to watch
        reject()
    trained = {groups[s][i] for s, (train, _) in folds.items() for i in train}
    watched = {groups[s][i] for s, (_, valid) in folds.items() for i in valid}
    assert len(trained) * len(watched) > 0
    assert not trained & watched
    assert all(len(train) + len(valid) == len(groups[s]) for s, (train, valid) in folds.items())


def test_without_groups_a_row_is_one_stimulus_in_all_subjects():
    one, two = shared_holdout({"a": 20, "b": 20}, 0.3, 0, None).values()
    np.testing.assert_array_equal(one[1], two[1])


def test_transfer_leaves_decoder_and_other_subjects_alone():
    X, y, rois = make_subjects()
    shared = SharedBrainEncoder(rois, epochs=2).fit(X, y)
    before = shared.predict(X["subj01"], subject="subj01")
    decoder = {k: v.clone() for k, v in decoder_of(shared.encoders_["subj01"]).items()}
    queries = shared.encoders_["subj01"].network_.queries.clone()
    new = y["subj01"][:, ::-1].copy()
    shared.transfer(X["subj01"] + 2, new, subject="new", rois=rois["subj01"])
    encoder = shared.encoders_["new"]
    assert encoder.network_.layers is shared.encoders_["subj01"].network_.layers
    assert all(torch.equal(decoder[k], v) for k, v in decoder_of(encoder).items())
    np.testing.assert_array_equal(shared.predict(X["subj01"], subject="subj01"), before)
    assert not torch.equal(encoder.network_.queries, queries)
    assert all(p.requires_grad for p in encoder.network_.parameters())
    # What was trained is what reads: neither the decoder nor its standardisation moved meanwhile.
    _, watched = shared_holdout({"new": 40}, 0.1, 0, None)["new"]
    error = standard_error(encoder, X["subj01"][watched] + 2, new[watched])
    assert min(row["valid_loss"] for row in encoder.history_) == pytest.approx(error, rel=1e-4)


def test_transferred_queries_start_at_those_of_the_same_region():
    X, y, rois = make_subjects()
    X = {s: {"low": x, "high": x[:, ::-1]} for s, x in X.items()}
    shared = SharedBrainEncoder(rois, epochs=2).fit(X, y)
    regions = label_rois({"FFA": [True, False], "RSC": [False, True]}, hemisphere=["left", "left"])
    shared.set_params(lr=0.0, seed=1)  # what is fitted stays where it started
    shared.transfer(X["subj01"], y["subj01"][:, :2], subject="new", rois=regions)
    known = [shared.encoders_[s] for s in SIZES]
    new = shared.encoders_["new"].network_
    for read in (lambda network: network.queries, lambda network: network.mix.logits):
        ffa = torch.stack([read(e.network_)[e.queries_.roi.tolist().index("FFA")] for e in known]).mean(0)
        torch.testing.assert_close(read(new)[0], ffa)
    rsc = new.queries[1]
    assert all((rsc - query).norm() > 1 for e in known for query in e.network_.queries)


def test_saved_once_and_loaded_whole(tmp_path):
    X, y, rois = make_subjects()
    shared = SharedBrainEncoder(rois, epochs=2).fit(X, y)
    shared.save(tmp_path / "model")
    stored = load_file(tmp_path / "model" / "model.safetensors")
    assert (
        {k for k in stored if "layers" in k}
        == {k for k in stored if k.startswith("0.network.layers")}
        != set()
    )
    loaded = load_encoder(tmp_path / "model")
    assert isinstance(loaded, SharedBrainEncoder)
    networks = [e.network_ for e in loaded.encoders_.values()]
    assert networks[0].layers is networks[1].layers
    for encoder in (shared, loaded):
        encoder.transfer(X["subj01"], y["subj01"], subject="new", rois=rois["subj01"])
    for subject, x in {**X, "new": X["subj01"]}.items():
        np.testing.assert_array_equal(loaded.predict(x, subject=subject), shared.predict(x, subject=subject))
        assert loaded.attention(x, subject=subject).identical(shared.attention(x, subject=subject))


def test_layers_and_grids_may_come_in_different_order_and_size():
    X, y, rois = make_subjects()
    layers = {s: {"low": x, "high": 2 * x + 1} for s, x in X.items()}
    turned = {"subj01": layers["subj01"], "subj02": dict(reversed(layers["subj02"].items()))}
    first, second = (SharedBrainEncoder(rois, epochs=2).fit(given, y) for given in (layers, turned))
    for s in X:
        np.testing.assert_array_equal(
            first.predict(layers[s], subject=s), second.predict(turned[s], subject=s)
        )
    X["subj02"] = X["subj02"][..., :2]
    maps = (
        SharedBrainEncoder(rois, epochs=1).fit(X, y).attention(X["subj02"], subject="subj02", per_head=True)
    )
    assert maps.sizes == {"stimulus": 24, "query": 2, "head": 4, "y": 3, "x": 2}


def test_interrupted_training_continues_to_the_same_weights(tmp_path, monkeypatch):
    X, y, rois = make_subjects()
    whole = SharedBrainEncoder(rois, epochs=5).fit(X, y)
    monkeypatch.setitem(training.train_network.__kwdefaults__, "checkpoint_every", 0.0)

    def die(done):
        if done == 3:
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        SharedBrainEncoder(rois, epochs=5).fit(X, y, checkpoint=tmp_path / "state", progress=die)
    seen = []
    resumed = SharedBrainEncoder(rois, epochs=5)
    resumed.fit(X, y, checkpoint=tmp_path / "state", progress=seen.append)
    assert seen[0] == 3
    for s in X:
        np.testing.assert_array_equal(resumed.predict(X[s], subject=s), whole.predict(X[s], subject=s))


def test_score_is_the_mean_over_subjects():
    X, y, rois = make_subjects()
    shared = SharedBrainEncoder(rois, epochs=2).fit(X, y)
    each = [shared.score(X[s], y[s], subject=s) for s in X]
    assert each[0] != each[1]
    assert shared.score(X, y) == pytest.approx(np.mean(each))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda a: a | {"X": a["X"]["subj01"]}, TypeError, "X must be a mapping of subjects"),
        (lambda a: a | {"X": {}, "y": {}}, ValueError, "X must name at least one subject"),
        (lambda a: a | {"y": {"subj01": a["y"]["subj01"]}}, ValueError, "y must name the subjects of X"),
        (lambda a: a | {"groups": {"subj01": np.arange(40)}}, ValueError, "groups must name the subjects of X"),
        (
            lambda a: a | {"groups": {"subj01": np.arange(40), "subj02": np.arange(3)}},
            ValueError,
            r"groups\['subj02'\] must have shape \(24,\)",
        ),
        (
            lambda a: a | {"X": {"subj01": a["X"]["subj01"], "subj02": a["X"]["subj02"][:, :4]}},
            ValueError,
            "X must have 8 channels",
        ),
        (
            lambda a: a | {"groups": {"subj01": np.zeros(40, int), "subj02": np.arange(24) + 1}},
            ValueError,
            "which has 'subj01' watch 0 of 40",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_in_one_line(change, error, message):
    X, y, _ = make_subjects()
    arguments = change({"X": X, "y": y, "groups": None})
    with pytest.raises(error, match=message) as caught:
        SharedBrainEncoder(epochs=1).fit(**arguments)
    assert "\n" not in str(caught.value)


def test_unknown_and_taken_subjects_are_refused():
    X, y, rois = make_subjects()
    with pytest.raises(ValueError, match="rois must name the subjects of X"):
        SharedBrainEncoder({"subj01": rois["subj01"]}, epochs=1).fit(X, y)
    shared = SharedBrainEncoder(rois, epochs=1).fit(X, y)
    with pytest.raises(ValueError, match="subject must be one of 'subj01', 'subj02', got 'subj03'"):
        shared.predict(X["subj01"], subject="subj03")
    with pytest.raises(ValueError, match="subject must be a new name, got 'subj02'"):
        shared.transfer(X["subj01"], y["subj01"], subject="subj02")


# Simulated subjects with one planted rule: where regions of each name look is the same, how units read what is found
# there is their own. All units of one simulation, and its images, are dealt out to three subjects who train the
# decoder and one who has few images.
N_SUBJECTS, N_IMAGES, N_FEW = 3, 160, 40


class Simulation:
    """Subjects, a shared decoder, its control, and encoders from scratch."""

    def __init__(self, seed=0):
        n = N_SUBJECTS * N_IMAGES
        self.recording = make_nsd_like(n + N_FEW, 100, seed=seed, rois=["EBA", "FFA-1"], vertices_per_roi=24)
        rows = {f"subj{i}": np.arange(i * N_IMAGES, (i + 1) * N_IMAGES) for i in range(N_SUBJECTS)}
        parts = {s: self.part(i, r) for i, (s, r) in enumerate(rows.items())}
        X, y, rois = ({s: part[i] for s, part in parts.items()} for i in range(3))
        self.few = self.part(N_SUBJECTS, np.arange(n, n + N_FEW))
        rng = np.random.default_rng(0)
        shuffled = {s: rng.permutation(x) for s, x in X.items()}
        self.shared, self.control = (
            SharedBrainEncoder(rois).fit(given, y, rows).set_params(seed=7) for given in (X, shuffled)
        )
        features, responses, regions = self.few
        for encoder in (self.shared, self.control):
            encoder.transfer(features, responses, rois=regions, subject="new")
        self.scratch = BrainEncoder(regions, seed=7).fit(features, responses)
        self.ridge = PooledRidgeEncoder().fit(features, responses)
        self.alone = BrainEncoder(rois["subj0"]).fit(X["subj0"], y["subj0"])

    def part(self, i, rows):
        """Return features, responses and regions of the units of subject i."""
        units = np.arange(self.recording.n_units) % (N_SUBJECTS + 1) == i
        recording = self.recording
        return recording.features[rows], recording.responses[rows][:, units], recording.rois[:, units]

    def accuracy(self, encoder, i):
        """Mean correlation over the units in regions, on test images."""
        features, responses, rois = self.part(i, np.flatnonzero(self.recording.test))
        return np.mean(pearson_r(responses, encoder.predict(features))[rois.values.any(0)])


@pytest.fixture(scope="module")
def simulation():
    return Simulation()


def test_shared_decoder_recovers_what_a_subject_alone_does_not(simulation):
    shared = [simulation.accuracy(simulation.shared.encoders_[f"subj{i}"], i) for i in range(N_SUBJECTS)]
    alone = simulation.accuracy(simulation.alone, 0)
    assert shared[0] > alone + 0.2
    assert min(shared) > 0.5


def test_transferred_decoder_beats_scratch_ridge_and_control(simulation):
    found = {
        "transferred": simulation.accuracy(simulation.shared.encoders_["new"], N_SUBJECTS),
        "scratch": simulation.accuracy(simulation.scratch, N_SUBJECTS),
        "ridge": simulation.accuracy(simulation.ridge, N_SUBJECTS),
        "control": simulation.accuracy(simulation.control.encoders_["new"], N_SUBJECTS),
    }
    print({name: round(float(value), 2) for name, value in found.items()})
    assert found.pop("transferred") > max(found.values()) + 0.2


def test_transferred_queries_look_at_the_cued_object(simulation):
    recording = simulation.recording
    truth = recording.truth.isel(stimulus=recording.test)
    cue = truth.cue.to_series().to_dict()

    def preference(shared):
        maps = shared.attention(recording.features[recording.test], subject="new")
        routed = [q for q, name in enumerate(maps.roi.values) if cue.get(str(name))]
        assert len(routed) == 4
        ratio = []
        for q in routed:
            category = cue[str(maps.roi.values[q])]
            cued, decoy = (truth[m].sel(category=category).values for m in ("object_mask", "decoy_mask"))
            ratio.append(
                (maps.values[:, q] * cued).sum()
                / (maps.values[:, q] * decoy).sum()
                * decoy.sum()
                / cued.sum()
            )
        return np.array(ratio)

    assert (preference(simulation.shared) > 3).all()
    assert preference(simulation.shared).min() > preference(simulation.control).max()
