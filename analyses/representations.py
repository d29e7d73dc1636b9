"""Compare the geometry of models with that of brains."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from neuroattn._checks import check_range, check_seed
from neuroattn.datasets import Recording
from neuroattn.metrics import dissimilarities, rdm_noise_ceiling, rdm_similarity
from neuroattn.metrics.rsa import projection
from neuroattn.results import provenance

Floats = NDArray[np.float64]


def representational_similarity(
    recordings: Recording | Sequence[Recording],
    models: Mapping[str, ArrayLike],
    *,
    rois: Sequence[str] | None = None,
    dissimilarity: str = "correlation",
    similarity: str = "spearman",
    n_permutations: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> xr.Dataset:
    """Ask which model's images are as alike, pair by pair, as a region's responses to them [1]_.

    Nothing is fitted: a model is compared as it is. Whether it predicts a region after fitting is another question,
    which encoders answer.

    Parameters
    ----------
    recordings : Recording or sequence of Recording
        One subject each. Stimuli are matched by their ids; those that not every subject saw are left out, and rows of
        one stimulus are averaged.
    models : mapping of str to array, shape (stimulus, ...)
        Features of each stimulus of the first recording, row by row; what is behind the first axis is flattened.
    rois : sequence of str, optional
        By default all regions that every recording has.
    dissimilarity : {"correlation", "euclidean"}, default "correlation"
        See :func:`neuroattn.metrics.dissimilarities`.
    similarity : str, default "spearman"
        See :func:`neuroattn.metrics.rdm_similarity`.
    n_permutations : int, default 1000
        Of the images of a model, for its null.
    confidence : float, default 0.95
    seed : int, default 0

    Returns
    -------
    Dataset, dims (model, roi, subject, bound)
        ``similarity``; their ``mean`` over subjects; its ``interval``, of which the variance is that of a jackknife
        over images plus, for several subjects, that over subjects, so that it speaks of other images and other
        subjects; ``null`` (the confidence point of the permutations) and the one-sided ``p``; ``ceiling_lower`` and
        ``ceiling_upper`` (roi), NaN for one subject.

    Raises
    ------
    ValueError
        If fewer than four stimuli are shared, rows do not fit, or a region is missing or empty in a recording.

    References
    ----------
    .. [1] Kriegeskorte, Mur & Bandettini (2008). Representational similarity analysis: connecting the branches of
       systems neuroscience. Frontiers in Systems Neuroscience 2.

    Examples
    --------
    >>> from neuroattn.results import label_rois
    >>> rng = np.random.default_rng(0)
    >>> right, wrong = rng.normal(size=(2, 12, 6))
    >>> subjects = [
    ...     Recording(name, (right @ rng.normal(size=(6, 20))).astype("f4"), label_rois({"V4": [True] * 20}),
    ...               np.arange(12).astype(str), features=right)
    ...     for name in ("subj01", "subj02")]
    >>> result = representational_similarity(subjects, {"right": right, "wrong": wrong}, n_permutations=99)
    >>> result["mean"].sel(roi="V4").idxmax("model").item(), result.p.sel(model="right").values
    ('right', array([0.01]))
    """
    check_range("n_permutations", n_permutations, 1)
    check_range("confidence", confidence, 0, 1)
    recordings = [recordings] if isinstance(recordings, Recording) else list(recordings)
    if not recordings or not models:
        raise ValueError("recordings and models must each hold at least one, got none")
    first = recordings[0]
    chosen = _shared_rois(recordings) if rois is None else list(rois)
    ids = [i for i in dict.fromkeys(first.stimulus_ids) if all(i in set(r.stimulus_ids) for r in recordings)]
    if len(ids) < 4:
        raise ValueError(f"recordings must share at least 4 stimuli, got {len(ids)}")
    geometry = xr.concat(
        [
            dissimilarities(_rows_of(f"models[{name!r}]", features, first, ids), method=dissimilarity)
            for name, features in models.items()
        ],
        xr.DataArray(list(models), dims="model", name="model"),
    )
    brain = xr.concat(
        [
            xr.concat(
                [dissimilarities(_responses(one, roi, ids), method=dissimilarity) for one in recordings],
                xr.DataArray([one.name for one in recordings], dims="subject", name="subject"),
            )
            for roi in chosen
        ],
        xr.DataArray(chosen, dims="roi", name="roi"),
    )
    found = rdm_similarity(geometry, brain, method=similarity).transpose("model", "roi", "subject")
    n_subjects = len(recordings)
    variance = _jackknife(geometry, brain, similarity, len(ids))
    if n_subjects > 1:
        variance = variance + found.var("subject", ddof=1) / n_subjects
    half = stats.norm.ppf((1 + confidence) / 2) * np.sqrt(variance)
    mean = found.mean("subject")
    null = _null(geometry, brain, similarity, len(ids), n_permutations, check_seed(seed))
    ceilings = [
        rdm_noise_ceiling(brain.sel(roi=roi), method=similarity)
        if n_subjects > 1
        else xr.Dataset({"lower": np.nan, "upper": np.nan})
        for roi in chosen
    ]
    config = {
        "dissimilarity": dissimilarity,
        "similarity": similarity,
        "n_stimuli": len(ids),
        "n_permutations": n_permutations,
        "confidence": confidence,
        "resampled": "images and subjects" if n_subjects > 1 else "images",
    }
    return xr.Dataset(
        {
            "similarity": found,
            "mean": mean,
            "interval": xr.concat(
                [mean - half, mean + half], xr.DataArray(["low", "high"], dims="bound", name="bound")
            ).transpose("model", "roi", "bound"),
            "null": null.quantile(confidence, "permutation").drop_vars("quantile"),
            "p": ((null >= mean - 1e-12).sum("permutation") + 1) / (n_permutations + 1),
            "ceiling_lower": ("roi", [float(one.lower) for one in ceilings]),
            "ceiling_upper": ("roi", [float(one.upper) for one in ceilings]),
        },
        attrs=provenance(seed, config) | {"simulated": int(any(one.simulated for one in recordings))},
    )


def _shared_rois(recordings: Sequence[Recording]) -> list[str]:
    names = [
        roi
        for roi in recordings[0].rois.roi.values.tolist()
        if all(roi in one.rois.roi and one.rois.sel(roi=roi).any() for one in recordings)
    ]
    if not names:
        raise ValueError("recordings must share at least one region, got none")
    return names


def _rows_of(name: str, table: ArrayLike, recording: Recording, ids: Sequence[str]) -> xr.DataArray:
    """Return the patterns (condition, unit) of some stimuli, repeats averaged."""
    x = np.asarray(table)
    if x.ndim < 2 or len(x) != recording.n_stimuli:
        raise ValueError(f"{name} must have shape ({recording.n_stimuli}, ...), got {x.shape}")
    x = x.reshape(len(x), -1).astype(np.float64)
    means = np.stack([x[recording.stimulus_ids == one].mean(0) for one in ids])
    return xr.DataArray(means, dims=("condition", "unit"), coords={"condition": list(ids)})


def _responses(recording: Recording, roi: str, ids: Sequence[str]) -> xr.DataArray:
    if roi not in recording.rois.roi:
        raise ValueError(f"rois must be regions of {recording.name}, got {roi!r}")
    units = np.flatnonzero(recording.rois.sel(roi=roi).values)
    if not len(units):
        raise ValueError(f"region {roi} of {recording.name} must have at least one unit, got none")
    return _rows_of("responses", np.asarray(recording.responses[:])[:, units], recording, ids)


def _jackknife(geometry: xr.DataArray, brain: xr.DataArray, method: str, n: int) -> xr.DataArray:
    """Return the variance of the mean similarity over images (model, roi): each is left out in turn."""
    first, second = np.triu_indices(n, 1)
    # The conditions of pairs have been matched.
    bare = [one.drop_vars(["condition_a", "condition_b"]) for one in (geometry, brain)]
    parts = [_ranks_of(one) if method == "spearman" else partial(_kept, one) for one in bare]
    of_parts = "pearson" if method == "spearman" else method
    without = []
    for image in range(n):
        kept = (first != image) & (second != image)
        models, regions = (part(kept) for part in parts)
        part = rdm_similarity(models, regions, method=of_parts).mean("subject")
        without.append(part.transpose("model", "roi"))
    values = xr.concat(without, "image")
    variance: xr.DataArray = (n - 1) * values.var("image")
    return variance


def _kept(rdms: xr.DataArray, kept: NDArray[np.bool_]) -> xr.DataArray:
    return rdms[..., kept]


def _ranks_of(rdms: xr.DataArray) -> Callable[[NDArray[np.bool_]], xr.DataArray]:
    """Return a function that ranks what is kept of each RDM (..., pair) without sorting it again."""
    ranks = stats.rankdata(rdms.values, axis=-1).reshape(-1, rdms.shape[-1])
    places = [np.unique(row, return_inverse=True)[1] for row in ranks]

    def of(kept: NDArray[np.bool_]) -> xr.DataArray:
        rows = []
        for rank, place in zip(ranks, places, strict=True):
            # A rank falls by what is lost below it, and by half of what is lost beside it.
            lost = np.bincount(place[~kept], minlength=place.max() + 1)
            rows.append((rank - (np.cumsum(lost) - lost / 2)[place])[kept])
        return xr.DataArray(np.reshape(rows, (*rdms.shape[:-1], -1)), dims=rdms.dims, coords=rdms.coords)

    return of


def _null(
    geometry: xr.DataArray,
    brain: xr.DataArray,
    method: str,
    n: int,
    n_permutations: int,
    rng: np.random.Generator,
) -> xr.DataArray:
    """Return mean similarities (permutation, model, roi) after the images of the models are exchanged."""
    project = projection(method, n)
    first, second = np.triu_indices(n, 1)
    target = project(brain.transpose("roi", "subject", "pair").values).mean(1)
    # Exchanging images permutes pairs, and ranks and whitened values with them.
    square = np.zeros((geometry.sizes["model"], n, n))
    square[:, first, second] = project(geometry.transpose("model", "pair").values)
    square += square.swapaxes(1, 2)
    rows = np.empty((n_permutations, len(square), len(target)))
    for i in range(n_permutations):
        order = rng.permutation(n)
        rows[i] = square[:, order[first], order[second]] @ target.T
    return xr.DataArray(
        rows,
        dims=("permutation", "model", "roi"),
        coords={"model": geometry.model.values, "roi": brain.roi.values},
    )
