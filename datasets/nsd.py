"""The Natural Scenes Dataset as it is distributed: betas by session, stimuli, labels, noise ceilings."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import re
import shutil
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from neuroattn._checks import check_option
from neuroattn._files import check_file, open_hdf5, reading
from neuroattn.datasets.algonauts import read_simulation, read_truth
from neuroattn.datasets.labels import (
    SIDES,
    name_regions,
    open_mgh,
    open_volume,
    read_names,
    read_values,
    read_volume,
    to_labels,
)
from neuroattn.datasets.recording import FileCheck, ImagesHdf5, Recording, Responses
from neuroattn.datasets.regions import ROI_CLASSES, merge_regions
from neuroattn.datasets.splits import TrialSplit, describe_repeats, split_stimuli, split_trials
from neuroattn.datasets.surfaces import MESH_SIZES
from neuroattn.datasets.trials import add_trials, divide_rows, standardize
from neuroattn.metrics import noise_ceiling_from_ncsnr
from neuroattn.results import label_rois, new_npy, replacing

SPACES = ("fsaverage", "func1pt8mm", "func1mm")
ATLASES = (*ROI_CLASSES, "nsdgeneral", "nsdgeneralRSC", "Kastner2015", "HCP_MMP1")
N_SESSIONS = (40, 40, 32, 30, 40, 32, 40, 30)  # that each subject completed

# int16 betas are 300 times percent signal change; betas in floating point are percent signal change.
_INT16_PER_PERCENT = 300
_PLAUSIBLE_PERCENT = (0.05, 50.0)  # median standard deviation of single-trial betas; measured ones are near 2
_N_TRIALS = 64  # read at a time
_VERSION = 1  # of the stored averages


def load_nsd(
    root: str | Path,
    subject: int,
    *,
    space: str = "fsaverage",
    betas: str = "betas_fithrf_GLMdenoise_RR",
    split: str = "algonauts",
    atlases: Sequence[str] = tuple(ROI_CLASSES),
    read_betas: bool = True,
    cache: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Recording:
    """Read one subject of the Natural Scenes Dataset [1]_ as it is distributed.

    Units are the vertices (voxels) of "nsdgeneral" and "nsdgeneralRSC". Each is standardized over the trials of
    each session; repeats are then averaged within the partition. Sessions are read one at a time and the averages
    stay memory-mapped in ``cache``, so a subject is never in memory; a read that was cut off goes on with
    the sessions that are missing.

    Parameters
    ----------
    root : str or Path
        Folder that holds ``nsddata``, ``nsddata_betas`` and ``nsddata_stimuli``.
    subject : int
        Number of the subject, from 1 to 8.
    space : {"fsaverage", "func1pt8mm", "func1mm"}, default "fsaverage"
        Surface betas (``{lh,rh}.betas_sessionNN.mgh``) or volumes (``betas_sessionNN.hdf5`` or ``.nii.gz``).
    betas : str, default "betas_fithrf_GLMdenoise_RR"
        Folder of the betas: their version.
    split : str, default "algonauts"
        "algonauts": training stimuli are those of all sessions but the last three, averaged over these
        sessions; test stimuli were seen in the last three sessions only and are not shared between subjects, or
        are shared and were seen three times there by a subject who completed all 40 sessions.
        "shared1000": tests on the stimuli that all subjects share; "shared515": on those that every
        subject saw three times, leaving out the other shared ones. "session-block=A-B": tests on stimuli
        seen in sessions A to B only (by default the last three) and leaves out those seen on both sides. These
        four make ``test``. Any other specification, such as "kfold=5,seeds=0-1", averages all trials of a
        stimulus and leaves the partition to :func:`split_stimuli`, which keeps stimuli whole.
    atlases : sequence of str
        Label files to take regions from, of "prf-visualrois", "floc-bodies", "floc-faces", "floc-places",
        "floc-words", "streams" (the default), "nsdgeneral", "nsdgeneralRSC", "Kastner2015", "HCP_MMP1".
    read_betas : bool, default True
        False reads the design, labels and ceiling only, in seconds and without the cache: responses are NaN, and units
        that the betas would rule out are still there. For the plan of a study, or for its images.
    cache : str or Path, optional
        Folder of the averages, 1.6 GB for a whole subject on fsaverage, and of the sessions while they are
        read, 4.7 GB; None takes the user's cache. Averages are found again by the sizes, times and samples of
        the files they came from.
    progress : callable, optional
        Called with the number of sessions read and of all sessions.

    Returns
    -------
    Recording
        Training rows before test rows, each ascending by 73k id ("nsd-IIIII", from 0). ``notes`` say how many stimuli
        and repeats there are, which sessions are missing, and how many units were dropped because of a
        value that is not a number. ``noise_ceiling`` follows from the noise-ceiling signal-to-noise ratio with
        the actual repeats of the test stimuli (of all stimuli where there is no partition).

    Raises
    ------
    FileNotFoundError
        If a file is missing; the message names it.
    ValueError
        If files do not fit each other: labels of another space, image ids out of range, other scales.

    Warns
    -----
    UserWarning
        If betas cannot be percent signal change, as when they were scaled twice or not at all.

    Notes
    -----
    int16 betas are divided by 300, and only those; betas in floating point are percent signal change already.
    Labels drawn on the subject's native surface are mapped to fsaverage by the nearest neighbours in
    ``ppdata/subjNN/transforms/{lh,rh}.white-to-fsaverage.mgz``; without these files their regions are left out,
    with a note. Test stimuli of "algonauts" and "session-block" come from other days than the training stimuli.

    The data are available from https://naturalscenesdataset.org after accepting the terms.

    References
    ----------
    .. [1] Allen et al. (2022). A massive 7T fMRI dataset to bridge cognitive neuroscience and artificial
       intelligence. Nature Neuroscience 25, 116-126.

    Examples
    --------
    >>> load_nsd("/no/such/folder", 1)
    Traceback (most recent call last):
    FileNotFoundError: .../nsd_expdesign.mat does not exist; ...
    """
    check_option("space", space, SPACES)
    for atlas in atlases:
        check_option("atlases", atlas, ATLASES)
    layout = Layout(Path(root), check_subject(subject), space, betas)
    design = _read_design(layout)
    units = _find_units(layout)
    sessions = _find_sessions(layout, design, units)
    trials = _split(layout, design, sessions, split)
    ids = np.asarray([f"nsd-{number:05d}" for number in trials.stimuli])
    simulation = read_simulation(layout.simulation, int(trials.stimuli.max()) + 1)
    if simulation is not None:
        ids = np.asarray(simulation["stimulus_ids"])[trials.stimuli]
    if trials.test is None:
        split_stimuli(ids, split)  # a specification that cannot be read is found before the betas are
    masks, atlas_of, notes = _read_rois(layout, units, atlases)
    if simulation is not None:
        order_of = {region: i for i, region in enumerate(simulation["rois"])}
        masks = dict(sorted(masks.items(), key=lambda item: order_of.get(item[0], len(order_of))))
    ceiling, said = _read_ceiling(layout, units, trials)
    notes = [*trials.notes, *describe_repeats(trials), *sessions.notes, *notes, *said]

    if read_betas:
        averages = _average(layout, units, sessions, trials, cache, progress)
    else:
        nothing = np.broadcast_to(np.float32(np.nan), (len(ids), len(units.hemisphere)))
        averages = _Averages(nothing, np.ones(nothing.shape[1], np.float32), mask=None)
    keep = np.flatnonzero(np.isfinite(averages.deviation))
    n_units = len(averages.deviation)
    if not len(keep):
        raise ValueError(f"{layout.betas_folder} must have a unit whose betas are all numbers, got none")
    if len(keep) < n_units:
        notes.append(
            f"dropped {n_units - len(keep)} of {n_units} units with betas that are not numbers, or do not vary, "
            "in some session"
        )
    if read_betas:
        _warn_of_scale(layout, float(np.median(averages.deviation[keep])))
    truth = read_truth(layout.simulation)
    if truth is not None:
        with reading(f"{layout.simulation} must hold the truth of its stimuli, got"):
            truth = truth.sel(stimulus=ids) if truth.sizes["unit"] == len(keep) else None
    return Recording(
        name=layout.name if simulation is None else simulation["name"],
        responses=Responses([[averages.table]], keep if len(keep) < n_units else None),
        rois=label_rois(
            {region: members[keep] for region, members in masks.items()},
            hemisphere=units.hemisphere[keep],
            unit_kind=units.kind,
            vertex_index=units.index[keep],
            atlas=[atlas_of[region] for region in masks],
        ),
        stimulus_ids=ids,
        images=ImagesHdf5(layout.stimuli, "imgBrick", trials.stimuli),
        noise_ceiling=None if ceiling is None else ceiling[keep],
        test=trials.test,
        truth=truth,
        simulated=simulation is not None,
        surface=units.surface,
        mask=averages.mask,
        notes=tuple(notes),
    )


def inspect_nsd(
    root: str | Path, subject: int, *, space: str = "fsaverage", betas: str = "betas_fithrf_GLMdenoise_RR"
) -> list[FileCheck]:
    """List the files of one subject, what they hold and what they should hold, without reading betas.

    Parameters
    ----------
    root, subject, space, betas
        As for :func:`load_nsd`.

    Returns
    -------
    list of FileCheck
        Design, stimuli, every session, noise ceilings, labels and what maps them to fsaverage.

    Examples
    --------
    >>> inspect_nsd("/no/such/folder", 1)[0].found
    'missing'
    """
    check_option("space", space, SPACES)
    layout = Layout(Path(root), check_subject(subject), space, betas)
    checks: list[FileCheck] = []

    def check(path: Path, expected: str, read: Callable[[Path], str] | None = None) -> None:
        """Add a line; without ``read`` it is enough that the file is there."""
        if not path.is_file():
            found = "missing"
        else:
            try:
                found = expected if read is None else read(path)
            except (ValueError, OSError):
                found = "unreadable"
        checks.append(FileCheck(path, found, expected, path.stat().st_size if path.is_file() else 0))

    def design(path: Path) -> str:
        _read_design(layout)
        return "design"

    def stimuli(path: Path) -> str:
        ImagesHdf5(path, "imgBrick")
        return "images"

    def betas_of(path: Path) -> str:
        return f"betas {_betas_shape(path)}"

    def labels(path: Path) -> str:
        return f"{open_mgh(path, 'labels').shape[0]} vertices"

    check(layout.design, "design", design)
    check(layout.stimuli, "images", stimuli)
    shape: tuple[int, ...] | None = None  # that of the first session that can be read
    n_sessions = N_SESSIONS[subject - 1]
    for path in (path for session in _list_sessions(layout) for path in layout.session_files(session)):
        with contextlib.suppress(ValueError, FileNotFoundError):
            shape = _betas_shape(path)
            n_sessions = _count_planned(layout, _read_design(layout), shape[-1])
            break
    files = [path for session in range(1, n_sessions + 1) for path in layout.session_files(session)]
    for path in files:
        check(path, f"betas {shape}" if shape else "betas", betas_of)
    for path in layout.ncsnr:
        check(path, "noise-ceiling ratios")
    if space != "fsaverage":
        for atlas, h in itertools.product(("nsdgeneral", *ROI_CLASSES), SIDES.values()):
            check(layout.volume_labels / f"{h}.{atlas}.nii.gz", "labels")
        return checks
    on_mesh = f"{shape[0]} vertices" if shape else "vertices"
    for atlas, h in itertools.product(("nsdgeneral", "nsdgeneralRSC", "streams"), SIDES.values()):
        check(layout.labels / f"{h}.{atlas}.mgz", on_mesh, labels)
    for atlas, h in itertools.product([name for name in ROI_CLASSES if name != "streams"], SIDES.values()):
        check(layout.native_labels / f"{h}.{atlas}.mgz", "labels")
    for h in SIDES.values():
        check(layout.transforms / f"{h}.white-to-fsaverage.mgz", on_mesh, labels)
    return checks


@dataclass(frozen=True)
class Layout:
    """Where the files of one subject are."""

    root: Path
    subject: int
    space: str
    version: str

    @property
    def name(self) -> str:
        """Name of the subject's folders."""
        return f"subj{self.subject:02d}"

    @property
    def design(self) -> Path:
        """Order of stimuli and trials."""
        return self.root / "nsddata/experiments/nsd/nsd_expdesign.mat"

    @property
    def stimuli(self) -> Path:
        """Images of all subjects."""
        return self.root / "nsddata_stimuli/stimuli/nsd/nsd_stimuli.hdf5"

    @property
    def betas_folder(self) -> Path:
        """Betas of every session."""
        return self.root / "nsddata_betas/ppdata" / self.name / self.space / self.version

    @property
    def labels(self) -> Path:
        """Labels on fsaverage."""
        return self.root / "nsddata/freesurfer/fsaverage/label"

    @property
    def native_labels(self) -> Path:
        """Labels on the subject's own surface."""
        return self.root / "nsddata/freesurfer" / self.name / "label"

    @property
    def transforms(self) -> Path:
        """Maps between spaces."""
        return self.root / "nsddata/ppdata" / self.name / "transforms"

    @property
    def volume_labels(self) -> Path:
        """Labels of voxels."""
        return self.root / "nsddata/ppdata" / self.name / self.space / "roi"

    @property
    def simulation(self) -> Path:
        """Folder of what marks a simulated subject; the real data set has none."""
        return self.root / "simulated" / self.name

    @property
    def ncsnr(self) -> list[Path]:
        """Noise-ceiling signal-to-noise ratios."""
        if self.space == "fsaverage":
            return [self.betas_folder / f"{h}.ncsnr.mgh" for h in SIDES.values()]
        return [self.betas_folder / "ncsnr.nii.gz"]

    def session_files(self, session: int) -> list[Path]:
        """One file a hemisphere, or one volume."""
        if self.space == "fsaverage":
            return [self.betas_folder / f"{h}.betas_session{session:02d}.mgh" for h in SIDES.values()]
        compressed = self.betas_folder / f"betas_session{session:02d}.nii.gz"
        return [compressed if compressed.is_file() else compressed.with_name(f"{compressed.name[:-7]}.hdf5")]


