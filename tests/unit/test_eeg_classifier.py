"""The estimator: what it learns, keeps, refuses and leaves alone."""

import json
import pickle
import warnings

import mne
import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.utils.estimator_checks import (
    check_do_not_raise_errors_in_init_or_set_params,
    check_estimator_cloneable,
    check_estimator_repr,
    check_get_params_invariance,
    check_no_attributes_set_in_init,
    check_parameters_default_constructible,
    check_set_params,
)

from neuroattn.attention import make_gate
from neuroattn.eeg import BaseNet, MotorImageryClassifier
from neuroattn.eeg.classifier import _Recombine, _whole_batches
from neuroattn.eeg.pipelines import BandPass

SFREQ = 100
NAMES = ["C3", "Cz", "C4"]


def make_data(n=24, seed=0, n_times=200):
    """11 Hz on the left for one label and on the right for the other, in trials of two seconds."""
    rng = np.random.default_rng(seed)
    y = np.array(["left", "right"])[np.arange(n) % 2]
    wave = 12 * np.sin(2 * np.pi * 11 * np.arange(n_times) / SFREQ + rng.uniform(0, 6, size=(n, 1)))
    X = rng.normal(size=(n, 3, n_times)) * 3
    X[:, 0] += wave * (y == "left")[:, None]
    X[:, 2] += wave * (y == "right")[:, None]
    return X, y


def make_epochs(X, y, ch_names=NAMES, sfreq=SFREQ):
    events = np.column_stack([np.arange(len(X)), np.zeros(len(X), int), np.where(y == "left", 1, 2)])
    info = mne.create_info(list(ch_names), sfreq, "eeg")
    return mne.EpochsArray(X * 1e-6, info, events, event_id={"left": 1, "right": 2}, verbose="error")


def make_classifier(**changes):
    given = dict(attention="se", sfreq=SFREQ, n_epochs=40, standardize="channel", learning_rate=4e-3)
    return MotorImageryClassifier(**(given | changes))


@pytest.fixture(scope="module")
def fitted():
    X, y = make_data()
    return make_classifier().fit(X, y)


@pytest.fixture(scope="module")
def fitted_on_epochs():
    return make_classifier(sfreq=None, n_epochs=4).fit(make_epochs(*make_data()))


def test_it_learns(fitted):
    X, y = make_data(seed=1)
    assert fitted.score(X, y) > 0.9
    assert fitted.classes_.tolist() == ["left", "right"]
    assert fitted.history_[-1] < 0.6 * fitted.history_[0]
    assert len(fitted.history_) == 40
    probabilities = fitted.predict_proba(X)
    assert_allclose(probabilities.sum(axis=1), 1)
    assert_array_equal(fitted.predict(X), fitted.classes_[probabilities.argmax(axis=1)])


@pytest.mark.parametrize("sfreq", [100, 160, 250])
def test_lengths_are_given_in_seconds(sfreq):
    X = np.random.default_rng(0).normal(size=(4, 2, 3 * sfreq))
    network = make_classifier(sfreq=sfreq, n_epochs=1, band=None).fit(X, [0, 1, 0, 1]).network_
    lengths = (
        network.stem.temporal.kernel_size[1],
        network.stem.pool.kernel_size[1],
        network.stem.pool.stride[1],
    )
    assert lengths == {100: (9, 30, 6), 160: (17, 48, 10), 250: (25, 75, 15)}[sfreq]


def test_the_filter_is_part_of_the_model(fitted):
    """A model with a filter is one without on filtered trials."""
    X, y = make_data()
    filtered = BandPass(8, 30, SFREQ).transform(X)
    bare = make_classifier(band=None).fit(filtered, y)
    assert_allclose(bare.predict_proba(filtered), fitted.predict_proba(X), atol=1e-6)


