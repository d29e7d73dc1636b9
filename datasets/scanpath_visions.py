"""The layout of the ViSioNS benchmark of visual search."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from neuroattn._files import below, read_json
from neuroattn.datasets.scanpath_files import (
    Record,
    find_picture,
    milliseconds,
    named_records,
    records,
    require,
    save_in_frame,
    warn_of_durations,
)
from neuroattn.datasets.scanpaths import ScanpathDataset
from neuroattn.datasets.scenes import ObjectScene
from neuroattn.results import Scanpath, replacing

_SUFFIX = "_scanpaths"


def load_visions(folder: str | Path) -> ScanpathDataset:
    """Load fixations of a data set in the layout of the ViSioNS benchmark [1]_.

    Parameters
    ----------
    folder : str or Path
        Holds ``dataset_info.json``, ``trials_properties.json`` and the folders that the first one names.

    Returns
    -------
    ScanpathDataset
        Durations in s. The first fixation is the initial one. Scenes have one object, the target, and as exemplar its
        template. ``found`` is ``target_found``; ``target`` is the target's category, or the name of its template where
        there is none ("TBD").

    Raises
    ------
    FileNotFoundError
        If a file is missing.
    ValueError
        If a record is malformed; file, record and key are named.

    Warns
    -----
    UserWarning
        If the median duration is not that of fixations in ms.

    Notes
    -----
    Files of that benchmark have been processed: fixations nearer to each other than the fovea are joined, and paths
    end where the target is found.

    References
    ----------
    .. [1] Travi, Ruarte, Bujia & Kamienkowski (2022). ViSioNS: visual search in natural scenes benchmark. NeurIPS
       Datasets and Benchmarks.

    Examples
    --------
    >>> import tempfile
    >>> from neuroattn.datasets import make_search_arrays
    >>> folder = Path(tempfile.mkdtemp()) / "simulated"
    >>> write_visions(make_search_arrays(n_scenes=3, n_observers=2, seed=0), folder)
    >>> load_visions(folder)[0].attrs["target"]
    'diamond'
    """
    folder = Path(folder)
    info = Record(folder / "dataset_info.json", "the file", read_json(folder / "dataset_info.json"))
    trials = folder / "trials_properties.json"
    scenes = {}
    for record in records(trials, read_json(trials), "trial"):
        scene = _make_scene(record, folder, info)
        if scene.name in scenes:
            record.refuse("image", "another name in each trial", scene.name)
        scenes[scene.name] = scene
    place = _folder(folder, info, "scanpaths_dir")
    files = sorted(place.glob(f"*{_SUFFIX}.json"))
    if not files:
        raise FileNotFoundError(f"{place} must hold *{_SUFFIX}.json, got none")
    paths: list[Scanpath] = []
    for file in files:
        read = [
            _make_path(name, record, scenes) for name, record in named_records(file, read_json(file)).items()
        ]
        warn_of_durations(read, file, "ms")
        paths += read
    if not paths:
        raise ValueError(f"{place} must hold scanpaths, got none")
    name = info.get("dataset_name", str, folder.name)
    return ScanpathDataset.from_scanpaths(paths, scenes=scenes, attrs={"source": f"ViSioNS layout: {name}"})


def write_visions(dataset: ScanpathDataset, folder: str | Path) -> None:
    """Write fixations, images and templates in the layout of the ViSioNS benchmark.

    Parameters
    ----------
    dataset : ScanpathDataset
        With durations, and scenes with a target. Every image is searched for one target, once by an observer.
    folder : str or Path
        Gets ``dataset_info.json``, ``trials_properties.json``, ``human_scanpaths``, ``images`` and ``templates``; it
        is whole or absent, and replaced if it is there.

    Raises
    ------
    ValueError
        If durations or targets are missing, or an image has two scenes or an observer two trials of it.

    Notes
    -----
    Boxes are rounded to whole pixels, which the layout asks for. The template is the exemplar, or else the crop of the
    target.

    Examples
    --------
    >>> import tempfile
    >>> from neuroattn.datasets import make_search_arrays
    >>> folder = Path(tempfile.mkdtemp()) / "simulated"
    >>> write_visions(make_search_arrays(n_scenes=2, n_observers=1, seed=0), folder)
    >>> sorted(file.name for file in folder.iterdir())
    ['dataset_info.json', 'human_scanpaths', 'images', 'templates', 'trials_properties.json']
    """
    name = str(dataset.data.attrs.get("source", Path(folder).name))
    scenes: dict[str, ObjectScene] = {}
    properties: list[dict[str, Any]] = []
    observers: dict[str, dict[str, Any]] = {}
    for i, path in enumerate(dataset):
        image, scene = str(path.attrs["image"]), dataset.scene_of(i)
        target = require(scene.target, "scenes with a target", i, "ViSioNS")
        durations = require(path.duration, "durations", i, "ViSioNS")
        x, y, width, height = scene.boxes[target].round().astype(int).tolist()
        size = {"image_height": scene.size[1], "image_width": scene.size[0]}
        category = {"target_object": path.attrs["target"]}
        if scenes.setdefault(image, scene) is not scene:
            raise ValueError(f"dataset must have one scene for each image, got 2 for {image!r}")
        if len(properties) < len(scenes):
            properties.append(
                {
                    "image": image,
                    "target": f"{Path(image).stem}_target.png",
                    "dataset": name,
                    "target_matched_row": y,
                    "target_matched_column": x,
                    "target_height": height,
                    "target_width": width,
                    "initial_fixation_row": round(path.y[0]) if len(path) else scene.size[1] // 2,
                    "initial_fixation_column": round(path.x[0]) if len(path) else scene.size[0] // 2,
                    **size,
                    **category,
                }
            )
        observer = str(path.attrs["observer"])
        trials = observers.setdefault(observer, {})
        if image in trials:
            raise ValueError(f"dataset must have one trial of an observer and an image, got 2 of {image!r}")
        trials[image] = {
            "subject": observer,
            "dataset": name,
            **size,
            "screen_height": scene.size[1],
            "screen_width": scene.size[0],
            "target_found": bool(path.found),
            "target_bbox": [y, x, y + height, x + width],
            "X": path.x.tolist(),
            "Y": path.y.tolist(),
            "T": milliseconds(durations),
            "max_fixations": dataset.data.sizes["fixation"],
            **category,
        }
    with replacing(folder) as temporary:
        for part in ("human_scanpaths", "images", "templates"):
            (temporary / part).mkdir(parents=True)
        first = next(iter(scenes.values()))
        info = {
            "dataset_name": name,
            "number_of_images": len(scenes),
            "image_height": first.size[1],
            "image_width": first.size[0],
            "max_scanpath_length": dataset.data.sizes["fixation"],
            "images_dir": "images/",
            "targets_dir": "templates/",
            "scanpaths_dir": "human_scanpaths/",
        }
        (temporary / "dataset_info.json").write_text(json.dumps(info))
        (temporary / "trials_properties.json").write_text(json.dumps(properties))
        for observer, trials in observers.items():
            file = below(temporary / "human_scanpaths", f"subj{observer}{_SUFFIX}.json")
            file.write_text(json.dumps(trials))
        for entry, (image, scene) in zip(properties, scenes.items(), strict=True):
            if scene.image is not None:
                save_in_frame(scene, scene.size, below(temporary / "images", image))
                template = _template(scene)
                Image.fromarray(template).save(temporary / "templates" / entry["target"])


def _template(scene: ObjectScene) -> NDArray[np.uint8]:
    target = scene.target or 0
    width, height = np.maximum(scene.boxes[target, 2:].round().astype(int), 1).tolist()
    crop: NDArray[np.uint8] = (
        scene.crops((width, height))[target]
        if scene.exemplar is None
        else scene.exemplar_crop((width, height))
    )
    return crop


def _make_scene(record: Record, folder: Path, info: Record) -> ObjectScene:
    name, template = record.get("image", str), record.get("target", str)
    keys = ("target_matched_column", "target_matched_row", "target_width", "target_height")
    box = [float(record.get(key, (int, float))) for key in keys]
    with record.naming():
        return ObjectScene(
            np.array([box]),
            (record.get("image_width", int), record.get("image_height", int)),
            labels=(_category(record, template),),
            target=0,
            target_label=_category(record, template),
            image=find_picture(_folder(folder, info, "images_dir"), (name,), required=False),
            exemplar=find_picture(_folder(folder, info, "targets_dir"), (template,), required=False),
            name=name,
        )


def _folder(folder: Path, info: Record, key: str) -> Path:
    name = info.get(key, str)
    with info.naming():
        return below(folder, name)


def _category(record: Record, template: str) -> str:
    category = record.get("target_object", str, "TBD")
    return template if category in ("", "TBD") else category


def _make_path(image: str, record: Record, scenes: dict[str, ObjectScene]) -> Scanpath:
    if image not in scenes:
        raise ValueError(f"{record.file}: {record.name} must be an image of trials_properties.json")
    scene = scenes[image]
    size = (record.get("image_width", int), record.get("image_height", int))
    if size != scene.size:
        record.refuse("image_width", f"the size of the image {scene.size}", list(size))
    x = record.numbers("X")
    y = record.numbers("Y", length=len(x))
    t = record.numbers("T", length=len(x))
    with record.naming():
        return Scanpath(
            x,
            y,
            scene.size,
            duration=t / 1000,
            found=record.get("target_found", bool),
            attrs={
                "observer": record.get("subject", str),
                "image": image,
                "scene": image,
                "task": "search",
                "condition": "present",
                "target": scene.target_label,
            },
        )
