"""Laws that the scanpath metrics keep for every input."""

import numpy as np
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from neuroattn.metrics import (
    auc,
    behaviour_vector,
    crossed_bootstrap,
    edit_distance,
    fixation_map,
    found_curve,
    multimatch,
    multimatch_pairs,
    nss,
    scanmatch,
    sequence_score,
    stde,
    tde,
)

SIZE = (80, 60)
symbols = st.lists(st.integers(0, 4), max_size=9)


@st.composite
def paths(draw, least=1, most=9, step=1):
    """Fixations inside an image of 80 x 60 px, on whole pixels or coarser, so that ties occur."""
    n = draw(st.integers(least, most))

    def values(high, scale=1.0):
        return [scale * draw(st.integers(0, high)) for _ in range(n)]

    return {
        "x": values((SIZE[0] - 1) // step, step),
        "y": values((SIZE[1] - 1) // step, step),
        "duration": values(8, 0.05),
    }


def subsequences(sequence):
    kept = np.arange(2 ** len(sequence))[:, None] >> np.arange(len(sequence)) & 1
    return {tuple(np.array(sequence, dtype=int)[row == 1].tolist()) for row in kept}


@given(symbols, symbols)
@settings(max_examples=40, deadline=None)
def test_sequence_score_is_the_longest_common_subsequence(a, b):
    score = sequence_score(a, b)
    if not a and not b:
        assert np.isnan(score)
        return
    longest = max(len(common) for common in subsequences(a) & subsequences(b))
    assert score * max(len(a), len(b)) == longest


@given(symbols, symbols, symbols)
@settings(deadline=None)
def test_edit_distance_is_a_metric(a, b, c):
    assert edit_distance(a, b) == edit_distance(b, a)
    assert (edit_distance(a, b) == 0) == (a == b)
    assert abs(len(a) - len(b)) <= edit_distance(a, b) <= max(len(a), len(b))
    assert edit_distance(a, c) <= edit_distance(a, b) + edit_distance(b, c)


@given(symbols, symbols, symbols)
@settings(deadline=None)
def test_edits_are_counted(a, inserted, b):
    """A stretch put into a sequence is as many edits away as it is long."""
    assert edit_distance(a + b, a + inserted + b) == len(inserted)


@given(paths(), paths())
@settings(deadline=None)
def test_scanmatch_is_symmetric_and_one_for_equal_paths(a, b):
    options = {"image_size": SIZE, "temporal_bin": None}
    assert np.isclose(scanmatch(a, a, **options), 1)
    assert np.isclose(scanmatch(a, b, **options), scanmatch(b, a, **options))
    assert 0 <= scanmatch(a, b, **options) <= 1 + 1e-12


@given(paths(), paths())
@settings(deadline=None)
def test_time_delay_of_a_part_is_zero(a, b):
    whole = {name: a[name] + b[name] for name in ("x", "y")}
    assert tde(whole, a, window=len(a["x"])) == 0
    assert np.isclose(stde(a, a, image_size=SIZE), 1)
    assert 0 < stde(a, b, image_size=SIZE) <= 1


def naive_multimatch(a, b):
    """Fill the table of sums cell by cell, as the definition says."""
    sides = [np.array([path["x"], path["y"]], dtype=float) for path in (a, b)]
    (u, v), (pu, pv) = [np.diff(side) for side in sides], [side[:, :-1] for side in sides]
    n, m = u.shape[1], v.shape[1]
    cost = np.linalg.norm(u[:, :, None] - v[:, None], axis=0)
    total, back = np.full((n, m), np.inf), {}
    total[0, 0] = cost[0, 0]
    for i in range(n):
        for j in range(m):
            ways = [(i - 1, j - 1), (i - 1, j), (i, j - 1)]
            ways = [way for way in ways if min(way) >= 0]
            if ways:
                back[i, j] = min(ways, key=total.__getitem__)  # the first of equals
                total[i, j] = total[back[i, j]] + cost[i, j]
    nodes = [(n - 1, m - 1)]
    while nodes[-1] != (0, 0):
        nodes.append(back[nodes[-1]])
    diagonal = np.hypot(*SIZE)
    rows = []
    for i, j in nodes:
        turn = abs(np.arctan2(*u[::-1, i]) - np.arctan2(*v[::-1, j]))
        times = a["duration"][i], b["duration"][j]
        rows.append(
            [
                cost[i, j] / (2 * diagonal),
                min(turn, 2 * np.pi - turn) / np.pi,
                abs(np.linalg.norm(u[:, i]) - np.linalg.norm(v[:, j])) / diagonal,
                np.linalg.norm(pu[:, i] - pv[:, j]) / diagonal,
                abs(times[0] - times[1]) / max(times) if max(times) else 0.0,
            ]
        )
    return 1 - np.median(rows, axis=0)


@given(paths(3, step=20), paths(3, step=20))
@settings(deadline=None)
def test_multimatch_breaks_ties_as_documented(a, b):
    np.testing.assert_allclose(multimatch(a, b, image_size=SIZE), naive_multimatch(a, b), atol=1e-9)


@given(st.lists(st.tuples(paths(3), paths(3)), min_size=1, max_size=6))
@settings(max_examples=20, deadline=None)
def test_multimatch_of_many_pairs_is_that_of_each(pairs):
    a, b = zip(*pairs, strict=True)
    together = multimatch_pairs(a, b, image_size=SIZE)
    alone = [multimatch(one, other, image_size=SIZE) for one, other in pairs]
    np.testing.assert_allclose(together, alone, atol=1e-12)


@given(paths(3), paths(3), st.integers(-50, 50), st.integers(-50, 50))
@settings(max_examples=30, deadline=None)
def test_multimatch_of_a_path_with_itself_and_of_moved_paths(a, b, right, down):
    np.testing.assert_allclose(multimatch(a, a, image_size=SIZE), 1)

    def moved(path):
        return {"x": np.add(path["x"], right), "y": np.add(path["y"], down)}

    both = multimatch(moved(a), moved(b), image_size=SIZE)
    plain = multimatch({**a, "duration": None}, {**b, "duration": None}, image_size=SIZE)
    np.testing.assert_allclose(both, plain, atol=1e-12)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=12))