def test_the_lead_is_for_the_filter_alone():
    X, y = make_data()
    filtered = BandPass(8, 30, SFREQ, causal=True).transform(X)[:, :, 50:]
    lead = make_classifier(n_epochs=3, causal=True, lead_seconds=0.5).fit(X, y)
    bare = make_classifier(n_epochs=3, band=None).fit(filtered, y)
    assert_allclose(lead.predict_proba(X), bare.predict_proba(filtered), atol=1e-6)


def test_seeds_decide_and_global_state_stays():
    X, y = make_data()
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    states = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    first, again, other = (make_classifier(n_epochs=2, seed=s, augment=True).fit(X, y) for s in (0, 0, 1))
    assert_array_equal(states[0], torch.get_rng_state())
    assert_array_equal(states[1], np.random.get_state()[1])  # noqa: NPY002
    assert_array_equal(first.predict_proba(X), again.predict_proba(X))
    assert not np.allclose(first.predict_proba(X), other.predict_proba(X))


def test_epochs_are_read_in_microvolt(fitted_on_epochs):
    X, y = make_data()
    arrays = make_classifier(n_epochs=4).fit(X, y)
    epochs = make_epochs(X, y)
    assert_allclose(fitted_on_epochs.predict_proba(epochs), arrays.predict_proba(X), atol=1e-5)
    assert fitted_on_epochs.score(epochs) == arrays.score(X, y)
    assert fitted_on_epochs.ch_names_ == NAMES


def test_channels_of_epochs_are_found_by_name(fitted_on_epochs):
    X, y = make_data()
    turned = make_epochs(X[:, ::-1], y, NAMES[::-1])
    assert_allclose(fitted_on_epochs.predict_proba(turned), fitted_on_epochs.predict_proba(make_epochs(X, y)))


def test_small_sets_are_trained_on():
    """Three trials, and a batch size that would leave one over."""
    X, y = make_data(n=3)
    classifier = make_classifier(n_epochs=3, batch_size=2).fit(X, y)
    first = BaseNet(n_chans=3, n_outputs=2, n_times=200).state_dict()["final_layer.bias"]
    assert classifier.network_.stem.norm.num_batches_tracked == 3
    assert classifier.network_.final_layer.bias.shape == first.shape


@pytest.mark.parametrize("n_trials", [2, 3, 5, 7, 64, 65, 129])
@pytest.mark.parametrize("batch_size", [2, 3, 64])
def test_no_batch_has_one_trial(n_trials, batch_size):
    size = _whole_batches(n_trials, batch_size)
    assert 2 <= size <= n_trials
    assert n_trials % size != 1
    if n_trials % batch_size != 1 and batch_size <= n_trials:
        assert size == batch_size


def test_all_trials_are_used_in_every_pass(monkeypatch):
    seen = []
    forward = BaseNet.forward

    def counting(self, x, return_features=False):
        seen.append(len(x))
        return forward(self, x, return_features)

    monkeypatch.setattr(BaseNet, "forward", counting)
    X, y = make_data(n=10)
    make_classifier(n_epochs=2, batch_size=4).fit(X, y)
    assert seen == [4, 4, 2] * 2
    seen.clear()
    make_classifier(n_epochs=2, batch_size=4, augment=True).fit(X, y)
    assert seen == [8, 8, 4] * 2


def test_recombined_trials_double_the_batch():
    X, _ = make_data(n=6, n_times=21)
    batch = list(zip(torch.from_numpy(X), [0, 1] * 3, strict=True))
    x, labels = _Recombine(0, 21)(batch)
    assert x.shape == (12, 3, 21)
    assert torch.bincount(labels).tolist() == [6, 6]
    with pytest.raises(
        ValueError, match="augment needs trials that divide into 2 to 8 segments, got 23 samples"
    ):
        _Recombine(0, 23)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"attention": "eca", "attention_options": {"kernel_size": 3}},
        {"model": "ShallowFBCSPNet"},
        {"standardize": None},
    ],
    ids=str,
)
def test_saved_models_predict_the_same(tmp_path, changes):
    X, y = make_data(n=8)
    classifier = make_classifier(n_epochs=2, **changes).fit(X, (y == "left").astype(int))
    classifier.save(tmp_path / "model")
    assert sorted(p.name for p in (tmp_path / "model").iterdir()) == ["config.json", "model.safetensors"]
    before = torch.get_rng_state()
    loaded = MotorImageryClassifier.load(tmp_path / "model")
    assert_array_equal(before, torch.get_rng_state())
    assert_array_equal(loaded.predict_proba(X), classifier.predict_proba(X))
    assert loaded.predict(X).dtype == classifier.predict(X).dtype
    assert loaded.history_ == classifier.history_


