"""The layout of the Algonauts 2023 challenge: one folder a subject, for real and simulated subjects."""

from __future__ import annotations

import itertools
import re
import reprlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from neuroattn._files import check_file, read_json, read_netcdf, refusal, shorten
from neuroattn.datasets._pickled import read_pickled
from neuroattn.datasets.recording import FileCheck, ImageFiles, Recording, Responses
from neuroattn.datasets.regions import ROI_CLASSES, region_class
from neuroattn.datasets.surfaces import MESH_SIZES
from neuroattn.results import label_rois, new_npy, replacing, write_json, write_netcdf

_SIDES = {"left": "lh", "right": "rh"}
_SPLITS = {"train": "training", "test": "test"}
_N_VERTICES = MESH_SIZES["fsaverage"]
_N_ROWS = 256  # rows written at a time: about 40 MB of a full subject


def load_algonauts(root: str | Path, subject: int) -> Recording:
    """Read one subject of the Algonauts 2023 layout.

    Responses stay memory-mapped and images in their files. Training rows come before test rows, each in the
    order of the file names, which is that of the 73k ids. Where the challenge withholds the test responses,
    the recording holds the training rows only.

    Parameters
    ----------
    root : str or Path
        Folder that holds ``subj01``, ``subj02``, ...
    subject : int
        Number of the subject, from 1.

    Returns
    -------
    Recording
        Units are fsaverage vertices, left hemisphere first; ``vertex_index`` counts fsaverage vertices, of
        which the first 10,242 are fsaverage5. Stimulus ids are "nsd-IIIII". Vertices with a response that
        is not a number are dropped and counted in ``notes``. Regions without a vertex are kept, empty.

    Raises
    ------
    FileNotFoundError
        If a file of the layout is missing.
    ValueError
        If a file is damaged, or rows, images, vertices and labels do not match.

    Notes
    -----
    Names of regions are pickled in the original files. They are read with an unpickler that admits nothing
    but a dictionary in a numpy array; any other content is refused before it can run.

    Test images were seen in the last three sessions only, so their responses come from other days than those of
    the training images; :func:`load_nsd` offers partitions that mix the sessions.

    References
    ----------
    Gifford et al. (2023). The Algonauts Project 2023 Challenge. arXiv:2301.03198.

    Examples
    --------
    >>> load_algonauts("/no/such/folder", 1)
    Traceback (most recent call last):
    FileNotFoundError: .../subj01 does not exist; ...
    """
    folder = _subject_folder(root, subject)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} does not exist; expected a folder of the Algonauts 2023 layout")
    vertices = [_read_vertices(folder, h) for h in _SIDES.values()]
    sizes = [len(v) for v in vertices]
    withheld = not any(path.exists() for path in _fmri_files(folder, "test"))
    paths: list[Path] = []
    ids: list[list[str]] = []
    blocks = []
    for split in ("train",) if withheld else ("train", "test"):
        files, split_ids = _list_images(folder, split)
        blocks.append(
            [
                _read_npy(path, (len(files), n), "f", f"{len(files)} images and {n} vertices")
                for path, n in zip(_fmri_files(folder, split), sizes, strict=True)
            ]
        )
        paths += files
        ids.append(split_ids)
    repeated = set(ids[0]).intersection(*ids[1:]) if ids[1:] else set()
    if repeated:
        raise ValueError(f"{folder} must not test on training images, got {min(repeated)} in both splits")
    membership = _read_rois(folder, sizes)
    ceiling = _read_ceiling(folder, sizes)

    keep = np.flatnonzero(~Responses(blocks).gaps()[1])
    n_dropped = sum(sizes) - len(keep)
    if not len(keep):
        raise ValueError(f"{folder} must have a vertex whose responses are all numbers, got none")
    notes = []
    if n_dropped:
        notes.append(f"dropped {n_dropped} of {sum(sizes)} vertices with responses that are not numbers")
    if withheld:
        notes.append("test responses are withheld; training images only")
    stimulus_ids = np.concatenate(ids)
    simulation = read_simulation(folder, len(stimulus_ids), set(membership))
    if simulation is not None:
        stimulus_ids = np.asarray(simulation["stimulus_ids"][: len(stimulus_ids)])
        membership = {region: membership[region] for region in simulation["rois"]}
    truth = read_truth(folder)
    if truth is not None and "unit" in truth.dims:
        if truth.sizes["unit"] != sum(sizes):
            raise ValueError(f"{folder / 'truth.nc'} must have {sum(sizes)} units, got {truth.sizes['unit']}")
        truth = truth.isel(unit=keep)
    return Recording(
        name=folder.name if simulation is None else simulation["name"],
        responses=Responses(blocks, keep if n_dropped else None),
        rois=label_rois(
            {region: mask[keep] for region, mask in membership.items()},
            hemisphere=np.repeat(list(_SIDES), sizes)[keep],
            unit_kind="vertex",
            vertex_index=np.concatenate(vertices)[keep],
            atlas=[region_class(region) for region in membership],
        ),
        stimulus_ids=stimulus_ids,
        images=ImageFiles(paths),
        noise_ceiling=None if ceiling is None else ceiling[keep],
        test=None if withheld else np.repeat([False, True], [len(part) for part in ids]),
        truth=truth,
        simulated=simulation is not None,
        surface="fsaverage" if simulation is None else simulation["surface"],
        notes=tuple(notes),
    )


