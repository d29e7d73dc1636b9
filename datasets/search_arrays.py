"""A simulated searcher with known parameters, looking at drawn arrays of objects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from neuroattn._checks import check_range, check_seed
from neuroattn.datasets.scanpaths import ScanpathDataset
from neuroattn.datasets.scenes import ObjectScene
from neuroattn.results import Scanpath, provenance

COVARIATES = ("centre", "distance", "horizontal", "visited", "target")
WEIGHTS = {"centre": -1.0, "distance": -4.0, "horizontal": 0.5, "visited": -2.5, "target": 1.5}

_CATEGORIES = ("disc", "square", "triangle", "diamond", "ring", "cross", "bar", "star")
_COLOURS = (
    *((200, 60, 50), (60, 110, 200), (70, 160, 80), (220, 170, 50)),
    *((150, 80, 170), (60, 170, 170), (230, 130, 160), (90, 70, 40)),
)
_BACKGROUND = 128
_N_FEATURES = 16
_SACCADE = 0.03  # s


def make_search_arrays(
    *,
    n_scenes: int = 60,
    n_observers: int = 5,
    n_objects: int = 6,
    grid: tuple[int, int] | None = None,
    image_size: tuple[int, int] = (320, 240),
    weights: Mapping[str, float] | None = None,
    observer_spread: float = 0.0,
    duration: float = 0.25,
    duration_spread: float = 0.3,
    stop_on_target: float = 0.95,
    give_up: float = 0.02,
    max_fixations: int = 12,
    seed: int = 0,
) -> ScanpathDataset:
    """Simulate observers who search arrays of objects by a conditional logit with known weights.

    Every observer searches every scene once for the one object of the target's category. The probability that the
    next fixation goes to object j is proportional to the exponential of the sum of weights times covariates; see
    :func:`search_covariates`.

    Parameters
    ----------
    n_scenes, n_observers : int
    n_objects : int, default 6
        Of each scene, at random free places; not used with ``grid``.
    grid : tuple of int, (rows, columns), optional
        A full grid of objects instead.
    image_size : tuple of int, (width, height), default (320, 240)
        px; 16 px are one degree.
    weights : mapping of str to float, optional
        Those that differ from the default: "centre" -1 and "distance" -4 per image diagonal, "horizontal" 0.5,
        "visited" -2.5, "target" 1.5.
    observer_spread : float, default 0
        Standard deviation of observers' weights around those, as a share of them, and of the logarithm of their
        median durations.
    duration : float, default 0.25
        Median duration of a fixation, s.
    duration_spread : float, default 0.3
        Standard deviation of the logarithm of durations within an observer.
    stop_on_target, give_up : float, default 0.95 and 0.02
        Probability that the trial ends after a fixation of the target, and after another.
    max_fixations : int, default 12
        Most chosen fixations of a trial.
    seed : int, default 0

    Returns
    -------
    ScanpathDataset
        Scenes have drawn images, labels, features, and as exemplar another object of the target's category. The
        first fixation is initial, near the image's centre. Attributes: ``simulated`` 1, ``config`` (every parameter
        above as JSON) and ``observer_weights`` (by observer and covariate, in their order).

    Raises
    ------
    ValueError
        If a weight is unknown or a number is out of range.

    Examples
    --------
    >>> dataset = make_search_arrays(n_scenes=4, n_observers=2, seed=0)
    >>> len(dataset), dataset.scene_of(0).crops((32, 32)).shape, dataset.data.attrs["simulated"]
    (8, (6, 32, 32, 3), 1)
    >>> int(dataset.scene_of(0).matches_target.sum())
    1
    """
    config: dict[str, Any] = dict(locals())
    rng = check_seed(seed)
    unknown = sorted(set(weights or {}) - set(COVARIATES))
    if unknown:
        raise ValueError(f"weights must be of {', '.join(COVARIATES)}, got {unknown[0]!r}")
    planted = WEIGHTS | {name: float(value) for name, value in (weights or {}).items()}
    for name in ("n_scenes", "n_observers", "max_fixations"):
        check_range(name, config[name], 1)
    for name in ("observer_spread", "duration", "duration_spread"):
        check_range(name, config[name], 0)
    for name in ("stop_on_target", "give_up"):
        check_range(name, config[name], 0, 1)
    mean = np.array([planted[name] for name in COVARIATES])
    of_observer = mean * (1 + observer_spread * rng.normal(size=(n_observers, len(COVARIATES))))
    medians = duration * np.exp(observer_spread * rng.normal(size=n_observers))
    prototypes = rng.normal(size=(len(_CATEGORIES), _N_FEATURES))
    scenes = {}
    for i in range(n_scenes):
        name = f"array{i:04d}"
        scenes[name] = _draw_scene(name, n_objects, grid, image_size, prototypes, rng)
    paths = []
    for name, scene in scenes.items():
        for observer in range(n_observers):
            objects = _search(scene, of_observer[observer], stop_on_target, give_up, max_fixations, rng)
            x, y = _land(scene, objects, rng)
            durations = medians[observer] * np.exp(duration_spread * rng.normal(size=len(x)))
            paths.append(
                Scanpath(
                    x,
                    y,
                    scene.size,
                    t_start=np.concatenate([[0.0], np.cumsum(durations[:-1] + _SACCADE)]),
                    duration=durations,
                    objects=scene.assign(x, y),
                    found=bool(scene.matches_target[objects[-1]]),
                    px_per_degree=scene.px_per_degree,
                    attrs={
                        "observer": str(observer + 1),
                        "image": f"{name}.png",
                        "scene": name,
                        "task": "search",
                        "condition": "present",
                        "target": scene.target_label,
                    },
                )
            )
    attrs = provenance(seed, config | {"weights": planted, "px_per_degree": 16.0}) | {
        "simulated": 1,
        "source": "simulated by neuroattn.datasets.make_search_arrays",
        "observer_weights": of_observer.ravel(),
    }
    return ScanpathDataset.from_scanpaths(paths, scenes=scenes, attrs=attrs)


def search_covariates(
    scene: ObjectScene, x: float, y: float, visited: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Return what the simulated searcher weighs, shape (object, covariate).

    Parameters
    ----------
    scene : ObjectScene
    x, y : float
        Where the searcher stands, px: the centre of the last object, or of the image at first.
    visited : bool array, shape (object,)
        Objects fixated before, the last one among them; an initial fixation visits none.

    Returns
    -------
    float array, shape (object, 5)
        In the order of ``COVARIATES``: distance from the image's centre and from the last fixation, in image
        diagonals; cosine of twice the direction from the last fixation (1 along the horizontal, -1 along the
        vertical, 0 for the object itself); visited before; matches the target.

    Examples
    --------
    >>> scene = ObjectScene([[20, 30, 20, 20], [60, 30, 20, 20]], (80, 60), target=1)
    >>> search_covariates(scene, 30, 40, np.array([True, False])).round(3)
    array([[0.141, 0.   , 0.   , 1.   , 0.   ],
           [0.316, 0.4  , 1.   , 0.   , 1.   ]])
    """
    diagonal = np.hypot(*scene.size)
    dx, dy = scene.x - x, scene.y - y
    distance = np.hypot(dx, dy)
    from_centre = np.hypot(scene.x - scene.size[0] / 2, scene.y - scene.size[1] / 2)
    horizontal = (dx**2 - dy**2) / np.where(distance > 0, distance, 1) ** 2
    return np.stack(
        [from_centre / diagonal, distance / diagonal, horizontal, visited, scene.matches_target], 1
    ).astype(np.float64)