def test_a_loaded_model_still_knows_its_montage(tmp_path, fitted_on_epochs):
    fitted_on_epochs.save(tmp_path / "model")
    X, y = make_data()
    with pytest.raises(ValueError, match="X must have the channels of training, C3, Cz, C4, got C3, Cz, Pz"):
        MotorImageryClassifier.load(tmp_path / "model").predict(make_epochs(X, y, ["C3", "Cz", "Pz"]))


def test_code_is_not_saved(tmp_path):
    X, y = make_data(n=4)
    classifier = make_classifier(n_epochs=1, attention=lambda c, t: make_gate("se", c, t)).fit(X, y)
    with pytest.raises(TypeError, match="attention must be given by name to be saved"):
        classifier.save(tmp_path / "model")
    with pytest.raises(FileNotFoundError, match=r"must hold config\.json and model\.safetensors"):
        MotorImageryClassifier.load(tmp_path / "model")
    (tmp_path / "config.json").write_text(json.dumps({"class": "RidgeEncoder", "params": {}}))
    with pytest.raises(ValueError, match="class must be one of 'MotorImageryClassifier', got 'RidgeEncoder'"):
        MotorImageryClassifier.load(tmp_path)


def test_pickle_and_clone(fitted):
    X, _ = make_data()
    again = pickle.loads(pickle.dumps(fitted))
    assert_array_equal(again.predict_proba(X), fitted.predict_proba(X))
    unfitted = clone(fitted)
    assert unfitted.get_params() == fitted.get_params()
    with pytest.raises(NotFittedError):
        unfitted.predict(X)


def test_a_given_module_is_not_trained_itself():
    gate = make_gate("se", 16)
    before = [p.clone() for p in gate.parameters()]
    X, y = make_data(n=8)
    classifier = make_classifier(attention=gate, n_epochs=3).fit(X, y)
    assert all(map(torch.equal, before, gate.parameters()))
    assert not all(map(torch.equal, before, classifier.network_.attention.parameters()))


def test_grid_search_over_attention():
    X, y = make_data()
    search = GridSearchCV(
        make_classifier(n_epochs=25), {"attention": [None, "eca"]}, cv=2, error_score="raise"
    )
    search.fit(X, y)
    assert search.cv_results_["mean_test_score"].max() > 0.8


@pytest.mark.parametrize("attention", [None, "eca"])
@pytest.mark.parametrize("model", ["EEGNet", "Deep4Net"])
def test_networks_of_braindecode(model, attention):
    X, y = make_data(n=6, n_times=700)
    classifier = make_classifier(model=model, attention=attention, n_epochs=2).fit(X, y)
    assert type(classifier.network_).__name__ == model
    assert classifier.predict_proba(X).shape == (6, 2)
    assert any("gate" in name for name, _ in classifier.network_.named_modules()) == (attention is not None)


def test_networks_by_class_and_their_options():
    from braindecode.models import EEGNet

    X, y = make_data(n=6)
    classifier = make_classifier(model=EEGNet, attention=None, model_options={"F1": 3}, n_epochs=1).fit(X, y)
    assert classifier.network_.F1 == 3
    assert (
        make_classifier(model_options={"n_filters": 8}, n_epochs=1)
        .fit(X, y)
        .network_.stem.temporal.weight.shape[0]
        == 8
    )


def with_value(place, value):
    X, _ = make_data(n=6)
    X[place] = value
    return X


