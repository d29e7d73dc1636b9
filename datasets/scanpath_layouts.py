"""Scanpaths of any layout that is read here."""

from __future__ import annotations

from codecs import BOM_UTF8
from collections.abc import Callable
from pathlib import Path
from typing import Any

from neuroattn._checks import check_option
from neuroattn.datasets.scanpath_books import load_book_covers, write_book_covers
from neuroattn.datasets.scanpath_coco import load_coco_search18, write_coco_search18
from neuroattn.datasets.scanpath_objarr import load_objarr, write_objarr
from neuroattn.datasets.scanpath_osie import load_osie, write_osie
from neuroattn.datasets.scanpath_pysaliency import load_pysaliency, write_pysaliency
from neuroattn.datasets.scanpath_tables import (
    MULTIMATCH,
    load_events,
    load_multimatch,
    write_events,
    write_multimatch,
)
from neuroattn.datasets.scanpath_visions import load_visions, write_visions
from neuroattn.datasets.scanpaths import ScanpathDataset

_LOADERS: dict[str, Callable[..., ScanpathDataset]] = {
    "neuroattn": ScanpathDataset.load,
    "coco-search18": load_coco_search18,
    "osie": load_osie,
    "visions": load_visions,
    "pysaliency": load_pysaliency,
    "objarr": load_objarr,
    "events": load_events,
    "multimatch": load_multimatch,
    "book-covers": load_book_covers,
}
_WRITERS: dict[str, Callable[[ScanpathDataset, str | Path], None]] = {
    "neuroattn": ScanpathDataset.save,
    "coco-search18": write_coco_search18,
    "osie": write_osie,
    "visions": write_visions,
    "pysaliency": write_pysaliency,
    "objarr": write_objarr,
    "events": write_events,
    "multimatch": write_multimatch,
    "book-covers": write_book_covers,
}
SCANPATH_LAYOUTS = tuple(_LOADERS)

# The first that fits holds: files that only a folder of this layout has.
_SIGNS = {
    "neuroattn": "fixations.nc",
    "coco-search18": "coco_search18_fixations_*.json",
    "osie": "fixations.mat",
    "visions": "dataset_info.json",
    "pysaliency": "scanpaths.hdf5",
    "objarr": "objarr.npz",
    "events": "*_events.tsv",
    "multimatch": "*.tsv",
    "book-covers": "*.json",
}
_SUFFIXES = {
    **{".mat": "osie", ".npz": "objarr", ".hdf5": "pysaliency", ".h5": "pysaliency"},
    **{".json": "book-covers", ".csv": "events", ".tsv": "events"},
}


def load_scanpaths(path: str | Path, *, layout: str | None = None, **options: Any) -> ScanpathDataset:
    """Load scanpaths of any layout.

    Parameters
    ----------
    path : str or Path
        File or folder.
    layout : {"neuroattn", "coco-search18", "osie", "visions", "pysaliency", "objarr", "events", "multimatch", \
"book-covers"}, optional
        None finds it out from the names of the files. "neuroattn" is what :meth:`ScanpathDataset.save` writes.
    **options
        Of the loader: :func:`load_coco_search18`, :func:`load_osie`, :func:`load_visions`, :func:`load_pysaliency`,
        :func:`load_objarr`, :func:`load_events`, :func:`load_multimatch`, :func:`load_book_covers`.

    Returns
    -------
    ScanpathDataset

    Raises
    ------
    FileNotFoundError
        If there is nothing at ``path``.
    ValueError
        If the layout is unknown or cannot be found out, or from the loader.

    Examples
    --------
    >>> import tempfile
    >>> from neuroattn.datasets import make_search_arrays
    >>> folder = Path(tempfile.mkdtemp()) / "simulated"
    >>> write_scanpaths(make_search_arrays(n_scenes=3, n_observers=2, seed=0), folder, layout="osie")
    >>> load_scanpaths(folder).data.attrs["source"]
    'OSIE: fixations.mat'
    """
    layout = find_layout(path) if layout is None else check_option("layout", layout, SCANPATH_LAYOUTS)
    return _LOADERS[layout](path, **options)


def write_scanpaths(dataset: ScanpathDataset, path: str | Path, *, layout: str) -> None:
    """Write scanpaths, their scenes and images in a layout.

    Parameters
    ----------
    dataset : ScanpathDataset
    path : str or Path
        A folder, for "objarr" a file; whole or absent, and replaced if it is there.
    layout : str
        As for :func:`load_scanpaths`.

    Raises
    ------
    ValueError
        If the layout is unknown or cannot hold the data set; see ``write_*`` of the layout.

    Examples
    --------
    >>> import tempfile
    >>> from neuroattn.datasets import make_search_arrays
    >>> folder = Path(tempfile.mkdtemp()) / "simulated"
    >>> write_scanpaths(make_search_arrays(n_scenes=3, n_observers=2, seed=0), folder, layout="events")
    >>> sorted(file.name for file in folder.iterdir())
    ['images', 'objects.tsv', 'sub-1_events.tsv', 'sub-2_events.tsv']
    """
    _WRITERS[check_option("layout", layout, SCANPATH_LAYOUTS)](dataset, path)


def _first_bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(100)


def find_layout(path: str | Path) -> str:
    """Return the layout of scanpaths in a file or folder."""
    path = Path(path)
    if path.is_dir():
        for layout, sign in _SIGNS.items():
            if any(path.glob(sign)):
                return layout
    elif not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; expected scanpaths")
    elif path.name.startswith("coco_search18_fixations"):
        return "coco-search18"
    elif path.suffix == ".tsv" and _first_bytes(path).removeprefix(BOM_UTF8).startswith(
        MULTIMATCH[0].encode()
    ):
        return "multimatch"
    elif path.suffix in _SUFFIXES:
        return _SUFFIXES[path.suffix]
    raise ValueError(f"layout must be given for {path}; it is one of {', '.join(SCANPATH_LAYOUTS)}")
