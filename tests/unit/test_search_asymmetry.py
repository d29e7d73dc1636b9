"""Slopes and asymmetry indices: definitions, edge cases, and the published counts."""

import functools

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from neuroattn.metrics import (
    asymmetry_index,
    asymmetry_summary,
    pearson_r,
    search_slopes,
    sign_test,
    slope_asymmetry,
)
from neuroattn.search import human_rt
from neuroattn.search.experiments import EXPERIMENTS


def trials_of(counts, found=None, cap=20):
    """Return trials from saccades by condition, set size and repetition."""
    rows = [
        (condition, size, n)
        for condition, sizes in counts.items()
        for size, values in sizes.items()
        for n in values
    ]
    condition, size, n = zip(*rows, strict=True)
    return xr.Dataset(
        {
            "n_saccades": ("trial", list(n)),
            "found": ("trial", np.ones(len(n), bool) if found is None else np.array(found)),
            "cap": ("trial", np.full(len(n), cap)),
        },
        {"condition": ("trial", list(condition)), "set_size": ("trial", list(size))},
    )


def test_slope_is_of_unweighted_means():
    trials = trials_of({"a": {2: [1, 3], 4: [5], 8: [7, 7, 7]}, "b": {2: [1], 4: [1], 8: [1]}})
    result = search_slopes(trials, unfound=["dropped"], n_resamples=50).sel(unfound="dropped")
    expected = np.polyfit([2, 4, 8], [2, 5, 7], 1)
    assert result.slope.sel(condition="a").item() == pytest.approx(expected[0])
    assert result.intercept.sel(condition="a").item() == pytest.approx(expected[1])
    assert result.slope.sel(condition="b").item() == 0
    assert result["mean"].sel(condition="a").values.tolist() == [2, 5, 7]
    np.testing.assert_allclose(result.sem.sel(condition="a"), [1 / np.sqrt(2), 0, 0])
    assert result.n_trials.sel(condition="a").values.tolist() == [2, 1, 3]
    assert result.slope.attrs["units"] == "saccades per item"


def test_rules_for_trials_that_were_not_found():
    trials = trials_of(
        {"a": {2: [1, 6], 4: [2, 9]}, "b": {2: [1, 1], 4: [1, 1]}}, found=[1, 0, 1, 0] + [1] * 4, cap=10
    )
    result = search_slopes(trials, unfound=["dropped", "cap", "set_size"], n_resamples=50)
    means = result["mean"].sel(condition="a")
    assert means.sel(unfound="dropped").values.tolist() == [1, 2]
    assert means.sel(unfound="cap").values.tolist() == [5.5, 6]
    assert means.sel(unfound="set_size").values.tolist() == [1.5, 3]
    assert result.found_rate.sel(condition="a").values.tolist() == [0.5, 0.5]
    assert search_slopes(trials).unfound.values.tolist() == ["dropped", "cap"]
    assert search_slopes(trials.assign_attrs(unfound=["set_size"])).unfound.values.tolist() == ["set_size"]
    with pytest.raises(ValueError, match="unfound must be one of 'dropped', 'cap', 'set_size', got 'zero'"):
        search_slopes(trials, unfound=["zero"])
    with pytest.raises(ValueError, match="trials must hold the variable cap"):
        search_slopes(trials.drop_vars("cap"), unfound=["cap"])


def test_a_set_size_never_found_leaves_no_slope_of_found_trials():
    trials = trials_of({"a": {2: [1], 4: [9]}, "b": {2: [1], 4: [2]}}, found=[1, 0, 1, 1])
    result = asymmetry_index(trials, n_resamples=20)
    assert np.isnan(result["index"].sel(unfound="dropped"))
    assert np.isnan(result.index_ci.sel(unfound="dropped")).all()
    assert result["index"].sel(unfound="cap").item() == pytest.approx((19 - 1) / (19 + 1))


def test_index_of_flat_and_falling_slopes():
    assert slope_asymmetry(1, 0) == 1
    assert slope_asymmetry(0, 2) == -1
    assert slope_asymmetry(-1, -3) == 0
    assert slope_asymmetry(1e-15, -1e-15) == slope_asymmetry(0, 1e-10) == 0
    assert slope_asymmetry(3, -1) == 1
    assert slope_asymmetry(3, 1) == 0.5
    assert np.isnan(slope_asymmetry(np.nan, 1))


