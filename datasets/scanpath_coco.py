"""COCO-Search18: search for one of 18 kinds of objects in natural images."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuroattn._files import below, read_json
from neuroattn.datasets.scanpath_files import (
    Letterbox,
    Record,
    as_number,
    find_picture,
    inside,
    milliseconds,
    overlap,
    records,
    require,
    save_in_frame,
    warn_of_durations,
)
from neuroattn.datasets.scanpaths import ScanpathDataset
from neuroattn.datasets.scenes import ObjectScene
from neuroattn.results import Scanpath, replacing

FRAME = (1680, 1050)  # px; 54 x 35 degrees
SAME_OBJECT = 0.5  # intersection over union that makes an annotated object the target

_ATTRS = {
    "citation": "Chen, Yang, Ahn, Samaras, Hoai & Zelinsky (2021). COCO-Search18 fixation dataset for predicting "
    "goal-directed attention control. Scientific Reports 11:8776.",
    "licence": "train and validation fixations are free to use with citation; no licence is stated",
}


def load_coco_search18(
    path: str | Path,
    *,
    correct_only: bool = True,
    images: str | Path | None = None,
    instances: str | Path | None = None,
    image_size: tuple[int, int] = FRAME,
) -> ScanpathDataset:
    """Load fixations of COCO-Search18 [1]_.

    Parameters
    ----------
    path : str or Path
        A file ``coco_search18_fixations_*.json``, or a folder with some.
    correct_only : bool, default True
        Leave out trials with a wrong response. False keeps them; ``correct`` says which they are.
    images : str or Path, optional
        Folder of the images as distributed, ``TASK/NAME`` or ``NAME``; by default ``images`` beside the files, if
        it is there.
    instances : str or Path, optional
        A COCO file ``instances_*.json`` that holds these images: its objects become those of the scenes. By default
        ``instances.json`` beside the files, if it is there. Without one, a scene has one object, the target.
    image_size : tuple of int, (width, height), default (1680, 1050)
        Frame of the coordinates; (512, 320) in files of later work.

    Returns
    -------
    ScanpathDataset
        Durations in s. The first fixation is the initial one at the centre. ``target`` and ``task`` are the category;
        ``found`` says whether a fixation fell into the target's box (unknown where the target is absent);
        ``correct``, ``split`` and, where all trials have it, ``response_time`` (s) are variables. A scene is an image
        searched for a category.

    Raises
    ------
    FileNotFoundError
        If a file is missing.
    ValueError
        If a record is malformed (file, record and key are named), an image is not among ``instances``, or no trial
        is left.

    Warns
    -----
    UserWarning
        If the median duration is not that of fixations in ms.

    Notes
    -----
    COCO's boxes are moved into the frame as the images were: aspect ratio kept and centred, which the positions of
    the published target boxes confirm (those at the edges of 4:3 images begin at 141 px; the margin is 140 px). Crowds
    are left out. The target is the object of its category that overlaps the published box most; if none does by half,
    the box is added as an object of its own. Files of test trials have more durations than positions, because
    positions were cut at the target: the extra durations are left out.

    References
    ----------
    .. [1] Chen, Yang, Ahn, Samaras, Hoai & Zelinsky (2021). COCO-Search18 fixation dataset for predicting
       goal-directed attention control. Scientific Reports 11:8776.

    Examples
    --------
    >>> import tempfile
    >>> from neuroattn.datasets import make_search_arrays
    >>> folder = Path(tempfile.mkdtemp()) / "simulated"
    >>> write_coco_search18(make_search_arrays(n_scenes=3, n_observers=2, seed=0), folder)
    >>> dataset = load_coco_search18(folder)
    >>> len(dataset), dataset.scene_of(0)
    (6, ObjectScene(6 objects in 1680 x 1050 px, target 'diamond'))
    """
    path = Path(path)
    files = sorted(path.glob("coco_search18_fixations_*.json")) if path.is_dir() else [path]
    if not files:
        raise FileNotFoundError(f"{path} must hold coco_search18_fixations_*.json, got none")
    folder = files[0].parent
    pictures = Path(images) if images is not None else folder / "images"
    if instances is None and (folder / "instances.json").is_file():
        instances = folder / "instances.json"
    objects = None if instances is None else _read_instances(Path(instances), image_size)
    paths: list[Scanpath] = []
    scenes: dict[str, ObjectScene] = {}
    for file in files:
        read = []
        for record in records(file, read_json(file), "trial"):
            name, task = record.get("name", str), record.get("task", str)
            if correct_only and not _is_correct(record):
                continue
            key = f"{task}/{name}"
            if key not in scenes:
                with record.naming():
                    picture = find_picture(pictures, (key, name), required=images is not None)
                scenes[key] = _make_scene(record, objects, image_size, picture)
            read.append(_make_path(record, scenes[key], image_size))
        warn_of_durations(read, file, "ms")
        paths += read
    if not paths:
        raise ValueError(f"{path} must hold {'correct ' if correct_only else ''}trials, got none")
    return ScanpathDataset.from_scanpaths(
        paths, scenes=scenes, attrs=_ATTRS | {"source": f"COCO-Search18: {', '.join(f.name for f in files)}"}
    )


def write_coco_search18(dataset: ScanpathDataset, folder: str | Path) -> None:
    """Write fixations, objects and images in the layout of COCO-Search18.

    Parameters
    ----------
    dataset : ScanpathDataset
        With durations, and scenes with a label of the target.
    folder : str or Path
        Gets ``coco_search18_fixations_{TP,TA}_SPLIT_split1.json``, ``instances.json`` and ``images/TASK/NAME``; it is
        whole or absent, and replaced if it is there.

    Raises
    ------
    ValueError
        If durations or labels are missing.

    Notes
    -----
    Images and positions are moved into a frame of 1680 x 1050 px. Trials without ``correct`` are written as correct,
    without ``split`` as training trials.

    Examples
    --------
    >>> import tempfile
    >>> from neuroattn.datasets import make_search_arrays
    >>> folder = Path(tempfile.mkdtemp()) / "simulated"
    >>> write_coco_search18(make_search_arrays(n_scenes=2, n_observers=1, seed=0), folder)
    >>> sorted(file.name for file in folder.iterdir())
    ['coco_search18_fixations_TP_train_split1.json', 'images', 'instances.json']
    """
    trials: dict[str, list[dict[str, Any]]] = {}
    for i, path in enumerate(dataset):
        scene = dataset.scene_of(i)
        task = require(scene.target_label, "scenes with target_label", i, "COCO-Search18")
        frame = Letterbox.fit(scene.size, FRAME)
        x, y = frame.points(path.x, path.y)
        present = bool(scene.matches_target.any())
        split = str(path.attrs.get("split", "train"))
        trial: dict[str, Any] = {
            "name": path.attrs["image"],
            "subject": as_number(path.attrs["observer"]),
            "task": task,
            "condition": "present" if present else "absent",
            "X": x.tolist(),
            "Y": y.tolist(),
            "T": milliseconds(require(path.duration, "durations", i, "COCO-Search18")),
            "length": len(path),
            "correct": int(path.attrs.get("correct", 1)),
            "split": split,
        }
        if present:
            trial["bbox"] = frame.boxes(scene.boxes)[_target(scene)].tolist()
        if "response_time" in path.attrs:
            trial["RT"] = round(1000 * path.attrs["response_time"])
        trials.setdefault(f"{'TP' if present else 'TA'}_{split}", []).append(trial)
    with replacing(folder) as temporary:
        temporary.mkdir()
        for kind, content in trials.items():
            file = below(temporary, f"coco_search18_fixations_{kind}_split1.json")
            file.write_text(json.dumps(content))
        _write_scenes(dataset, temporary)


def _is_correct(record: Record) -> bool:
    value = record.get("correct", int)
    if value not in (0, 1):
        record.refuse("correct", "0 or 1", value)
    return bool(value)


def _read_instances(path: Path, frame: tuple[int, int]) -> dict[str, tuple[NDArray[np.float64], list[str]]]:
    """Return boxes in the frame and labels of the objects in each image."""
    content = Record(path, "the file", read_json(path))
    labels: dict[int, str] = {}
    for item in records(path, content.get("categories", list), "category"):
        if labels.setdefault(item.get("id", int), name := item.get("name", str)) != name:
            item.refuse("id", "a number of its own", item.content["id"])
    images: dict[int, tuple[str, Letterbox]] = {}
    for item in records(path, content.get("images", list), "image"):
        if item.get("id", int) in images:
            item.refuse("id", "a number of its own", item.content["id"])
        size = (item.get("width", int), item.get("height", int))
        if min(size) < 1:
            item.refuse("width", "a size above 0 px", min(size))
        images[item.get("id", int)] = (item.get("file_name", str), Letterbox.fit(size, frame))
    found: dict[str, tuple[list[NDArray[np.float64]], list[str]]] = {
        Path(name).name: ([], []) for name, _ in images.values()
    }
    for item in records(path, content.get("annotations", list), "annotation"):
        box = item.numbers("bbox", length=4)
        image, category = item.get("image_id", int), item.get("category_id", int)
        if image not in images:
            item.refuse("image_id", "the id of an image", image)
        if category not in labels:
            item.refuse("category_id", "the id of a category", category)
        if item.get("iscrowd", int, 0) or min(box[2:]) <= 0:  # COCO has a few boxes without area
            continue
        name, letterbox = images[image]
        boxes, kinds = found[Path(name).name]
        boxes.append(letterbox.boxes(box)[0])
        kinds.append(labels[category])
    return {name: (np.reshape(boxes, (-1, 4)), kinds) for name, (boxes, kinds) in found.items()}


def _make_scene(
    record: Record,
    objects: Mapping[str, tuple[NDArray[np.float64], list[str]]] | None,
    size: tuple[int, int],
    picture: Path | None,
) -> ObjectScene:
    name, task = record.get("name", str), record.get("task", str)
    condition = record.get("condition", str)
    if condition not in ("present", "absent"):
        record.refuse("condition", "'present' or 'absent'", condition)
    boxes, labels = np.empty((0, 4)), list[str]()
    if objects is not None:
        if name not in objects:
            record.refuse("name", "an image of the file of instances", name)
        boxes, labels = objects[name][0], list(objects[name][1])
    target = None
    if condition == "present":
        box = record.numbers("bbox", length=4)
        shared = np.where([label == task for label in labels], overlap(box, boxes), 0.0)
        if len(shared) and shared.max() >= SAME_OBJECT:
            target = int(shared.argmax())
        else:
            boxes, labels = np.vstack([boxes, box]), [*labels, task]
            target = len(boxes) - 1
    with record.naming():
        return ObjectScene(
            boxes,
            size,
            labels=tuple(labels),
            target=target,
            target_label=task,
            image=picture,
            name=f"{task}/{name}",
        )


def _make_path(record: Record, scene: ObjectScene, size: tuple[int, int]) -> Scanpath:
    x = record.numbers("X")
    y = record.numbers("Y", length=len(x))
    t = record.numbers("T") if "T" in record.content else None
    if t is not None and len(t) < len(x):
        record.refuse("T", f"at least {len(x)} durations", f"{len(t)}")
    found = None
    if scene.target is not None:
        found = bool(inside(record.numbers("bbox", length=4), x, y).any())
    attrs: dict[str, Any] = {
        "observer": str(record.get("subject", (int, str))),
        "image": record.get("name", str),
        "scene": scene.name,
        "task": record.get("task", str),
        "condition": record.get("condition", str),
        "target": record.get("task", str),
        "correct": int(_is_correct(record)),
        "split": record.get("split", str, ""),
    }
    if "RT" in record.content:
        attrs["response_time"] = record.get("RT", (int, float)) / 1000
    with record.naming():
        return Scanpath(
            x, y, size, duration=None if t is None else t[: len(x)] / 1000, found=found, attrs=attrs
        )


def _target(scene: ObjectScene) -> int:
    """Return the index of the target: the one that is named, or the first that matches."""
    return int(scene.matches_target.argmax()) if scene.target is None else scene.target


def _write_scenes(dataset: ScanpathDataset, folder: Path) -> None:
    content: dict[str, list[dict[str, Any]]] = {"images": [], "annotations": [], "categories": []}
    categories: dict[str, int] = {}
    ids: dict[str, int] = {}
    done = set()
    for i, path in enumerate(dataset):
        scene, image = dataset.scene_of(i), str(path.attrs["image"])
        picture = below(folder / "images", f"{scene.target_label}/{image}")
        if scene.image is not None and picture not in done:
            done.add(picture)
            save_in_frame(scene, FRAME, picture)
        if image in ids:
            continue
        ids[image] = len(ids)
        width, height = scene.size
        content["images"].append({"id": ids[image], "file_name": image, "width": width, "height": height})
        labels = require(scene.labels, "scenes with labels", i, "COCO-Search18")
        for box, label in zip(scene.boxes.tolist(), labels, strict=True):
            content["annotations"].append(
                {
                    "id": len(content["annotations"]),
                    "image_id": ids[image],
                    "category_id": categories.setdefault(label, len(categories)),
                    "bbox": box,
                    "iscrowd": 0,
                }
            )
    content["categories"] = [{"id": i, "name": label} for label, i in categories.items()]
    (folder / "instances.json").write_text(json.dumps(content))
