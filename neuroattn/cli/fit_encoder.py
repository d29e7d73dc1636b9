"""``neuroattn fit-encoder``: fit encoders to recordings and write scores, maps and a report."""

from __future__ import annotations

import inspect
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neuroattn.cli import _options as shared
from neuroattn.cli import app
from neuroattn.cli._display import human_bytes, print_checks, print_group, print_scores, progress_bars
from neuroattn.cli._options import DATA, MODEL, RUN, STATISTICS, TRAINING, default_cache, option

if TYPE_CHECKING:
    from neuroattn.datasets import Recording
    from neuroattn.encoding import Backbone

FIXED = ("self", "rois", "backbone", "seed", "device")  # parameters that a study sets itself
NSD_SPLITS = ("algonauts", "shared1000", "shared515", "session-block")


@app.command("fit-encoder", no_args_is_help=True)
def fit_encoder(
    context: typer.Context,
    out: Annotated[Path, option("--out", help="Folder for the results.", panel=RUN)],
    demo: shared.Demo = False,
    data: shared.DataFolder = None,
    layout: shared.Layout = "algonauts",
    subjects: Annotated[
        str,
        option("--subjects", "--subject", help="Number, numbers 1,2,5 or all (algonauts, nsd).", panel=DATA),
    ] = "1",
    space: shared.Space = None,
    betas: shared.Betas = None,
    images: shared.Images = None,
    features: shared.Features = None,
    responses: shared.ResponsesFile = None,
    orientation: shared.Orientation = None,
    rois: shared.Rois = None,
    repeats: shared.Repeats = None,
    trials: shared.Trials = None,
    stimulus_ids: shared.StimulusIds = None,
    mask: shared.Mask = None,
    unit_kind: shared.UnitKind = None,
    split: Annotated[
        str | None,
        option(
            "--split",
            help="given, test=N,seed=S, kfold=K,seeds=A-B or a JSON file; for nsd also algonauts, shared1000, "
            "shared515 or session-block.",
            panel=DATA,
        ),
    ] = None,
    regions: shared.Regions = None,
    model: Annotated[
        str,
        option(
            "--model",
            "--models",
            help="Comma-separated: attention, ridge, pooled-ridge, pca-regression, factorized, gaussian, "
            "convolution, probe; with several layers also attention-layermix, banded-ridge.",
            panel=MODEL,
        ),
    ] = "attention,ridge,pooled-ridge,factorized,probe",
    backbone: Annotated[
        str, option("--backbone", help="demo, dinov2_vitb14, clip_vitl14, or any timm model.", panel=MODEL)
    ] = "demo",
    layers: Annotated[
        str | None,
        option(
            "--layers",
            "--layer",
            help="Layers, e.g. block10 or 3,7,11 (blocks from 0); each gets its own fits.",
            panel=MODEL,
        ),
    ] = None,
    facet: Annotated[
        str, option("--facet", help="output, q, k, v, projection, cls, q_cls ...", panel=MODEL)
    ] = "output",
    image_size: Annotated[
        int | None, option("--image-size", help="Resize images to this many pixels a side.", panel=MODEL)
    ] = None,
    weights: Annotated[
        str | None, option("--weights", help="File of backbone weights, or random.", panel=MODEL)
    ] = None,
    pool: Annotated[
        int | None, option("--pool", help="Average tokens to this many a side first.", panel=MODEL)
    ] = None,
    dtype: shared.Dtype = "float32",
    readout: Annotated[
        str | None,
        option(
            "--readout",
            help="Queries of attention: streams, rois, visual, bodies, faces, places, words, hemisphere or unit "
            "(default: every region of the data).",
            panel=MODEL,
        ),
    ] = None,
    decoder_layers: Annotated[
        int | None, option("--decoder-layers", help="Decoder layers of attention.", panel=MODEL)
    ] = None,
    encoder_layers: Annotated[
        int | None, option("--encoder-layers", help="Self-attention layers before them.", panel=MODEL)
    ] = None,
    heads: Annotated[int | None, option("--heads", help="Heads of attention.", panel=MODEL)] = None,
    width: Annotated[int | None, option("--width", help="Channels inside attention.", panel=MODEL)] = None,
    feedforward: Annotated[
        int | None,
        option("--feedforward", help="Hidden units of attention's feed-forward blocks.", panel=MODEL),
    ] = None,
    dropout: Annotated[float | None, option("--dropout", help="Dropout of attention.", panel=MODEL)] = None,
    norm: Annotated[str | None, option("--norm", help="pre or post.", panel=MODEL)] = None,
    position: Annotated[str | None, option("--position", help="sine, learned or none.", panel=MODEL)] = None,
    spatial_map: Annotated[
        str | None,
        option("--spatial-map", help="Maps of the factorized and gaussian models: unit or roi.", panel=MODEL),
    ] = None,
    one_alpha: Annotated[
        bool, option("--one-alpha", help="One ridge penalty for all units.", panel=MODEL)
    ] = False,
    epochs: Annotated[int, option("--epochs", help="Longest training of the networks.", panel=TRAINING)] = 30,
    batch_size: Annotated[
        int | None, option("--batch-size", help="Stimuli in a step of training.", panel=TRAINING)
    ] = None,
    lr: Annotated[
        float | None,
        option("--lr", help="Highest learning rate, instead of each network's own.", panel=TRAINING),
    ] = None,
    weight_decay: Annotated[float | None, option("--weight-decay", help="Of AdamW.", panel=TRAINING)] = None,
    clip: Annotated[
        float | None, option("--clip", help="Norm to which gradients are cut.", panel=TRAINING)
    ] = None,
    patience: Annotated[
        int | None,
        option("--patience", help="Epochs without improvement before training stops.", panel=TRAINING),
    ] = None,
    seed: Annotated[int, option("--seed", help="First seed.", panel=TRAINING)] = 0,
    n_seeds: Annotated[
        int | None,
        option(
            "--seeds",
            "--n-seeds",
            help="Number of seeds of the networks on a fixed partition (default: 1; 2 with --demo).",
            panel=TRAINING,
        ),
    ] = None,
    ensemble: Annotated[
        bool,
        option(
            "--ensemble",
            help="Add ensembles of the networks over layers and seeds, by validation r.",
            panel=TRAINING,
        ),
    ] = False,
    min_ceiling: Annotated[
        float, option("--min-ceiling", help="Units below have no r2_over_ceiling.", panel=STATISTICS)
    ] = 0.1,
    shuffles: Annotated[
        int, option("--shuffles", help="Shuffles of the test stimuli: p of every unit.", panel=STATISTICS)
    ] = 1000,
    permutations: Annotated[
        int,
        option(
            "--permutations", help="Refit ridge models to permuted rows this often: a null.", panel=STATISTICS
        ),
    ] = 0,
    export: Annotated[
        str | None, option("--export", help="Also write maps: gifti, mgh or nifti.", panel=RUN)
    ] = None,
    cache: shared.Cache = None,
    device: shared.Device = "auto",
    workers: Annotated[
        int,
        option("--workers", help="Fit on this many processes of one thread each (needs dask).", panel=RUN),
    ] = 0,
    scheduler: Annotated[
        str | None,
        option("--scheduler", help="Fit on the workers of a dask scheduler, tcp://HOST:PORT.", panel=RUN),
    ] = None,
    threads: Annotated[
        int | None,
        option(
            "--threads",
            help="Threads of a fit: equal threads give equal bits (all; 1 on workers).",
            panel=RUN,
        ),
    ] = None,
    config: shared.Config = None,
    resume: Annotated[
        bool, option("--resume", help="Continue an interrupted run in --out.", panel=RUN)
    ] = False,
    dry_run: Annotated[
        bool,
        option("--dry-run", help="Say what is there, what is missing and what it would cost.", panel=RUN),
    ] = False,
) -> None:
    """Fit brain encoders to responses to images, side by side, and write a report.

    Example: neuroattn fit-encoder --demo --out demo

    Example: neuroattn fit-encoder --data nsd --layout algonauts --subject 1 --out subj01

    Example: neuroattn fit-encoder --data nsd --layout nsd --subjects all --backbone dinov2_vitb14 --facet q
    --layers 3,7,11 --seeds 10 --ensemble --readout rois --workers 8 --out group

    Example: neuroattn fit-encoder --layout arrays --images photos.zip --responses v4.npy
    --orientation unit-stimulus --unit-kind neuron --split test=200,seed=0 --pool 7 --out v4
    """
    from neuroattn._checks import check_option
    from neuroattn.analyses.encoder_study import run_encoder_study
    from neuroattn.analyses.fits import MODELS
    from neuroattn.analyses.sources import READOUTS
    from neuroattn.encoding.network_encoders import resolve_device

    models = [check_option("model", name.strip(), MODELS) for name in model.split(",")]
    device = resolve_device(device)
    selected: str | tuple[str, ...] | None = None
    queries = "roi"
    if readout is not None:
        selected, queries = READOUTS[check_option("readout", readout, READOUTS)]
    if regions is not None:
        if selected is not None:
            raise ValueError(
                f"--regions must not be given with --readout {readout}, which chooses regions itself"
            )
        selected = shared.parse_regions(regions)
    if n_seeds is None:
        n_seeds = 2 if demo else 1  # the demo shows how far the maps of two seeds agree
    averages = None if cache is None else cache / "nsd"
    cache = cache or default_cache(out)
    own_split = split is not None and split.partition("=")[0] in NSD_SPLITS
    nsd_split = layout == "nsd" and not demo and own_split
    sources = shared.recording_sources(
        demo=demo,
        data=data,
        layout=layout,
        subjects=subjects,
        arrays={
            "responses": responses,
            "orientation": orientation,
            "images": images,
            "features": features,
            "rois": rois,
            "repeats": repeats,
            "trials": trials,
            "stimulus_ids": stimulus_ids,
            "mask": mask,
            "unit_kind": unit_kind,
        },
        nsd={"space": space, "betas": betas, "split": split, "cache": averages},
        regions=selected,
        cache=cache,
        seed=seed,
    )
    if dry_run and not demo:
        for source in sources.values():
            print_checks(source.inspect())

    network: Backbone | dict[str, Backbone] | None = None
    if demo or layout != "arrays" or features is None:
        network = load_network(backbone, layers, facet, image_size, weights, device)
    attention = {
        "readout": queries, "layers": decoder_layers, "encoder_layers": encoder_layers, "heads": heads,
        "feedforward": feedforward, "dropout": dropout, "norm": norm, "position": position, "width": width,
    }  # fmt: skip
    common = {
        "epochs": epochs, "batch_size": batch_size, "lr": lr, "weight_decay": weight_decay, "clip": clip,
        "patience": patience, "spatial_map": spatial_map, "alpha_per_target": not one_alpha,
    }  # fmt: skip
    options = model_options(models, attention, common, context.obj or {})
    given = "given" if nsd_split else split
    with progress_bars() as progress:
        if dry_run:
            for source in sources.values():
                recording = source.plan()
                progress.stop()
                print_plan(recording, models, options, network, pool, cache, dtype, given, n_seeds, device)
            typer.echo("nothing was written")
            return
        scores = run_encoder_study(
            sources if len(sources) > 1 or subjects == "all" else next(iter(sources.values())),
            out,
            models=models,
            options=options,
            backbone=network,
            pool=pool,
            cache=cache,
            dtype=dtype,
            split=given,
            seed=seed,
            n_seeds=n_seeds,
            ensemble=ensemble,
            min_ceiling=min_ceiling,
            n_shuffles=shuffles,
            n_permutations=permutations,
            export=export,
            device=device,
            workers=workers,
            scheduler=scheduler,
            threads=threads,
            resume=resume,
            progress=progress.update,
            command="neuroattn " + shlex.join(sys.argv[1:]),
        )
    if len(sources) > 1 or subjects == "all":
        print_group(scores, out)
    else:
        print_scores(scores, out)


