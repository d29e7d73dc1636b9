"""Book covers on shelves (STI), and the same file for photographs with a cue (VIU)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from neuroattn._files import below, read_json, shorten
from neuroattn.datasets.scanpath_files import (
    Record,
    find_picture,
    inside,
    named_records,
    require,
    save_in_frame,
)
from neuroattn.datasets.scanpaths import ScanpathDataset
from neuroattn.datasets.scenes import ObjectScene
from neuroattn.results import Scanpath, replacing


def load_book_covers(
    path: str | Path, *, grid: tuple[int, int] = (6, 14), images: str | Path | None = None
) -> ScanpathDataset:
    """Load fixations of people who look for a book cover on a shelf.

    Parameters
    ----------
    path : str or Path
        ``Amazon.json`` or another file of this layout, or a folder with one JSON file.
    grid : tuple of int, (rows, columns), default (6, 14)
        Objects are the cells of a grid over the image where the record names a ``target`` image. Where it has a
        ``cue`` instead, objects are the boxes of ``ground_truth``, and all of them are targets.
    images : str or Path, optional
        Folder of the images; by default ``images`` beside the file, if it is there. The picture of the target or the
        cue becomes the exemplar, if it is in there too.

    Returns
    -------
    ScanpathDataset
        Without durations, which the files lack. ``target`` is the name of the target or the cue; ``found`` says
        whether a fixation fell into a box of ``ground_truth``. The files do not say whether the first fixation was
        chosen; it is taken as such ("free").

    Raises
    ------
    FileNotFoundError
        If the file, or an image of a folder that is given, is missing.
    ValueError
        If a record is malformed; the file, the record and the key are named.

    References
    ----------
    .. [1] Fang, Yu, Zhang, van der Lans & Shi (2024). OAT: object-level attention transformer for gaze scanpath
       prediction. ECCV.

    Examples
    --------
    >>> import tempfile
    >>> from neuroattn.datasets import make_search_arrays
    >>> folder = Path(tempfile.mkdtemp()) / "simulated"
    >>> shelves = make_search_arrays(n_scenes=3, n_observers=2, grid=(2, 5), seed=0)
    >>> write_book_covers(shelves, folder)
    >>> load_book_covers(folder, grid=(2, 5)).scene_of(0).grid
    (2, 5)
    """
    path = Path(path)
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    if len(files) != 1:
        raise FileNotFoundError(f"{path} must hold one JSON file, got {len(files)}")
    file = files[0]
    folder = Path(images) if images is not None else file.parent / "images"
    paths: list[Scanpath] = []
    scenes = {}
    for name, record in named_records(file, read_json(file)).items():
        scene, boxes = _make_scene(name, record, grid, folder, required=images is not None)
        scenes[name] = scene
        fixations = Record(file, f"'fixations' of {record.name}", record.get("fixations", dict))
        for observer in fixations.content:
            points = _points(fixations, observer)
            found = any(inside(box, points[:, 0], points[:, 1]).any() for box in boxes)
            with record.naming():
                paths.append(
                    Scanpath(
                        points[:, 0],
                        points[:, 1],
                        scene.size,
                        found=found,
                        first_fixation="free",
                        attrs={
                            "observer": observer,
                            "image": name,
                            "scene": name,
                            "task": "search",
                            "condition": "present",
                            "target": scene.target_label,
                        },
                    )
                )
    if not paths:
        raise ValueError(f"{file} must hold fixations, got none")
    return ScanpathDataset.from_scanpaths(paths, scenes=scenes, attrs={"source": f"book covers: {file.name}"})


def write_book_covers(dataset: ScanpathDataset, folder: str | Path) -> None:
    """Write fixations and images in the layout of the book covers.

    Parameters
    ----------
    dataset : ScanpathDataset
        With scenes that have a target. Every image is searched for one target, and once by an observer.
    folder : str or Path
        Gets ``Amazon.json`` and ``images``; it is whole or absent, and replaced if it is there.

    Raises
    ------
    ValueError
        If a scene has no target, or an image has two scenes or an observer two trials of it.

    Notes
    -----
    Scenes on a grid get a ``target``, others a ``cue``. Durations are lost.

    Examples
    --------
    >>> import tempfile
    >>> from neuroattn.datasets import make_search_arrays
    >>> folder = Path(tempfile.mkdtemp()) / "simulated"
    >>> write_book_covers(make_search_arrays(n_scenes=2, n_observers=1, seed=0), folder)
    >>> sorted(file.name for file in folder.iterdir())
    ['Amazon.json', 'images']
    """
    content: dict[str, dict[str, Any]] = {}
    scenes: dict[str, ObjectScene] = {}
    for i, path in enumerate(dataset):
        image, scene = str(path.attrs["image"]), dataset.scene_of(i)
        if scenes.setdefault(image, scene) is not scene:
            raise ValueError(f"dataset must have one scene for each image, got 2 for {image!r}")
        if image not in content:
            boxes = scene.boxes[scene.matches_target]
            if scene.grid is not None and scene.target is not None:
                boxes = scene.boxes[[scene.target]]
            require(True if len(boxes) else None, "scenes with a target", i, "book covers")
            content[image] = {
                "fixations": {},
                "ground_truth": [
                    {"xmin": x, "ymin": y, "xmax": x + width, "ymax": y + height}
                    for x, y, width, height in boxes.tolist()
                ],
                "size": {"width": scene.size[0], "height": scene.size[1]},
                "cue" if scene.grid is None else "target": path.attrs["target"],
            }
        if path.attrs["observer"] in content[image]["fixations"]:
            raise ValueError(f"dataset must have one trial of an observer and an image, got 2 of {image!r}")
        content[image]["fixations"][path.attrs["observer"]] = np.stack([path.x, path.y], 1).tolist()
    with replacing(folder) as temporary:
        (temporary / "images").mkdir(parents=True)
        (temporary / "Amazon.json").write_text(json.dumps(content))
        for image, scene in scenes.items():
            if scene.image is not None:
                save_in_frame(scene, scene.size, below(temporary / "images", image))


def _make_scene(
    name: str, record: Record, grid: tuple[int, int], folder: Path, *, required: bool
) -> tuple[ObjectScene, np.ndarray[Any, np.dtype[np.float64]]]:
    size = Record(record.file, f"'size' of {record.name}", record.get("size", dict))
    width, height = size.get("width", int), size.get("height", int)
    corners = [
        [box.get(key, (int, float)) for key in ("xmin", "ymin", "xmax", "ymax")]
        for box in (
            Record(record.file, f"'ground_truth' {i} of {record.name}", item)
            for i, item in enumerate(record.get("ground_truth", list))
        )
    ]
    if not corners:
        record.refuse("ground_truth", "at least one box", [])
    boxes = np.array(corners, dtype=np.float64)
    boxes[:, 2:] -= boxes[:, :2]
    kind = "cue" if "cue" in record.content else "target"
    sought = record.get(kind, str)
    common: dict[str, Any] = {"target_label": sought, "name": name}
    with record.naming():
        common["image"] = find_picture(folder, (name,), required=required)
        common["exemplar"] = find_picture(folder, (sought,), required=False)
        if kind == "cue":
            return ObjectScene(boxes, (width, height), labels=(sought,) * len(boxes), **common), boxes
        image, scene = (
            common.pop("image"),
            ObjectScene.from_grid((width, height), rows=grid[0], columns=grid[1]),
        )
        centre = boxes[0, :2] + boxes[0, 2:] / 2
        target = int(scene.assign(*centre[:, None])[0])
        if target < 0:
            record.refuse("ground_truth", "a box in the image", record.content["ground_truth"][0])
        return ObjectScene(
            scene.boxes, scene.size, target=target, grid=scene.grid, image=image, **common
        ), boxes


def _points(fixations: Record, observer: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    rows = fixations.get(observer, list)
    flat = Record(fixations.file, f"observer {shorten(observer)} in {fixations.name}", {})
    for i, row in enumerate(rows):
        flat.content[f"fixation {i}"] = row
    return np.reshape([flat.numbers(key, length=2) for key in flat.content], (-1, 2))
