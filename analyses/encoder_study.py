"""Fit encoders to recordings, score them side by side, and write everything a reader needs."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from neuroattn._checks import check_option, check_range
from neuroattn.analyses.encoder_report import PACKAGES, write_encoder_report, write_group_report
from neuroattn.analyses.fits import (
    MIXTURES,
    MODELS,
    Column,
    Data,
    FitSpec,
    Progress,
    Source,
    counting,
    feature_shape,
    fingerprint,
    model_folder,
    new_encoder,
    open_features,
    prepare_data,
    rows_of,
)
from neuroattn.analyses.grid import Job, check_workers, run_fits
from neuroattn.analyses.group import summarise_group
from neuroattn.analyses.report import installed_versions
from neuroattn.analyses.scores import (
    N_RESAMPLES,
    HeldOut,
    collect_attention,
    contender_of,
    permutation_null,
    score_predictions,
    write_predictions,
)
from neuroattn.analyses.sources import RecordingSource
from neuroattn.analyses.token_masking import masking_effect
from neuroattn.datasets import Recording
from neuroattn.datasets.export import export_map
from neuroattn.encoding import Backbone, BrainEncoder, NetworkEncoder, extract_features, load_encoder
from neuroattn.results import provenance, replacing, write_json, write_netcdf

DEFAULT_MODELS = ("attention", "ridge", "pooled-ridge", "factorized", "probe")
MASKED_FRACTION = 0.1  # of the tokens, in the control of the attention maps
N_RANDOM_MASKS = 10
N_MASKED = 64  # test stimuli of that control, which predicts anew for every query

Load = Callable[[], Recording]
Backbones = Backbone | Mapping[str, Backbone] | None


def run_encoder_study(
    recording: Recording | Load | Mapping[str, Recording | Load],
    out: str | Path,
    *,
    models: Sequence[str] = DEFAULT_MODELS,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    backbone: Backbones = None,
    pool: int | None = None,
    cache: str | Path | None = None,
    dtype: str = "float32",
    split: str | Path | None = None,
    seed: int = 0,
    n_seeds: int = 1,
    ensemble: bool = False,
    min_ceiling: float = 0.1,
    n_shuffles: int = 1000,
    n_permutations: int = 0,
    export: str | None = None,
    device: str = "auto",
    workers: int = 0,
    scheduler: str | None = None,
    threads: int | None = None,
    resume: bool = False,
    progress: Progress | None = None,
    command: str = "",
) -> xr.Dataset:
    """Fit, predict, score and report.

    Every model is fitted to the training stimuli of every fold and scored on stimuli it has not seen. Folds of a
    k-fold split give one out-of-fold prediction a stimulus; they are scored as deviations from the mean of their
    training responses, which otherwise would correlate negatively with what is held out.

    Subjects, layers, models, seeds and folds make a grid of fits that know nothing of each other. They run one after
    another, or on workers, with the same result.

    Parameters
    ----------
    recording : Recording, callable, or mapping of subject to either
        Rows of one stimulus are averaged first. A callable returns the recording and must be importable where fits
        run, for instance ``functools.partial(load_algonauts, root, 1)``. Several subjects are studied in folders of
        their names in ``out``, beside a summary over subjects.
    out : str or Path
        Folder for ``scores.nc``, ``roi_scores.nc``, ``attention.nc``, ``masking.nc``, ``predictions.zarr``,
        ``report.html`` and a folder ``models/NAME/seed-S/fold-F`` with ``model.safetensors`` and ``config.json`` for
        every fit. For several subjects one such folder each, and ``group.nc`` and ``report.html``.
    models : sequence of str
        "attention", "ridge", "pooled-ridge", "pca-regression", "factorized", "gaussian", "convolution", "probe", and,
        where there are several layers, "attention-layermix" and "banded-ridge", which read all of them at once.
    options : mapping of model to parameters, optional
        Parameters other than the defaults, for instance ``{"attention": {"layers": 2}}``.
    backbone : Backbone or mapping of layer to Backbone, optional
        Turns the recording's images into features; None takes the recording's features. With several layers, from
        ``load_backbone(name, layers=[...])``, every model is fitted to every layer, as "MODEL@LAYER".
    pool : int, optional
        Average the tokens to ``pool`` x ``pool`` first.
    cache : str or Path, optional
        Folder of stored features; default ``features`` in ``out``.
    dtype : {"float32", "float16"}
        Of stored features.
    split : str or Path, optional
        See :func:`neuroattn.datasets.split_stimuli`. None is "given" for data with a partition of their own, else
        "test=200,seed=0".
    seed, n_seeds : int
        Seeds ``seed .. seed + n_seeds - 1`` for networks on a fixed partition. A k-fold split brings its own seeds.
    ensemble : bool, default False
        Add "MODEL@ensemble" for every network: seeds averaged, then layers weighted for each unit by a softmax of 40
        times their correlation on the stimuli that early stopping watched [1]_.
    min_ceiling : float, default 0.1
        Units with a lower noise ceiling have no ``r2_over_ceiling``.
    n_shuffles : int, default 1000
        Shuffles of the test stimuli for the p-value of every unit; 0 leaves them out.
    n_permutations : int, default 0
        Fit the ridge models so many times again to responses whose training rows are permuted: the null of no
        relation between stimuli and responses, penalties chosen anew.
    export : {"gifti", "mgh", "nifti"}, optional
        Also write maps of the scores.
    device : str
    workers : int, default 0
        Processes to fit on, one thread each; 0 fits in this process. Needs dask.
    scheduler : str, optional
        Address of a running dask scheduler to fit on instead.
    threads : int, optional
        Threads of a fit. Equal numbers of threads give equal bits; default all cores in this process, 1 on workers.
    resume : bool, default False
        Continue in ``out``: finished fits are kept, an interrupted one goes on where it was.
    progress : callable, optional
    command : str
        Shown in the report.

    Returns
    -------
    Dataset
        ``scores.nc``, dims subject, model, seed, unit, roi, bound; for several subjects ``group.nc``, dims model,
        roi, bound.

    Raises
    ------
    ValueError
        If no model applies, or ``out`` holds another study.

    References
    ----------
    .. [1] Adeli, Sun & Kriegeskorte (2025). Transformer brain encoders explain human high-level visual responses.
       arXiv:2505.17329.

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
    step = progress or (lambda stage, done, total: None)
    check_range("n_seeds", n_seeds, 1)
    check_range("min_ceiling", min_ceiling, 0, 1)
    check_range("n_shuffles", n_shuffles, 0)
    for name in models:
        check_option("model", name, MODELS)
    check_workers(workers, scheduler)
    away = workers > 0 or scheduler is not None
    subjects = recording if isinstance(recording, Mapping) else {"": recording}
    if not subjects:
        raise ValueError("recording must hold at least one subject, got none")
    if away and any(isinstance(one, Recording) for one in subjects.values()):
        raise ValueError(
            "recording must be given as a function that loads it, for instance "
            "functools.partial(load_algonauts, root, 1), where fits run on workers"
        )
    settings = Settings(
        models=tuple(models),
        options={name: dict((options or {}).get(name, {})) for name in models},
        backbone=backbone,
        pool=pool,
        cache=None if cache is None else Path(cache),
        dtype=dtype,
        split=None if split is None else str(split),
        seed=seed,
        n_seeds=n_seeds,
        ensemble=ensemble,
        min_ceiling=min_ceiling,
        n_shuffles=n_shuffles,
        n_permutations=n_permutations,
        export=export,
        device=device,
        threads=1 if threads is None and away else threads,
        command=command,
    )
    out = Path(out)
    if isinstance(recording, Mapping):
        check_group(out)
    studies = [
        prepare_study(one, out / name, settings, resume and (out / name).exists() if name else resume, step)
        for name, one in subjects.items()
    ]
    run_fits(
        [job for study in studies for job in study.jobs],
        workers=workers,
        scheduler=scheduler,
        progress=lambda done, total: step("fits", done, total),
    )
    results = [finish_study(study, started, step) for study in studies]
    if not isinstance(recording, Mapping):
        return results[0][0]
    scores, roi_scores = zip(*results, strict=True)
    group = summarise_group(dict(zip(recording, roi_scores, strict=True)))
    group.attrs |= {
        name: scores[0].attrs[name] for name in ("neuroattn_version", "seed", "simulated", "config")
    }
    write_netcdf(out / "group.nc", group)
    write_group_report(
        out / "report.html",
        group=group,
        config=report_config(studies[0], started),
    )
    return group


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the subjects of a study have in common: the arguments of :func:`run_encoder_study`."""

    models: tuple[str, ...]
    options: dict[str, dict[str, Any]]
    backbone: Backbones
    pool: int | None
    cache: Path | None
    dtype: str
    split: str | None
    seed: int
    n_seeds: int
    ensemble: bool
    min_ceiling: float
    n_shuffles: int
    n_permutations: int
    export: str | None
    device: str
    threads: int | None
    command: str


@dataclass(frozen=True)
class Study:
    """One subject's study, checked and with its features stored, whose fits can run."""

    settings: Settings
    data: Data
    held_out: HeldOut
    features: dict[str, Any]
    jobs: list[Job]
    reasons: dict[str, str]
    config: dict[str, Any]


