"""What is left after a fault: nothing, or files that can be read to their end."""

import json

import numpy as np
import pandas as pd
import xarray as xr
from PIL import Image
from safetensors.numpy import load_file


def read_page(path):
    assert path.read_text(encoding="utf-8").rstrip().endswith("</html>"), path


def read_picture(path):
    with Image.open(path) as picture:
        picture.load()


READERS = {
    ".nc": lambda path: xr.load_dataset(path, engine="h5netcdf"),
    ".json": lambda path: json.loads(path.read_text()),
    ".npy": np.load,
    ".npz": lambda path: dict(np.load(path)),
    ".csv": pd.read_csv,
    ".safetensors": load_file,
    ".html": read_page,
    ".png": read_picture,
    ".md": lambda path: path.read_text(),
}
# Files that equal runs write alike to the byte; others name versions, times and folders.
EQUAL = {".npy", ".csv", ".safetensors", ""}


def files(folder):
    """Return the files of a folder, or the file that it is, by their places in it."""
    if folder.is_file():
        return {"": folder}
    return {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}


def check_whole(folder):
    """Check that every file can be read, and that none is left of what was being written."""
    left = files(folder)
    for name, path in left.items():
        assert not any(
            part.startswith(".") or part.endswith(".partial") for part in path.relative_to(folder).parts
        ), name
        if path.suffix:
            READERS[path.suffix](path)
    return left


def check_equal(folder, other):
    """Check that two folders hold the same files with the same results."""
    left, right = files(folder), files(other)
    assert list(left) == list(right)
    for name, path in left.items():
        if path.suffix in EQUAL:
            assert path.read_bytes() == right[name].read_bytes(), name


def contents(folder):
    """Return what is in a folder, to see whether anything has changed."""
    return {name: path.read_bytes() for name, path in files(folder).items()}
