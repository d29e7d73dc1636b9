"""Fixations of many trials, labelled, with the scenes that were looked at."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from neuroattn._checks import check_option
from neuroattn._files import below, check_file, read_json, read_netcdf, reading
from neuroattn.datasets.scenes import ObjectScene
from neuroattn.datasets.splits import split_stimuli
from neuroattn.results import FIRST_FIXATIONS, Scanpath, replacing, write_json, write_netcdf

TRIAL_LABELS = ("observer", "image", "scene", "task", "condition", "target")
_PER_FIXATION = {"x": "px", "y": "px", "t_start": "s", "duration": "s", "object": "1", "log_prob": "nat"}
_RESERVED = {*_PER_FIXATION, *TRIAL_LABELS, "length", "found", "image_size", "trial", "fixation", "side"}


@dataclass(frozen=True, eq=False, repr=False)
class ScanpathDataset(Sequence[Scanpath]):
    """Fixations of many trials, a sequence of :class:`~neuroattn.results.Scanpath`.

    Parameters
    ----------
    data : Dataset, dims (trial, fixation)
        ``x`` and ``y``, px of the image (NaN after the end of a trial), and ``length`` (trial,). Optional are
        ``t_start`` and ``duration`` (s), ``object`` (index in the scene, -1 for background and after the end),
        ``log_prob``, ``found`` (trial,: 1, 0, or -1 where it is not known) and other variables along trial. The
        coordinates ``observer``, ``image``, ``scene``, ``task``, ``condition`` and ``target`` label trials; those
        not given are "". Attributes are ``image_size`` (width, height; a variable (trial, side) where it differs),
        ``first_fixation``, and where they are known ``px_per_degree``, ``licence``, ``citation`` and ``source``.
    scenes : mapping of str to ObjectScene, default {}
        By the coordinate ``scene``.

    Raises
    ------
    ValueError
        If a variable or attribute is missing or has the wrong dims, or ``length`` does not fit the fixations.

    Notes
    -----
    Fixations outside their image are kept; `outside` flags them and `n_outside` counts them. A trial may have no
    fixation.

    Examples
    --------
    >>> paths = [Scanpath([50, 20], [40, 10], (100, 80), attrs={"observer": "1", "image": "a.jpg"}),
    ...          Scanpath([50, 90, 110], [40, 10, 9], (100, 80), attrs={"observer": "2", "image": "a.jpg"})]
    >>> dataset = ScanpathDataset.from_scanpaths(paths)
    >>> dataset
    ScanpathDataset(2 trials, 5 fixations (1 outside the image), 2 observers, 1 image)
    >>> dataset[1].attrs["observer"], len(dataset[1]), len(dataset[:1])
    ('2', 3, 1)
    """

    data: xr.Dataset
    scenes: Mapping[str, ObjectScene] = field(default_factory=dict)

    def __post_init__(self) -> None:
        data = self.data
        for name, dims in (
            ("x", ("trial", "fixation")),
            ("y", ("trial", "fixation")),
            ("length", ("trial",)),
        ):
            if name not in data or data[name].dims != dims:
                got = data[name].dims if name in data else "none"
                raise ValueError(f"data must have a variable {name} with dims {dims}, got {got}")
        missing = [name for name in TRIAL_LABELS if name not in data.coords]
        data = data.assign_coords({name: ("trial", np.full(data.sizes["trial"], "")) for name in missing})
        if "image_size" not in data and "image_size" not in data.attrs:
            raise ValueError("data must have the attribute or variable image_size, got neither")
        check_option("first_fixation", str(data.attrs.get("first_fixation")), FIRST_FIXATIONS)
        inside = np.arange(data.sizes["fixation"]) < data.length.values[:, None]
        given = np.isfinite(data.x.values) & np.isfinite(data.y.values)
        if (given != inside).any() or (data.length.values > data.sizes["fixation"]).any():
            trial = int(np.flatnonzero((given != inside).any(1) | (data.length.values > inside.shape[1]))[0])
            raise ValueError(
                f"length must count the fixations of each trial, got {int(data.length[trial])} for trial {trial} "
                f"with {int(given[trial].sum())} finite positions"
            )
        for name, unit in _PER_FIXATION.items():
            if name in data and "units" not in data[name].attrs:
                data = data.assign({name: data[name].assign_attrs(units=unit)})
        object.__setattr__(self, "data", data)
        object.__setattr__(self, "scenes", dict(self.scenes))

    def __repr__(self) -> str:
        n = int(self.data.length.sum())
        beyond = f" ({self.n_outside} outside the image)" if self.n_outside else ""
        counts = ", ".join(
            _counted(len(set(self._columns[name]) - {""}), name) for name in ("observer", "image")
        )
        return f"ScanpathDataset({_counted(len(self), 'trial')}, {_counted(n, 'fixation')}{beyond}, {counts})"

    def __len__(self) -> int:
        return int(self.data.sizes["trial"])

    @overload
    def __getitem__(self, index: int | np.integer[Any]) -> Scanpath: ...

    @overload
    def __getitem__(self, index: slice | ArrayLike) -> ScanpathDataset: ...

    def __getitem__(self, index: Any) -> Scanpath | ScanpathDataset:
        """Return one trial (a whole number) or a data set of some (a slice, indices or a bool mask)."""
        if isinstance(index, int | np.integer):
            return self._scanpath(range(len(self))[int(index)])
        rows = index if isinstance(index, slice) else np.asarray(index)
        if isinstance(rows, np.ndarray):
            if rows.dtype == bool and rows.shape != (len(self),):
                raise ValueError(f"index must be a bool mask of shape ({len(self)},), got {rows.shape}")
            rows = np.flatnonzero(rows) if rows.dtype == bool else rows.astype(np.intp)
        data = self.data.isel(trial=rows)
        shown = set(data["scene"].values.astype(str).tolist())
        return ScanpathDataset(data, {name: scene for name, scene in self.scenes.items() if name in shown})

    def __iter__(self) -> Iterator[Scanpath]:
        return (self._scanpath(i) for i in range(len(self)))

    @cached_property
    def _columns(self) -> dict[str, NDArray[Any]]:
        """Every variable and coordinate as an array: indexing them is fast."""
        return {str(name): variable.values for name, variable in self.data.variables.items()}

    def _scanpath(self, trial: int) -> Scanpath:
        columns = self._columns
        n = int(columns["length"][trial])

        def cut(name: str) -> Any:
            return columns[name][trial, :n] if name in columns else None

        found = columns["found"][trial] if "found" in columns else -1
        attrs: dict[str, Any] = {name: str(columns[name][trial]) for name in TRIAL_LABELS}
        attrs |= {name: columns[name][trial].item() for name in self._extras}
        width, height = self.image_sizes[trial].tolist()
        return Scanpath(
            **{name: cut(name) for name in ("x", "y", "t_start", "duration", "log_prob")},
            objects=cut("object"),
            image_size=(width, height),
            found=None if found < 0 else bool(found),
            px_per_degree=self.px_per_degree,
            first_fixation=self.first_fixation,
            attrs=attrs,
        )

    @cached_property
    def _extras(self) -> list[str]:
        """Other variables along trial."""
        variables = self.data.variables.items()
        return [str(k) for k, v in variables if v.dims == ("trial",) and k not in _RESERVED]

    @property
    def first_fixation(self) -> str:
        """Whether each trial begins with a fixation that was not chosen ("initial") or a chosen one ("free")."""
        return str(self.data.attrs["first_fixation"])

    @property
    def px_per_degree(self) -> float | None:
        """Pixels per degree of visual angle; None where it is not known."""
        value = self.data.attrs.get("px_per_degree")
        return None if value is None else float(value)

    @cached_property
    def image_sizes(self) -> NDArray[np.int64]:
        """Width and height of each trial's image, px, shape (trial, 2)."""
        if "image_size" in self.data:
            return np.asarray(self.data["image_size"].values, dtype=np.int64)
        return np.tile(np.asarray(self.data.attrs["image_size"], dtype=np.int64), (len(self), 1))

    @property
    def outside(self) -> xr.DataArray:
        """Whether each fixation lies outside its image; False after the end of a trial."""
        width, height = self.image_sizes[:, :1], self.image_sizes[:, 1:]
        x, y = self.data.x, self.data.y
        outside: xr.DataArray = (x < 0) | (x >= width) | (y < 0) | (y >= height)
        return outside.rename("outside")

    @property
    def n_outside(self) -> int:
        """Number of fixations outside their image."""
        return int(self.outside.sum())

    def scene_of(self, trial: int) -> ObjectScene:
        """Return the scene of a trial.

        Raises
        ------
        ValueError
            If the trial has no scene.
        """
        name = str(self._columns["scene"][trial])
        if name not in self.scenes:
            raise ValueError(f"trial {trial} must have one of the {len(self.scenes)} scenes, got {name!r}")
        return self.scenes[name]

    @classmethod
    def from_scanpaths(
        cls,
        paths: Sequence[Scanpath],
        *,
        scenes: Mapping[str, ObjectScene] | None = None,
        attrs: Mapping[str, Any] | None = None,
    ) -> ScanpathDataset:
        """Join scanpaths.

        Parameters
        ----------
        paths : sequence of Scanpath
            ``attrs`` may hold "observer", "image", "scene", "task", "condition" and "target"; every other entry that
            is a number or a text in all of them becomes a variable along trial. Times, objects and ``log_prob`` are
            kept if all have them.
        scenes : mapping of str to ObjectScene, optional
        attrs : mapping, optional
            Attributes of the data set: "licence", "citation", "source", ...

        Raises
        ------
        ValueError
            If there is no path, or ``first_fixation`` or ``px_per_degree`` differ between paths.
        """
        if not len(paths):
            raise ValueError("paths must hold at least one scanpath, got none")
        common: dict[str, Any] = {}
        for name in ("first_fixation", "px_per_degree"):
            values = {getattr(path, name) for path in paths}
            if len(values) > 1:
                raise ValueError(f"{name} must be the same in all paths, got {sorted(map(str, values))}")
            common[name] = values.pop()
        if common["px_per_degree"] is None:
            del common["px_per_degree"]
        lengths = np.array([len(path) for path in paths], dtype=np.int64)
        inside = np.arange(lengths.max(initial=0)) < lengths[:, None]
        variables: dict[str, Any] = {"length": ("trial", lengths)}
        for name in _PER_FIXATION:
            parts = [getattr(path, "objects" if name == "object" else name) for path in paths]
            if all(part is not None for part in parts):
                padded = np.full(inside.shape, -1 if name == "object" else np.nan)
                padded[inside] = np.concatenate(parts)
                if name == "object":
                    padded = padded.astype(np.int64)
                variables[name] = (("trial", "fixation"), padded)
        if any(path.found is not None for path in paths):
            found = [-1 if path.found is None else int(path.found) for path in paths]
            variables["found"] = ("trial", np.array(found, dtype=np.int8))
        sizes = {(int(path.image_size[0]), int(path.image_size[1])) for path in paths}
        coords: dict[str, Any] = {
            name: ("trial", np.array([str(path.attrs.get(name, "")) for path in paths], dtype=str))
            for name in TRIAL_LABELS
        }
        if len(sizes) == 1:
            common["image_size"] = sizes.pop()
        else:
            variables["image_size"] = (("trial", "side"), np.array([path.image_size for path in paths]))
            coords["side"] = ["width", "height"]
        for name in dict.fromkeys(key for path in paths for key in path.attrs):
            values = [path.attrs.get(name) for path in paths]  # type: ignore[assignment]
            if name not in _RESERVED and all(isinstance(v, str | int | float | np.number) for v in values):
                variables[name] = ("trial", np.array(values))
        return cls(xr.Dataset(variables, coords, {**common, **(attrs or {})}), scenes or {})

    @classmethod
    def from_frame(
        cls,
        table: pd.DataFrame,
        *,
        image_size: tuple[int, int] | None = None,
        scenes: Mapping[str, ObjectScene] | None = None,
        first_fixation: str = "initial",
        px_per_degree: float | None = None,
        attrs: Mapping[str, Any] | None = None,
    ) -> ScanpathDataset:
        """Read a table with a row for each fixation, in order.

        Parameters
        ----------
        table : DataFrame
            Columns ``x`` and ``y`` (px); optional ``t_start`` and ``duration`` (s), ``object``, ``found``. Rows of a
            trial share ``trial``, or if there is no such column, ``observer``, ``image``, ``scene``, ``task``,
            ``condition`` and ``target`` as far as these columns are there. Others are kept if they are constant
            within trials.
        image_size : tuple of int, (width, height), optional
            Of images without a scene.
        scenes : mapping of str to ObjectScene, optional
            By the column ``scene``.
        first_fixation : {"initial", "free"}, default "initial"
            Whether trials begin with a fixation that was not chosen.
        px_per_degree : float, optional
        attrs : mapping, optional

        Raises
        ------
        ValueError
            If a column is missing, or a trial has no image size.

        Examples
        --------
        >>> table = pd.DataFrame({"observer": [1, 1, 2], "image": "a.jpg", "x": [50, 20, 50], "y": [40, 10, 40]})
        >>> len(ScanpathDataset.from_frame(table, image_size=(100, 80)))
        2
        """
        for name in ("x", "y"):
            if name not in table:
                raise ValueError(f"table must have a column {name!r}, got {list(table)}")
        labels = [name for name in TRIAL_LABELS if name in table]
        keys = ["trial"] if "trial" in table else labels
        if not keys:
            raise ValueError(f"table must have a column 'trial' or one of {TRIAL_LABELS}, got {list(table)}")
        scenes = scenes or {}
        trial = table.groupby(keys, sort=False, dropna=False).ngroup().to_numpy()
        order = np.argsort(trial, kind="stable")
        starts = np.flatnonzero(np.diff(trial[order], prepend=-1))
        columns = {str(name): table[name].to_numpy()[order] for name in table}
        codes = {name: pd.factorize(values)[0] for name, values in columns.items()}
        constant = [
            name
            for name in columns
            if name not in _RESERVED and (codes[name] == codes[name][starts][trial[order]]).all()
        ]
        paths = []
        for rows in np.split(np.arange(len(table)), starts[1:]):
            first = {name: columns[name][rows[0]] for name in columns}
            scene = scenes.get(str(first.get("scene", "")))
            size = image_size if scene is None else scene.size
            where = ", ".join(f"{key} {first[key]}" for key in keys)
            if size is None:
                raise ValueError(f"image_size must be given for trials without a scene, got None for {where}")
            per_fixation = {name: columns[name][rows] for name in _PER_FIXATION if name in columns}
            try:
                path = Scanpath(
                    **{"objects" if k == "object" else k: values for k, values in per_fixation.items()},
                    image_size=size,
                    found=bool(first["found"]) if first.get("found", -1) in (0, 1) else None,
                    px_per_degree=px_per_degree,
                    first_fixation=first_fixation,
                    attrs={name: first[name] for name in (*labels, *constant)},
                )
            except ValueError as error:
                raise ValueError(f"table must hold fixations, got for {where}: {error}") from None
            paths.append(path)
        return cls.from_scanpaths(paths, scenes=scenes, attrs=attrs)

    def to_frame(self) -> pd.DataFrame:
        """Return a table with a row for each fixation; trials without fixations have none.

        Columns are ``trial``, the labels of trials, their other variables, ``fixation`` (its number in the trial)
        and the variables of fixations.
        """
        n = self._columns["length"]
        trial = np.repeat(np.arange(len(self)), n)
        inside = np.arange(self.data.sizes["fixation"]) < n[:, None]
        per_trial = [*TRIAL_LABELS, *(["found"] if "found" in self.data else []), *self._extras]
        return pd.DataFrame(
            {"trial": trial}
            | {name: self._columns[name][trial] for name in per_trial}
            | {"fixation": np.nonzero(inside)[1]}
            | {name: self._columns[name][inside] for name in _PER_FIXATION if name in self.data}
        )

    def _groups(self, by: str) -> NDArray[np.str_]:
        if by == "trial":
            return np.arange(len(self)).astype(str)
        check_option("by", by, (*TRIAL_LABELS, "trial"))
        labels: NDArray[np.str_] = self._columns[by].astype(str)
        return labels

    def split(
        self, by: str = "image", *, test_size: float = 0.2, seed: int = 0
    ) -> tuple[ScanpathDataset, ScanpathDataset]:
        """Split into training and test trials that share no group.

        Parameters
        ----------
        by : {"image", "target", "observer", "scene", "task", "condition", "trial"}, default "image"
            Trials with equal labels stay together.
        test_size : float, default 0.2
            Share of the groups in the test set; at least one group is on each side.
        seed : int, default 0

        Returns
        -------
        train, test : ScanpathDataset

        Raises
        ------
        ValueError
            If there are fewer than two groups, or ``test_size`` is not between 0 and 1.

        Examples
        --------
        >>> table = pd.DataFrame({"observer": [1, 2] * 10, "image": np.arange(10).repeat(2), "x": 5, "y": 9})
        >>> dataset = ScanpathDataset.from_frame(table, image_size=(100, 80))
        >>> train, test = dataset.split(by="image", test_size=0.3, seed=1)
        >>> len(train), len(test), set(train.data.image.values) & set(test.data.image.values)
        (14, 6, set())
        """
        if not 0 < test_size < 1:
            raise ValueError(f"test_size must be a share between 0 and 1, got {test_size}")
        groups = self._groups(by)
        n_groups = len(set(groups))
        if n_groups < 2:
            raise ValueError(f"by must name a label with at least 2 values, got {n_groups} of {by!r}")
        n_test = min(max(round(test_size * n_groups), 1), n_groups - 1)
        fold = split_stimuli(groups, f"test={n_test},seed={seed}")[0]
        return self[fold.train], self[fold.test]

    def folds(
        self, by: str = "image", *, n_folds: int = 5, seed: int = 0
    ) -> list[tuple[ScanpathDataset, ScanpathDataset]]:
        """Split into folds for cross-validation; no group is on both sides of one.

        Parameters
        ----------
        by : str, default "image"
            As for :meth:`split`.
        n_folds : int, default 5
        seed : int, default 0

        Returns
        -------
        list of (train, test)
            Every trial is in one test set.

        Raises
        ------
        ValueError
            If there are fewer groups than folds.
        """
        folds = split_stimuli(self._groups(by), f"kfold={n_folds},seeds={seed}")
        return [(self[fold.train], self[fold.test]) for fold in folds]

    def assign_objects(self, *, max_distance: float | None = None, unit: str = "px") -> ScanpathDataset:
        """Find the object of each fixation with :meth:`ObjectScene.assign`.

        Parameters
        ----------
        max_distance : float, optional
        unit : {"px", "degree"}, default "px"

        Raises
        ------
        ValueError
            If a trial has no scene.
        """
        objects = np.full((len(self), self.data.sizes["fixation"]), -1, dtype=np.int64)
        for i, path in enumerate(self):
            scene = self.scene_of(i)
            if scene.px_per_degree is None:
                scene = replace(scene, px_per_degree=self.px_per_degree)
            objects[i, : len(path)] = scene.assign(path.x, path.y, max_distance=max_distance, unit=unit)
        rule = (
            "smallest box"
            if max_distance is None
            else f"smallest box, else nearest within {max_distance} {unit}"
        )
        variable = xr.Variable(("trial", "fixation"), objects, {"units": "1", "rule": rule})
        return ScanpathDataset(self.data.assign(object=variable), self.scenes)

    def merge_consecutive(self) -> ScanpathDataset:
        """Join fixations that follow each other on one object.

        The joined fixation has the mean position, weighted by duration, the first one's time, and the sum of the
        durations and of ``log_prob``. Fixations of the background and an initial fixation are never joined.

        Raises
        ------
        ValueError
            If fixations have no objects.

        Examples
        --------
        >>> path = Scanpath([0, 10, 30], [0, 0, 20], (100, 80), duration=[0.1, 0.2, 0.4], objects=[1, 1, 1])
        >>> merged = ScanpathDataset.from_scanpaths([path]).merge_consecutive()[0]
        >>> merged.duration.round(3), merged.x.round(3)
        (array([0.1, 0.6]), array([ 0.   , 23.333]))
        """
        if "object" not in self.data:
            raise ValueError("merge_consecutive must have objects, got none; call assign_objects first")
        return self._map(_merged)

    def drop_initial(self) -> ScanpathDataset:
        """Leave out the initial fixation of each trial; nothing changes if trials have none."""
        return self._map(_without_initial) if self.first_fixation == "initial" else self

    def _map(self, change: Any) -> ScanpathDataset:
        attrs = {k: v for k, v in self.data.attrs.items() if k not in ("first_fixation", "image_size")}
        return self.from_scanpaths([change(path) for path in self], scenes=self.scenes, attrs=attrs)

    def save(self, folder: str | Path) -> None:
        """Write a folder of fixations (netCDF), scenes (JSON) and their pictures.

        The folder is whole or absent; one that is there is replaced. Pictures that are arrays become PNG files, those
        in files are copied.

        Parameters
        ----------
        folder : str or Path

        Examples
        --------
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp()) / "fixations"
        >>> ScanpathDataset.from_scanpaths([Scanpath([50, 20], [40, 10], (100, 80))]).save(folder)
        >>> ScanpathDataset.load(folder)
        ScanpathDataset(1 trial, 2 fixations, 0 observers, 0 images)
        """
        with replacing(folder) as temporary:
            (temporary / "images").mkdir(parents=True)
            scenes = {}
            for i, (name, scene) in enumerate(self.scenes.items()):
                content = {k: getattr(scene, k) for k in scene.__dataclass_fields__}
                for kind in ("image", "exemplar"):
                    picture = content[kind]
                    if isinstance(picture, np.ndarray):
                        content[kind] = f"images/{i:05d}_{kind}.png"
                        Image.fromarray(picture).save(temporary / content[kind])
                    elif picture is not None:
                        content[kind] = f"images/{i:05d}_{kind}{picture.suffix}"
                        shutil.copyfile(picture, temporary / content[kind])
                scenes[name] = {k: v for k, v in content.items() if v is not None}
            write_json(temporary / "scenes.json", scenes)
            write_netcdf(temporary / "fixations.nc", self.data)

    @classmethod
    def load(cls, folder: str | Path) -> ScanpathDataset:
        """Read what :meth:`save` wrote.

        Parameters
        ----------
        folder : str or Path

        Raises
        ------
        FileNotFoundError
            If a file is missing.
        ValueError
            If a file cannot be read.
        """
        folder = Path(folder)
        data_file, scene_file = folder / "fixations.nc", folder / "scenes.json"
        for file in (data_file, scene_file):
            check_file(file, "a folder that save wrote")
        data: xr.Dataset = read_netcdf(data_file)
        scenes = {}
        content = read_json(scene_file)
        with reading(f"{scene_file} must hold scenes, got"):
            for name, fields in content.items():
                for kind in {"image", "exemplar"} & fields.keys():
                    fields[kind] = below(folder, fields[kind])
                scenes[name] = ObjectScene(**fields)
        with reading(f"{data_file} must hold fixations, got"):
            if "image_size" in data.attrs:
                data.attrs["image_size"] = tuple(map(int, data.attrs["image_size"]))
            return cls(data, scenes)


