"""Simple models of scanpaths: what a network has to beat."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from neuroattn._checks import check_option, check_range
from neuroattn.datasets import ObjectScene, ScanpathDataset
from neuroattn.scanpath.base import (
    Floats,
    Objects,
    PathState,
    PixelModel,
    ScanpathModel,
    object_paths,
)

# What the conditional logit weighs, for each object and the step to it.
FEATURES = (
    "centre",
    "x",
    "y",
    "distance",
    "rightward",
    "downward",
    "horizontal",
    "visited",
    "stay",
    "target",
)


class UniformChoice(ScanpathModel):
    """Look at any object with equal probability.

    Paths end at the rates of the data that the model was fitted to.

    Examples
    --------
    >>> from neuroattn.datasets import make_search_arrays
    >>> data = make_search_arrays(n_scenes=4, n_observers=2, seed=0)
    >>> float(UniformChoice().fit(data).score(data))
    0.0
    """

    def _object_log_prob(self, state: PathState) -> Floats:
        n = state.scene.n_objects
        return np.full((len(state.past), n), -np.log(n))


class CentreBias(PixelModel):
    """Look near the place where people look in all images: one Gaussian in coordinates relative to the image.

    Parameters
    ----------
    n_columns : int, default 128
        Cells of the map along the width of an image; as many per px along its height.

    Attributes
    ----------
    centre_, spread_ : float array, shape (2,)
        Mean and standard deviation of chosen fixations inside the image, x and y, as shares of width and height.

    Examples
    --------
    >>> from neuroattn.datasets import make_search_arrays
    >>> data = make_search_arrays(n_scenes=4, n_observers=2, seed=0)
    >>> model = CentreBias().fit(data)
    >>> density = model.conditional_log_density(data.scene_of(0), [], [])
    >>> width, height = data.scene_of(0).size
    >>> round(float(np.exp(density).mean() * width * height), 6)
    1.0
    """

    def __init__(self, n_columns: int = 128) -> None:
        self.n_columns = n_columns

    def _fit(self, dataset: ScanpathDataset) -> None:
        where = np.concatenate(
            [np.stack([x / scene.size[0], y / scene.size[1]]) for scene, x, y in _chosen(dataset)], axis=1
        )
        where = where[:, ((where >= 0) & (where < 1)).all(0)]
        if where.shape[1] < 2:
            raise ValueError(f"dataset must hold two chosen fixations in the image, got {where.shape[1]}")
        self.centre_ = where.mean(1)
        self.spread_ = np.maximum(where.std(1), 1e-3)

    def conditional_log_density(self, scene: ObjectScene, x: ArrayLike, y: ArrayLike) -> Floats:
        """Return the density of the next fixation, which does not depend on those so far.

        Parameters
        ----------
        scene : ObjectScene
        x, y : float array, shape (fixation,)

        Returns
        -------
        array, shape (row, column)
            Natural logarithm, per square px.
        """
        rows, columns = _cells(scene, self.n_columns)
        relative = ((np.arange(columns) + 0.5) / columns, (np.arange(rows) + 0.5) / rows)
        across, down = (
            -0.5 * ((at - centre) / spread) ** 2
            for at, centre, spread in zip(relative, self.centre_, self.spread_, strict=True)
        )
        return _normalised(down[:, None] + across, scene)


class SaliencySampling(PixelModel):
    """Look where a map is high, whatever was fixated before.

    Parameters
    ----------
    saliency : array, shape (row, column), or callable
        Not negative. A callable takes a scene and returns the map of its image.

    Examples
    --------
    >>> from neuroattn.datasets import ObjectScene
    >>> scene = ObjectScene.from_grid((40, 20), rows=1, columns=2)
    >>> model = SaliencySampling([[1.0, 3.0]])
    >>> state = PathState(scene, (None,), np.zeros((1, 0), int))
    >>> np.exp(model._object_log_prob(state)).round(3)
    array([[0.25, 0.75]])
    """

    def __init__(self, saliency: ArrayLike | Callable[[ObjectScene], ArrayLike]) -> None:
        self.saliency = saliency

    def conditional_log_density(self, scene: ObjectScene, x: ArrayLike, y: ArrayLike) -> Floats:
        """Return the density of the next fixation, which does not depend on those so far.

        Parameters
        ----------
        scene : ObjectScene
        x, y : float array, shape (fixation,)

        Returns
        -------
        array, shape (row, column)
            Natural logarithm, per square px.
        """
        values = np.asarray(self.saliency(scene) if callable(self.saliency) else self.saliency, dtype=float)
        if values.ndim != 2 or not (np.isfinite(values).all() and values.min() >= 0 and values.max() > 0):
            raise ValueError(
                f"saliency must be a map (row, column) without negative values and with a positive one, got "
                f"shape {values.shape} for scene {scene.name!r}"
            )
        with np.errstate(divide="ignore"):
            return _normalised(np.log(values), scene)


class PositionMarkov(ScanpathModel):
    """Step from place to place at the rates of the data, whatever lies there.

    Objects are told apart by their index, which must mean the same place in every scene.

    Parameters
    ----------
    pseudo_count : float, default 1
        Added to the count of every transition.

    Attributes
    ----------
    transition_ : float array, shape (object + 1, object)
        Rows: from each object, and last from the start.

    Raises
    ------
    ValueError
        If scenes differ in the number of their objects or in where these are.

    Examples
    --------
    >>> from neuroattn.datasets import make_search_arrays
    >>> data = make_search_arrays(n_scenes=4, n_observers=2, grid=(2, 3), seed=0)
    >>> PositionMarkov().fit(data).transition_.shape
    (7, 6)
    """

    def __init__(self, pseudo_count: float = 1.0) -> None:
        self.pseudo_count = pseudo_count

    def _fit(self, dataset: ScanpathDataset) -> None:
        check_range("pseudo_count", self.pseudo_count, 0)
        self._layout = np.empty(0)
        for scene in dataset.scenes.values():
            self._check_layout(scene)
        paths, lengths, _ = object_paths(dataset)
        n = len(self._layout)
        counts = np.full((n + 1, n), float(self.pseudo_count))
        before = np.concatenate([np.full((len(paths), 1), n), paths[:, :-1]], axis=1)[:, : paths.shape[1]]
        chosen = np.arange(paths.shape[1]) < lengths[:, None]
        np.add.at(counts, (before[chosen], paths[chosen]), 1)
        self.transition_ = counts / np.maximum(counts.sum(1, keepdims=True), np.finfo(float).tiny)

    def _check_layout(self, scene: ObjectScene) -> None:
        centres = np.stack([scene.x, scene.y], axis=1)
        if not len(self._layout):
            self._layout = centres
        if centres.shape != self._layout.shape:
            raise ValueError(
                f"scenes must have {len(self._layout)} objects like the others, got {len(centres)} in "
                f"{scene.name!r}"
            )
        if (np.abs(centres - self._layout) > scene.boxes[:, 2:] / 2).any():
            raise ValueError(f"scenes must hold object i in one place, got another place in {scene.name!r}")

    def _object_log_prob(self, state: PathState) -> Floats:
        self._check_layout(state.scene)
        row = np.full(len(state.past), len(self._layout)) if not state.past.shape[1] else state.past[:, -1]
        with np.errstate(divide="ignore"):
            return np.asarray(np.log(self.transition_[row]))


class ConditionalLogit(ScanpathModel):
    """Weigh a few features of each object and of the step to it.

    P(object | goes on) is proportional to exp(sum of weights times features) [1]_.

    ==============  ==========================================================================
    ``centre``      distance from the centre of the image to the object, in image diagonals
    ``x``, ``y``    place of the object, from -1 (left, top) to 1
    ``distance``    from where the path stands to the object, in image diagonals
    ``rightward``   cosine of the step's direction, 1 to the right
    ``downward``    sine, 1 downwards
    ``horizontal``  cosine of twice the direction, 1 to the left or right, -1 up or down
    ``visited``     1 for an object that was fixated before
    ``stay``        1 for the object that is fixated now, which was visited, too
    ``target``      1 for an object of the target's category
    ==============  ==========================================================================

    Parameters
    ----------
    penalty : float, default 1
        Half of it times the sum of squared weights is added to the negative log likelihood, so that features which
        do not vary get weight 0. In thousands of fixations its effect is far below the standard errors.

    Attributes
    ----------
    weights_ : float array, shape (feature,)
    covariance_ : float array, shape (feature, feature)
        Inverse of the observed information, the penalty included. It takes steps as independent.

    References
    ----------
    .. [1] McFadden (1974). Conditional logit analysis of qualitative choice behavior. In: Frontiers in Econometrics.

    Examples
    --------
    >>> from neuroattn.datasets import make_search_arrays
    >>> data = make_search_arrays(n_scenes=10, n_observers=4, seed=0)
    >>> model = ConditionalLogit().fit(data)
    >>> bool(model.coefficients().estimate.sel(feature="target") > 0)
    True
    """

    def __init__(self, penalty: float = 1.0) -> None:
        self.penalty = penalty

    def _fit(self, dataset: ScanpathDataset) -> None:
        check_range("penalty", self.penalty, 0)
        blocks = []
        for state, chosen in _steps(dataset):
            features = _features(state)
            blocks.append((features, chosen))
        widest = max((features.shape[1] for features, _ in blocks), default=0)
        n_steps = sum(len(chosen) for _, chosen in blocks)
        if not n_steps:
            raise ValueError("dataset must hold chosen fixations of objects, got none")
        # Scenes with fewer objects are filled up with objects that cannot be chosen.
        design = np.zeros((n_steps, widest, len(FEATURES)))
        exists = np.zeros((n_steps, widest), bool)
        target = np.concatenate([chosen for _, chosen in blocks])
        at = 0
        for features, chosen in blocks:
            rows = slice(at, at + len(chosen))
            design[rows, : features.shape[1]] = features
            exists[rows, : features.shape[1]] = True
            at += len(chosen)
        self.weights_, self.covariance_ = _maximise(design, exists, target, self.penalty)

    def _object_log_prob(self, state: PathState) -> Floats:
        return np.asarray(log_softmax(_features(state) @ self.weights_, axis=1))

    def coefficients(self, level: float = 0.95) -> xr.Dataset:
        """Return the weights with standard errors and confidence intervals.

        Parameters
        ----------
        level : float, default 0.95

        Returns
        -------
        Dataset, dims (feature, bound)
            ``estimate``, ``standard_error``, ``interval``: normal, from the observed information. Steps of one person
            or image are taken as independent, so that intervals of real data are too narrow.
        """
        check_range("level", level, 0, 1)
        error = np.sqrt(np.diag(self.covariance_))
        half = stats.norm.ppf((1 + level) / 2) * error
        return xr.Dataset(
            {
                "estimate": ("feature", self.weights_),
                "standard_error": ("feature", error),
                "interval": (
                    ("feature", "bound"),
                    np.stack([self.weights_ - half, self.weights_ + half], axis=1),
                ),
            },
            coords={"feature": list(FEATURES), "bound": ["low", "high"]},
            attrs={**self._attrs(), "penalty": self.penalty, "level": level},
        )


class _Rule(ScanpathModel):
    """A rule of search with lapses: with this probability any object is looked at instead."""

    def __init__(self, lapse: float | None = 0.0) -> None:
        self.lapse = lapse

    def _rule(self, state: PathState) -> Floats:
        """Return P(object) of the rule, shape (path, object)."""
        raise NotImplementedError

    def _fit(self, dataset: ScanpathDataset) -> None:
        if self.lapse is not None:
            check_range("lapse", self.lapse, 0, 1)
            self.lapse_ = self.lapse
            return
        ruled, uniform = [], []
        for state, chosen in _steps(dataset):
            ruled.append(self._rule(state)[np.arange(len(chosen)), chosen])
            uniform.append(np.full(len(chosen), 1 / state.scene.n_objects))
        p, q = np.concatenate(ruled), np.concatenate(uniform)
        # With the lowest and the highest rate out of reach every path stays possible.
        found = minimize_scalar(
            lambda lapse: -np.log((1 - lapse) * p + lapse * q).sum(), bounds=(1e-6, 1), method="bounded"
        )
        self.lapse_ = float(found.x)

    def _object_log_prob(self, state: PathState) -> Floats:
        with np.errstate(divide="ignore"):
            return np.asarray(
                np.log((1 - self.lapse_) * self._rule(state) + self.lapse_ / state.scene.n_objects)
            )


class MemoryFullRandom(_Rule):
    """Look at any object that was not fixated yet; at any at all once all were.

    A searcher without preferences who never forgets: of n objects it has found the target after k fixations with
    probability k / n.

    Parameters
    ----------
    lapse : float or None, default 0
        Probability of looking at any object instead. None: fitted by maximum likelihood. People return, which the
        rule without lapses holds for impossible; its bits per fixation are then infinite.

    Examples
    --------
    >>> from neuroattn.datasets import make_search_arrays
    >>> data = make_search_arrays(n_scenes=4, n_observers=2, seed=0)
    >>> scene = data.scene_of(0)
    >>> path = MemoryFullRandom().fit(data).sample(scene, seed=0).object.values[0]
    >>> bool(np.unique(path[path >= 0]).size == (path >= 0).sum())
    True
    """

    def _rule(self, state: PathState) -> Floats:
        return _among(state, np.ones((len(state.past), state.scene.n_objects)))


class NearestUnvisited(_Rule):
    """Look at the nearest object that was not fixated yet; equally near ones have equal probability.

    Distances are between centres, equal within one px. Once all objects were fixated, the nearest of all others.

    Parameters
    ----------
    lapse : float or None, default 0
        Probability of looking at any object instead. None: fitted by maximum likelihood.

    Examples
    --------
    >>> from neuroattn.datasets import ObjectScene
    >>> scene = ObjectScene.from_grid((60, 20), rows=1, columns=3)
    >>> NearestUnvisited()._rule(PathState(scene, (None,), np.array([[0]])))
    array([[0., 1., 0.]])
    """

    def _rule(self, state: PathState) -> Floats:
        distance = np.hypot(state.scene.x - state.x[:, None], state.scene.y - state.y[:, None])
        visited = state.visited
        if state.past.shape[1]:
            current = np.zeros_like(visited)
            np.put_along_axis(current, state.past[:, -1:], state.scene.n_objects > 1, axis=1)
            visited = np.where(visited.all(1, keepdims=True), current, visited)
        distance = np.where(visited, np.inf, distance)
        nearest = distance <= distance.min(1, keepdims=True) + 1
        return np.asarray(nearest / nearest.sum(1, keepdims=True))


def gold_standard(
    dataset: ScanpathDataset,
    *,
    over: str,
    bandwidths: ArrayLike = (0.01, 0.02, 0.04, 0.08),
    previous_bandwidths: ArrayLike = (0.05, 0.2, np.inf),
    floors: ArrayLike = (0.01, 0.05, 0.2, 0.5),
    n_folds: int = 5,
    seed: int = 0,
) -> xr.Dataset:
    """Predict each person's fixations from those of the others in the same scene.

    The next fixation is a mixture of Gaussians around those of the other observers, each weighed by a Gaussian of
    how near its preceding fixation was to where the person now stands, and of a uniform floor. It is the likelihood
    that a model of this form can reach when it has seen the very scene, not a bound for all models.

    Parameters
    ----------
    dataset : ScanpathDataset
    over : {"objects", "pixels"}
        What is predicted: the object given that the path goes on, or the place in the image.
    bandwidths, previous_bandwidths : float array
        Standard deviations of the two Gaussians, in widths of the image; infinite: what came before has no weight.
    floors : float array
        Weights of the uniform distribution.
    n_folds : int, default 5
        Both bandwidths and the floor are those with the highest likelihood in the scenes of the other folds, every
        observer left out in turn.
    seed : int, default 0
        Of the folds.

    Returns
    -------
    Dataset, dims (trial, fixation)
        ``log_prob``, as `ScanpathModel.log_prob` or, over pixels, as `PixelModel.log_density`; ``bandwidth``,
        ``previous_bandwidth`` and ``floor`` (trial). Uniform where nobody else saw the scene.

    Examples
    --------
    >>> from neuroattn.datasets import make_search_arrays
    >>> data = make_search_arrays(n_scenes=6, n_observers=5, seed=0)
    >>> best = gold_standard(data, over="objects")
    >>> best.log_prob.dims
    ('trial', 'fixation')
    """
    check_option("over", over, ("objects", "pixels"))
    grid = [
        (float(b), float(p), float(f))
        for b in np.atleast_1d(bandwidths)
        for p in np.atleast_1d(previous_bandwidths)
        for f in np.atleast_1d(floors)
    ]
    if any(b <= 0 or p <= 0 or not 0 < f <= 1 for b, p, f in grid):
        raise ValueError("bandwidths must be above 0 and floors above 0 and at most 1")
    data = dataset.data
    scenes = data["scene"].values.astype(str)
    observers = data["observer"].values.astype(str)
    names = np.unique(scenes)
    check_range("n_folds", n_folds, 2, len(names))
    fold = np.random.default_rng(seed).permutation(len(names)) % n_folds
    steps = _objects_steps(dataset) if over == "objects" else _pixel_steps(dataset)
    likelihoods = []
    for name in names:
        trials = np.flatnonzero(scenes == name)
        here = np.flatnonzero(np.isin(steps.trial, trials))
        likelihoods.append(
            _left_out(dataset.scene_of(int(trials[0])), steps.take(here), observers, grid, over == "objects")
        )
    totals = np.stack([likelihood.sum(1) for likelihood in likelihoods])
    out = np.full((data.sizes["trial"], data.sizes["fixation"]), np.nan)
    chosen = np.zeros((data.sizes["trial"], 3))
    for i, name in enumerate(names):
        best = int(totals[fold != fold[i]].sum(0).argmax())
        trials = np.flatnonzero(scenes == name)
        here = np.flatnonzero(np.isin(steps.trial, trials))
        out[steps.trial[here], steps.column[here]] = likelihoods[i][best]
        chosen[trials] = grid[best]
    coords = {k: v for k, v in data.coords.items() if v.dims == ("trial",)}
    return xr.Dataset(
        {
            "log_prob": (("trial", "fixation"), out),
            "bandwidth": ("trial", chosen[:, 0], {"units": "image width"}),
            "previous_bandwidth": ("trial", chosen[:, 1], {"units": "image width"}),
            "floor": ("trial", chosen[:, 2]),
        },
        coords=coords,
        attrs={"over": over, "n_folds": n_folds, "seed": seed},
    )


class _StepTable:
    """Chosen fixations in a row: whose, where from, where to."""

    def __init__(self, trial: Objects, column: Objects, start: Floats, end: Floats, target: Objects) -> None:
        self.trial, self.column, self.start, self.end, self.target = trial, column, start, end, target

    def take(self, rows: NDArray[np.intp]) -> _StepTable:
        return _StepTable(
            self.trial[rows], self.column[rows], self.start[rows], self.end[rows], self.target[rows]
        )


def _objects_steps(dataset: ScanpathDataset) -> _StepTable:
    paths, lengths, column = object_paths(dataset)
    trial, step = np.nonzero(np.arange(paths.shape[1]) < lengths[:, None])
    end = np.zeros((len(trial), 2))
    start = np.zeros((len(trial), 2))
    for row, (i, k) in enumerate(zip(trial.tolist(), step.tolist(), strict=True)):
        scene = dataset.scene_of(i)
        end[row] = scene.x[paths[i, k]], scene.y[paths[i, k]]
        start[row] = end[row - 1] if k else (scene.size[0] / 2, scene.size[1] / 2)
    return _StepTable(trial, column[trial, step], start, end, paths[trial, step])


def _pixel_steps(dataset: ScanpathDataset) -> _StepTable:
    data = dataset.data
    first = int(dataset.first_fixation == "initial")
    rows: list[tuple[int, int]] = []
    start, end = [], []
    for i, length in enumerate(data["length"].values.tolist()):
        width, height = dataset.scene_of(i).size
        place = np.stack([data["x"].values[i, :length], data["y"].values[i, :length]], axis=1)
        for k in range(first, length):
            if (place[k] >= 0).all() and place[k, 0] < width and place[k, 1] < height:
                rows.append((i, k))
                start.append(place[k - 1] if k else np.array([width / 2, height / 2]))
                end.append(place[k])
    table = np.asarray(rows, dtype=np.int64).reshape(-1, 2)
    shape = (len(rows), 2)
    return _StepTable(
        table[:, 0],
        table[:, 1],
        np.asarray(start).reshape(shape),
        np.asarray(end).reshape(shape),
        np.full(len(rows), -1),
    )


def _left_out(
    scene: ObjectScene,
    steps: _StepTable,
    observers: NDArray[np.str_],
    grid: list[tuple[float, float, float]],
    objects: bool,
) -> Floats:
    """Return the log likelihood of each step given the other observers' ones, shape (setting, step)."""
    width, height = scene.size
    uniform = 1 / scene.n_objects if objects else 1 / (width * height)
    who = observers[steps.trial]
    other = who[:, None] != who
    out = np.empty((len(grid), len(who)))
    centres = np.stack([scene.x, scene.y], axis=1) if objects else np.empty((0, 2))
    from_start = ((steps.start[:, None] - steps.start) ** 2).sum(-1)
    kernels: dict[float, Floats] = {}
    weights: dict[float, Floats] = {}
    for i, (bandwidth, previous, floor) in enumerate(grid):
        if bandwidth not in kernels:
            kernels[bandwidth] = _kernel(steps, centres, bandwidth * width, scene.size, objects)
        if previous not in weights:
            exponent = np.where(other, -from_start / (2 * (previous * width) ** 2), -np.inf)
            highest = exponent.max(1, keepdims=True, initial=-np.inf)
            weight = np.exp(exponent - np.where(np.isfinite(highest), highest, 0))
            weights[previous] = weight / np.maximum(weight.sum(1, keepdims=True), np.finfo(float).tiny)
        density = (weights[previous] * kernels[bandwidth]).sum(1)
        out[i] = np.log(np.where(other.any(1), (1 - floor) * density + floor * uniform, uniform))
    return out