@dataclass(frozen=True)
class _Design:
    order: NDArray[np.int64]  # (trial,) columns of subjectim, from 0
    ids: NDArray[np.int64]  # (column,) 73k ids of the subject, from 0
    shared: NDArray[np.int64]  # 73k ids, from 0


@dataclass(frozen=True)
class _Units:
    kind: str
    hemisphere: NDArray[np.str_]
    index: NDArray[np.int64]  # vertex, or place among the voxels of the mask
    shape: tuple[int, ...]  # of one hemisphere, or of the volume
    surface: str | None = None
    voxels: NDArray[np.int64] | None = None  # (unit, 3)
    affine: NDArray[np.float64] | None = None

    def of(self, side: str) -> NDArray[np.int64]:
        """Vertices of one hemisphere."""
        vertices: NDArray[np.int64] = self.index[self.hemisphere == side]
        return vertices


@dataclass(frozen=True)
class _Sessions:
    files: dict[int, list[Path]]
    n_trials: int  # of each session
    n_planned: int  # that the subject completed
    notes: list[str]


@dataclass(frozen=True)
class _Averages:
    table: NDArray[np.float32]  # (stimulus, unit), memory-mapped
    deviation: NDArray[np.float32]  # (unit,) of single-trial betas; NaN for units that cannot be used
    mask: Path | None


