"""Several subjects together: the subject is what inference is about."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from neuroattn.analyses.fits import ATTENTION_MODELS, family
from neuroattn.metrics import group_summary

SCORES = ("correlation", "r2_over_ceiling")
_TESTS = ("p", "p_fdr", "p_fwe")


def summarise_group(roi_scores: Mapping[str, xr.Dataset]) -> xr.Dataset:
    """Summarize region scores over subjects.

    Parameters
    ----------
    roi_scores : mapping of subject to Dataset, dims (model, roi)
        ``roi_scores.nc`` of each subject, with the models of all in common; the attribute "contender" names the model
        that is compared with the others in that subject.

    Returns
    -------
    Dataset, dims (subject, model, roi, bound)
        ``<score>_by_subject`` (subject, model, roi); ``<score>`` and ``<score>_ci`` (model, roi), mean and Student's t
        interval over subjects, for ``correlation`` and ``r2_over_ceiling``. ``difference``, ``difference_ci``, ``p``,
        ``p_fdr`` and ``p_fwe`` (model, roi) of the contender minus each model in correlation, by flipping the signs of
        subjects; NaN for attention models. ``smallest_p`` and ``n_subjects`` (roi): what so many subjects can show.
        ``best_baseline`` (roi), the model with the highest mean correlation over subjects. Regions of some subjects
        only are summarised over those. ``attrs["contender"]`` names the contender, or "attention@validated" where
        subjects chose different layers.

    Examples
    --------
    >>> def subject(a, b):
    ...     values = ("model", "roi"), [[a], [b]]
    ...     return xr.Dataset({"correlation": values, "r2_over_ceiling": values},
    ...                       {"model": ["attention", "ridge"], "roi": ["FFA"]}, {"contender": "attention"})
    >>> group = summarise_group({"subj01": subject(0.5, 0.3), "subj02": subject(0.7, 0.4), "subj03": subject(0.6, 0.5)})
    >>> group.difference.sel(model="ridge").round(2).values, group.p.sel(model="ridge").values, group.smallest_p.values
    (array([0.2]), array([0.25]), array([0.25]))
    """
    subjects = list(roi_scores)
    rois = list(dict.fromkeys(str(roi) for table in roi_scores.values() for roi in table["roi"].values))
    models = [str(name) for name in next(iter(roi_scores.values()))["model"].values]
    tables = {name: table.reindex(roi=rois, model=models) for name, table in roi_scores.items()}
    dims = ("model", "roi")
    group = xr.Dataset(coords={"subject": subjects, "model": models, "roi": rois, "bound": ["low", "high"]})
    for score in SCORES:
        values = np.stack([table[score].transpose(*dims).values for table in tables.values()])
        summaries = [_summary(values[:, m], rois) for m in range(len(models))]
        group[f"{score}_by_subject"] = (("subject", *dims), values)
        group[score] = (dims, _stacked(summaries, "mean"))
        group[f"{score}_ci"] = ((*dims, "bound"), _stacked(summaries, "interval"))
        if score == "correlation":
            group["n_subjects"] = ("roi", np.max([one["n"].values for one in summaries], axis=0))
            group["smallest_p"] = ("roi", np.nanmin(_stacked(summaries, "smallest_p"), axis=0))
    chosen = {name: str(table.attrs.get("contender", "")) for name, table in roi_scores.items()}
    contenders = set(chosen.values())
    group.attrs["contender"] = contenders.pop() if len(contenders) == 1 else "attention@validated"
    if not all(chosen.values()):
        return group
    r = group["correlation_by_subject"]
    own = np.stack([r.sel(subject=name, model=chosen[name]).values for name in subjects])
    baselines = [m for m, name in enumerate(models) if family(name) not in ATTENTION_MODELS]
    shape = (len(models), len(rois))
    tests = {name: np.full(shape, np.nan) for name in ("difference", *_TESTS)}
    interval = np.full((*shape, 2), np.nan)
    for m in baselines:
        summary = _summary(own - r.values[:, m], rois)
        tests["difference"][m], interval[m] = summary["mean"].values, _stacked([summary], "interval")[0]
        for name in _TESTS:
            tests[name][m] = summary[name].values
    for name, values in tests.items():
        group[name] = (dims, values)
    group["difference_ci"] = ((*dims, "bound"), interval)
    mean = group["correlation"].values
    best = [
        models[max(baselines, key=lambda m: np.nan_to_num(mean[m, i], nan=-np.inf))] if baselines else ""
        for i in range(len(rois))
    ]
    group["best_baseline"] = ("roi", np.asarray(best, dtype=str))
    return group


def _summary(values: NDArray[Any], rois: list[str]) -> xr.Dataset:
    return group_summary(xr.DataArray(values, dims=("subject", "roi"), coords={"roi": rois}))


def _stacked(summaries: list[xr.Dataset], name: str) -> NDArray[np.float64]:
    """Return one variable of all summaries, axes (model, roi[, bound])."""
    return np.stack([one[name].transpose("roi", ...).values for one in summaries])
