"""What the command prints: progress, tables, sizes."""

from __future__ import annotations

import contextlib
import json
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

if TYPE_CHECKING:
    import xarray as xr

console = Console()


def this_command() -> str:
    """Return what was typed."""
    return "neuroattn " + shlex.join(sys.argv[1:])


class Bars:
    """One bar a stage, with the time left."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.tasks: dict[str, Any] = {}

    def update(self, stage: str, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` steps of a stage are finished."""
        self.progress.start()
        if stage not in self.tasks:
            self.tasks[stage] = self.progress.add_task(stage, total=total)
        self.progress.update(self.tasks[stage], completed=done, total=total)

    def stop(self) -> None:
        """Leave the bars as they are; without bars there is nothing to leave, not even an empty line."""
        if self.progress.live.is_started:
            self.progress.stop()


@contextlib.contextmanager
def progress_bars() -> Iterator[Bars]:
    """Show progress on standard error."""
    columns = (TextColumn("{task.description:<9}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bars = Bars(Progress(*columns, console=Console(stderr=True)))
    try:
        yield bars
    finally:
        bars.stop()


def human_bytes(n: float) -> str:
    """Return a size as people read it.

    Examples
    --------
    >>> human_bytes(1_500_000)
    '1.5 MB'
    """
    power = min(int(np.log10(max(n, 1)) / 3), 4)
    return f"{n:.0f} B" if power == 0 else f"{n / 1000**power:.1f} {('kB', 'MB', 'GB', 'TB')[power - 1]}"


def print_checks(checks: Sequence[Any]) -> None:
    """Print what files were found and what is missing."""
    wrong = [check for check in checks if check.found != check.expected]
    size = human_bytes(sum(check.n_bytes for check in checks))
    console.print(f"{len(checks) - len(wrong)} of {len(checks)} files as expected, {size}")
    for check in wrong:
        console.print(f"  {check.path}: found {check.found}, expected {check.expected}", soft_wrap=True)


def print_group(group: xr.Dataset, out: Path) -> None:
    """Print means over subjects by region and model, and where the report is."""
    from neuroattn.analyses.encoder_report import drawn_models

    subjects = f"{group.sizes['subject']} subject{'s' if group.sizes['subject'] > 1 else ''}"
    drawn, left_out = drawn_models(group)
    table = Table(title=f"correlation, held-out images, mean over {subjects}")
    table.add_column("region")
    for model in drawn:
        table.add_column(model, justify="right", overflow="fold", min_width=6)
    for roi in group["roi"].values:
        values = group["correlation"].sel(roi=roi, model=drawn).values
        table.add_row(str(roi), *("no units" if r != r else f"{r:.3f}" for r in values))
    console.print(table)
    if left_out:
        console.print("Of every model the best of its layers is shown; group.nc holds all.")
    console.print(f"With {subjects} no p over subjects can be below {float(group['smallest_p'].min()):.2g}.")
    if group.attrs["simulated"]:
        console.print("The responses are simulated; nothing here is evidence about real brains.")
    console.print(f"Report: {out / 'report.html'}", soft_wrap=True)


def print_scores(scores: xr.Dataset, out: Path) -> None:
    """Print mean scores by region and model, and where the report is."""
    import xarray as xr

    from neuroattn.analyses.encoder_report import drawn_models

    regions = xr.load_dataset(out / "roi_scores.nc", engine="h5netcdf")
    ceiling = bool(regions["r2_over_ceiling"].notnull().any())
    table = Table(title="correlation" + (" (r2 over noise ceiling)" if ceiling else "") + ", held-out images")
    table.add_column("region")
    table.add_column("units", justify="right")
    drawn, left_out = drawn_models(regions)
    for model in drawn:
        table.add_column(model, justify="right", overflow="fold", min_width=6)
    for roi in regions["roi"].values:
        row = regions.sel(roi=roi)
        cells = []
        for model in drawn:
            r, share = (float(row[v].sel(model=model)) for v in ("correlation", "r2_over_ceiling"))
            cells.append("no units" if r != r else f"{r:.3f}" + (f" ({share:.2f})" if share == share else ""))
        table.add_row(str(roi), str(int(row["n_units"])), *cells)
    console.print(table)
    if left_out:
        console.print("Of every model the best of its layers is shown; roi_scores.nc holds all.")
    for model, reason in json.loads(scores.attrs["not_applicable"]).items():
        console.print(f"{model}: {reason}")
    if scores.attrs["simulated"]:
        console.print("The responses are simulated; nothing here is evidence about real brains.")
    if "p_fdr" in scores:
        above = (scores["p_fdr"] < 0.05).mean(["subject", "seed", "unit"])
        listed = ", ".join(f"{model} {float(above.sel(model=model)):.0%}" for model in above["model"].values)
        smallest = 1 / (scores.attrs["n_shuffles"] + 1)
        console.print(f"Units above chance (FDR < .05, no p below {smallest:.2g}): {listed}")
    page = out / "report.html"
    console.print(f"Report: {page}" if page.is_file() else f"Scores: {out / 'scores.nc'}", soft_wrap=True)
