"""Fit encoders to one recording, score them side by side, and write everything a reader needs."""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from neuroattn import __version__
from neuroattn._checks import check_option, check_range
from neuroattn.analyses.report import write_encoder_report
from neuroattn.datasets import Fold, Recording, Rows, split_stimuli
from neuroattn.datasets.export import export_map
from neuroattn.encoding import (
    Backbone,
    BrainEncoder,
    Encoder,
    FactorizedEncoder,
    NetworkEncoder,
    PooledRidgeEncoder,
    ProbeEncoder,
    RidgeEncoder,
    extract_features,
)
from neuroattn.metrics import (
    bootstrap_correlation,
    pearson_r,
    r2_over_ceiling,
    r2_over_ceiling_algonauts,
    roi_summary,
    shuffled_correlation,
)
from neuroattn.results import provenance, replacing, write_json, write_netcdf

MODELS: dict[str, type[Encoder]] = {
    "attention": BrainEncoder,
    "ridge": RidgeEncoder,
    "pooled-ridge": PooledRidgeEncoder,
    "factorized": FactorizedEncoder,
    "probe": ProbeEncoder,
}
N_RESAMPLES = 1000
N_SHUFFLES = 100
N_MAPS = 32  # test images whose attention is kept

Progress = Callable[[str, int, int], None]
"""Called with a stage, the steps done and the steps in all."""


