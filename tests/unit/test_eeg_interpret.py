"""Gates, patterns, maps and gradients of a trained BaseNet."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from neuroattn.eeg import MotorImageryClassifier, attention_gates, attention_maps, saliency, spatial_patterns

SFREQ = 80
RNG = np.random.default_rng(0)
Y = np.array(["left", "right"] * 8)


@pytest.fixture(scope="module")
def trials():
    """A 12 Hz source with a known pattern over five electrodes, louder on the right."""
    pattern = np.array([4.0, 2.0, 0.0, -1.0, 0.5])
    t = np.arange(3 * SFREQ) / SFREQ
    source = (
        np.sin(2 * np.pi * 12 * t + RNG.uniform(0, 6, size=(16, 1))) * np.where(Y == "left", 1, 4)[:, None]
    )
    X = pattern[None, :, None] * source[:, None] + 0.3 * RNG.normal(size=(16, 5, len(t)))
    return X.astype(np.float32), pattern


def fitted(X, attention=None, **changes):
    given = dict(sfreq=SFREQ, band=(8, 30), n_epochs=3, standardize="channel") | changes
    return MotorImageryClassifier(attention, **given).fit(X, Y)


def test_patterns_show_the_source_whatever_the_filter(trials):
    X, pattern = trials
    found = spatial_patterns(fitted(X), X)
    assert found.dims == ("mixture", "channel")
    cosine = found.values @ pattern / (np.linalg.norm(found.values, axis=1) * np.linalg.norm(pattern))
    assert (np.abs(cosine) > 0.95).mean() > 0.9


def test_a_pattern_is_covariance_times_filter_per_output_deviation(trials):
    X, _ = trials
    classifier = fitted(X, band=None, standardize=None)
    found = spatial_patterns(classifier, X)[3]
    stem = classifier.network_.stem
    tap, weights = stem.temporal.weight[3].flatten(), stem.spatial.weight[3].flatten().detach().numpy()
    filtered = torch.nn.functional.conv1d(
        torch.from_numpy(X).reshape(-1, 1, X.shape[2]), tap[None, None], padding=len(tap) // 2
    )
    rows = filtered.detach().numpy().reshape(16, 5, -1).transpose(1, 0, 2).reshape(5, -1).astype(np.float64)
    covariance = np.cov(rows, bias=True)
    assert_allclose(
        found, covariance @ weights / np.sqrt(weights @ covariance @ weights), rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize(
    ("attention", "dims"), [("se", ("epoch", "feature")), ("cat", ("epoch", "feature", "time"))]
)
def test_gates_are_those_of_the_network(trials, attention, dims):
    X, _ = trials
    classifier = fitted(X, attention)
    gates = attention_gates(classifier, X, Y)
    assert gates.dims == dims
    assert gates.label.values.tolist() == Y.tolist()
    z = torch.from_numpy(classifier._scale(classifier._filter(X)))
    with torch.inference_mode():
        assert_allclose(gates, classifier.network_(z, return_features=True)["gate"])


def test_maps_follow_the_gates(trials):
    X, _ = trials
    classifier = fitted(X, "se")
    maps = attention_maps(classifier, X, Y)
    assert maps.label.values.tolist() == ["left", "right"]
    assert_allclose(maps.sum("channel"), 1, rtol=1e-5)
    assert (maps.values.argmax(1) == 0).all()
    assert maps.attrs["gate_spread"] > 0
    plain = attention_maps(fitted(X), X, Y)
    assert_allclose(plain[0], plain[1])
    assert plain.attrs["gate_spread"] == 0


def test_saliency_is_the_gradient_of_the_class(trials):
    X, _ = trials
    classifier = fitted(X)
    found = saliency(classifier, X, Y)
    assert found.dims == ("epoch", "channel", "time")
    z = torch.from_numpy(classifier._scale(classifier._filter(X)))
    step = torch.zeros_like(z[:1])
    step[0, 1, 100] = 1e-2
    with torch.inference_mode():
        slope = (classifier.network_(z[:1] + step) - classifier.network_(z[:1] - step))[0, 0] / 2e-2
    assert_allclose(found[0, 1, 100], abs(float(slope)), rtol=0.05)


def test_bad_requests_are_refused_in_one_line(trials):
    X, _ = trials
    with pytest.raises(ValueError, match="classifier must have an attention with a gate, got None"):
        attention_gates(fitted(X), X, Y)
    with pytest.raises(ValueError, match="y must hold classes of the classifier, got 'up'"):
        saliency(fitted(X), X, np.where(Y == "left", "up", Y))
    with pytest.raises(ValueError, match="classifier must have a BaseNet, got ShallowFBCSPNet"):
        spatial_patterns(fitted(X, model="ShallowFBCSPNet", n_epochs=1), X)