def _kernel(
    steps: _StepTable, centres: Floats, bandwidth: float, size: tuple[int, int], objects: bool
) -> Floats:
    """Return what each step's place gets from a Gaussian around each other's, shape (step, step)."""
    if objects:
        squared = ((steps.end[:, None] - centres) ** 2).sum(-1)  # from, object
        share = np.exp(log_softmax(-squared / (2 * bandwidth**2), axis=1))
        return np.asarray(share[:, steps.target].T)
    density = np.ones((len(steps.end), len(steps.end)))
    for axis, extent in enumerate(size):
        at = steps.end[:, axis]
        inside = stats.norm.cdf((extent - at) / bandwidth) - stats.norm.cdf(-at / bandwidth)
        density *= stats.norm.pdf((at[:, None] - at) / bandwidth) / bandwidth / inside
    return density


def _chosen(dataset: ScanpathDataset) -> Iterator[tuple[ObjectScene, Floats, Floats]]:
    """Yield the scene and the places of the chosen fixations of each trial."""
    data = dataset.data
    first = int(dataset.first_fixation == "initial")
    x, y = data["x"].values, data["y"].values
    for i, length in enumerate(data["length"].values.tolist()):
        yield dataset.scene_of(i), x[i, first:length], y[i, first:length]


def _steps(dataset: ScanpathDataset) -> Iterator[tuple[PathState, Objects]]:
    """Yield, scene by scene and step by step, the paths so far and the objects that were chosen next."""
    paths, lengths, _ = object_paths(dataset)
    scenes = dataset.data["scene"].values.astype(str)
    observers = dataset.data["observer"].values.astype(str)
    for name in np.unique(scenes):
        rows = np.flatnonzero(scenes == name)
        scene = dataset.scene_of(int(rows[0]))
        for step in range(int(lengths[rows].max())):
            on = rows[lengths[rows] > step]
            yield PathState(scene, tuple(observers[on].tolist()), paths[on, :step]), paths[on, step]


