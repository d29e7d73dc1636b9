"""Scores of held-out predictions: by unit and by region, with ceilings, intervals and nulls."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from neuroattn.analyses.fits import (
    ATTENTION_MODELS,
    MODELS,
    Column,
    Data,
    Progress,
    family,
    model_folder,
    new_encoder,
    rows_of,
)
from neuroattn.datasets import Recording
from neuroattn.encoding import NetworkEncoder
from neuroattn.metrics import (
    bootstrap_correlation,
    pearson_r,
    permutation_correlation,
    r2_over_ceiling,
    r2_over_ceiling_algonauts,
    roi_summary,
    shuffled_correlation,
    softmax_ensemble,
)
from neuroattn.metrics.correlation import adjusted_p, region_p

N_RESAMPLES = 1000
N_REGION_SHUFFLES = 100  # of the null of region means, whose mean is drawn
P_VALUES = ("p", "p_fdr", "p_fwe")
BETA = 40.0  # sharpness of ensembles, as published
SIGNIFICANT = 0.05  # of the false discovery rate


class Prediction(NamedTuple):
    """Predicted responses (stimulus, unit), and the seed whose fits they are from.

    Columns that are the same for every seed name the first, so that nothing is scored twice.
    """

    values: NDArray[np.float32]
    seed: int


@dataclass(frozen=True)
class HeldOut:
    """Held-out predictions of all fits of a study, read from their folders when they are asked for.

    Folds of a k-fold split give one prediction a stimulus, as a deviation from the mean of the training responses of
    its fold, which otherwise would correlate negatively with what is held out.

    Parameters
    ----------
    out : Path
        Folder of the study.
    data : Data
    columns : sequence of Column
    seeds : sequence of int
    ensemble : bool
        Add a column "MODEL@ensemble" for every network: seeds averaged, then layers weighted for each unit by a
        softmax of their validation correlations.
    """

    out: Path
    data: Data
    columns: Sequence[Column]
    seeds: Sequence[int]
    ensemble: bool = False

    @property
    def labels(self) -> list[str]:
        """Names along ``model``."""
        networks = dict.fromkeys(c.model for c in self.columns if issubclass(MODELS[c.model], NetworkEncoder))
        together = [f"{model}@ensemble" for model in networks if self.ensemble]
        return [column.label for column in self.columns] + together

    @property
    def rows(self) -> NDArray[np.intp]:
        """Rows of the recording that were tested."""
        return np.unique(np.concatenate([fold.test for fold in self.data.folds]))

    @property
    def kfold(self) -> bool:
        """Whether seeds are those of partitions rather than of networks."""
        return len(self.data.folds) > 1

    def __call__(self, label: str, seed: int) -> Prediction:
        """Read the predictions of one column and seed."""
        source = seed
        if not self.kfold and (label.endswith("@ensemble") or not self._folder(label, seed, 0).is_dir()):
            source = self.seeds[0]
        table = np.full((len(self.rows), self.data.recording.n_units), np.nan, np.float32)
        for i, fold in enumerate(self.data.folds):
            if self.kfold and fold.seed != source:
                continue
            predicted = self._predicted(label, source, i)
            if self.kfold:
                predicted = predicted - np.asarray(self.data.recording.responses[fold.train]).mean(0)
            table[np.searchsorted(self.rows, fold.test)] = predicted
        return Prediction(table, source)

    def validation_correlation(self, label: str, seed: int) -> NDArray[np.float64]:
        """Return the correlation on the stimuli that early stopping watched, (unit,), the mean over folds."""
        folds = [i for i, fold in enumerate(self.data.folds) if not self.kfold or fold.seed == seed]
        found = [_load(self._folder(label, seed, i), "validation_correlation") for i in folds]
        return np.asarray(np.mean(found, axis=0))

    def _predicted(self, label: str, seed: int, fold: int) -> NDArray[np.float32]:
        if not label.endswith("@ensemble"):
            return _load(self._folder(label, seed, fold), "predictions")
        members = [column.label for column in self.columns if column.model == family(label)]
        seeds = [seed] if self.kfold else list(self.seeds)
        folders = [[self._folder(member, s, fold) for s in seeds] for member in members]
        together = softmax_ensemble(
            xr.DataArray(
                [[_load(folder, "predictions") for folder in row] for row in folders],
                dims=("model", "seed", "stimulus", "unit"),
            ),
            xr.DataArray(
                [[_load(folder, "validation_correlation") for folder in row] for row in folders],
                dims=("model", "seed", "unit"),
            ),
            beta=BETA,
        )
        return together["prediction"].values.astype(np.float32)

    def _folder(self, label: str, seed: int, position: int) -> Path:
        return model_folder(self.out, label, seed, self.data.folds[position].fold)


def _load(folder: Path, name: str) -> NDArray[Any]:
    return np.asarray(np.load(folder / f"{name}.npy", allow_pickle=False))


def write_predictions(path: Path, held_out: HeldOut, attrs: Mapping[str, Any]) -> None:
    """Write ``predictions.zarr``, dims (model, seed, stimulus, unit), one model at a time."""
    recording = held_out.data.recording
    units = "units of the responses" + (", minus the mean of training responses" if held_out.kfold else "")
    for label in held_out.labels:
        values = np.stack([held_out(label, seed).values for seed in held_out.seeds])
        table = xr.DataArray(
            values[None],
            dims=("model", "seed", "stimulus", "unit"),
            coords={
                # Text of any length: zarr has no specification for text of a fixed one, and would warn.
                "model": np.asarray([label], dtype=object),
                "seed": list(held_out.seeds),
                "stimulus": recording.stimulus_ids[held_out.rows].astype(object),
                "row": ("stimulus", held_out.rows),
            },
            name="prediction",
            attrs={"units": units},
        )
        more: dict[str, Any] = {"append_dim": "model"} if path.exists() else {"zarr_format": 3}
        table.to_dataset().assign_attrs(attrs).to_zarr(path, consolidated=False, **more)


def contender_of(held_out: HeldOut) -> str | None:
    """Return the attention column that is compared with the baselines, chosen without a look at test stimuli.

    The ensemble where there is one, else the layer with the highest validation correlation, else the only one.
    """
    candidates = [label for label in held_out.labels if family(label) in ATTENTION_MODELS]
    preferred = [label for label in candidates if label == "attention@ensemble"]
    if preferred or len(candidates) < 2:
        return next(iter(preferred or candidates), None)

    def validated(label: str) -> float:
        mean = [np.nanmean(held_out.validation_correlation(label, seed)) for seed in held_out.seeds]
        return float(np.mean(mean))

    return max((label for label in candidates if not label.endswith("@ensemble")), key=validated)


def collect_attention(held_out: HeldOut, label: str) -> xr.DataArray | None:
    """Return head-mean maps of held-out stimuli, dims (seed, stimulus, query, y, x), or None where there are none."""
    data, per_seed = held_out.data, []
    for seed in held_out.seeds:
        parts = []
        for i, fold in enumerate(data.folds):
            path = held_out._folder(label, seed, i) / "attention.nc"
            rows = np.intersect1d(fold.test, data.shown)
            if (not held_out.kfold or fold.seed == seed) and len(rows) and path.is_file():
                maps = xr.load_dataset(path, engine="h5netcdf")["attention"]
                parts.append(maps.assign_coords(row=("stimulus", rows)))
        if not parts:
            return None
        per_seed.append(xr.concat(parts, dim="stimulus").sortby("row"))
    seeds = pd.Index(list(held_out.seeds), name="seed")
    attention = xr.concat(per_seed, dim=seeds, coords="minimal", compat="override")
    ids = data.recording.stimulus_ids[attention["row"].values].astype(str)
    return attention.assign_coords(stimulus=ids).assign_attrs(model=label)


def score_predictions(
    predict: Callable[[str, int], Prediction],
    labels: Sequence[str],
    seeds: Sequence[int],
    rows: NDArray[np.intp],
    recording: Recording,
    *,
    contender: str | None = None,
    min_ceiling: float = 0.1,
    n_shuffles: int = 1000,
    seed: int = 0,
    progress: Progress | None = None,
) -> tuple[xr.Dataset, xr.Dataset]:
    """Score predictions by unit and by region.

    Intervals are percentiles over resampled test stimuli, paired between models; the null shuffles which test
    stimulus a prediction belongs to. Region scores average over seeds and units.

    Parameters
    ----------
    predict : callable
        Returns the :class:`Prediction` of a label and a seed, for instance a :class:`HeldOut`.
    labels : sequence of str
    seeds : sequence of int
    rows : int array, shape (stimulus,)
        Rows of the recording that are predicted.
    recording : Recording
    contender : str, optional
        Label that is compared with the best label of another family.
    min_ceiling : float, default 0.1
    n_shuffles : int, default 1000
        Shuffles for the p-value of every unit; 0 leaves p-values out.
    seed : int, default 0
    progress : callable, optional

    Returns
    -------
    scores : Dataset, dims (subject, model, seed, unit, roi, bound)
        ``p`` is one-sided and of single units, ``p_fdr`` adjusted for the false discovery rate over units, ``p_fwe``
        for the family of units by the largest correlation of each shuffle.
    roi_scores : Dataset, dims (model, roi, bound)
        ``p`` is one-sided and of the mean correlation of a region, under the shuffles of the units' p-values, ``p_fdr``
        adjusted for the false discovery rate over regions (but not "all" units, which are no further region), and
        ``share_significant`` the share of a region's units whose own ``p_fdr`` is below .05.
        ``difference`` is the contender minus the best of the others, chosen on the same stimuli, which favours the
        baseline.
    """
    step = progress or (lambda stage, done, total: None)
    y = np.asarray(recording.responses[rows])
    n_shuffles = min(n_shuffles, math.factorial(min(len(rows), 20)) - 1)  # few stimuli have few orders
    ceiling = (
        np.full(recording.n_units, np.nan) if recording.noise_ceiling is None else recording.noise_ceiling
    )
    members = with_all_units(recording.rois)
    shape = (len(labels), len(seeds), recording.n_units)
    r, interval = np.full(shape, np.nan), np.full((*shape, 2), np.nan)
    p = {name: np.full(shape, np.nan, np.float32) for name in (P_VALUES if n_shuffles else ())}
    statistics: dict[str, Callable[[NDArray[Any]], NDArray[Any]]] = {
        "correlation": lambda values: values,
        "r2_over_ceiling": lambda values: r2_over_ceiling(values, ceiling, min_ceiling=min_ceiling),
    }
    resampled: dict[str, list[NDArray[Any]]] = {name: [] for name in statistics}
    shuffled: dict[str, list[NDArray[Any]]] = {name: [] for name in statistics}
    region_nulls: list[NDArray[Any]] = []
    for m, label in enumerate(labels):
        draws: dict[str, list[NDArray[Any]]] = {name: [] for name in statistics}
        nulls: dict[str, list[NDArray[Any]]] = {name: [] for name in statistics}
        region_null: list[NDArray[Any]] = []
        for s, one in enumerate(seeds):
            step("scores", m * len(seeds) + s, len(labels) * len(seeds))
            predicted = predict(label, one)
            first = list(seeds).index(predicted.seed)
            if first < s:  # scored already
                for table in (r, interval, *p.values()):
                    table[m, s] = table[m, first]
                for parts in (*draws.values(), *nulls.values(), *([region_null] if n_shuffles else [])):
                    parts.append(parts[first])
                continue
            r[m, s] = pearson_r(y, predicted.values)
            boot = bootstrap_correlation(y, predicted.values, n_resamples=N_RESAMPLES, seed=seed)
            null = shuffled_correlation(y, predicted.values, n_shuffles=N_REGION_SHUFFLES, seed=seed)
            known = np.isfinite(r[m, s])
            interval[m, s, known] = np.nanpercentile(boot[:, known], [2.5, 97.5], axis=0).T
            if n_shuffles:
                tested = permutation_correlation(
                    y, predicted.values, n_permutations=n_shuffles, seed=seed, membership=members
                )
                for name, table in p.items():
                    table[m, s] = tested[name].values
                region_null.append(tested["roi_null"].values)
            for name, function in statistics.items():
                draws[name].append(roi_means(function(boot), members))
                nulls[name].append(roi_means(function(null), members).mean(0))
        for name in statistics:
            resampled[name].append(np.mean(draws[name], axis=0))
            shuffled[name].append(np.mean(nulls[name], axis=0))
        if n_shuffles:
            region_nulls.append(np.mean(region_null, axis=0))  # seeds share the shuffles
    step("scores", len(labels) * len(seeds), len(labels) * len(seeds))

    coords = {name: recording.rois[name].variable for name in ("hemisphere", "unit_kind", "vertex_index")}
    dims = ("model", "seed", "unit")
    scores = xr.Dataset(
        {
            "correlation": (dims, r),
            "correlation_ci": ((*dims, "bound"), interval),
            "noise_ceiling": ("unit", ceiling),
            "r2_over_ceiling": (dims, r2_over_ceiling(r, ceiling, min_ceiling=min_ceiling)),
            "r2_over_ceiling_algonauts": (dims, r2_over_ceiling_algonauts(r, ceiling)),
            **{name: (dims, table) for name, table in p.items()},
        },
        coords={
            "model": list(labels),
            "seed": list(seeds),
            "bound": ["low", "high"],
            "roi": recording.rois["roi"].values,
            "membership": (("roi", "unit"), recording.rois.values),
            **coords,
        },
        attrs={"n_shuffles": n_shuffles},
    ).expand_dims(subject=[recording.name])
    for name in ("correlation", "correlation_ci", "noise_ceiling", "r2_over_ceiling"):
        scores[name].attrs["units"] = "1"
    return scores, region_table(scores.isel(subject=0), members, resampled, shuffled, region_nulls, contender)


def permutation_null(
    held_out: HeldOut,
    features: Mapping[str, Any],
    options: Mapping[str, Mapping[str, Any]],
    roi_scores: xr.Dataset,
    n_permutations: int,
    seed: int,
    progress: Progress,
) -> xr.Dataset:
    """Score models in closed form that were fitted to permuted training rows, on the folds of the first seed.

    Returns
    -------
    Dataset, dims (model, roi)
        ``correlation_permuted`` and ``correlation_permuted_max``, the mean and the largest of the null, and
        ``p_permuted``, the share of the null, the observed score included, that reaches the observed score. NaN for
        networks, which would take as many trainings.
    """
    recording, y = held_out.data.recording, np.asarray(held_out.data.recording.responses[held_out.rows])
    closed = [column for column in held_out.columns if not issubclass(MODELS[column.model], NetworkEncoder)]
    folds = [fold for fold in held_out.data.folds if fold.seed == held_out.data.folds[0].seed]
    members, labels = with_all_units(recording.rois), held_out.labels
    rng = np.random.default_rng(seed)
    null = np.full((n_permutations, len(labels), members.sizes["roi"]), np.nan)
    for i in range(n_permutations):
        progress("permuted", i, n_permutations)
        orders = [rng.permutation(len(fold.train)) for fold in folds]
        for column in closed:
            table = features[column.label]
            predicted = np.empty_like(y)
            for fold, order in zip(folds, orders, strict=True):
                encoder = new_encoder(column.model, recording, options.get(column.model, {}), seed, "cpu")
                permuted = np.asarray(recording.responses[fold.train])[order]
                encoder.fit(rows_of(table, fold.train), permuted)
                rows = np.searchsorted(held_out.rows, fold.test)
                predicted[rows] = encoder.predict(rows_of(table, fold.test))
                if len(folds) > 1:
                    predicted[rows] -= permuted.mean(0)
            null[i, labels.index(column.label)] = roi_means(pearson_r(y, predicted)[None], members)[0]
    progress("permuted", n_permutations, n_permutations)
    observed = roi_scores["correlation"].sel(model=labels).values
    reached = (null >= observed).sum(0) + 1
    known = np.isfinite(null).all(0) & np.isfinite(observed)
    return xr.Dataset(
        {
            "correlation_permuted": (("model", "roi"), null.mean(0)),
            "correlation_permuted_max": (("model", "roi"), null.max(0)),
            "p_permuted": (("model", "roi"), np.where(known, reached / (n_permutations + 1), np.nan)),
        },
        coords={"model": labels, "roi": members["roi"].values},
        attrs={"n_permutations": n_permutations},
    )


def region_table(
    scores: xr.Dataset,
    members: xr.DataArray,
    resampled: Mapping[str, Sequence[NDArray[Any]]],
    shuffled: Mapping[str, Sequence[NDArray[Any]]],
    nulls: Sequence[NDArray[Any]],
    contender: str | None,
) -> xr.Dataset:
    """Summarize unit scores by region, with intervals from resampled and p-values from shuffled stimuli."""
    dims = ("model", "roi")
    table = xr.Dataset(
        coords={"model": scores["model"].values, "roi": members["roi"].values, "bound": ["low", "high"]}
    )
    for name in resampled:
        summary = roi_summary(scores[name].mean("seed"), members)
        table[name] = (dims, summary["mean"].values)
        table[f"{name}_median"] = (dims, summary["median"].values)
        table[f"{name}_ci"] = ((*dims, "bound"), _percentiles(np.stack(resampled[name])))
        table[f"{name}_shuffled"] = (dims, np.stack(shuffled[name]))
        if name == "correlation":
            table["n_units"] = ("roi", summary["n_units"].values.max(0))
        else:
            table["n_dropped"] = ("roi", summary["n_dropped"].values.min(0))
    if nulls:
        p = np.stack([region_p(r, null) for r, null in zip(table["correlation"].values, nulls, strict=True)])
        names = members["roi"].values
        regions = (names != "all") | (len(names) == 1)
        q = np.full(p.shape, np.nan)
        q[:, regions] = [adjusted_p(row) for row in p[:, regions]]
        found = (
            (scores["p_fdr"] < SIGNIFICANT)
            .where(scores["p_fdr"].notnull())
            .transpose("model", "seed", "unit")
        )
        share = np.stack([roi_means(one, members).mean(0) for one in found.values])
        table["p"], table["p_fdr"], table["share_significant"] = (dims, p), (dims, q), (dims, share)
    models = list(scores["model"].values)
    attention = {name for name in models if family(name) in ATTENTION_MODELS}
    others = [i for i, name in enumerate(models) if name not in attention and name != contender]
    best = np.full(members.sizes["roi"], "", dtype=object)
    difference = np.full((len(models), members.sizes["roi"]), np.nan)
    interval = np.full((*difference.shape, 2), np.nan)
    if contender is not None and others:
        a = models.index(contender)
        draws = np.stack(resampled["correlation"])
        mean = table["correlation"].values
        for i in np.flatnonzero(np.isfinite(mean[a])):
            b = others[int(np.argmax(mean[others, i]))]
            best[i] = models[b]
            difference[a, i] = mean[a, i] - mean[b, i]
            interval[a, i] = np.percentile(draws[a, :, i] - draws[b, :, i], [2.5, 97.5])
    table["best_baseline"] = ("roi", best.astype(str))
    table["difference"] = (dims, difference)
    table["difference_ci"] = ((*dims, "bound"), interval)
    return table


def with_all_units(rois: xr.DataArray) -> xr.DataArray:
    """Return the membership with one more region, "all", unless it is there."""
    plain = rois.reset_coords(drop=True)
    if "all" in plain["roi"].values:
        return plain
    everything = xr.ones_like(plain.isel(roi=[0])).assign_coords(roi=["all"])
    return xr.concat([plain, everything], dim="roi")


def roi_means(values: NDArray[Any], members: xr.DataArray) -> NDArray[np.float64]:
    """Average over the finite units of each region: (resample, unit) to (resample, roi)."""
    finite = np.isfinite(values)
    weight = members.values.T.astype(np.float64)
    count = finite @ weight
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(finite, values, 0) @ weight / np.where(count > 0, count, np.nan))


def _percentiles(draws: NDArray[Any]) -> NDArray[np.float64]:
    """Return 95 % bounds over axis 1, NaN where nothing was drawn: (model, resample, roi) to (model, roi, 2)."""
    out = np.full((draws.shape[0], draws.shape[2], 2), np.nan)
    for m, roi in np.argwhere(np.isfinite(draws).any(1)):
        out[m, roi] = np.nanpercentile(draws[m, :, roi], [2.5, 97.5])
    return out