@pytest.mark.parametrize(
    ("changes", "X", "y", "message"),
    [
        ({"sfreq": None}, None, None, "sfreq must be given for arrays"),
        ({}, None, ["left"] * 6, "y must hold at least two classes, got 'left'"),
        ({}, None, [0, 1], r"y must have shape \(6,\), got \(2,\)"),
        ({}, with_value((3, 1, 7), np.nan), None, "X must be finite, got NaN or infinity in channel 1"),
        ({}, with_value((slice(None), 2), 1.0), None, "X must vary in every channel, got a flat channel 2"),
        ({}, np.zeros((6, 200)), None, r"X must have shape \(trial, channel, time\)"),
        ({"attention": "sse"}, None, None, "attention must be one of 'se', .* got 'sse'"),
        ({"attention_options": {"reduction": 64}}, None, None, "reduction must be .*64"),
        ({"model": "EEGNett"}, None, None, "model 'EEGNett' is unknown; nearest are 'EEGNet'"),
        ({"n_epochs": 0}, None, None, "n_epochs must be at least 1, got 0"),
        ({"n_warmup": 40}, None, None, "n_warmup must be between 0 and 39, got 40"),
        ({"batch_size": 1}, None, None, "batch_size must be at least 2, got 1"),
        ({"lead_seconds": 2}, None, None, "lead_seconds must be between 0 and 1.99, got 2"),
        ({"lead_seconds": 1.9}, None, None, "n_times must be at least"),
        ({"standardize": "trial"}, None, None, "per must be one of 'sample', 'channel', got 'trial'"),
        ({"band": (8, 60)}, None, None, "band must have 0 < low < high < 50 Hz"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict | str) else "",
)
def test_faults_are_named_before_training(changes, X, y, message):
    data, labels = make_data(n=6)
    with pytest.raises(ValueError, match=message):
        make_classifier(**changes).fit(data if X is None else X, labels if y is None else y)


def test_labels_are_needed_with_arrays(fitted):
    X, _ = make_data(n=6)
    with pytest.raises(ValueError, match="y must be given for arrays"):
        fitted.score(X)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda X, y: make_epochs(X, y, ["C3", "Cz", "Pz"]),
            "X must have the channels of training, C3, Cz, C4, got C3, Cz, Pz",
        ),
        (lambda X, y: make_epochs(X, y, sfreq=128), "X must be sampled at 100 Hz as in training, got 128 Hz"),
        (lambda X, y: X[:, :, :150], "3 channels and 200 samples as in training, got 3 and 150"),
        (lambda X, y: X[:, :2], "3 channels and 200 samples as in training, got 2 and 200"),
        (lambda X, y: X * np.array([1, np.nan, 1])[:, None], "NaN or infinity in channel Cz"),
    ],
)
def test_other_recordings_are_refused(fitted_on_epochs, make, message):
    with pytest.raises(ValueError, match=message):
        fitted_on_epochs.predict(make(*make_data(n=4)))


def test_a_sampling_rate_that_contradicts_the_epochs():
    with pytest.raises(ValueError, match="sfreq must be that of the epochs, 100 Hz, or None, got 250"):
        make_classifier(sfreq=250).fit(make_epochs(*make_data(n=4)))


def test_volts_are_noticed():
    X, y = make_data(n=6)
    with pytest.warns(UserWarning, match="X should be in microvolt"):
        make_classifier(n_epochs=1).fit(X * 1e-6, y)


def test_no_warning_at_any_sampling_rate():
    """Lengths are scaled, so the network has nothing to say about its published rate."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_classifier(n_epochs=1, sfreq=80).fit(*make_data(n=4))


@pytest.mark.parametrize(
    "check",
    [
        check_do_not_raise_errors_in_init_or_set_params,
        check_estimator_cloneable,
        check_estimator_repr,
        check_no_attributes_set_in_init,
        check_get_params_invariance,
        check_parameters_default_constructible,
        check_set_params,
    ],
)
def test_scikit_learn_checks_without_two_dimensional_data(check):
    check("MotorImageryClassifier", MotorImageryClassifier())