def load_network(
    name: str, layers: str | None, facet: str, image_size: int | None, weights: str | None, device: str
) -> Backbone | dict[str, Backbone]:
    """Load a backbone at one layer, or at several that are read in one pass."""
    from neuroattn.encoding import load_backbone

    names = None if layers is None else shared.layer_names(layers)
    if names is not None and len(names) > 1:
        return load_backbone(
            name, layers=names, facet=facet, image_size=image_size, weights=weights, device=device
        )
    layer = None if names is None else names[0]
    return load_backbone(
        name, layer=layer, facet=facet, image_size=image_size, weights=weights, device=device
    )


def model_options(
    models: Sequence[str],
    attention: Mapping[str, Any],
    common: Mapping[str, Any],
    tables: Mapping[str, Mapping[str, Any]],
) -> dict[str, dict[str, Any]]:
    """Return the parameters of every model: those of flags that it has, then those of its own table.

    Examples
    --------
    >>> model_options(["ridge"], {"heads": 4}, {"epochs": 3, "alpha_per_target": True}, {"ridge": {"cv": 3}})
    {'ridge': {'alpha_per_target': True, 'cv': 3}}
    """
    from neuroattn._checks import check_option
    from neuroattn.analyses.fits import ATTENTION_MODELS, MODELS

    for name in tables:
        check_option("table of --config", name, MODELS)
    options = {}
    for name in models:
        known = [key for key in inspect.signature(MODELS[name].__init__).parameters if key not in FIXED]
        given = {**common, **(attention if name in ATTENTION_MODELS else {})}
        options[name] = {key: value for key, value in given.items() if value is not None and key in known}
        for key, value in tables.get(name, {}).items():
            options[name][check_option(f"parameter of {name}", key, known)] = value
    return options