def check_subject(subject: int) -> int:
    """Return the number of a subject of the data set."""
    if isinstance(subject, bool) or not isinstance(subject, int | np.integer) or not 1 <= subject <= 8:
        raise ValueError(f"subject must be a whole number between 1 and 8, got {subject!r}")
    return int(subject)


# Design


def _read_design(layout: Layout) -> _Design:
    from scipy.io import loadmat

    path = layout.design
    check_file(path, "the design of the experiment")
    keys = ("masterordering", "subjectim", "sharedix")
    with reading(f"{path} must hold masterordering, subjectim and sharedix:"):
        content = loadmat(path, variable_names=keys)
        tables = [np.asarray(content[key], np.float64) for key in keys]
        if not all((np.abs(table) < 2**31).all() for table in tables):
            raise ValueError("their numbers count images and trials")
        order, subjects, shared = (table.astype(np.int64) for table in tables)
    if subjects.ndim != 2 or len(subjects) < layout.subject:
        raise ValueError(
            f"{path} has subjectim of shape {subjects.shape}, but subject {layout.subject} is asked for"
        )
    order = order.reshape(-1) - 1
    n_columns = subjects.shape[1]
    if order.size == 0 or order.min() < 0 or order.max() >= n_columns:
        raise ValueError(f"{path} must count masterordering from 1 to the {n_columns} columns of subjectim")
    return _Design(order, subjects[layout.subject - 1] - 1, shared.reshape(-1) - 1)


