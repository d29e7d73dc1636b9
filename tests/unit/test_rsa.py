import itertools

import numpy as np
import pytest
import xarray as xr
from numpy.testing import assert_allclose
from scipy.spatial.distance import pdist
from scipy.stats import pearsonr, spearmanr

from neuroattn.metrics import dissimilarities, rdm_noise_ceiling, rdm_similarity

N = 7


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def patterns_of(x):
    return xr.DataArray(x, dims=("condition", "unit"), coords={"condition": [f"c{i}" for i in range(len(x))]})


def rdms_of(x):
    return xr.DataArray(x, dims=("subject", "pair") if np.ndim(x) == 2 else ("pair",))


@pytest.mark.parametrize(("method", "metric"), [("correlation", "correlation"), ("euclidean", "sqeuclidean")])
def test_dissimilarities_are_those_of_scipy(method, metric, rng):
    x = rng.normal(size=(N, 12))
    found = dissimilarities(patterns_of(x), method=method)
    assert_allclose(found, pdist(x, metric) / (12 if method == "euclidean" else 1))
    assert found.condition_a.values[:2].tolist() == ["c0", "c0"]
    assert found.condition_b.values[[0, -1]].tolist() == ["c1", f"c{N - 1}"]


def test_crossvalidated_distance_of_noise_is_zero_on_average_and_of_signal_the_distance(rng):
    signal = rng.normal(size=(N, 400))
    noise = rng.normal(size=(4, N, 400))
    null = dissimilarities(xr.DataArray(noise, dims=("repeat", "condition", "unit")), method="crossvalidated")
    found = dissimilarities(
        xr.DataArray(signal + noise, dims=("repeat", "condition", "unit")), method="crossvalidated"
    )
    true = pdist(signal, "sqeuclidean") / 400
    assert abs(null.mean()) < 0.05
    assert (null < 0).any()
    assert abs((found - true).mean()) < 0.1
    biased = dissimilarities(patterns_of((signal + noise).mean(0)), method="euclidean")
    assert (biased - true).mean() > 0.4
    pairs = [
        np.mean([(x[i] - x[j]) * (y[i] - y[j]) for x, y in itertools.permutations(noise, 2)])
        for i, j in zip(*np.triu_indices(N, 1), strict=True)
    ]
    assert_allclose(null, pairs, atol=1e-12)


def test_plain_similarities_are_those_of_scipy(rng):
    a, b = rng.random((2, N * (N - 1) // 2))
    assert_allclose(rdm_similarity(rdms_of(a), rdms_of(b), method="pearson"), pearsonr(a, b)[0])
    assert_allclose(rdm_similarity(rdms_of(a), rdms_of(b)), spearmanr(a, b)[0])
    cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    assert_allclose(rdm_similarity(rdms_of(a), rdms_of(b), method="cosine"), cosine)


@pytest.mark.parametrize("n", [3, 4, 9])
def test_whitening_inverts_the_covariance(n, rng):
    first, second = np.triu_indices(n, 1)
    contrast = np.zeros((len(first), n))
    contrast[np.arange(len(first)), first], contrast[np.arange(len(first)), second] = 1, -1
    inverse = np.linalg.inv((contrast @ contrast.T) ** 2)
    a, b = rng.random((2, len(first)))
    expected = a @ inverse @ b / np.sqrt(a @ inverse @ a * (b @ inverse @ b))
    assert_allclose(rdm_similarity(rdms_of(a), rdms_of(b), method="whitened-cosine"), expected)
    ones = np.ones(len(first))
    a, b = (x - (x @ inverse @ ones) / (ones @ inverse @ ones) for x in (a, b))
    expected = a @ inverse @ b / np.sqrt(a @ inverse @ a * (b @ inverse @ b))
    assert_allclose(rdm_similarity(rdms_of(a), rdms_of(b), method="whitened-pearson"), expected)


def test_dims_are_matched_and_crossed(rng):
    models = xr.DataArray(rng.random((2, 21)), dims=("model", "pair"))
    brains = xr.DataArray(rng.random((3, 21)), dims=("subject", "pair"))
    table = rdm_similarity(models, brains)
    assert dict(table.sizes) == {"model": 2, "subject": 3}
    assert_allclose(table[1, 2], spearmanr(models[1], brains[2])[0])


@pytest.mark.parametrize("method", ["pearson", "spearman", "cosine", "whitened-cosine", "whitened-pearson"])
def test_no_model_beats_the_upper_bound_and_the_truth_is_above_the_lower(method, rng):
    truth = rng.random(45)
    rdms = rdms_of(truth + 0.2 * rng.normal(size=(6, 45)))
    ceiling = rdm_noise_ceiling(rdms, method=method)
    assert ceiling.lower < ceiling.upper
    models = xr.DataArray(
        np.vstack([truth, rdms.mean("subject"), truth + 0.1 * rng.normal(size=(200, 45))]),
        dims=("model", "pair"),
    )
    scores = rdm_similarity(models, rdms, method=method).mean("subject")
    assert (scores <= ceiling.upper.item() + (0.005 if method == "spearman" else 1e-12)).all()
    assert scores[0] > ceiling.lower


def test_a_set_that_does_not_vary_has_no_similarity():
    flat, other = rdms_of(np.ones(21)), rdms_of(np.arange(21.0))
    assert np.isnan(rdm_similarity(flat, other))
    assert np.isnan(rdm_similarity(flat, other, method="whitened-pearson"))
    assert rdm_similarity(flat, other, method="cosine") > 0


def test_bad_input_is_refused_in_one_line(rng):
    x = rng.normal(size=(N, 5))
    x[2] = 3
    with pytest.raises(ValueError, match="patterns must vary over units, condition 2 does not"):
        dissimilarities(patterns_of(x))
    with pytest.raises(ValueError, match="patterns must have dims"):
        dissimilarities(patterns_of(x), method="crossvalidated")
    x[0, 0] = np.nan
    with pytest.raises(ValueError, match="patterns must be finite, got 1 values"):
        dissimilarities(patterns_of(x), method="euclidean")
    with pytest.raises(ValueError, match="method must be one of"):
        rdm_similarity(rdms_of(np.ones(3)), rdms_of(np.ones(3)), method="kendall")
    with pytest.raises(ValueError, match="b must have the 3 pairs of a, got 6"):
        rdm_similarity(rdms_of(np.ones(3)), rdms_of(np.ones(6)))
    with pytest.raises(ValueError, match="all pairs of some conditions, got 5"):
        rdm_similarity(rdms_of(np.ones(5)), rdms_of(np.ones(5)))
    with pytest.raises(ValueError, match="at least 2 subjects"):
        rdm_noise_ceiling(rdms_of(np.ones((1, 6))))
