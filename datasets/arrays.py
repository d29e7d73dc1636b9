"""A lab's own recordings: responses, images or features, regions and repeats from ordinary files."""

from __future__ import annotations

import re
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from neuroattn._checks import check_option
from neuroattn._files import below, listed, open_hdf5, read_json, read_table, reading, refusal, shorten
from neuroattn.datasets._pickled import read_pickled
from neuroattn.datasets.recording import FileCheck, ImageFiles, Images, Recording, Responses, content_ids
from neuroattn.datasets.surfaces import MESH_SIZES
from neuroattn.datasets.trials import standardize
from neuroattn.metrics import noise_ceiling_from_repeats
from neuroattn.results import label_rois

ORIENTATIONS = ("stimulus-unit", "unit-stimulus")
_IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff"}
_N_UNITS = 256  # at a time while trials are averaged
_TABLE_SUFFIXES = (".npy", ".npz", ".mat", ".h5", ".hdf5", ".csv", ".tsv")
_NIFTI_SUFFIXES = (".nii", ".nii.gz")


def load_arrays(
    *,
    responses: str | Path,
    orientation: str,
    images: str | Path | None = None,
    features: str | Path | None = None,
    rois: str | Path | None = None,
    repeats: str | Path | None = None,
    trials: str | Path | None = None,
    stimulus_ids: str | Path | None = None,
    mask: str | Path | None = None,
    name: str | None = None,
    unit_kind: str | None = None,
) -> Recording:
    """Read a recording from a lab's own files.

    Every file is given as ``"FILE"`` or ``"FILE:key"``: .npy, .npz:key, .mat:key, .h5:key, .csv or .tsv (numbers
    without a header). The key may be left out where a file has only one, and where it is "betasmd", the single
    trials in the output of GLMsingle [1]_. Dictionaries of arrays that GLMsingle pickles into .npy are read
    without running anything; nothing else is ever unpickled.

    Parameters
    ----------
    responses : str or Path
        Mean response of each unit to each stimulus, or, with ``trials``, the response in each trial. Also a
        4-D NIfTI or array (x, y, z, stimulus), with ``mask`` unless y and z are 1, or GIFTI files,
        ``"lh.func.gii,rh.func.gii"``, with an array for each stimulus; metadata or the name (lh, rh, hemi-L,
        hemi-R) say the hemisphere.
    orientation : {"stimulus-unit", "unit-stimulus"}
        Axes of ``responses``; NIfTI and GIFTI files are "unit-stimulus".
    images : str or Path, optional
        Folder or zip archive of images in the order of their names, or a uint8 array
        (stimulus, y, x, 3).
    features : str or Path, optional
        Array (stimulus, channel) or (stimulus, channel, y, x), instead of images or beside them. A key
        ``stimulus_ids`` in the same file says what its rows are, and must then agree with those of the responses.
    rois : str or Path, optional
        Members of each region: an array (roi, unit) of zeros and ones, labels (unit,) of which 0 is no
        region, a NIfTI label image with ``mask``, or JSON ``{"name": [unit, ...]}`` counted from 0. Names are
        read from the key ``roi_names`` of the same file, otherwise they are "roi-1", "roi-2", ... . None
        makes one region "all".
    repeats : str or Path, optional
        Single repeats (unit, stimulus, repeat) padded with NaN, from which the noise ceiling is estimated.
    trials : str or Path, optional
        .csv or .tsv table with a header and a row for each trial of ``responses``. Column "stimulus" is one of
        ``stimulus_ids``, or without those the row of the image, from 0. If there is a column "session", units
        are standardized over the trials of each session. Trials are then averaged by stimulus, which splits never
        tear apart, and the noise ceiling is estimated from them.
    stimulus_ids : str or Path, optional
        Identity of each stimulus. None takes those in the features file, or the content of the images, so that
        equal images are one stimulus, or the row number.
    mask : str or Path, optional
        NIfTI whose nonzero voxels, in C order, are the units.
    name : str, optional
        Of the recording; None takes the name of the responses file.
    unit_kind : {"vertex", "voxel", "neuron"}, optional
        None is "vertex" for GIFTI and "voxel" otherwise.

    Returns
    -------
    Recording
        Units with a response that is not a number are dropped and counted in ``notes``. ``vertex_index`` is
        the place among the voxels of the mask, or the vertex of the GIFTI mesh.

    Raises
    ------
    FileNotFoundError
        If a file is missing.
    ValueError
        If a file cannot be read or sizes do not match; the message names both files and both numbers.

    References
    ----------
    .. [1] Prince et al. (2022). Improving the accuracy of single-trial fMRI response estimates using GLMsingle.
       eLife 11, e77599.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> np.savez(folder / "cell.npz", spikes=np.ones((3, 4)), gabor=np.ones((4, 6)))
    >>> recording = load_arrays(responses=f"{folder}/cell.npz:spikes", orientation="unit-stimulus",
    ...                         features=f"{folder}/cell.npz:gabor", unit_kind="neuron")
    >>> recording.n_stimuli, recording.n_units, recording.rois.roi.values.tolist()
    (4, 3, ['all'])
    """
    check_option("orientation", orientation, ORIENTATIONS)
    if images is None and features is None:
        raise ValueError("images or features must be given, got neither")
    if trials is not None and repeats is not None:
        raise ValueError("trials or repeats must be given, got both; trials are the repeats")
    source = _read_responses(responses, orientation, mask)
    ceiling = None
    if trials is not None:
        source, ceiling = _average_trials(source, trials, stimulus_ids)
    image_rows = None if images is None else _read_images(images, source)
    feature_rows = None if features is None else _read_features(features, source)
    ids = _read_ids(stimulus_ids, features, image_rows, source)
    membership = _read_rois(rois, mask, source)

    empty, incomplete = Responses([[source.table]]).gaps()
    if empty.any():
        row = int(np.flatnonzero(empty)[0])
        raise ValueError(f"responses {responses} has no number for stimulus {row} ({ids[row]}); leave it out")
    keep = np.flatnonzero(~incomplete)
    n_dropped = len(incomplete) - len(keep)
    if not len(keep):
        raise ValueError(f"responses {responses} must have a unit whose responses are all numbers, got none")
    kept = Responses([[source.table]], keep if n_dropped else None)
    notes = list(source.notes)
    if n_dropped:
        notes.append(f"dropped {n_dropped} of {len(incomplete)} units with responses that are not numbers")
    n_repeated = len(ids) - len(np.unique(ids))
    if n_repeated:
        notes.append(f"{n_repeated} rows repeat the stimulus of another row; splits keep them together")
    if ceiling is not None:
        ceiling = ceiling[keep]
    if repeats is not None:
        single = _read_repeats(repeats, source)[keep]
        ceiling = noise_ceiling_from_repeats(single)
        notes += _compare_with_repeats(kept, single)
    return Recording(
        name=name or source.path.name.split(".")[0],
        responses=kept,
        rois=label_rois(
            {region: members[keep] for region, members in membership.items()},
            hemisphere=source.hemisphere[keep],
            unit_kind=unit_kind or source.unit_kind,
            vertex_index=source.vertex_index[keep],
        ),
        stimulus_ids=ids,
        images=image_rows,
        features=feature_rows,
        noise_ceiling=ceiling,
        surface=source.surface,
        mask=source.mask,
        notes=tuple(notes),
    )


