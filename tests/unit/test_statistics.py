"""Permutation tests, group statistics, variance partitioning, ensembles and ceilings from other subjects."""

import itertools

import numpy as np
import pytest
import scipy.stats
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from neuroattn.metrics import (
    cross_subject_ceiling,
    group_summary,
    paired_difference,
    pearson_r,
    permutation_correlation,
    softmax_ensemble,
    variance_partitioning,
)


def make_null(n=30, n_units=40, seed=0):
    return np.random.default_rng(seed).normal(size=(2, n, n_units))


def test_permutation_p_is_that_of_the_definition():
    y, p = make_null(n=12, n_units=5)
    result = permutation_correlation(y, p, n_permutations=50, seed=3)
    rng = np.random.default_rng(3)
    null = np.stack([pearson_r(y, p[rng.permutation(12)]) for _ in range(50)])
    observed = pearson_r(y, p)
    np.testing.assert_allclose(result.correlation, observed)
    np.testing.assert_allclose(result.p, (1 + (null >= observed).sum(0)) / 51)
    np.testing.assert_allclose(result.p_fwe, (1 + (null.max(1)[:, None] >= observed).sum(0)) / 51)
    np.testing.assert_allclose(result.p_fdr, scipy.stats.false_discovery_control(result.p))


def test_blocks_of_units_do_not_change_the_p_values(monkeypatch):
    y, p = make_null()
    whole = permutation_correlation(y, p, n_permutations=30)
    monkeypatch.setattr("neuroattn.metrics.correlation._UNITS_AT_ONCE", 7)
    xr.testing.assert_allclose(permutation_correlation(y, p, n_permutations=30), whole)


def test_permutation_test_finds_the_signal_and_leaves_constant_units_unknown():
    y, p = make_null(n=60)
    p[:, 0] = y[:, 0]
    p[:, 1] = 1.0
    result = permutation_correlation(y, p, n_permutations=99)
    assert result.p_fwe[0] == result.smallest_p == 0.01
    assert np.isnan([result[name][1] for name in ("p", "p_fdr", "p_fwe")]).all()
    assert (result.p_fwe[2:] >= result.p[2:]).all()
    assert (result.p_fdr[2:] >= result.p[2:]).all()


def test_permutation_p_is_uniform_without_a_relation_and_the_maximum_controls_the_family():
    families = [permutation_correlation(*make_null(seed=s), n_permutations=99, seed=s) for s in range(60)]
    p = np.concatenate([family.p for family in families])
    assert abs((p <= 0.2).mean() - 0.2) < 0.03
    assert sum(bool((family.p_fwe <= 0.1).any()) for family in families) <= 12  # 6 expected


def test_rows_of_one_stimulus_move_together():
    """Twenty copies of three stimuli say no more than three stimuli."""
    rng = np.random.default_rng(0)
    stimulus = np.repeat(np.arange(6), 10)
    y, p = rng.normal(size=(2, 6, 200))[:, stimulus]
    alone = permutation_correlation(y, p, n_permutations=99)
    together = permutation_correlation(y, p, n_permutations=99, groups=stimulus)
    assert (alone.p < 0.05).mean() > 0.2  # false: there is no relation
    assert (together.p <= 0.05).mean() < 0.1


def test_groups_change_places_with_groups_of_their_size_only():
    from neuroattn.metrics.correlation import _exchangeable, _shuffled_orders

    groups = np.array(["a", "b", "b", "c", "d", "d", "e"])
    tables = _exchangeable(7, groups)
    orders = _shuffled_orders(tables, 200, np.random.default_rng(0))
    np.testing.assert_array_equal(np.sort(orders, axis=1), np.tile(np.arange(7), (200, 1)))
    assert {tuple(order[[1, 2]]) for order in orders} == {(1, 2), (4, 5)}
    assert {order[0] for order in orders} == {0, 3, 6}


def test_more_permutations_than_orders_are_refused():
    y, p = make_null(n=4)
    with pytest.raises(ValueError, match="n_permutations must be below the 24 orders of the stimuli, got 24"):
        permutation_correlation(y, p, n_permutations=24)
    assert permutation_correlation(y, p, n_permutations=23).smallest_p == 1 / 24
    with pytest.raises(ValueError, match="below the 2 orders"):
        permutation_correlation(y, p, n_permutations=9, groups=["a", "a", "b", "c"])


def test_group_summary_is_the_t_interval_and_the_exact_sign_flip_test():
    rng = np.random.default_rng(0)
    values = xr.DataArray(rng.normal(0.8, 1, size=(6, 3)), dims=("subject", "roi"))
    result = group_summary(values)
    flips = np.array(list(itertools.product((1, -1), repeat=6)))
    for i, x in enumerate(values.values.T):
        interval = scipy.stats.ttest_1samp(x, 0).confidence_interval()
        np.testing.assert_allclose(result.interval[:, i], [interval.low, interval.high])
        p = (abs((flips * x).mean(1)) >= abs(x.mean()) - 1e-12).mean()
        assert result.p[i].item() == pytest.approx(p)
    t = np.array([abs(scipy.stats.ttest_1samp(f[:, None] * values, 0).statistic) for f in flips])
    expected = (t.max(1)[:, None] >= t[0] - 1e-12).mean(0)
    np.testing.assert_allclose(result.p_fwe, expected)
    np.testing.assert_allclose(result.p_fdr, scipy.stats.false_discovery_control(result.p))