def _features(state: PathState) -> Floats:
    """Return the features of each object for each path, shape (path, object, feature)."""
    scene = state.scene
    width, height = scene.size
    diagonal = np.hypot(width, height)
    across, down = scene.x - state.x[:, None], scene.y - state.y[:, None]
    length = np.hypot(across, down)
    safe = np.maximum(length, 1e-9)  # a step to where the path stands has no direction
    right, below = across / safe, down / safe
    current = np.zeros(length.shape, bool)
    if state.past.shape[1]:
        np.put_along_axis(current, state.past[:, -1:], True, axis=1)
    columns = {
        "centre": np.hypot(scene.x - width / 2, scene.y - height / 2) / diagonal,
        "x": 2 * scene.x / width - 1,
        "y": 2 * scene.y / height - 1,
        "distance": length / diagonal,
        "rightward": right,
        "downward": below,
        "horizontal": right**2 - below**2,
        "visited": state.visited,
        "stay": current,
        "target": scene.matches_target,
    }
    return np.stack([np.broadcast_to(columns[name], length.shape) for name in FEATURES], axis=2).astype(float)


def _maximise(
    design: Floats, exists: NDArray[np.bool_], target: Objects, penalty: float
) -> tuple[Floats, Floats]:
    """Return weights and their covariance by Newton's method with halved steps."""
    n_features = design.shape[2]
    rows = np.arange(len(target))
    # Without a penalty a feature that never varies would have no weight at all.
    ridge = max(penalty, 1e-8) * np.eye(n_features)

    def objective(weights: Floats) -> tuple[float, Floats]:
        log_p = log_softmax(np.where(exists, design @ weights, -np.inf), axis=1)
        return float(-log_p[rows, target].sum() + weights @ ridge @ weights / 2), np.exp(log_p)

    weights = np.zeros(n_features)
    value, p = objective(weights)
    for _ in range(100):
        mean = np.einsum("so,sof->sf", p, design)
        gradient = ridge @ weights - (design[rows, target] - mean).sum(0)
        second = np.einsum("sof,so,sog->fg", design, p, design, optimize=True) - mean.T @ mean + ridge
        step = np.linalg.solve(second, gradient)
        decrease = float(gradient @ step)
        if decrease < 1e-9 * max(1.0, abs(value)):
            return weights, np.linalg.inv(second)
        size = 1.0
        while True:
            new_value, new_p = objective(weights - size * step)
            if new_value <= value - 1e-4 * size * decrease or size < 1e-6:
                break
            size /= 2
        weights, value, p = weights - size * step, new_value, new_p
    raise ValueError(f"conditional logit did not converge in 100 steps with penalty {penalty}")


def _among(state: PathState, weight: Floats) -> Floats:
    """Return probabilities in proportion to a weight among objects not fixated yet, or among all."""
    visited = state.visited
    weight = np.where(visited & ~visited.all(1, keepdims=True), 0, weight)
    return np.asarray(weight / weight.sum(1, keepdims=True))


def _cells(scene: ObjectScene, n_columns: int) -> tuple[int, int]:
    check_range("n_columns", n_columns, 1)
    width, height = scene.size
    return max(round(n_columns * height / width), 1), n_columns


def _normalised(log_weight: Floats, scene: ObjectScene) -> Floats:
    """Return the logarithm of a density per square px."""
    width, height = scene.size
    flat = log_softmax(log_weight.ravel()).reshape(log_weight.shape)
    return np.asarray(flat - np.log(width * height / log_weight.size))