def inspect_arrays(
    *,
    responses: str | Path,
    orientation: str,
    images: str | Path | None = None,
    features: str | Path | None = None,
    rois: str | Path | None = None,
    repeats: str | Path | None = None,
    trials: str | Path | None = None,
    stimulus_ids: str | Path | None = None,
    mask: str | Path | None = None,
) -> list[FileCheck]:
    """List the files of :func:`load_arrays`, what they hold and what they should hold.

    Parameters
    ----------
    responses, orientation, images, features, rois, repeats, trials, stimulus_ids, mask
        As for :func:`load_arrays`.

    Returns
    -------
    list of FileCheck
        One for each argument that is given.

    Examples
    --------
    >>> checks = inspect_arrays(responses="missing.npy", orientation="unit-stimulus", features="none.npy")
    >>> [check.found for check in checks]
    ['missing', 'missing']
    """
    check_option("orientation", orientation, ORIENTATIONS)
    checks: list[FileCheck] = []

    def check(argument: str, spec: str | Path | None, read: Callable[[str | Path], str]) -> None:
        if spec is None:
            return
        path, expected = _split_key(spec)[0], argument
        try:
            found = expected = read(spec)
        except FileNotFoundError:
            found = "missing"
        except ValueError as error:
            found = str(error)
        files = path.iterdir() if path.is_dir() else [path]
        size = sum(file.stat().st_size for file in files if file.is_file())
        checks.append(FileCheck(path, found, expected, size))

    sources: list[_Source] = []

    def read_responses(spec: str | Path) -> str:
        sources.append(_read_responses(spec, orientation, mask))
        return f"{sources[0].n_units} units, {sources[0].n_stimuli} stimuli"

    check("responses", responses, read_responses)
    if not sources:  # there are no sizes to hold the other files against
        others = {"images": images, "features": features, "rois": rois, "repeats": repeats, "trials": trials}
        for argument, spec in {**others, "stimulus_ids": stimulus_ids, "mask": mask}.items():
            check(argument, spec, partial(check_exists, argument))
        return checks
    source = sources[0]

    def read_trials(spec: str | Path) -> str:
        n_trials = source.n_stimuli
        sources.append(_average_trials(source, spec, stimulus_ids)[0])
        return f"{n_trials} trials of {sources[-1].n_stimuli} stimuli"

    check("trials", trials, read_trials)
    source = sources[-1]
    check("images", images, lambda spec: f"{len(_read_images(spec, source))} images")
    check("features", features, lambda spec: f"features {_read_features(spec, source).shape}")
    check("rois", rois, lambda spec: f"{len(_read_rois(spec, mask, source))} regions")
    check("repeats", repeats, lambda spec: f"{_read_repeats(spec, source).shape[2]} repeats")
    check("stimulus_ids", stimulus_ids, lambda spec: f"{len(_read_ids(spec, features, None, source))} ids")
    check("mask", mask, lambda spec: f"{np.count_nonzero(read_mask(spec)[0])} voxels")
    return checks