def test_the_largest_t_is_fair_to_regions_of_few_subjects():
    values = xr.DataArray(np.random.default_rng(0).normal(0.7, 1, (7, 2)), dims=("subject", "roi"))
    values[3:, 1] = np.nan
    signs = np.array(list(itertools.product((1, -1), repeat=7)))
    t = np.array(
        [abs(scipy.stats.ttest_1samp(f[:, None] * values, 0, nan_policy="omit").statistic) for f in signs]
    )
    expected = (t.max(1)[:, None] >= t[0] - 1e-9).mean(0)
    np.testing.assert_allclose(group_summary(values).p_fwe, expected)


@pytest.mark.parametrize(("n", "smallest"), [(2, 0.5), (3, 0.25), (8, 2 / 2**8), (15, 1e-4)])
def test_smallest_p_is_reached_when_all_subjects_agree(n, smallest):
    values = xr.DataArray(np.random.default_rng(0).uniform(1, 2, (n, 2)), dims=("subject", "roi"))
    result = group_summary(values)
    np.testing.assert_allclose(result.smallest_p, smallest)
    np.testing.assert_allclose(result.p, smallest, atol=2e-4 if n > 12 else 0)


def test_subjects_without_a_region_are_not_counted():
    values = xr.DataArray(np.random.default_rng(0).normal(1, 1, (5, 3)), dims=("subject", "roi"))
    values[0, 1] = np.nan
    values[:, 2] = np.nan
    result = group_summary(values)
    assert result.n.values.tolist() == [5, 4, 0]
    alone = group_summary(values[1:, [1]])
    for name in ("mean", "interval", "p", "smallest_p"):
        np.testing.assert_allclose(result[name].isel(roi=1), alone[name].isel(roi=0))
        assert np.isnan(result[name].isel(roi=2)).all()


def test_one_subject_says_nothing_of_others():
    result = group_summary(xr.DataArray([[0.5, 0.7]], dims=("subject", "roi")))
    assert np.isnan(result.interval).all()
    assert (result.p == 1).all()
    assert (result.smallest_p == 1).all()
    with pytest.raises(ValueError, match="values must have dims subject and roi"):
        group_summary(xr.DataArray([0.5], dims="roi"))


def test_paired_difference_leaves_out_subjects_that_lack_a_region():
    rng = np.random.default_rng(0)
    a, b = (xr.DataArray(rng.normal(size=(6, 2, 2)), dims=("subject", "seed", "roi")) for _ in range(2))
    a[0, :, 1] = np.nan
    result = paired_difference(a, b).isel(roi=1)
    alone = paired_difference(a[1:, :, 1], b[1:, :, 1])
    assert result.n == alone.n == 5
    assert result.smallest_p == alone.smallest_p == 2 / 2**5
    np.testing.assert_allclose(result.interval, alone.interval)
    np.testing.assert_allclose(result.p, alone.p)


def r2(y, p):
    return 1 - ((y - p) ** 2).sum(0) / ((y - y.mean(0)) ** 2).sum(0)


@settings(max_examples=20, deadline=None)
@given(n_spaces=st.integers(2, 4), seed=st.integers(0, 1000))
def test_parts_sum_to_every_model(n_spaces, seed):
    """The parts that a model's spaces touch are its R^2, for every model."""
    rng = np.random.default_rng(seed)
    names = "abcd"[:n_spaces]
    y = rng.normal(size=(20, 3))
    keys = [c for k in range(1, n_spaces + 1) for c in itertools.combinations(names, k)]
    predictions = {key: rng.normal(size=y.shape) for key in keys}
    result = variance_partitioning(y, predictions)
    for key in keys:
        touched = [p for p in result.part.values if set(key) & set(p.split(" & "))]
        np.testing.assert_allclose(result.explained.sel(part=touched).sum("part"), r2(y, predictions[key]))
        np.testing.assert_allclose(result.r2.sel(model=" + ".join(key)), r2(y, predictions[key]))


def test_partitioning_finds_what_was_planted():
    rng = np.random.default_rng(0)
    n = 4000
    shared, a, b, noise = rng.normal(size=(4, n))
    x = {"a": np.stack([a, shared], 1), "b": np.stack([b, shared], 1)}
    y = (2 * a + b + 1.5 * shared + noise)[:, None]
    predictions = {}
    for key in [("a",), ("b",), ("b", "a")]:
        design = np.concatenate([x[name] for name in key], 1)
        predictions[key] = design @ np.linalg.lstsq(design, y, rcond=None)[0]
    parts = variance_partitioning(y, predictions).explained.sel(part=["a", "b", "a & b"]).values[:, 0]
    np.testing.assert_allclose(parts, np.array([4, 1, 2.25]) / 8.25, atol=0.02)