def _split(layout: Layout, design: _Design, sessions: _Sessions, spec: str) -> TrialSplit:
    """Partition the trials of the subject's sessions, missing ones included: the design says who saw what when."""
    n_trials, n = sessions.n_trials, sessions.n_planned
    n_images = len(ImagesHdf5(layout.stimuli, "imgBrick"))
    stimulus = design.ids[design.order[: n * n_trials]]
    for number in (stimulus.min(), stimulus.max()):
        if not 0 <= number < n_images:
            raise ValueError(
                f"{layout.design} has image id {number + 1}, but {layout.stimuli} has ids 1 to {n_images}"
            )
    session = np.repeat(np.arange(1, n + 1), n_trials)
    by_all = design.order[: min(N_SESSIONS) * n_trials]  # every subject sees the columns in this order
    thrice = np.bincount(by_all, minlength=len(design.ids)) >= 3
    return split_trials(
        stimulus,
        session,
        spec,
        available=np.isin(session, list(sessions.files)),
        shared={"shared1000": design.shared, "shared515": np.intersect1d(design.shared, design.ids[thrice])},
        complete=len(design.order) == n * n_trials,
    )


# Units


def _find_units(layout: Layout) -> _Units:
    """Return the vertices or voxels of nsdgeneral or nsdgeneralRSC."""
    if layout.space == "fsaverage":
        inside: list[NDArray[np.bool_]] = []
        for h in SIDES.values():
            masks = [
                to_labels(read_values(path, "the visual cortex"), path) > 0
                for path in _mask_files(layout.labels, h, ".mgz")
            ]
            if len({len(mask) for mask in [*inside, *masks]}) > 1:
                sizes = sorted({len(mask) for mask in [*inside, *masks]})
                raise ValueError(f"{layout.labels} must hold masks of one surface, got {sizes} vertices")
            inside.append(np.any(masks, axis=0))
        vertices = [np.flatnonzero(mask) for mask in inside]
        n_vertices = len(inside[0])
        return _Units(
            "vertex",
            np.repeat(list(SIDES), [len(v) for v in vertices]),
            np.concatenate(vertices),
            (n_vertices,),
            surface=next((name for name, n in MESH_SIZES.items() if n == n_vertices), None),
        )
    side_of: NDArray[np.int64] | None = None
    affine = np.eye(4)
    for number, h in enumerate(SIDES.values(), start=1):
        for path in _mask_files(layout.volume_labels, h, ".nii.gz"):
            values, placed = read_volume(path, "the visual cortex")
            here = to_labels(values, path) > 0
            if side_of is None:
                side_of, affine = np.zeros(here.shape, np.int64), placed
            if here.shape != side_of.shape:
                raise ValueError(
                    f"{path} must have shape {side_of.shape} like the other masks, got {here.shape}"
                )
            side_of[here & (side_of == 0)] = number
    if side_of is None or not side_of.any():
        raise ValueError(f"{layout.volume_labels} must have a voxel in nsdgeneral, got none")
    voxels = np.argwhere(side_of)
    side = side_of[tuple(voxels.T)]
    place = np.argsort(side, kind="stable")
    return _Units(
        "voxel",
        np.asarray(list(SIDES))[side[place] - 1],
        place,
        side_of.shape,
        voxels=voxels[place],
        affine=affine,
    )