def run_encoder_study(
    recording: Recording,
    out: str | Path,
    *,
    models: Sequence[str] = tuple(MODELS),
    options: Mapping[str, Mapping[str, Any]] | None = None,
    backbone: Backbone | None = None,
    pool: int | None = None,
    cache: str | Path | None = None,
    split: str | Path = "given",
    seed: int = 0,
    n_seeds: int = 1,
    min_ceiling: float = 0.1,
    n_permutations: int = 0,
    export: str | None = None,
    device: str = "auto",
    resume: bool = False,
    progress: Progress | None = None,
    command: str = "",
) -> xr.Dataset:
    """Fit, predict, score and report.

    Every model is fitted to the training stimuli of every fold and scored on stimuli it has not seen. Folds of a
    k-fold split give one out-of-fold prediction a stimulus; they are scored as deviations from the mean of their
    training responses, which otherwise would correlate negatively with what is held out.

    Parameters
    ----------
    recording : Recording
        Rows of one stimulus are averaged first.
    out : str or Path
        Folder for ``scores.nc``, ``roi_scores.nc``, ``attention.nc``, ``predictions.zarr``, ``report.html`` and a
        folder ``models/NAME/seed-S/fold-F`` with ``model.safetensors`` and ``config.json`` for every fit.
    models : sequence of {"attention", "ridge", "pooled-ridge", "factorized", "probe"}
    options : mapping of model to parameters, optional
        Parameters other than the defaults, for instance ``{"attention": {"layers": 2}}``.
    backbone : Backbone, optional
        Turns the recording's images into features; None takes the recording's features.
    pool : int, optional
        Average the tokens to ``pool`` x ``pool`` first.
    cache : str or Path, optional
        Folder of stored features; default ``features`` in ``out``.
    split : str or Path
        See :func:`neuroattn.datasets.split_stimuli`.
    seed, n_seeds : int
        Seeds ``seed .. seed + n_seeds - 1`` for networks on a fixed partition. A k-fold split brings its own seeds.
    min_ceiling : float, default 0.1
        Units with a lower noise ceiling have no ``r2_over_ceiling``.
    n_permutations : int, default 0
        Fit the ridge models so many times again to responses whose training rows are permuted: the null of no
        relation between stimuli and responses, penalties chosen anew.
    export : {"gifti", "mgh", "nifti"}, optional
        Also write maps of the scores.
    device : str
    resume : bool, default False
        Continue in ``out``: finished fits are kept, an interrupted one goes on where it was.
    progress : callable, optional
    command : str
        Shown in the report.

    Returns
    -------
    Dataset
        ``scores.nc``: dims subject, model, seed, unit, roi, bound.

    Raises
    ------
    ValueError
        If no model applies, or ``out`` holds another study.

    Examples
    --------
    >>> import tempfile
    >>> from neuroattn.results import label_rois
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(60, 4, 3, 3)).astype("f4")
    >>> recording = Recording("demo", X.mean((2, 3)), label_rois({"V4": [True] * 4}, unit_kind="neuron"),
    ...                       stimulus_ids=np.arange(60).astype(str), features=X)
    >>> out = Path(tempfile.mkdtemp()) / "study"
    >>> scores = run_encoder_study(recording, out, models=["pooled-ridge"], split="test=20,seed=0")
    >>> bool((scores.correlation > 0.95).all()), (out / "report.html").is_file()
    (True, True)
    """
    started = time.monotonic()
    report_step = progress or (lambda stage, done, total: None)
    check_range("n_seeds", n_seeds, 1)
    check_range("min_ceiling", min_ceiling, 0, 1)
    for name in models:
        check_option("model", name, MODELS)
    shape = feature_shape(recording, backbone, pool)
    reasons = {
        name: "not applicable: no spatial tokens"
        for name in models
        if MODELS[name].needs_tokens and len(shape) != 3
    }
    applicable = [name for name in models if name not in reasons]
    if not applicable:
        raise ValueError(f"model {', '.join(models)} needs spatial tokens, got features of shape {shape}")
    # What does not fit is refused before anything is written.
    for name in applicable:
        encoder = new_encoder(name, recording, (options or {}).get(name, {}), seed, device)
        if isinstance(encoder, NetworkEncoder):
            encoder.build_network(shape[0], (shape[1], shape[2]), recording.n_units)
    if export is not None:
        with tempfile.TemporaryDirectory() as trial:
            nothing = np.full(recording.n_units, np.nan)
            export_map(nothing, recording, Path(trial) / "map", export, name="trial")
    recording = average_repeats(recording)
    folds = split_stimuli(recording.stimulus_ids, split, test=recording.test)
    out = Path(out)
    config: dict[str, Any] = {
        "recording": recording.name,
        "n_stimuli": recording.n_stimuli,
        "n_units": recording.n_units,
        "data": fingerprint(recording),
        "models": list(models),
        "options": {k: dict(v) for k, v in (options or {}).items()},
        "backbone": None if backbone is None else backbone.config,
        "pool": pool,
        "split": str(split),
        "seed": seed,
        "n_seeds": n_seeds,
        "min_ceiling": min_ceiling,
        "n_permutations": n_permutations,
    }
    open_study(out, config, resume)

    features: Any = recording.features
    if backbone is not None and recording.images is not None:
        features = extract_features(
            recording.images,
            backbone,
            out / "features" if cache is None else Path(cache),
            pool=pool,
            progress=counting(report_step, "features", recording.n_stimuli),
        )
    elif pool is not None:
        features = pool_tokens(features, pool)

    seeds = sorted({fold.seed for fold in folds}) if len(folds) > 1 else list(range(seed, seed + n_seeds))
    shown = shown_stimuli(folds)
    jobs = [
        (name, s, fold)
        for name in applicable
        for s in seeds
        for fold in folds
        if len(folds) == 1 or fold.seed == s
    ]
    for i, (name, s, fold) in enumerate(jobs):
        report_step("fits", i, len(jobs))
        if len(folds) == 1 and s != seeds[0] and not issubclass(MODELS[name], NetworkEncoder):
            continue  # a closed-form model on a fixed partition is the same for every seed
        fit_one(
            recording,
            features,
            fold,
            model_folder(out, name, s, fold.fold),
            new_encoder(name, recording, (options or {}).get(name, {}), s, device),
            shown,
        )
    report_step("fits", len(jobs), len(jobs))

    report_step("scores", 0, 1)
    predictions = collect_predictions(out, recording, folds, applicable, seeds)
    scores, roi_scores = score_predictions(predictions, recording, folds, min_ceiling=min_ceiling, seed=seed)
    if n_permutations:
        null = permutation_null(
            recording,
            features,
            folds,
            applicable,
            options or {},
            roi_scores,
            n_permutations,
            seed,
            report_step,
        )
        roi_scores = roi_scores.merge(null)
    attention = collect_attention(out, recording, folds, seeds, shown) if "attention" in applicable else None
    attrs = {
        **provenance(seed, config),
        "simulated": int(recording.simulated),
        "min_ceiling": min_ceiling,
        "not_applicable": json.dumps(reasons),
    }
    for dataset in (scores, roi_scores):
        dataset.attrs |= attrs
    with replacing(out / "predictions.zarr") as temporary:
        predictions.to_dataset().assign_attrs(attrs).to_zarr(temporary, zarr_format=3, consolidated=False)
    if attention is not None:
        write_netcdf(out / "attention.nc", attention.assign_attrs(attention.attrs | attrs).to_dataset())
    write_netcdf(out / "roi_scores.nc", roi_scores)
    write_netcdf(out / "scores.nc", scores)
    if export is not None:
        mean = scores.mean("seed").isel(subject=0)
        for variable in ("correlation", "r2_over_ceiling"):
            for name in applicable:
                values = mean[variable].sel(model=name).values
                export_map(values, recording, out / "maps" / f"{name}_{variable}", export, name=variable)
    images = None if recording.images is None else recording.images[shown]
    write_encoder_report(
        out / "report.html",
        scores=scores,
        roi_scores=roi_scores,
        attention=attention,
        images=images,
        truth=shown_truth(recording, shown),
        surface=recording.surface,
        config={
            "command": command,
            "dataset": recording.name,
            "backbone": "given features" if backbone is None else backbone.config["name"],
            "layer": "as given" if backbone is None else backbone.config["layer"],
            "split": str(split),
            "seeds": [int(s) for s in seeds],
            "n_train": len(folds[0].train),
            "n_test": predictions.sizes["stimulus"],
            "n_bootstrap": N_RESAMPLES,
            "notes": list(recording.notes),
            "versions": versions(),
            "durations": {"in all": time.monotonic() - started},
            "not_applicable": reasons,
        },
    )
    report_step("scores", 1, 1)
    return scores


