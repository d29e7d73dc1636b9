"""Running decoding equals the causal offline pipeline, whatever the chunks."""

import mne
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.signal import butter, sosfilt, sosfilt_zi

from neuroattn.eeg import MotorImageryClassifier, StreamingDecoder

SFREQ, N_TIMES, STEP = 100, 150, 10
NAMES = ["C3", "Cz", "C4"]


def train(**changes):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(12, 3, N_TIMES)) * 10, np.array(["left", "right"] * 6)
    given = dict(sfreq=SFREQ, causal=True, n_epochs=4, learning_rate=0.02, standardize="channel")
    return MotorImageryClassifier("se", **(given | changes)).fit(X, y)


@pytest.fixture(scope="module")
def classifier():
    return train()


@pytest.fixture(scope="module")
def recording():
    """Five seconds and a bit, with an offset for the filter to remove."""
    return np.random.default_rng(1).normal(size=(3, 527)) * 10 + np.array([[100.0], [0], [-30]])


def offline(classifier, recording, n_times):
    """The definition: filter all, cut windows, standardise as in training, run the network."""
    sos = butter(4, (8, 30), "bandpass", output="sos", fs=SFREQ)
    initial = np.stack([sosfilt_zi(sos) * channel[0] for channel in recording], axis=1)
    filtered, _ = sosfilt(sos, recording, zi=initial)
    ends = range(n_times, recording.shape[1] + 1, STEP)
    windows = np.stack([filtered[:, end - n_times : end] for end in ends])
    if classifier.standardizer_ is not None:
        windows = (windows - classifier.standardizer_.mean_) / classifier.standardizer_.scale_
    with torch.no_grad():
        return classifier.network_(torch.tensor(windows, dtype=torch.float32)).softmax(1).numpy()


def run(classifier, recording, sizes):
    decoder = StreamingDecoder(classifier)
    decisions, start = [], 0
    while start < recording.shape[1]:
        size = next(sizes)
        decisions += decoder.push(recording[:, start : start + size])
        start += size
    return decisions


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(seed=st.integers(0, 10**6), largest=st.sampled_from([1, 7, 60, 600]))
def test_any_chunks_equal_the_offline_pipeline(classifier, recording, seed, largest):
    rng = np.random.default_rng(seed)
    decisions = run(classifier, recording, iter(lambda: int(rng.integers(1, largest + 1)), None))
    expected = offline(classifier, recording, N_TIMES)
    assert len(decisions) == len(expected) == 38
    assert_allclose([d.probabilities for d in decisions], expected, atol=1e-6)
    assert np.ptp(expected[:, 0]) > 1e-3
    assert [d.time for d in decisions] == [(N_TIMES + STEP * i) / SFREQ for i in range(38)]
    assert [d.label for d in decisions] == classifier.classes_[expected.argmax(1)].tolist()
    assert all(d.latency > 0 for d in decisions)


@pytest.mark.parametrize(
    "changes", [{"standardize": "sample"}, {"standardize": None}, {"lead_seconds": 0.3}], ids=str
)
def test_other_models_equal_theirs(recording, changes):
    classifier = train(**changes)
    n_times = N_TIMES - round(changes.get("lead_seconds", 0) * SFREQ)
    decisions = run(classifier, recording, iter(lambda: 25, None))
    assert_allclose([d.probabilities for d in decisions], offline(classifier, recording, n_times), atol=1e-6)


def test_without_a_filter_windows_are_trials(recording):
    """What the estimator itself says of the last window."""
    classifier = train(band=None, causal=False)
    decisions = run(classifier, recording, iter(lambda: 33, None))
    assert_allclose(
        decisions[-1].probabilities,
        classifier.predict_proba(recording[None, :, 520 - N_TIMES : 520])[0],
        atol=1e-6,
    )


def test_reset_forgets(classifier, recording):
    decoder = StreamingDecoder(classifier)
    first = decoder.push(recording)
    decoder.push(recording[:, ::-1])
    decoder.reset()
    assert decoder.push(recording[:, :149]) == []
    again = decoder.push(recording[:, 149:])
    assert_allclose([d.probabilities for d in first], [d.probabilities for d in again], atol=1e-12)


def test_a_zero_phase_filter_is_refused():
    with pytest.raises(
        ValueError, match=r"classifier must have been fitted with causal=True.*set_params\(causal=True\)"
    ):
        StreamingDecoder(train(causal=False, n_epochs=1))


@pytest.mark.parametrize("every", [0.0, 0.004])
def test_steps_are_at_least_one_sample(classifier, every):
    with pytest.raises(ValueError, match=r"every must be at least 0\.01"):
        StreamingDecoder(classifier, every=every)


