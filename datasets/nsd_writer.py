"""Simulated subjects in the layout of the Natural Scenes Dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from neuroattn.datasets.algonauts import label_classes
from neuroattn.datasets.labels import SIDES
from neuroattn.datasets.nsd import Layout, check_subject
from neuroattn.datasets.recording import Recording
from neuroattn.datasets.regions import ROI_CLASSES
from neuroattn.datasets.surfaces import MESH_SIZES
from neuroattn.results import new_hdf5, replacing, write_json, write_netcdf

_BETAS = "betas_fithrf_GLMdenoise_RR"
_N_NATIVE = 37  # vertices that the native surface has more than fsaverage


def write_nsd(recording: Recording, root: str | Path, subject: int) -> Path:
    """Write a simulated subject as the Natural Scenes Dataset is distributed, on the surface.

    :func:`load_nsd` returns the recording from it, to the last bit of the responses.

    Parameters
    ----------
    recording : Recording
        From :func:`simulate_sessions`, with images.
    root : str or Path
        Folder of one subject's data; created if absent.
    subject : int
        Number of the subject, from 1 to 8.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    FileExistsError
        If the folder holds files: recordings are never overwritten.
    ValueError
        If the recording has no single trials or no images.

    Notes
    -----
    Traps of the real data are there too: order and ids count from 1, a quarter of the training images are
    "shared" and come first among the columns of the design, localizers are drawn on a native surface, and a
    vertex that no region has is not a number in one trial.

    Examples
    --------
    >>> from neuroattn.datasets import make_nsd_like, simulate_sessions, load_nsd
    >>> import tempfile
    >>> def tokens(images):
    ...     return images[:, ::32, ::32].transpose(0, 3, 1, 2).astype("f4")
    >>> recording = make_nsd_like(20, 10, seed=0, features=tokens, rois=["V1v"], vertices_per_roi=5)
    >>> recording = simulate_sessions(recording, seed=0)
    >>> folder = Path(tempfile.mkdtemp())
    >>> again = load_nsd(write_nsd(recording, folder / "nsd", 1), 1, cache=folder / "cache")
    >>> bool((again.responses[:] == recording.responses).all())
    True
    """
    layout = Layout(Path(root), check_subject(subject), "fsaverage", _BETAS)
    truth = recording.truth
    if truth is None or "trial_beta" not in truth:
        raise ValueError(
            f"recording {recording.name!r} must hold single trials, as simulate_sessions makes them"
        )
    if recording.images is None or recording.surface not in MESH_SIZES or recording.test is None:
        raise ValueError(f"recording {recording.name!r} must have images and lie on fsaverage or fsaverage5")
    classes = label_classes(recording.rois)
    if not classes.keys() <= ROI_CLASSES.keys():
        raise ValueError(
            f"recording {recording.name!r} must have no regions but the published ones, not overlapping"
        )
    if layout.root.exists() and any(layout.root.iterdir()):
        raise FileExistsError(
            f"{layout.root} holds files; recordings are not overwritten, give another folder"
        )
    layout.root.parent.mkdir(parents=True, exist_ok=True)
    with replacing(layout.root) as temporary:
        inside = Layout(temporary, layout.subject, layout.space, layout.version)
        _write_design(inside, recording.test, truth)
        _write_stimuli(inside.stimuli, recording.images)
        _write_betas(inside, recording, truth)
        _write_labels(inside, recording, classes)
        inside.simulation.mkdir(parents=True)
        write_netcdf(inside.simulation / "truth.nc", truth)
        content = {
            "simulated": True,
            "name": recording.name,
            "surface": recording.surface,
            "rois": recording.rois.roi.values.tolist(),
            "stimulus_ids": recording.stimulus_ids.tolist(),
        }
        write_json(inside.simulation / "simulated.json", content)
    return layout.root


def _write_design(layout: Layout, test: NDArray[np.bool_], truth: xr.Dataset) -> None:
    from scipy.io import savemat

    n = len(test)
    shared = np.flatnonzero(~test)[: max(int((~test).sum()) // 4, 1)]
    others = np.random.default_rng(layout.subject).permutation(np.setdiff1d(np.arange(n), shared))
    ids = np.concatenate([shared, others])  # of the columns
    column = np.argsort(ids)
    layout.design.parent.mkdir(parents=True)
    content = {
        "masterordering": column[truth["trial_stimulus"].values][None] + 1.0,
        "subjectim": np.tile(ids + 1.0, (8, 1)),
        "sharedix": shared[None] + 1.0,
    }
    savemat(layout.design, content)


def _write_stimuli(path: Path, images: Any) -> None:
    path.parent.mkdir(parents=True)
    with new_hdf5(path) as file:
        stored = file.create_dataset("imgBrick", images.shape, "u1", chunks=(1, *images.shape[1:]))
        for start in range(0, len(images), 64):
            stored[start : start + 64] = images[start : start + 64]


def _write_mgh(path: Path, values: ArrayLike) -> None:
    import nibabel

    path.parent.mkdir(parents=True, exist_ok=True)
    data = np.asarray(values)
    mgh: Any = nibabel.MGHImage
    mgh(data.reshape(len(data), 1, 1, *data.shape[1:]), np.eye(4)).to_filename(path)


def _broken_vertex(recording: Recording) -> int:
    """Return a vertex of the left hemisphere that is no unit."""
    left = recording.rois.vertex_index.values[recording.rois.hemisphere.values == "left"]
    return int(np.setdiff1d(np.arange(len(left) + 1), left)[0])


def _write_betas(layout: Layout, recording: Recording, truth: xr.Dataset) -> None:
    rois, session = recording.rois, truth["trial_session"].values
    n_vertices = MESH_SIZES[str(recording.surface)]
    for side, h in SIDES.items():
        units = np.flatnonzero(rois.hemisphere.values == side)
        vertices = rois.vertex_index.values[units]
        ncsnr = np.zeros(n_vertices, np.float32)
        ncsnr[vertices] = truth["ncsnr"].values[units]
        _write_mgh(layout.betas_folder / f"{h}.ncsnr.mgh", ncsnr)
        for number in np.unique(session):
            betas = truth["trial_beta"].values[session == number][:, units]
            whole = np.zeros((n_vertices, len(betas)), np.float32)
            whole[vertices] = betas.T
            if side == "left":
                broken = _broken_vertex(recording)
                whole[broken] = betas.mean(1)
                whole[broken, 0] = np.nan if number == 2 else whole[broken, 0]
            _write_mgh(layout.betas_folder / f"{h}.betas_session{number:02d}.mgh", whole)


def _write_labels(
    layout: Layout, recording: Recording, classes: dict[str, tuple[dict[int, str], NDArray[np.int32]]]
) -> None:
    rois = recording.rois
    n_vertices = MESH_SIZES[str(recording.surface)]
    rng = np.random.default_rng(layout.subject)
    for side, h in SIDES.items():
        units = np.flatnonzero(rois.hemisphere.values == side)
        vertices = rois.vertex_index.values[units]
        for i, atlas in enumerate(("nsdgeneral", "nsdgeneralRSC")):
            mask = np.zeros(n_vertices, np.int32)
            mask[vertices[i::2]] = 1
            if side == "left" and atlas == "nsdgeneralRSC":
                mask[_broken_vertex(recording)] = 1
            _write_mgh(layout.labels / f"{h}.{atlas}.mgz", mask)
        nearest = rng.permutation(n_vertices + _N_NATIVE)[:n_vertices]
        _write_mgh(layout.transforms / f"{h}.white-to-fsaverage.mgz", nearest.astype(np.float32) + 1)
        for atlas, (_, labels) in classes.items():
            on_mesh = np.zeros(n_vertices, np.int32)
            on_mesh[vertices] = labels[units]
            if atlas == "streams":
                _write_mgh(layout.labels / f"{h}.{atlas}.mgz", on_mesh)
                continue
            native = np.zeros(n_vertices + _N_NATIVE, np.int32)
            native[nearest] = on_mesh
            _write_mgh(layout.native_labels / f"{h}.{atlas}.mgz", native)
    for atlas, (names, _) in classes.items():
        lines = [f"{label} {name}" for label, name in sorted(names.items())]
        (layout.native_labels / f"{atlas}.mgz.ctab").write_text("\n".join(lines) + "\n")
