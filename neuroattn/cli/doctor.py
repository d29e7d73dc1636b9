"""``neuroattn doctor``: versions, devices, and what a data folder holds."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from neuroattn.cli import app
from neuroattn.cli._display import console, human_bytes, print_checks

if TYPE_CHECKING:
    from neuroattn.datasets import FileCheck

PACKAGES = (
    "neuroattn", "torch", "triton", "numpy", "scipy", "scikit-learn", "skorch", "himalaya", "timm", "nilearn",
    "nibabel", "mne", "braindecode", "xarray", "h5py", "zarr",
)  # fmt: skip
SOURCES = {
    "algonauts": "Algonauts 2023 challenge data: https://algonautsproject.com/2023/challenge.html",
    "nsd": "Natural Scenes Dataset, after accepting its terms: https://naturalscenesdataset.org",
}
_ARRAY_SUFFIXES = (".npy", ".npz", ".mat", ".h5", ".hdf5", ".csv", ".tsv", ".nii", ".nii.gz", ".gii", ".zip")


@app.command("doctor")
def doctor(
    data: Annotated[Path | None, typer.Option("--data", help="Folder to look for data sets in.")] = None,
) -> None:
    """Say which versions, devices and data there are, and what is missing.

    Example: neuroattn doctor

    Example: neuroattn doctor --data nsd
    """
    if data is not None and not data.is_dir():
        raise FileNotFoundError(f"--data {data} does not exist; expected the folder of a data set")
    _print_versions()
    _print_devices()
    if data is not None:
        _print_data(data)


def _print_versions() -> None:
    typer.echo(f"Python {platform.python_version()} on {platform.platform()}")
    for name in PACKAGES:
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            if name == "neuroattn":  # run from its folder
                from neuroattn import __version__ as version
            else:
                version = f"not installed; pip install {name}"
        typer.echo(f"  {name} {version}")


def _print_devices() -> None:
    import torch

    typer.echo(f"cpu: {os.cpu_count()} cores, {torch.get_num_threads()} threads")
    for i in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(i)
        typer.echo(f"cuda:{i}: {properties.name}, {human_bytes(properties.total_memory)}")
    if torch.backends.mps.is_available():
        typer.echo("mps: available")
    if not torch.cuda.is_available():
        typer.echo("no CUDA device: the primitives take their CPU route")


def _print_data(data: Path) -> None:
    from neuroattn.datasets import inspect_algonauts, inspect_nsd, list_subjects
    from neuroattn.datasets.nsd import SPACES

    subjects = {layout: list_subjects(data, layout) for layout in SOURCES}
    for subject in subjects["algonauts"]:
        _print_subject("algonauts", f"subject {subject}", inspect_algonauts(data, subject))
    for subject in subjects["nsd"]:
        folder = data / "nsddata_betas" / "ppdata" / f"subj{subject:02d}"
        for space in (space for space in SPACES if (folder / space).is_dir()):
            checks = inspect_nsd(data, subject, space=space)
            _print_subject("nsd", f"subject {subject}, {space}", checks)
    files = [path for path in sorted(data.iterdir()) if path.name.lower().endswith(_ARRAY_SUFFIXES)]
    for path in files:
        typer.echo(f"arrays: {path.name}, {human_bytes(path.stat().st_size)}")
    if not files and not any(subjects.values()):
        typer.echo(f"{data} holds no data set; fit-encoder --layout arrays reads a lab's own files")
        for source in SOURCES.values():
            typer.echo(f"  {source}")


def _print_subject(layout: str, what: str, checks: list[FileCheck]) -> None:
    typer.echo(f"{layout}: {what}")
    print_checks(checks)
    if any(check.found != check.expected for check in checks):
        console.print(f"  {SOURCES[layout]}", soft_wrap=True)
