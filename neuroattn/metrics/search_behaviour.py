"""How people and models search: shares of new and revisited objects, time to the target, length of the way."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from neuroattn._checks import check_range, check_shape
from neuroattn.metrics._fixations import Fixations, as_list, needed, trial_coords, xy
from neuroattn.results import Scanpath

COMPONENTS = ("correct", "length", "search", "refix", "revisit")


def behaviour_vector(paths: Sequence[Fixations], *, targets: ArrayLike | None = None) -> xr.DataArray:
    """Describe each scanpath over objects by five numbers [1]_.

    Fixations in a row on one object are a visit. ``search`` is the number of visits to objects never seen before,
    ``revisit`` that of visits to objects seen before, ``refix`` the number of fixations within a visit after its
    first, each over the number of fixations; ``length`` is that number, and ``correct`` whether the last fixated
    object is the target.

    Parameters
    ----------
    paths : sequence of Scanpath or of mappings with ``objects``
        Background (-1) counts as an object.
    targets : int array, shape (trial,), optional
        Object searched for. None: ``correct`` is NaN.

    Returns
    -------
    DataArray, dims (trial, component)
        NaN for an empty scanpath, but for its length of 0. Labels that all scanpaths carry, such as image and
        observer, become coordinates.

    References
    ----------
    .. [1] Fang et al. (2024). OAT: object-level attention transformer for gaze scanpath prediction. ECCV.

    Examples
    --------
    >>> behaviour_vector([{"objects": [1, 1, 1, 3, 3]}], targets=[3]).isel(trial=0).to_series().to_dict()
    {'correct': 1.0, 'length': 5.0, 'search': 0.4, 'refix': 0.6, 'revisit': 0.0}
    """
    items = as_list("paths", paths)
    target = None if targets is None else np.asarray(targets)
    if target is not None:
        check_shape("targets", target, len(items))
    values = np.full((len(items), len(COMPONENTS)), np.nan)
    for i, path in enumerate(items):
        objects = needed(f"paths[{i}]", path, "objects", "of the fixations")
        n = len(objects)
        values[i, 1] = n
        if not n:
            continue
        visits = objects[np.flatnonzero(np.r_[True, objects[1:] != objects[:-1]])]
        n_new = len(np.unique(visits))
        values[i, 2:] = np.array([n_new, n - len(visits), len(visits) - n_new]) / n
        if target is not None:
            values[i, 0] = objects[-1] == target[i]
    return xr.DataArray(
        values,
        dims=("trial", "component"),
        coords={"component": list(COMPONENTS), **trial_coords(items)},
        name="behaviour",
    )


def behaviour_delta(model: xr.DataArray, people: xr.DataArray) -> xr.Dataset:
    """Measure how far a model's behaviour is from that of people, relative to people [1]_.

    Parameters
    ----------
    model, people : DataArray, dims (..., component)
        From `behaviour_vector`; averaged over all other dimensions. Of several samples a trial, average them first
        if trials have different numbers.

    Returns
    -------
    Dataset
        ``error`` (component), ``|model - people| / people``, and their mean ``delta``. A component in which people
        are 0, or that is NaN, has no error and is left out of the mean; ``n_components`` counts the others.

    References
    ----------
    .. [1] Fang et al. (2024). OAT: object-level attention transformer for gaze scanpath prediction. ECCV.

    Examples
    --------
    >>> people = behaviour_vector([{"objects": [0, 1, 1, 2]}], targets=[2])
    >>> model = behaviour_vector([{"objects": [0, 1, 2, 2, 2]}], targets=[2])
    >>> result = behaviour_delta(model, people)
    >>> round(result.delta.item(), 4), result.n_components.item()
    (0.2625, 4)
    """
    ours, theirs = (side.mean([dim for dim in side.dims if dim != "component"]) for side in (model, people))
    error = abs(ours - theirs) / theirs.where(theirs != 0)
    return xr.Dataset(
        {"error": error, "delta": error.mean("component"), "n_components": error.count("component")}
    )


def saccades_to_target(
    paths: Sequence[Fixations], *, boxes: ArrayLike | None = None, targets: ArrayLike | None = None
) -> xr.DataArray:
    """Count the saccades until each scanpath first fixates its target [1]_.

    Parameters
    ----------
    paths : sequence of Scanpath or of mappings
    boxes : array, shape (trial, 4), optional
        x and y of the top left corner, width and height of the target in px. A fixation on the border is not
        inside.
    targets : int array, shape (trial,), optional
        Object searched for, compared with the ``objects`` of the scanpaths. One of both must be given.

    Returns
    -------
    DataArray, dims (trial,)
        0 where the trial began on the target, NaN where it was never fixated. The first fixation counts as where
        the trial began, unless a `Scanpath` says that it was chosen (``first_fixation="free"``): then it is saccade 1.
        Labels that all scanpaths carry become coordinates.

    References
    ----------
    .. [1] Yang et al. (2020). Predicting goal-directed human attention using inverse reinforcement learning. CVPR.

    Examples
    --------
    >>> paths = [{"x": [50, 20, 80], "y": [50, 50, 50]}, {"x": [50, 20], "y": [50, 10]}]
    >>> saccades_to_target(paths, boxes=[[70, 40, 20, 20]] * 2).values
    array([ 2., nan])
    """
    items = as_list("paths", paths)
    if (boxes is None) == (targets is None):
        raise ValueError(f"either boxes or targets must be given, got {'none' if boxes is None else 'both'}")
    box, target = _boxes(boxes, len(items)), None if targets is None else np.asarray(targets)
    if target is not None:
        check_shape("targets", target, len(items))
    n_saccades = np.full(len(items), np.nan)
    for i, path in enumerate(items):
        if target is not None:
            on_target = needed(f"paths[{i}]", path, "objects", "where targets are given") == target[i]
        else:
            assert box is not None
            on_target = _inside(*xy(f"paths[{i}]", path), box[i])
        if on_target.any():
            n_saccades[i] = on_target.argmax() + _first_is_chosen(path)
    return xr.DataArray(
        n_saccades,
        dims="trial",
        coords=trial_coords(items),
        name="n_saccades",
        attrs={"units": "saccades", "target": "object" if box is None else "strictly inside its box"},
    )


def found_curve(n_saccades: ArrayLike, *, max_saccades: int, groups: ArrayLike | None = None) -> xr.DataArray:
    """Return the share of targets found within each number of saccades: the cumulative found curve [1]_.

    Parameters
    ----------
    n_saccades : array, shape (trial,)
        From `saccades_to_target`; NaN where the target was not found. Unfound trials count in the denominator.
    max_saccades : int
    groups : array, shape (trial,), optional
        Search task of each trial. Curves of groups are averaged with equal weights. None: all trials alike.

    Returns
    -------
    DataArray, dims (saccade,)
        From 0, the trials that began on the target, to ``max_saccades``. Its area is its sum. NaN without trials.

    References
    ----------
    .. [1] Yang et al. (2020). Predicting goal-directed human attention using inverse reinforcement learning. CVPR.

    Examples
    --------
    >>> curve = found_curve([1, 2, 2, np.nan], max_saccades=3)
    >>> curve.values, curve.sum().item()
    (array([0.  , 0.25, 0.75, 0.75]), 1.75)
    """
    check_range("max_saccades", max_saccades, 0)
    n = np.asarray(n_saccades, dtype=np.float64)
    check_shape("n_saccades", n, "trial")
    group = np.zeros(len(n)) if groups is None else np.asarray(groups)
    check_shape("groups", group, len(n))
    saccade = np.arange(max_saccades + 1)
    found = n[:, None] <= saccade  # NaN is never found
    curves = [found[group == name].mean(0) for name in np.unique(group)]
    return xr.DataArray(
        np.mean(curves, axis=0) if curves else np.full(len(saccade), np.nan),
        dims="saccade",
        coords={"saccade": saccade},
        name="found",
        attrs={"n_trials": len(n), "averaged": "trials" if groups is None else "groups of trials"},
    )


def probability_mismatch(curve: xr.DataArray, reference: xr.DataArray) -> float:
    """Sum the absolute differences of two cumulative found curves [1]_.

    Parameters
    ----------
    curve, reference : DataArray, dims (saccade,)
        From `found_curve`, over the same saccades.

    Returns
    -------
    float
        0 for equal curves.

    References
    ----------
    .. [1] Yang et al. (2020). Predicting goal-directed human attention using inverse reinforcement learning. CVPR.

    Examples
    --------
    >>> probability_mismatch(found_curve([1, 2], max_saccades=2), found_curve([2, 2], max_saccades=2))
    0.5
    """
    if not np.array_equal(curve["saccade"], reference["saccade"]):
        raise ValueError(
            f"reference must run over the saccades of curve, 0 to {curve['saccade'].values[-1]}, "
            f"got 0 to {reference['saccade'].values[-1]}"
        )
    return float(abs(curve - reference).sum())


def scanpath_ratio(paths: Sequence[Fixations], *, boxes: ArrayLike) -> xr.DataArray:
    """Divide the straight way to the target by the way that the eyes took [1]_.

    Parameters
    ----------
    paths : sequence of Scanpath or of mappings of arrays x, y, shape (fixation,)
        Px.
    boxes : array, shape (trial, 4)
        x and y of the top left corner, width and height of the target in px.

    Returns
    -------
    DataArray, dims (trial,)
        From the first fixation to the centre of the box, over the length of the scanpath up to the first fixation
        inside; at most 1, which is also the value where the trial began on the target. NaN where the target was
        never fixated.

    References
    ----------
    .. [1] Yang et al. (2020). Predicting goal-directed human attention using inverse reinforcement learning. CVPR.

    Examples
    --------
    >>> scanpath_ratio([{"x": [0, 30, 30], "y": [0, 0, 40]}], boxes=[[20, 30, 20, 20]]).item()
    0.7142857142857143
    """
    items = as_list("paths", paths)
    box = _boxes(boxes, len(items))
    assert box is not None
    ratio = np.full(len(items), np.nan)
    for i, path in enumerate(items):
        x, y = xy(f"paths[{i}]", path)
        inside = _inside(x, y, box[i])
        if not inside.any():
            continue
        upto = int(inside.argmax()) + 1
        way = np.hypot(np.diff(x[:upto]), np.diff(y[:upto])).sum()
        left, top, width, height = box[i]
        straight = np.hypot(left + width / 2 - x[0], top + height / 2 - y[0])
        ratio[i] = 1.0 if straight >= way else straight / way
    return xr.DataArray(ratio, dims="trial", coords=trial_coords(items), name="scanpath_ratio")


def _boxes(boxes: ArrayLike | None, n: int) -> NDArray[np.float64] | None:
    if boxes is None:
        return None
    box = np.asarray(boxes, dtype=np.float64)
    check_shape("boxes", box, n, 4)
    if (box[:, 2:] < 0).any():
        raise ValueError(f"boxes must have no negative width or height, got {box[:, 2:].min()}")
    return box


def _inside(x: NDArray[np.float64], y: NDArray[np.float64], box: NDArray[np.float64]) -> NDArray[np.bool_]:
    left, top, width, height = box
    return np.asarray((x > left) & (x < left + width) & (y > top) & (y < top + height))


def _first_is_chosen(path: Fixations) -> bool:
    return isinstance(path, Scanpath) and path.first_fixation == "free"
