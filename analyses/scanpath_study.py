"""Which scanpath model predicts people, by how much, and beside which anchors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from sklearn.base import clone

from neuroattn._checks import check_range
from neuroattn.analyses.fits import Progress
from neuroattn.datasets import ScanpathDataset
from neuroattn.metrics import (
    auc,
    crossed_bootstrap,
    inter_observer,
    length_matched,
    map_consistency,
    multimatch_pairs,
    nss,
    same_observer,
    sequence_score,
)
from neuroattn.metrics.consistency import MapMetric
from neuroattn.results import Scanpath, provenance
from neuroattn.scanpath import ScanpathModel, gold_standard, sampled_scanpaths

AUC_KINDS = ("judd", "borji", "shuffled", "uniform")
ANCHORS = ("inter-observer", "same observer, another image", "length-matched random")
PEOPLE = "people"
MEMORY_FULL = "memory-full random, expected"
_LABELS = ("image", "observer")


def compare_scanpath_models(
    dataset: ScanpathDataset,
    models: Mapping[str, ScanpathModel],
    *,
    by: str = "image",
    n_folds: int = 5,
    n_samples: int = 5,
    n_boot: int = 1000,
    seed: int = 0,
    progress: Progress | None = None,
) -> xr.Dataset:
    """Fit models to some groups of trials and score them on the others.

    Each trial is tested once, by models that saw no trial of its group. Intervals are of a bootstrap over images and
    observers, crossed (:func:`neuroattn.metrics.crossed_bootstrap`), at 95 %; they do not cover another fit.

    Parameters
    ----------
    dataset : ScanpathDataset
        With objects assigned.
    models : mapping of str to ScanpathModel
        Not fitted. To say what a network adds, put the simple ones beside it:
        :func:`neuroattn.scanpath.ConditionalLogit` above all. A fitted one in
        :class:`sklearn.frozen.FrozenEstimator` is scored as it is; that it saw none of the trials is up to you.
    by : str, default "image"
        Trials with equal labels stay together; "target" or "observer" ask for more.
    n_folds : int, default 5
    n_samples : int, default 5
        Paths that a model draws for each trial, to be compared with people's.
    n_boot : int, default 1000
    seed : int, default 0
        Of folds, samples and intervals. All models draw with the same random numbers.
    progress : callable, optional
        Called with what is done, how many are finished, and how many there are.

    Returns
    -------
    Dataset
        - ``bits_per_fixation`` (model): cost of each chosen fixation given that the path goes on, mean over
          fixations; ``uniform_bits``, that of uniform choice; ``gold_standard_bits``, that of the other observers'
          fixations in the same scene (:func:`neuroattn.scanpath.gold_standard`), which no other row has seen.
        - ``end_bits`` (model): cost of when paths end, per trial.
        - ``difference`` (model, other): bits per fixation of ``other`` minus those of ``model``, paired: above 0
          where ``model`` predicts better.
        - ``found`` (source, saccade): share of trials in which the target was fixated by then; people, the models'
          samples, and a random search that never returns. Only where scenes have targets.
        - ``similarity`` (path_source, metric): sequence score and MultiMatch of the models' samples to the person's
          path, beside the other observers' paths of the image, the person's own of other images, and random ones of
          equal length. Initial fixations are left out.
        - for each of them but ``end_bits`` an interval, ``..._interval`` (bound, ...).

    Raises
    ------
    ValueError
        If there is no model, or fewer groups than folds.

    Examples
    --------
    >>> from neuroattn.datasets import make_search_arrays
    >>> from neuroattn.scanpath import ConditionalLogit, UniformChoice
    >>> data = make_search_arrays(n_scenes=12, n_observers=4, seed=0)
    >>> models = {"uniform": UniformChoice(), "conditional logit": ConditionalLogit()}
    >>> result = compare_scanpath_models(data, models, n_folds=2, n_samples=1, n_boot=100)
    >>> gain = result.difference_interval.sel(model="conditional logit", other="uniform")
    >>> bool(gain.sel(bound="low") > 0)
    True
    """
    if not models:
        raise ValueError("models must name at least one model, got none")
    for name, value in (("n_samples", n_samples), ("n_boot", n_boot)):
        check_range(name, value, 1)
    names = list(models)
    # Folds of the trials' numbers, so that every score finds its row again.
    numbered = ScanpathDataset(
        dataset.data.assign(row=("trial", np.arange(len(dataset)))), scenes=dataset.scenes
    )
    n_fixations = dataset.data.sizes["fixation"]
    bits = np.full((len(names), len(dataset), n_fixations), np.nan)
    uniform = np.full((len(dataset), n_fixations), np.nan)
    ends = np.full((len(names), len(dataset)), np.nan)
    samples: list[list[list[Scanpath]]] = [[[] for _ in range(len(dataset))] for _ in names]
    folds = numbered.folds(by, n_folds=n_folds, seed=seed)
    for k, (train, test) in enumerate(folds):
        rows = test.data["row"].values
        for m, name in enumerate(names):
            if progress is not None:
                progress(f"{name}, fold {k + 1}", k * len(names) + m, len(folds) * len(names))
            model = clone(models[name]).fit(train, None)  # frozen estimators insist on a second argument
            cost = model.bits_per_fixation(test)
            bits[m, rows] = cost.values
            uniform[rows] = np.where(cost.notnull(), np.log2(cost.n_objects.values)[:, None], np.nan)
            ends[m, rows] = -cost.end_log_prob.values / np.log(2)
            for i, row in enumerate(rows.tolist()):
                scene = test.scene_of(i)
                drawn = model.sample(
                    scene,
                    n=n_samples,
                    seed=np.random.default_rng([seed, row]),
                    observer=str(test.data["observer"].values[i]) or None,
                )
                samples[m][row] = sampled_scanpaths(drawn, scene)
    coords = {label: ("trial", dataset.data[label].values) for label in _LABELS}
    bootstrap = partial(crossed_bootstrap, n_resamples=n_boot, seed=seed)
    per_fixation = ("trial", "fixation")

    def means(values: NDArray[np.float64], **extra: list[str]) -> tuple[xr.DataArray, xr.DataArray]:
        array = xr.DataArray(values, dims=(*extra, *per_fixation), coords={**coords, **extra})
        summary = bootstrap(array, pool=["fixation"])
        return summary["mean"], summary["interval"]

    out: dict[str, xr.DataArray] = {}
    for key, values, extra in (
        ("bits_per_fixation", bits, {"model": names}),
        ("uniform_bits", uniform, {}),
        ("gold_standard_bits", _gold_bits(dataset, uniform, n_folds, seed), {}),
        ("difference", bits[None] - bits[:, None], {"model": names, "other": names}),
    ):
        out[key], out[f"{key}_interval"] = means(values, **extra)
    out["end_bits"] = xr.DataArray(ends.mean(1), dims="model", coords={"model": names})
    if any(scene.matches_target.any() for scene in dataset.scenes.values()):
        found = _found(dataset, dict(zip(names, samples, strict=True)), coords)
        summary = bootstrap(found)
        out["found"], out["found_interval"] = summary["mean"], summary["interval"]
    similarity = _similarity(dataset, dict(zip(names, samples, strict=True)), coords, seed)
    summary = bootstrap(similarity)
    out["similarity"], out["similarity_interval"] = summary["mean"], summary["interval"]
    config = {
        "models": {name: repr(model) for name, model in models.items()},
        "by": by,
        "n_folds": n_folds,
        "n_samples": n_samples,
        "n_boot": n_boot,
        "confidence": 0.95,
        "n_trials": len(dataset),
        "n_fixations": int(np.isfinite(uniform).sum()),
        "n_images": len(set(dataset.data["image"].values.tolist())),
        "n_observers": len(set(dataset.data["observer"].values.tolist())),
    }
    attrs = {**provenance(seed, config), "resampled": summary.attrs["resampled"]}
    for key in ("source", "simulated"):
        if key in dataset.data.attrs:
            attrs[key] = dataset.data.attrs[key]
    result = xr.Dataset(out, attrs=attrs)
    for key in ("bits_per_fixation", "uniform_bits", "gold_standard_bits", "difference"):
        result[key].attrs["units"] = result[f"{key}_interval"].attrs["units"] = "bit"
    return result


def scanpath_table(comparison: xr.Dataset, *, against: str) -> str:
    """Return the bits per fixation of all models as a Markdown table.

    Parameters
    ----------
    comparison : Dataset
        Of :func:`compare_scanpath_models`.
    against : str
        The model that gains are counted from.

    Returns
    -------
    str

    Examples
    --------
    >>> from neuroattn.datasets import make_search_arrays
    >>> from neuroattn.scanpath import ConditionalLogit, UniformChoice
    >>> data = make_search_arrays(n_scenes=12, n_observers=4, seed=0)
    >>> models = {"uniform": UniformChoice(), "logit": ConditionalLogit()}
    >>> result = compare_scanpath_models(data, models, n_folds=2, n_samples=1, n_boot=100)
    >>> print(scanpath_table(result, against="logit").splitlines()[0])
    | Model | Bits per fixation | 95 % interval | Gain over logit | 95 % interval | Bits per end |
    """
    names = comparison["model"].values.tolist()
    if against not in names:
        raise ValueError(f"against must be one of the models {', '.join(names)}, got {against!r}")
    lines = [
        f"| Model | Bits per fixation | 95 % interval | Gain over {against} | 95 % interval | Bits per end |",
        "|---|---|---|---|---|---|",
    ]
    for name in names:
        one = comparison.sel(model=name)
        gain = one.sel(other=against)
        cells = [name, f"{float(one.bits_per_fixation):.3f}", _interval(one.bits_per_fixation_interval)]
        cells += (
            ["", ""]
            if name == against
            else [f"{float(gain.difference):+.3f}", _interval(gain.difference_interval, "+")]
        )
        lines.append(f"| {' | '.join([*cells, f'{float(one.end_bits):.3f}'])} |")
    bits = comparison["gold_standard_bits"]
    cells = [
        "other observers, same scene",
        f"{float(bits):.3f}",
        _interval(comparison.gold_standard_bits_interval),
    ]
    lines.append(f"| {' | '.join([*cells, '', '', ''])} |")
    return "\n".join(lines)


def cut_at_target(dataset: ScanpathDataset) -> ScanpathDataset:
    """Cut each path after its first chosen fixation of an object of the target's category.

    People who have found the target often look away and return before they answer. What comes after is no search.

    Parameters
    ----------
    dataset : ScanpathDataset
        With objects assigned.

    Returns
    -------
    ScanpathDataset
        Paths that never reach a target stay as they are.

    Examples
    --------
    >>> from neuroattn.datasets import make_search_arrays
    >>> data = make_search_arrays(n_scenes=8, n_observers=2, stop_on_target=0.2, seed=0)
    >>> bool(cut_at_target(data).data.length.sum() < data.data.length.sum())
    True
    """
    data = dataset.data
    n = int(data.sizes["fixation"])
    first = _first_find(dataset, list(dataset))
    initial = int(dataset.first_fixation == "initial")
    length = np.where(np.isnan(first), data["length"].values, first + initial).astype(np.int64)
    inside = xr.DataArray(np.arange(n) < length[:, None], dims=("trial", "fixation"))
    cut: dict[Any, Any] = {
        name: variable.where(inside, -1 if np.issubdtype(variable.dtype, np.integer) else np.nan)
        for name, variable in data.data_vars.items()
        if variable.dims == ("trial", "fixation")
    }
    return ScanpathDataset(data.assign(cut | {"length": ("trial", length)}), dataset.scenes)


def free_viewing_consistency(
    dataset: ScanpathDataset,
    *,
    sigma: float,
    edge: str,
    kinds: Iterable[str] = AUC_KINDS,
    n_boot: int = 1000,
    seed: int = 0,
) -> xr.Dataset:
    """Score how well the other observers of an image, and other images, predict where a person looks.

    Parameters
    ----------
    dataset : ScanpathDataset
    sigma : float
        Of the fixation maps, px.
    edge : {"reflect", "cut"}
        Of the fixation maps; see :func:`neuroattn.metrics.fixation_map`.
    kinds : iterable of str, default all
        Of :func:`neuroattn.metrics.auc`. NSS is computed besides.
    n_boot : int, default 1000
    seed : int, default 0

    Returns
    -------
    Dataset, dims (metric, bound)
        ``inter_observer``: map of the other observers of the image; ``prior``: map of all fixations on the other
        half of the images; ``difference``; ``..._interval`` of each over images and observers, crossed, at 95 %. All
        parameters are in the attributes.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> def path(image, observer):
    ...     at = rng.normal([[10, 20], [30, 20]][image], 2, (8, 2)).T
    ...     attrs = {"image": image, "observer": observer}
    ...     return Scanpath(*at, (40, 40), first_fixation="free", attrs=attrs)
    >>> paths = [path(image, observer) for image in (0, 1) for observer in "abc"]
    >>> result = free_viewing_consistency(ScanpathDataset.from_scanpaths(paths), sigma=3, edge="reflect", n_boot=50)
    >>> bool((result.difference > 0).all())
    True
    """
    kinds = tuple(kinds)

    def area(kind: str, saliency: Any, fixations: Any, elsewhere: Any) -> float:
        others = elsewhere if kind == "shuffled" else None
        return auc(saliency, fixations, kind=kind, elsewhere=others, seed=seed)

    metrics: dict[str, MapMetric] = {f"AUC {kind}": partial(area, kind) for kind in kinds}
    metrics["NSS"] = lambda saliency, fixations, elsewhere: nss(saliency, fixations)
    scores = map_consistency(dataset, metrics, sigma=sigma, edge=edge)
    scores["difference"] = scores["inter_observer"] - scores["prior"]
    out: dict[str, xr.DataArray] = {}
    for name in ("inter_observer", "prior", "difference"):
        summary = crossed_bootstrap(scores[name], n_resamples=n_boot, seed=seed)
        out[name], out[f"{name}_interval"] = summary["mean"], summary["interval"]
    config = {"sigma": sigma, "edge": edge, "kinds": kinds, "n_boot": n_boot, "confidence": 0.95}
    attrs = {**scores.attrs, **provenance(seed, config), "resampled": summary.attrs["resampled"]}
    attrs |= {key: dataset.data.attrs[key] for key in ("source",) if key in dataset.data.attrs}
    return xr.Dataset(out, attrs=attrs)


def _gold_bits(
    dataset: ScanpathDataset, uniform: NDArray[np.float64], n_folds: int, seed: int
) -> NDArray[np.float64]:
    n_scenes = len(set(dataset.data["scene"].values.tolist()))
    log_prob = gold_standard(dataset, over="objects", n_folds=min(n_folds, n_scenes), seed=seed)["log_prob"]
    return np.asarray(np.where(np.isfinite(uniform), -log_prob.values / np.log(2), np.nan))


def _first_find(dataset: ScanpathDataset, paths: list[Scanpath]) -> NDArray[np.float64]:
    """Return the number of saccades until each path is first on a target, NaN where it never is."""
    out = np.full(len(paths), np.nan)
    for i, path in enumerate(paths):
        if path.objects is None:
            raise ValueError("dataset must have objects: call dataset.assign_objects() first")
        chosen = path.objects[len(path) - path.n_saccades :]
        on = (chosen >= 0) & dataset.scene_of(i).matches_target[np.maximum(chosen, 0)]
        if on.any():
            out[i] = on.argmax() + 1
    return out


def _found(
    dataset: ScanpathDataset, samples: Mapping[str, list[list[Scanpath]]], coords: dict[str, Any]
) -> xr.DataArray:
    """Return for each source and trial the share of paths on the target by each saccade."""
    paths = list(dataset)
    longest = max(path.n_saccades for path in paths)
    saccade = np.arange(1, longest + 1)
    curves: dict[str, NDArray[Any]] = {PEOPLE: _first_find(dataset, paths)[:, None] <= saccade}
    for name, drawn in samples.items():
        n_samples = len(drawn[0])
        finds = [
            _first_find(dataset, [one[s] for one in drawn])[:, None] <= saccade for s in range(n_samples)
        ]
        curves[name] = np.mean(finds, axis=0)
    expected = np.zeros((len(paths), longest))
    for i in range(len(paths)):
        matches = dataset.scene_of(i).matches_target
        # Chance that none of the first k of a random order is a target.
        left = np.cumprod(1 - matches.sum() / np.maximum(len(matches) - np.arange(longest), 1))
        expected[i] = 1 - np.maximum(left, 0) if matches.any() else 0
    curves[MEMORY_FULL] = expected
    return xr.DataArray(
        np.stack([np.asarray(curve, dtype=float) for curve in curves.values()]),
        dims=("source", "trial", "saccade"),
        coords={**coords, "source": list(curves), "saccade": saccade},
    )


def _similarity(
    dataset: ScanpathDataset,
    samples: Mapping[str, list[list[Scanpath]]],
    coords: dict[str, Any],
    seed: int,
) -> xr.DataArray:
    """Return for each source and trial the mean similarity to the person's path, NaN where there is none."""
    people = list(dataset.drop_initial())
    n_objects = max(scene.n_objects for scene in dataset.scenes.values())
    targets = ("image", "target")
    tables = []
    for name, drawn in samples.items():
        pairs = [(sample, person) for one, person in zip(drawn, people, strict=True) for sample in one]
        scores = _both([a for a, _ in pairs], [b for _, b in pairs])
        table = scores.values.reshape(len(people), -1, scores.shape[1])
        tables.append((name, _mean(table)))
    metrics = scores["metric"].values
    anchors = (
        inter_observer(people, _both, by=targets, batched=True),
        same_observer(people, _both, seed=seed, by=targets, batched=True),
        length_matched(people, _both, seed=seed, n_objects=n_objects, batched=True),
    )
    for name, anchor in zip(ANCHORS, anchors, strict=True):
        # Without any pair an anchor knows of no metrics.
        values = anchor.values.reshape(len(people), -1)
        tables.append((name, np.broadcast_to(values, (len(people), len(metrics)))))
    return xr.DataArray(
        np.stack([values for _, values in tables]),
        dims=("path_source", "trial", "metric"),
        coords={**coords, "path_source": [name for name, _ in tables], "metric": metrics},
    )


def _both(a: list[Scanpath], b: list[Scanpath]) -> xr.DataArray:
    """Return sequence score and MultiMatch of pairs, dims (pair, metric)."""
    order = [sequence_score(one, other) for one, other in zip(a, b, strict=True)]
    shape = multimatch_pairs(a, b).sel(dimension=["shape", "direction", "length", "position"])
    return xr.DataArray(
        np.column_stack([order, shape.values]),
        dims=("pair", "metric"),
        coords={"metric": ["sequence score", *(f"MultiMatch {d}" for d in shape["dimension"].values)]},
    )


def _mean(table: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average over the samples (trial, sample, metric) that have a score."""
    count = np.isfinite(table).sum(1)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.nansum(table, axis=1) / count)


def _interval(bounds: xr.DataArray, sign: str = "") -> str:
    low, high = bounds.sel(bound="low").item(), bounds.sel(bound="high").item()
    return f"{low:{sign}.3f} to {high:{sign}.3f}"