@settings(max_examples=40, deadline=None)
@given(
    counts=st.lists(st.integers(1, 30), min_size=12, max_size=12),
    factor=st.integers(1, 9),
    shift=st.integers(0, 9),
)
def test_index_is_antisymmetric_and_has_no_unit(counts, factor, shift):
    def index(values, order):
        a, b = np.reshape(values, (2, 3, 2)).tolist()
        trials = trials_of(
            {"a": dict(zip((2, 4, 8), a, strict=True)), "b": dict(zip((2, 4, 8), b, strict=True))}
        )
        return asymmetry_index(trials, order, unfound=["dropped"], n_resamples=1)["index"].item()

    there = index(counts, ("a", "b"))
    assert -1 <= there <= 1
    assert index(counts, ("b", "a")) == -there
    assert index(factor * np.array(counts) + shift, ("a", "b")) == pytest.approx(there, abs=1e-9)


def test_saturation_is_flagged():
    def flag(hard, easy):
        trials = trials_of({"h": {2: [2], 4: [2 + 2 * hard]}, "e": {2: [2], 4: [2 + 2 * easy]}})
        result = asymmetry_index(trials, unfound=["dropped"], n_resamples=5)
        return result.saturated.item(), result["index"].item()

    assert flag(2, 0) == (True, 1)
    assert flag(0, 1) == (True, -1)
    assert flag(0, 0) == (False, 0)
    assert flag(3, 1) == (False, 0.5)


def test_conditions_are_hard_and_easy_in_the_order_given():
    trials = trials_of({"x": {2: [1], 4: [2]}, "y": {2: [1], 4: [4]}})
    first = asymmetry_index(trials, n_resamples=5)["index"]
    turned = asymmetry_index(trials, ("y", "x"), n_resamples=5)
    named = asymmetry_index(trials.assign_attrs(conditions=["y", "x"]), n_resamples=5)
    assert (turned["index"] == -first).all()
    xr.testing.assert_equal(named, turned)
    assert turned.condition.values.tolist() == ["y", "x"]
    with pytest.raises(
        ValueError, match=r"conditions must be the two of the trials, \['x', 'y'\], got \['x', 'z'\]"
    ):
        asymmetry_index(trials, ("x", "z"))
    with pytest.raises(ValueError, match="trials must have at least two set sizes"):
        asymmetry_index(trials.isel(trial=[0, 2]))
    with pytest.raises(ValueError, match="got no 'y' at 4"):
        asymmetry_index(trials.isel(trial=[0, 1, 2]))


def simulated(rng, slopes, n=40, noise=1.0):
    return trials_of(
        {
            name: {size: np.maximum(1 + slope * size + rng.normal(0, noise, n), 0) for size in (2, 6, 10)}
            for name, slope in slopes.items()
        }
    )


def test_intervals_cover_the_truth_and_follow_the_seed():
    rng = np.random.default_rng(0)
    inside = []
    for _ in range(100):
        trials = simulated(rng, {"h": 0.6, "e": 0.3})
        result = asymmetry_index(trials, unfound=["dropped"], n_resamples=300, seed=rng).isel(unfound=0)
        low, high = result.index_ci.values
        assert low < result["index"] < high
        slope_low, slope_high = result.slope_ci.sel(role="hard").values
        inside.append(((low < 1 / 3) & (high > 1 / 3), (slope_low < 0.6) & (slope_high > 0.6)))
    # 95 % intervals of 100 samples: four standard errors around the nominal coverage.
    assert (abs(np.mean(inside, 0) - 0.94) < 0.09).all()
    trials = simulated(rng, {"h": 0.6, "e": 0.3})
    same = [asymmetry_index(trials, seed=seed, n_resamples=50).index_ci.values for seed in (1, 1, 2)]
    np.testing.assert_array_equal(same[0], same[1])
    assert (same[0] != same[2]).any()