@dataclass(frozen=True)
class _Source:
    """Responses as they are in the file, and where their units lie."""

    spec: str
    path: Path
    orientation: str
    table: NDArray[Any]  # (stimulus, unit)
    unit_kind: str
    hemisphere: NDArray[np.str_]
    vertex_index: NDArray[np.int64]
    surface: str | None = None
    mask: Path | None = None
    notes: tuple[str, ...] = ()

    @property
    def n_stimuli(self) -> int:
        return int(self.table.shape[0])

    @property
    def n_units(self) -> int:
        return int(self.table.shape[1])


# Files


def _split_key(spec: str | Path) -> tuple[Path, str | None]:
    text = str(spec)
    path, colon, key = text.rpartition(":")
    if colon and Path(path).suffix.lower() in _TABLE_SUFFIXES:
        return Path(path), key or None
    return Path(text), None


def _has_suffix(path: Path, *suffixes: str) -> bool:
    return path.name.lower().endswith(suffixes)


def check_exists(argument: str, spec: str | Path) -> str:
    """Return the argument's name if its file exists."""
    path, _ = _split_key(spec)
    if not path.exists():
        raise FileNotFoundError(f"{argument} {path} does not exist")
    if not (path.is_file() or path.is_dir()):
        raise ValueError(f"{argument} {path} must be a file, got a pipe or device")
    return argument


class _NoKeyError(ValueError):
    """A file lacks a key."""


@contextmanager
def _reading(argument: str, path: Path) -> Iterator[None]:
    """Turn what libraries raise on damaged files into one line."""
    try:
        yield
    except _NoKeyError as error:
        raise _NoKeyError(f"{argument} {path} {error}") from None
    except Exception as error:
        raise refusal(f"{argument} {path} cannot be read:", error) from None


def _read(argument: str, spec: str | Path, *, text: bool = False) -> NDArray[Any]:
    """Read one array of a file; npy files stay memory-mapped."""
    check_exists(argument, spec)
    path, key = _split_key(spec)
    suffix = path.suffix.lower()
    if suffix not in _TABLE_SUFFIXES or path.is_dir():
        raise ValueError(f"{argument} {path} must be one of {', '.join(_TABLE_SUFFIXES)}")
    pickled = suffix == ".npy" and _holds_object(path)
    if key is not None and suffix in (".npy", ".csv", ".tsv") and not pickled:
        raise ValueError(f"{argument} {path} holds one array and has no key, got {key!r}")
    with _reading(argument, path):
        if pickled:
            content = read_pickled(path)
            if not isinstance(content, dict):
                raise ValueError("it holds no dictionary of arrays")
            array = content[_pick(content, key)]
            if not isinstance(array, np.ndarray):
                raise ValueError(f"it holds no array but {type(array).__name__}")
            return array
        if suffix == ".npy":
            with np.errstate(over="raise"):  # of the product of sizes that a header claims
                return npy_format.open_memmap(path, mode="r")
        if suffix == ".npz":
            if not zipfile.is_zipfile(path):
                raise ValueError("it is no npz archive")
            with np.load(path, allow_pickle=False) as archive:
                return np.asarray(archive[_pick(archive, key)])
        if suffix == ".mat":
            return _read_mat(path, key)
        if suffix in (".h5", ".hdf5"):
            return _read_hdf5(path, key)
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # numpy's way to say that a file is empty
            return np.loadtxt(
                path,
                dtype=str if text else float,
                delimiter="," if suffix == ".csv" else "\t",
                comments=None,
                quotechar='"',
                encoding="utf-8-sig",
            )


