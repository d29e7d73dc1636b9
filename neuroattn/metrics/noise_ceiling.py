"""Noise ceilings on the r^2 scale or from other subjects, and accuracies relative to them."""

from __future__ import annotations

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from neuroattn._checks import check_range, check_seed, check_shape
from neuroattn.metrics.correlation import pearson_r


def noise_ceiling_from_ncsnr(ncsnr: ArrayLike, n_repeats: ArrayLike) -> NDArray[np.float64]:
    """Return the share of variance that a perfect model could explain, from the noise-ceiling SNR [1]_.

    ``NC = s^2 / (s^2 + mean(1 / n))`` with the repeats n of each test image, equal or not.

    Parameters
    ----------
    ncsnr : array, shape (unit,)
        Ratio s of the standard deviations of signal and noise of single trials.
    n_repeats : array of int, shape (stimulus,)
        Trials averaged for each test image.

    Returns
    -------
    array, shape (unit,)
        On the r^2 scale, 0..1.

    References
    ----------
    .. [1] Allen et al. (2022). A massive 7T fMRI dataset to bridge cognitive neuroscience and artificial
       intelligence. Nature Neuroscience 25, 116-126.

    Examples
    --------
    >>> noise_ceiling_from_ncsnr([0.0, 1.0], [3, 3])
    array([0.  , 0.75])
    """
    s2 = np.asarray(ncsnr, dtype=np.float64) ** 2
    n = np.asarray(n_repeats, dtype=np.float64)
    check_shape("ncsnr", s2, "unit")
    check_shape("n_repeats", n, "stimulus")
    if n.size == 0 or np.any(n < 1):
        raise ValueError(f"n_repeats must be at least 1 for every image, got {n.min(initial=0):g}")
    return np.asarray(s2 / (s2 + np.mean(1 / n)))


def noise_ceiling_from_repeats(responses: ArrayLike) -> NDArray[np.float64]:
    """Return the share of variance that a perfect model could explain, from single repeats.

    The variance of the mean responses over images holds signal plus noise; the noise part is the variance
    within images, averaged over images, times the mean of 1/n. Counts may differ between images.

    Parameters
    ----------
    responses : array, shape (unit, stimulus, repeat)
        Padded with NaN. Images with one repeat count for the means, not for the noise.

    Returns
    -------
    array, shape (unit,)
        On the r^2 scale, 0..1; NaN where no image has two repeats or all means are equal.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> repeats = rng.normal(size=(1, 500, 1)) + rng.normal(size=(1, 500, 4))
    >>> noise_ceiling_from_repeats(repeats).round(1)
    array([0.8])
    """
    x = np.asarray(responses, dtype=np.float64)
    check_shape("responses", x, "unit", "stimulus", "repeat")
    n = np.isfinite(x).sum(2)
    shown = n > 0
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(shown, np.nansum(x, 2) / n, np.nan)
        within = np.nansum((x - mean[:, :, None]) ** 2, 2) / (n - 1)
        noise = _mean_where(within, n > 1) * _mean_where(1 / n, shown)
        total = _mean_where((mean - _mean_where(mean, shown)[:, None]) ** 2, shown)
        total *= shown.sum(1) / (shown.sum(1) - 1)
        ceiling = np.where(total > 0, (total - noise) / total, np.nan)
    return np.clip(ceiling, 0, 1)


def _mean_where(values: NDArray[np.float64], keep: NDArray[np.bool_]) -> NDArray[np.float64]:
    return np.asarray(np.where(keep, values, 0).sum(1) / keep.sum(1))


