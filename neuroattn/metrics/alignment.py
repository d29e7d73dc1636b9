"""MultiMatch: scanpaths aligned saccade by saccade, many pairs at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from neuroattn._checks import check_range
from neuroattn.metrics._fixations import Fixations, as_list, column, durations, size_of, xy

DIMENSIONS = ("shape", "direction", "length", "position", "duration")
_FEWEST = 3  # fixations
_PAIRS_AT_ONCE = 256


@dataclass(frozen=True, kw_only=True)
class Simplification:
    """Which saccades MultiMatch joins before it compares: those that are in line, and those that are short.

    Parameters
    ----------
    direction : float
        Degrees. Two saccades in a row are joined where they turn by less than this and the fixation between them
        is shorter than ``duration``.
    amplitude : float
        Px. A saccade shorter than this is joined with the next one, the last with the one before, where one of the
        two fixations around the saccade is shorter than ``duration``.
    duration : float
        Seconds.

    Examples
    --------
    >>> Simplification(direction=45, amplitude=147, duration=0.3)
    Simplification(direction=45, amplitude=147, duration=0.3)
    """

    direction: float
    amplitude: float
    duration: float

    def __post_init__(self) -> None:
        check_range("direction", self.direction, 0, 180)
        check_range("amplitude", self.amplitude, 0)
        check_range("duration", self.duration, 0)


def multimatch(
    a: Fixations,
    b: Fixations,
    *,
    image_size: tuple[int, int] | None = None,
    simplify: Simplification | None = None,
) -> xr.DataArray:
    """Compare two scanpaths with MultiMatch [1]_ [2]_.

    The saccades of both are aligned by the cheapest path through the table of their vector differences, from the
    first pair to the last by steps right, down or along the diagonal. Each dimension is 1 minus the median
    difference along that path: ``shape`` the length of the vector difference over twice the diagonal of the image,
    ``direction`` the angle between the saccades over 180 degrees, ``length`` the difference of their lengths and
    ``position`` the distance of their starts over the diagonal, ``duration`` the difference of the durations of
    the fixations they start from over the longer of the two.

    Parameters
    ----------
    a, b : Scanpath or mapping of arrays x, y and, for the duration, duration, shape (fixation,)
        Px and seconds.
    image_size : tuple of int, (width, height), optional
        Px; by default that of the scanpaths.
    simplify : Simplification, optional
        What is joined beforehand; nothing by default.

    Returns
    -------
    DataArray, dims (dimension,)
        1 for equal scanpaths. NaN with its reason in the coordinate ``reason`` where either has fewer than three
        fixations, and in ``duration`` where either has no durations.

    See Also
    --------
    multimatch_pairs : the same for many pairs, much faster than one at a time.

    Notes
    -----
    The method leaves open which of several cheapest paths to take. Here, from the end, the diagonal step goes first,
    then the one back in ``a``, then the one back in ``b``. Ties are common on grids of objects and rare in px,
    where the results equal those of the package multimatch-gaze.

    References
    ----------
    .. [1] Jarodzka, Holmqvist & Nyström (2010). A vector-based, multidimensional scanpath similarity measure. ETRA.
    .. [2] Dewhurst, Nyström, Jarodzka, Foulsham, Johansson & Holmqvist (2012). It depends on how you look at it:
       scanpath comparison in multiple dimensions with MultiMatch. Behavior Research Methods 44, 1079-1100.

    Examples
    --------
    >>> a = {"x": [100, 300, 500], "y": [100, 100, 300], "duration": [0.2, 0.3, 0.2]}
    >>> b = {"x": [100, 300, 500], "y": [150, 150, 350], "duration": [0.2, 0.3, 0.4]}
    >>> multimatch(a, b, image_size=(800, 600)).to_series().round(3).to_dict()
    {'shape': 1.0, 'direction': 1.0, 'length': 1.0, 'position': 0.95, 'duration': 1.0}
    """
    return multimatch_pairs([a], [b], image_size=image_size, simplify=simplify).isel(pair=0)


def multimatch_pairs(
    a: Sequence[Fixations],
    b: Sequence[Fixations],
    *,
    image_size: tuple[int, int] | None = None,
    simplify: Simplification | None = None,
) -> xr.DataArray:
    """Compare many pairs of scanpaths with MultiMatch, all in one run over the tables of their saccades.

    Parameters
    ----------
    a, b : sequence of Scanpath or of mappings, equally long
        One pair at each place; see `multimatch`.
    image_size : tuple of int, (width, height), optional
        Px; by default that of the scanpaths, which may differ from pair to pair.
    simplify : Simplification, optional

    Returns
    -------
    DataArray, dims (pair, dimension)
        As `multimatch`, with the coordinate ``reason`` (pair), empty where nothing is missing.

    Raises
    ------
    ValueError
        If the sequences differ in length, or no image size is known.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> def path(n):
    ...     return {"x": rng.uniform(0, 800, n), "y": rng.uniform(0, 600, n), "duration": rng.uniform(0.1, 0.5, n)}
    >>> similarity = multimatch_pairs([path(8), path(2)], [path(9), path(7)], image_size=(800, 600))
    >>> similarity.notnull().all("dimension").values, similarity.reason[1].item()
    (array([ True, False]), 'a has 2 fixations, at least 3 are needed')
    """
    first, second = as_list("a", a), as_list("b", b)
    if len(first) != len(second):
        raise ValueError(f"b must hold as many scanpaths as a, {len(first)}, got {len(second)}")
    values = np.full((len(first), len(DIMENSIONS)), np.nan)
    reasons = [""] * len(first)
    pairs: list[tuple[int, _Saccades, _Saccades, float]] = []
    for i, (one, other) in enumerate(zip(first, second, strict=True)):
        width, height = size_of(image_size, a=one, b=other)
        sides = [_read(name, path) for name, path in (("a", one), ("b", other))]
        short = [
            f"{name} has {n} fixation{'s' * (n != 1)}, at least {_FEWEST} are needed"
            for name, side in zip("ab", sides, strict=True)
            if (n := len(side.x)) < _FEWEST
        ]
        if short:
            reasons[i] = "; ".join(short)
            continue
        if any(side.duration is None for side in sides):
            if simplify is not None:
                raise ValueError("a and b must hold 'duration' in seconds where simplify is given, got none")
            reasons[i] = "duration: not given"
        u, v = (_saccades(side, simplify) for side in sides)
        pairs.append((i, u, v, float(np.hypot(width, height))))
    # Pairs of like sizes go together, so that their tables waste little.
    pairs.sort(key=lambda pair: (len(pair[1].dx), len(pair[2].dx)))
    for start in range(0, len(pairs), _PAIRS_AT_ONCE):
        chunk = pairs[start : start + _PAIRS_AT_ONCE]
        values[[i for i, *_ in chunk]] = _compare(
            [u for _, u, _, _ in chunk], [v for _, _, v, _ in chunk], np.array([d for *_, d in chunk])
        )
    return xr.DataArray(
        values,
        dims=("pair", "dimension"),
        coords={"dimension": list(DIMENSIONS), "reason": ("pair", np.asarray(reasons, dtype=np.str_))},
        name="multimatch",
        attrs={
            "image_size": "of the scanpaths" if image_size is None else list(image_size),
            "simplify": "none" if simplify is None else str(asdict(simplify)),
            "ties": "diagonal, then a, then b, from the end",
        },
    )


class _Path(NamedTuple):
    """Fixations."""

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    duration: NDArray[np.float64] | None


class _Saccades(NamedTuple):
    """Where each saccade starts, its vector, and how long the fixation before it lasts (NaN where unknown)."""

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    dx: NDArray[np.float64]
    dy: NDArray[np.float64]
    duration: NDArray[np.float64]


def _read(name: str, path: Fixations) -> _Path:
    x, y = xy(name, path)
    return _Path(x, y, None if column(name, path, "duration") is None else durations(name, path, len(x)))


def _saccades(path: _Path, simplify: Simplification | None) -> _Saccades:
    if simplify is not None and path.duration is not None:
        path = _simplified(path, simplify)
    duration = np.full(len(path.x), np.nan) if path.duration is None else path.duration
    return _Saccades(path.x[:-1], path.y[:-1], np.diff(path.x), np.diff(path.y), duration[:-1])


def _simplified(path: _Path, rule: Simplification) -> _Path:
    """Join saccades in line and short ones in turns until nothing changes."""
    while True:
        joined = _join_short(_join_in_line(path, rule), rule)
        if len(joined.x) == len(path.x):
            return joined
        path = joined


def _without(path: _Path, fixations: list[int]) -> _Path:
    kept = np.setdiff1d(np.arange(len(path.x)), fixations)
    return _Path(*(None if values is None else values[kept] for values in path))  # type: ignore[arg-type]


def _join_in_line(path: _Path, rule: Simplification) -> _Path:
    assert path.duration is not None
    dx, dy = np.diff(path.x), np.diff(path.y)
    dropped, i = [], 0
    while i < len(dx) - 1:
        turn = np.arctan2(dx[i] * dy[i + 1] - dy[i] * dx[i + 1], dx[i] * dx[i + 1] + dy[i] * dy[i + 1])
        if np.degrees(abs(turn)) < rule.direction and path.duration[i + 1] < rule.duration:
            dropped.append(i + 1)  # the fixation between the two saccades
            i += 1
        i += 1
    return _without(path, dropped)


def _join_short(path: _Path, rule: Simplification) -> _Path:
    assert path.duration is not None
    length = np.hypot(np.diff(path.x), np.diff(path.y))
    brief = path.duration < rule.duration
    dropped, i = [], 0
    while i < len(length):
        if length[i] < rule.amplitude and (brief[i] or brief[i + 1]):
            if i < len(length) - 1:
                dropped.append(i + 1)
                i += 1
            elif len(path.x) - len(dropped) > 2:
                dropped.append(i)
        i += 1
    return _without(path, dropped)


def _compare(u: list[_Saccades], v: list[_Saccades], diagonal: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return similarities (pair, dimension)."""
    n, m = (np.array([len(side.dx) for side in sides]) for sides in (u, v))
    ux, uy, udx, udy, ut = _padded(u, n.max())
    vx, vy, vdx, vdy, vt = _padded(v, m.max())
    cost = np.hypot(udx[:, :, None] - vdx[:, None, :], udy[:, :, None] - vdy[:, None, :])
    pair, i, j, step = _cheapest_path(cost, n, m)
    i_of, j_of = (pair, i), (pair, j)
    scale = diagonal[pair]
    angle = np.abs(np.arctan2(udy, udx)[i_of] - np.arctan2(vdy, vdx)[j_of])
    longer = np.maximum(ut[i_of], vt[j_of])
    with np.errstate(invalid="ignore", divide="ignore"):
        differences = (
            cost[pair, i, j] / (2 * scale),
            np.minimum(angle, 2 * np.pi - angle) / np.pi,
            np.abs(np.hypot(udx, udy)[i_of] - np.hypot(vdx, vdy)[j_of]) / scale,
            np.hypot(ux[i_of] - vx[j_of], uy[i_of] - vy[j_of]) / scale,
            np.where(longer == 0, 0.0, np.abs(ut[i_of] - vt[j_of]) / longer),
        )
    return 1 - _medians(np.stack(differences, axis=1), pair, step, len(n))


