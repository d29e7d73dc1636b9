"""``neuroattn fit-encoder``: fit encoders to one recording and write scores, maps and a report."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neuroattn.cli import app
from neuroattn.cli._display import human_bytes, print_checks, print_scores, progress_bars

if TYPE_CHECKING:
    from neuroattn.datasets import Recording
    from neuroattn.encoding import Backbone

DATA, MODEL, RUN = "Data", "Models", "Run"


def _option(*names: str, help: str, panel: str) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=panel)


@app.command("fit-encoder", no_args_is_help=True)
def fit_encoder(
    out: Annotated[Path, _option("--out", help="Folder for the results.", panel=RUN)],
    demo: Annotated[
        bool, _option("--demo", help="Simulate a subject: no files, no network.", panel=DATA)
    ] = False,
    data: Annotated[
        Path | None,
        _option("--data", help="Folder of the data set; file paths below are relative to it.", panel=DATA),
    ] = None,
    layout: Annotated[str, _option("--layout", help="algonauts or arrays.", panel=DATA)] = "algonauts",
    subject: Annotated[int, _option("--subject", help="Subject number (algonauts).", panel=DATA)] = 1,
    images: Annotated[
        str | None,
        _option("--images", help="Folder, zip archive or FILE[:key] of images (arrays).", panel=DATA),
    ] = None,
    features: Annotated[
        str | None,
        _option("--features", help="FILE[:key] of features, instead of images (arrays).", panel=DATA),
    ] = None,
    responses: Annotated[
        str | None, _option("--responses", help="FILE[:key] of responses (arrays).", panel=DATA)
    ] = None,
    orientation: Annotated[
        str | None, _option("--orientation", help="stimulus-unit or unit-stimulus (arrays).", panel=DATA)
    ] = None,
    rois: Annotated[
        str | None, _option("--rois", help="FILE[:key] of region masks or labels (arrays).", panel=DATA)
    ] = None,
    repeats: Annotated[
        str | None,
        _option(
            "--repeats",
            help="FILE[:key] (unit, stimulus, repeat), NaN-padded: the ceiling (arrays).",
            panel=DATA,
        ),
    ] = None,
    stimulus_ids: Annotated[
        str | None, _option("--stimulus-ids", help="FILE[:key] of stimulus identities (arrays).", panel=DATA)
    ] = None,
    mask: Annotated[
        Path | None, _option("--mask", help="NIfTI mask of voxel responses (arrays).", panel=DATA)
    ] = None,
    unit_kind: Annotated[
        str | None, _option("--unit-kind", help="vertex, voxel or neuron (arrays).", panel=DATA)
    ] = None,
    split: Annotated[
        str | None,
        _option("--split", help="given, test=N,seed=S, kfold=K,seeds=A-B, or a JSON file.", panel=DATA),
    ] = None,
    model: Annotated[
        str,
        _option(
            "--model", help="Comma-separated: attention, ridge, pooled-ridge, factorized, probe.", panel=MODEL
        ),
    ] = "attention,ridge,pooled-ridge,factorized,probe",
    backbone: Annotated[str, _option("--backbone", help="demo, or any timm model.", panel=MODEL)] = "demo",
    layer: Annotated[str | None, _option("--layer", help="Layer, e.g. block10.", panel=MODEL)] = None,
    facet: Annotated[str, _option("--facet", help="output, q, k or v.", panel=MODEL)] = "output",
    image_size: Annotated[
        int | None, _option("--image-size", help="Resize images to this many pixels a side.", panel=MODEL)
    ] = None,
    weights: Annotated[
        str | None, _option("--weights", help="File of backbone weights, or random.", panel=MODEL)
    ] = None,
    pool: Annotated[
        int | None, _option("--pool", help="Average tokens to this many a side first.", panel=MODEL)
    ] = None,
    readout: Annotated[
        str, _option("--readout", help="Queries of attention: roi, hemisphere or unit.", panel=MODEL)
    ] = "roi",
    layers: Annotated[int, _option("--layers", help="Decoder layers of attention.", panel=MODEL)] = 1,
    heads: Annotated[int, _option("--heads", help="Heads of attention.", panel=MODEL)] = 4,
    norm: Annotated[str, _option("--norm", help="pre or post.", panel=MODEL)] = "pre",
    position: Annotated[str, _option("--position", help="sine, learned or none.", panel=MODEL)] = "sine",
    spatial_map: Annotated[
        str, _option("--spatial-map", help="Maps of the factorized model: unit or roi.", panel=MODEL)
    ] = "unit",
    one_alpha: Annotated[
        bool, _option("--one-alpha", help="One ridge penalty for all units.", panel=MODEL)
    ] = False,
    epochs: Annotated[int, _option("--epochs", help="Longest training of the networks.", panel=MODEL)] = 30,
    seed: Annotated[int, _option("--seed", help="First seed.", panel=RUN)] = 0,
    n_seeds: Annotated[
        int | None,
        _option(
            "--n-seeds",
            help="Seeds of the networks on a fixed partition [default: 1; 2 with --demo].",
            panel=RUN,
        ),
    ] = None,
    min_ceiling: Annotated[
        float, _option("--min-ceiling", help="Units below have no r2_over_ceiling.", panel=RUN)
    ] = 0.1,
    permutations: Annotated[
        int,
        _option("--permutations", help="Refit ridge models to permuted rows this often: a null.", panel=RUN),
    ] = 0,
    export: Annotated[
        str | None, _option("--export", help="Also write maps: gifti, mgh or nifti.", panel=RUN)
    ] = None,
    cache: Annotated[
        Path | None,
        _option("--cache", help="Folder of stored features; the user's cache by default.", panel=RUN),
    ] = None,
    device: Annotated[str, _option("--device", help="auto, cpu, cuda ...", panel=RUN)] = "auto",
    resume: Annotated[
        bool, _option("--resume", help="Continue an interrupted run in --out.", panel=RUN)
    ] = False,
    dry_run: Annotated[
        bool,
        _option("--dry-run", help="Say what is there, what is missing and what it would cost.", panel=RUN),
    ] = False,
) -> None:
    """Fit brain encoders to responses to images, side by side, and write a report.

    Example: neuroattn fit-encoder --demo --out demo

    Example: neuroattn fit-encoder --data nsd --layout algonauts --subject 1 --out subj01

    Example: neuroattn fit-encoder --layout arrays --images photos.zip --responses v4.npy
    --orientation unit-stimulus --unit-kind neuron --split test=200,seed=0 --pool 7 --out v4
    """
    from neuroattn._checks import check_option
    from neuroattn.analyses.encoder_study import MODELS, run_encoder_study
    from neuroattn.encoding import load_backbone
    from neuroattn.encoding.network_encoders import resolve_device

    models = [check_option("model", name.strip(), MODELS) for name in model.split(",")]
    check_option("layout", layout, ("algonauts", "arrays"))
    device = resolve_device(device)
    if n_seeds is None:
        n_seeds = 2 if demo else 1  # the demo shows how far the maps of two seeds agree
    cache = cache or default_cache()
    arrays = {
        "responses": _under(data, responses),
        "orientation": orientation,
        "images": _under(data, images),
        "features": _under(data, features),
        "rois": _under(data, rois),
        "repeats": _under(data, repeats),
        "stimulus_ids": _under(data, stimulus_ids),
        "mask": _under(data, mask),
    }
    if dry_run and not demo:
        print_checks(_inspect(layout, data, subject, arrays))

    network = None
    if demo or layout == "algonauts" or features is None:
        network = load_backbone(
            backbone, layer=layer, facet=facet, image_size=image_size, weights=weights, device=device
        )
    options: dict[str, dict[str, Any]] = {
        "attention": {
            "readout": readout, "layers": layers, "heads": heads, "norm": norm, "position": position,
            "epochs": epochs,
        },
        "ridge": {"alpha_per_target": not one_alpha},
        "pooled-ridge": {"alpha_per_target": not one_alpha},
        "factorized": {"spatial_map": spatial_map, "epochs": epochs},
        "probe": {"epochs": epochs},
    }  # fmt: skip
    with progress_bars() as progress:
        recording = _load(demo, layout, data, subject, arrays, unit_kind, network, cache, seed, progress)
        if dry_run:
            progress.stop()
            _print_plan(recording, models, options, network, pool, cache, split, n_seeds, device)
            return
        scores = run_encoder_study(
            recording,
            out,
            models=models,
            options={name: options[name] for name in models},
            backbone=network,
            pool=pool,
            cache=cache,
            split=split or _default_split(recording),
            seed=seed,
            n_seeds=n_seeds,
            min_ceiling=min_ceiling,
            n_permutations=permutations,
            export=export,
            device=device,
            resume=resume,
            progress=progress.update,
            command="neuroattn " + shlex.join(sys.argv[1:]),
        )
    print_scores(scores, out)


def default_cache() -> Path:
    """Return the user's folder of stored features."""
    import pooch

    return Path(pooch.os_cache("neuroattn")) / "features"