def _search(
    scene: ObjectScene,
    weights: NDArray[np.float64],
    stop_on_target: float,
    give_up: float,
    max_fixations: int,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Return the objects of one trial, at least one."""
    x, y = scene.size[0] / 2, scene.size[1] / 2
    visited = np.zeros(scene.n_objects, bool)
    objects: list[int] = []
    while len(objects) < max_fixations:
        utility = search_covariates(scene, x, y, visited) @ weights
        # The largest of utilities with Gumbel noise is a draw from the conditional logit.
        chosen = int((utility + rng.gumbel(size=len(utility))).argmax())
        objects.append(chosen)
        visited[chosen] = True
        x, y = scene.x[chosen], scene.y[chosen]
        if rng.random() < (stop_on_target if scene.matches_target[chosen] else give_up):
            break
    return np.array(objects, dtype=np.int64)


def _land(
    scene: ObjectScene, objects: NDArray[np.int64], rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return fixations scattered within their objects, after an initial one at the image's centre."""
    scatter = np.clip(rng.normal(0, 0.12, (2, len(objects))), -0.45, 0.45)
    initial = rng.normal(0, 0.01, 2) * scene.size
    x = scene.x[objects] + scatter[0] * scene.boxes[objects, 2]
    y = scene.y[objects] + scatter[1] * scene.boxes[objects, 3]
    return (
        np.concatenate([[scene.size[0] / 2 + initial[0]], x]),
        np.concatenate([[scene.size[1] / 2 + initial[1]], y]),
    )


def _draw_scene(
    name: str,
    n_objects: int,
    grid: tuple[int, int] | None,
    size: tuple[int, int],
    prototypes: NDArray[np.float64],
    rng: np.random.Generator,
) -> ObjectScene:
    if grid is None:
        check_range("n_objects", n_objects, 2)
        # Random cells of a grid with room to spare, and a random place within each: free, and without overlap.
        columns = int(np.ceil(np.sqrt(2 * n_objects)))
        rows = int(np.ceil(2 * n_objects / columns))
        cells = rng.permutation(rows * columns)[:n_objects]
        share = 0.75
    else:
        rows, columns = grid
        check_range("grid", rows * columns, 2)
        cells = np.arange(rows * columns)
        share = 0.9
    n = len(cells)
    cell = np.array([size[0] / columns, size[1] / rows])
    side = share * cell.min()
    if side < 4:
        raise ValueError(f"image_size must give each object at least 4 px, got {size} for {n} objects")
    offset = (cell - side) / 2 if grid is not None else rng.random((n, 2)) * (cell - side)
    corner = (np.stack([cells % columns, cells // columns], 1) * cell + offset).round()
    boxes = np.column_stack([corner, np.full((n, 2), np.floor(side))])
    searched, target = int(rng.integers(len(_CATEGORIES))), int(rng.integers(n))
    others = np.delete(np.arange(len(_CATEGORIES)), searched)
    category = rng.choice(others, n)
    category[target] = searched
    width = int(np.floor(side))
    image = np.full((size[1], size[0], 3), _BACKGROUND, np.uint8)
    for (x, y), kind in zip(corner.astype(int).tolist(), category.tolist(), strict=True):
        image[y : y + width, x : x + width] = _draw_object(kind, width, rng)
    features = prototypes[category] + 0.3 * rng.normal(size=(n, _N_FEATURES))
    return ObjectScene(
        boxes,
        size,
        labels=tuple(_CATEGORIES[kind] for kind in category),
        target=target,
        target_label=_CATEGORIES[searched],
        image=image,
        features=features,
        exemplar=_draw_object(searched, width, rng),
        exemplar_features=prototypes[searched] + 0.3 * rng.normal(size=_N_FEATURES),
        grid=grid,
        px_per_degree=16.0,
        name=name,
    )


def _draw_object(kind: int, side: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Draw one object of a category, with its own size, turn and shade, on the background."""
    n = 64
    canvas = Image.new("RGB", (n, n), (_BACKGROUND,) * 3)
    draw = ImageDraw.Draw(canvas)
    colour = tuple(np.clip(np.array(_COLOURS[kind]) + rng.integers(-20, 21), 0, 255).tolist())
    r = n * rng.uniform(0.3, 0.42)
    turn = rng.uniform(-0.15, 0.15)

    def corners(angles: Any, radii: Any) -> list[tuple[float, float]]:
        angles = np.asarray(angles) + turn
        x, y = n / 2 + radii * np.cos(angles), n / 2 + radii * np.sin(angles)
        return list(zip(x.tolist(), y.tolist(), strict=True))

    box = (n / 2 - r, n / 2 - r, n / 2 + r, n / 2 + r)
    quarter = np.pi / 2 * np.arange(4)
    shape = _CATEGORIES[kind]
    if shape == "disc":
        draw.ellipse(box, fill=colour)
    elif shape == "ring":
        draw.ellipse(box, outline=colour, width=n // 8)
    elif shape == "cross":
        for angle in (0, np.pi / 2):
            draw.line(corners([angle, angle + np.pi], r), fill=colour, width=n // 6)
    elif shape == "bar":
        draw.line(corners([np.pi / 2, -np.pi / 2], r), fill=colour, width=n // 4)
    else:
        outlines: dict[str, tuple[Any, Any]] = {
            "square": (quarter + np.pi / 4, r),
            "diamond": (quarter, r),
            "triangle": (2 * np.pi / 3 * np.arange(3) - np.pi / 2, r),
            "star": (np.pi / 5 * np.arange(10) - np.pi / 2, np.where(np.arange(10) % 2, r / 2.5, r)),
        }
        draw.polygon(corners(*outlines[shape]), fill=colour)
    return np.asarray(canvas.resize((side, side), Image.Resampling.BILINEAR))