@settings(deadline=None)
def test_shares_of_behaviour_sum_to_one(objects):
    vector = behaviour_vector([{"objects": objects}], targets=[objects[-1]]).isel(trial=0)
    assert np.isclose(vector.sel(component=["search", "refix", "revisit"]).sum(), 1)
    assert np.isclose(vector.sel(component="search") * len(objects), len(set(objects)))
    assert vector.sel(component="correct") == 1


@given(st.lists(st.one_of(st.integers(0, 8), st.just(np.nan)), min_size=1))
@settings(deadline=None)
def test_found_curve_rises_to_the_share_of_found_trials(n_saccades):
    curve = found_curve(n_saccades, max_saccades=8)
    assert (np.diff(curve) >= 0).all()
    assert np.isclose(curve[-1], np.isfinite(n_saccades).mean())


@given(st.integers(0, 2**32 - 1), st.integers(1, 30))
@settings(max_examples=30, deadline=None)
def test_auc_is_the_area_under_the_curve(seed, n):
    rng = np.random.default_rng(seed)
    saliency = rng.integers(6, size=(5, 7)).astype(float)
    x, y = rng.integers(7, size=n), rng.integers(5, size=n)
    elsewhere = {"x": rng.integers(7, size=9), "y": rng.integers(5, size=9)}
    free = np.ones(saliency.shape, bool)
    free[y, x] = False
    against = {
        "uniform": saliency.ravel(),
        "judd": saliency[free],
        "shuffled": saliency[elsewhere["y"], elsewhere["x"]],
    }
    for kind, values in against.items():
        ours = auc(saliency, {"x": x, "y": y}, kind=kind, elsewhere=elsewhere if kind == "shuffled" else None)
        theirs = roc_auc_score(np.r_[np.ones(n), np.zeros(len(values))], np.r_[saliency[y, x], values])
        assert np.isclose(ours, theirs)


@given(st.integers(0, 2**32 - 1), st.floats(0.1, 10), st.floats(-5, 5))
@settings(max_examples=30, deadline=None)
def test_scores_of_maps_do_not_depend_on_their_scale(seed, gain, shift):
    rng = np.random.default_rng(seed)
    saliency = rng.normal(size=(5, 7))
    at = {"x": rng.uniform(0, 7, 4), "y": rng.uniform(0, 5, 4)}
    assert np.isclose(nss(saliency, at), nss(gain * saliency + shift, at))
    assert np.isclose(auc(saliency, at, kind="uniform"), 1 - auc(-saliency, at, kind="uniform"))
    everywhere = dict(zip("yx", np.indices(saliency.shape).reshape(2, -1), strict=True))
    assert abs(nss(saliency, everywhere)) < 1e-9
    assert np.isclose(auc(saliency, everywhere, kind="uniform"), 0.5)


@given(paths(), st.floats(0, 8))
@settings(max_examples=30, deadline=None)
def test_a_reflected_fixation_map_sums_to_one(path, sigma):
    reflected = fixation_map(path, sigma=sigma, edge="reflect", image_size=SIZE)
    assert np.isclose(reflected.sum(), 1)
    assert fixation_map(path, sigma=sigma, edge="cut", image_size=SIZE).sum() <= 1 + 1e-9


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_crossed_bootstrap_does_not_depend_on_order_and_keeps_constants(seed):
    rng = np.random.default_rng(seed)
    table = xr.DataArray(
        rng.normal(size=(4, 3)), dims=("image", "observer"), coords={"image": range(4), "observer": range(3)}
    )
    trials = table.stack(trial=("image", "observer")).reset_index("trial")
    shuffled = trials.isel(trial=rng.permutation(12))
    results = [crossed_bootstrap(values, n_resamples=50) for values in (table, trials, shuffled)]
    for result in results[1:]:
        xr.testing.assert_allclose(result, results[0])
    low, high = results[0].interval.values
    assert low < table.mean() < high
    constant = crossed_bootstrap(table * 0 + 2.5, n_resamples=20)
    np.testing.assert_allclose([constant["mean"], *constant.interval], 2.5)