def print_plan(
    recording: Recording,
    models: list[str],
    options: dict[str, dict[str, Any]],
    network: Backbone | dict[str, Backbone] | None,
    pool: int | None,
    cache: Path,
    dtype: str,
    split: str | None,
    n_seeds: int,
    device: str,
) -> None:
    """Print what a study of this recording would read, store and take."""
    from neuroattn.analyses.encoder_study import (
        default_split,
        estimate_training,
        feature_shapes,
        list_columns,
    )
    from neuroattn.datasets import split_stimuli
    from neuroattn.encoding.features import estimate_cost

    ceiling = "unknown" if recording.noise_ceiling is None else "known"
    typer.echo(
        f"{recording.name}: {recording.n_stimuli} stimuli, {recording.n_units} units, "
        f"{recording.rois.sizes['roi']} regions, noise ceiling {ceiling}"
    )
    for note in recording.notes:
        typer.echo(f"  note: {note}")
    if network is not None and recording.images is not None:
        height, width = recording.images.shape[1:3]
        cost = estimate_cost(network, recording.n_stimuli, pool, dtype, image_size=(height, width))
        typer.echo(
            f"features: {human_bytes(cost['bytes'])} in {cache}, about {cost['seconds']:.0f} s to extract once"
        )
    split = split or default_split(recording)
    folds = split_stimuli(recording.stimulus_ids, split, test=recording.test)
    n_fits = len(folds) if len(folds) > 1 else n_seeds
    n_train = len(folds[0].train)
    typer.echo(
        f"split {split}: {n_train} stimuli to fit, {len(folds[0].test)} to test, {n_fits} fits a network"
    )
    shapes = feature_shapes(recording, network, pool)
    columns, reasons = list_columns(models, shapes)
    for label, reason in reasons.items():
        typer.echo(f"{label}: {reason}")
    seconds = estimate_training(recording, columns, options, shapes, n_train, device)
    for label, each in seconds.items():
        typer.echo(f"{label}: at most about {each * n_fits:.0f} s")