def _under(data: Path | None, spec: Any) -> Any:
    """Return a path relative to the data folder, as text."""
    if spec is None:
        return None
    return str(spec if data is None else data / spec)


def _load(
    demo: bool,
    layout: str,
    data: Path | None,
    subject: int,
    arrays: dict[str, Any],
    unit_kind: str | None,
    network: Backbone | None,
    cache: Path,
    seed: int,
    progress: Any,
) -> Recording:
    from neuroattn.datasets import load_algonauts, load_arrays

    if demo:
        from neuroattn.analyses.demo import make_demo_recording

        if network is None:
            raise ValueError("--demo needs a backbone")
        return make_demo_recording(network, cache, seed=seed, progress=progress.update)
    if layout == "algonauts":
        if data is None:
            raise ValueError("--data must name the folder that holds subj01, subj02, ...; or give --demo")
        return load_algonauts(data, subject)
    for name in ("responses", "orientation"):
        if arrays[name] is None:
            raise ValueError(f"--{name} must be given with --layout arrays")
    return load_arrays(**arrays, unit_kind=unit_kind)


def _inspect(layout: str, data: Path | None, subject: int, arrays: dict[str, Any]) -> list[Any]:
    from neuroattn.datasets import inspect_algonauts, inspect_arrays

    if layout == "algonauts":
        return inspect_algonauts(data or Path(), subject)
    return inspect_arrays(**arrays)