def counting(progress: Progress, stage: str, total: int) -> Callable[[int], None]:
    """Return a callback for steps just done that reports all steps done.

    Examples
    --------
    >>> step = counting(print, "features", 96)
    >>> step(32), step(32)
    features 32 96
    features 64 96
    (None, None)
    """
    done = 0

    def step(n: int) -> None:
        nonlocal done
        done += n
        progress(stage, done, total)

    return step


def open_study(out: Path, config: Mapping[str, Any], resume: bool) -> None:
    """Create the folder of a study, or check that it holds the same one.

    Examples
    --------
    >>> import tempfile
    >>> out = Path(tempfile.mkdtemp()) / "study"
    >>> open_study(out, {"seed": 0}, resume=False)
    >>> open_study(out, {"seed": 1}, resume=True)
    Traceback (most recent call last):
    ValueError: out ... holds a study with another seed (0, now 1); choose another folder
    """
    stored = out / "config.json"
    wanted = json.loads(json.dumps(dict(config), default=str))
    if out.exists() and not out.is_dir():
        raise ValueError(f"out {out} must be a folder, got a file")
    if stored.is_file():
        found = json.loads(stored.read_text())
        if not resume:
            raise ValueError(
                f"out {out} holds a study already; give --resume to continue it or another folder"
            )
        for key in wanted:
            if found.get(key) != wanted[key]:
                raise ValueError(
                    f"out {out} holds a study with another {key} ({found.get(key)}, now {wanted[key]}); "
                    "choose another folder"
                )
        return
    if out.is_dir() and any(out.iterdir()):
        raise ValueError(f"out {out} must be empty or hold a study to resume, got other files")
    out.mkdir(parents=True, exist_ok=True)
    write_json(stored, wanted)