def test_interaction_is_that_of_the_analysis_of_variance():
    rng = np.random.default_rng(1)
    trials = simulated(rng, {"h": 0.5, "e": 0.4}, n=15)
    ours = asymmetry_index(trials, unfound=["dropped"], n_resamples=5).interaction_p.item()
    lines, left, spread = [], 0.0, 0.0
    for name in ("h", "e"):
        part = trials.isel(trial=np.flatnonzero(trials.condition == name))
        x, y = part.set_size.values, part.n_saccades.values
        lines.append(stats.linregress(x, y))
        left += ((y - lines[-1].intercept - lines[-1].slope * x) ** 2).sum()
        spread += 1 / ((x - x.mean()) ** 2).sum()
    free = trials.sizes["trial"] - 4
    t = (lines[0].slope - lines[1].slope) / np.sqrt(left / free * spread)
    assert ours == pytest.approx(2 * stats.t.sf(abs(t), free))
    flat = trials_of({"a": {2: [1, 1, 1], 4: [1, 1, 1]}, "b": {2: [1, 1, 1], 4: [1, 1, 1]}})
    assert asymmetry_index(flat, n_resamples=5).interaction_p.isnull().all()


def test_sign_test_is_the_binomial_test():
    rng = np.random.default_rng(2)
    index = xr.DataArray(rng.choice([-0.5, 0.0, 0.5, np.nan], size=(4, 9)), dims=("model", "experiment"))
    result = sign_test(index)
    for row, ours in zip(index.values, result.p.values, strict=True):
        n = int((abs(row) > 0).sum())
        assert ours == pytest.approx(stats.binomtest(int((row > 0).sum()), n).pvalue if n else 1)
    nothing = sign_test(xr.DataArray([0.0, np.nan], dims="experiment"))
    assert (nothing.p.item(), nothing.n.item(), nothing.smallest_p.item()) == (1, 0, 1)


def test_summary_over_experiments():
    a = trials_of({"h": {2: [1, 2, 2], 4: [3, 4, 6]}, "e": {2: [1, 1, 2], 4: [2, 2, 2]}})
    b = trials_of({"x": {3: [1, 1], 9: [4, 2]}, "y": {3: [1, 1], 9: [6, 9]}})
    summary = asymmetry_summary({"one": a, "two": b}, unfound=["dropped", "cap"], n_resamples=400)
    single = asymmetry_index(b, n_resamples=400)
    for name in ("index", "slope", "interaction_p", "saturated"):
        np.testing.assert_allclose(summary[name].sel(experiment="two"), single[name])
    assert summary.set_size.values.tolist() == [2, 3, 4, 9]
    assert summary["mean"].sel(experiment="one", set_size=3).isnull().all()
    assert summary.condition.values.tolist() == [["h", "e"], ["x", "y"]]
    np.testing.assert_allclose(summary.mean_index, summary["index"].mean("experiment"))
    low, high = summary.mean_index_ci.transpose("bound", "unfound").values
    assert (low <= summary.mean_index).all()
    assert (summary.mean_index <= high).all()
    # The mean of two experiments varies less than the experiments do on average.
    widths = np.diff(summary.index_ci, axis=-1)[..., 0].mean(0)
    assert (high - low < widths).all()
    assert (summary.sign_positive.values == 1).all()
    assert (summary.sign_p.values == 1).all()
    with pytest.raises(ValueError, match="experiments must hold at least one"):
        asymmetry_summary({})


# By experiment 1 to 6, and the mean; the last column correlates 12 slopes with those of people.
PUBLISHED = {
    "eccNET": (1.0, 1.0, 0.496, 0.789, -1.0, 0.791, 0.513, 0.400),
    "IVSN": (0.830, 0.988, -0.631, 0.290, -0.581, 1.0, 0.316, 0.227),
    "eccNET_MNIST": (0.997, 0.274, 0.060, -0.108, 0.040, -0.153, 0.185, 0.156),
    "eccNET_0_0_1": (-0.008, 0.970, -0.276, 0.392, -0.528, -0.046, 0.084, 0.345),
    "eccNET_noecc": (0.962, -0.771, -0.679, 0.803, 1.0, -1.0, 0.052, 0.215),
    "chance": (0.414, -0.261, 0.400, 0.129, -0.294, -0.407, -0.003, -0.135),
    "pixelMatch": (-1.0, -0.568, 0, -1.0, 1.0, 0.502, -0.178, -0.344),
    "eccNET_Rot90": (-1.0, -1.0, -0.092, -0.173, -1.0, 0.834, -0.405, 0.360),
}
PUBLISHED_MEANS = {
    "eccNET_lines": (0.109, 0.398),
    "eccNET_fisheye": (-0.027, 0.479),
    "eccNET_places365": (0.213, 0.089),
    "eccNET_places365_90": (0.603, 0.402),
}


