"""The ``neuroattn`` command: parsing and printing only."""

from __future__ import annotations

import re
import signal
import sys

import typer

from neuroattn import __version__

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Attention models of neuroscience and cognitive science.",
)
make_data_app = typer.Typer(no_args_is_help=True, help="Write small data sets in the layouts of real ones.")
app.add_typer(make_data_app, name="make-data")
decode_eeg_app = typer.Typer(no_args_is_help=True, help="Decode motor imagery from EEG recordings.")
app.add_typer(decode_eeg_app, name="decode-eeg")
predict_scanpath_app = typer.Typer(no_args_is_help=True, help="Predict which object people look at next.")
app.add_typer(predict_scanpath_app, name="predict-scanpath")
search_app = typer.Typer(no_args_is_help=True, help="Search images with eccentricity-dependent networks.")
app.add_typer(search_app, name="search")


@app.callback(invoke_without_command=True)
def _root(version: bool = typer.Option(False, "--version", help="Print the version and exit.")) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


def register_verbs() -> None:
    """Give `app` its verbs."""
    from neuroattn.cli import (  # noqa: F401 (each registers its verb)
        attention_maps,
        cite,
        compare_attention,
        decode_eeg,
        decode_eeg_study,
        doctor,
        eval_encoder,
        extract_features,
        fit_encoder,
        make_data,
        predict_scanpath,
        search,
    )


def main() -> None:
    """Run the command; bad input ends with one line and exit code 2."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a batch system stops it as Ctrl-C does
    register_verbs()
    try:
        code = app(standalone_mode=False)
    except typer.TyperException as error:
        message = error.format_message()
        if message:  # without arguments the help has been shown instead
            typer.echo(f"Error: {message}", err=True)
        sys.exit(2)
    except (ValueError, TypeError, OSError, ImportError, MemoryError) as error:
        message = " ".join(str(error).split()) or type(error).__name__
        typer.echo(f"Error: {message}", err=True)
        sys.exit(2)
    except RuntimeError as error:  # torch's way to say that memory is not enough
        if not re.search("can't allocate memory|out of memory", str(error)):
            raise
        typer.echo(f"Error: memory is not enough: {str(error).splitlines()[0]}", err=True)
        sys.exit(2)
    if code == 130:  # what typer makes of Ctrl-C
        typer.echo("Interrupted; nothing half-written is left, and commands with --resume go on", err=True)
    sys.exit(code)