def _default_split(recording: Recording) -> str:
    return "given" if recording.test is not None else "test=200,seed=0"


def _print_plan(
    recording: Recording,
    models: list[str],
    options: dict[str, dict[str, Any]],
    network: Backbone | None,
    pool: int | None,
    cache: Path,
    split: str | None,
    n_seeds: int,
    device: str,
) -> None:
    from neuroattn.analyses.encoder_study import estimate_training, feature_shape
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
        cost = estimate_cost(network, recording.n_stimuli, pool=pool, image_size=(height, width))
        typer.echo(
            f"features: {human_bytes(cost['bytes'])} in {cache}, about {cost['seconds']:.0f} s to extract once"
        )
    split = split or _default_split(recording)
    folds = split_stimuli(recording.stimulus_ids, split, test=recording.test)
    n_fits = len(folds) if len(folds) > 1 else n_seeds
    n_train = len(folds[0].train)
    typer.echo(
        f"split {split}: {n_train} stimuli to fit, {len(folds[0].test)} to test, {n_fits} fits a network"
    )
    shape = feature_shape(recording, network, pool)
    for name, seconds in estimate_training(recording, models, options, shape, n_train, device).items():
        typer.echo(f"{name}: at most about {seconds * n_fits:.0f} s")
    typer.echo("nothing was written")