def _mask_files(folder: Path, h: str, suffix: str) -> list[Path]:
    """Return nsdgeneral, which must be there, and nsdgeneralRSC, which volumes do not have."""
    optional = folder / f"{h}.nsdgeneralRSC{suffix}"
    return [
        folder / f"{h}.nsdgeneral{suffix}",
        *([optional] if optional.is_file() or suffix == ".mgz" else []),
    ]


# Betas


def _count_planned(layout: Layout, design: _Design, n_trials: int) -> int:
    """Return how many sessions the subject completed; small data sets in this layout order fewer trials."""
    return min(N_SESSIONS[layout.subject - 1], len(design.order) // n_trials)


def _list_sessions(layout: Layout) -> list[int]:
    names = (
        re.search(r"betas_session(\d+)\.(mgh|hdf5|nii\.gz)$", path.name)
        for path in layout.betas_folder.glob("*")
    )
    return sorted({int(name[1]) for name in names if name})


def _find_sessions(layout: Layout, design: _Design, units: _Units) -> _Sessions:
    """Return the files of each session, whose shapes fit each other and the units."""
    found = _list_sessions(layout)
    if not found:
        raise FileNotFoundError(f"{layout.betas_folder} must hold betas_sessionNN files, found none")
    files = {session: layout.session_files(session) for session in found}
    n_trials = 0
    for paths in files.values():
        for path in paths:
            *grid, n = _betas_shape(path)
            if tuple(grid) != units.shape:
                raise ValueError(
                    f"{path} has betas of {tuple(grid)}, but the masks of nsdgeneral have {units.shape}; "
                    "they belong to different spaces"
                )
            n_trials = n_trials or n
            if n != n_trials or n < 1:
                raise ValueError(f"{path} must have {n_trials} trials like the other sessions, got {n}")
    n = _count_planned(layout, design, n_trials)
    if found[-1] > n:
        raise ValueError(f"{layout.betas_folder} holds session {found[-1]}, but the subject has {n}")
    missing = [str(session) for session in range(1, n + 1) if session not in files]
    notes = [f"sessions {', '.join(missing)} of {n} are missing"] if missing else []
    return _Sessions(files, n_trials, n, notes)


def _betas_shape(path: Path) -> tuple[int, ...]:
    """Return (vertex, trial) or (x, y, z, trial) from the header."""
    if path.suffix == ".hdf5":
        check_file(path, "the betas of a session")
        with reading(f"{path} must hold 'betas':"), open_hdf5(path) as file:
            return tuple(int(n) for n in reversed(file["betas"].shape))
    if path.suffix == ".mgh":
        shape = open_mgh(path, "the betas of a session").shape
        if len(shape) != 4 or shape[1:3] != (1, 1):
            raise ValueError(f"{path} must have shape (vertex, 1, 1, trial), got {shape}")
        return int(shape[0]), int(shape[3])
    shape = open_volume(path, "the betas of a session").shape
    if len(shape) != 4:
        raise ValueError(f"{path} must have shape (x, y, z, trial), got {shape}")
    return tuple(int(n) for n in shape)


def _read_session(paths: list[Path], units: _Units) -> NDArray[np.float32]:
    """Read percent signal change (trial, unit) of one session, a few trials or a slice at a time."""
    if units.voxels is None:
        parts = [_read_surface(path, units.of(side)) for side, path in zip(SIDES, paths, strict=True)]
        return np.concatenate(parts, axis=1)
    if paths[0].suffix == ".hdf5":
        return _read_hdf5(paths[0], units.voxels)
    return _read_nifti(paths[0], units.voxels)


def _read_surface(path: Path, vertices: NDArray[np.int64]) -> NDArray[np.float32]:
    betas = open_mgh(path, "the betas of a session")
    if betas.dtype.kind != "f":
        raise ValueError(f"{path} must hold percent signal change in floating point, got {betas.dtype}")
    n_trials = betas.shape[3]
    out = np.empty((n_trials, len(vertices)), np.float32)
    for start in range(0, n_trials, _N_TRIALS):
        block = betas[:, 0, 0, start : start + _N_TRIALS]
        out[start : start + _N_TRIALS] = block[vertices].T
    return out


def _percent_per_number(path: Path, dtype: np.dtype[Any]) -> float:
    """Return what stored betas are multiplied by: whole numbers are scaled, floating point never is."""
    if dtype.kind == "f":
        return 1.0
    if dtype != np.int16:
        raise ValueError(f"{path} must hold betas as int16 or in floating point, got {dtype}")
    return 1 / _INT16_PER_PERCENT


def _read_hdf5(path: Path, voxels: NDArray[np.int64]) -> NDArray[np.float32]:
    x, y, z = voxels.T
    with reading(f"{path} cannot be read whole:"), open_hdf5(path) as file:
        stored = file["betas"]  # (trial, z, y, x)
        out = np.empty((stored.shape[0], len(voxels)), np.float32)
        for number in np.unique(z):
            here = z == number
            out[:, here] = stored[:, int(number)][:, y[here], x[here]]
        dtype = stored.dtype
    out *= np.float32(_percent_per_number(path, dtype))
    return out


def _read_nifti(path: Path, voxels: NDArray[np.int64]) -> NDArray[np.float32]:
    image = open_volume(path, "the betas of a session")
    scale = _percent_per_number(path, image.get_data_dtype())
    slope, intercept = float(image.dataobj.slope), float(image.dataobj.inter)
    if intercept != 0 or not any(np.isclose(slope, s, rtol=1e-4) for s in (1.0, scale)):
        raise ValueError(
            f"{path} must have no scaling in its header, got slope {slope:g} and intercept {intercept:g}"
        )
    if slope != 1:  # the header says what would be done here
        scale = 1.0
    n_trials = image.shape[3]
    out = np.empty((n_trials, len(voxels)), np.float32)
    for start in range(0, n_trials, _N_TRIALS):
        with reading(f"{path} cannot be read whole:"):
            block = np.asarray(image.dataobj[..., start : start + _N_TRIALS])
        out[start : start + _N_TRIALS] = block[tuple(voxels.T)].T
    out *= np.float32(scale)
    return out


def _warn_of_scale(layout: Layout, deviation: float) -> None:
    low, high = _PLAUSIBLE_PERCENT
    if not low <= deviation <= high:
        warnings.warn(
            f"betas in {layout.betas_folder} have a median standard deviation of {deviation:.3g}, but percent signal "
            f"change has {low} to {high:g}; they were scaled {'twice' if deviation < low else 'not at all'}, or "
            "are no betas",
            UserWarning,
            stacklevel=3,
        )


# Averages


def _average(
    layout: Layout,
    units: _Units,
    sessions: _Sessions,
    split: TrialSplit,
    cache: str | Path | None,
    progress: Callable[[int, int], None] | None,
) -> _Averages:
    """Standardize each session and average its trials, or find the averages of an earlier call."""
    if cache is None:
        import pooch

        cache = Path(pooch.os_cache("neuroattn")) / "nsd"
    folder = Path(cache)
    digest = hashlib.blake2b(digest_size=12)
    digest.update(f"{_VERSION} {layout.space} {layout.version} {units.shape}".encode())
    for array in (units.index, split.row, split.stimuli):
        digest.update(np.ascontiguousarray(array).tobytes())
    digest.update("".join(units.hemisphere).encode())
    for paths in sessions.files.values():
        for path in paths:
            digest.update(_fingerprint(path))
    target = folder / f"{layout.name}-{digest.hexdigest()}"
    if not target.is_dir():
        partial = folder / f"{target.name}.sessions"
        partial.mkdir(parents=True, exist_ok=True)
        for done, (session, paths) in enumerate(sessions.files.items()):
            if progress is not None:
                progress(done, len(sessions.files))
            if not (path := _session_file(partial, session)).is_file():
                z, deviation = standardize(_read_session(paths, units))
                with replacing(path) as temporary:
                    # One more row than trials: the standard deviations that were divided by.
                    np.save(temporary, np.concatenate([z, deviation[None]]))
        _write_averages(target, partial, units, sessions, split)
        shutil.rmtree(partial)
        if progress is not None:
            progress(len(sessions.files), len(sessions.files))
    mask = target / "mask.nii.gz"
    return _Averages(
        npy_format.open_memmap(target / "responses.npy", mode="r"),
        np.load(target / "deviation.npy"),
        mask if mask.is_file() else None,
    )


def _session_file(folder: Path, session: int) -> Path:
    return folder / f"session-{session:02d}.npy"


def _write_averages(
    target: Path, partial: Path, units: _Units, sessions: _Sessions, split: TrialSplit
) -> None:
    deviation = np.zeros(len(units.index))
    with replacing(target) as temporary:
        temporary.mkdir()
        shape = (len(split.stimuli), len(units.index))
        total = new_npy(temporary / "responses.npy", shape)
        for session in sessions.files:
            stored = npy_format.open_memmap(_session_file(partial, session), mode="r")
            first = (session - 1) * sessions.n_trials
            add_trials(total, stored, split.row[first : first + sessions.n_trials])
            deviation += stored[-1]
        divide_rows(total, split.counts)
        total.flush()
        np.save(temporary / "deviation.npy", (deviation / len(sessions.files)).astype(np.float32))
        if units.voxels is not None:
            import nibabel

            inside = np.zeros(units.shape, np.uint8)
            inside[tuple(units.voxels.T)] = 1
            nifti: Any = nibabel.Nifti1Image
            nifti(inside, units.affine).to_filename(temporary / "mask.nii.gz")


def _fingerprint(path: Path) -> bytes:
    """Return size, time and samples of the content: reading a subject's 39 GB twice would double the work."""
    stat = path.stat()
    digest = hashlib.blake2b(f"{path.name} {stat.st_size} {stat.st_mtime_ns}".encode(), digest_size=16)
    with path.open("rb") as file:
        for place in (0, stat.st_size // 2, max(stat.st_size - 65_536, 0)):
            file.seek(place)
            digest.update(file.read(65_536))
    return digest.digest()


# Regions and noise ceilings


def _read_rois(
    layout: Layout, units: _Units, atlases: Sequence[str]
) -> tuple[dict[str, NDArray[np.bool_]], dict[str, str], list[str]]:
    """Return members of each region, the atlas of each, and notes."""
    masks: dict[str, NDArray[np.bool_]] = {}
    atlas_of: dict[str, str] = {}
    notes: list[str] = []
    for atlas in atlases:
        labels, reason = _unit_labels(layout, units, atlas)
        if labels is None:
            notes.append(f"regions of {atlas} are left out: {reason}")
            continue
        path, names = _read_atlas_names(layout, atlas)
        merge_regions(masks, atlas, name_regions(labels, names, path).items())
        atlas_of |= dict.fromkeys(masks.keys() - atlas_of.keys(), atlas)
    if not masks:
        raise FileNotFoundError(f"{layout.root} must hold the labels of an atlas; {'; '.join(notes)}")
    return masks, atlas_of, notes


def _unit_labels(layout: Layout, units: _Units, atlas: str) -> tuple[NDArray[np.int64] | None, str]:
    """Return the label of each unit, or why there is none."""
    labels = np.zeros(len(units.index), np.int64)
    for side, h in SIDES.items():
        here = units.hemisphere == side
        if units.voxels is not None:
            path = layout.volume_labels / f"{h}.{atlas}.nii.gz"
            if not path.is_file():
                return None, f"{path} does not exist"
            values, _ = read_volume(path, "labels")
            if values.shape != units.shape:
                raise ValueError(f"{path} must have shape {units.shape} like the betas, got {values.shape}")
            labels[here] = to_labels(values, path)[tuple(units.voxels[here].T)]
            continue
        path, native = layout.labels / f"{h}.{atlas}.mgz", layout.native_labels / f"{h}.{atlas}.mgz"
        if path.is_file():
            on_mesh = to_labels(read_values(path, "labels"), path)
        elif not native.is_file():
            return None, f"{native} does not exist"
        else:
            transform = layout.transforms / f"{h}.white-to-fsaverage.mgz"
            if not transform.is_file():
                return None, f"{transform} does not exist, which maps them to fsaverage"
            on_mesh = _map_labels(native, transform)
        if len(on_mesh) != units.shape[0]:
            raise ValueError(
                f"labels of {atlas} ({h}) have {len(on_mesh)} vertices, but the betas have {units.shape[0]}; "
                "they belong to another surface"
            )
        labels[here] = on_mesh[units.index[here]]
    return labels, ""


def _map_labels(native: Path, transform: Path) -> NDArray[np.int64]:
    """Take the label of the native vertex that is nearest to each vertex of fsaverage."""
    labels = to_labels(read_values(native, "labels"), native)
    nearest = to_labels(read_values(transform, "the map to fsaverage"), transform) - 1
    if nearest.min() < 0 or nearest.max() >= len(labels):
        raise ValueError(
            f"{transform} must hold vertices 1 to {len(labels)} of {native}, got {nearest.max() + 1}"
        )
    return labels[nearest]


def _read_atlas_names(layout: Layout, atlas: str) -> tuple[Path, dict[int, str]]:
    for folder in (layout.native_labels, layout.labels):
        path = folder / f"{atlas}.mgz.ctab"
        if path.is_file():
            return path, read_names(path)
    if atlas in ROI_CLASSES:
        return path, dict(enumerate(ROI_CLASSES[atlas], start=1))
    if atlas.startswith("nsdgeneral"):
        return path, {1: atlas}
    raise FileNotFoundError(f"{path} does not exist; expected the names of the labels of {atlas}")


def _read_ceiling(
    layout: Layout, units: _Units, split: TrialSplit
) -> tuple[NDArray[np.float64] | None, list[str]]:
    missing = [path for path in layout.ncsnr if not path.is_file()]
    if missing:
        return None, [f"no noise ceiling: {missing[0]} does not exist"]
    ncsnr = np.empty(len(units.index))
    if units.voxels is None:
        for side, path in zip(SIDES, layout.ncsnr, strict=True):
            values = read_values(path, "noise-ceiling ratios")
            if len(values) != units.shape[0]:
                raise ValueError(
                    f"{path} must have {units.shape[0]} vertices like the betas, got {len(values)}"
                )
            ncsnr[units.hemisphere == side] = values[units.of(side)]
    else:
        values, _ = read_volume(layout.ncsnr[0], "noise-ceiling ratios")
        if values.shape != units.shape:
            raise ValueError(
                f"{layout.ncsnr[0]} must have shape {units.shape} like the betas, got {values.shape}"
            )
        ncsnr = values[tuple(units.voxels.T)].astype(np.float64)
    counts = split.counts if split.test is None else split.counts[split.test]
    return noise_ceiling_from_ncsnr(ncsnr, counts), []
