"""The one face of scanpath models: what comes next, how probable people's paths are, and new paths."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array
from scipy.special import entr, log_softmax
from sklearn.base import BaseEstimator

from neuroattn import __version__
from neuroattn._checks import check_range, check_seed, check_shape
from neuroattn.datasets import ObjectScene, ScanpathDataset
from neuroattn.results import Scanpath

Floats = NDArray[np.float64]
Objects = NDArray[np.int64]


@dataclass
class PathState:
    """Paths that grow together in one scene.

    Parameters
    ----------
    scene : ObjectScene
    observers : tuple of str or None, length path
    past : int array, shape (path, step)
        Objects fixated so far. The initial fixation, which nobody chose, is not among them.
    cache : object
        Whatever the model keeps from one step to the next; None before the first.
    """

    scene: ObjectScene
    observers: tuple[str | None, ...]
    past: Objects
    cache: Any = None

    @property
    def visited(self) -> NDArray[np.bool_]:
        """Whether each object was fixated before, shape (path, object)."""
        seen = np.zeros((len(self.past), self.scene.n_objects), bool)
        np.put_along_axis(seen, self.past, True, axis=1)
        return seen

    @property
    def x(self) -> Floats:
        """Where each path stands: centre of its last object, or of the image before the first, shape (path,)."""
        return self._stand(self.scene.x, self.scene.size[0])

    @property
    def y(self) -> Floats:
        """As `x`, downwards."""
        return self._stand(self.scene.y, self.scene.size[1])

    def _stand(self, centres: Floats, extent: int) -> Floats:
        if self.past.shape[1]:
            return np.asarray(centres[self.past[:, -1]], dtype=float)
        return np.full(len(self.past), extent / 2)


class ScanpathModel(BaseEstimator, ABC):  # type: ignore[misc]
    """A model of which object is fixated next and when a path ends.

    The next event is the end of the path with probability p_end, or else a fixation of one of the objects:
    P(object) = (1 - p_end) P(object | goes on). Bits per fixation are those of the second factor, so that models
    are compared on where people look; when they stop is scored apart.

    A path is the sequence of fixated objects. It begins at the centre of the image. An initial fixation, which
    nobody chose, and fixations of the background are no part of it.

    A model implements `_object_log_prob` and, where it learns more than when paths end, `_fit`. A model with an end
    of its own overrides `fit` and `_step`.

    Examples
    --------
    >>> from neuroattn.datasets import make_search_arrays
    >>> from neuroattn.scanpath import ConditionalLogit
    >>> data = make_search_arrays(n_scenes=10, n_observers=4, seed=0)
    >>> train, test = data.split(by="image", seed=0)
    >>> model = ConditionalLogit().fit(train)
    >>> model.score(test) > 0.5  # bits per fixation gained over uniform choice
    True
    >>> model.conditional(test.scene_of(0), [2, 0]).log_prob.shape
    (3, 6)
    >>> model.sample(test.scene_of(0), n=5, seed=0).x.dims
    ('sample', 'fixation')
    """

    # Fitting

    def fit(self, dataset: ScanpathDataset, y: None = None) -> Self:
        """Fit to scanpaths.

        Parameters
        ----------
        dataset : ScanpathDataset
            With objects assigned.
        y : None
            Ignored; scikit-learn passes it.
        """
        paths, lengths, _ = object_paths(dataset)
        self._fit_ends(dataset, paths, lengths)
        self._fit(dataset)
        return self

    def _fit(self, dataset: ScanpathDataset) -> None:
        """Learn where people look; a model without parameters has nothing to learn."""

    def _fit_ends(self, dataset: ScanpathDataset, paths: Objects, lengths: Objects) -> None:
        # Rates of ending after so many fixations, apart for paths that stand on an object of the target's kind.
        longest = int(lengths.max(initial=0))
        counts = np.zeros((2, 2, longest + 1))  # ended, on target, fixations so far
        for i in range(len(dataset)):
            n = int(lengths[i])
            matches = dataset.scene_of(i).matches_target
            on = np.concatenate([[False], matches[paths[i, :n]]]).astype(int)
            counts[0, on, np.arange(n + 1)] += 1
            counts[0, on[n], n] -= 1
            counts[1, on[n], n] += 1
        self.end_rate_ = (counts[1] + 0.5) / (counts.sum(0) + 1)
        self.max_fixations_ = max(longest, 1)

    # One step

    @abstractmethod
    def _object_log_prob(self, state: PathState) -> Floats:
        """Return ln P(object | goes on), shape (path, object), rows normalised."""

    def _end_log_prob(self, state: PathState) -> Floats:
        n = state.past.shape[1]
        on = np.zeros(len(state.past), int)
        if n:
            on = state.scene.matches_target[state.past[:, -1]].astype(int)
        return np.asarray(np.log(self.end_rate_[on, min(n, self.end_rate_.shape[1] - 1)]))

    def _step(self, state: PathState) -> tuple[Floats, Floats]:
        """Return ln P(object | goes on), (path, object), and ln P(end), (path,); called once a step, in order."""
        return self._object_log_prob(state), self._end_log_prob(state)

    def _teacher_forced(
        self, scene: ObjectScene, paths: Objects, observers: Sequence[str | None]
    ) -> tuple[Floats, Floats]:
        """Return what `_step` does before each fixation of given paths (path, step) and after the last.

        Shapes (path, step + 1, object) and (path, step + 1). Paths may be padded with any object.
        """
        state = PathState(scene, tuple(observers), paths[:, :0])
        steps = []
        for step in range(paths.shape[1] + 1):
            state.past = paths[:, :step]
            steps.append(self._step(state))
        return np.stack([step[0] for step in steps], 1), np.stack([step[1] for step in steps], 1)

    # The public face

    def conditional(
        self, scene: ObjectScene, objects: ArrayLike, *, observer: str | None = None
    ) -> xr.Dataset:
        """Return what the model expects before each fixation of a path, and after its last.

        Parameters
        ----------
        scene : ObjectScene
        objects : int array, shape (fixation,)
            The path: chosen fixations of objects.
        observer : str, optional

        Returns
        -------
        Dataset, dims (step, object)
            ``log_prob``: natural logarithm of P(object | goes on); ``end_log_prob`` (step): of P(ends here). Step 0
            is before the first chosen fixation.
        """
        path = np.asarray(objects)
        check_shape("objects", path, "fixation")
        if path.size and not (
            np.issubdtype(path.dtype, np.integer) and path.min() >= 0 and path.max() < scene.n_objects
        ):
            raise ValueError(
                f"objects must be indices of the scene's {scene.n_objects} objects, got {path.tolist()}"
            )
        log_prob, end = self._teacher_forced(scene, path.astype(np.int64)[None], [observer])
        return xr.Dataset(
            {
                "log_prob": (("step", "object"), log_prob[0], {"units": "nat"}),
                "end_log_prob": ("step", end[0], {"units": "nat"}),
            },
            attrs=self._attrs(scene),
        )

    def log_prob(self, dataset: ScanpathDataset) -> xr.DataArray:
        """Return the exact natural logarithm of the probability of each chosen fixation.

        Parameters
        ----------
        dataset : ScanpathDataset

        Returns
        -------
        DataArray, dims (trial, fixation)
            ln P(object | goes on, path so far); NaN for initial fixations, the background and padding. Coordinates
            of the data set, and along ``trial``: ``end_log_prob``, of going on after each fixation and ending after
            the last; ``n_objects`` of the scene.
        """
        paths, lengths, column = object_paths(dataset)
        data = dataset.data
        out = np.full((data.sizes["trial"], data.sizes["fixation"]), np.nan)
        ends = np.zeros(len(paths))
        n_objects = np.zeros(len(paths), int)
        observers = data["observer"].values.astype(str)
        scenes = data["scene"].values.astype(str)
        for name in np.unique(scenes):
            rows = np.flatnonzero(scenes == name)
            scene = dataset.scene_of(int(rows[0]))
            longest = int(lengths[rows].max())
            batch = np.where(paths[rows, :longest] < 0, 0, paths[rows, :longest])
            log_prob, end = self._teacher_forced(scene, batch, [o or None for o in observers[rows].tolist()])
            chosen = np.take_along_axis(log_prob[:, :longest], batch[:, :, None], axis=2)[:, :, 0]
            step = np.arange(longest + 1)
            with np.errstate(divide="ignore"):
                goes_on = np.log1p(-np.exp(np.minimum(end, 0)))
            before, last = step < lengths[rows, None], step == lengths[rows, None]
            ends[rows] = np.where(last, end, np.where(before, goes_on, 0)).sum(1)
            n_objects[rows] = scene.n_objects
            path, at = np.nonzero(before[:, :longest])
            out[rows[path], column[rows[path], at]] = chosen[path, at]
        return xr.DataArray(
            out,
            dims=("trial", "fixation"),
            coords={
                **{k: v for k, v in data.coords.items() if v.dims == ("trial",)},
                "end_log_prob": ("trial", ends, {"units": "nat"}),
                "n_objects": ("trial", n_objects),
            },
            name="log_prob",
            attrs={**self._attrs(), "units": "nat"},
        )

    def bits_per_fixation(self, dataset: ScanpathDataset) -> xr.DataArray:
        """Return the surprise of each chosen fixation: -log2 P(object | goes on, path so far).

        Parameters
        ----------
        dataset : ScanpathDataset

        Returns
        -------
        DataArray, dims (trial, fixation)
            As `log_prob`, in bits. Uniform choice among n objects costs log2 n.
        """
        log_prob = self.log_prob(dataset)
        bits: xr.DataArray = (log_prob / -np.log(2)).rename("bits_per_fixation")
        return bits.assign_attrs({**self._attrs(), "units": "bit"})

    def score(self, dataset: ScanpathDataset, y: None = None) -> float:
        """Return the bits per fixation gained over uniform choice among the scene's objects; higher is better.

        Parameters
        ----------
        dataset : ScanpathDataset
        y : None
            Ignored; scikit-learn passes it.
        """
        bits = self.bits_per_fixation(dataset)
        return float((np.log2(bits.n_objects) - bits).mean())

    def sample(
        self,
        scene: ObjectScene,
        *,
        n: int = 1,
        seed: int | np.random.Generator,
        max_fixations: int | None = None,
        temperature: float = 1.0,
        top_p: float = 1.0,
        no_return: bool = False,
        observer: str | None = None,
    ) -> xr.Dataset:
        """Draw new paths.

        Parameters
        ----------
        scene : ObjectScene
        n : int, default 1
            Paths. The first m of n are those that n = m gives.
        seed : int or Generator
        max_fixations : int, optional
            Paths are cut here; by default at the length of the longest path that the model was fitted to.
        temperature : float, default 1
            Divides the logarithms of P(object | goes on); ends are drawn as they are.
        top_p : float, default 1
            Draw from the fewest objects that have this probability together.
        no_return : bool, default False
            Never fixate an object again. A path ends when none is left.
        observer : str, optional

        Returns
        -------
        Dataset, dims (sample, fixation) and scene_object
            ``object`` (-1 after the end); ``x`` and ``y``, the object's centre in px; ``log_prob``, natural
            logarithm of P(object | goes on) under the model itself, whatever the temperature; ``entropy`` of that
            distribution in bits; ``length`` (sample); ``occupancy`` (scene_object), share of all fixations.
        """
        rng = check_seed(seed)
        limit = self.max_fixations_ if max_fixations is None else max_fixations
        for name, value, low in (("n", n, 1), ("max_fixations", limit, 1)):
            check_range(name, value, low)
        check_range("top_p", top_p, 0, 1)
        if not (np.isfinite(temperature) and temperature > 0):
            raise ValueError(f"temperature must be above 0, got {temperature!r}")
        # All numbers at once, in the order of the samples: a sample does not depend on how many there are.
        numbers = rng.random((n, limit, 2))
        objects = np.full((n, limit), -1, np.int64)
        log_prob, entropy = np.full((n, limit), np.nan), np.full((n, limit), np.nan)
        alive = np.ones(n, bool)
        state = PathState(scene, (observer,) * n, objects[:, :0])
        for step in range(limit):
            logits, end = self._step(state)
            allowed = ~state.visited if no_return else np.ones_like(logits, bool)
            alive &= (numbers[:, step, 0] >= np.exp(end)) & allowed.any(1)
            if not alive.any():
                break
            allowed[~alive] = True  # ended paths go on unseen, so that arrays keep their shape
            chosen = _draw(logits, allowed, numbers[:, step, 1], temperature, top_p)
            state.past = np.concatenate([state.past, chosen[:, None]], axis=1)
            bits = entr(np.exp(logits)).sum(1) / np.log(2)
            objects[alive, step] = chosen[alive]
            log_prob[alive, step] = np.take_along_axis(logits, chosen[:, None], 1)[alive, 0]
            entropy[alive, step] = bits[alive]
        fixated = objects >= 0
        counts = np.bincount(objects[fixated], minlength=scene.n_objects)
        attrs = {
            **self._attrs(scene),
            "seed": "a Generator" if isinstance(seed, np.random.Generator) else int(seed),
            "temperature": temperature,
            "top_p": top_p,
            "no_return": int(no_return),
            "max_fixations": limit,
            "observer": observer or "",
        }
        grid = ("sample", "fixation")
        return xr.Dataset(
            {
                "object": (grid, objects),
                "x": (grid, np.where(fixated, scene.x[objects], np.nan), {"units": "px"}),
                "y": (grid, np.where(fixated, scene.y[objects], np.nan), {"units": "px"}),
                "log_prob": (grid, log_prob, {"units": "nat"}),
                "entropy": (grid, entropy, {"units": "bit"}),
                "length": ("sample", fixated.sum(1)),
                "occupancy": ("scene_object", counts / max(counts.sum(), 1)),
            },
            attrs=attrs,
        )

    def predict(
        self, scene: ObjectScene, *, max_fixations: int | None = None, observer: str | None = None
    ) -> Scanpath:
        """Return the path that takes the most probable object at each step and ends once this is likelier than not.

        Parameters
        ----------
        scene : ObjectScene
        max_fixations : int, optional
            By default the length of the longest path that the model was fitted to.
        observer : str, optional

        Returns
        -------
        Scanpath
            Chosen fixations at the centres of their objects.
        """
        limit = self.max_fixations_ if max_fixations is None else max_fixations
        check_range("max_fixations", limit, 1)
        state = PathState(scene, (observer,), np.zeros((1, 0), np.int64))
        log_prob = []
        for _ in range(limit):
            logits, end = self._step(state)
            if end[0] > np.log(0.5):
                break
            best = int(logits[0].argmax())
            log_prob.append(float(logits[0, best]))
            state.past = np.concatenate([state.past, [[best]]], axis=1)
        return _scanpath(scene, state.past[0], np.asarray(log_prob), self._attrs(scene))

    def _attrs(self, scene: ObjectScene | None = None) -> dict[str, Any]:
        attrs = {"model": type(self).__name__, "neuroattn_version": __version__}
        return attrs if scene is None else {**attrs, "scene": scene.name}


class PixelModel(ScanpathModel):
    """A model of where in the image the next fixation falls; objects get what falls into their boxes.

    A model implements `conditional_log_density`. A pixel belongs to the object to which a fixation there would be
    assigned: the smallest box that contains it. P(object | goes on) is its share of what falls into any box.

    Examples
    --------
    >>> class Leftwards(PixelModel):
    ...     def conditional_log_density(self, scene, x, y):
    ...         width, height = scene.size
    ...         return np.log(np.array([[0.75, 0.25]]) * 2 / (width * height))
    >>> scene = ObjectScene.from_grid((40, 20), rows=1, columns=2)
    >>> path = Scanpath([10], [10], (40, 20), objects=[0], first_fixation="free", attrs={"scene": "only"})
    >>> data = ScanpathDataset.from_scanpaths([path], scenes={"only": scene})
    >>> Leftwards().fit(data).bits_per_fixation(data).values.round(3)
    array([[0.415]])
    """

    def fit(self, dataset: ScanpathDataset, y: None = None) -> Self:
        """Fit to scanpaths.

        Parameters
        ----------
        dataset : ScanpathDataset
            Without objects only the densities are fitted, and not when paths end.
        y : None
            Ignored; scikit-learn passes it.
        """
        if "object" in dataset.data:
            return super().fit(dataset)
        self._fit(dataset)
        return self

    @abstractmethod
    def conditional_log_density(self, scene: ObjectScene, x: ArrayLike, y: ArrayLike) -> Floats:
        """Return the natural logarithm of the density of the next fixation.

        Parameters
        ----------
        scene : ObjectScene
        x, y : float array, shape (fixation,)
            Fixations so far, px.

        Returns
        -------
        array, shape (row, column)
            Density per square pixel of the image, at the centres of cells that tile it, as fine as the model likes.
            Times the area of a cell it sums to one.
        """

    def log_density(self, dataset: ScanpathDataset) -> xr.DataArray:
        """Return the natural logarithm of the density at each chosen fixation, whether on an object or not.

        Parameters
        ----------
        dataset : ScanpathDataset

        Returns
        -------
        DataArray, dims (trial, fixation)
            Per square pixel. NaN for initial fixations, those outside the image, and padding.
        """
        data = dataset.data
        x, y, out = data["x"].values, data["y"].values, np.full(data["x"].shape, np.nan)
        first = int(dataset.first_fixation == "initial")
        for i, length in enumerate(data["length"].values.tolist()):
            scene = dataset.scene_of(i)
            width, height = scene.size
            for k in range(first, length):
                if 0 <= x[i, k] < width and 0 <= y[i, k] < height:
                    density = self.conditional_log_density(scene, x[i, :k], y[i, :k])
                    row = int(y[i, k] * density.shape[0] / height)
                    out[i, k] = density[row, int(x[i, k] * density.shape[1] / width)]
        coords = {k: v for k, v in data.coords.items() if v.dims == ("trial",)}
        return xr.DataArray(
            out,
            dims=("trial", "fixation"),
            coords=coords,
            name="log_density",
            attrs={**self._attrs(), "units": "ln(1/px^2)"},
        )

    def _object_log_prob(self, state: PathState) -> Floats:
        scene = state.scene
        rows = []
        for past in state.past:
            density = self.conditional_log_density(scene, scene.x[past], scene.y[past])
            if state.cache is None or state.cache[0] != density.shape:
                state.cache = (density.shape, _coverage(scene, density.shape))
            rows.append(state.cache[1] @ np.exp(density - density.max()).ravel())
        # A box without mass, or one that others cover, is as improbable as a float can say.
        mass = np.maximum(np.stack(rows), np.finfo(float).tiny)
        return np.asarray(np.log(mass) - np.log(mass.sum(1, keepdims=True)))


def object_paths(dataset: ScanpathDataset) -> tuple[Objects, Objects, Objects]:
    """Return the fixated objects of each trial without initial and background fixations.

    Returns
    -------
    paths : int array, shape (trial, step)
        Padded with -1.
    lengths : int array, shape (trial,)
    column : int array, shape (trial, step)
        Where each step is along ``fixation`` of the data set; -1 where padded.
    """
    data = dataset.data
    if "object" not in data:
        raise ValueError("dataset must have objects: call dataset.assign_objects() first")
    objects = data["object"].values.astype(np.int64)
    at = np.arange(objects.shape[1])
    first = int(dataset.first_fixation == "initial")
    chosen = (objects >= 0) & (at >= first) & (at < data["length"].values[:, None])
    lengths = chosen.sum(1)
    order = np.argsort(~chosen, axis=1, kind="stable")[:, : int(lengths.max(initial=0))]
    kept = np.arange(order.shape[1]) < lengths[:, None]
    paths = np.where(kept, np.take_along_axis(objects, order, 1), -1)
    return paths, lengths, np.where(kept, order, -1)


def sampled_scanpaths(samples: xr.Dataset, scene: ObjectScene) -> list[Scanpath]:
    """Return samples of a model as scanpaths.

    Parameters
    ----------
    samples : Dataset
        Of `ScanpathModel.sample`.
    scene : ObjectScene
        That they were drawn for.

    Returns
    -------
    list of Scanpath
        One for each sample; all fixations are chosen ones.

    Examples
    --------
    >>> from neuroattn.datasets import make_search_arrays
    >>> from neuroattn.scanpath import UniformChoice
    >>> data = make_search_arrays(n_scenes=4, n_observers=2, seed=0)
    >>> samples = UniformChoice().fit(data).sample(data.scene_of(0), n=3, seed=0)
    >>> len(sampled_scanpaths(samples, data.scene_of(0)))
    3
    """
    lengths = samples["length"].values.tolist()
    return [
        _scanpath(
            scene,
            samples["object"].values[i, :n],
            samples["log_prob"].values[i, :n],
            {**samples.attrs, "sample": i},
        )
        for i, n in enumerate(lengths)
    ]


def _scanpath(scene: ObjectScene, objects: Objects, log_prob: Floats, attrs: dict[str, Any]) -> Scanpath:
    found = None
    if scene.target_label is not None or scene.target is not None:
        found = bool(scene.matches_target[objects].any())
    return Scanpath(
        scene.x[objects],
        scene.y[objects],
        image_size=scene.size,
        objects=objects,
        log_prob=log_prob,
        found=found,
        px_per_degree=scene.px_per_degree,
        first_fixation="free",
        attrs=attrs,
    )


def _draw(
    logits: Floats, allowed: NDArray[np.bool_], numbers: Floats, temperature: float, top_p: float
) -> Objects:
    """Draw an object for each path by one uniform number each."""
    weights = np.exp(log_softmax(np.where(allowed, logits, -np.inf) / temperature, axis=1))
    order = np.argsort(-weights, axis=1, kind="stable")
    ranked = np.take_along_axis(weights, order, 1)
    ranked = np.where(ranked.cumsum(1) - ranked < max(top_p, np.finfo(float).tiny), ranked, 0)
    reached = ranked.cumsum(1)
    # The total is not exactly one; the last object with weight takes what is left.
    rank = (reached <= numbers[:, None] * reached[:, -1:]).sum(1)
    rank = np.minimum(rank, (ranked > 0).sum(1) - 1)
    return np.take_along_axis(order, rank[:, None], 1)[:, 0]


def _coverage(scene: ObjectScene, shape: tuple[int, int]) -> csr_array:
    """Return how much of each cell of a map (row, column) belongs to each object, (object, cell)."""
    rows, columns = shape
    width, height = scene.size
    # Cells are sampled so finely that the smallest box holds four samples a side, or one a pixel.
    smallest = max(scene.boxes[:, 2:].min(initial=width) / 4, 1)
    fine = int(np.ceil(max(width / columns, height / rows) / smallest))
    column, row = np.meshgrid(np.arange(columns * fine), np.arange(rows * fine))
    owner = scene.assign(
        (column.ravel() + 0.5) * width / (columns * fine), (row.ravel() + 0.5) * height / (rows * fine)
    )
    cell = (row // fine * columns + column // fine).ravel()
    inside = owner >= 0
    share = np.full(int(inside.sum()), 1 / fine**2)
    return csr_array((share, (owner[inside], cell[inside])), shape=(scene.n_objects, rows * columns))