def estimate_training(
    recording: Recording,
    models: Sequence[str],
    options: Mapping[str, Mapping[str, Any]],
    shape: tuple[int, ...],
    n_train: int,
    device: str,
) -> dict[str, float]:
    """Estimate how long one fit of each network takes, from one timed training step.

    Parameters
    ----------
    recording : Recording
    models : sequence of str
    options : mapping of model to parameters
    shape : tuple of int
        Features of one stimulus.
    n_train : int
        Training stimuli.
    device : str

    Returns
    -------
    dict of str to float
        Seconds by model if training runs to its last epoch; models in closed form take seconds and are left out.
    """
    import torch

    seconds = {}
    for name in models:
        encoder = new_encoder(name, recording, options.get(name, {}), 0, device)
        if not isinstance(encoder, NetworkEncoder) or len(shape) != 3:
            continue
        network = encoder.build_network(shape[0], (shape[1], shape[2]), recording.n_units).to(device)
        batch = torch.zeros(encoder.batch_size, *shape, device=device)
        for _ in range(2):  # the first step also allocates
            start = time.perf_counter()
            network(batch).square().mean().backward()
            step = time.perf_counter() - start
        n_batches = -(-n_train * (1 - encoder.validation_fraction) // encoder.batch_size)
        seconds[name] = step * n_batches * encoder.epochs
    return seconds


def fingerprint(recording: Recording) -> str:
    """Return a hash of stimuli, regions and some responses, by which a resumed study knows its data.

    Examples
    --------
    >>> from neuroattn.results import label_rois
    >>> one = Recording("a", np.zeros((3, 1), "f4"), label_rois({"V1": [True]}),
    ...                 stimulus_ids=np.array(["x", "y", "z"]), features=np.zeros((3, 2), "f4"))
    >>> fingerprint(one) == fingerprint(replace(one, responses=np.ones((3, 1), "f4")))
    False
    """
    rows = np.unique(np.linspace(0, recording.n_stimuli - 1, 16).astype(int))
    digest = hashlib.blake2b(digest_size=8)
    digest.update("\n".join(recording.stimulus_ids.tolist()).encode())
    digest.update(np.packbits(recording.rois.values).tobytes())
    digest.update(np.ascontiguousarray(recording.responses[rows]).tobytes())
    return digest.hexdigest()


def feature_shape(recording: Recording, backbone: Backbone | None, pool: int | None) -> tuple[int, ...]:
    """Return the shape of the features of one stimulus, (channel, y, x), or (channel,) without tokens.

    Examples
    --------
    >>> from neuroattn.results import label_rois
    >>> cells = Recording("a", np.zeros((3, 1), "f4"), label_rois({"V4": [True]}),
    ...                   stimulus_ids=np.arange(3).astype(str), features=np.zeros((3, 8, 14, 14), "f4"))
    >>> feature_shape(cells, None, pool=7)
    (8, 7, 7)
    """
    if backbone is not None:
        if recording.images is None:
            raise ValueError("backbone must be None for a recording without images")
        shape: tuple[int, ...] = (backbone.n_channels, *backbone.grid)
    elif recording.features is not None:
        shape = tuple(recording.features.shape[1:])
    else:
        raise ValueError("backbone must be given for a recording of images without features")
    if pool is None:
        return shape
    check_range("pool", pool, 1)
    if len(shape) != 3:
        raise ValueError(f"pool must be None for features without spatial tokens, got {pool}")
    return (shape[0], pool, pool)


def average_repeats(recording: Recording) -> Recording:
    """Average rows that show the same stimulus.

    A stimulus never falls on both sides of a split, so this averages within partitions only.

    Examples
    --------
    >>> from neuroattn.results import label_rois
    >>> twice = Recording("a", np.array([[0.0], [2.0], [5.0]], "f4"), label_rois({"V1": [True]}),
    ...                   stimulus_ids=np.array(["x", "x", "y"]), features=np.zeros((3, 2), "f4"))
    >>> average_repeats(twice).responses.ravel()
    array([1., 5.], dtype=float32)
    """
    ids, first, row_of = np.unique(recording.stimulus_ids, return_index=True, return_inverse=True)
    if len(ids) == recording.n_stimuli:
        return recording
    if recording.test is not None and any(
        recording.test[row_of == i].any() != recording.test[row_of == i].all() for i in range(len(ids))
    ):
        raise ValueError("recording has a stimulus in its training and its test partition")
    order = np.sort(first)
    total = np.zeros((len(ids), recording.n_units))
    np.add.at(total, np.searchsorted(order, first)[row_of], np.asarray(recording.responses, dtype=np.float64))
    count = np.bincount(np.searchsorted(order, first)[row_of])[:, None]
    note = f"{recording.n_stimuli} rows averaged to {len(ids)} stimuli"
    return replace(
        recording,
        responses=(total / count).astype(np.float32),
        stimulus_ids=recording.stimulus_ids[order],
        images=None if recording.images is None else recording.images[order],
        features=None if recording.features is None else recording.features[order],
        test=None if recording.test is None else recording.test[order],
        notes=(*recording.notes, note),
    )


def pool_tokens(features: NDArray[Any], pool: int) -> NDArray[np.float32]:
    """Average tokens to a ``pool`` x ``pool`` grid.

    Examples
    --------
    >>> pool_tokens(np.ones((2, 3, 14, 14), "f4"), 7).shape
    (2, 3, 7, 7)
    """
    import torch

    tokens = torch.from_numpy(np.array(features, dtype=np.float32))  # a copy: torch wants it writable
    return torch.nn.functional.adaptive_avg_pool2d(tokens, pool).numpy()


def new_encoder(
    name: str, recording: Recording, options: Mapping[str, Any], seed: int, device: str
) -> Encoder:
    """Build an unfitted encoder for the units of a recording."""
    cls = MODELS[name]
    if issubclass(cls, NetworkEncoder):
        return cls(rois=recording.rois, **({"seed": seed, "device": device} | dict(options)))
    return cls(**options)


def model_folder(out: Path, name: str, seed: int, fold: int) -> Path:
    """Return the folder of one fit."""
    return out / "models" / name / f"seed-{seed}" / f"fold-{fold}"


def shown_stimuli(folds: Sequence[Fold]) -> NDArray[np.intp]:
    """Return the rows whose attention is kept: the first ones that are tested."""
    tested = np.unique(np.concatenate([fold.test for fold in folds]))
    return tested[:N_MAPS]


def fit_one(
    recording: Recording,
    features: Any,
    fold: Fold,
    folder: Path,
    encoder: Encoder,
    shown: NDArray[np.intp],
) -> None:
    """Fit one model to one fold unless its folder is there, and store it with its predictions."""
    if folder.is_dir():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    train, responses = rows_of(features, fold.train), rows_of(recording.responses, fold.train)
    state = folder.with_name(f"{folder.name}.training")
    if isinstance(encoder, NetworkEncoder):
        encoder.fit(train, responses, checkpoint=state)
    else:
        encoder.fit(train, responses)
    predicted = encoder.predict(rows_of(features, fold.test))
    with replacing(folder) as temporary:
        encoder.save(temporary)
        np.save(temporary / "predictions.npy", predicted.astype(np.float32))
        if isinstance(encoder, BrainEncoder) and encoder.readout != "unit":
            rows = np.intersect1d(fold.test, shown)
            if len(rows):
                write_netcdf(temporary / "attention.nc", encoder.attention(features[rows]).to_dataset())
    shutil.rmtree(state, ignore_errors=True)


def rows_of(table: Any, rows: NDArray[np.intp]) -> Any:
    """Return rows of an array, or a view that reads rows of a store when they are asked for."""
    return table[rows] if isinstance(table, np.ndarray) else Rows(table, rows)


def collect_predictions(
    out: Path, recording: Recording, folds: Sequence[Fold], models: Sequence[str], seeds: Sequence[int]
) -> xr.DataArray:
    """Return held-out predictions, dims (model, seed, stimulus, unit), of all stimuli that were tested."""
    tested = np.unique(np.concatenate([fold.test for fold in folds]))
    kfold = len(folds) > 1
    table = np.full((len(models), len(seeds), len(tested), recording.n_units), np.nan, np.float32)
    for m, name in enumerate(models):
        for s, seed in enumerate(seeds):
            for fold in folds:
                if kfold and fold.seed != seed:
                    continue
                folder = model_folder(out, name, seed, fold.fold)
                if not folder.is_dir():  # closed form on a fixed partition: one fit serves all seeds
                    folder = model_folder(out, name, seeds[0], fold.fold)
                predicted = np.load(folder / "predictions.npy", allow_pickle=False)
                if kfold:
                    predicted = predicted - np.asarray(recording.responses[fold.train]).mean(0)
                table[m, s, np.searchsorted(tested, fold.test)] = predicted
    return xr.DataArray(
        table,
        dims=("model", "seed", "stimulus", "unit"),
        coords={
            # Text of any length: zarr has no specification for text of a fixed one, and would warn.
            "model": np.asarray(models, dtype=object),
            "seed": list(seeds),
            "stimulus": recording.stimulus_ids[tested].astype(object),
            "row": ("stimulus", tested),
        },
        name="prediction",
        attrs={
            "units": "units of the responses" + (", minus the mean of training responses" if kfold else "")
        },
    )


def collect_attention(
    out: Path, recording: Recording, folds: Sequence[Fold], seeds: Sequence[int], shown: NDArray[np.intp]
) -> xr.DataArray | None:
    """Return head-mean maps of held-out stimuli, dims (seed, stimulus, query, y, x), or None where there are none."""
    per_seed = []
    for seed in seeds:
        parts = []
        for fold in folds:
            path = model_folder(out, "attention", seed, fold.fold) / "attention.nc"
            rows = np.intersect1d(fold.test, shown)
            if (len(folds) == 1 or fold.seed == seed) and len(rows) and path.is_file():
                parts.append(
                    xr.load_dataset(path, engine="h5netcdf")["attention"].assign_coords(
                        row=("stimulus", rows)
                    )
                )
        if not parts:
            return None
        per_seed.append(xr.concat(parts, dim="stimulus").sortby("row"))
    attention = xr.concat(
        per_seed, dim=pd.Index(list(seeds), name="seed"), coords="minimal", compat="override"
    )
    return attention.assign_coords(stimulus=recording.stimulus_ids[attention["row"].values].astype(str))


def score_predictions(
    predictions: xr.DataArray,
    recording: Recording,
    folds: Sequence[Fold],
    *,
    min_ceiling: float = 0.1,
    seed: int = 0,
) -> tuple[xr.Dataset, xr.Dataset]:
    """Score held-out predictions by unit and by region.

    Intervals are percentiles over resampled test stimuli, paired between models; the null shuffles which test
    stimulus a prediction belongs to. Region scores average over seeds and units.

    Parameters
    ----------
    predictions : DataArray, dims (model, seed, stimulus, unit)
        With the coordinate ``row`` along ``stimulus``.
    recording : Recording
    folds : sequence of Fold
    min_ceiling : float, default 0.1
    seed : int, default 0

    Returns
    -------
    scores : Dataset, dims (subject, model, seed, unit, roi, bound)
    roi_scores : Dataset, dims (model, roi, bound)
        ``difference`` is the attention model minus the best of the others, chosen on the same stimuli, which favours
        the baseline.
    """
    y = np.asarray(recording.responses[predictions["row"].values])
    ceiling = (
        np.full(recording.n_units, np.nan) if recording.noise_ceiling is None else recording.noise_ceiling
    )
    members = with_all_units(recording.rois)
    models, seeds = predictions["model"].values, predictions["seed"].values
    shape = (len(models), len(seeds), recording.n_units)
    r, interval = np.full(shape, np.nan), np.full((*shape, 2), np.nan)
    statistics: dict[str, Callable[[NDArray[Any]], NDArray[Any]]] = {
        "correlation": lambda values: values,
        "r2_over_ceiling": lambda values: r2_over_ceiling(values, ceiling, min_ceiling=min_ceiling),
    }
    resampled: dict[str, list[NDArray[Any]]] = {name: [] for name in statistics}
    shuffled: dict[str, list[NDArray[Any]]] = {name: [] for name in statistics}
    for m, model in enumerate(models):
        draws: dict[str, Any] = dict.fromkeys(statistics, 0.0)
        nulls: dict[str, Any] = dict.fromkeys(statistics, 0.0)
        for s, _ in enumerate(seeds):
            predicted = predictions.sel(model=model).isel(seed=s).values
            r[m, s] = pearson_r(y, predicted)
            boot = bootstrap_correlation(y, predicted, n_resamples=N_RESAMPLES, seed=seed)
            null = shuffled_correlation(y, predicted, n_shuffles=N_SHUFFLES, seed=seed)
            known = np.isfinite(r[m, s])
            interval[m, s, known] = np.nanpercentile(boot[:, known], [2.5, 97.5], axis=0).T
            for name, function in statistics.items():
                draws[name] = draws[name] + roi_means(function(boot), members) / len(seeds)
                nulls[name] = nulls[name] + roi_means(function(null), members).mean(0) / len(seeds)
        for name in statistics:
            resampled[name].append(np.asarray(draws[name]))
            shuffled[name].append(np.asarray(nulls[name]))

    labels = {name: recording.rois[name].variable for name in ("hemisphere", "unit_kind", "vertex_index")}
    scores = xr.Dataset(
        {
            "correlation": (("model", "seed", "unit"), r),
            "correlation_ci": (("model", "seed", "unit", "bound"), interval),
            "noise_ceiling": ("unit", ceiling),
            "r2_over_ceiling": (
                ("model", "seed", "unit"),
                r2_over_ceiling(r, ceiling, min_ceiling=min_ceiling),
            ),
            "r2_over_ceiling_algonauts": (("model", "seed", "unit"), r2_over_ceiling_algonauts(r, ceiling)),
        },
        coords={
            "model": models,
            "seed": seeds,
            "bound": ["low", "high"],
            "roi": recording.rois["roi"].values,
            "membership": (("roi", "unit"), recording.rois.values),
            **labels,
        },
    ).expand_dims(subject=[recording.name])
    for name in ("correlation", "correlation_ci", "noise_ceiling", "r2_over_ceiling"):
        scores[name].attrs["units"] = "1"
    return scores, region_table(scores.isel(subject=0), members, resampled, shuffled)


def permutation_null(
    recording: Recording,
    features: Any,
    folds: Sequence[Fold],
    models: Sequence[str],
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
    closed = [name for name in models if not issubclass(MODELS[name], NetworkEncoder)]
    folds = [fold for fold in folds if fold.seed == folds[0].seed]
    members = with_all_units(recording.rois)
    tested = np.unique(np.concatenate([fold.test for fold in folds]))
    y = np.asarray(recording.responses[tested])
    rng = np.random.default_rng(seed)
    shape = (len(models), members.sizes["roi"])
    null = np.full((n_permutations, *shape), np.nan)
    for i in range(n_permutations):
        progress("permuted", i, n_permutations)
        orders = [rng.permutation(len(fold.train)) for fold in folds]
        for name in closed:
            predicted = np.empty_like(y)
            for fold, order in zip(folds, orders, strict=True):
                encoder = new_encoder(name, recording, options.get(name, {}), seed, "cpu")
                permuted = np.asarray(recording.responses[fold.train])[order]
                encoder.fit(rows_of(features, fold.train), permuted)
                rows = np.searchsorted(tested, fold.test)
                predicted[rows] = encoder.predict(rows_of(features, fold.test))
                if len(folds) > 1:
                    predicted[rows] -= permuted.mean(0)
            null[i, models.index(name)] = roi_means(pearson_r(y, predicted)[None], members)[0]
    progress("permuted", n_permutations, n_permutations)
    observed = roi_scores["correlation"].sel(model=list(models)).values
    reached = (null >= observed).sum(0) + 1
    known = np.isfinite(null).all(0) & np.isfinite(observed)
    return xr.Dataset(
        {
            "correlation_permuted": (("model", "roi"), null.mean(0)),
            "correlation_permuted_max": (("model", "roi"), null.max(0)),
            "p_permuted": (("model", "roi"), np.where(known, reached / (n_permutations + 1), np.nan)),
        },
        coords={"model": list(models), "roi": members["roi"].values},
        attrs={"n_permutations": n_permutations},
    )


def region_table(
    scores: xr.Dataset,
    members: xr.DataArray,
    resampled: Mapping[str, Sequence[NDArray[Any]]],
    shuffled: Mapping[str, Sequence[NDArray[Any]]],
) -> xr.Dataset:
    """Summarize unit scores by region, with intervals from resampled stimuli."""
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
    models = list(scores["model"].values)
    others = [i for i, name in enumerate(models) if name != "attention"]
    best = np.full(members.sizes["roi"], "", dtype="<U20")
    difference = np.full((len(models), members.sizes["roi"]), np.nan)
    interval = np.full((*difference.shape, 2), np.nan)
    if "attention" in models and others:
        a = models.index("attention")
        draws = np.stack(resampled["correlation"])
        mean = table["correlation"].values
        for i in np.flatnonzero(np.isfinite(mean[a])):
            b = others[int(np.argmax(mean[others, i]))]
            best[i] = models[b]
            difference[a, i] = mean[a, i] - mean[b, i]
            interval[a, i] = np.percentile(draws[a, :, i] - draws[b, :, i], [2.5, 97.5])
    table["best_baseline"] = ("roi", best)
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


def shown_truth(recording: Recording, shown: NDArray[np.intp]) -> xr.Dataset | None:
    """Return the planted truth, by stimulus for the shown ones only."""
    truth = recording.truth
    if truth is None or "stimulus" not in truth.dims:
        return truth
    return truth.isel(stimulus=shown)


def versions() -> dict[str, str]:
    """Return the versions that a methods section names."""
    packages = ("torch", "numpy", "scikit-learn", "himalaya", "skorch", "timm", "nilearn", "xarray")
    return {"neuroattn": __version__, "python": platform.python_version()} | {p: version(p) for p in packages}