def _holds_object(path: Path) -> bool:
    """Return whether an npy file holds one pickled object, as GLMsingle writes."""
    try:
        with path.open("rb") as file:
            if npy_format.read_magic(file) != (1, 0):
                return False
            shape, _, dtype = npy_format.read_array_header_1_0(file)
    except Exception:  # numpy reports damaged headers in many ways
        return False
    return shape == () and bool(dtype.hasobject)


def _pick(keys: Iterable[str], key: str | None) -> str:
    known = sorted(map(str, keys))
    if key is None and "betasmd" in known:
        return "betasmd"
    if key is None and len(known) == 1:
        return known[0]
    if key is None:
        raise _NoKeyError(f"holds several arrays; add one of the keys {listed(known)} as FILE:key")
    if key not in known:
        raise _NoKeyError(f"has no key {key!r}, only {listed(known)}")
    return key


def _read_mat(path: Path, key: str | None) -> NDArray[Any]:
    import h5py
    from scipy.io import loadmat, whosmat

    if h5py.is_hdf5(path):  # version 7.3, whose axes are reversed
        array = _read_hdf5(path, key).T
        if h5py.check_ref_dtype(array.dtype) is not None:
            raise ValueError("it holds cells; save text as version 7")
        return array if array.ndim > 2 else np.squeeze(array)
    shapes = {name: shape for name, shape, _ in whosmat(path) if not name.startswith("__")}
    name = _pick(shapes, key)
    squeezed = sum(n != 1 for n in shapes[name]) != 3  # a volume of one slice keeps its axes
    return np.asarray(loadmat(path, squeeze_me=squeezed, variable_names=[name])[name])


def _read_hdf5(path: Path, key: str | None) -> NDArray[Any]:
    import h5py

    with open_hdf5(path) as file:
        names: list[str] = []
        file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
        names = [name for name in names if not name.startswith("#")]  # what MATLAB's cells refer to
        return np.asarray(file[_pick(names, key and key.strip("/"))][()])


def _read_numbers(argument: str, spec: str | Path) -> NDArray[Any]:
    array = _read(argument, spec)
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{argument} {spec} must hold numbers, got {array.dtype}")
    return array


def _read_texts(argument: str, spec: str | Path) -> list[str]:
    array = _read(argument, spec, text=True)
    if array.ndim != 1:
        raise ValueError(f"{argument} {spec} must be a list, got shape {array.shape}")
    with _reading(argument, _split_key(spec)[0]):
        return [_text(x) for x in array.tolist()]


def _text(value: Any) -> str:
    if not isinstance(value, bytes | str | int | float):
        raise ValueError(f"it holds {type(value).__name__} where a text is due")
    return value.decode() if isinstance(value, bytes) else str(value).strip()


def _read_volume(argument: str, path: str | Path) -> tuple[NDArray[Any], Any]:
    """Read a NIfTI file: data and image."""
    import nibabel

    check_exists(argument, path)
    with _reading(argument, Path(path)):
        image: Any = nibabel.load(path)
        return np.asanyarray(image.dataobj), image


def read_mask(mask: str | Path) -> tuple[NDArray[np.bool_], Any]:
    """Read a NIfTI mask.

    Parameters
    ----------
    mask : str or Path

    Returns
    -------
    inside : bool array, shape (x, y, z)
        Nonzero voxels.
    image : nibabel image
        Gives affine and header.

    Examples
    --------
    >>> read_mask("missing.nii.gz")
    Traceback (most recent call last):
    FileNotFoundError: mask missing.nii.gz does not exist
    """
    data, image = _read_volume("mask", mask)
    if data.ndim == 4 and data.shape[3] == 1:
        data = data[..., 0]
    inside = np.nan_to_num(data) != 0
    if inside.ndim != 3 or not inside.any():
        raise ValueError(f"mask {mask} must be a volume (x, y, z) with nonzero voxels, got {data.shape}")
    return inside, image


def in_mask(argument: str, spec: str | Path, mask: str | Path | None, ndim: int) -> NDArray[Any]:
    """Return the values (voxel, ...) of a NIfTI file inside the mask."""
    if mask is None:
        raise ValueError(f"{argument} {spec} is a NIfTI file and needs a mask, got none")
    inside, mask_image = read_mask(mask)
    data, image = _read_volume(argument, spec)
    if data.ndim != ndim or data.shape[:3] != inside.shape:
        wanted = ", ".join([*map(str, inside.shape), "stimulus"][:ndim])
        raise ValueError(f"{argument} {spec} must have shape ({wanted}) like mask {mask}, got {data.shape}")
    if not np.allclose(image.affine, mask_image.affine, atol=1e-3):
        raise ValueError(f"{argument} {spec} must have the affine of mask {mask}; resample one of them")
    return np.asarray(data[inside])


