"""``neuroattn predict-scanpath``: sample scanpaths, train models of them, score them beside simple ones."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neuroattn.cli import predict_scanpath_app
from neuroattn.cli._display import console, progress_bars, this_command
from neuroattn.cli._options import DATA, MODEL, RUN, TRAINING, Device, option

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

    from neuroattn.datasets import ObjectScene, ScanpathDataset
    from neuroattn.scanpath import ScanpathModel

SAMPLING = "Sampling"
SIMULATED = "simulated searches"
_TAKES = {"images": ("coco-search18", "osie", "events", "book-covers"), "instances": ("coco-search18",)}

Layout = Annotated[
    str | None,
    option(
        "--layout",
        help="coco-search18, osie, visions, pysaliency, objarr, events, multimatch, book-covers or neuroattn "
        "(default: by the names of the files).",
        panel=DATA,
    ),
]
Images = Annotated[
    Path | None, option("--images", help="Folder of the images, if it is elsewhere.", panel=DATA)
]
Instances = Annotated[
    Path | None,
    option("--instances", help="COCO's annotations, for the objects (coco-search18).", panel=DATA),
]
MaxDistance = Annotated[
    float | None,
    option("--max-distance", help="Fixations in no box go to a centre this near, px (none).", panel=DATA),
]
UntilTarget = Annotated[
    bool, option("--until-target", help="Cut paths where they first reach the target.", panel=DATA)
]
Samples = Annotated[
    int, option("--samples", help="Paths that each model draws for each tested trial.", panel=RUN)
]
By = Annotated[str, option("--by", help="Trials of one image, target or observer stay together.", panel=DATA)]
Seed = Annotated[int, option("--seed", help="Seed of all that is random.", panel=RUN)]


@predict_scanpath_app.command("sample", no_args_is_help=True)
def sample(
    boxes: Annotated[
        Path,
        typer.Argument(help="CSV of the objects: x, y (left and top), width, height in px, optional label."),
    ],
    out: Annotated[Path, option("--out", help="Folder to write.", panel=RUN)],
    image: Annotated[Path | None, option("--image", help="The image.", panel=DATA)] = None,
    size: Annotated[
        str | None, option("--size", help="WIDTHxHEIGHT in px, where there is no image.", panel=DATA)
    ] = None,
    target: Annotated[
        str | None, option("--target", help="Label that is searched for (none: free viewing).", panel=DATA)
    ] = None,
    target_row: Annotated[
        int | None, option("--target-row", help="Row of the object that is searched for, from 0.", panel=DATA)
    ] = None,
    exemplar: Annotated[
        Path | None, option("--exemplar", help="Another picture of the target, as the cue.", panel=DATA)
    ] = None,
    model: Annotated[
        str,
        option(
            "--model",
            help="Folder of a fit, or uniform, centre-bias, memory-full-random, nearest-unvisited, "
            "position-markov, conditional-logit.",
            panel=MODEL,
        ),
    ] = "conditional-logit",
    data: Annotated[
        Path | None,
        option("--data", help="What a model by name is fitted to (simulated searches).", panel=MODEL),
    ] = None,
    layout: Layout = None,
    n: Annotated[int, option("--n", help="Paths to draw.", panel=SAMPLING)] = 20,
    max_fixations: Annotated[
        int | None, option("--max-fixations", help="Longest path (longest in training).", panel=SAMPLING)
    ] = None,
    temperature: Annotated[
        float, option("--temperature", help="Above 1: more random; below: less.", panel=SAMPLING)
    ] = 1.0,
    top_p: Annotated[
        float,
        option("--top-p", help="Draw from the fewest objects with this probability.", panel=SAMPLING),
    ] = 1.0,
    no_return: Annotated[
        bool, option("--no-return", help="Never fixate an object again.", panel=SAMPLING)
    ] = False,
    observer: Annotated[
        str | None, option("--observer", help="Whose paths, if the model knows people.", panel=SAMPLING)
    ] = None,
    seed: Seed = 0,
    device: Device = "cpu",
) -> None:
    """Draw scanpaths over the objects of an image: a table, netCDF, a picture and a report.

    Example: neuroattn predict-scanpath sample objects.csv --image desk.jpg --target cup --out desk

    Example: neuroattn predict-scanpath sample objects.csv --size 1680x1050 --model fitted --n 100 --out desk
    """
    from neuroattn.analyses.scanpath_figures import plot_scanpath
    from neuroattn.analyses.scanpath_report import write_samples_report
    from neuroattn.results import filling, write_netcdf
    from neuroattn.scanpath import sampled_scanpaths

    if out.exists():
        raise FileExistsError(f"--out {out} exists; samples are not overwritten")
    scene = read_scene(boxes, image=image, size=size, target=target, target_row=target_row, cue=exemplar)
    fitted, source = _sampling_model(model, data, layout, device)
    samples = fitted.sample(
        scene,
        n=n,
        seed=seed,
        max_fixations=max_fixations,
        temperature=temperature,
        top_p=top_p,
        no_return=no_return,
        observer=observer,
    )
    samples = samples.assign_attrs(
        fitted_to=source, simulated=int(source == SIMULATED), command=this_command()
    )
    table = samples_frame(samples, scene)
    paths = sampled_scanpaths(samples, scene)
    first = paths[:3]
    groups = {f"first {len(first)} of {n} samples": first} | ({f"all {n}": paths} if n > len(first) else {})
    with filling(out) as folder:
        table.to_csv(folder / "scanpaths.csv", index=False)
        write_netcdf(folder / "scanpaths.nc", samples)
        plot_scanpath(scene, groups).savefig(folder / "scanpaths.png", dpi=150, facecolor="white")
        write_samples_report(
            folder / "report.html",
            samples,
            scene,
            model=Path(model).name,
            command=samples.attrs["command"],
        )
    hint = " (--data names people's)" if source == SIMULATED else ""
    typer.echo(f"{n} paths, {len(table)} fixations; {model} was fitted to {source}{hint}")
    typer.echo(f"Report: {out / 'report.html'}")


@predict_scanpath_app.command("fit", no_args_is_help=True)
def fit(
    data: Annotated[Path, typer.Argument(help="Data set: a folder or file of any layout that is read.")],
    out: Annotated[Path, option("--out", help="Folder for the model and its scores.", panel=RUN)],
    target: Annotated[
        str,
        option(
            "--target",
            help="What the model knows of the target: label, exemplar, oracle (which object it is) or none.",
            panel=MODEL,
        ),
    ],
    layout: Layout = None,
    images: Images = None,
    instances: Instances = None,
    max_distance: MaxDistance = None,
    until_target: UntilTarget = False,
    by: By = "image",
    test_size: Annotated[
        float, option("--test-size", help="Share of them that is kept for the scores.", panel=DATA)
    ] = 0.2,
    appearance: Annotated[
        str, option("--appearance", help="cnn (the image's crops), precomputed or none.", panel=MODEL)
    ] = "cnn",
    observers: Annotated[
        bool, option("--observers", help="Learn a code for each observer.", panel=MODEL)
    ] = False,
    durations: Annotated[
        bool, option("--durations", help="Learn how long fixations last.", panel=MODEL)
    ] = False,
    dim: Annotated[int, option("--dim", help="Channels of a token.", panel=MODEL)] = 64,
    layers: Annotated[int, option("--layers", help="Of the encoder and of the decoder.", panel=MODEL)] = 2,
    epochs: Annotated[int, option("--epochs", help="Most passes over the trials.", panel=TRAINING)] = 100,
    patience: Annotated[
        int, option("--patience", help="Passes without improvement until training ends.", panel=TRAINING)
    ] = 10,
    batch_size: Annotated[int, option("--batch-size", help="Trials a step.", panel=TRAINING)] = 64,
    learning_rate: Annotated[float, option("--learning-rate", help="Of AdamW.", panel=TRAINING)] = 1e-3,
    samples: Samples = 5,
    seed: Seed = 0,
    device: Device = "auto",
    resume: Annotated[
        bool,
        option("--resume", help="Continue in --out; a trained model stays.", panel=RUN),
    ] = False,
    dry_run: Annotated[
        bool,
        option("--dry-run", help="Say what would be trained and how long it takes.", panel=RUN),
    ] = False,
) -> None:
    """Train an object attention transformer and score it on held-out trials beside simple models.

    Example: neuroattn predict-scanpath fit arrays --target exemplar --out fitted

    Example: neuroattn predict-scanpath fit objarr.npz --target label --appearance none --until-target --out fitted
    """
    from neuroattn._checks import check_option
    from neuroattn.analyses.scanpath_runs import estimate_training_seconds, fit_scanpath_model
    from neuroattn.encoding.network_encoders import resolve_device
    from neuroattn.scanpath import ObjectAttentionTransformer

    check_option("--target", target, ("label", "exemplar", "oracle", "none"))
    check_option("--appearance", appearance, ("cnn", "precomputed", "none"))
    check_option("--by", by, ("image", "target", "observer"))
    transformer = ObjectAttentionTransformer(
        target=target,
        appearance=appearance,
        observers=observers,
        durations=durations,
        dim=dim,
        layers=layers,
        epochs=epochs,
        patience=patience,
        batch_size=batch_size,
        lr=learning_rate,
        by=by,
        seed=seed,
        device=resolve_device(device),
    )
    dataset = _load(data, layout, images, instances, max_distance, until_target)
    if dry_run:
        train, test = dataset.split(by, test_size=test_size, seed=seed)
        typer.echo(str(dataset))
        typer.echo(f"{len(train)} trials to train on, {len(test)} to test, no {by} in both")
        seconds = estimate_training_seconds(train, transformer)
        typer.echo(f"training: at most about {seconds:.0f} s; nothing was written")
        return
    with progress_bars() as progress:
        scores = fit_scanpath_model(
            dataset,
            transformer,
            out,
            test_size=test_size,
            n_samples=samples,
            resume=resume,
            source=data.name,
            command=this_command(),
            progress=progress.update,
        )
    _print_scores(scores, out)


@predict_scanpath_app.command("evaluate", no_args_is_help=True)
def evaluate(
    data: Annotated[Path, typer.Argument(help="Data set: a folder or file of any layout that is read.")],
    out: Annotated[Path, option("--out", help="Folder for the scores.", panel=RUN)],
    model: Annotated[
        list[str] | None,
        option("--model", help="FOLDER or NAME=FOLDER of a fit; give it again for more.", panel=MODEL),
    ] = None,
    layout: Layout = None,
    images: Images = None,
    instances: Instances = None,
    max_distance: MaxDistance = None,
    until_target: UntilTarget = False,
    by: By = "image",
    folds: Annotated[
        int, option("--folds", help="Of simple models, where no trained model saw these data.", panel=RUN)
    ] = 5,
    samples: Samples = 5,
    seed: Seed = 0,
    device: Device = "auto",
    dry_run: Annotated[bool, option("--dry-run", help="Say what would be tested.", panel=RUN)] = False,
) -> None:
    """Score trained models beside simple ones and people, on trials that none was fitted to.

    Example: neuroattn predict-scanpath evaluate arrays --model fitted --out scores

    Example: neuroattn predict-scanpath evaluate objarr.npz --model small=a --model large=b --until-target --out scores
    """
    from neuroattn._checks import check_option, check_range
    from neuroattn.analyses.scanpath_runs import evaluate_scanpath_models, held_out_trials, simple_models
    from neuroattn.encoding.network_encoders import resolve_device

    check_option("--by", by, ("image", "target", "observer"))
    check_range("--folds", folds, 2)
    if out.exists():
        raise FileExistsError(f"--out {out} exists; scores are not overwritten")
    folders = named_folders(model or [])
    chosen = resolve_device(device)
    dataset = _load(data, layout, images, instances, max_distance, until_target)
    if dry_run:
        typer.echo(str(dataset))
        n_test = int(held_out_trials(dataset, folders).sum())
        typer.echo(f"models: {', '.join([*simple_models(dataset), *folders])}")
        typer.echo(f"{n_test} trials to test, the others were seen in training; nothing was written")
        return
    with progress_bars() as progress:
        scores = evaluate_scanpath_models(
            dataset,
            folders,
            out,
            by=by,
            n_folds=folds,
            n_samples=samples,
            seed=seed,
            device=chosen,
            source=data.name,
            command=this_command(),
            progress=progress.update,
        )
    _print_scores(scores, out)


def read_scene(
    boxes: Path,
    *,
    image: Path | None = None,
    size: str | None = None,
    target: str | None = None,
    target_row: int | None = None,
    cue: Path | None = None,
) -> ObjectScene:
    r"""Return the scene of a table of boxes.

    Examples
    --------
    >>> import tempfile
    >>> table = Path(tempfile.mkdtemp()) / "objects.csv"
    >>> _ = table.write_text("x,y,width,height,label\n0,0,40,30,cup\n60,10,20,20,fork\n")
    >>> read_scene(table, size="100x80", target="fork").target
    1
    """
    from dataclasses import replace

    from neuroattn._files import listed, read_table, reading
    from neuroattn.datasets import ObjectScene

    if not boxes.exists():
        raise FileNotFoundError(f"boxes {boxes} does not exist; expected a CSV file of objects")
    complaint = f"boxes {boxes} must be a CSV file with x, y, width, height:"
    table = read_table(boxes, complaint)
    with reading(complaint):
        missing = [name for name in ("x", "y", "width", "height") if name not in table]
        if missing:
            raise ValueError(f"no column {missing[0]!r} among {listed(table)}")
        places = table[["x", "y", "width", "height"]].to_numpy(dtype=float)
    if not len(table):
        raise ValueError(f"boxes {boxes} must name at least one object, got none")
    if image is None and size is None:
        raise ValueError("--image or --size must be given: where boxes lie depends on the size of the image")
    labels = table["label"].astype(str).tolist() if "label" in table else None
    if target is not None and labels is None:
        raise ValueError(f"--target needs a column label in {boxes}; or give --target-row")
    scene = ObjectScene.from_boxes(
        image if image is not None else parse_size(str(size)),
        places,
        labels=labels,
        target=target_row,
        target_label=target,
        exemplar=cue,
        name=boxes.stem,
    )
    if target is not None and not scene.matches_target.any():
        typer.echo(f"no object of {boxes} has the label {target!r}: the target is absent", err=True)
    if target_row is None and scene.matches_target.sum() == 1:
        scene = replace(scene, target=int(scene.matches_target.argmax()))
    return scene


def parse_size(text: str) -> tuple[int, int]:
    """Return width and height in px.

    Examples
    --------
    >>> parse_size("1680x1050")
    (1680, 1050)
    """
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise ValueError(f"--size must be WIDTHxHEIGHT in px, such as 1680x1050, got {text!r}")
    return int(width), int(height)


def named_folders(texts: list[str]) -> dict[str, Path]:
    """Return folders of models by name: NAME=FOLDER, or a folder with its own name.

    Examples
    --------
    >>> named_folders(["runs/fitted", "small=other"])
    {'fitted': PosixPath('runs/fitted'), 'small': PosixPath('other')}
    """
    folders: dict[str, Path] = {}
    for text in texts:
        name, named, folder = text.partition("=")
        if not named:
            folder, name = text, Path(text).resolve().name
        if not name or name in folders:
            raise ValueError(f"--model must have a name of its own, NAME=FOLDER, got {text!r}")
        folders[name] = Path(folder)
    return folders


def samples_frame(samples: xr.Dataset, scene: ObjectScene) -> pd.DataFrame:
    """Return a row for each fixation of each sample, with the object's label."""
    names = [str(name) for name, values in samples.items() if values.dims == ("sample", "fixation")]
    table = samples[names].to_dataframe().reset_index()
    table = table[table["object"] >= 0]
    if scene.labels is not None:
        labels = [scene.labels[i] for i in table["object"]]
        table.insert(table.columns.tolist().index("object") + 1, "label", labels)
    return table


