"""One subject's responses to a set of stimuli, read from files only when rows are asked for."""

from __future__ import annotations

import contextlib
import hashlib
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from neuroattn._checks import check_shape


class FileCheck(NamedTuple):
    """One line of what a reader would find: it is as expected where ``found == expected``.

    Parameters
    ----------
    path : Path
    found, expected : str
        What the file holds and what it should hold, for instance "float (24, 40)" or "missing".
    n_bytes : int
        Size on disk, zero if missing.

    Examples
    --------
    >>> check = FileCheck(Path("responses.npy"), "missing", "float (24, 40)", 0)
    >>> check.found == check.expected
    False
    """

    path: Path
    found: str
    expected: str
    n_bytes: int


class Images(Protocol):
    """A sequence of images of one size: a uint8 array (stimulus, y, x, 3) or :class:`ImageFiles`.

    Examples
    --------
    >>> def brightness(images: Images) -> float:
    ...     return float(np.mean([images[i : i + 1].mean() for i in range(len(images))]))
    >>> brightness(np.full((4, 8, 6, 3), 7, np.uint8))
    7.0
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """(stimulus, y, x, 3)."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Any) -> NDArray[np.uint8]: ...


class ImageFiles:
    """Images in files, decoded when they are read.

    Parameters
    ----------
    paths : sequence of Path or str
        Image files, or members of ``archive``; all of one size.
    archive : Path, optional
        Zip archive that holds the files.

    Attributes
    ----------
    shape : tuple (stimulus, y, x, 3)

    Examples
    --------
    >>> import tempfile
    >>> from PIL import Image
    >>> folder = Path(tempfile.mkdtemp())
    >>> Image.new("RGB", (6, 4)).save(folder / "a.png")
    >>> images = ImageFiles([folder / "a.png"])
    >>> images.shape, images[[0]].dtype
    ((1, 4, 6, 3), dtype('uint8'))
    """

    def __init__(self, paths: Sequence[Path | str], archive: Path | None = None) -> None:
        if not paths:
            raise ValueError("paths must name at least one image, got none")
        self.paths = list(paths)
        self.archive = archive
        self.shape: tuple[int, ...] = (len(self.paths),)
        self.shape += self[0].shape

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, rows: Any) -> NDArray[np.uint8]:
        indices = np.arange(len(self))[rows]
        with self._opened() as archive:
            if indices.ndim == 0:
                return self._read(archive, int(indices))
            out = np.empty((len(indices), *self.shape[1:]), np.uint8)
            for i, row in enumerate(indices):
                out[i] = self._read(archive, int(row))
        return out

    @contextlib.contextmanager
    def _opened(self) -> Iterator[zipfile.ZipFile | None]:
        """Open the archive once for all rows of a read: its table of contents takes as long as an image."""
        if self.archive is None:
            yield None
            return
        try:
            archive = zipfile.ZipFile(self.archive)
        except FileNotFoundError:
            raise FileNotFoundError(f"archive {self.archive} does not exist") from None
        except zipfile.BadZipFile as error:
            raise ValueError(f"archive {self.archive} cannot be read: {error}") from None
        with archive:
            yield archive

    def _read(self, archive: zipfile.ZipFile | None, row: int) -> NDArray[np.uint8]:
        from PIL import Image

        path = self.paths[row]
        place = path if archive is None else f"{self.archive}:{path}"
        try:
            with (
                open(path, "rb") if archive is None else archive.open(str(path)) as file,
                Image.open(file) as image,
            ):
                pixels: NDArray[np.uint8] = np.asarray(image.convert("RGB"))
        except (FileNotFoundError, KeyError):
            raise FileNotFoundError(f"image {place} does not exist") from None
        except (OSError, ValueError, SyntaxError, zipfile.BadZipFile) as error:
            # PIL reports damaged files through all of these.
            raise ValueError(f"image {place} cannot be decoded: {error}") from None
        if self.shape[1:] and pixels.shape != self.shape[1:]:
            (h, w), (h0, w0) = pixels.shape[:2], self.shape[1:3]
            raise ValueError(
                f"images must all be of one size, got {w0}x{h0} in {self.paths[0]} "
                f"and {w}x{h} in {path}; resize them first"
            )
        return pixels