def prepare_study(
    recording: Recording | Load, out: Path, settings: Settings, resume: bool, step: Progress
) -> Study:
    """Check everything that can be checked, open the folder, store features, and list the fits."""
    load = None if isinstance(recording, Recording) else recording
    if isinstance(recording, Recording):
        given = recording
    else:
        given = recording(step) if isinstance(recording, RecordingSource) else recording()
    backbone, options = settings.backbone, settings.options
    split = settings.split or default_split(given)
    shapes = feature_shapes(given, backbone, settings.pool)
    columns, reasons = list_columns(settings.models, shapes)
    if not columns:
        shape = next(iter(shapes.values()))
        if settings.models and set(settings.models) <= MIXTURES:
            raise ValueError(
                f"model {', '.join(settings.models)} needs several layers of one shape, got {shapes}"
            )
        raise ValueError(
            f"model {', '.join(settings.models)} needs spatial tokens, got features of shape {shape}"
        )
    # What does not fit is refused before anything is written.
    for column in columns:
        encoder = new_encoder(column.model, given, options[column.model], settings.seed, settings.device)
        if isinstance(encoder, NetworkEncoder):
            mixed = [str(layer) for layer in shapes] if column.model in MIXTURES else None
            n_channels, *grid = shapes[column.layer] if mixed is None else next(iter(shapes.values()))
            encoder.build_network(n_channels, (grid[0], grid[1]), given.n_units, mixed)
    if settings.export is not None:
        with tempfile.TemporaryDirectory() as trial:
            nothing = np.full(given.n_units, np.nan)
            export_map(nothing, given, Path(trial) / "map", settings.export, name="trial")
    source = Source(load, absolute_split(split), settings.pool)
    data = prepare_data(given, source)
    folds, kfold = data.folds, len(data.folds) > 1
    config: dict[str, Any] = {
        "recording": given.name,
        "n_stimuli": data.recording.n_stimuli,
        "n_units": given.n_units,
        "data": fingerprint(data.recording),
        "models": list(settings.models),
        "options": options,
        "backbone": describe_backbone(backbone),
        "pool": settings.pool,
        "dtype": settings.dtype,
        "split": split,
        "seed": settings.seed,
        "n_seeds": settings.n_seeds,
        "ensemble": settings.ensemble,
        "min_ceiling": settings.min_ceiling,
        "n_shuffles": settings.n_shuffles,
        "n_permutations": settings.n_permutations,
    }
    open_study(out, config, resume)
    paths = store_features(data.recording, backbone, settings, out, step)
    features = {
        column.label: paths
        if column.model in MIXTURES or not isinstance(paths, dict)
        else paths[str(column.layer)]
        for column in columns
    }
    seeds = (
        sorted({fold.seed for fold in folds})
        if kfold
        else list(range(settings.seed, settings.seed + settings.n_seeds))
    )
    jobs = []
    for column in columns:
        for s in seeds:
            for i, fold in enumerate(folds):
                if kfold and fold.seed != s:
                    continue
                if not kfold and s != seeds[0] and not issubclass(MODELS[column.model], NetworkEncoder):
                    continue  # a closed-form model on a fixed partition is the same for every seed
                spec = FitSpec(
                    folder=model_folder(out.resolve(), column.label, s, fold.fold),
                    source=source,
                    features=features[column.label],
                    column=column,
                    options=options[column.model],
                    seed=s,
                    fold=i,
                    device=settings.device,
                    threads=settings.threads,
                )
                jobs.append(Job(spec, data))
    held_out = HeldOut(out, data, columns, seeds, settings.ensemble)
    return Study(settings, data, held_out, features, jobs, reasons, config)


