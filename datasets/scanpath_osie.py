"""OSIE: free viewing of images with many objects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuroattn._files import below, check_file, reading, shorten
from neuroattn.datasets.scanpath_files import (
    Letterbox,
    find_picture,
    naming,
    require,
    save_in_frame,
    warn_of_durations,
)
from neuroattn.datasets.scanpaths import ScanpathDataset
from neuroattn.datasets.scenes import ObjectScene
from neuroattn.results import Scanpath, replacing

FRAME = (800, 600)  # px

_ATTRS = {
    "citation": "Xu, Jiang, Wang, Kankanhalli & Zhao (2014). Predicting human gaze beyond pixels. "
    "Journal of Vision 14(1):28.",
    "licence": "MIT",
}


def load_osie(path: str | Path, *, images: str | Path | None = None) -> ScanpathDataset:
    """Load fixations of OSIE [1]_: 15 observers look at 700 images, 3 s each, without a task.

    Parameters
    ----------
    path : str or Path
        ``fixations.mat``, or the folder that holds it.
    images : str or Path, optional
        Folder of the images, of 800 x 600 px or resized; by default the first folder ``stimuli*`` beside the file, if
        there is one.

    Returns
    -------
    ScanpathDataset
        Positions in px of 800 x 600, durations in s. ``observer`` is the place in the list of subjects, from 1. Scenes
        have images and no objects: the masks of ``attrs.mat`` are not read. The first fixation is taken as a chosen
        one ("free"): those of the published file lie at a median of 113 px from the centre, 4 in 5 more than 50 px
        away.

    Raises
    ------
    FileNotFoundError
        If the file, or an image of a folder that is given, is missing.
    ValueError
        If the file is not MATLAB's (version 5) or lacks a field; the image and the observer are named.

    Warns
    -----
    UserWarning
        If the median duration is not that of fixations in ms.

    References
    ----------
    .. [1] Xu, Jiang, Wang, Kankanhalli & Zhao (2014). Predicting human gaze beyond pixels. Journal of Vision 14(1):28.

    Examples
    --------
    >>> import tempfile
    >>> from neuroattn.datasets import make_search_arrays
    >>> folder = Path(tempfile.mkdtemp()) / "simulated"
    >>> write_osie(make_search_arrays(n_scenes=3, n_observers=2, seed=0), folder)
    >>> dataset = load_osie(folder)
    >>> len(dataset), dataset.scene_of(0).pixels().shape
    (6, (600, 800, 3))
    """
    path = Path(path)
    file = path / "fixations.mat" if path.is_dir() else path
    folder = None if images is None else Path(images)
    if folder is None:
        folder = next((found for found in sorted(file.parent.glob("stimuli*")) if found.is_dir()), None)
    cells = _read_mat(file)
    paths: list[Scanpath] = []
    scenes = {}
    for i, cell in enumerate(cells):
        place = f"image {i + 1}"
        name = _text(_field(file, place, cell, "img"))
        if name is None:
            raise ValueError(f"{file}: {place} must have a text in 'img'")
        if name in scenes:
            raise ValueError(
                f"{file}: {place} must be another than those before, got {shorten(name)!r} again"
            )
        with naming(f"{file}: {place}"):
            picture = find_picture(folder, (name,), required=images is not None)
        scenes[name] = ObjectScene(np.empty((0, 4)), FRAME, image=picture, name=name)
        for k, subject in enumerate(_field(file, place, cell, "subjects").ravel()):
            here = f"{place} ({shorten(name)}), subject {k + 1}"
            x, y, ms = (_numbers(file, here, subject, key) for key in ("fix_x", "fix_y", "fix_duration"))
            with naming(f"{file}: {here}"):
                paths.append(
                    Scanpath(
                        x,
                        y,
                        FRAME,
                        duration=ms / 1000,
                        first_fixation="free",
                        attrs={"observer": str(k + 1), "image": name, "scene": name, "task": "free viewing"},
                    )
                )
    if not paths:
        raise ValueError(f"{file} must hold fixations of at least one image, got none")
    warn_of_durations(paths, file, "ms")
    return ScanpathDataset.from_scanpaths(
        paths, scenes=scenes, attrs=_ATTRS | {"source": f"OSIE: {file.name}"}
    )


def write_osie(dataset: ScanpathDataset, folder: str | Path) -> None:
    """Write fixations and images in the layout of OSIE.

    Parameters
    ----------
    dataset : ScanpathDataset
        With durations. An observer without a trial of an image gets an empty one there.
    folder : str or Path
        Gets ``fixations.mat`` and ``stimuli/NAME``; it is whole or absent, and replaced if it is there.

    Raises
    ------
    ValueError
        If durations are missing, or an observer has two trials of an image.

    Notes
    -----
    Positions and images are moved into a frame of 800 x 600 px.

    Examples
    --------
    >>> import tempfile
    >>> from neuroattn.datasets import make_search_arrays
    >>> folder = Path(tempfile.mkdtemp()) / "simulated"
    >>> write_osie(make_search_arrays(n_scenes=2, n_observers=1, seed=0), folder)
    >>> sorted(file.name for file in folder.iterdir())
    ['fixations.mat', 'stimuli']
    """
    from scipy.io import savemat

    trials: dict[tuple[str, str], Scanpath] = {}
    pictures: dict[str, ObjectScene | None] = {}
    observers: dict[str, None] = {}
    for i, path in enumerate(dataset):
        image, observer = path.attrs["image"], path.attrs["observer"]
        require(path.duration, "durations", i, "OSIE")
        if (image, observer) in trials:
            raise ValueError(f"dataset must have one trial of an observer and an image, got 2 of {image!r}")
        trials[image, observer] = path
        observers[observer] = None
        pictures[image] = dataset.scene_of(i) if path.attrs["scene"] in dataset.scenes else None
    content = np.empty((len(pictures), 1), object)
    for i, image in enumerate(pictures):
        subjects = np.empty((len(observers), 1), object)
        for k, observer in enumerate(observers):
            subjects[k, 0] = _fields(trials.get((image, observer)))
        content[i, 0] = {"img": image, "subjects": subjects}
    with replacing(folder) as temporary:
        (temporary / "stimuli").mkdir(parents=True)
        savemat(temporary / "fixations.mat", {"fixations": content})
        for image, scene in pictures.items():
            if scene is not None and scene.image is not None:
                save_in_frame(scene, FRAME, below(temporary / "stimuli", image))


def _fields(path: Scanpath | None) -> dict[str, NDArray[np.float64]]:
    if path is None or path.duration is None:
        empty = np.empty((1, 0))
        return {"fix_x": empty, "fix_y": empty, "fix_duration": empty}
    x, y = Letterbox.fit(path.image_size, FRAME).points(path.x, path.y)
    return {"fix_x": x[None], "fix_y": y[None], "fix_duration": 1000 * path.duration[None]}


def _read_mat(file: Path) -> NDArray[Any]:
    from scipy.io import loadmat

    check_file(file, "OSIE's fixations.mat")
    with reading(f"{file} must be a MATLAB file of version 5, got"):
        content = loadmat(file, variable_names=["fixations"])
    if "fixations" not in content or content["fixations"].dtype != object:
        raise ValueError(f"{file} must have a cell array 'fixations'")
    return np.asarray(content["fixations"]).ravel()


def _field(file: Path, place: str, struct: Any, name: str) -> NDArray[Any]:
    fields = getattr(getattr(struct, "dtype", None), "names", None)
    if fields is None or name not in fields or struct.size != 1:
        raise ValueError(f"{file}: {place} must be a struct with {name!r}, got {fields}")
    return np.asarray(struct[name].item())


def _numbers(file: Path, place: str, struct: Any, name: str) -> NDArray[np.float64]:
    values = _field(file, place, struct, name)
    if values.dtype.kind not in "iuf":
        raise ValueError(f"{file}: {place} must have numbers in {name!r}, got {values.dtype}")
    return values.astype(np.float64).ravel()


def _text(values: NDArray[Any]) -> str | None:
    return str(values.item()) if values.size == 1 and values.dtype.kind == "U" else None