# Arguments


def _read_responses(responses: str | Path, orientation: str, mask: str | Path | None) -> _Source:
    spec = str(responses)
    parts = [Path(part) for part in spec.split(",")]
    if all(_has_suffix(part, ".gii") for part in parts):
        if mask is not None:
            raise ValueError(f"mask must not be given with GIFTI responses, got {mask}")
        _check_image_orientation(spec, orientation)
        return _read_gifti(spec, parts, orientation)
    path, _ = _split_key(spec)
    if _has_suffix(path, *_NIFTI_SUFFIXES):
        _check_image_orientation(spec, orientation)
        table = in_mask("responses", spec, mask, 4).T
    else:
        table = _read_numbers("responses", spec)
        if table.ndim == 4:
            _check_image_orientation(spec, orientation)
            table = _flatten_grid(spec, table, mask).T
        elif orientation == "unit-stimulus" and table.ndim == 2:
            table = table.T
        if table.ndim != 2:
            axes = orientation.replace("-", ", ")
            raise ValueError(f"responses {spec} must have shape ({axes}), got {table.shape}")
    if not table.size:
        raise ValueError(f"responses {spec} must have a stimulus and a unit, got shape {table.shape}")
    n_units = table.shape[1]
    index = np.full(n_units, -1)
    if mask is not None:
        n_voxels = int(np.count_nonzero(read_mask(mask)[0]))
        if n_units != n_voxels:
            hint = f"; it fits {_other(orientation)!r}" if table.shape[0] == n_voxels else ""
            raise ValueError(
                f"responses {spec} has {n_units} units as {orientation!r}, "
                f"but mask {mask} has {n_voxels} nonzero voxels{hint}"
            )
        index = np.arange(n_units)
    return _Source(
        spec=spec,
        path=path,
        orientation=orientation,
        table=table,
        unit_kind="voxel",
        hemisphere=np.full(n_units, "none"),
        vertex_index=index,
        mask=None if mask is None else Path(mask),
    )


def _flatten_grid(spec: str, grid: NDArray[Any], mask: str | Path | None) -> NDArray[Any]:
    """Return (unit, stimulus) from (x, y, z, stimulus)."""
    if mask is None:
        if grid.shape[1:3] != (1, 1):
            raise ValueError(f"responses {spec} of shape {grid.shape} need a mask, got none")
        return grid[:, 0, 0]
    inside, _ = read_mask(mask)
    if grid.shape[:3] != inside.shape:
        wanted = ", ".join(map(str, inside.shape))
        raise ValueError(
            f"responses {spec} must have shape ({wanted}, stimulus) like mask {mask}, got {grid.shape}"
        )
    return np.asarray(grid[inside])


def _average_trials(
    source: _Source, spec: str | Path, stimulus_ids: str | Path | None
) -> tuple[_Source, NDArray[np.float64] | None]:
    """Average the trials of each stimulus; return the averages and the noise ceiling."""
    stimulus, session = _read_trials(spec, source)
    if stimulus_ids is None:
        if not all(text.isdecimal() and len(text) < 10 for text in stimulus):
            raise ValueError(f"trials {spec} must count images from 0 where there are no stimulus_ids")
        row = np.array([int(text) for text in stimulus])
        n = int(row.max()) + 1
        if n > len(row):
            raise ValueError(
                f"trials {spec} must show every stimulus, got number {n - 1} in {len(row)} trials"
            )
        ids = [str(i) for i in range(n)]
    else:
        ids = _read_texts("stimulus_ids", stimulus_ids)
        row_of = {name: i for i, name in enumerate(ids)}
        if len(row_of) < len(ids):
            raise ValueError(f"stimulus_ids {stimulus_ids} must differ where trials are given")
        unknown = [name for name in stimulus if name not in row_of]
        if unknown:
            raise ValueError(
                f"trials {spec} show {shorten(repr(unknown[0]))}, which stimulus_ids {stimulus_ids} does not have"
            )
        row = np.array([row_of[name] for name in stimulus])
    counts = np.bincount(row, minlength=len(ids))
    if not counts.all():
        raise ValueError(f"trials {spec} must show every stimulus, got none of {ids[int(counts.argmin())]!r}")
    place = np.empty(len(row), np.intp)  # of each trial among those of its stimulus
    order = np.argsort(row, kind="stable")
    place[order] = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)

    table = np.empty((len(ids), source.n_units), np.float32)
    ceiling = np.empty(source.n_units)
    for start in range(0, source.n_units, _N_UNITS):
        part = slice(start, start + _N_UNITS)
        block = np.array(source.table[:, part], dtype=np.float32)
        if session is not None:
            for name in np.unique(session):
                block[session == name] = standardize(block[session == name])[0]
        single = np.full((block.shape[1], len(ids), counts.max()), np.nan, np.float32)
        single[:, row, place] = block.T
        incomplete = ~np.isfinite(block).all(0)
        table[:, part] = np.nansum(single, axis=2, dtype=np.float64).T / counts[:, None]
        table[:, start + np.flatnonzero(incomplete)] = np.nan
        ceiling[part] = noise_ceiling_from_repeats(single) if counts.max() > 1 else np.nan
    note = f"{len(row)} trials averaged to {len(ids)} stimuli of {counts.min()} to {counts.max()} repeats"
    averaged = replace(source, table=table, notes=(*source.notes, note))
    return averaged, ceiling if counts.max() > 1 else None