def list_columns(
    models: Sequence[str], shapes: Mapping[str | None, tuple[int, ...]]
) -> tuple[list[Column], dict[str, str]]:
    """Return the columns of a study, and the reason for each model or column that does not apply.

    Examples
    --------
    >>> columns, reasons = list_columns(["attention", "ridge"], {"block3": (8, 7, 7), "head": (8,)})
    >>> [column.label for column in columns], reasons
    (['attention@block3', 'ridge@block3', 'ridge@head'], {'attention@head': 'not applicable: no spatial tokens'})
    """
    columns, reasons = [], {}
    for name in models:
        mixture = name in MIXTURES
        if mixture and len(shapes) < 2:
            reasons[name] = "not applicable: one layer, and it mixes several layers"
            continue
        if name == "attention-layermix" and len(set(shapes.values())) > 1:
            reasons[name] = "not applicable: layers of different shapes"
            continue
        for layer, shape in [(None, next(iter(shapes.values())))] if mixture else shapes.items():
            column = Column(name, layer)
            if MODELS[name].needs_tokens and len(shape) != 3:
                reasons[column.label] = "not applicable: no spatial tokens"
            else:
                columns.append(column)
    return columns, reasons


def default_split(recording: Recording) -> str:
    """Return the data set's own partition, or 200 test stimuli where there is none."""
    return "given" if recording.test is not None else "test=200,seed=0"


