"""Labelled results: region masks, provenance, and files that are either whole or absent."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5netcdf
import h5py
import numpy as np
import pandas as pd
import xarray as xr
from numpy.lib import format as npy_format
from numpy.typing import ArrayLike, NDArray
from safetensors import SafetensorError

from neuroattn import __version__
from neuroattn._checks import check_option, check_range

__all__ = ["Scanpath", "filling", "label_rois", "provenance", "replacing", "write_json", "write_netcdf"]

UNIT_KINDS = ("vertex", "voxel", "neuron")
HEMISPHERES = ("left", "right", "none")
FIRST_FIXATIONS = ("initial", "free")


@dataclass(frozen=True, eq=False)
class Scanpath:
    """The fixations of one trial, of a person or of a model.

    Parameters
    ----------
    x, y : float array, shape (fixation,)
        Pixels of the image, origin at its top left. Fixations outside the image are kept; `outside` tells them.
    image_size : tuple of int, (width, height)
    t_start, duration : float array, shape (fixation,), optional
        Seconds.
    objects : int array, shape (fixation,), optional
        Index of the fixated object of the scene, -1 for background.
    log_prob : float array, shape (fixation,), optional
        Natural logarithm of each fixation's probability under the model that made it.
    found : bool, optional
        Whether the search found its target; None where nothing was searched or it is not known.
    px_per_degree : float, optional
        Pixels per degree of visual angle.
    first_fixation : {"initial", "free"}, default "initial"
        Whether the first fixation is where the trial began, and so was not chosen, or the first chosen one.
    attrs : dict, optional
        Anything else: image, observer, target, seed.

    Raises
    ------
    ValueError
        If the arrays differ in length, a coordinate or a time is not finite, or a duration is negative.

    Examples
    --------
    >>> path = Scanpath([400, 610.5, 905], [300, 200, 310], image_size=(800, 600), duration=[0.2, 0.31, 0.25])
    >>> len(path), path.outside.tolist()
    (3, [False, False, True])
    >>> path.to_frame().round(2)
           x      y  duration
    0  400.0  300.0      0.20
    1  610.5  200.0      0.31
    2  905.0  310.0      0.25
    """

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    image_size: tuple[int, int]
    t_start: NDArray[np.float64] | None = None
    duration: NDArray[np.float64] | None = None
    objects: NDArray[np.int64] | None = None
    log_prob: NDArray[np.float64] | None = None
    found: bool | None = None
    px_per_degree: float | None = None
    first_fixation: str = "initial"
    attrs: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_option("first_fixation", self.first_fixation, FIRST_FIXATIONS)
        if len(self.image_size) != 2 or not 1 <= min(self.image_size) <= max(self.image_size) < 2**31:
            raise ValueError(f"image_size must be (width, height) in px, got {self.image_size!r}")
        if self.px_per_degree is not None:
            check_range("px_per_degree", self.px_per_degree, 0)
        for name in ("x", "y", "t_start", "duration", "objects", "log_prob"):
            given = getattr(self, name)
            if given is None:
                continue
            values = np.array(given, dtype=np.int64 if name == "objects" else np.float64)
            if values.shape != (len(self.x),):
                raise ValueError(f"{name} must have shape ({len(self.x)},), got {values.shape}")
            if name != "log_prob" and not np.isfinite(values).all():
                raise ValueError(
                    f"{name} must be finite, got {values[~np.isfinite(values)][0]} among its values"
                )
            if name == "duration" and (values < 0).any():
                raise ValueError(f"duration must not be negative, got {values.min()} s")
            values.flags.writeable = False
            object.__setattr__(self, name, values)

    def __len__(self) -> int:
        return len(self.x)

    @property
    def outside(self) -> NDArray[np.bool_]:
        """Whether each fixation lies outside the image, shape (fixation,)."""
        width, height = self.image_size
        return (self.x < 0) | (self.x >= width) | (self.y < 0) | (self.y >= height)

    @property
    def n_saccades(self) -> int:
        """Chosen fixations: all but an initial one."""
        return max(len(self) - (self.first_fixation == "initial"), 0)

    def to_frame(self) -> pd.DataFrame:
        """Return a table with a row for each fixation and a column for each array that is there."""
        names = ("x", "y", "t_start", "duration", "objects", "log_prob")
        return pd.DataFrame({name: getattr(self, name) for name in names if getattr(self, name) is not None})


def label_rois(
    masks: Mapping[str, ArrayLike],
    *,
    hemisphere: ArrayLike | str = "none",
    unit_kind: str = "voxel",
    vertex_index: ArrayLike | None = None,
    atlas: ArrayLike | str = "",
) -> xr.DataArray:
    """Label region masks by region and unit.

    Parameters
    ----------
    masks : mapping of str to bool array, shape (unit,)
        Members of each region. Regions may overlap and may be empty.
    hemisphere : str or array of str, shape (unit,), default "none"
        "left", "right" or "none" of each unit; left units come before right ones.
    unit_kind : {"vertex", "voxel", "neuron"}
    vertex_index : int array, shape (unit,), optional
        Place of each unit on its surface mesh or in its mask; -1 where it has none.
    atlas : str or array of str, shape (roi,), default ""
        Atlas or localizer that each region comes from.

    Returns
    -------
    DataArray, dims (roi, unit)
        Membership, with coordinates ``atlas`` along ``roi`` and ``hemisphere``, ``unit_kind`` and
        ``vertex_index`` along ``unit``.

    Examples
    --------
    >>> rois = label_rois({"V1": [True, True, False], "FFA": [False, True, True]})
    >>> rois.sel(roi="FFA").values
    array([False,  True,  True])
    """
    check_option("unit_kind", unit_kind, UNIT_KINDS)
    if not masks:
        raise ValueError("masks must name at least one region, got none")
    members = {name: np.asarray(mask) for name, mask in masks.items()}
    n_units = len(next(iter(members.values())))
    for name, mask in members.items():
        if mask.shape != (n_units,):
            raise ValueError(f"masks[{name!r}] must have shape ({n_units},), got {mask.shape}")
        if mask.dtype != bool:
            raise TypeError(f"masks[{name!r}] must be bool, got {mask.dtype}")
    side = np.broadcast_to(np.asarray(hemisphere, dtype="<U5"), (n_units,)).copy()
    for value in np.unique(side):
        check_option("hemisphere", str(value), HEMISPHERES)
    if np.any(np.diff(np.where(side == "right", 1, 0)) < 0):
        raise ValueError("hemisphere must list left units before right units")
    index = np.full(n_units, -1) if vertex_index is None else np.asarray(vertex_index, dtype=np.int64)
    if index.shape != (n_units,):
        raise ValueError(f"vertex_index must have shape ({n_units},), got {index.shape}")
    return xr.DataArray(
        np.stack(list(members.values())),
        dims=("roi", "unit"),
        coords={
            "roi": np.asarray(list(members), dtype=str),
            "atlas": ("roi", np.broadcast_to(np.asarray(atlas, dtype=str), (len(members),)).copy()),
            "hemisphere": ("unit", side),
            "unit_kind": ("unit", np.full(n_units, unit_kind)),
            "vertex_index": ("unit", index),
        },
        name="membership",
    )


def provenance(seed: int, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes that every result carries: version, seed and the resolved configuration.

    Examples
    --------
    >>> provenance(0, {"model": "ridge"})["config"]
    '{"model": "ridge"}'
    """
    return {
        "neuroattn_version": __version__,
        "seed": int(seed),
        "config": json.dumps(dict(config), sort_keys=True, default=str),
    }


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` and rename it to ``path`` on success.

    A file or a folder may be written there. After an error or an interruption ``path`` is as it was.

    Raises
    ------
    OSError
        If it cannot be written, with the name that the file would have had.

    Examples
    --------
    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "scores.txt"
    >>> with replacing(target) as temporary:
    ...     _ = temporary.write_text("whole")
    >>> target.read_text()
    'whole'
    """
    path = Path(path)
    folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    temporary = folder / path.name
    try:
        yield temporary
        if temporary.is_dir() and path.is_dir():
            os.replace(path, folder / "previous")
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        renamed = _renamed(error, temporary, path)
        if renamed is None:
            raise
        raise renamed from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _renamed(error: Exception, temporary: Path, path: Path) -> OSError | None:
    """Return an error of writing under the name that the file would have had; None for other errors."""
    name, number = getattr(error, "filename", None), getattr(error, "errno", None)
    if name is not None:
        if not str(name).startswith(str(temporary)):
            return None
        path = Path(str(path) + str(name).removeprefix(str(temporary)))
    # numpy counts what it could not write, safetensors tells it in words: neither has a number.
    elif number is None and not (isinstance(error, SafetensorError) or str(error).endswith(" written")):
        return None
    return OSError(number or errno.EIO, getattr(error, "strerror", None) or str(error), str(path))


@contextlib.contextmanager
def filling(path: str | Path) -> Iterator[Path]:
    """Yield a folder to write results into: ``path`` where it holds something, else one that becomes it on success.

    Folders above ``path`` are made. After an error or an interruption a new ``path`` is not there.

    Examples
    --------
    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "study" / "scores"
    >>> with filling(target) as folder:
    ...     write_json(folder / "config.json", {"seed": 0})
    >>> [path.name for path in target.iterdir()]
    ['config.json']
    """
    path = Path(path)
    if path.is_dir() and any(path.iterdir()):
        yield path
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.mkdir()
        yield temporary


def write_json(path: str | Path, content: Any) -> None:
    """Write JSON so that the file is whole or absent.

    Examples
    --------
    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "config.json"
    >>> write_json(target, {"seed": 0})
    >>> json.loads(target.read_text())
    {'seed': 0}
    """
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, sort_keys=True, default=_jsonable) + "\n")


def _jsonable(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    return str(value)


def write_netcdf(path: str | Path, dataset: xr.Dataset | xr.DataArray) -> None:
    """Write a labelled result as netCDF so that the file is whole or absent.

    Examples
    --------
    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "scores.nc"
    >>> write_netcdf(target, xr.Dataset({"correlation": ("unit", [0.5, 0.25])}))
    >>> xr.load_dataset(target, engine="h5netcdf").correlation.values
    array([0.5 , 0.25])
    """
    whole = dataset.to_dataset() if isinstance(dataset, xr.DataArray) else dataset
    content = io.BytesIO()  # as for new_hdf5; on a worker of dask, to_netcdf writes to paths only
    with h5netcdf.File(content, "w") as file:
        whole.dump_to_store(xr.backends.H5NetCDFStore(file))
    with replacing(path) as temporary:
        temporary.write_bytes(content.getbuffer())


@contextlib.contextmanager
def new_hdf5(path: Path) -> Iterator[h5py.File]:
    """Yield an HDF5 file that is made in memory and written when it is whole.

    HDF5 that meets a full disk while it writes itself can take the process down, then or later.

    Examples
    --------
    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "x.h5"
    >>> with new_hdf5(target) as file:
    ...     file["x"] = [1, 2]
    >>> with h5py.File(target) as file:
    ...     file["x"][:].tolist()
    [1, 2]
    """
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        yield file
    path.write_bytes(content.getbuffer())


def new_npy(path: Path, shape: tuple[int, ...]) -> np.memmap[Any, np.dtype[np.float32]]:
    """Return a new npy file of float32 as a memory map, its space reserved where the system can do that.

    A disk that is full is then an error here; later it would be a signal that ends the process.

    Examples
    --------
    >>> import tempfile
    >>> new_npy(Path(tempfile.mkdtemp()) / "x.npy", (2, 3)).sum()
    np.float32(0.0)
    """
    array = npy_format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array