def _read_trials(spec: str | Path, source: _Source) -> tuple[list[str], NDArray[np.str_] | None]:
    """Return the stimulus and, if the table has it, the session of each trial."""
    check_exists("trials", spec)
    path = Path(spec)
    if path.suffix.lower() not in (".csv", ".tsv"):
        raise ValueError(f"trials {spec} must be a .csv or .tsv table")
    content = read_table(path, f"trials {path} cannot be read:")
    if "stimulus" not in content:
        raise ValueError(f"trials {spec} must have a column 'stimulus', got {listed(content)}")
    if len(content) != source.n_stimuli:
        raise ValueError(
            f"responses {source.spec} has {source.n_stimuli} trials, but trials {spec} has {len(content)}"
        )
    session = content["session"].to_numpy(str) if "session" in content else None
    return content["stimulus"].str.strip().tolist(), session


def _other(orientation: str) -> str:
    return ORIENTATIONS[1 - ORIENTATIONS.index(orientation)]


def _check_image_orientation(spec: str, orientation: str) -> None:
    if orientation != "unit-stimulus":
        raise ValueError(f"orientation of {spec} must be 'unit-stimulus' (last axis), got {orientation!r}")


def _read_gifti(spec: str, paths: list[Path], orientation: str) -> _Source:
    tables = {}
    for path in paths:
        side, table = read_gifti_file("responses", path)
        if side in tables:
            raise ValueError(f"responses {spec} must hold each hemisphere once, got {side!r} twice")
        tables[side] = table
    shapes = {table.shape for table in tables.values()}
    if len(shapes) > 1:
        raise ValueError(f"responses {spec} must have equal numbers of vertices and stimuli, got {shapes}")
    n_vertices = next(iter(shapes))[0]
    surface = next((name for name, n in MESH_SIZES.items() if n == n_vertices), None)
    sides = sorted(tables)  # "left" before "right"
    return _Source(
        spec=spec,
        path=paths[0],
        orientation=orientation,
        table=np.concatenate([tables[side] for side in sides]).T,
        unit_kind="vertex",
        hemisphere=np.repeat(sides, n_vertices),
        vertex_index=np.tile(np.arange(n_vertices), len(sides)),
        surface=surface,
        mask=paths[0],
        notes=() if surface is None else (f"{n_vertices} vertices a hemisphere are taken to be {surface}",),
    )


def read_gifti_file(argument: str, path: Path) -> tuple[str, NDArray[Any]]:
    """Return the hemisphere and the values (vertex, array) of one file."""
    import nibabel

    check_exists(argument, path)
    with _reading(argument, path):
        image: Any = nibabel.load(path)
        for array in image.darrays:  # SPM keeps the numbers in a file beside this one
            below(path.parent, array.ext_fname)
        columns = [np.asarray(array.data) for array in image.darrays]
        if not columns:
            raise ValueError("it has no data arrays")
        table = columns[0] if len(columns) == 1 and columns[0].ndim == 2 else np.stack(columns, axis=1)
        if table.ndim != 2:
            raise ValueError(f"its arrays must have shape (vertex,), got {columns[0].shape}")
    structures = [image.meta, *(array.meta for array in image.darrays)]
    said = " ".join(str(meta.get("AnatomicalStructurePrimary", "")) for meta in structures).lower()
    return find_side(argument, path, said), table


def find_side(argument: str, path: Path, said: str = "") -> str:
    """Return the hemisphere that a file's metadata, or without them its name, says."""
    name = path.name.lower()
    for side, pattern in (("left", r"(^|[._-])(lh|l|left)[._-]"), ("right", r"(^|[._-])(rh|r|right)[._-]")):
        if f"cortex{side}" in said or (not said.strip() and re.search(pattern, name)):
            return side
    raise ValueError(f"{argument} {path} must say its hemisphere; name it lh.*, rh.*, *hemi-L* or *hemi-R*")