class ImagesHdf5:
    """Images in one dataset of an HDF5 file, read when they are asked for.

    Parameters
    ----------
    path : Path or str
    key : str
        Dataset, uint8 of shape (image, y, x, 3).
    rows : int array, shape (stimulus,), optional
        Images to take, in order; may repeat. None takes all.

    Attributes
    ----------
    shape : tuple (stimulus, y, x, 3)

    Examples
    --------
    >>> import tempfile, h5py
    >>> path = Path(tempfile.mkdtemp()) / "stimuli.hdf5"
    >>> with h5py.File(path, "w") as file:
    ...     file["imgBrick"] = np.arange(5, dtype="u1")[:, None, None, None] * np.ones((2, 2, 3), "u1")
    >>> images = ImagesHdf5(path, "imgBrick", [4, 0, 4])
    >>> images.shape, images[:][:, 0, 0, 0].tolist()
    ((3, 2, 2, 3), [4, 0, 4])
    """

    def __init__(self, path: Path | str, key: str, rows: ArrayLike | None = None) -> None:
        self.path, self.key = Path(path), key
        with self._opened() as stored:
            if stored.dtype != np.uint8 or len(stored.shape) != 4 or stored.shape[3] != 3:
                raise ValueError(
                    f"images {path}:{key} must be uint8 of shape (image, y, x, 3), got {stored.dtype} {stored.shape}"
                )
            n, *size = stored.shape
        self.rows = np.arange(n) if rows is None else np.asarray(rows, dtype=np.intp)
        if self.rows.size and (self.rows.min() < 0 or self.rows.max() >= n):
            raise ValueError(
                f"rows must lie between 0 and {n - 1} in {path}:{key}, got {self.rows.min()} to {self.rows.max()}"
            )
        self.shape: tuple[int, ...] = (len(self.rows), *size)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: Any) -> NDArray[np.uint8]:
        # HDF5 reads ascending distinct rows only.
        chosen = np.asarray(self.rows[rows])
        wanted, place = np.unique(chosen, return_inverse=True)
        with self._opened() as stored:
            found: NDArray[np.uint8] = (
                stored[wanted] if len(wanted) else np.empty((0, *self.shape[1:]), np.uint8)
            )
        return found[place.reshape(chosen.shape)]

    @contextlib.contextmanager
    def _opened(self) -> Iterator[Any]:
        """Open the file for one read, so that images may be handed to other processes."""
        import h5py

        if not self.path.is_file():
            raise FileNotFoundError(f"images {self.path} does not exist")
        try:
            with h5py.File(self.path) as file:
                yield file[self.key]
        except (OSError, KeyError) as error:
            raise ValueError(f"images {self.path}:{self.key} cannot be read: {error}") from None