def _padded(sides: list[_Saccades], longest: int) -> list[NDArray[np.float64]]:
    """Return each named array of the saccades as (pair, saccade), padded with 0."""
    stacked = []
    for values in zip(*sides, strict=True):
        out = np.zeros((len(sides), longest))
        for row, given in zip(out, values, strict=True):
            row[: len(given)] = given
        stacked.append(out)
    return stacked


def _cheapest_path(
    cost: NDArray[np.float64], n: NDArray[np.int64], m: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return the nodes of each pair's cheapest path, as arrays (node,) of pair, i, j and step.

    The table is filled one anti-diagonal at a time, for all pairs together. What lies beyond a pair's own sizes is
    filled as well, and never reached from within.
    """
    n_pairs, rows, columns = cost.shape
    came_from = np.zeros(
        (rows + columns - 1, n_pairs, rows), np.int8
    )  # 0 diagonal, 1 from i - 1, 2 from j - 1
    # Entry i + 1 of an anti-diagonal is the node (i, d - i); entry 0 and nodes outside the table are infinite.
    previous = np.full((n_pairs, rows + 1), np.inf)
    before = previous.copy()
    previous[:, 1] = cost[:, 0, 0]
    for d in range(1, rows + columns - 1):
        low, high = max(0, d - columns + 1), min(d, rows - 1) + 1
        i = np.arange(low, high)
        options = np.stack([before[:, low:high], previous[:, low:high], previous[:, low + 1 : high + 1]])
        choice = options.argmin(axis=0)  # the first of equals
        came_from[d, :, low:high] = choice
        before, previous = previous, np.full((n_pairs, rows + 1), np.inf)
        previous[:, low + 1 : high + 1] = np.take_along_axis(options, choice[None], 0)[0] + cost[:, i, d - i]
    pair, i, j = np.arange(n_pairs), n - 1, m - 1
    nodes = []
    for step in range(rows + columns - 1):
        nodes.append((pair, i, j, np.full(len(pair), step)))
        going = (i > 0) | (j > 0)
        if not going.any():
            break
        pair, i, j = pair[going], i[going], j[going]
        choice = came_from[i + j, pair, i]
        i, j = i - (choice != 2), j - (choice != 1)
    return tuple(np.concatenate(part) for part in zip(*nodes, strict=True))  # type: ignore[return-value]


def _medians(
    values: NDArray[np.float64], pair: NDArray[np.int64], step: NDArray[np.int64], n_pairs: int
) -> NDArray[np.float64]:
    """Return the median over the nodes of each pair, values (node, dimension)."""
    table = np.full((n_pairs, int(step.max()) + 1, values.shape[1]), np.inf)
    table[pair, step] = values
    count = np.bincount(pair, minlength=n_pairs)
    table.sort(axis=1)  # NaN goes behind everything: a pair without durations is all NaN there
    rows = np.arange(n_pairs)
    return np.asarray((table[rows, (count - 1) // 2] + table[rows, count // 2]) / 2)
