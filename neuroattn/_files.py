"""Files that are damaged or made to harm: one line that names them, nothing run, nothing outside their folder."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from neuroattn._checks import check_option

_LONGEST = 200  # characters of a foreign text in an error
_LONGEST_ROW = 2**20  # characters of the names of columns
# What is opened as an image, whatever its name says: Pillow would hand PostScript to another program.
_IMAGE_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")


def shorten(text: object) -> str:
    """Return the first line of a text that is not ours, cut where it is long.

    Examples
    --------
    >>> shorten("first" + chr(10) + "second")
    'first'
    """
    lines = str(text).strip().splitlines() or [""]
    return lines[0] if len(lines[0]) <= _LONGEST else f"{lines[0][: _LONGEST - 3]}..."


def reason(error: Exception) -> str:
    """Return what an error says in its first line, or its kind if it says nothing.

    Examples
    --------
    >>> reason(ValueError("cut" + chr(10) + "off")), reason(MemoryError())
    ('cut', 'MemoryError')
    """
    return shorten(error) or type(error).__name__


def listed(names: Iterable[object]) -> str:
    """Return the first few names that a file holds.

    Examples
    --------
    >>> listed("abcdefghij"), listed([])
    ('a, b, c, d, e, f, g, h, ...', 'none')
    """
    shown = [shorten(name) for name in names]
    return shorten(", ".join([*shown[:8], "..."] if len(shown) > 8 else shown) or "none")


def refusal(complaint: str, error: Exception) -> ValueError:
    """Return what is raised for an error of a library: ``complaint`` and the reason, in one line."""
    kind, text = type(error).__name__, shorten(error)
    if text and isinstance(error, ValueError | OSError):
        return ValueError(f"{complaint} {text}")
    return ValueError(f"{complaint} {kind}: {text}" if text else f"{complaint} {kind}")


@contextmanager
def reading(complaint: str) -> Iterator[None]:
    """Turn whatever a library raises on a damaged file into one line.

    Libraries report damage with errors of every kind, MemoryError among them where a file claims more than it holds.

    Examples
    --------
    >>> with reading("a.json must be JSON, got"):
    ...     json.loads("{")
    Traceback (most recent call last):
    ValueError: a.json must be JSON, got Expecting property name enclosed in double quotes: line 1 column 2 (char 1)
    """
    try:
        yield
    except Exception as error:
        raise refusal(complaint, error) from None


def check_file(path: Path, expected: str = "") -> None:
    """Refuse what is not there, and folders, pipes and devices, which would be waited for.

    Examples
    --------
    >>> check_file(Path("nowhere.csv"), "a table")
    Traceback (most recent call last):
    FileNotFoundError: nowhere.csv does not exist; expected a table
    """
    if path.is_file():
        return
    if path.exists():
        raise ValueError(f"{path} must be a file, got a {'folder' if path.is_dir() else 'pipe or device'}")
    raise FileNotFoundError(f"{path} does not exist{expected and f'; expected {expected}'}")


def below(folder: Path, name: str) -> Path:
    """Return the path of a name that a file gives, which must not lead out of its folder.

    Examples
    --------
    >>> below(Path("images"), "../secret.png")
    Traceback (most recent call last):
    ValueError: '../secret.png' must lie in images
    """
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise ValueError(f"{shorten(repr(name))} must lie in {folder}")
    return folder / name


def read_text(path: Path, complaint: str | None = None) -> str:
    """Read UTF-8, with or without a byte order mark and in lines of any system.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "names.txt"
    >>> _ = path.write_bytes(bytes([239, 187, 191]) + b"V1")
    >>> read_text(path)
    'V1'
    """
    check_file(path)
    with reading(complaint or f"{path} must be text in UTF-8, got"):
        return path.read_text(encoding="utf-8-sig")


def read_json(path: Path, complaint: str | None = None) -> Any:
    """Read JSON whose objects name each entry once.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "regions.json"
    >>> _ = path.write_text('{"V1": [0], "V1": [1]}')
    >>> read_json(path)
    Traceback (most recent call last):
    ValueError: .../regions.json must be JSON, got 'V1' twice in one object
    """
    complaint = complaint or f"{path} must be JSON, got"
    text = read_text(path, complaint)
    with reading(complaint):
        return json.loads(text, object_pairs_hook=_distinct)


def read_table(path: Path, complaint: str | None = None) -> Any:
    """Read a table of texts, commas between them in .csv and tabs in other files, as a :class:`pandas.DataFrame`.

    Its first row names each column once, and every row has a text for each of them.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "fixations.csv"
    >>> _ = path.write_text("x,y,x")
    >>> read_table(path)
    Traceback (most recent call last):
    ValueError: .../fixations.csv must be a table, got 'x' twice in its first row
    """
    import pandas as pd

    check_file(path)
    with reading(complaint or f"{path} must be a table, got"):
        with path.open(encoding="utf-8-sig", newline="") as file:
            if len(file.readline(_LONGEST_ROW)) == _LONGEST_ROW:
                raise ValueError(f"a first row of more than {_LONGEST_ROW} characters")
            file.seek(0)
            separator = "," if path.suffix.lower() == ".csv" else "\t"
            lines = csv.reader(file, delimiter=separator, strict=True)
            names = next(lines, [])
            if not names:
                raise ValueError("nothing in its first row")
            name, count = Counter(names).most_common(1)[0]
            if count > 1:
                raise ValueError(f"{shorten(repr(name))} twice in its first row")
            rows = []
            for row in lines:
                if row and len(row) != len(names):
                    raise ValueError(f"{len(row)} entries in row {lines.line_num}, and {len(names)} columns")
                rows += [row] if row else []
        return pd.DataFrame(rows, columns=names, dtype=str)


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for name, value in pairs:
        if name in content:
            raise ValueError(f"{shorten(repr(name))} twice in one object")
        content[name] = value
    return content


def open_image(file: Any) -> Any:
    """Open an image file as a :class:`PIL.Image.Image` if it is of a kind that is only decoded."""
    from PIL import Image

    return Image.open(file, formats=_IMAGE_FORMATS)


def read_config(folder: Path, classes: Iterable[str]) -> dict[str, Any]:
    """Read the ``config.json`` of a folder that an estimator of one of these classes wrote.

    Examples
    --------
    >>> read_config(Path("nowhere"), ["RidgeEncoder"])
    Traceback (most recent call last):
    FileNotFoundError: nowhere must hold config.json and model.safetensors of a model
    """
    path = folder / "config.json"
    if not path.exists():
        raise FileNotFoundError(f"{folder} must hold config.json and model.safetensors of a model")
    config = read_json(path)
    with reading(f"{path} must describe a model:"):
        check_option("class", config["class"], classes)
        described: dict[str, Any] = {**config, "params": dict(config["params"])}
    check_file(folder / "model.safetensors", "the numbers of the model")
    return described


@contextmanager
def open_hdf5(path: Path) -> Iterator[Any]:
    """Open an HDF5 file whose data are all in it: HDF5 follows links to other files without a word.

    Yields
    ------
    h5py.File
    """
    import h5py

    def leads_out(name: str, item: Any) -> str | None:
        virtual = isinstance(item, h5py.Dataset) and (item.is_virtual or item.external)
        return name if virtual or isinstance(item, h5py.ExternalLink) else None

    with h5py.File(path, "r") as file:
        found = file.visititems_links(leads_out) or file.visititems(leads_out)
        if found is not None:
            raise ValueError(f"{shorten(repr(found))} in it lies in another file")
        yield file


def read_netcdf(path: Path, complaint: str | None = None) -> Any:
    """Read a whole netCDF file as an :class:`xarray.Dataset`.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "scores.nc"
    >>> _ = path.write_text("no")
    >>> read_netcdf(path)
    Traceback (most recent call last):
    ValueError: .../scores.nc must be netCDF, got ...
    """
    import xarray as xr

    check_file(path)
    with reading(complaint or f"{path} must be netCDF, got"):
        with open_hdf5(path):
            pass
        return xr.load_dataset(path, engine="h5netcdf")