def _merged(path: Scanpath) -> Scanpath:
    if not len(path):
        return path
    objects = np.asarray(path.objects)
    joins = (objects[1:] == objects[:-1]) & (objects[1:] >= 0)
    if path.first_fixation == "initial":
        joins[:1] = False
    starts = np.flatnonzero(np.concatenate([[True], ~joins]))
    weight = np.ones(len(path)) if path.duration is None else np.maximum(path.duration, np.finfo(float).tiny)
    total = np.add.reduceat(weight, starts)
    return replace(
        path,
        x=np.add.reduceat(path.x * weight, starts) / total,
        y=np.add.reduceat(path.y * weight, starts) / total,
        t_start=None if path.t_start is None else path.t_start[starts],
        duration=None if path.duration is None else np.add.reduceat(path.duration, starts),
        log_prob=None if path.log_prob is None else np.add.reduceat(path.log_prob, starts),
        objects=objects[starts],
    )


def _without_initial(path: Scanpath) -> Scanpath:
    arrays = {name: getattr(path, name) for name in ("x", "y", "t_start", "duration", "objects", "log_prob")}
    cut: dict[str, Any] = {name: None if values is None else values[1:] for name, values in arrays.items()}
    return replace(path, first_fixation="free", **cut)


def _counted(n: int, noun: str) -> str:
    return f"{n} {noun}{'' if n == 1 else 's'}"