@functools.cache
def saved_counts(shared):
    """Return the saved trials of all models, and their (hard, easy) conditions by experiment."""
    folder = shared / "data" / "visual_search"
    table = pd.read_csv(folder / "asymmetry_trials.csv.gz")
    roles = pd.read_csv(folder / "asymmetry_index.csv").set_index(["model", "exp_number"])
    return table, roles


def saved_summary(shared, model, column="n_saccades"):
    """Score the saved counts of a model; the published rule is already in them."""
    table, roles = saved_counts(shared)
    experiments = {}
    for number, name in enumerate(EXPERIMENTS, 1):
        rows = table[(table.model == model) & (table.exp_number == number)]
        role = roles.loc[(model, number)]
        experiments[name] = xr.Dataset(
            {"n_saccades": ("trial", rows[column]), "found": ("trial", np.ones(len(rows), bool))},
            {"condition": ("trial", rows.condition), "set_size": ("trial", rows.set_size)},
            {"conditions": [role.hard_condition, role.easy_condition]},
        )
    summary = asymmetry_summary(experiments, unfound=["dropped"], n_resamples=400).sel(unfound="dropped")
    people = [
        human_rt(name).polyfit("set_size", 1).polyfit_coefficients.sel(degree=1) for name in experiments
    ]
    r = pearson_r(summary.slope.values.reshape(12, 1), np.reshape(people, (12, 1)))
    return summary, float(r[0])


@pytest.mark.shared_data
@pytest.mark.parametrize("model", [*PUBLISHED, *PUBLISHED_MEANS])
def test_published_indices(shared, model):
    summary, r = saved_summary(shared, model)
    indices = PUBLISHED.get(model)
    if indices is not None:
        np.testing.assert_allclose(summary["index"], indices[:6], atol=5.1e-4)
    mean, published_r = (indices or PUBLISHED_MEANS[model])[-2:]
    assert summary.mean_index.item() == pytest.approx(mean, abs=5.1e-4)
    assert r == pytest.approx(published_r, abs=5.1e-4)
    roles = saved_counts(shared)[1].loc[model]
    np.testing.assert_allclose(summary["index"], roles.asym_model, atol=6e-6)
    hard, easy = summary.slope.transpose("role", "experiment").values * 252.359
    np.testing.assert_allclose(hard, roles.slope_hard, atol=6e-6)
    np.testing.assert_allclose(easy, roles.slope_easy, atol=6e-6)
    fixed, _ = saved_summary(shared, model, "n_saccades_row_shift_fixed")
    np.testing.assert_allclose(fixed["index"], roles.asym_model_row_shift_fixed, atol=6e-6)


@pytest.mark.shared_data
def test_published_model_beside_its_interval(shared):
    """Human polarity in five of six, which a coin reaches with p = 0.22; intervals as recorded with the counts."""
    summary, _ = saved_summary(shared, "eccNET")
    assert (summary.sign_positive.item(), summary.sign_n.item()) == (5, 6)
    assert summary.sign_p.item() == pytest.approx(0.21875)
    np.testing.assert_allclose(summary.mean_index_ci, [0.42, 0.58], atol=0.03)
    np.testing.assert_allclose(summary.index_ci.sel(experiment="intersection"), [0.24, 0.79], atol=0.06)
    np.testing.assert_allclose(summary.index_ci.sel(experiment="letters"), [0.64, 0.92], atol=0.06)
    saturated = summary.saturated.astype(bool).sel(experiment=["curvature", "lighting", "orientation"])
    assert saturated.all()
    assert summary.saturated.sum() == 3


@pytest.mark.shared_data
def test_people_as_recorded(shared):
    table = pd.read_csv(shared / "data" / "visual_search" / "human_rt.csv")
    _, roles = saved_counts(shared)
    for number, name in enumerate(EXPERIMENTS, 1):
        role = roles.loc[("eccNET", number)]
        rt = human_rt(name)
        for which, condition in (("hard", role.hard_condition), ("easy", role.easy_condition)):
            rows = table[table.condition == condition].set_index("set_size").rt_human_ms
            np.testing.assert_allclose(rt.sel(role=which), rows.loc[rt.set_size.values], atol=0.006)
        slopes = rt.polyfit("set_size", 1).polyfit_coefficients.sel(degree=1).values
        assert slope_asymmetry(*slopes) == pytest.approx(role.asym_human, abs=5e-4)
