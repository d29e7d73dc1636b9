"""Exchange of scanpaths with pysaliency, through its HDF5 files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from neuroattn._files import below, check_file, open_hdf5, reading
from neuroattn.datasets.scanpath_files import find_picture, naming, save_in_frame, warn_of_durations
from neuroattn.datasets.scanpaths import TRIAL_LABELS, ScanpathDataset
from neuroattn.datasets.scenes import ObjectScene
from neuroattn.results import Scanpath, new_hdf5, replacing

# Names in the files of released versions ("FixationTrains") and of later ones ("Scanpaths").
_NAMES: dict[str, dict[str, str]] = {
    "FixationTrains": {
        **{
            "x": "train_xs",
            "y": "train_ys",
            "n": "train_ns",
            "t_start": "train_ts",
            "observer": "train_subjects",
        },
        "per_trial": "scanpath_attributes",
        "per_fixation": "scanpath_fixation_attributes",
    },
    "Scanpaths": {
        **{"x": "xs", "y": "ys", "n": "n", "length": "length"},
        "per_trial": "scanpath_attributes",
        "per_fixation": "fixation_attributes",
    },
}
_PER_FIXATION = {"ts": "t_start", "t": "t_start", "durations": "duration", "duration": "duration"}
_PER_FIXATION |= {"object": "objects", "log_prob": "log_prob"}
_OBSERVERS = ("observer", "subject", "subjects")


def load_pysaliency(
    path: str | Path,
    *,
    stimuli: str | Path | None = None,
    image_size: tuple[int, int] | None = None,
    first_fixation: str = "free",
) -> ScanpathDataset:
    """Load scanpaths that pysaliency [1]_ wrote.

    Parameters
    ----------
    path : str or Path
        HDF5 file of ``FixationTrains`` or ``Scanpaths``, or a folder with ``scanpaths.hdf5``.
    stimuli : str or Path, optional
        HDF5 file of the ``Stimuli`` or ``FileStimuli``; by default ``stimuli.hdf5`` beside the scanpaths, if it is
        there.
    image_size : tuple of int, (width, height), optional
        Of all images, where there is no file of stimuli.
    first_fixation : {"initial", "free"}, default "free"
        Whether trials begin with a fixation that was not chosen; the files do not say.

    Returns
    -------
    ScanpathDataset
        Times and durations are taken as s. Attributes ``observer`` (or ``subject``), ``task``, ``condition`` and
        ``target`` become labels, other numbers and texts of trials variables. Images are named by their files, or else
        by their number.

    Raises
    ------
    FileNotFoundError
        If a file is missing.
    ValueError
        If the file is damaged or of another type, or the sizes of images are not known.

    Warns
    -----
    UserWarning
        If the median duration is not that of fixations in s.

    References
    ----------
    .. [1] Kuemmerer et al. pysaliency: a Python framework for saliency modeling and evaluation.
       https://github.com/matthias-k/pysaliency

    Examples
    --------
    >>> import tempfile
    >>> from neuroattn.datasets import make_search_arrays
    >>> folder = Path(tempfile.mkdtemp()) / "simulated"
    >>> write_pysaliency(make_search_arrays(n_scenes=3, n_observers=2, seed=0), folder)
    >>> dataset = load_pysaliency(folder, first_fixation="initial")
    >>> len(dataset), dataset[0].attrs["image"], dataset.scene_of(0).pixels().shape
    (6, 'images/array0000.png', (240, 320, 3))
    """
    path = Path(path)
    file = path / "scanpaths.hdf5" if path.is_dir() else path
    content = _read(file)
    number = content.pop("n")
    if stimuli is None and (file.parent / "stimuli.hdf5").is_file():
        stimuli = file.parent / "stimuli.hdf5"
    if stimuli is not None:
        scenes = dict(enumerate(_read_stimuli(Path(stimuli))))
    elif image_size is not None:
        scenes = {
            i: ObjectScene(np.empty((0, 4)), image_size, name=str(i)) for i in np.unique(number).tolist()
        }
    else:
        raise ValueError(f"image_size must be given without a file of stimuli beside {file}, got None")
    if not len(number):
        raise ValueError(f"{file} must hold at least one scanpath, got none")
    if number.min() < 0 or not np.isin(number, list(scenes)).all():
        raise ValueError(f"{file}: images must be below {len(scenes)}, got {number.min()} to {number.max()}")
    lengths = content.pop("length", None)
    if lengths is None:
        lengths = np.isfinite(content["x"]).sum(1)
    if lengths.min() < 0 or lengths.max() > content["x"].shape[1]:
        raise ValueError(f"{file}: length must count fixations, got {lengths.min()} to {lengths.max()}")
    arrays = {name: values for name, values in content.items() if values.ndim == 2}
    labels = {name: values for name, values in content.items() if values.ndim == 1}
    found = labels.pop("found", np.full(len(number), -1))
    paths = []
    for i, n in enumerate(lengths.tolist()):
        scene = scenes[int(number[i])]
        cut: dict[str, Any] = {name: values[i, :n] for name, values in arrays.items()}
        attrs: dict[str, Any] = {name: values[i] for name, values in labels.items()}
        attrs |= {"image": scene.name, "scene": scene.name}
        with naming(f"{file}: scanpath {i}"):
            paths.append(
                Scanpath(
                    **cut,
                    image_size=scene.size,
                    found=bool(found[i]) if found[i] in (0, 1) else None,
                    first_fixation=first_fixation,
                    attrs=attrs,
                )
            )
    warn_of_durations(paths, file, "s")
    return ScanpathDataset.from_scanpaths(
        paths,
        scenes={scene.name: scene for scene in scenes.values()},
        attrs={"source": f"pysaliency: {file.name}"},
    )


def write_pysaliency(dataset: ScanpathDataset, folder: str | Path) -> None:
    """Write scanpaths and images for pysaliency.

    Parameters
    ----------
    dataset : ScanpathDataset
        Every trial has fixations.
    folder : str or Path
        Gets ``scanpaths.hdf5`` (``FixationTrains``, version 1.2), ``stimuli.hdf5`` (``FileStimuli``, version 2.1) and
        the ``images`` of scenes that have them; it is whole or absent, and replaced if it is there.

    Raises
    ------
    ValueError
        If an image has two sizes.

    Notes
    -----
    pysaliency needs a time for each fixation: without ``t_start`` it is the sum of the durations before, or the number
    of the fixation. Objects of scenes are not written, those of fixations are. Labels are attributes of scanpaths.

    Examples
    --------
    >>> import tempfile
    >>> from neuroattn.datasets import make_search_arrays
    >>> folder = Path(tempfile.mkdtemp()) / "simulated"
    >>> write_pysaliency(make_search_arrays(n_scenes=2, n_observers=1, seed=0), folder)
    >>> with h5py.File(folder / "scanpaths.hdf5") as file:
    ...     sorted(file)[:2], file["train_xs"].shape[0]
    (['scanpath_attributes', 'scanpath_fixation_attributes'], 2)
    """
    data = dataset.data
    images = list(dict.fromkeys(data["image"].values.astype(str).tolist()))
    observers = list(dict.fromkeys(data["observer"].values.astype(str).tolist()))
    sizes: dict[str, list[int]] = {}
    for image, size in zip(
        data["image"].values.astype(str).tolist(), dataset.image_sizes.tolist(), strict=True
    ):
        if sizes.setdefault(image, size) != size:
            raise ValueError(f"dataset must have one size for each image, got 2 for {image!r}")
    padding = np.arange(data.sizes["fixation"]) >= data["length"].values[:, None]
    if "t_start" in data:
        times = data["t_start"].values
    elif "duration" in data:
        times = np.cumsum(data["duration"].values, 1) - data["duration"].values
    else:
        times = np.where(padding, np.nan, np.arange(data.sizes["fixation"]))
    names = {"duration": "durations", "object": "object", "log_prob": "log_prob"}
    per_fixation = {
        name: np.where(padding, np.nan, data[ours].values) for ours, name in names.items() if ours in data
    }
    kept = [name for name in TRIAL_LABELS if name not in ("image", "scene")]
    kept += [k for k, v in data.data_vars.items() if v.dims == ("trial",) and k != "length"]  # type: ignore[misc]
    with replacing(folder) as temporary:
        temporary.mkdir()
        with new_hdf5(temporary / "scanpaths.hdf5") as file:
            _stamp(file, "FixationTrains", "1.2", ["subjects", "scanpath_index"])
            file.attrs["scanpath_attribute_mapping"] = np.bytes_(json.dumps({"durations": "duration"}))
            file["train_xs"], file["train_ys"], file["train_ts"] = data["x"].values, data["y"].values, times
            file["train_ns"] = [images.index(name) for name in data["image"].values.astype(str)]
            file["train_subjects"] = [observers.index(name) for name in data["observer"].values.astype(str)]
            _write_group(file, "scanpath_attributes", {name: data[name].values for name in kept})
            _write_group(file, "scanpath_fixation_attributes", per_fixation)
        for image, scene in _pictures(dataset).items():
            save_in_frame(scene, scene.size, below(temporary / "images", image))
        with new_hdf5(temporary / "stimuli.hdf5") as file:
            _stamp(file, "FileStimuli", "2.1", [])
            file.attrs["size"] = len(images)
            text = h5py.string_dtype()
            file.create_dataset("filenames", data=[f"images/{image}" for image in images], dtype=text)
            shapes = np.empty(len(images), object)
            for i, image in enumerate(images):
                shapes[i] = np.array([sizes[image][1], sizes[image][0], 3], np.int64)
            file.create_dataset("shapes", data=shapes, dtype=h5py.vlen_dtype(np.int64))


def _stamp(file: h5py.File, kind: str, version: str, attributes: list[str]) -> None:
    file.attrs["type"], file.attrs["version"] = np.bytes_(kind), np.bytes_(version)
    file.attrs["__attributes__"] = np.bytes_(json.dumps(attributes))


def _write_group(file: h5py.File, name: str, arrays: dict[str, NDArray[Any]]) -> None:
    group = file.create_group(name)
    group.attrs["__attributes__"] = np.bytes_(json.dumps(list(arrays)))
    for key, values in arrays.items():
        if values.dtype.kind in "UO":
            group.create_dataset(key, data=values.astype(object), dtype=h5py.string_dtype())
        else:
            group[key] = values


def _pictures(dataset: ScanpathDataset) -> dict[str, ObjectScene]:
    """Return a scene with pixels for each image that has one."""
    found: dict[str, ObjectScene] = {}
    for i, image in enumerate(dataset.data["image"].values.astype(str).tolist()):
        scene = dataset.scenes.get(str(dataset.data["scene"].values[i]))
        if scene is not None and scene.image is not None:
            found.setdefault(image, scene)
    return found


def _read(file: Path) -> dict[str, NDArray[Any]]:
    """Return the arrays of a file by our names."""
    check_file(file, "scanpaths in HDF5")
    content: dict[str, NDArray[Any]] = {}
    with reading(f"{file} must be a file of scanpaths by pysaliency, got"), open_hdf5(file) as source:
        kind = _decoded(source.attrs.get("type", b""))
        if kind not in _NAMES:
            raise ValueError(f"it is of type {kind!r}, not one of {', '.join(_NAMES)}")
        names = _NAMES[kind]
        for ours in ("x", "y", "n", "t_start", "length", "observer"):
            if ours in names and names[ours] in source:
                content[ours] = _array(source[names[ours]])
        for name, values in source.get(names["per_fixation"], {}).items():
            if name in _PER_FIXATION:
                content[_PER_FIXATION[name]] = _array(values)
        for name, values in source.get(names["per_trial"], {}).items():
            content["observer" if name in _OBSERVERS else name] = _array(values)
    for name in ("x", "y", "n"):
        array = content.get(name)
        if array is None or array.ndim != (1 if name == "n" else 2):
            raise ValueError(f"{file} must have the array {names[name]!r} of scanpaths")
    n, shape = content["n"].shape, content["x"].shape
    for name, values in content.items():
        if values.shape not in (n, shape) or shape[0] != n[0]:
            raise ValueError(f"{file}: {name} must have shape {n} or {shape}, got {values.shape}")
        if (
            name in ("x", "y", "n", "length", "found", *_PER_FIXATION.values())
            and values.dtype.kind not in "iuf"
        ):
            raise ValueError(f"{file}: {name} must be numbers, got {values.dtype}")
    if "objects" in content:
        content["objects"] = np.nan_to_num(content["objects"], nan=-1)
    for name in ("n", "length", "objects"):
        if name in content:
            if not ((np.abs(content[name]) < 2**31) & (content[name] == np.rint(content[name]))).all():
                raise ValueError(f"{file}: {name} must be whole numbers")
            content[name] = content[name].astype(np.int64)
    return content


def _array(dataset: h5py.Dataset) -> NDArray[Any]:
    values = np.asarray(dataset[...])
    if values.dtype.kind in "OS":
        return np.array([_decoded(item) for item in values.ravel()], dtype=str).reshape(values.shape)
    return values


def _decoded(text: Any) -> str:
    return text.decode() if isinstance(text, bytes) else str(text)


def _read_stimuli(file: Path) -> list[ObjectScene]:
    check_file(file, "stimuli in HDF5")
    with reading(f"{file} must be a file of stimuli by pysaliency, got"):
        with open_hdf5(file) as source:
            kind = _decoded(source.attrs.get("type", b""))
            if kind == "FileStimuli":
                names = [_decoded(name) for name in source["filenames"][...]]
                shapes = [tuple(map(int, shape)) for shape in source["shapes"][...]]
                pictures: list[Any] = [find_picture(file.parent, (name,), required=False) for name in names]
            elif kind == "Stimuli":
                names = [str(i) for i in range(min(int(source.attrs["size"]), len(source)))]
                pictures = [np.asarray(source[name][...]) for name in names]
                shapes = [picture.shape for picture in pictures]
                pictures = [_rgb(picture) for picture in pictures]
            else:
                raise ValueError(f"it is of type {kind!r}, not Stimuli or FileStimuli")
        if len(set(names)) < len(names):
            raise ValueError("the same name of two images")
        return [
            ObjectScene(np.empty((0, 4)), (shape[1], shape[0]), image=picture, name=name)
            for name, picture, shape in zip(names, pictures, shapes, strict=True)
        ]


def _rgb(picture: NDArray[Any]) -> NDArray[Any]:
    return np.repeat(picture[..., None], 3, 2) if picture.ndim == 2 else picture