def write_algonauts(recording: Recording, root: str | Path, subject: int) -> Path:
    """Write a recording in the Algonauts 2023 layout, so that :func:`load_algonauts` returns it.

    Parameters
    ----------
    recording : Recording
        Has images, a ``test`` partition and units on fsaverage or fsaverage5 vertices. Rows are ordered as
        in the layout: training images first, ascending "nsd-IIIII" ids in both parts, which a simulated
        subject need not have; units ascend by vertex in each hemisphere.
    root : str or Path
        Folder in which ``subjNN`` is made; created if absent.
    subject : int
        Number of the subject, from 1.

    Returns
    -------
    Path
        The subject's folder.

    Raises
    ------
    FileExistsError
        If that folder exists: recordings are never overwritten.
    ValueError
        If the recording does not fit the layout.

    Notes
    -----
    Regions of other names than the published ones, and those that overlap within a class, go to further
    classes "custom", "custom-2", ... of the same form; regions come back grouped by class. A recording on
    fsaverage5 comes back on fsaverage, of which its vertices are the first. Features and notes have no place
    in the layout.

    A simulated subject comes back exactly: ``simulated.json`` marks it and keeps its name, surface, stimulus
    ids and order of regions, and ``truth.nc`` is its planted truth. Its images are numbered by row.

    Examples
    --------
    >>> import tempfile
    >>> ids = np.array(["nsd-00003", "nsd-00007", "nsd-00004"])
    >>> rois = label_rois({"V1v": [True, False]}, hemisphere=["left", "right"], unit_kind="vertex",
    ...                   vertex_index=[12, 5])
    >>> recording = Recording("one", np.eye(3, 2, dtype="f4"), rois, ids, images=np.zeros((3, 8, 8, 3), "u1"),
    ...                       test=np.array([False, False, True]), surface="fsaverage")
    >>> folder = tempfile.mkdtemp()
    >>> write_algonauts(recording, folder, 1).name
    'subj01'
    >>> load_algonauts(folder, 1).stimulus_ids.tolist()
    ['nsd-00003', 'nsd-00007', 'nsd-00004']
    """
    folder = _subject_folder(root, subject)
    images, test, numbers = _check_writable(recording)
    if folder.exists():
        raise FileExistsError(f"{folder} exists; recordings are not overwritten, give another folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    sides = recording.rois.hemisphere.values
    index = recording.rois.vertex_index.values
    units = {h: np.flatnonzero(sides == side) for side, h in _SIDES.items()}
    with replacing(folder) as temporary:
        for split, rows in (("train", np.flatnonzero(~test)), ("test", np.flatnonzero(test))):
            _write_images(temporary, split, images, numbers, rows)
            for path, columns in zip(_fmri_files(temporary, split), units.values(), strict=True):
                _write_responses(path, recording.responses, rows, columns)
        masks = temporary / "roi_masks"
        masks.mkdir()
        for label_class, (mapping, labels) in label_classes(recording.rois).items():
            np.save(masks / f"mapping_{label_class}.npy", np.array(mapping, dtype=object), allow_pickle=True)
            for h, columns in units.items():
                whole = np.zeros(_N_VERTICES, np.int32)
                whole[index[columns]] = labels[columns]
                np.save(masks / f"{h}.{label_class}_challenge_space.npy", labels[columns])
                np.save(masks / f"{h}.{label_class}_fsaverage_space.npy", whole)
        for h, columns in units.items():
            whole = np.zeros(_N_VERTICES, np.int32)
            whole[index[columns]] = 1
            np.save(masks / f"{h}.all-vertices_fsaverage_space.npy", whole)
        if recording.noise_ceiling is not None:
            (temporary / "test_split" / "noise_ceiling").mkdir()
            for path, columns in zip(_ceiling_files(temporary), units.values(), strict=True):
                np.save(path, recording.noise_ceiling[columns])
        if recording.truth is not None:
            write_netcdf(temporary / "truth.nc", recording.truth)
        if recording.simulated:
            content = {
                "simulated": True,
                "name": recording.name,
                "surface": recording.surface,
                "rois": recording.rois.roi.values.tolist(),
                "stimulus_ids": recording.stimulus_ids.tolist(),
            }
            write_json(temporary / "simulated.json", content)
    return folder


def inspect_algonauts(root: str | Path, subject: int) -> list[FileCheck]:
    """List the files of one subject, what they hold and what they should hold, without reading responses.

    Parameters
    ----------
    root : str or Path
        Folder that holds ``subj01``, ``subj02``, ...
    subject : int
        Number of the subject, from 1.

    Returns
    -------
    list of FileCheck
        In the order of the layout. Test responses and noise ceilings may be absent.

    Examples
    --------
    >>> inspect_algonauts("/no/such/folder", 1)[0].found
    'missing'
    """
    folder = _subject_folder(root, subject)
    masks = folder / "roi_masks"
    vertex_files = [masks / f"{h}.all-vertices_fsaverage_space.npy" for h in _SIDES.values()]
    sizes = [_count_vertices(path) for path in vertex_files]
    checks = []
    for split in _SPLITS:
        n_images, image_check = _inspect_images(folder, split)
        checks.append(image_check)
        checks += _inspect_pair(
            _fmri_files(folder, split), [f"float ({n_images}, {n})" for n in sizes], split == "test"
        )
    checks += _inspect_pair(_ceiling_files(folder), [f"float ({n},)" for n in sizes], True)
    checks += _inspect_pair(vertex_files, [f"int ({_N_VERTICES},)"] * 2, False)
    for label_class in _list_classes(folder):
        mapping = masks / f"mapping_{label_class}.npy"
        try:
            _read_mapping(mapping)
            found = "names"
        except FileNotFoundError:
            found = "missing"
        except ValueError:
            found = "unreadable"
        checks.append(FileCheck(mapping, found, "names", _size(mapping)))
        labels = [masks / f"{h}.{label_class}_challenge_space.npy" for h in _SIDES.values()]
        checks += _inspect_pair(labels, [f"int ({n},)" for n in sizes], False)
    return checks


def _subject_folder(root: str | Path, subject: int) -> Path:
    if isinstance(subject, bool) or not isinstance(subject, int | np.integer) or not 1 <= subject <= 99:
        raise ValueError(f"subject must be a whole number between 1 and 99, got {subject!r}")
    return Path(root) / f"subj{subject:02d}"


def _image_folder(folder: Path, split: str) -> Path:
    return folder / f"{_SPLITS[split]}_split" / f"{_SPLITS[split]}_images"


def _fmri_files(folder: Path, split: str) -> list[Path]:
    name = _SPLITS[split]
    return [folder / f"{name}_split" / f"{name}_fmri" / f"{h}_{name}_fmri.npy" for h in _SIDES.values()]


def _ceiling_files(folder: Path) -> list[Path]:
    return [folder / "test_split" / "noise_ceiling" / f"{h}_noise_ceiling.npy" for h in _SIDES.values()]


# Reading


def _read_npy(path: Path, shape: tuple[int, ...], kinds: str, meaning: str) -> NDArray[Any]:
    """Memory-map an array and check its shape and kind; pickled content is refused."""
    check_file(path, f"{shape} for {meaning}")
    try:
        with np.errstate(over="raise"):  # of the product of sizes that a header claims
            array = npy_format.open_memmap(path, mode="r")
    except Exception as error:
        whole = f"{path} is no whole npy file of shape {shape} for {meaning}, found {_size(path)} bytes:"
        raise refusal(whole, error) from None
    if array.shape != shape:
        raise ValueError(f"{path} must have shape {shape} for {meaning}, got {array.shape}")
    if array.dtype.kind not in kinds:
        expected = "floating-point numbers" if kinds == "f" else "whole numbers"
        raise ValueError(f"{path} must hold {expected}, got {array.dtype}")
    return array


def _read_vertices(folder: Path, h: str) -> NDArray[np.intp]:
    path = folder / "roi_masks" / f"{h}.all-vertices_fsaverage_space.npy"
    inside = np.asarray(_read_npy(path, (_N_VERTICES,), "biu", "the vertices of fsaverage"))
    if not np.isin(inside, (0, 1)).all():
        raise ValueError(f"{path} must hold zeros and ones, got values up to {inside.max()}")
    return np.flatnonzero(inside)


def _list_images(folder: Path, split: str) -> tuple[list[Path], list[str]]:
    """Return image files in the order of the response rows, and their ids."""
    images = _image_folder(folder, split)
    if not images.is_dir():
        raise FileNotFoundError(f"{images} does not exist; expected the images {split}-NNNN_nsd-IIIII.png")
    found = []
    for path in images.glob("[!.]*.png"):
        match = re.fullmatch(rf"{split}-(\d+)_nsd-(\d+)", path.stem)
        if match is None:
            raise ValueError(f"{path} must be named {split}-NNNN_nsd-IIIII.png")
        found.append((int(match[1]), int(match[2]), path))
    if not found:
        raise FileNotFoundError(f"{images} must hold images {split}-NNNN_nsd-IIIII.png, found none")
    found.sort()
    for row, (number, _, path) in enumerate(found, start=1):
        if number != row:
            raise ValueError(
                f"{images} must number its images 1, 2, ..., expected {row} and found {path.name}"
            )
    for (_, before, _), (_, after, path) in itertools.pairwise(found):
        if after <= before:
            raise ValueError(
                f"{images} must number its images by ascending nsd id, found {path.name} after {before:05d}"
            )
    return [path for _, _, path in found], [f"nsd-{nsd:05d}" for _, nsd, _ in found]


def _list_classes(folder: Path) -> list[str]:
    found = {path.stem.removeprefix("mapping_") for path in (folder / "roi_masks").glob("mapping_*.npy")}
    return [*ROI_CLASSES, *sorted(found - ROI_CLASSES.keys(), key=lambda name: (len(name), name))]


def _read_rois(folder: Path, sizes: Sequence[int]) -> dict[str, NDArray[np.bool_]]:
    masks = folder / "roi_masks"
    membership: dict[str, NDArray[np.bool_]] = {}
    for label_class in _list_classes(folder):
        path = masks / f"mapping_{label_class}.npy"
        mapping = _read_mapping(path)
        labels = np.concatenate(
            [
                _read_npy(masks / f"{h}.{label_class}_challenge_space.npy", (n,), "iu", f"{n} vertices")
                for h, n in zip(_SIDES.values(), sizes, strict=True)
            ]
        )
        unnamed = np.setdiff1d(labels, [0, *mapping])
        if len(unnamed):
            raise ValueError(f"{path} must name every label, got no name for {unnamed[0]}")
        for label, name in sorted(mapping.items()):
            if name in membership:
                raise ValueError(f"{path} must name regions that no other class has, got {name!r}")
            membership[name] = labels == label
    if not membership:
        raise ValueError(f"{masks} must name at least one region in its mapping files, found none")
    return membership


def _read_mapping(path: Path) -> dict[int, str]:
    """Read the pickled names of one class: ``{1: name, ...}`` without the unnamed zero."""
    check_file(path, "the names of the labels of its class")
    try:
        content = read_pickled(path)
    except ValueError as error:
        raise ValueError(f"{path} must hold a dictionary of names and nothing else: {error}") from None
    if not isinstance(content, dict) or not all(
        isinstance(label, int | np.integer) and isinstance(name, str) for label, name in content.items()
    ):
        shown = reprlib.repr(content)  # lists in lists may be small in a file and endless as text
        raise ValueError(f"{path} must hold a dictionary of whole numbers to names, got {shorten(shown)}")
    return {int(label): str(name) for label, name in content.items() if label != 0}


def _read_ceiling(folder: Path, sizes: Sequence[int]) -> NDArray[np.float64] | None:
    paths = _ceiling_files(folder)
    if not any(path.exists() for path in paths):
        return None
    parts = []
    for path, n in zip(paths, sizes, strict=True):
        part = np.asarray(_read_npy(path, (n,), "f", f"{n} vertices"), np.float64)
        if np.any((part < 0) | (part > 1)):
            raise ValueError(
                f"{path} must lie between 0 and 1, got {np.nanmin(part):.3g} to {np.nanmax(part):.3g}"
            )
        parts.append(part)
    return np.concatenate(parts)


def read_simulation(folder: Path, n_rows: int, rois: set[str] | None = None) -> dict[str, Any] | None:
    """Read what marks a simulated subject and restores what the layout has no place for."""
    path = folder / "simulated.json"
    if not path.exists():
        return None
    try:
        content: dict[str, Any] = read_json(path)
        fits = (
            content["simulated"] is True
            and isinstance(content["name"], str)
            and content["surface"] in MESH_SIZES
            and (rois is None or sorted(content["rois"]) == sorted(rois))
            and len(content["stimulus_ids"]) >= n_rows
            and all(isinstance(name, str) for name in content["stimulus_ids"])
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} must describe a simulated subject: {error!r}") from None
    if not fits:
        raise ValueError(f"{path} must have the regions and the {n_rows} stimulus ids of its subject")
    return content


def read_truth(folder: Path) -> xr.Dataset | None:
    """Read the planted truth of a simulated subject."""
    path = folder / "truth.nc"
    if not path.exists():
        return None
    truth: xr.Dataset = read_netcdf(path, f"{path} cannot be read as netCDF:")
    return truth


# Writing


def _check_writable(recording: Recording) -> tuple[Any, NDArray[np.bool_], NDArray[np.int64]]:
    """Return images, test partition and nsd numbers of a recording that fits the layout."""
    test, rois = recording.test, recording.rois
    if recording.images is None:
        raise ValueError(f"recording {recording.name!r} must have images to be written, got features only")
    if test is None or test.all() or not test.any():
        raise ValueError(f"recording {recording.name!r} must have training and test rows, got one part only")
    if np.any(np.diff(test.astype(int)) < 0):
        raise ValueError("test must be false in the first rows and true in the last; order the rows")
    numbers = np.arange(recording.n_stimuli)
    if not recording.simulated:
        for row, stimulus_id in enumerate(recording.stimulus_ids):
            match = re.fullmatch(r"nsd-(\d{5,})", str(stimulus_id))
            if match is None:
                raise ValueError(f"stimulus_ids must be 'nsd-IIIII', got {str(stimulus_id)!r} in row {row}")
            numbers[row] = int(match[1])
    for part, name in ((~test, "training"), (test, "test")):
        if np.any(np.diff(numbers[part]) <= 0):
            raise ValueError(f"stimulus_ids must ascend in the {name} rows and be distinct; order the rows")
    if len(np.unique(numbers)) < len(numbers):
        raise ValueError("stimulus_ids must differ between training and test rows")
    sides, index = rois.hemisphere.values, rois.vertex_index.values
    if recording.surface not in MESH_SIZES or set(sides.tolist()) != _SIDES.keys():
        raise ValueError(f"recording {recording.name!r} must lie on fsaverage vertices of two hemispheres")
    for side in _SIDES:
        at = index[sides == side]
        if np.any(np.diff(at) <= 0) or np.any((at < 0) | (at >= MESH_SIZES[recording.surface])):
            raise ValueError(f"vertex_index must ascend within the {side} {recording.surface} hemisphere")
    return recording.images, test, numbers


def label_classes(rois: xr.DataArray) -> dict[str, tuple[dict[int, str], NDArray[np.int32]]]:
    """Distribute regions over label files, in which a unit has one label: (names, labels) of each class."""

    def empty() -> tuple[dict[int, str], NDArray[np.int32]]:
        return {0: "Unknown"}, np.zeros(rois.sizes["unit"], np.int32)

    known = {name: (c, i) for c, names in ROI_CLASSES.items() for i, name in enumerate(names, start=1)}
    classes = {label_class: empty() for label_class in ROI_CLASSES}
    custom, n_custom = "", 0
    for name, mask in zip(rois.roi.values.tolist(), rois.values, strict=True):
        label_class, label = known.get(name, ("", 0))
        if not label_class or classes[label_class][1][mask].any():
            if not n_custom or classes[custom][1][mask].any():
                n_custom += 1
                custom = "custom" if n_custom == 1 else f"custom-{n_custom}"
                classes[custom] = empty()
            label_class, label = custom, len(classes[custom][0])
        mapping, labels = classes[label_class]
        mapping[label] = name
        labels[mask] = label
    return classes


def _write_images(
    folder: Path, split: str, images: Any, numbers: NDArray[np.int64], rows: NDArray[np.intp]
) -> None:
    from PIL import Image

    target = _image_folder(folder, split)
    target.mkdir(parents=True)
    for number, row in enumerate(rows, start=1):
        Image.fromarray(images[int(row)]).save(target / f"{split}-{number:04d}_nsd-{numbers[row]:05d}.png")


def _write_responses(path: Path, responses: Any, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (len(rows), len(columns))
    out = new_npy(path, shape)
    for start in range(0, len(rows), _N_ROWS):
        out[start : start + _N_ROWS] = responses[rows[start : start + _N_ROWS]][:, columns]
    out.flush()


# Inspection


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _describe(path: Path) -> str:
    if not path.is_file():
        return "missing"
    try:
        array = npy_format.open_memmap(path, mode="r")
    except Exception:  # numpy reports damaged files in many ways
        return "unreadable"
    kind = {"f": "float", "i": "int", "u": "int", "b": "int"}.get(array.dtype.kind, str(array.dtype))
    return f"{kind} {array.shape}"


def _count_vertices(path: Path) -> int | str:
    if not _describe(path).startswith("int"):
        return "vertex"
    return int(np.count_nonzero(npy_format.open_memmap(path, mode="r")))


def _inspect_pair(paths: Sequence[Path], expected: Sequence[str], optional: bool) -> list[FileCheck]:
    if optional and not any(path.exists() for path in paths):
        return [FileCheck(path, "none (optional)", "none (optional)", 0) for path in paths]
    return [
        FileCheck(path, _describe(path), want, _size(path))
        for path, want in zip(paths, expected, strict=True)
    ]


def _inspect_images(folder: Path, split: str) -> tuple[int | str, FileCheck]:
    images = _image_folder(folder, split)
    files = list(images.glob("[!.]*.png"))
    n_bytes = sum(map(_size, files))
    expected = f"images {split}-0001 to {split}-{len(files):04d}" if files else "images"
    try:
        n: int | str = len(_list_images(folder, split)[0])
        found = expected
    except FileNotFoundError:
        n, found = "image", "missing"
    except ValueError:
        n, found = len(files), f"{len(files)} images out of order"
    return n, FileCheck(images, found, expected, n_bytes)