def _check_rows(argument: str, spec: str | Path, n_rows: int, source: _Source) -> None:
    if n_rows == source.n_stimuli:
        return
    hint = f"; it fits orientation {_other(source.orientation)!r}" if n_rows == source.n_units else ""
    raise ValueError(
        f"responses {source.spec} has {source.n_stimuli} stimuli as {source.orientation!r}, "
        f"but {argument} {spec} has {n_rows}{hint}"
    )


def read_images(spec: str | Path) -> Images:
    """Open images of one size.

    Parameters
    ----------
    spec : Path or str
        Folder or zip archive of images in the order of their names, or FILE[:key] of a uint8 array
        (stimulus, y, x, 3).

    Returns
    -------
    ImageFiles or uint8 array, shape (stimulus, y, x, 3)

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "images.npy"
    >>> np.save(path, np.zeros((2, 4, 6, 3), np.uint8))
    >>> read_images(path).shape
    (2, 4, 6, 3)
    """
    check_exists("images", spec)
    path, _ = _split_key(spec)
    images: Images
    if path.is_dir():
        names = [file.name for file in path.iterdir() if file.is_file()]
        images = ImageFiles([path / name for name in _sort_images(spec, names)])
    elif _has_suffix(path, ".zip"):
        with _reading("images", path), zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        images = ImageFiles(_sort_images(spec, names), archive=path)
    else:
        images = _read_numbers("images", spec)
        if images.dtype != np.uint8 or len(images.shape) != 4 or images.shape[3] != 3:
            raise ValueError(
                f"images {spec} must be uint8 of shape (stimulus, y, x, 3), got {images.dtype} {images.shape}"
            )
    return images


def _read_images(spec: str | Path, source: _Source) -> Images:
    images = read_images(spec)
    _check_rows("images", spec, len(images), source)
    return images


def _sort_images(spec: str | Path, names: Iterable[str]) -> list[str]:
    """Return the names of images in text order, which must be that of their numbers."""
    images = sorted(
        name
        for name in names
        if Path(name).suffix.lower() in _IMAGE_SUFFIXES
        and not any(part.startswith(".") or part == "__MACOSX" for part in Path(name).parts)
    )
    if not images:
        raise ValueError(f"images {spec} must hold {', '.join(sorted(_IMAGE_SUFFIXES))} files, found none")
    if len(set(images)) < len(images):
        raise ValueError(
            f"images {spec} must hold each image once, got {len(images) - len(set(images))} again"
        )
    if len({re.sub(r"\d+", "#", name) for name in images}) == 1:
        numbered = sorted(images, key=_numbers_in)
        for text, number in zip(images, numbered, strict=True):
            if text != number:
                raise ValueError(
                    f"images {spec} must sort alike as text and by number, got {shorten(text)} where {shorten(number)} "
                    "is due; "
                    "pad the numbers with zeros"
                )
    return images


def _numbers_in(name: str) -> list[tuple[int, str]]:
    """Return what orders the numbers in a name, which may have more digits than a number may."""
    digits = (number.lstrip("0") for number in re.findall(r"\d+", name))
    return [(len(number), number) for number in digits]


def _read_features(spec: str | Path, source: _Source) -> NDArray[Any]:
    features = _read_numbers("features", spec)
    if features.ndim not in (2, 4):
        raise ValueError(
            f"features {spec} must have shape (stimulus, channel) or (stimulus, channel, y, x), "
            f"got {features.shape}"
        )
    _check_rows("features", spec, len(features), source)
    for start in range(0, len(features), 256):
        finite = np.isfinite(features[start : start + 256]).reshape(-1, features[0].size).all(axis=1)
        if not finite.all():
            raise ValueError(f"features {spec} must be finite, got others in row {start + finite.argmin()}")
    return features


def _read_ids(
    spec: str | Path | None, features: str | Path | None, images: Images | None, source: _Source
) -> NDArray[np.str_]:
    of_features = None if features is None else _read_companion("features", features, "stimulus_ids")
    if spec is not None:
        ids = np.asarray(_read_texts("stimulus_ids", spec))
        _check_rows("stimulus_ids", spec, len(ids), source)
        if of_features is not None and of_features != ids.tolist():
            _check_rows("features", f"{features}:stimulus_ids", len(of_features), source)
            row = next(i for i, (a, b) in enumerate(zip(ids.tolist(), of_features, strict=True)) if a != b)
            raise ValueError(
                f"features {features} must have the rows of stimulus_ids {spec}, "
                f"got {of_features[row]!r} where {str(ids[row])!r} is due, in row {row}"
            )
        return ids
    if images is not None:
        return content_ids(images)
    if of_features is not None:
        _check_rows("features", f"{features} (stimulus_ids)", len(of_features), source)
        return np.asarray(of_features)
    return np.arange(source.n_stimuli).astype(str)


