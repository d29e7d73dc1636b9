"""Fixations in tables: events as in BIDS, a lab's own, and the files of MultiMatch."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from neuroattn._files import below, listed, read_table, shorten
from neuroattn.datasets.scanpath_files import (
    LARGEST,
    find_picture,
    naming,
    require,
    save_in_frame,
    warn_of_durations,
)
from neuroattn.datasets.scanpaths import TRIAL_LABELS, ScanpathDataset
from neuroattn.datasets.scenes import ObjectScene
from neuroattn.results import Scanpath, replacing

MULTIMATCH = ("start_x", "start_y", "duration")
_OBJECTS = ("image", "x", "y", "width", "height")


def load_events(
    path: str | Path,
    *,
    image_size: tuple[int, int] | None = None,
    objects: str | Path | None = None,
    images: str | Path | None = None,
    first_fixation: str = "initial",
    px_per_degree: float | None = None,
) -> ScanpathDataset:
    r"""Load fixations from tables of events, in the manner of BIDS.

    Parameters
    ----------
    path : str or Path
        A table (.tsv, or .csv with commas) with a row for each fixation, in order, or a folder with
        ``*_events.tsv``. Columns:

        - ``x``, ``y``: px of the image, origin at its top left;
        - ``onset``, ``duration``: s (optional);
        - ``trial``: its number or name; without it, rows of equal labels are one trial;
        - ``observer``, ``image`` (or ``stim_file``), ``task``, ``condition``, ``target``: labels (optional); an
          observer or a task that is not there is taken from ``sub-`` and ``task-`` in the name of the file;
        - ``image_width``, ``image_height``: px (optional);
        - ``trial_type``: rows other than "fixation" are left out (optional);
        - ``object``, ``found`` and others that are constant within trials are kept.
    image_size : tuple of int, (width, height), optional
        Of images that have neither a file nor these columns.
    objects : str or Path, optional
        Table with a row for each object: ``image``, ``x``, ``y`` (left, top), ``width``, ``height`` (px) and,
        optional, ``label``. By default ``objects.tsv`` beside the fixations, if it is there.
    images : str or Path, optional
        Folder of the images; by default ``images`` beside the fixations, if it is there.
    first_fixation : {"initial", "free"}, default "initial"
        Whether trials begin with a fixation that was not chosen.
    px_per_degree : float, optional
        See :func:`px_per_degree`.

    Returns
    -------
    ScanpathDataset
        A scene is an image, or an image searched for a target. The target is the object whose label is ``target``, if
        there is exactly one. Objects are assigned by :meth:`ScanpathDataset.assign_objects`.

    Raises
    ------
    FileNotFoundError
        If a file is missing.
    ValueError
        If a column is missing, a value is no number (file and row are named), or the size of an image is not known.

    Warns
    -----
    UserWarning
        If the median duration is not that of fixations in s.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> table = pd.DataFrame({"onset": [0, 0.24], "duration": [0.2, 0.3], "x": [400, 90], "y": [300, 80], "trial": 1})
    >>> table.to_csv(folder / "sub-01_task-search_events.tsv", sep="\t", index=False)
    >>> dataset = load_events(folder, image_size=(800, 600))
    >>> dataset[0].attrs["observer"], dataset[0].duration
    ('01', array([0.2, 0.3]))
    """
    path = Path(path)
    files = sorted(path.glob("*_events.tsv")) if path.is_dir() else [path]
    if not files:
        raise FileNotFoundError(f"{path} must hold *_events.tsv, got none")
    folder = files[0].parent
    tables = [_read_events(file) for file in files]
    for number, table in enumerate(tables):
        if "trial" in table:
            table["trial"] = f"{number}:" + table["trial"].astype(str)
    table = pd.concat(tables, ignore_index=True)
    if "trial" in table and table["trial"].isna().any():
        raise ValueError(f"{path} must have the column 'trial' in all files or in none")
    if objects is None and (folder / "objects.tsv").is_file():
        objects = folder / "objects.tsv"
    scenes = {}
    if "image" in table:
        pictures = Path(images) if images is not None else folder / "images"
        boxes = {} if objects is None else _read_objects(Path(objects))
        targets = table["target"] if "target" in table else pd.Series("", table.index)
        table["scene"] = [f"{t}/{i}" if t else i for t, i in zip(targets, table["image"], strict=True)]
        sizes = ["image_width", "image_height"]
        with naming(str(path)):
            for row in table.assign(target=targets).drop_duplicates("scene").to_dict("records"):
                picture = find_picture(pictures, (row["image"],), required=images is not None)
                known = (
                    tuple(int(row[k]) for k in sizes) if all(row.get(k, 0) > 0 for k in sizes) else image_size
                )
                scenes[row["scene"]] = _make_scene(row, boxes, picture, known)
    table = table.drop(columns=["image_width", "image_height"], errors="ignore")
    with naming(str(path)):
        dataset = ScanpathDataset.from_frame(
            table,
            image_size=image_size,
            scenes=scenes,
            first_fixation=first_fixation,
            px_per_degree=px_per_degree,
            attrs={"source": f"events: {path.name}"},
        )
    warn_of_durations(list(dataset), path, "s")
    return dataset


def write_events(dataset: ScanpathDataset, folder: str | Path) -> None:
    """Write tables of events, a table of objects, and images.

    Parameters
    ----------
    dataset : ScanpathDataset
        Trials without fixations are lost: they have no row.
    folder : str or Path
        Gets ``sub-OBSERVER_events.tsv``, ``objects.tsv`` and ``images``; it is whole or absent, and replaced if it is
        there.

    Raises
    ------
    ValueError
        If an observer's name cannot be part of a file's.

    Examples
    --------
    >>> import tempfile
    >>> from neuroattn.datasets import make_search_arrays
    >>> folder = Path(tempfile.mkdtemp()) / "simulated"
    >>> write_events(make_search_arrays(n_scenes=2, n_observers=2, seed=0), folder)
    >>> sorted(file.name for file in folder.iterdir())
    ['images', 'objects.tsv', 'sub-1_events.tsv', 'sub-2_events.tsv']
    """
    table = dataset.to_frame().rename(columns={"t_start": "onset"}).drop(columns=["scene", "fixation"])
    table["image_width"], table["image_height"] = dataset.image_sizes[table["trial"]].T
    first = ["onset", "duration", "trial", "x", "y"]
    for name in ("onset", "duration"):
        if name not in table:
            table[name] = np.nan
    empty = [name for name in TRIAL_LABELS if name in table and (table[name] == "").all()]
    table = table[first + [name for name in table if name not in (*first, *empty)]]
    with replacing(folder) as temporary:
        temporary.mkdir()
        groups = table.groupby("observer") if "observer" in table else [("unknown", table)]
        for observer, rows in groups:
            if not re.fullmatch(r"[\w.-]+", str(observer)):
                raise ValueError(f"observer must be letters, digits, '-', '_' or '.', got {observer!r}")
            rows.to_csv(temporary / f"sub-{observer}_events.tsv", sep="\t", index=False, na_rep="n/a")
        objects, seen = [], set()
        for trial, image in enumerate(dataset.data["image"].values.astype(str).tolist()):
            if image in seen or str(dataset.data["scene"].values[trial]) not in dataset.scenes:
                continue
            seen.add(image)
            scene = dataset.scene_of(trial)
            labels = scene.labels or ("",) * scene.n_objects
            objects += [
                dict(zip((*_OBJECTS, "label"), (image, *box, label), strict=True))
                for box, label in zip(scene.boxes.tolist(), labels, strict=True)
            ]
            if scene.image is not None:
                save_in_frame(scene, scene.size, below(temporary / "images", image))
        if objects:
            pd.DataFrame(objects).to_csv(temporary / "objects.tsv", sep="\t", index=False)


def load_multimatch(
    path: str | Path | Sequence[str | Path], *, image_size: tuple[int, int] = (1280, 720)
) -> ScanpathDataset:
    """Load files of fixation vectors, the input of MultiMatch [1]_.

    Parameters
    ----------
    path : str, Path or sequence of them
        Tables with tabs and the columns ``start_x``, ``start_y`` (px) and ``duration`` (s), a file for each
        scanpath, or a folder of ``*.tsv``. A file ``IMAGE_sub-OBSERVER.tsv`` names the image and the observer.
    image_size : tuple of int, (width, height), default (1280, 720)
        px; the files do not hold it.

    Returns
    -------
    ScanpathDataset
        Every fixation is taken as a chosen one ("free").

    Raises
    ------
    FileNotFoundError
        If a file is missing.
    ValueError
        If a column is missing or a value is no number; file and row are named.

    Warns
    -----
    UserWarning
        If the median duration is not that of fixations in s.

    References
    ----------
    .. [1] Dewhurst, Nystroem, Jarodzka, Foulsham, Johansson & Holmqvist (2012). It depends on how you look at it:
       scanpath comparison in multiple dimensions with MultiMatch. Behavior Research Methods 44.

    Examples
    --------
    >>> import tempfile
    >>> from neuroattn.datasets import make_search_arrays
    >>> folder = Path(tempfile.mkdtemp()) / "simulated"
    >>> write_multimatch(make_search_arrays(n_scenes=2, n_observers=2, seed=0), folder)
    >>> load_multimatch(folder, image_size=(320, 240))
    ScanpathDataset(4 trials, ... fixations, 2 observers, 2 images)
    """
    if isinstance(path, str | Path):
        path = Path(path)
        files = sorted(path.glob("*.tsv")) if path.is_dir() else [path]
    else:
        files = [Path(file) for file in path]
    if not files:
        raise FileNotFoundError(f"{path} must hold files *.tsv, got none")
    paths = []
    for file in files:
        table = _read_table(file, MULTIMATCH, MULTIMATCH)
        named = re.fullmatch(r"(.+)_sub-([^_]+)", file.stem)
        image, observer = named.groups() if named else (file.stem, "")
        with naming(str(file)):
            paths.append(
                Scanpath(
                    table["start_x"].to_numpy(),
                    table["start_y"].to_numpy(),
                    image_size,
                    duration=table["duration"].to_numpy(),
                    first_fixation="free",
                    attrs={"observer": observer, "image": image},
                )
            )
    warn_of_durations(paths, files[0].parent, "s")
    return ScanpathDataset.from_scanpaths(
        paths, attrs={"source": f"MultiMatch vectors: {files[0].parent.name}"}
    )


def write_multimatch(dataset: ScanpathDataset, folder: str | Path) -> None:
    """Write a file of fixation vectors for each trial.

    Parameters
    ----------
    dataset : ScanpathDataset
        With durations.
    folder : str or Path
        Gets ``IMAGE_sub-OBSERVER.tsv``; it is whole or absent, and replaced if it is there.

    Raises
    ------
    ValueError
        If durations are missing, two trials have the same image and observer, or a name holds a slash.

    Examples
    --------
    >>> import tempfile
    >>> from neuroattn.datasets import make_search_arrays
    >>> folder = Path(tempfile.mkdtemp()) / "simulated"
    >>> write_multimatch(make_search_arrays(n_scenes=1, n_observers=2, seed=0), folder)
    >>> sorted(file.name for file in folder.iterdir())
    ['array0000.png_sub-1.tsv', 'array0000.png_sub-2.tsv']
    """
    with replacing(folder) as temporary:
        temporary.mkdir()
        for i, path in enumerate(dataset):
            columns = (path.x, path.y, require(path.duration, "durations", i, "MultiMatch vectors"))
            file = temporary / f"{path.attrs['image']}_sub-{path.attrs['observer']}.tsv"
            if file.parent != temporary or file.exists():
                raise ValueError(f"image and observer must make names of their own, got {file.name!r} twice")
            pd.DataFrame(dict(zip(MULTIMATCH, columns, strict=True))).to_csv(file, sep="\t", index=False)


def _read_table(file: Path, required: Sequence[str], numbers: Sequence[str]) -> pd.DataFrame:
    """Read a table as text, and its columns of numbers as numbers; n/a is missing."""
    table: pd.DataFrame = read_table(file)
    _check_columns(file, table, required)
    for name in numbers:
        if name in table:
            missing = table[name].isin(["n/a", "", "nan"])
            table[name] = _numbers(file, table, name, missing & (name not in required), "row", 2)
    return table


def _check_columns(file: Path, table: pd.DataFrame, required: Sequence[str]) -> None:
    missing = [name for name in required if name not in table]
    if missing:
        raise ValueError(f"{file} must have a column {missing[0]!r}, got {listed(table)}")


def _numbers(
    file: Path, table: pd.DataFrame, name: str, missing: pd.Series[bool], noun: str, first: int
) -> pd.Series[float]:
    """Return a column of finite numbers, NaN where they are missing."""
    values = pd.to_numeric(table[name].where(~missing, "nan"), errors="coerce")
    wrong = ~missing & ~(values.abs() <= LARGEST)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        got = shorten(repr(table[name].iloc[row]))
        raise ValueError(f"{file}: {noun} {row + first} must have a number in {name!r}, got {got}")
    return values


def _read_events(file: Path) -> pd.DataFrame:
    numbers = ("x", "y", "onset", "duration", "object", "found", "image_width", "image_height")
    table = _read_table(file, (), numbers[2:])
    if "trial_type" in table:
        table = table[table["trial_type"] == "fixation"].drop(columns="trial_type").reset_index(drop=True)
    _check_columns(file, table, ("x", "y"))
    for name in ("x", "y"):
        table[name] = _numbers(file, table, name, pd.Series(False, table.index), "fixation", 1)
    table = table.rename(columns={"onset": "t_start", "stim_file": "image"})
    for name in ("t_start", "duration", "object", "found"):
        if name in table and table[name].isna().any():
            if not table[name].isna().all():
                row = int(np.flatnonzero(table[name].isna())[0])
                raise ValueError(f"{file}: fixation {row + 1} must have a number in {name!r}, as others have")
            table = table.drop(columns=name)
    for name in ("object", "found"):
        if name in table:
            if (table[name] != table[name].round()).any():
                raise ValueError(f"{file} must have whole numbers in {name!r}")
            table[name] = table[name].astype(np.int64)
    for name, entity in (("observer", "sub"), ("task", "task")):
        found = re.search(rf"(?:^|_){entity}-([^_]+)", file.stem)
        if name not in table and found:
            table[name] = found[1]
    return table


def _read_objects(file: Path) -> dict[str, pd.DataFrame]:
    table = _read_table(file, _OBJECTS, _OBJECTS[1:])
    return {str(image): rows for image, rows in table.groupby("image")}


def _make_scene(
    row: Mapping[Hashable, Any],
    boxes: Mapping[str, pd.DataFrame],
    picture: Path | None,
    size: tuple[int, ...] | None,
) -> ObjectScene:
    image, sought = row["image"], row["target"]
    rows = boxes.get(image)
    corners = np.empty((0, 4)) if rows is None else rows[list(_OBJECTS[1:])].to_numpy()
    labels = None if rows is None or "label" not in rows else tuple(rows["label"])
    matching = [i for i, label in enumerate(labels or ()) if label == sought]
    source = (size[0], size[1]) if size is not None else picture
    if source is None:
        raise ValueError(f"image_size must be given for images without a file, got None for {image!r}")
    scene = ObjectScene.from_boxes(
        source,
        corners,
        labels=labels,
        target=matching[0] if len(matching) == 1 and sought else None,
        target_label=sought or None,
        name=row["scene"],
    )
    return replace(scene, image=picture)
