import numpy as np
import pytest
import scipy.stats
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from neuroattn.metrics import (
    bootstrap_correlation,
    noise_ceiling_from_ncsnr,
    noise_ceiling_from_repeats,
    paired_difference,
    pearson_r,
    r2_over_ceiling,
    roi_summary,
    shuffled_correlation,
)


def make_pair(n=80, n_units=6, noise=1.0, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.normal(size=(n, n_units)) + 100
    return y, y + noise * rng.normal(size=y.shape)


def test_pearson_equals_scipy():
    y, p = make_pair()
    expected = [scipy.stats.pearsonr(y[:, i], p[:, i]).statistic for i in range(y.shape[1])]
    np.testing.assert_allclose(pearson_r(y, p), expected, rtol=1e-12)


def test_pearson_is_nan_for_constant_units_even_after_rounding():
    y = np.full((50, 2), 0.1, np.float32)
    assert np.isnan(pearson_r(y, make_pair(50, 2)[1])).all()


@settings(max_examples=25, deadline=None)
@given(scale=st.floats(1e-3, 1e3), shift=st.floats(-1e3, 1e3))
def test_pearson_ignores_scale_and_shift(scale, shift):
    y, p = make_pair(noise=0.5)
    np.testing.assert_allclose(pearson_r(y, scale * p + shift), pearson_r(y, p), atol=1e-8)


def test_blocks_of_units_do_not_change_the_result(monkeypatch):
    y, p = make_pair()
    whole = (
        pearson_r(y, p),
        bootstrap_correlation(y, p, n_resamples=5),
        shuffled_correlation(y, p, n_shuffles=5),
    )
    monkeypatch.setattr("neuroattn.metrics.correlation._UNITS_AT_ONCE", 4)
    split = (
        pearson_r(y, p),
        bootstrap_correlation(y, p, n_resamples=5),
        shuffled_correlation(y, p, n_shuffles=5),
    )
    for a, b in zip(whole, split, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_bootstrap_equals_correlation_of_the_drawn_rows():
    y, p = make_pair(n=40)
    draws = np.random.default_rng(3).integers(40, size=(4, 40))
    expected = [pearson_r(y[rows], p[rows]) for rows in draws]
    np.testing.assert_allclose(bootstrap_correlation(y, p, n_resamples=4, seed=3), expected, atol=1e-5)


def test_bootstrap_interval_covers_the_true_correlation():
    covered = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        y = rng.normal(size=(100, 1))
        p = y + rng.normal(size=y.shape)  # true correlation is 1 / sqrt(2)
        low, high = np.percentile(bootstrap_correlation(y, p, n_resamples=300, seed=seed), [2.5, 97.5])
        covered += low < 1 / np.sqrt(2) < high
    assert covered >= 51


def test_shuffling_destroys_the_relation():
    y, _ = make_pair(n=200)
    null = shuffled_correlation(y, y, n_shuffles=50)
    assert abs(null.mean()) < 0.02
    assert null.std() == pytest.approx(1 / np.sqrt(199), rel=0.2)


@pytest.mark.parametrize("counts", [[3] * 300, [1, 2, 3] * 100], ids=["equal", "unequal"])
def test_both_ceilings_recover_the_planted_one(counts):
    rng = np.random.default_rng(0)
    s = np.array([0.3, 0.7, 1.5])
    trials = s[:, None, None] * rng.normal(size=(3, 300, 1)) + rng.normal(size=(3, 300, 3))
    trials[:, np.arange(3) >= np.asarray(counts)[:, None]] = np.nan
    expected = s**2 / (s**2 + np.mean(1 / np.asarray(counts)))
    np.testing.assert_allclose(noise_ceiling_from_ncsnr(s, counts), expected)
    np.testing.assert_allclose(noise_ceiling_from_repeats(trials), expected, atol=0.09)


def test_ceiling_from_single_repeats_is_unknown():
    assert np.isnan(noise_ceiling_from_repeats(np.ones((1, 5, 1)))).all()


def test_r2_over_ceiling_keeps_the_sign_and_is_not_clipped():
    out = r2_over_ceiling([0.9, -0.9, 0.9], [0.2, 0.2, 0.05])
    np.testing.assert_allclose(out, [4.05, -4.05, np.nan])


def test_no_repeats_is_refused():
    with pytest.raises(ValueError, match="n_repeats must be at least 1 for every image, got 0"):
        noise_ceiling_from_ncsnr([1.0], [3, 0])


def test_shape_error_names_the_argument():
    with pytest.raises(ValueError, match=r"y_pred must have shape \(3, 2\), got \(3, 1\)"):
        pearson_r(np.ones((3, 2)), np.ones((3, 1)))


def test_roi_summary_counts_dropped_units_and_leaves_empty_rois_nan():
    values = xr.DataArray([[0.1, np.nan, 0.5]], dims=("model", "unit"))
    rois = (
        xr.DataArray([[1, 1, 1], [0, 1, 0], [0, 0, 0]], dims=("roi", "unit"), coords={"roi": ["a", "b", "c"]})
        == 1
    )
    out = roi_summary(values, rois)
    np.testing.assert_allclose(out["mean"], [[0.3, np.nan, np.nan]])
    assert out.n_units.values.tolist() == [[2, 0, 0]]
    assert out.n_dropped.values.tolist() == [[1, 1, 0]]


def test_paired_difference_uses_subjects_where_there_are_several():
    rng = np.random.default_rng(0)
    a = xr.DataArray(rng.normal(size=(8, 3)), dims=("subject", "seed"))
    out = paired_difference(a + 0.5, a * 1.0)
    per_subject = np.full(8, 0.5)
    assert out.attrs["unit"] == "subject"
    assert out.n == 8
    assert out.difference.item() == pytest.approx(per_subject.mean())
    assert out.p.item() == pytest.approx(2 / 2**8)


def test_paired_difference_equals_the_paired_t_interval():
    rng = np.random.default_rng(1)
    a, b = (xr.DataArray(rng.normal(size=(6, 1)), dims=("subject", "seed")) for _ in range(2))
    expected = scipy.stats.ttest_rel(a[:, 0], b[:, 0]).confidence_interval()
    np.testing.assert_allclose(paired_difference(a, b).interval.values, [expected.low, expected.high])


def test_one_pair_has_no_interval():
    a = xr.DataArray([[0.5]], dims=("subject", "seed"))
    out = paired_difference(a, a - 0.1)
    assert out.attrs["unit"] == "seed"
    assert np.isnan(out.interval).all()