def test_negative_parts_are_kept():
    y, p = make_null()
    parts = variance_partitioning(y, {("a",): p, ("b",): 0 * p, ("a", "b"): 0 * p}).explained
    np.testing.assert_allclose(parts.sel(part="a & b"), r2(y, p))
    assert (parts.sel(part="a & b") < 0).mean() > 0.9


def test_partitioning_needs_every_combination():
    y, p = make_null()
    with pytest.raises(ValueError, match=r"every combination of two or more spaces once.*; missing b"):
        variance_partitioning(y, {("a",): p, ("a", "b"): p})
    with pytest.raises(ValueError, match="two or more spaces"):
        variance_partitioning(y, {("a",): p})
    with pytest.raises(ValueError, match=r"predictions\[b\] must have shape \(30, 40\), got \(30, 1\)"):
        variance_partitioning(y, {("a",): p, ("b",): p[:, :1], ("a", "b"): p})


def test_ensemble_weights_are_a_softmax_by_unit_and_unknown_models_weigh_nothing():
    rng = np.random.default_rng(0)
    predictions = xr.DataArray(rng.normal(size=(3, 4, 5)), dims=("model", "stimulus", "unit"))
    r = xr.DataArray(rng.uniform(0, 0.5, size=(3, 5)), dims=("model", "unit"))
    r[2, 0] = np.nan
    result = softmax_ensemble(predictions, r, beta=7)
    np.testing.assert_allclose(result.weight.sum("model"), 1)
    np.testing.assert_allclose(result.weight[:, 1:], scipy.special.softmax(7 * r[:, 1:], axis=0))
    assert result.weight[2, 0] < 1e-3
    np.testing.assert_allclose(softmax_ensemble(predictions, r, beta=0).prediction, predictions.mean("model"))


def test_ensemble_refuses_models_in_another_order():
    predictions = xr.DataArray(
        np.ones((2, 3, 4)), dims=("model", "stimulus", "unit"), coords={"model": [1, 2]}
    )
    r = xr.DataArray(np.ones((2, 4)), dims=("model", "unit"), coords={"model": [2, 1]})
    with pytest.raises(ValueError, match="validation_r must have the models, seeds and units of predictions"):
        softmax_ensemble(predictions, r)
    with pytest.raises(ValueError, match="validation_r must have dims model, unit and maybe seed"):
        softmax_ensemble(predictions, r[0])


def make_subjects(noise, n=120, n_units=4, seed=0):
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=(n, n_units))
    own = rng.normal(size=(3, n, n_units))
    return shared, xr.DataArray(shared + noise * own, dims=("subject", "stimulus", "unit"))


def test_cross_subject_mean_is_the_planted_share():
    _, responses = make_subjects(1.0, n=600)
    ceiling = cross_subject_ceiling(responses, cv=2).correlation.sel(predictor="mean")
    # Signal 1 in a subject of variance 2, predicted by a mean of two subjects of variance 1.5.
    np.testing.assert_allclose(ceiling, 1 / np.sqrt(2 * 1.5), atol=0.08)


def test_linear_combination_finds_units_that_moved_where_the_mean_cannot():
    _, responses = make_subjects(0.3)
    responses[0] = responses[0, :, ::-1].values
    ceiling = cross_subject_ceiling(responses).correlation
    assert (ceiling.sel(predictor="linear") > 0.85).all()
    assert (abs(ceiling.sel(predictor="mean").isel(subject=0)) < 0.4).all()


def test_linear_combination_is_held_out():
    """With more predictors than stimuli a fit to the same stimuli is perfect, and to other stimuli r is zero."""
    r = []
    for seed in range(8):
        noise = np.random.default_rng(seed).normal(size=(3, 40, 15))
        ceiling = cross_subject_ceiling(xr.DataArray(noise, dims=("subject", "stimulus", "unit")), seed=seed)
        r.append(ceiling.correlation.sel(predictor="linear").mean().item())
    assert abs(np.mean(r)) < 0.035


def test_padded_units_are_left_out_of_the_ceiling():
    _, responses = make_subjects(0.3)
    padded = xr.concat([responses, xr.full_like(responses[..., :1], np.nan)], dim="unit")
    xr.testing.assert_allclose(
        cross_subject_ceiling(padded).isel(unit=slice(4)), cross_subject_ceiling(responses)
    )
    assert np.isnan(cross_subject_ceiling(padded).correlation[..., 4]).all()
    with pytest.raises(
        ValueError, match="responses must hold a unit of every subject, got none of subject 2"
    ):
        cross_subject_ceiling(responses.where(xr.DataArray([True, True, False], dims="subject")))
    responses[1, 3, 2] = np.nan
    with pytest.raises(ValueError, match="NaN for all stimuli or none, got some in unit 2 of subject 1"):
        cross_subject_ceiling(responses)