def _sampling_model(
    name: str, data: Path | None, layout: str | None, device: str
) -> tuple[ScanpathModel, str]:
    """Return a fitted model and what it was fitted to."""
    from sklearn.base import clone

    from neuroattn.analyses.scanpath_runs import SIMPLE_MODELS, load_scanpath_model
    from neuroattn.datasets import make_search_arrays
    from neuroattn.encoding.network_encoders import resolve_device

    if name in SIMPLE_MODELS:
        if name == "position-markov" and data is None:
            raise ValueError("--model position-markov needs --data: its places are those of one layout")
        dataset = make_search_arrays(seed=0) if data is None else _load(data, layout)
        return clone(SIMPLE_MODELS[name]).fit(dataset), SIMULATED if data is None else data.name
    if not Path(name).is_dir():
        raise FileNotFoundError(
            f"--model must be a folder of a fit or one of {', '.join(SIMPLE_MODELS)}, got {name!r}"
        )
    if data is not None:
        raise ValueError("--data must not be given with the folder of a fit, which is fitted already")
    return load_scanpath_model(name, device=resolve_device(device)), f"the data of {name}"


def _load(
    data: Path,
    layout: str | None,
    images: Path | None = None,
    instances: Path | None = None,
    max_distance: float | None = None,
    until_target: bool = False,
) -> ScanpathDataset:
    from neuroattn.analyses.scanpath_runs import prepare_scanpaths
    from neuroattn.datasets import load_scanpaths
    from neuroattn.datasets.scanpath_layouts import find_layout

    layout = find_layout(data) if layout is None else layout
    options: dict[str, Any] = {}
    for name, value in (("images", images), ("instances", instances)):
        if value is None:
            continue
        if layout not in _TAKES[name]:
            raise ValueError(f"--{name} must be given with {', '.join(_TAKES[name])} only, got {layout}")
        options[name] = value
    dataset = load_scanpaths(data, layout=layout, **options)
    return prepare_scanpaths(dataset, max_distance=max_distance, until_target=until_target)


def _print_scores(scores: xr.Dataset, out: Path) -> None:
    from rich.table import Table

    from neuroattn.analyses.scanpath_report import summarise_scanpaths

    table = Table(title="bits per fixation that people chose; lower is better")
    for column in ("model", "bits", "95 % interval", "bits per end"):
        table.add_column(column, justify="left" if column == "model" else "right")
    for name in scores.model.values:
        one = scores.sel(model=name)
        low, high = one.bits_per_fixation_interval.transpose("bound").values
        table.add_row(
            str(name),
            f"{float(one.bits_per_fixation):.3f}",
            f"{low:.3f} to {high:.3f}",
            f"{float(one.end_bits):.3f}",
        )
    console.print(table)
    console.print(f"Tested: {scores.attrs['held_out']}", soft_wrap=True)
    for sentence in summarise_scanpaths(scores):
        console.print(sentence, soft_wrap=True)
    if scores.attrs.get("simulated"):
        console.print("The searches are simulated; nothing here is evidence about people.")
    console.print(f"Report: {out / 'report.html'}", soft_wrap=True)
