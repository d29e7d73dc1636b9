"""``neuroattn make-data``: simulated subjects on disk, in the layouts of real data sets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from neuroattn.cli import make_data_app
from neuroattn.cli._display import human_bytes, progress_bars


@make_data_app.command("algonauts")
def make_algonauts(
    out: Annotated[Path, typer.Option("--out", help="Folder to write to.")],
    subjects: Annotated[int, typer.Option("--subjects", help="Subject numbers, e.g. --subjects 1 2.")] = 1,
    more_subjects: Annotated[list[int] | None, typer.Argument(hidden=True)] = None,
    n_train: Annotated[int, typer.Option("--n-train", help="Training images.")] = 380,
    n_test: Annotated[int, typer.Option("--n-test", help="Test images.")] = 120,
    seed: Annotated[int, typer.Option("--seed", help="Subject N is made from seed + N - 1.")] = 0,
    cache: Annotated[
        Path | None, typer.Option("--cache", help="Folder of stored features; the user's cache by default.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be written.")] = False,
) -> None:
    """Simulate subjects and write them in the Algonauts 2023 layout.

    Example: neuroattn make-data algonauts --out data --subjects 1 2
    """
    from neuroattn.analyses.demo import make_demo_recording
    from neuroattn.cli.fit_encoder import default_cache
    from neuroattn.datasets import write_algonauts
    from neuroattn.encoding import load_backbone

    numbers = [subjects, *(more_subjects or [])]
    for number in numbers:
        if (out / f"subj{number:02d}").exists():
            raise FileExistsError(f"{out / f'subj{number:02d}'} exists; subjects are not overwritten")
    if dry_run:
        size = (n_train + n_test) * 100_000  # a PNG of 224 x 224 takes about this
        typer.echo(
            f"{len(numbers)} subjects, about {human_bytes(len(numbers) * size)} in {out}; nothing was written"
        )
        return
    network = load_backbone("demo")
    with progress_bars() as progress:
        for i, number in enumerate(numbers):
            progress.update("subjects", i, len(numbers))
            recording = make_demo_recording(
                network,
                cache or default_cache(),
                n_train=n_train,
                n_test=n_test,
                seed=seed + number - 1,
                progress=progress.update,
            )
            write_algonauts(recording, out, number)
        progress.update("subjects", len(numbers), len(numbers))
    typer.echo(f"Simulated subjects {', '.join(map(str, numbers))} in {out}")
