"""ObjArr: search among objects on a ring, with fixations known by object."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuroattn._files import check_file, reading
from neuroattn.datasets.scanpaths import ScanpathDataset
from neuroattn.datasets.scenes import ObjectScene
from neuroattn.results import Scanpath, replacing

_INITIAL, _PADDING = -2, -1
# Entries and their dimensions.
_ENTRIES = {
    "scanpath": 3,
    "object_xy": 2,
    "start_xy": 1,
    "screen_wh": 1,
    "target_index": 1,
    "object_category": 2,
}


def load_objarr(path: str | Path) -> ScanpathDataset:
    """Load fixations of ObjArr: 15 observers search 300 arrays of six objects on a ring [1]_.

    Parameters
    ----------
    path : str or Path
        ``objarr.npz`` or its folder. Entries: ``scanpath`` (observer, scene, fixation), the index of the fixated
        object, -2 for an initial fixation and -1 for padding; ``object_xy`` (object, 2) and ``start_xy`` (2,), px;
        ``screen_wh`` (2,); ``target_index`` (scene,); ``object_category`` (scene, object).

    Returns
    -------
    ScanpathDataset
        Positions are the centres of the fixated objects, because the fixations themselves are not in the file; so
        there is no duration either. Labels are the numbers of the categories. Exactly one object of a scene has the
        category of the target, and there are no images: models can only know the target by its label. Boxes are
        squares around the objects' centres that just fit on the screen: the file has no sizes.

    Raises
    ------
    FileNotFoundError
        If the file is missing.
    ValueError
        If the file is damaged, lacks an entry or holds an object that is not in the scene.

    References
    ----------
    .. [1] Zhang, Feng, Ma, Lim, Zhao & Kreiman (2018). Finding any Waldo with zero-shot invariant and efficient visual
       search. Nature Communications 9:3730.

    Examples
    --------
    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "objarr.npz"
    >>> np.savez(file, scanpath=[[[-2, 1, 0, -1]]], object_xy=[[50, 50], [250, 50]], start_xy=[150, 50],
    ...          screen_wh=[300, 100], target_index=[0], object_category=[[16, 18]])
    >>> dataset = load_objarr(file)
    >>> dataset[0].objects, dataset[0].found, dataset.scene_of(0)
    (array([-1,  1,  0]), True, ObjectScene(2 objects in 300 x 100 px, target '16'))
    """
    path = Path(path)
    file = path / "objarr.npz" if path.is_dir() else path
    content = _read(file)
    sequences = content["scanpath"]
    n_observers, n_scenes, _ = sequences.shape
    centres = content["object_xy"].astype(float)
    n_objects = len(centres)
    for name, shape in (
        ("object_xy", (n_objects, 2)),
        ("start_xy", (2,)),
        ("screen_wh", (2,)),
        ("target_index", (n_scenes,)),
        ("object_category", (n_scenes, n_objects)),
    ):
        if content[name].shape != shape:
            raise ValueError(f"{file}: {name} must have shape {shape}, got {content[name].shape}")
    width, height = content["screen_wh"].tolist()
    if not sequences.size or not n_objects:
        raise ValueError(f"{file} must hold scanpaths among objects, got shape {sequences.shape}")
    reach = np.concatenate([centres, [width, height] - centres]).min()
    if reach <= 0:
        raise ValueError(f"{file}: object_xy must lie on the screen of {width} x {height} px")
    boxes = np.column_stack([centres - reach, np.full((n_objects, 2), 2 * reach)])
    if sequences.min(initial=_INITIAL) < _INITIAL or sequences.max(initial=0) >= n_objects:
        raise ValueError(
            f"{file}: scanpath must hold -2, -1 or one of {n_objects} objects, got another number"
        )
    kept = np.cumsum(sequences == _PADDING, axis=2) == 0
    if (sequences[~kept] != _PADDING).any() or (sequences[..., 1:] == _INITIAL).any():
        raise ValueError(f"{file}: scanpath must begin with its initial fixation and end with its padding")
    if (sequences[..., 0] == _INITIAL).all():
        first = "initial"
    elif (sequences[..., 0] != _INITIAL).all():
        first = "free"
    else:
        raise ValueError(f"{file}: scanpath must have an initial fixation in all trials or in none")
    scenes = {}
    for i, (target, categories) in enumerate(
        zip(content["target_index"].tolist(), content["object_category"].tolist(), strict=True)
    ):
        name = f"array{i:03d}"
        labels = tuple(map(str, categories))
        if not 0 <= target < n_objects:
            raise ValueError(f"{file}: target_index must be below {n_objects}, got {target} for scene {i}")
        scenes[name] = ObjectScene(
            boxes,
            (width, height),
            labels=labels,
            target=target,
            target_label=labels[target],
            name=name,
        )
    paths = []
    for observer in range(n_observers):
        for i, (name, scene) in enumerate(scenes.items()):
            objects = sequences[observer, i][kept[observer, i]].astype(np.int64)
            on = objects >= 0
            points = np.where(on[:, None], centres[objects], content["start_xy"])
            paths.append(
                Scanpath(
                    points[:, 0],
                    points[:, 1],
                    scene.size,
                    objects=np.where(on, objects, -1),
                    found=bool((objects == scene.target).any()),
                    first_fixation=first,
                    attrs={
                        "observer": str(observer + 1),
                        "image": name,
                        "scene": name,
                        "task": "search",
                        "condition": "present",
                        "target": scene.target_label,
                    },
                )
            )
    attrs = {
        "citation": "Zhang, Feng, Ma, Lim, Zhao & Kreiman (2018). Nature Communications 9:3730.",
        "licence": "no open licence is stated",
        "source": f"ObjArr: {file.name}",
    }
    return ScanpathDataset.from_scanpaths(paths, scenes=scenes, attrs=attrs)


def write_objarr(dataset: ScanpathDataset, path: str | Path) -> None:
    """Write which objects were fixated as ObjArr has it.

    Parameters
    ----------
    dataset : ScanpathDataset
        With objects. Every observer has one trial of every scene; scenes have their objects at the same places, whole
        numbers as labels, and a target.
    path : str or Path
        A file .npz; it is whole or absent.

    Raises
    ------
    ValueError
        If one of these does not hold, or a chosen fixation is on no object.

    Examples
    --------
    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "objarr.npz"
    >>> scene = ObjectScene([[0, 0, 100, 100], [200, 0, 100, 100]], (300, 100), labels=["16", "18"], target=0)
    >>> path = Scanpath([150, 250, 50], [50, 50, 50], scene.size, objects=[-1, 1, 0],
    ...                 attrs={"observer": "1", "image": "a", "scene": "a"})
    >>> write_objarr(ScanpathDataset.from_scanpaths([path], scenes={"a": scene}), file)
    >>> load_objarr(file)[0].objects
    array([-1,  1,  0])
    """
    if "object" not in dataset.data:
        raise ValueError(
            "dataset must have objects to be written as ObjArr, got none; call assign_objects first"
        )
    data = dataset.data
    names = list(dict.fromkeys(data["scene"].values.astype(str).tolist()))
    observers = list(dict.fromkeys(data["observer"].values.astype(str).tolist()))
    scenes = [dataset.scene_of(int(np.argmax(data["scene"].values == name))) for name in names]
    for scene in scenes:
        if (
            scene.target is None
            or scene.labels is None
            or not all(label.isdecimal() for label in scene.labels)
        ):
            raise ValueError(
                f"scenes must have a target and whole numbers as labels, got {scene} {scene.labels}"
            )
        if scene.boxes.shape != scenes[0].boxes.shape or not np.allclose(scene.boxes, scenes[0].boxes):
            raise ValueError(
                f"scenes must have their objects at the same places, got others in {scene.name!r}"
            )
    sequences = np.full((len(observers), len(names), data.sizes["fixation"]), _PADDING, np.int8)
    done = np.zeros(sequences.shape[:2], bool)
    starts: list[tuple[float, float]] = []
    for trial in dataset:
        place = (observers.index(trial.attrs["observer"]), names.index(trial.attrs["scene"]))
        objects = np.asarray(trial.objects)
        if trial.first_fixation == "initial" and len(trial):
            starts.append((trial.x[0], trial.y[0]))
            objects = np.concatenate([[_INITIAL], objects[1:]])
        if done[place] or (objects == _PADDING).any():
            rule = "one trial of an observer and a scene, with every chosen fixation on an object"
            raise ValueError(f"dataset must have {rule}, got another for {trial.attrs['scene']!r}")
        done[place] = True
        sequences[place][: len(objects)] = objects
    if not done.all():
        raise ValueError("dataset must have a trial of every observer and scene, got fewer")
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(
            file,
            scanpath=sequences,
            object_xy=np.stack([scenes[0].x, scenes[0].y], 1),
            start_xy=np.mean(starts, 0) if starts else np.array(scenes[0].size) / 2,
            screen_wh=np.array(scenes[0].size),
            target_index=np.array([scene.target for scene in scenes]),
            object_category=np.array([[int(label) for label in scene.labels or ()] for scene in scenes]),
        )


def _read(file: Path) -> dict[str, NDArray[Any]]:
    check_file(file)
    content = {}
    with (
        reading(f"{file} must be an .npz file of numbers, got"),
        np.load(file, allow_pickle=False) as archive,
    ):
        for name in _ENTRIES:
            if name in archive:
                content[name] = archive[name]
    for name, ndim in _ENTRIES.items():
        if name not in content:
            raise ValueError(f"{file} must have the entry {name!r}, got {', '.join(content)}")
        if content[name].dtype.kind not in "iuf" or content[name].ndim != ndim:
            got = f"{content[name].dtype} of {content[name].shape}"
            raise ValueError(f"{file}: {name} must be numbers of {ndim} dimensions, got {got}")
        whole = name not in ("object_xy", "start_xy")
        fits = np.abs(content[name]) < 2**31
        if not fits.all() or (whole and (content[name] != np.rint(content[name])).any()):
            raise ValueError(f"{file}: {name} must hold {'whole' if whole else 'finite'} numbers")
        if whole:
            content[name] = content[name].astype(np.int64)
    return content
