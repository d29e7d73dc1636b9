"""The fsaverage surfaces: meshes that are at hand offline, and values placed on their vertices."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from neuroattn._checks import check_option, check_range, check_shape

# Vertices of one hemisphere. The meshes are nested icospheres: vertex i is one point in all that have it.
MESH_SIZES = {"fsaverage5": 10_242, "fsaverage": 163_842}

_MESH_FILES = {
    "infl": "inflated",
    "pial": "pial",
    "flat": "flat",
    "white": "white_matter",
    "sphere": "sphere",
}


class Mesh(NamedTuple):
    """Triangles on the points ``coordinates`` (vertex, 3); ``faces`` (face, 3) are indices of vertices.

    nilearn's plotting functions take it as it is.
    """

    coordinates: NDArray[np.float32]
    faces: NDArray[np.int32]


def fsaverage5_mesh(hemisphere: str, kind: str = "infl") -> Mesh:
    """Return one hemisphere of fsaverage5, from the files that nilearn brings along.

    Parameters
    ----------
    hemisphere : {"left", "right"}
    kind : {"infl", "pial", "flat", "white", "sphere"}, default "infl"

    Returns
    -------
    Mesh
        Coordinates of 10,242 vertices in millimetres; the flat mesh is cut and has fewer faces.

    Examples
    --------
    >>> mesh = fsaverage5_mesh("left")
    >>> mesh.coordinates.shape, mesh.faces.shape
    ((10242, 3), (20480, 3))
    """
    check_option("hemisphere", hemisphere, ("left", "right"))
    check_option("kind", kind, _MESH_FILES)
    from nilearn.datasets import load_fsaverage

    mesh: Any = load_fsaverage("fsaverage5")[_MESH_FILES[kind]].parts[hemisphere]
    return Mesh(np.asarray(mesh.coordinates, np.float32), np.asarray(mesh.faces, np.int32))


def to_surface(
    values: ArrayLike, rois: xr.DataArray, n_vertices: int = MESH_SIZES["fsaverage5"]
) -> dict[str, NDArray[np.float32]]:
    """Place one value of each unit on the vertices of a surface.

    fsaverage5 is the first 10,242 vertices of fsaverage, so units at full resolution are shown on it as the
    subset whose ``vertex_index`` is below 10,242 (one in sixteen); nothing is smoothed or interpolated.

    Parameters
    ----------
    values : array, shape (unit,)
    rois : DataArray, dims (roi, unit)
        Gives ``hemisphere`` and ``vertex_index`` of each unit.
    n_vertices : int, default 10242
        Vertices of one hemisphere of the mesh.

    Returns
    -------
    dict of str to array, shape (vertex,)
        For "left" and "right", NaN where there is no unit. Units without a vertex on the mesh are left out.

    Examples
    --------
    >>> from neuroattn.results import label_rois
    >>> rois = label_rois({"V1": [True, True]}, hemisphere=["left", "right"], unit_kind="vertex",
    ...                   vertex_index=[7, 20_000])
    >>> maps = to_surface([0.5, 0.25], rois)
    >>> float(maps["left"][7]), bool(np.isnan(maps["right"]).all())
    (0.5, True)
    """
    values = np.asarray(values)
    check_shape("values", values, rois.sizes["unit"])
    check_range("n_vertices", n_vertices, 1)
    sides, index = rois.hemisphere.values, rois.vertex_index.values
    maps = {}
    for side in ("left", "right"):
        here = (sides == side) & (index >= 0) & (index < n_vertices)
        maps[side] = np.full(n_vertices, np.nan, np.float32)
        maps[side][index[here]] = values[here]
    return maps