def cross_subject_ceiling(
    responses: xr.DataArray, *, cv: int = 5, seed: int | np.random.Generator = 0
) -> xr.Dataset:
    """Predict each subject from the other subjects' responses to the same stimuli.

    What brains share about the stimuli, whatever carries it: a model that does better knows more of a subject than
    other people's brains do. Not an upper bound, because the noise of the other subjects limits it, and it misses what
    is particular to one subject.

    Parameters
    ----------
    responses : DataArray, dims (subject, stimulus, unit)
        Averaged over repeats, a row an image that all subjects saw. A unit that a subject lacks is NaN throughout, so
        that subjects with fewer units can be padded; for the mean, unit i must be the same place in all subjects.
    cv : int, default 5
        Folds over stimuli of the linear combination, of three stimuli or more; so many again inside choose the penalty
        of each unit.
    seed : int or Generator, default 0
        Of the folds.

    Returns
    -------
    Dataset, dims (predictor, subject, unit)
        ``correlation`` of a subject's responses with the "mean" of the same unit over the others, and with the held-out
        prediction of the "linear" combination (ridge regression) of all units of all others, averaged over folds.
        Square it for the scale of r^2. NaN where a subject lacks the unit.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> shared = rng.normal(size=(60, 3))
    >>> responses = shared + 0.5 * rng.normal(size=(4, 60, 3))
    >>> ceiling = cross_subject_ceiling(xr.DataArray(responses, dims=("subject", "stimulus", "unit")))
    >>> ceiling.correlation.mean(("subject", "unit")).round(1).values
    array([0.9, 0.8])
    """
    if set(responses.dims) != {"subject", "stimulus", "unit"}:
        raise ValueError(f"responses must have dims subject, stimulus and unit, got {responses.dims}")
    n_subjects, n_stimuli = responses.sizes["subject"], responses.sizes["stimulus"]
    check_range("number of subjects", n_subjects, 2)
    check_range("cv", cv, 2, n_stimuli // 3)
    x = responses.transpose("subject", "stimulus", "unit").values.astype(np.float64)
    finite = np.isfinite(x)
    has = np.asarray(finite.all(1))
    if (finite.any(1) & ~has).any():
        subject, unit = np.argwhere(finite.any(1) & ~has)[0]
        raise ValueError(
            f"responses must be NaN for all stimuli or none, got some in unit {unit} of subject {subject}"
        )
    if not has.any(1).all():
        raise ValueError(
            f"responses must hold a unit of every subject, got none of subject {has.any(1).argmin()}"
        )
    folds = np.array_split(check_seed(seed).permutation(n_stimuli), cv)
    mean, linear = np.full((2, n_subjects, x.shape[2]), np.nan)
    for s in range(n_subjects):
        others = np.arange(n_subjects) != s
        known = has[s] & has[others].any(0)
        mean[s, known] = pearson_r(x[s][:, known], np.nanmean(x[others][:, :, known], 0))
        predictors = x[others].transpose(1, 0, 2)[:, has[others]]
        linear[s, has[s]] = _ridge_correlation(predictors, x[s][:, has[s]], folds)
    return xr.Dataset(
        {"correlation": (("predictor", "subject", "unit"), np.stack([mean, linear]))},
        coords={"predictor": ["mean", "linear"]}
        | {name: c for name, c in responses.coords.items() if "stimulus" not in c.dims},
    )


def _ridge_correlation(
    x: NDArray[np.float64], y: NDArray[np.float64], folds: list[NDArray[np.intp]]
) -> NDArray[np.float64]:
    """Predict each fold by ridge regression on the others and average the correlations of the folds.

    One correlation over the joined predictions would be negative on average where there is no relation: a fold above
    the mean of the others is predicted below it, and where training rows resemble the fold by chance, predictions grow.
    """
    from himalaya.kernel_ridge import solve_kernel_ridge_cv_eigenvalues

    r = []
    for i, test in enumerate(folds):
        train = np.concatenate(folds[:i] + folds[i + 1 :])
        center, scale = x[train].mean(0), x[train].std(0)
        # Columns of equal variance, one in total, so that penalties mean the same for any number of columns.
        z = (x - center) / np.where(scale > 1e-12 * np.abs(center), scale * np.sqrt(x.shape[1]), np.inf)
        _, dual, _ = solve_kernel_ridge_cv_eigenvalues(
            z[train] @ z[train].T,
            y[train] - y[train].mean(0),
            alphas=np.logspace(-5, 5, 21),
            cv=len(folds),
            n_targets_batch=2000,
        )
        r.append(pearson_r(y[test], z[test] @ (z[train].T @ dual)))
    return np.asarray(np.mean(r, axis=0))


def r2_over_ceiling(
    correlation: ArrayLike, noise_ceiling: ArrayLike, *, min_ceiling: float = 0.1
) -> NDArray[np.float64]:
    """Return signed explained variance relative to the noise ceiling, ``sign(r) r^2 / NC``, unclipped.

    Parameters
    ----------
    correlation : array, shape (..., unit)
    noise_ceiling : array, shape (..., unit)
        On the r^2 scale.
    min_ceiling : float, default 0.1
        Units with a lower ceiling are NaN: their ratio would be noise.

    Returns
    -------
    array, shape (..., unit)

    Examples
    --------
    >>> r2_over_ceiling([0.6, -0.3, 0.2], [0.72, 0.9, 0.05])
    array([ 0.5, -0.1,  nan])
    """
    check_range("min_ceiling", min_ceiling, 0, 1)
    r, nc = np.asarray(correlation, dtype=np.float64), np.asarray(noise_ceiling, dtype=np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(nc >= max(min_ceiling, 1e-12), np.sign(r) * r**2 / nc, np.nan))


def r2_over_ceiling_algonauts(correlation: ArrayLike, noise_ceiling: ArrayLike) -> NDArray[np.float64]:
    """Return encoding accuracy with the clipping of the Algonauts 2023 literature.

    Negative correlations count as 0, ceilings of 0 as 1e-14, and the ratio is cut at 1, which biases it
    upwards; use :func:`r2_over_ceiling` for anything but a comparison with published numbers.

    Parameters
    ----------
    correlation : array, shape (..., unit)
    noise_ceiling : array, shape (..., unit)
        On the r^2 scale.

    Returns
    -------
    array, shape (..., unit)
        0..1; NaN where the correlation is NaN.

    Examples
    --------
    >>> r2_over_ceiling_algonauts([0.6, -0.3, 0.2], [0.72, 0.9, 0.0])
    array([0.5, 0. , 1. ])
    """
    r = np.asarray(correlation, dtype=np.float64)
    nc = np.asarray(noise_ceiling, dtype=np.float64)
    return np.asarray(np.minimum(np.maximum(r, 0) ** 2 / np.where(nc == 0, 1e-14, nc), 1))
