"""Label files: whole numbers on a surface or in a volume, and the names of the numbers."""

from __future__ import annotations

import gzip
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuroattn._files import check_file, read_text, reading, shorten
from neuroattn.datasets.arrays import find_side, in_mask, read_gifti_file, read_json_regions
from neuroattn.datasets.export import count_mesh_vertices
from neuroattn.datasets.recording import Recording

SIDES = {"left": "lh", "right": "rh"}
_SURFACE_SUFFIXES = (".mgz", ".mgh", ".gii")


def open_mgh(path: Path, meaning: str) -> NDArray[Any]:
    """Open an .mgh or .mgz file, shape (x, y, z) or (x, y, z, frame); .mgh data stay in the file."""
    from nibabel.freesurfer.mghformat import MGHHeader

    check_file(path, meaning)
    compressed = path.suffix == ".mgz"
    with reading(f"{path} cannot be read whole:"), np.errstate(over="raise"):
        with gzip.open(path) if compressed else path.open("rb") as file:
            kind: Any = MGHHeader
            header = kind.from_fileobj(file)
            shape, dtype, start = header.get_data_shape(), header.get_data_dtype(), header.get_data_offset()
            if min(shape) < 1:
                raise ValueError(f"its shape is {shape}")
            if compressed:
                file.seek(start)
                values = np.frombuffer(file.read(math.prod(shape) * dtype.itemsize), dtype)
                return values.reshape(shape, order="F")
        return np.memmap(path, dtype, "r", start, shape, "F")


def open_volume(path: Path, meaning: str) -> Any:
    """Open a NIfTI file; the image's data stay in the file."""
    import nibabel

    check_file(path, meaning)
    with reading(f"{path} cannot be read:"):
        return nibabel.load(path, keep_file_open=True)  # a compressed file is read once, from front to back


def read_volume(path: Path, meaning: str) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Read the values (x, y, z, ...) and the affine of a NIfTI file."""
    image = open_volume(path, meaning)
    with reading(f"{path} cannot be read whole:"):
        return np.asarray(image.dataobj), image.affine


def read_values(path: Path, meaning: str) -> NDArray[Any]:
    """Read one value of each vertex from an .mgh or .mgz file, shape (vertex,)."""
    values = open_mgh(path, meaning)
    if values.size != values.shape[0]:
        raise ValueError(f"{path} must hold one value of each vertex, got shape {values.shape}")
    return np.asarray(values).reshape(-1)


def to_labels(values: NDArray[Any], path: Path) -> NDArray[np.int64]:
    """Return values as whole numbers; what is below 1 or not a number is no region."""
    labels = np.where(np.isnan(values), 0, values)
    wrong = (labels != np.rint(labels)) | (np.abs(labels) >= 2**31)
    if wrong.any():
        raise ValueError(f"{path} must hold whole numbers, got {labels[wrong][0]:g}")
    return np.asarray(np.maximum(labels, 0), dtype=np.int64)


def read_names(path: Path) -> dict[int, str]:
    """Read a colour table, lines "label name ...": ``{1: name, ...}`` without the unnamed zero."""
    names: dict[int, str] = {}
    for line in read_text(path).splitlines():
        fields = line.split()
        if not fields or fields[0].startswith("#"):
            continue
        if len(fields) < 2 or not fields[0].isdecimal() or len(fields[0]) > 9:
            raise ValueError(f"{path} must hold lines 'label name', got {shorten(repr(line))}")
        if int(fields[0]) in names:
            raise ValueError(f"{path} must name each label once, got {int(fields[0])} again")
        names[int(fields[0])] = fields[1]
    if not names:
        raise ValueError(f"{path} must hold lines 'label name', got none")
    names.pop(0, None)
    if len(set(names.values())) < len(names):
        raise ValueError(f"{path} must give each label another name")
    return names


def name_regions(
    labels: NDArray[np.int64], names: Mapping[int, str], path: Path
) -> dict[str, NDArray[np.bool_]]:
    """Return the members of each named label."""
    unnamed = np.setdiff1d(labels, [0, *names])
    if len(unnamed):
        raise ValueError(f"{path} must name every label, got no name for {unnamed[0]}")
    return {name: labels == label for label, name in sorted(names.items())}


def read_regions(path: str | Path, recording: Recording) -> tuple[str, dict[str, NDArray[np.bool_]]]:
    """Read the regions of an atlas file for the units of a recording: its name, and their members."""
    spec = str(path)
    parts = [Path(part) for part in spec.split(",")]
    first = parts[0]
    for part in parts:
        if not part.is_file():
            raise FileNotFoundError(f"atlas {part} does not exist")
    if first.name.lower().endswith(".json"):
        return first.stem, read_json_regions(first, recording.n_units)
    rois = recording.rois
    names: dict[int, str] = {}
    if first.name.lower().endswith((".nii", ".nii.gz")):
        stem = first.name.split(".nii")[0]
        if recording.mask is None or recording.mask.suffix == ".gii":
            raise ValueError(f"atlas {spec} is a volume, but recording {recording.name!r} has no NIfTI mask")
        labels = to_labels(in_mask("atlas", first, recording.mask, 3), first)[rois.vertex_index.values]
    elif all(part.name.lower().endswith(_SURFACE_SUFFIXES) for part in parts):
        stem = first.name.split(".")[1] if first.name[:3] in ("lh.", "rh.") else first.name.split(".")[0]
        n_vertices = count_mesh_vertices(recording)
        labels = np.zeros(recording.n_units, np.int64)
        for part in parts:
            side, values, part_names = _read_side(part)
            if len(values) != n_vertices:
                raise ValueError(
                    f"atlas {part} has {len(values)} vertices, but a hemisphere of recording "
                    f"{recording.name!r} has {n_vertices}; it belongs to another surface"
                )
            here = rois.hemisphere.values == side
            labels[here] = to_labels(values, part)[rois.vertex_index.values[here]]
            names |= part_names
    else:
        raise ValueError(f"atlas {spec} must be .mgz, .mgh, .gii, .nii, .nii.gz or .json")
    for table in (first.with_name(f"{first.name}.ctab"), first.with_name(f"{first.name[3:]}.ctab")):
        if not names and table.is_file():
            names = read_names(table)
    names = names or {int(label): f"label-{label}" for label in np.unique(labels) if label}
    if not names:
        raise ValueError(f"atlas {spec} has no label on the units of recording {recording.name!r}")
    return stem, name_regions(labels, names, first)


def _read_side(path: Path) -> tuple[str, NDArray[Any], dict[int, str]]:
    """Return the hemisphere of a surface file, its values (vertex,) and the names in it."""
    if path.suffix.lower() != ".gii":
        return find_side("atlas", path), read_values(path, "labels"), {}
    import nibabel

    side, table = read_gifti_file("atlas", path)
    if table.shape[1] != 1:
        raise ValueError(f"atlas {path} must hold one value of each vertex, got {table.shape[1]}")
    with reading(f"atlas {path} cannot be read:"):
        image: Any = nibabel.load(path)
    named = image.labeltable.get_labels_as_dict()
    return side, table[:, 0], {int(label): str(name) for label, name in named.items() if label > 0 and name}
