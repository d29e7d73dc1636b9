"""Maps of one value a unit as files that other neuroimaging software opens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from neuroattn._checks import check_option, check_shape
from neuroattn.datasets.arrays import read_mask
from neuroattn.datasets.recording import Recording
from neuroattn.datasets.surfaces import MESH_SIZES, to_surface
from neuroattn.results import replacing

FORMATS = ("gifti", "mgh", "nifti")


def export_map(
    values: ArrayLike, recording: Recording, path_stem: str | Path, format: str, name: str
) -> list[Path]:
    """Write one value of each unit as a surface map or as a volume.

    Parameters
    ----------
    values : array, shape (unit,)
    recording : Recording
        Says where its units lie: on a surface mesh, or among the voxels of a mask.
    path_stem : str or Path
        Path without ending; its folder is created if absent.
    format : {"gifti", "mgh", "nifti"}
        "gifti" writes ``STEM_hemi-L.func.gii`` and ``STEM_hemi-R.func.gii``, "mgh" ``lh.STEM.mgh`` and
        ``rh.STEM.mgh``, of those hemispheres that have units; "nifti" writes ``STEM.nii.gz``.
    name : str
        What the values are, stored in the file where the format has a place for it.

    Returns
    -------
    list of Path
        Files written, left hemisphere first; float32, NaN where there is no unit.

    Raises
    ------
    ValueError
        If the recording has no surface, or no mask, to write to.

    Examples
    --------
    >>> import tempfile
    >>> from neuroattn.results import label_rois
    >>> rois = label_rois({"V1": [True]}, hemisphere="left", unit_kind="vertex", vertex_index=[3])
    >>> recording = Recording("one", np.zeros((1, 1), "f4"), rois, np.array(["a"]),
    ...                       features=np.zeros((1, 2)), surface="fsaverage5")
    >>> [path.name for path in export_map([0.5], recording, f"{tempfile.mkdtemp()}/r", "gifti", "r")]
    ['r_hemi-L.func.gii']
    """
    check_option("format", format, FORMATS)
    values = np.asarray(values, dtype=np.float32)
    check_shape("values", values, recording.n_units)
    stem = Path(path_stem)
    if format == "nifti":
        return [_write_volume(values, recording, stem.with_name(f"{stem.name}.nii.gz"), name)]
    maps = to_surface(values, recording.rois, count_mesh_vertices(recording))
    paths = []
    for side in ("left", "right"):
        if side not in recording.rois.hemisphere.values:
            continue
        if format == "gifti":
            path = stem.with_name(f"{stem.name}_hemi-{side[0].upper()}.func.gii")
            image = _gifti_image(maps[side], side, name)
        else:
            path = stem.with_name(f"{side[0]}h.{stem.name}.mgh")
            image = _mgh_image(maps[side])
        _write(image, path)
        paths.append(path)
    return paths


def count_mesh_vertices(recording: Recording) -> int:
    """Return the number of vertices of one hemisphere of the recording's mesh."""
    if recording.surface is not None:
        return MESH_SIZES[check_option("surface", recording.surface, MESH_SIZES)]
    if recording.mask is None or recording.mask.suffix != ".gii":
        raise ValueError(f"recording {recording.name!r} has no surface; only 'nifti' could be written")
    import nibabel

    image: Any = nibabel.load(recording.mask)
    return int(image.darrays[0].data.shape[0])


def _gifti_image(values: NDArray[np.float32], side: str, name: str) -> Any:
    import nibabel

    gifti: Any = nibabel.gifti  # partly typed
    structure = gifti.GiftiMetaData({"AnatomicalStructurePrimary": f"Cortex{side.capitalize()}"})
    array = gifti.GiftiDataArray(values, intent="NIFTI_INTENT_NONE", meta=gifti.GiftiMetaData({"Name": name}))
    return gifti.GiftiImage(meta=structure, darrays=[array])


def _mgh_image(values: NDArray[np.float32]) -> Any:
    import nibabel

    mgh: Any = nibabel.MGHImage
    return mgh(values[:, None, None], np.eye(4))


def _write_volume(values: NDArray[np.float32], recording: Recording, path: Path, name: str) -> Path:
    if recording.mask is None or recording.mask.suffix == ".gii":
        raise ValueError(f"recording {recording.name!r} has no NIfTI mask; a volume cannot be written")
    import nibabel

    nifti: Any = nibabel.Nifti1Image
    inside, mask = read_mask(recording.mask)
    index = recording.rois.vertex_index.values
    n_voxels = int(np.count_nonzero(inside))
    if index.min() < 0 or index.max() >= n_voxels:
        raise ValueError(
            f"mask {recording.mask} has {n_voxels} nonzero voxels, "
            f"but units lie at {index.min()} to {index.max()}"
        )
    voxels = np.full(n_voxels, np.nan, np.float32)
    voxels[index] = values
    volume = np.full(inside.shape, np.nan, np.float32)
    volume[inside] = voxels
    image = nifti(volume, mask.affine, header=mask.header, dtype=np.float32)
    image.header["descrip"] = name.encode("ascii", "replace")[:79]
    _write(image, path)
    return path


def _write(image: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        image.to_filename(temporary)