def feature_shapes(
    recording: Recording, backbone: Backbones, pool: int | None
) -> dict[str | None, tuple[int, ...]]:
    """Return the shape of the features of one stimulus by layer; None stands for the only one."""
    if not isinstance(backbone, Mapping):
        return {None: feature_shape(recording, backbone, pool)}
    return {layer: feature_shape(recording, one, pool) for layer, one in backbone.items()}


def store_features(
    recording: Recording, backbone: Backbones, settings: Settings, out: Path, step: Progress
) -> Path | dict[str, Path] | None:
    """Store features of all images and return where, or None where the recording brings its own."""
    if backbone is None or recording.images is None:
        return None
    stores = extract_features(
        recording.images,
        backbone,
        out.resolve() / "features" if settings.cache is None else settings.cache.resolve(),
        dtype=settings.dtype,
        pool=settings.pool,
        progress=counting(step, "features", recording.n_stimuli),
    )
    return {layer: store.path for layer, store in stores.items()} if isinstance(stores, dict) else stores.path


def finish_study(study: Study, started: float, step: Progress) -> tuple[xr.Dataset, xr.Dataset]:
    """Score the fits of one subject and write scores, maps and the report; return unit and region scores."""
    settings, data, held_out = study.settings, study.data, study.held_out
    recording, out, labels = data.recording, held_out.out, held_out.labels
    for stale in (out / "models").glob("*/*/.*"):  # what a killed process was writing
        shutil.rmtree(stale, ignore_errors=True)
    contender = contender_of(held_out)
    scores, roi_scores = score_predictions(
        held_out,
        labels,
        held_out.seeds,
        held_out.rows,
        recording,
        contender=contender,
        min_ceiling=settings.min_ceiling,
        n_shuffles=settings.n_shuffles,
        seed=settings.seed,
        progress=step,
    )
    if settings.n_permutations:
        null = permutation_null(
            held_out,
            {label: open_features(path, recording) for label, path in study.features.items()},
            settings.options,
            roi_scores,
            settings.n_permutations,
            settings.seed,
            step,
        )
        roi_scores = roi_scores.merge(null)
    mapped = mapped_column(study, contender)
    attention = None if mapped is None else collect_attention(held_out, mapped)
    masking = None if mapped is None or attention is None else measure_masking(study, mapped, step)
    attrs = {
        **provenance(settings.seed, study.config),
        "simulated": int(recording.simulated),
        "min_ceiling": settings.min_ceiling,
        "contender": contender or "",
        "not_applicable": json.dumps(study.reasons),
    }
    for dataset in (scores, roi_scores):
        dataset.attrs |= attrs
    with replacing(out / "predictions.zarr") as temporary:
        write_predictions(temporary, held_out, attrs)
    if attention is not None:
        write_netcdf(out / "attention.nc", attention.assign_attrs(attention.attrs | attrs).to_dataset())
    if masking is not None:
        write_netcdf(out / "masking.nc", masking.assign_attrs(masking.attrs | attrs))
    write_netcdf(out / "roi_scores.nc", roi_scores)
    write_netcdf(out / "scores.nc", scores)
    if settings.export is not None:
        mean = scores.mean("seed").isel(subject=0)
        for variable in ("correlation", "r2_over_ceiling"):
            for label in labels:
                values = mean[variable].sel(model=label).values
                stem = out / "maps" / f"{label}_{variable}"
                export_map(values, recording, stem, settings.export, name=variable)
    write_encoder_report(
        out / "report.html",
        scores=scores,
        roi_scores=roi_scores,
        attention=attention,
        masking=masking,
        images=None if recording.images is None else recording.images[data.shown],
        truth=shown_truth(recording, data.shown),
        surface=recording.surface,
        config=report_config(study, started),
    )
    return scores, roi_scores