def _read_rois(
    spec: str | Path | None, mask: str | Path | None, source: _Source
) -> dict[str, NDArray[np.bool_]]:
    n_units = source.n_units
    if spec is None:
        return {"all": np.ones(n_units, dtype=bool)}
    check_exists("rois", spec)
    path, _ = _split_key(spec)
    if _has_suffix(path, ".json"):
        return read_json_regions(path, n_units)
    names = None
    if _has_suffix(path, *_NIFTI_SUFFIXES):
        array = in_mask("rois", spec, mask, 3)
    else:
        array = _read_numbers("rois", spec)
        names = _read_roi_names(path)
    if array.ndim not in (1, 2) or array.shape[-1] != n_units:
        raise ValueError(
            f"rois {spec} must have shape (roi, {n_units}) or ({n_units},) like the {n_units} units of "
            f"responses {source.spec}, got {array.shape}"
        )
    if array.ndim == 2:
        if not np.isin(array, (0, 1)).all():
            raise ValueError(f"rois {spec} of shape (roi, unit) must hold zeros and ones")
        masks = array.astype(bool)
        names = names or [f"roi-{i + 1}" for i in range(len(masks))]
        if len(names) != len(masks):
            raise ValueError(f"rois {spec} has {len(masks)} regions, but {path}:roi_names has {len(names)}")
        return dict(zip(names, masks, strict=True))
    if not ((array >= 0) & (array < 2**31) & (array == np.rint(array))).all():
        raise ValueError(f"rois {spec} of shape (unit,) must hold whole numbers from 0")
    labels = array.astype(np.int64)
    if names is None:
        return {f"roi-{label}": labels == label for label in np.unique(labels[labels > 0])}
    if labels.max() > len(names):
        raise ValueError(f"rois {spec} has label {labels.max()}, but {path}:roi_names has {len(names)} names")
    return {name: labels == label for label, name in enumerate(names, start=1)}


def _read_roi_names(path: Path) -> list[str] | None:
    """Return the names beside the labels, if the file has any."""
    names = _read_companion("rois", path, "roi_names")
    if names is not None and len(set(names)) < len(names):
        raise ValueError(f"rois {path}:roi_names must differ, got {', '.join(names)}")
    return names


def _read_companion(argument: str, spec: str | Path, key: str) -> list[str] | None:
    """Return the texts that a file holds under another key, if it has any."""
    path, _ = _split_key(spec)
    if path.suffix.lower() in (".npy", ".csv", ".tsv"):
        return None
    try:
        return _read_texts(argument, f"{path}:{key}")
    except _NoKeyError:
        return None


def read_json_regions(path: Path, n_units: int) -> dict[str, NDArray[np.bool_]]:
    """Read regions from JSON ``{"name": [unit, ...]}``."""
    complaint = f'rois {path} must be JSON {{"name": [unit, ...]}}:'
    content = read_json(path, complaint)
    with reading(complaint):
        members = {str(name): np.asarray(units, dtype=float) for name, units in content.items()}
    if not members:
        raise ValueError(f"rois {path} must name at least one region, got none")
    masks = {}
    for name, units in members.items():
        if units.ndim != 1 or not np.isin(units, np.arange(n_units)).all():
            raise ValueError(
                f"rois {path} must list units from 0 to {n_units - 1}, got others in {shorten(repr(name))}"
            )
        masks[name] = np.isin(np.arange(n_units), units)
    return masks


def _read_repeats(spec: str | Path, source: _Source) -> NDArray[Any]:
    repeats = _read_numbers("repeats", spec)
    if repeats.ndim != 3 or repeats.shape[:2] != (source.n_units, source.n_stimuli):
        raise ValueError(
            f"repeats {spec} must have shape ({source.n_units}, {source.n_stimuli}, repeat) like the "
            f"units and stimuli of responses {source.spec}, got {repeats.shape}"
        )
    return repeats


def _compare_with_repeats(responses: Responses, repeats: NDArray[Any]) -> list[str]:
    """Return a note if the responses are not the means of the repeats."""
    count = np.isfinite(repeats).sum(axis=2)
    mean = np.nansum(repeats, axis=2, dtype=float) / np.maximum(count, 1)
    table = responses[:].T
    distance = np.abs(np.where(count > 0, mean - table, 0)).max()
    if distance <= 1e-3 * table.std():
        return []
    return [f"responses differ from the mean of their repeats by up to {distance:.3g}"]