def test_other_channels_are_refused(classifier):
    with pytest.raises(ValueError, match=r"samples must have shape \(3, time\), got \(2, 10\)"):
        StreamingDecoder(classifier).push(np.zeros((2, 10)))


def test_nan_does_not_get_into_the_filter(classifier, recording):
    decoder = StreamingDecoder(classifier)
    decoder.push(recording[:, :100])
    with pytest.raises(ValueError, match="samples must be finite, got NaN or infinity in channel 1"):
        decoder.push(np.array([[0.0], [np.nan], [1.0]]))
    decisions = decoder.push(recording[:, 100:])
    assert_allclose([d.probabilities for d in decisions], offline(classifier, recording, N_TIMES), atol=1e-6)


def test_replay_counts_false_positives_in_rest(classifier, recording, monkeypatch):
    """Probabilities that are given: a rise at rest counts once, a rise outside rest does not."""
    scores = np.full(38, 0.5)
    scores[[3, 4, 5, 9, 20]] = 0.9
    given = iter(np.column_stack([1 - scores, scores]))
    monkeypatch.setattr(classifier, "_probabilities", lambda scaled: next(given)[None])
    rest = np.zeros(527, dtype=bool)
    rest[: N_TIMES + 15 * STEP] = True  # 16 windows
    replay = StreamingDecoder(classifier).replay(recording, rest=rest)
    assert replay.decisions.rest.sum() == 16
    assert replay.false_positives_per_minute == pytest.approx(2 / (16 * 0.1 / 60))
    assert replay.decisions["right"].tolist() == scores.tolist()
    assert replay.latency["median"] <= replay.latency["p95"] <= replay.latency["max"]
    assert replay.decisions.latency.max() == replay.latency["max"]


def test_replay_without_rest_has_no_false_positives(classifier, recording):
    replay = StreamingDecoder(classifier).replay(recording)
    assert np.isnan(replay.false_positives_per_minute)
    assert_allclose(replay.decisions[["left", "right"]], offline(classifier, recording, N_TIMES), atol=1e-6)
    with pytest.raises(
        ValueError, match="recording must be at least as long as a window, 150 samples, got 149"
    ):
        StreamingDecoder(classifier).replay(recording[:, :149])


def make_raw(recording, ch_names=("C3..", "Cz..", "C4..", "EOG"), sfreq=SFREQ):
    data = np.vstack([recording, recording[:1]]) * 1e-6
    info = mne.create_info(list(ch_names), sfreq, ["eeg"] * 3 + ["eog"])
    # A recording that was cut out of a longer one, whose annotations count from the beginning of that one.
    raw = mne.io.RawArray(data, info, first_samp=10 * sfreq, verbose="error")
    return raw.set_annotations(mne.Annotations([0.5, 1.5, 2.5], [2, 0.5, 0.05], ["T0", "T1", "T0"]))


def test_replay_of_a_recording_of_mne(classifier, recording):
    replay = StreamingDecoder(classifier).replay(make_raw(recording), rest=["T0"])
    assert_allclose(replay.decisions[["left", "right"]], offline(classifier, recording, N_TIMES), atol=1e-6)
    # Windows of 1.5 s within 0.5 to 2.5 s: those that end at 2.0, 2.1, ... 2.5 s.
    assert replay.decisions.time[replay.decisions.rest].round(2).tolist() == [2.0, 2.1, 2.2, 2.3, 2.4, 2.5]
    with pytest.raises(
        ValueError, match=r"rest must name annotations of recording, got \['T9'\]; it has T0, T1"
    ):
        StreamingDecoder(classifier).replay(make_raw(recording), rest=["T9"])
    with pytest.raises(ValueError, match="recording must be sampled at 100 Hz as in training, got 200 Hz"):
        StreamingDecoder(classifier).replay(make_raw(recording, sfreq=200))


def test_replay_finds_the_channels_of_training(recording):
    X, y = np.random.default_rng(0).normal(size=(6, 3, N_TIMES)) * 10, np.array([1, 2] * 3)
    events = np.column_stack([np.arange(6), np.zeros(6, int), y])
    epochs = mne.EpochsArray(X * 1e-6, mne.create_info(NAMES[::-1], SFREQ, "eeg"), events, verbose="error")
    classifier = MotorImageryClassifier(causal=True, n_epochs=1).fit(epochs, y)
    replay = StreamingDecoder(classifier).replay(make_raw(recording))
    assert_allclose(replay.decisions[["1", "2"]], offline(classifier, recording[::-1], N_TIMES), atol=1e-6)
    with pytest.raises(ValueError, match="the 3 channels of training, got 4; missing: C4"):
        StreamingDecoder(classifier).replay(make_raw(recording, ("C3", "Cz", "Oz", "EOG")))
