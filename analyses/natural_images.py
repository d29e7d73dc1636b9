"""Search in natural images, beside the eye movements of people."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import xarray as xr

from neuroattn._checks import check_range, check_seed
from neuroattn.metrics import (
    crossed_bootstrap,
    found_curve,
    inter_observer,
    length_matched,
    multimatch_pairs,
    saccades_to_target,
    same_observer,
    scanmatch,
)
from neuroattn.results import Scanpath, provenance
from neuroattn.search import Searcher, SearchTrial
from neuroattn.search.running import describe_model

COMPARISONS = ("model", "observers", "same observer, another image", "length-matched random")


def natural_search(
    model: Searcher,
    trials: Sequence[SearchTrial],
    people: Sequence[Scanpath],
    *,
    by: Sequence[str] = ("image",),
    near_deg: float = 1.0,
    max_saccades: int | None = None,
    n_resamples: int = 1000,
    seed: int = 0,
    batch_size: int = 8,
    progress: Callable[[int, int], None] | None = None,
) -> xr.Dataset:
    """Let a model search images that people have searched, and compare how soon and along which way it finds.

    Parameters
    ----------
    model : object with ``search_batch``
        :class:`~neuroattn.search.EccNet` or a control such as :class:`~neuroattn.search.RandomSearch`.
    trials : sequence of SearchTrial
        One for each image and target, named in ``attrs`` by the entries in ``by``, with a target mask.
    people : sequence of Scanpath
        Such as a :class:`~neuroattn.datasets.ScanpathDataset`. ``attrs`` names the observer and the entries in ``by``;
        coordinates are pixels of the trial's image. Images that only one side has are left out.
    by : sequence of str, default ("image",)
        What names a trial; ("image", "target") where an image is searched for several targets.
    near_deg : float, default 1
        Side of the square around a fixation within which a target counts as found, degrees, for people and model
        alike. Pixels per degree are those of the trial.
    max_saccades : int, optional
        End of the found curve. None is the most saccades of any scanpath.
    n_resamples : int, default 1000
        Of the bootstrap over images and observers.
    seed : int, default 0
        Of the model, of the anchors and of the bootstrap.
    batch_size : int, default 8
        Trials in one forward pass.
    progress : callable, optional
        Called with the number of searched trials and of all.

    Returns
    -------
    Dataset
        ``found`` (searcher, saccade), the share of trials whose target was found within so many saccades, by "model"
        and "people", with ``found_ci`` (bound, searcher, saccade) over images and observers. ``similarity``
        (measure, comparison) to the scanpath of an observer, mean over observers and images, with
        ``similarity_ci`` and the number of compared trials ``n_compared``. Comparisons are the model and its anchors:
        the other observers of the image (inter-observer consistency), the same observer on another image, and
        random fixations in the same number.

    Raises
    ------
    ValueError
        If no trial has both sides, a trial has no mask or no pixels per degree, or a size does not fit.

    Notes
    -----
    Measures are ScanMatch without durations, which the model has not, and the four dimensions of MultiMatch that
    need none. The published comparison is ScanMatch in MATLAB with settings that are not published, so its values are
    not comparable with these [1]_. A model that stops at the target makes scanpaths as long as its search; its
    anchors have the lengths of people's.

    References
    ----------
    .. [1] Gupta, Zhang, Wu, Wolfe & Kreiman (2021). Visual search asymmetry: deep nets and humans share similar
       inherent biases. NeurIPS.

    Examples
    --------
    >>> from neuroattn.search import RandomSearch
    >>> rng = np.random.default_rng(0)
    >>> trials, people = [], []
    >>> for name in "abcd":
    ...     mask = np.zeros((60, 80), bool)
    ...     mask[10:30, 50:70] = True
    ...     image = rng.integers(0, 256, mask.shape, dtype=np.uint8)
    ...     trials.append(SearchTrial(image, image[10:30, 50:70], mask, px_per_degree=10, attrs={"image": name}))
    ...     for observer in "12":
    ...         x, y = [40, *rng.normal(60, 3, 2)], [30, *rng.normal(20, 3, 2)]
    ...         people.append(Scanpath(x, y, (80, 60), attrs={"image": name, "observer": observer}))
    >>> result = natural_search(RandomSearch(), trials, people, n_resamples=50)
    >>> result.found.sel(searcher="people").values
    array([0., 1., 1., ...])
    >>> match = result.similarity.sel(measure="ScanMatch")
    >>> bool(match.sel(comparison="observers") > match.sel(comparison="model"))
    True
    """
    check_range("near_deg", near_deg, 0)
    names = [_name("trials", i, trial.attrs, by) for i, trial in enumerate(trials)]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"trials must differ in {' and '.join(by)}, got two of {'/'.join(twice)}")
    # People's scanpaths are put under one label, so that every comparison and interval means the same trial.
    labelled = [_relabel(path, _name("people", i, path.attrs, by)) for i, path in enumerate(people)]
    searched = {path.attrs["image"] for path in labelled}
    kept = {
        "/".join(name): trial for name, trial in zip(names, trials, strict=True) if "/".join(name) in searched
    }
    labelled = [path for path in labelled if path.attrs["image"] in kept]
    if not kept:
        raise ValueError(f"people must have searched at least one of the {len(trials)} trials, got none")
    boxes = {name: _box(name, trial, near_deg) for name, trial in kept.items()}
    for path in labelled:
        height, width = kept[path.attrs["image"]].image.shape[:2]
        if tuple(path.image_size) != (width, height):
            raise ValueError(
                f"people must have seen {path.attrs['image']} at its size {(width, height)}, got {path.image_size}"
            )
    paths = model.search_batch(list(kept.values()), batch_size=batch_size, seed=seed, progress=progress)
    modelled = {
        name: replace(path, attrs={"image": name, "observer": "model"})
        for name, path in zip(kept, paths, strict=True)
    }
    if max_saccades is None:
        max_saccades = max(path.n_saccades for path in (*labelled, *modelled.values()))
    rng = check_seed(seed)
    curves = {
        searcher: _curve(side, boxes, max_saccades, n_resamples, rng)
        for searcher, side in (("model", list(modelled.values())), ("people", labelled))
    }
    similarity = _similarities(labelled, modelled, n_resamples, rng)
    return xr.Dataset(
        {
            "found": xr.concat([curve["mean"] for curve in curves.values()], "searcher"),
            "found_ci": xr.concat([curve["interval"] for curve in curves.values()], "searcher"),
            "similarity": similarity["mean"],
            "similarity_ci": similarity["interval"],
            "n_compared": similarity["n_compared"],
            "n_trials": ("searcher", [len(modelled), len(labelled)]),
        },
        coords={"searcher": list(curves)},
        attrs={
            **provenance(
                seed,
                {"model": describe_model(model), "near_deg": near_deg, "n_resamples": n_resamples},
            ),
            "units": "share of trials (found), 0..1 (similarity)",
            "resampled": "image x observer",
            "n_images": len(kept),
            "n_observers": len({path.attrs["observer"] for path in labelled}),
        },
    )


def _name(argument: str, i: int, attrs: dict[str, Any], by: Sequence[str]) -> tuple[str, ...]:
    missing = [key for key in by if key not in attrs]
    if missing:
        raise ValueError(f"{argument}[{i}] must name its {missing[0]} in attrs, got {sorted(attrs)}")
    return tuple(str(attrs[key]) for key in by)


def _relabel(path: Scanpath, name: tuple[str, ...]) -> Scanpath:
    if "observer" not in path.attrs:
        raise ValueError(
            f"people must name the observer of {'/'.join(name)} in attrs, got {sorted(path.attrs)}"
        )
    # What remains is compared: positions, without times and objects, which the model has not.
    attrs = {"image": "/".join(name), "observer": str(path.attrs["observer"])}
    return Scanpath(path.x, path.y, path.image_size, first_fixation=path.first_fixation, attrs=attrs)


def _box(name: str, trial: SearchTrial, near_deg: float) -> tuple[float, float, float, float]:
    """Return x, y, width and height of the places whose square of ``near_deg`` touches the target."""
    if trial.target_mask is None:
        raise ValueError(f"trials must have a target mask, got none for {name}")
    if trial.px_per_degree is None:
        raise ValueError(f"px_per_degree must be given for trial {name}, got None")
    rows, columns = (np.flatnonzero(trial.target_mask.any(axis)) for axis in (1, 0))
    # A fixation is a point; pixel i covers i - 0.5 to i + 0.5.
    margin = near_deg * trial.px_per_degree / 2 + 0.5
    x, y = columns[0] - margin, rows[0] - margin
    return x, y, columns[-1] + margin - x, rows[-1] + margin - y


def _curve(
    paths: Sequence[Scanpath],
    boxes: dict[str, tuple[float, float, float, float]],
    max_saccades: int,
    n_resamples: int,
    rng: np.random.Generator,
) -> xr.Dataset:
    n_saccades = saccades_to_target(paths, boxes=[boxes[path.attrs["image"]] for path in paths])
    each = [found_curve([n], max_saccades=max_saccades) for n in n_saccades.values]
    return _bootstrap(xr.concat(each, "trial"), paths, n_resamples, rng)


def _bootstrap(
    values: xr.DataArray, paths: Sequence[Scanpath], n_resamples: int, rng: np.random.Generator
) -> xr.Dataset:
    labels = {name: ("trial", [path.attrs[name] for path in paths]) for name in ("image", "observer")}
    return crossed_bootstrap(values.assign_coords(labels), n_resamples=n_resamples, seed=rng)


def _scanmatch_pairs(a: Sequence[Scanpath], b: Sequence[Scanpath]) -> xr.DataArray:
    scores = [scanmatch(one, other, temporal_bin=None) for one, other in zip(a, b, strict=True)]
    return xr.DataArray(
        np.array(scores)[:, None], dims=("pair", "dimension"), coords={"dimension": ["ScanMatch"]}
    )


def _multimatch_pairs(a: Sequence[Scanpath], b: Sequence[Scanpath]) -> xr.DataArray:
    scores = multimatch_pairs(a, b)
    scores = scores.sel(dimension=[name for name in scores.dimension.values if name != "duration"])
    return scores.assign_coords(dimension=[f"MultiMatch {name}" for name in scores.dimension.values])


def _similarities(
    people: Sequence[Scanpath], model: dict[str, Scanpath], n_resamples: int, rng: np.random.Generator
) -> xr.Dataset:
    comparison = xr.DataArray(list(COMPARISONS), dims="comparison", name="comparison")
    parts = []
    for metric in (_scanmatch_pairs, _multimatch_pairs):
        scores = _anchors(people, model, metric, rng)
        parts.append(
            xr.concat(
                [_compared(values, people, n_resamples, rng) for values in scores],
                comparison,
                coords="minimal",
                compat="override",
            )
        )
    return xr.concat(parts, "dimension", coords="minimal", compat="override").rename(dimension="measure")


def _anchors(
    people: Sequence[Scanpath],
    model: dict[str, Scanpath],
    metric: Callable[[Sequence[Scanpath], Sequence[Scanpath]], xr.DataArray],
    rng: np.random.Generator,
) -> list[xr.DataArray]:
    """Return scores (trial, dimension) of what is compared with each scanpath of people, as `COMPARISONS`."""
    own = metric([model[path.attrs["image"]] for path in people], people).rename(pair="trial")
    return [
        own,
        inter_observer(people, metric, batched=True),
        same_observer(people, metric, seed=rng, batched=True),
        length_matched(people, metric, seed=rng, batched=True),
    ]


def _compared(
    values: xr.DataArray, people: Sequence[Scanpath], n_resamples: int, rng: np.random.Generator
) -> xr.Dataset:
    summary = _bootstrap(values.drop_vars(["reason"], errors="ignore"), people, n_resamples, rng)
    return summary[["mean", "interval"]].assign(n_compared=values.notnull().sum("trial"))
