"""``neuroattn decode-eeg``: decode recordings beside nulls and controls, and apply what was fitted."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from neuroattn.cli import decode_eeg_app
from neuroattn.cli._display import console, progress_bars

if TYPE_CHECKING:
    import xarray as xr

    from neuroattn.analyses.decoding import Condition
    from neuroattn.datasets import Trials

DATA, MODEL, RUN = "Data", "Models", "Run"
START = -1.0  # seconds: a window before the cue, and room for the filter


def _option(*names: str, help: str, panel: str) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=panel)


@decode_eeg_app.command("fit", no_args_is_help=True)
def fit(
    files: Annotated[
        list[Path], typer.Argument(help="EDF, BDF, GDF, FIF or BrainVision files, or a BIDS folder.")
    ],
    out: Annotated[Path, _option("--out", help="Folder for the results.", panel=RUN)],
    events: Annotated[
        str, _option("--events", help="ANNOTATION=LABEL of each cue, comma-separated.", panel=DATA)
    ] = "T1=left,T2=right",
    tmin: Annotated[
        float, _option("--tmin", help="Start of the claim's window, seconds after the cue.", panel=DATA)
    ] = 0.5,
    tmax: Annotated[float, _option("--tmax", help="End of all windows after the cue.", panel=DATA)] = 4.0,
    band: Annotated[str, _option("--band", help="LOW-HIGH of the claim, in hertz.", panel=DATA)] = "8-30",
    resample: Annotated[
        float | None, _option("--resample", help="New sampling rate in hertz.", panel=DATA)
    ] = None,
    names: Annotated[
        str | None,
        _option(
            "--names",
            help="Regular expression with groups subject, session, run, searched in file names.",
            panel=DATA,
        ),
    ] = None,
    model: Annotated[
        str,
        _option(
            "--model",
            help="Comma-separated: csp-lda, tangent-space, basenet; the slow-signal control is always added.",
            panel=MODEL,
        ),
    ] = "csp-lda,tangent-space,basenet",
    attention: Annotated[
        str,
        _option("--attention", help="Comma-separated gates of basenet beside none, or none.", panel=MODEL),
    ] = "eca",
    epochs: Annotated[int, _option("--epochs", help="Training of the networks.", panel=MODEL)] = 100,
    protocol: Annotated[
        str | None,
        _option(
            "--protocol",
            help="leave-one-run-out, blocks, leave-one-subject-out or subject-folds (default: by the data).",
            panel=MODEL,
        ),
    ] = None,
    permutations: Annotated[
        int, _option("--permutations", help="Permutations of the labels in each null.", panel=RUN)
    ] = 200,
    null: Annotated[
        str,
        _option(
            "--null",
            help="refit: fit again to each permutation. predictions: compare each with the predictions as they are, "
            "for protocols across subjects.",
            panel=RUN,
        ),
    ] = "refit",
    seed: Annotated[int, _option("--seed", help="Seed of all that is random.", panel=RUN)] = 0,
    device: Annotated[str, _option("--device", help="auto, cpu, cuda ...", panel=RUN)] = "auto",
    resume: Annotated[
        bool, _option("--resume", help="Continue an interrupted run in --out.", panel=RUN)
    ] = False,
    dry_run: Annotated[
        bool,
        _option(
            "--dry-run", help="Read the files and say what would be done and how long it takes.", panel=RUN
        ),
    ] = False,
) -> None:
    """Score decoders in the imagery band and in its controls, beside their nulls, and write a report.

    Example: neuroattn decode-eeg fit S007R04.edf S007R08.edf S007R12.edf --out S007

    Example: neuroattn decode-eeg fit bids --events 769=left,770=right --tmax 3.5 --band 8-32
    --model csp-lda,basenet --attention eca,se --permutations 500 --out bids-decoded
    """
    from neuroattn._checks import check_range, check_seed
    from neuroattn.analyses.decoding import check_null, check_pipeline, decoding_folds, default_conditions
    from neuroattn.analyses.decoding_study import decode_recording
    from neuroattn.datasets import load_eeg

    labels, edges = parse_events(events), parse_band(band)
    pipelines = [check_pipeline(name) for name in parse_pipelines(model, attention)]
    check_range("--tmin", tmin, 0)
    check_range("--tmax", tmax, tmin + 0.1)
    check_range("--permutations", permutations, 0)
    check_range("--epochs", epochs, 1)
    check_seed(seed)
    chosen = _device(device)
    cut: dict[str, Any] = {
        "events": labels,
        "tmin": START,
        "tmax": tmax,
        "resample": resample,
        "names": names,
    }
    trials = load_eeg(files, **cut)
    conditions = default_conditions(trials, band=edges, tmin=tmin)
    check_null(null, decoding_folds(trials, protocol)[0])
    if "slow-signals" not in model and not _has_pairs(trials):
        pipelines.remove("slow-signals")
        typer.echo("no left and right electrodes: scores are without the slow-signal control", err=True)
    if dry_run:
        refits = permutations if null == "refit" else 0
        _print_plan(trials, pipelines, conditions, protocol, refits, epochs, seed, chosen)
        return
    with progress_bars() as progress:
        scores = decode_recording(
            trials,
            out,
            pipelines=pipelines,
            cut=cut,
            conditions=conditions,
            protocol=protocol,
            n_permutations=permutations,
            null=null,
            n_epochs=epochs,
            seed=seed,
            device=chosen,
            resume=resume,
            dataset=files[0].name if len(files) == 1 else f"{files[0].name} and {len(files) - 1} more",
            command="neuroattn " + shlex.join(sys.argv[1:]),
            progress=progress.update,
        )
    _print_scores(scores, out)


@decode_eeg_app.command("predict", no_args_is_help=True)
def predict(
    model: Annotated[Path, typer.Argument(help="Folder of a decoder: models/PIPELINE of a fit.")],
    files: Annotated[list[Path], typer.Argument(help="Recordings with the same channels and events.")],
    out: Annotated[Path, _option("--out", help="CSV file for the predictions.", panel=RUN)],
) -> None:
    """Classify the trials of other recordings with a fitted decoder.

    Example: neuroattn decode-eeg predict S007/models/csp-lda S007R12.edf --out predictions.csv
    """
    from neuroattn.analyses.decoder import Decoder, read_trials
    from neuroattn.results import replacing

    if out.exists():
        raise FileExistsError(f"--out {out} exists; predictions are not overwritten")
    if not out.parent.is_dir():
        raise FileNotFoundError(f"--out must lie in a folder that exists, got {out}")
    decoder = Decoder.load(model)
    table = decoder.predict(read_trials(model, files))
    with replacing(out) as temporary:
        table.to_csv(temporary, index=False)
    share = (table.label == table.predicted).mean()
    typer.echo(f"{len(table)} trials, {share:.3f} as labelled; {out}")


def parse_events(text: str) -> dict[str, str]:
    """Return the label of each annotation.

    Examples
    --------
    >>> parse_events("T1=left, T2=right")
    {'T1': 'left', 'T2': 'right'}
    """
    pairs = [part.partition("=") for part in text.split(",")]
    labels = {name.strip(): label.strip() for name, _, label in pairs}
    if not all(sign and name.strip() and label.strip() for name, sign, label in pairs):
        raise ValueError(f"--events must be ANNOTATION=LABEL,..., got {text!r}")
    if len(labels) < len(pairs) or len(set(labels.values())) < 2:
        raise ValueError(f"--events must name each annotation once and two labels or more, got {text!r}")
    return labels


def parse_band(text: str) -> tuple[float, float]:
    """Return the edges of a pass band.

    Examples
    --------
    >>> parse_band("8-30")
    (8.0, 30.0)
    """
    low, _, high = text.partition("-")
    try:
        edges = float(low), float(high)
    except ValueError:
        raise ValueError(f"--band must be LOW-HIGH in hertz, such as 8-30, got {text!r}") from None
    if not 0 < edges[0] < edges[1]:
        raise ValueError(f"--band must be LOW-HIGH with 0 < LOW < HIGH, got {text!r}")
    return edges


def parse_pipelines(model: str, attention: str) -> list[str]:
    """Return the pipelines of these options, the slow-signal control among them.

    Examples
    --------
    >>> parse_pipelines("csp-lda,basenet", "eca,se")
    ['csp-lda', 'slow-signals', 'basenet', 'basenet+eca', 'basenet+se']
    """
    names = [name.strip() for name in model.split(",")]
    gates = [gate.strip() for gate in attention.split(",") if gate.strip() not in ("", "none")]
    classical = [name for name in names if name != "basenet"]
    control = [] if "slow-signals" in classical else ["slow-signals"]
    networks = ["basenet", *(f"basenet+{gate}" for gate in gates)] if "basenet" in names else []
    return list(dict.fromkeys([*classical, *control, *networks]))


def _has_pairs(trials: Trials) -> bool:
    from neuroattn.eeg.pipelines import lateral_pairs

    try:
        return bool(lateral_pairs(trials.ch_names))
    except ValueError:
        return False


def _device(name: str) -> str:
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError):  # AssertionError: a build without CUDA
        raise ValueError(f"--device {name!r} is not available here") from None
    return name


def _print_plan(
    trials: Trials,
    pipelines: list[str],
    conditions: tuple[Condition, ...],
    protocol: str | None,
    permutations: int,
    epochs: int,
    seed: int,
    device: str,
) -> None:
    from neuroattn.analyses.decoding import decoding_folds, estimate_seconds

    name, folds = decoding_folds(trials, protocol)
    typer.echo(f"{len(trials)} trials, {len(trials.ch_names)} channels, {trials.sfreq:g} Hz")
    recorded = trials.metadata[["subject", "session", "run"]].drop_duplicates()
    for subject, session, run in recorded.itertuples(index=False):
        labels, counts = np.unique(
            trials.select(subject=subject, session=session, run=run).y, return_counts=True
        )
        shown = ", ".join(f"{count} {label}" for label, count in zip(labels, counts, strict=True))
        typer.echo(f"  subject {subject}, session {session}, run {run}: {shown}")
    for note in trials.notes:
        typer.echo(f"  note: {note}")
    typer.echo(
        f"{name}: {len(folds)} folds, {permutations} permutations fitted again, {len(conditions)} conditions"
    )
    for pipeline in pipelines:
        seconds = estimate_seconds(
            trials, pipeline, conditions[1], folds, n_permutations=permutations, n_epochs=epochs, seed=seed,
            device=device,
        )  # fmt: skip
        typer.echo(f"{pipeline}: about {seconds * len(conditions):.0f} s")
    typer.echo("nothing was written")


def _print_scores(scores: xr.Dataset, out: Path) -> None:
    from rich.table import Table

    table = Table(title="accuracy on held-out trials (95 % point of the null)")
    table.add_column("pipeline")
    for condition in scores.condition.values:
        table.add_column(str(condition), justify="right")
    for name in scores.pipeline.values:
        row = scores.sel(pipeline=name)
        cells = []
        for condition in scores.condition.values:
            value, null = (float(row[v].sel(condition=condition)) for v in ("accuracy", "null_95"))
            cells.append(
                "–" if value != value else f"{value:.3f}" + (f" ({null:.3f})" if null == null else "")
            )
        table.add_row(str(name), *cells)
    console.print(table)
    for name, verdict in zip(scores.pipeline.values, scores.verdict.values, strict=True):
        console.print(f"{name}: {verdict}")
    console.print(f"adjusted chance level {float(scores.adjusted_chance):.3f}")
    console.print(f"Report: {out / 'report.html'}", soft_wrap=True)
