"""Slopes of visual search over set size, and the asymmetry of two conditions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy import stats

from neuroattn._checks import check_option, check_range, check_seed

UNFOUND = ("dropped", "cap", "set_size")
_FLAT = 1e-9  # below it a slope is rounding noise: without this, pop-out would be decided by the last bit

Array = NDArray[np.float64]


def search_slopes(
    trials: xr.Dataset,
    *,
    unfound: Sequence[str] | None = None,
    n_resamples: int = 2000,
    confidence: float = 0.95,
    seed: int | np.random.Generator = 0,
) -> xr.Dataset:
    """Fit a line to the mean number of saccades over set sizes, in every condition.

    The line is the least-squares one through the means, each with the same weight [1]_.

    Parameters
    ----------
    trials : Dataset, dims (trial,)
        ``n_saccades`` and ``found``, with the coordinates ``condition`` and ``set_size``; ``cap``, the most
        saccades that the trial allowed, for the rule "cap". Of :func:`neuroattn.search.run_experiment`, or one's
        own.
    unfound : sequence of {"dropped", "cap", "set_size"}, optional
        What trials whose target was not found count: they are left out, count as many saccades as were allowed,
        or, as published, as many as there were items. None is ``trials.attrs["unfound"]``, and ("dropped", "cap")
        where that is absent.
    n_resamples : int, default 2000
        Bootstrap samples of trials within condition and set size.
    confidence : float, default 0.95
    seed : int or Generator, default 0

    Returns
    -------
    Dataset, dims (unfound, condition, set_size, bound)
        ``mean`` and ``sem`` (population standard deviation over the root of the number) of the saccades, ``slope``
        in saccades per item with ``slope_ci``, ``intercept``, and ``found_rate`` and ``n_trials`` (condition,
        set_size). Slopes below 1e-9 are 0. Under "dropped" a set size without a found trial makes the slope NaN.

    References
    ----------
    .. [1] Gupta, Zhang, Wu, Wolfe & Kreiman (2021). Visual search asymmetry: deep nets and humans share similar
       inherent biases. NeurIPS.

    Examples
    --------
    >>> trials = xr.Dataset(
    ...     {"n_saccades": ("trial", [1, 1, 2, 4]), "found": ("trial", [True] * 4)},
    ...     {"condition": ("trial", ["T", "T", "L", "L"]), "set_size": ("trial", [3, 6, 3, 6])})
    >>> search_slopes(trials, unfound=["dropped"]).slope.sel(unfound="dropped").values.round(3)
    array([0.   , 0.667])
    """
    names = list(dict.fromkeys(trials.condition.values.tolist()))
    return _slopes(trials, names, unfound, n_resamples, confidence, check_seed(seed))[0]


def asymmetry_index(
    trials: xr.Dataset,
    conditions: Sequence[str] | None = None,
    *,
    unfound: Sequence[str] | None = None,
    n_resamples: int = 2000,
    confidence: float = 0.95,
    seed: int | np.random.Generator = 0,
) -> xr.Dataset:
    """Compare the slopes of two conditions: ``(hard - easy) / (hard + easy)``, slopes below 0 counting 0 [1]_.

    Parameters
    ----------
    trials : Dataset, dims (trial,)
        As for :func:`search_slopes`.
    conditions : sequence of str, (hard, easy), optional
        The condition with the larger slope in people, or the one expected to be the harder, and the other. None is
        the order in which they appear.
    unfound, n_resamples, confidence, seed
        As for :func:`search_slopes`.

    Returns
    -------
    Dataset, dims (unfound, role, set_size, bound)
        What :func:`search_slopes` returns, along ``role`` ("hard", "easy") with their names as the coordinate
        ``condition``, and ``index`` with ``index_ci``; ``slope_difference`` with ``slope_difference_ci`` in
        saccades per item; ``saturated``, where just one slope is above 0, so that the index is 1 or -1 whatever
        its size; ``interaction_p`` of the analysis of variance of saccades: set size by condition, above set size
        and condition. The index is 0 where both slopes are 0.

    References
    ----------
    .. [1] Gupta, Zhang, Wu, Wolfe & Kreiman (2021). Visual search asymmetry: deep nets and humans share similar
       inherent biases. NeurIPS.

    Examples
    --------
    >>> trials = xr.Dataset(
    ...     {"n_saccades": ("trial", [1, 2, 2, 5]), "found": ("trial", [True] * 4)},
    ...     {"condition": ("trial", ["T", "T", "L", "L"]), "set_size": ("trial", [3, 6, 3, 6])})
    >>> result = asymmetry_index(trials, ("L", "T"), unfound=["dropped"])
    >>> round(result["index"].item(), 6), result.saturated.item()
    (0.5, False)
    """
    return _asymmetry(trials, conditions, unfound, n_resamples, confidence, check_seed(seed))[0]


def asymmetry_summary(
    experiments: Mapping[str, xr.Dataset],
    *,
    unfound: Sequence[str] | None = None,
    n_resamples: int = 2000,
    confidence: float = 0.95,
    seed: int | np.random.Generator = 0,
) -> xr.Dataset:
    """Summarize the asymmetry of one model over experiments.

    Parameters
    ----------
    experiments : mapping of str to Dataset
        The trials of each experiment. Their conditions are (hard, easy) in the order of
        ``attrs["conditions"]``, or of their appearance.
    unfound, n_resamples, confidence, seed
        As for :func:`search_slopes`.

    Returns
    -------
    Dataset, dims (experiment, unfound, role, set_size, bound)
        What :func:`asymmetry_index` returns, NaN at the set sizes that an experiment lacks, with ``mean_index`` and
        ``mean_index_ci`` (trials resampled within experiment, condition and set size) and the ``sign_*`` variables
        of :func:`sign_test`.

    Examples
    --------
    >>> trials = xr.Dataset(
    ...     {"n_saccades": ("trial", [2, 5, 1, 2]), "found": ("trial", [True] * 4)},
    ...     {"condition": ("trial", ["L", "L", "T", "T"]), "set_size": ("trial", [3, 6, 3, 6])})
    >>> asymmetry_summary({"letters": trials}, unfound=["dropped"]).mean_index.values.round(6)
    array([0.5])
    """
    if not experiments:
        raise ValueError("experiments must hold at least one, got none")
    rng = check_seed(seed)
    parts, samples = [], []
    for trials in experiments.values():
        part, sampled = _asymmetry(trials, None, unfound, n_resamples, confidence, rng)
        parts.append(part)
        samples.append(sampled)
    names = xr.DataArray(list(experiments), dims="experiment", name="experiment")
    summary = xr.concat(
        parts,
        dim=names,
        join="outer",
        data_vars="all",
        coords="different",
        compat="equals",
        combine_attrs="drop",
    ).sortby("set_size")
    summary["mean_index"] = summary["index"].mean("experiment", skipna=False)
    summary["mean_index_ci"] = ("unfound", "bound"), _interval(np.mean(samples, axis=0), confidence)
    signs = {f"sign_{name}": values for name, values in sign_test(summary["index"]).items()}
    return summary.assign(signs).assign_attrs(parts[0].attrs)


def sign_test(index: xr.DataArray) -> xr.Dataset:
    """Test whether an index has the same sign over experiments more often than a coin would.

    Parameters
    ----------
    index : DataArray, dims (experiment, ...)
        Zeros and NaN are left out.

    Returns
    -------
    Dataset, dims (...)
        ``positive``, the number above 0; ``n``, the number counted; two-sided ``p`` (binomial, exact) and
        ``smallest_p``, which so many experiments can give. Both are 1 with none.

    Examples
    --------
    >>> result = sign_test(xr.DataArray([1.0, 1.0, 0.5, 0.8, -1.0, 0.8], dims="experiment"))
    >>> result.positive.item(), result.n.item(), round(result.p.item(), 3), result.smallest_p.item()
    (5, 6, 0.219, 0.03125)
    """
    positive = (index > 0).sum("experiment")
    n = positive + (index < 0).sum("experiment")
    return xr.Dataset(
        {
            "positive": positive,
            "n": n,
            "p": (2 * stats.binom.cdf(np.minimum(positive, n - positive), n, 0.5) * xr.ones_like(n)).clip(
                max=1
            ),
            "smallest_p": (0.5 ** (n - 1.0)).clip(max=1),
        }
    )


def slope_asymmetry(hard: float, easy: float) -> float:
    """Return the asymmetry index of two slopes.

    Examples
    --------
    >>> round(slope_asymmetry(7.589, 0.8), 3), slope_asymmetry(0.0, 1e-15)
    (0.809, 0.0)
    """
    return float(_index(np.array([hard, easy], float)))


def _asymmetry(
    trials: xr.Dataset,
    conditions: Sequence[str] | None,
    unfound: Sequence[str] | None,
    n_resamples: int,
    confidence: float,
    rng: np.random.Generator,
) -> tuple[xr.Dataset, Array]:
    """Return the asymmetry of one experiment, and its index in every resample, shape (resample, unfound)."""
    present = list(dict.fromkeys(trials.condition.values.tolist()))
    names = list(trials.attrs.get("conditions", present) if conditions is None else conditions)
    if len(names) != 2 or sorted(names) != sorted(present):
        raise ValueError(f"conditions must be the two of the trials, {present}, got {names}")
    result, samples = _slopes(trials, names, unfound, n_resamples, confidence, rng)
    slopes = result.slope.values
    difference = samples[..., 0] - samples[..., 1]
    sampled = _index(samples)
    positive = np.where(slopes > _FLAT, 1, 0).sum(-1)
    result = result.assign(
        index=("unfound", _index(slopes)),
        index_ci=(("unfound", "bound"), _interval(sampled, confidence)),
        slope_difference=("unfound", slopes[..., 0] - slopes[..., 1]),
        slope_difference_ci=(("unfound", "bound"), _interval(difference, confidence)),
        saturated=("unfound", positive == 1),
        interaction_p=("unfound", [_interaction_p(trials, rule) for rule in result.unfound.values]),
    )
    result = result.rename({"condition": "role"}).assign_coords(
        role=["hard", "easy"], condition=("role", names)
    )
    return result, sampled


def _slopes(
    trials: xr.Dataset,
    names: Sequence[str],
    unfound: Sequence[str] | None,
    n_resamples: int,
    confidence: float,
    rng: np.random.Generator,
) -> tuple[xr.Dataset, Array]:
    """Return the slopes, and those of every resample, shape (resample, unfound, condition)."""
    check_range("confidence", confidence, 0, 1)
    check_range("n_resamples", n_resamples, 1)
    rules = list(trials.attrs.get("unfound", UNFOUND[:2]) if unfound is None else unfound)
    sizes = np.unique(trials.set_size.values)
    if len(sizes) < 2:
        raise ValueError(f"trials must have at least two set sizes for a slope, got {sizes.tolist()}")
    values = np.stack([_counted(trials, rule) for rule in rules])
    shape = len(rules), len(names), len(sizes)
    mean, sem, sampled = np.empty(shape), np.empty(shape), np.empty((n_resamples, *shape))
    rate, count = np.empty(shape[1:]), np.empty(shape[1:], int)
    for i, name in enumerate(names):
        for j, size in enumerate(sizes):
            rows = np.flatnonzero((trials.condition.values == name) & (trials.set_size.values == size))
            if not len(rows):
                raise ValueError(
                    f"trials must hold every condition at every set size, got no {name!r} at {size}"
                )
            cell = values[:, rows]
            mean[:, i, j] = _mean(cell)
            spread = np.sqrt(_mean((cell - mean[:, i, j, None]) ** 2))
            sem[:, i, j] = spread / np.sqrt(np.maximum(np.isfinite(cell).sum(-1), 1))
            rate[i, j], count[i, j] = trials.found.values[rows].mean(), len(rows)
            drawn = rng.integers(len(rows), size=(n_resamples, len(rows)))
            sampled[:, :, i, j] = _mean(cell[:, drawn]).T
    centred = sizes - sizes.mean()
    weights = centred / (centred**2).sum()
    slope, slopes = _flat(mean @ weights), _flat(sampled @ weights)
    result = xr.Dataset(
        {
            "mean": (("unfound", "condition", "set_size"), mean, {"units": "saccades"}),
            "sem": (("unfound", "condition", "set_size"), sem, {"units": "saccades"}),
            "slope": (("unfound", "condition"), slope, {"units": "saccades per item"}),
            "slope_ci": (("unfound", "condition", "bound"), _interval(slopes, confidence)),
            "intercept": (
                ("unfound", "condition"),
                mean.mean(-1) - slope * sizes.mean(),
                {"units": "saccades"},
            ),
            "found_rate": (("condition", "set_size"), rate),
            "n_trials": (("condition", "set_size"), count),
        },
        coords={"unfound": rules, "condition": list(names), "set_size": sizes, "bound": ["low", "high"]},
        attrs={"resampled": "trials within condition and set size", "confidence": confidence},
    )
    return result, slopes


def _counted(trials: xr.Dataset, rule: str) -> Array:
    """Return the saccades of each trial under a rule for those not found, NaN where they are left out."""
    check_option("unfound", rule, UNFOUND)
    if rule == "cap" and "cap" not in trials:
        raise ValueError("trials must hold the variable cap for the rule 'cap', got none")
    counted = np.array(trials.n_saccades.values, np.float64)
    lost = ~trials.found.values.astype(bool)
    counted[lost] = np.nan if rule == "dropped" else trials[rule].values[lost]
    return counted


def _mean(values: Array) -> Array:
    """Return the mean over the last axis of what is not NaN, NaN where nothing is."""
    known = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(known, values, 0).sum(-1) / known.sum(-1))


def _flat(slope: Array) -> Array:
    return np.where(abs(slope) < _FLAT, 0.0, slope)


def _index(slopes: Array) -> Array:
    """Return the index of slopes (..., hard and easy)."""
    hard, easy = np.moveaxis(np.maximum(_flat(slopes), 0), -1, 0)  # keeps NaN
    total = hard + easy
    with np.errstate(invalid="ignore"):
        return np.where(total == 0, 0.0, (hard - easy) / total)


def _interval(samples: Array, confidence: float) -> Array:
    """Return the percentile interval over the first axis, shape (..., bound); NaN samples are left out."""
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    flat = samples.reshape(len(samples), -1)
    known = [column[np.isfinite(column)] for column in flat.T]
    bounds = [np.quantile(column, tails) if len(column) else np.full(2, np.nan) for column in known]
    return np.stack(bounds).reshape(*samples.shape[1:], 2)


def _interaction_p(trials: xr.Dataset, rule: str) -> float:
    """Return p of set size by condition above both in a linear model; NaN where nothing is left to explain."""
    y = _counted(trials, rule)
    kept = np.isfinite(y)
    y, size = y[kept], trials.set_size.values[kept].astype(float)
    group = (trials.condition.values[kept] == trials.condition.values[0]).astype(float)
    reduced = np.column_stack([np.ones_like(y), size, group])
    full = np.column_stack([reduced, size * group])
    left = [float(((y - x @ np.linalg.lstsq(x, y, rcond=None)[0]) ** 2).sum()) for x in (reduced, full)]
    free = len(y) - 4
    if free < 1 or left[1] <= 1e-12 * max(float((y**2).sum()), 1e-300):
        return float("nan")
    return float(stats.f.sf((left[0] - left[1]) / (left[1] / free), 1, free))
