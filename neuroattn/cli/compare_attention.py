"""``neuroattn compare-attention``: train every attention layer on the same questions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from neuroattn.cli import app
from neuroattn.cli._display import progress_bars
from neuroattn.cli._options import MODEL, RUN, TRAINING, option


@app.command("compare-attention", no_args_is_help=True)
def compare_attention(
    out: Annotated[Path, option("--out", help="Folder for the results.", panel=RUN)],
    attention: Annotated[
        str, option("--attention", help="Comma-separated layers beside softmax, or all.", panel=MODEL)
    ] = "all",
    n_seeds: Annotated[int, option("--seeds", help="Networks of each layer.", panel=TRAINING)] = 5,
    steps: Annotated[int, option("--steps", help="Steps of each network.", panel=TRAINING)] = 1_600,
    n_train: Annotated[int, option("--n-train", help="Questions to train on.", panel=TRAINING)] = 30_000,
    n_test: Annotated[int, option("--n-test", help="Questions of each test.", panel=TRAINING)] = 1_000,
    seed: Annotated[int, option("--seed", help="First seed.", panel=TRAINING)] = 0,
    workers: Annotated[
        int, option("--workers", help="Processes that train (dask); 0 trains in this one.", panel=RUN)
    ] = 0,
    resume: Annotated[
        bool, option("--resume", help="Continue an interrupted run in --out.", panel=RUN)
    ] = False,
    dry_run: Annotated[bool, option("--dry-run", help="Say what would be trained.", panel=RUN)] = False,
) -> None:
    """Compare attention layers at equal budgets: generalization to four tests, time and memory.

    Example: neuroattn compare-attention --attention manar,static --steps 400 --out layers

    Example: neuroattn compare-attention --workers 2 --out attention-layers
    """
    from neuroattn._checks import check_option
    from neuroattn.analyses.attention_layers import attention_layers_table, compare_attention_layers
    from neuroattn.attention import ATTENTIONS

    names = list(ATTENTIONS) if attention == "all" else [name.strip() for name in attention.split(",")]
    for name in names:
        check_option("--attention", name, ATTENTIONS)
    if dry_run:
        n_networks = n_seeds * (len({"softmax", *names}) + 2)  # and the baseline and the null
        typer.echo(f"{n_networks} networks of {steps} steps; nothing was written")
        return
    with progress_bars() as progress:
        study = compare_attention_layers(
            names,
            out=out,
            n_seeds=n_seeds,
            seed=seed,
            n_train=n_train,
            n_test=n_test,
            steps=steps,
            resume=resume,
            workers=workers,
            progress=progress.update,
        )
    typer.echo(attention_layers_table(study))
