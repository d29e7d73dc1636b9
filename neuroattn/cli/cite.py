"""``neuroattn cite``: what to cite for a model."""

from __future__ import annotations

from typing import Annotated

import typer

from neuroattn import __version__
from neuroattn._references import MODELS, references_of
from neuroattn.cli import app


@app.command("cite")
def cite(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL]...", help="Names as the commands have them; all are listed without any."
        ),
    ] = None,
    bibtex: Annotated[bool, typer.Option("--bibtex", help="BibTeX entries.")] = False,
) -> None:
    """Print what to cite for models.

    Example: neuroattn cite attention ridge

    Example: neuroattn cite basenet+eca --bibtex
    """
    if not models:
        typer.echo("Models: " + ", ".join(MODELS))
        return
    found = list(dict.fromkeys(reference for name in models for reference in references_of(name)))
    if bibtex:
        title = "neuroattn: attention models of neuroscience and cognitive science"
        typer.echo(
            f"@software{{neuroattn,\n  author = {{{{The neuroattn developers}}}},\n  title = {{{title}}},\n"
            f"  version = {{{__version__}}},\n}}"
        )
        for reference in found:
            typer.echo(reference.bibtex)
        return
    typer.echo(f"The neuroattn developers. neuroattn {__version__} [software].")
    for reference in found:
        typer.echo(reference.text + (f" https://doi.org/{reference.doi}" if reference.doi else ""))
