"""``neuroattn decode-eeg study``: compare attentions over subjects, seeds and data sets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from neuroattn.cli import decode_eeg_app
from neuroattn.cli._display import console, progress_bars, this_command
from neuroattn.cli._options import DATA, MODEL, RUN, TRAINING, Device, option

if TYPE_CHECKING:
    import xarray as xr

    from neuroattn.datasets import Trials


@decode_eeg_app.command("study", no_args_is_help=True)
def study(
    files: Annotated[
        list[str],
        typer.Argument(
            help="EDF, BDF, GDF, FIF or BrainVision files or folders; NAME=PATH for several data sets."
        ),
    ],
    out: Annotated[Path, option("--out", help="Folder for the results.", panel=RUN)],
    events: Annotated[
        str, option("--events", help="Labels of the annotations that mark cues.", panel=DATA)
    ] = "T1=left,T2=right",
    tmin: Annotated[float, option("--tmin", help="Start of the trials, s after the cue.", panel=DATA)] = -1.0,
    tmax: Annotated[float, option("--tmax", help="End of the trials, s after the cue.", panel=DATA)] = 4.0,
    window: Annotated[
        str | None,
        option("--window", help="What pipelines see, s after the cue [0.5 to the end].", panel=DATA),
    ] = None,
    band: Annotated[str, option("--band", help="LOW-HIGH in Hz, or none.", panel=DATA)] = "8-30",
    resample: Annotated[
        float | None, option("--resample", help="New sampling rate in Hz.", panel=DATA)
    ] = None,
    names: Annotated[
        str | None,
        option("--names", help="Regular expression with groups subject, session, run.", panel=DATA),
    ] = None,
    protocol: Annotated[
        str,
        option(
            "--protocol",
            help="leave-one-run-out, train-to-evaluation or leave-one-subject-out.",
            panel=DATA,
        ),
    ] = "leave-one-run-out",
    attention: Annotated[
        str, option("--attention", help="Comma-separated names, or all.", panel=MODEL)
    ] = "se,eca,cbam,cat",
    baseline: Annotated[
        str,
        option(
            "--baseline",
            help="Comma-separated: tangent-space, csp-lda, slow-signals, networks of braindecode; or none.",
            panel=MODEL,
        ),
    ] = "tangent-space,csp-lda,slow-signals",
    tuning: Annotated[
        str, option("--tuning", help="Options of attentions: fixed, nested or paper.", panel=MODEL)
    ] = "fixed",
    epochs: Annotated[
        int, option("--epochs", help="Passes over the training trials.", panel=TRAINING)
    ] = 1000,
    batch_size: Annotated[int, option("--batch-size", help="Trials a step.", panel=TRAINING)] = 64,
    learning_rate: Annotated[float, option("--learning-rate", help="Of Adam.", panel=TRAINING)] = 1e-3,
    n_seeds: Annotated[int, option("--n-seeds", help="Seeds of every network.", panel=RUN)] = 5,
    seed: Annotated[int, option("--seed", help="First seed.", panel=RUN)] = 0,
    device: Device = "cpu",
    workers: Annotated[int, option("--workers", help="Processes on this machine (dask).", panel=RUN)] = 0,
    scheduler: Annotated[
        str | None, option("--scheduler", help="Address of a dask scheduler.", panel=RUN)
    ] = None,
    resume: Annotated[
        bool, option("--resume", help="Continue an interrupted run in --out.", panel=RUN)
    ] = False,
    dry_run: Annotated[
        bool, option("--dry-run", help="Say what would be trained and how long it takes.", panel=RUN)
    ] = False,
) -> None:
    """Compare channel attentions on motor imagery, every subject and seed, beside classical baselines.

    Example: neuroattn decode-eeg study recordings --attention se,eca --out study

    Example: neuroattn decode-eeg study 2a=gdf/2a 2b=gdf/2b --events 769=left,770=right
    --protocol train-to-evaluation --attention all --workers 8 --out study
    """
    from neuroattn.analyses.attention_study import compare_attentions, estimate_cost, plan_study
    from neuroattn.attention import GATES
    from neuroattn.datasets import load_eeg
    from neuroattn.eeg import MotorImageryClassifier
    from neuroattn.encoding.network_encoders import resolve_device

    classifier = MotorImageryClassifier(
        band=parse_band(band), n_epochs=epochs, batch_size=batch_size, learning_rate=learning_rate,
        device=resolve_device(device),
    )  # fmt: skip
    seconds = None if window is None else parse_window(window)
    labels = parse_events(events)
    data: dict[str, Trials] = {
        name: load_eeg(paths, events=labels, tmin=tmin, tmax=tmax, resample=resample, names=names)
        for name, paths in group_files(files).items()
    }
    attentions = list(GATES) if attention == "all" else split_names(attention)
    baselines = [] if baseline == "none" else split_names(baseline)
    plan = plan_study(
        data, attentions, protocol=protocol, n_seeds=n_seeds, seed=seed, tuning=tuning, baselines=baselines,
        classifier=classifier, window=seconds,
    )  # fmt: skip
    if dry_run:
        for name, trials in data.items():
            typer.echo(
                f"{name}: {len(trials)} trials, {len(trials.ch_names)} channels, {trials.sfreq:g} Hz, "
                f"subjects {', '.join(trials.metadata.subject.unique())}"
            )
            for note in trials.notes:
                typer.echo(f"  note: {note}")
        for row in estimate_cost(plan).itertuples():
            typer.echo(
                f"{row.dataset}: {row.folds} folds of {row.n_train} training trials, {row.networks} networks, "
                f"at most about {row.hours:.2g} h in one process"
            )
        typer.echo("nothing was written")
        return
    with progress_bars() as progress:
        result = compare_attentions(
            data, attentions, out=out, protocol=protocol, n_seeds=n_seeds, seed=seed, tuning=tuning,
            baselines=baselines, classifier=classifier, window=seconds, resume=resume, workers=workers,
            scheduler=scheduler, progress=progress.update, command=this_command(),
        )  # fmt: skip
    print_effects(result, out)


def group_files(files: Sequence[str]) -> dict[str, list[str]]:
    """Return the paths of each data set; those without a name are one, "recording".

    Examples
    --------
    >>> group_files(["2a=A01T.gdf", "2a=A02T.gdf", "2b=more"])
    {'2a': ['A01T.gdf', 'A02T.gdf'], '2b': ['more']}
    """
    groups: dict[str, list[str]] = {}
    for text in files:
        name, is_named, path = text.partition("=")
        if Path(text).exists() or not is_named:
            name, path = "recording", text
        groups.setdefault(name, []).append(path)
    return groups


def parse_events(text: str) -> dict[str, str]:
    """Return the label of each annotation.

    Examples
    --------
    >>> parse_events("T1=left, T2=right")
    {'T1': 'left', 'T2': 'right'}
    """
    pairs = [part.strip().split("=") for part in text.split(",")]
    if not all(len(pair) == 2 and all(pair) for pair in pairs):
        raise ValueError(f"--events must be ANNOTATION=LABEL joined by commas, got {text!r}")
    return {mark: label for mark, label in pairs}


def parse_band(text: str) -> tuple[float | None, float | None] | None:
    """Return the edges of a band in hertz; either may be missing.

    Examples
    --------
    >>> parse_band("8-30"), parse_band("-40"), parse_band("none")
    ((8.0, 30.0), (None, 40.0), None)
    """
    if text == "none":
        return None
    low, dash, high = text.partition("-")
    try:
        edges = (float(low) if low else None, float(high) if high else None)
    except ValueError:
        edges = (None, None)
    if not dash or edges == (None, None):
        raise ValueError(f"--band must be LOW-HIGH in hertz or none, got {text!r}")
    return edges


def parse_window(text: str) -> tuple[float, float]:
    """Return start and end in seconds.

    Examples
    --------
    >>> parse_window("0.5,4")
    (0.5, 4.0)
    """
    try:
        start, end = (float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"--window must be START,END in seconds, got {text!r}") from None
    return start, end


def split_names(text: str) -> list[str]:
    """Return names joined by commas, each once.

    Examples
    --------
    >>> split_names("se, eca,se")
    ['se', 'eca']
    """
    return list(dict.fromkeys(name.strip() for name in text.split(",")))


def print_effects(study: xr.Dataset, out: Path) -> None:
    """Print accuracies and the differences to the network without attention."""
    import numpy as np
    from rich.table import Table

    for name in study.dataset.values:
        own = study.isel(subject=np.flatnonzero(study.dataset_of.values == name)).sel(dataset=name)
        table = Table(title=f"{name}: {own.sizes['subject']} subjects, differences in points of accuracy")
        for column in ("pipeline", "accuracy", "difference", "95 % interval", "p corrected"):
            table.add_column(column, justify="left" if column == "pipeline" else "right")
        mean = own.accuracy.mean("seed").mean("subject")
        for pipeline in study.pipeline.values:
            one = own.sel(pipeline=pipeline)
            cells = [str(pipeline), f"{100 * float(mean.sel(pipeline=pipeline)):.1f} %", "", "", ""]
            if np.isfinite(float(one.difference)):
                low, high = 100 * one.difference_ci.values
                cells[2] = f"{100 * float(one.difference):+.1f}"
                cells[3] = f"{low:+.1f} to {high:+.1f}" if np.isfinite(low) else "one subject"
                cells[4] = f"{float(one.p_fwe):.3f}" if np.isfinite(float(one.p_fwe)) else ""
            table.add_row(*cells)
        console.print(table)
        smallest = (
            float(np.nanmin(own.smallest_p.values)) if np.isfinite(own.smallest_p.values).any() else 1.0
        )
        console.print(f"the smallest p that {own.sizes['subject']} subjects can attain is {smallest:.2g}")
    console.print(f"Report: {out / 'report.html'}", soft_wrap=True)