class Responses:
    """Responses (stimulus, unit) in blocks that may stay memory-mapped.

    Parameters
    ----------
    blocks : sequence of sequences of arrays, each of shape (stimulus, unit)
        Rows of blocks: ``[[train_left, train_right], [test_left, test_right]]`` stacks stimuli downwards and
        units sideways without a copy.
    units : int array, shape (unit,), optional
        Columns to keep, in order.

    Examples
    --------
    >>> left, right = np.zeros((3, 2), "f4"), np.ones((3, 4), "f4")
    >>> responses = Responses([[left, right]])
    >>> responses.shape, responses[[0, 2]].sum()
    ((3, 6), np.float32(8.0))
    """

    dtype = np.dtype(np.float32)

    def __init__(self, blocks: Sequence[Sequence[Any]], units: NDArray[np.intp] | None = None) -> None:
        self.blocks = [list(row) for row in blocks]
        widths = [check_shape("blocks", block, "stimulus", "unit")[1] for block in self.blocks[0]]
        for row in self.blocks:
            for block, width in zip(row, widths, strict=True):
                check_shape("blocks", block, len(row[0]), width)
        self.units = units
        self._starts = np.cumsum([0, *(len(row[0]) for row in self.blocks)])
        n_units = int(sum(widths)) if units is None else len(units)
        self.shape = (int(self._starts[-1]), n_units)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> NDArray[np.float32]:
        indices = np.arange(len(self))[rows]
        if indices.ndim == 0:
            row: NDArray[np.float32] = self[[int(indices)]][0]
            return row
        part = np.searchsorted(self._starts, indices, side="right") - 1
        out = np.empty((len(indices), self.shape[1]), np.float32)
        for p in np.unique(part):
            here = part == p
            local = indices[here] - self._starts[p]
            table = np.concatenate([np.asarray(block[local]) for block in self.blocks[p]], axis=1)
            out[here] = table if self.units is None else table[:, self.units]
        return out

    def take(self, units: NDArray[np.intp]) -> Responses:
        """Return the responses of some units, still in their files.

        Examples
        --------
        >>> Responses([[np.arange(6.0).reshape(2, 3)]]).take(np.array([2, 0]))[:].tolist()
        [[2.0, 0.0], [5.0, 3.0]]
        """
        return Responses(self.blocks, units if self.units is None else self.units[units])

    def gaps(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Find what is not a number, reading a few rows at a time.

        Returns
        -------
        rows : bool array, shape (stimulus,)
            Stimuli without a single number.
        units : bool array, shape (unit,)
            Units without a number for some stimulus.

        Examples
        --------
        >>> rows, units = Responses([[np.array([[1.0, np.nan], [2.0, 3.0]], "f4")]]).gaps()
        >>> rows.tolist(), units.tolist()
        ([False, False], [False, True])
        """
        rows, units = np.zeros(self.shape[0], dtype=bool), np.zeros(self.shape[1], dtype=bool)
        for start in range(0, len(self), 256):
            chunk = slice(start, start + 256)
            finite = np.isfinite(self[chunk])
            rows[chunk] = ~finite.any(axis=1)
            units |= ~finite.all(axis=0)
        return rows, units

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return self[:].astype(dtype or np.float32, copy=False)


class Rows:
    """Some rows of a table, read when they are asked for.

    Parameters
    ----------
    table : array-like with rows
        For instance :class:`Responses`, a feature store, or :class:`ImageFiles`.
    rows : int array, shape (row,)

    Examples
    --------
    >>> Rows(np.arange(10), np.array([2, 4, 6]))[1:]
    array([4, 6])
    """

    def __init__(self, table: Any, rows: NDArray[np.intp]) -> None:
        self.table, self.rows = table, np.asarray(rows)
        self.shape = (len(self.rows), *table.shape[1:])
        self.dtype = table.dtype

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: Any) -> NDArray[Any]:
        return np.asarray(self.table[self.rows[rows]])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return self[:].astype(dtype or self.dtype, copy=False)


@dataclass(frozen=True)
class Recording:
    """Responses of one subject (or session) to a set of stimuli.

    Parameters
    ----------
    name : str
        Subject or session, for instance "subj01".
    responses : Responses or float array, shape (stimulus, unit)
        Averaged over repeats; left then right hemisphere where there are hemispheres.
    rois : DataArray, dims (roi, unit)
        From :func:`neuroattn.results.label_rois`.
    stimulus_ids : array of str, shape (stimulus,)
        Identity of each stimulus; rows with one id never fall on both sides of a split.
    images : Images, optional
        One image a row.
    features : float array, shape (stimulus, channel, y, x) or (stimulus, channel), optional
        Given instead of images, or beside them.
    noise_ceiling : float array, shape (unit,), optional
        On the r^2 scale, 0..1; None if repeats are unknown.
    test : bool array, shape (stimulus,), optional
        The data set's own test partition.
    truth : Dataset, optional
        Planted parameters of a simulated subject.
    simulated : bool
        True for simulated responses; reports say so.
    surface : str, optional
        Mesh that ``vertex_index`` refers to: "fsaverage" or "fsaverage5".
    mask : Path, optional
        NIfTI mask or GIFTI whose elements ``vertex_index`` counts, for export.
    notes : tuple of str
        What was dropped or converted while reading.

    Examples
    --------
    >>> from neuroattn.results import label_rois
    >>> recording = Recording(
    ...     "cell culture", np.zeros((2, 3), "f4"), label_rois({"V4": [True] * 3}, unit_kind="neuron"),
    ...     stimulus_ids=np.array(["a", "b"]), features=np.zeros((2, 5), "f4"))
    >>> recording.n_stimuli, recording.n_units
    (2, 3)
    """

    name: str
    responses: Responses | NDArray[np.float32]
    rois: xr.DataArray
    stimulus_ids: NDArray[np.str_]
    images: Images | None = None
    features: NDArray[Any] | None = None
    noise_ceiling: NDArray[np.float64] | None = None
    test: NDArray[np.bool_] | None = None
    truth: xr.Dataset | None = None
    simulated: bool = False
    surface: str | None = None
    mask: Path | None = None
    notes: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        n_stimuli, n_units = check_shape("responses", self.responses, "stimulus", "unit")
        check_shape("rois", self.rois, "roi", n_units)
        check_shape("stimulus_ids", self.stimulus_ids, n_stimuli)
        if self.images is None and self.features is None:
            raise ValueError("images or features must be given, got neither")
        for name in ("images", "features"):
            rows = getattr(self, name)
            if rows is not None and len(rows) != n_stimuli:
                raise ValueError(f"{name} must have {n_stimuli} rows like responses, got {len(rows)}")
        if self.noise_ceiling is not None:
            check_shape("noise_ceiling", self.noise_ceiling, n_units)
        if self.test is not None:
            check_shape("test", self.test, n_stimuli)

    @property
    def n_stimuli(self) -> int:
        """Number of rows."""
        return int(self.responses.shape[0])

    @property
    def n_units(self) -> int:
        """Number of vertices, voxels or neurons."""
        return int(self.responses.shape[1])


def content_ids(images: Images) -> NDArray[np.str_]:
    """Return an id for each image made from its pixels, so that equal images are one stimulus.

    Examples
    --------
    >>> ids = content_ids(np.stack([np.zeros((4, 4, 3), np.uint8)] * 2))
    >>> bool(ids[0] == ids[1])
    True
    """
    digests = [
        hashlib.blake2b(image.tobytes(), digest_size=8).hexdigest()
        for start in range(0, len(images), 64)
        for image in images[start : start + 64]
    ]
    return np.asarray(digests)