def report_config(study: Study, started: float) -> dict[str, Any]:
    """Return what the report says about the run."""
    settings, backbone, folds = study.settings, study.settings.backbone, study.data.folds
    several = list(backbone.values()) if isinstance(backbone, Mapping) else [backbone] if backbone else []
    return {
        "command": settings.command,
        "dataset": study.data.recording.name,
        "backbone": several[0].config["name"] if several else "given features",
        "layer": ", ".join(str(one.config["layer"]) for one in several) or "as given",
        "split": study.config["split"],
        "seeds": [int(s) for s in study.held_out.seeds],
        "n_train": len(folds[0].train),
        "n_test": len(study.held_out.rows),
        "n_bootstrap": N_RESAMPLES,
        "notes": list(study.data.recording.notes),
        "versions": installed_versions(*PACKAGES),
        "durations": {"in all": time.monotonic() - started},
        "not_applicable": study.reasons,
    }


def mapped_column(study: Study, contender: str | None) -> str | None:
    """Return the column whose attention maps are shown: the contender, or the best validated of an ensemble."""
    if contender is None or not contender.endswith("@ensemble"):
        return contender
    single = HeldOut(study.held_out.out, study.data, study.held_out.columns, study.held_out.seeds)
    return contender_of(single)


def measure_masking(study: Study, label: str, step: Progress) -> xr.Dataset | None:
    """Measure what masking the attended tokens costs on the first test stimuli of the first fold and seed."""
    fold = study.data.folds[0]
    folder = model_folder(study.held_out.out, label, study.held_out.seeds[0], fold.fold)
    encoder = load_encoder(folder).set_params(device=study.settings.device)
    if not isinstance(encoder, BrainEncoder) or isinstance(study.features[label], dict):
        return None
    step("masking", 0, 1)
    features, rows = open_features(study.features[label], study.data.recording), fold.test[:N_MASKED]
    effect: xr.Dataset = masking_effect(
        encoder,
        rows_of(features, rows),
        np.asarray(study.data.recording.responses[rows]),
        fractions=(MASKED_FRACTION,),
        n_random=N_RANDOM_MASKS,
        seed=study.settings.seed,
    )
    step("masking", 1, 1)
    return effect


def describe_backbone(backbone: Backbones) -> dict[str, Any] | None:
    """Return the configuration of a backbone, or of every layer."""
    if isinstance(backbone, Mapping):
        return {layer: one.config for layer, one in backbone.items()}
    return None if backbone is None else backbone.config


def absolute_split(split: str) -> str:
    """Return a split that means the same in every folder: the path of a file in full.

    Examples
    --------
    >>> absolute_split("test=200,seed=0")
    'test=200,seed=0'
    """
    return str(Path(split).resolve()) if Path(split).is_file() else split


def check_group(out: Path) -> None:
    """Refuse a folder for several subjects that is a file or the study of one."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"out {out} must be a folder, got a file")
    if (out / "config.json").is_file():
        raise ValueError(f"out {out} holds the study of one subject; choose another folder")


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
    columns: Sequence[Column],
    options: Mapping[str, Mapping[str, Any]],
    shapes: Mapping[str | None, tuple[int, ...]],
    n_train: int,
    device: str,
) -> dict[str, float]:
    """Estimate how long one fit of each network takes, from one timed training step.

    Parameters
    ----------
    recording : Recording
    columns : sequence of Column
    options : mapping of model to parameters
    shapes : mapping of layer to tuple of int
        Features of one stimulus.
    n_train : int
        Training stimuli.
    device : str

    Returns
    -------
    dict of str to float
        Seconds by column if training runs to its last epoch; models in closed form take seconds and are left out.
    """
    import torch

    seconds = {}
    for column in columns:
        encoder = new_encoder(column.model, recording, options.get(column.model, {}), 0, device)
        if not isinstance(encoder, NetworkEncoder):
            continue
        mixed = [str(layer) for layer in shapes] if column.model in MIXTURES else None
        shape = next(iter(shapes.values())) if mixed else shapes[column.layer]
        network = encoder.build_network(shape[0], (shape[1], shape[2]), recording.n_units, mixed).to(device)
        batch = torch.zeros(encoder.batch_size, *([len(mixed)] if mixed else []), *shape, device=device)
        for _ in range(2):  # the first step also allocates
            start = time.perf_counter()
            network(batch).square().mean().backward()
            step = time.perf_counter() - start
        n_batches = -(-n_train * (1 - encoder.validation_fraction) // encoder.batch_size)
        seconds[column.label] = step * n_batches * encoder.epochs
    return seconds


def shown_truth(recording: Recording, shown: NDArray[np.intp]) -> xr.Dataset | None:
    """Return the planted truth, by stimulus for the shown ones only."""
    truth = recording.truth
    if truth is None or "stimulus" not in truth.dims:
        return truth
    return truth.isel(stimulus=shown)
