"""Regions and the atlases that they come from: published names, selections, a user's own atlas."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from neuroattn._checks import check_option
from neuroattn.datasets.labels import read_regions
from neuroattn.datasets.recording import Recording, Responses
from neuroattn.results import label_rois

# Label files and the names in them, in the order of their labels (1, 2, ...).
ROI_CLASSES = {
    "prf-visualrois": ("V1v", "V1d", "V2v", "V2d", "V3v", "V3d", "hV4"),
    "floc-bodies": ("EBA", "FBA-1", "FBA-2", "mTL-bodies"),
    "floc-faces": ("OFA", "FFA-1", "FFA-2", "mTL-faces", "aTL-faces"),
    "floc-places": ("OPA", "PPA", "RSC"),
    "floc-words": ("OWFA", "VWFA-1", "VWFA-2", "mfs-words", "mTL-words"),
    "streams": ("early", "midventral", "midlateral", "midparietal", "ventral", "lateral", "parietal"),
}
_CLASS_OF = {name: label_class for label_class, names in ROI_CLASSES.items() for name in names}

# Published query sets; all but the first two restrict a fit to the units of their regions.
_GROUPS = {
    "streams": ("streams",),
    "rois": tuple(label_class for label_class in ROI_CLASSES if label_class != "streams"),
    "visual": ("prf-visualrois",),
    "bodies": ("floc-bodies",),
    "faces": ("floc-faces",),
    "places": ("floc-places",),
    "words": ("floc-words",),
}
_WHOLE = ("streams", "rois")


def region_class(name: str) -> str:
    """Return the published atlas or localizer of a region, "" for other names."""
    return _CLASS_OF.get(name, "")


def select_regions(recording: Recording, name: str | Sequence[str]) -> Recording:
    """Keep some regions of a recording, and the units that a fit of them sees.

    Parameters
    ----------
    recording : Recording
    name : str or sequence of str
        "streams" and "rois" (all regions of the prf and floc localizers) keep every unit. "visual", "bodies",
        "faces", "places" and "words" keep the regions of one localizer and only the units in them, which
        is what restricting the loss to a group of regions means. The name of any other atlas in
        ``recording.rois.atlas`` keeps its regions and every unit. A list names single regions and keeps only
        the units in them.

    Returns
    -------
    Recording
        Regions without a unit are kept, empty.

    Raises
    ------
    ValueError
        If the recording has no such region, or none of them has a unit.

    Examples
    --------
    >>> from neuroattn.datasets import make_nsd_like
    >>> recording = make_nsd_like(20, 10, seed=0, rois=["V1v", "FFA-1"], vertices_per_roi=5)
    >>> faces = select_regions(recording, "faces")
    >>> faces.rois.roi.values.tolist(), faces.n_units, recording.n_units
    (['FFA-1'], 10, 30)
    """
    rois = recording.rois
    atlas, names = rois.atlas.values, rois.roi.values
    if isinstance(name, str):
        check_option("name", name, dict.fromkeys([*_GROUPS, *(a for a in atlas.tolist() if a)]))
        chosen = np.flatnonzero(np.isin(atlas, _GROUPS.get(name, (name,))))
        whole = name in _WHOLE or name not in _GROUPS
        if not len(chosen):
            known = ", ".join(sorted({a for a in atlas.tolist() if a})) or "none"
            raise ValueError(
                f"recording {recording.name!r} has no regions of {name!r}; its atlases are {known}"
            )
    else:
        for region in name:
            check_option("name", region, names.tolist())
        chosen = np.array(
            [int(np.flatnonzero(names == region)[0]) for region in dict.fromkeys(name)], np.intp
        )
        whole = False
        if not len(chosen):
            raise ValueError("name must name at least one region, got none")
    units = np.arange(recording.n_units) if whole else np.flatnonzero(rois.values[chosen].any(0))
    if not len(units):
        raise ValueError(f"recording {recording.name!r} has no unit in {', '.join(names[chosen])}")
    responses = recording.responses
    truth = recording.truth
    if truth is not None:
        truth = truth.isel(unit=units, missing_dims="ignore")
        if "roi" in truth.coords:
            truth = truth.isel(roi=np.flatnonzero(np.isin(truth.roi, names[chosen])))
    return dataclasses.replace(
        recording,
        responses=responses.take(units) if isinstance(responses, Responses) else responses[:, units],
        rois=rois.isel(roi=chosen, unit=units),
        noise_ceiling=None if recording.noise_ceiling is None else recording.noise_ceiling[units],
        truth=truth,
    )


def add_regions(recording: Recording, path: str | Path, *, atlas: str | None = None) -> Recording:
    """Add the regions of an atlas file to those of a recording.

    Parameters
    ----------
    recording : Recording
    path : str or Path
        Labels of the whole surface, ``"lh.FILE.mgz,rh.FILE.mgz"`` or .mgh or .gii, one file a hemisphere; a
        label volume .nii or .nii.gz in the space of the recording's mask; or JSON ``{"name": [unit, ...]}``
        counted from 0. Label 0 is no region. Names are those of the GIFTI label table or of a colour table
        ``FILE.mgz.ctab`` with lines "label name", otherwise "label-1", "label-2", ... .
    atlas : str, optional
        Its name; None takes that of the file.

    Returns
    -------
    Recording
        With further regions. A name that is taken gets its atlas as a prefix, "atlas:name".

    Raises
    ------
    ValueError
        If the file belongs to another space: its number of vertices or its grid does not fit.

    Examples
    --------
    >>> import tempfile
    >>> from neuroattn.datasets import make_nsd_like
    >>> recording = make_nsd_like(20, 10, seed=0, rois=["V1v"], vertices_per_roi=5)
    >>> file = Path(tempfile.mkdtemp()) / "mine.json"
    >>> _ = file.write_text('{"V1v": [0, 1], "V4": [2]}')
    >>> rois = add_regions(recording, file).rois
    >>> rois.roi.values.tolist(), rois.atlas.values.tolist()
    (['V1v', 'mine:V1v', 'V4'], ['prf-visualrois', 'mine', 'mine'])
    """
    rois = recording.rois
    stem, masks = read_regions(path, recording)
    return dataclasses.replace(recording, rois=_join(rois, {atlas or stem: masks}))


def _join(rois: xr.DataArray, added: Mapping[str, Mapping[str, NDArray[np.bool_]]]) -> xr.DataArray:
    masks = dict(zip(rois.roi.values.tolist(), rois.values, strict=True))
    atlas = rois.atlas.values.tolist()
    for name, regions in added.items():
        merge_regions(masks, name, regions.items())
        atlas += [name] * len(regions)
    return label_rois(
        masks,
        hemisphere=rois.hemisphere.values,
        unit_kind=str(rois.unit_kind.values[0]),
        vertex_index=rois.vertex_index.values,
        atlas=atlas,
    )


def merge_regions(
    masks: dict[str, NDArray[np.bool_]], atlas: str, regions: Iterable[tuple[str, NDArray[np.bool_]]]
) -> None:
    """Add the regions of an atlas to ``masks``; a name that is taken gets the atlas as a prefix."""
    for region, members in regions:
        name = region if region not in masks else f"{atlas}:{region}"
        if name in masks:
            raise ValueError(f"atlas {atlas!r} must name each region once, got {region!r} again")
        masks[name] = members
