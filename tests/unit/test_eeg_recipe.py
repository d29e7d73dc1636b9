"""Learning rate, augmentation and standardisation of the EEG recipe."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone

from neuroattn.eeg import Standardizer, recombine_segments, warmup_cosine


@given(st.integers(0, 30), st.integers(31, 200))
def test_learning_rate_rises_once_and_falls_once(n_warmup, n_epochs):
    rate = [warmup_cosine(epoch, n_warmup, n_epochs) for epoch in range(n_epochs + 1)]
    assert rate[n_warmup] == 1
    assert rate[-1] == pytest.approx(0)
    assert (np.diff(rate[: n_warmup + 1]) > 0).all()
    assert (np.diff(rate[n_warmup:]) < 0).all()


def test_warmup_longer_than_training_is_refused():
    with pytest.raises(ValueError, match="n_warmup must be between 0 and 10, got 11"):
        warmup_cosine(0, 11, 10)


@settings(max_examples=20)
@given(st.integers(0, 2**20), st.integers(1, 4), st.lists(st.integers(0, 2), min_size=1, max_size=12))
def test_segments_stay_in_place_and_in_their_class(seed, n_segments, labels):
    y = np.array(labels)
    n_times = 3 * n_segments
    # Each sample tells its trial, channel and time.
    x = np.arange(len(y) * 2 * n_times).reshape(len(y), 2, n_times)
    new_x, new_y = recombine_segments(x, y, seed, n_segments)
    assert sorted(new_y) == sorted([*labels, *labels])
    trial, rest = np.divmod(new_x, 2 * n_times)
    np.testing.assert_array_equal(rest, np.broadcast_to(x[0], rest.shape))  # channel and time
    by_segment = trial.reshape(len(new_y), 2, n_segments, 3)
    assert (by_segment == by_segment[:, :1, :, :1]).all()  # a segment is of one trial
    assert (y[trial] == new_y[:, None, None]).all()
    whole = {tuple(row) for row in new_x.reshape(len(new_y), -1)}
    assert {tuple(row) for row in x.reshape(len(y), -1)} <= whole


def test_recombination_follows_its_seed():
    x, y = np.random.default_rng(0).standard_normal((12, 3, 40)), np.arange(12) % 3
    once, again = recombine_segments(x, y, 5), recombine_segments(x, y, np.random.default_rng(5))
    np.testing.assert_array_equal(once[0], again[0])
    assert not np.array_equal(once[0], recombine_segments(x, y, 6)[0])
    with pytest.raises(ValueError, match="n_segments must divide the 40 samples of x, got 7"):
        recombine_segments(x, y, 5, 7)
    with pytest.raises(ValueError, match=r"y must have shape \(12,\), got \(11,\)"):
        recombine_segments(x, y[1:], 5)


@pytest.mark.parametrize(("per", "axes"), [("sample", (0,)), ("channel", (0, 2))])
def test_standardised_training_trials(per, axes):
    x = np.random.default_rng(0).normal(5, 3, (20, 3, 10)).astype("float32")
    x[:, 1] = 7  # a dead electrode is centred and not divided by nothing
    scaler = clone(Standardizer(per=per))
    z = scaler.fit_transform(x)
    assert z.dtype == np.float32
    np.testing.assert_allclose(z.mean(axes), 0, atol=1e-5)
    np.testing.assert_allclose(z.std(axes)[[0, 2]], 1, atol=1e-5)
    assert (z[:, 1] == 0).all()
    # Test trials get the numbers of the training trials.
    shifted = scaler.transform(x + 1)
    assert shifted[:, 0].mean() == pytest.approx(1 / 3, rel=0.2)
    np.testing.assert_allclose(shifted[:, 1], 1)


def test_standardiser_refuses_other_shapes():
    x = np.ones((4, 3, 10))
    scaler = Standardizer().fit(x)
    with pytest.raises(ValueError, match=r"X must have shape \(trial, 3, 10\), got \(4, 3, 9\)"):
        scaler.transform(x[:, :, 1:])
    assert Standardizer("channel").fit(x).transform(x[:, :, 1:]).shape == (4, 3, 9)
    with pytest.raises(ValueError, match="per must be one of 'sample', 'channel', got 'trial'"):
        Standardizer("trial").fit(x)
