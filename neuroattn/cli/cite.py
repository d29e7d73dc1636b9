"""``neuroattn cite``: what to cite for a model, layer or metric."""

from __future__ import annotations

from typing import Annotated

import typer

from neuroattn import __version__
from neuroattn._references import KINDS, references_of
from neuroattn.cli import app


@app.command("cite")
def cite(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL]...", help="Models, layers and metrics; all names are listed without any."
        ),
    ] = None,
    bibtex: Annotated[bool, typer.Option("--bibtex", help="BibTeX entries.")] = False,
) -> None:
    """Print what to cite for models, layers and metrics.

    Example: neuroattn cite attention ridge

    Example: neuroattn cite basenet+eca multimatch --bibtex
    """
    if not models:
        for kind, names in KINDS.items():
            typer.echo(f"{kind}: {', '.join(names)}")
        return
    by_model = {name: references_of(name) for name in models}
    found = list(dict.fromkeys(reference for references in by_model.values() for reference in references))
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
    for name in (name for name, references in by_model.items() if not references):
        typer.echo(f"{name} comes from no paper: cite neuroattn alone.")
    for reference in found:
        typer.echo(reference.text + (f" https://doi.org/{reference.doi}" if reference.doi else ""))
