"""MultiMatch: scanpaths aligned saccade by saccade, many pairs at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from neuroattn._checks import check_range
from neuroattn.metrics._fixations import Fixations, as_list, column, durations, size_of, xy

DIMENSIONS = ("shape", "direction", "length", "position", "duration")
_FEWEST = 3  # fixations
_VALUES_AT_ONCE = 2**19  # of the table of sums, which stay near the processor


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
    published_end : bool, default False
        Whether a short last saccade is joined as in the published code. That replaces the saccade before it by the sum
        of the last two as they were, even if the one before it has taken part in a joined saccade already; then the
        saccades no longer lead to where the eyes ended. Otherwise it is added to whatever is before it.

    Examples
    --------
    >>> Simplification(direction=45, amplitude=147, duration=0.3)
    Simplification(direction=45, amplitude=147, duration=0.3, published_end=False)
    """

    direction: float
    amplitude: float
    duration: float
    published_end: bool = False

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
    pairs: list[_Pair] = []
    for i, (one, other) in enumerate(zip(first, second, strict=True)):
        width, height = size_of(image_size, a=one, b=other)
        sides = {name: (*xy(name, path), path) for name, path in (("a", one), ("b", other))}
        short = [
            f"{name} has {len(x)} fixation{'s' * (len(x) != 1)}, at least {_FEWEST} are needed"
            for name, (x, _, _) in sides.items()
            if len(x) < _FEWEST
        ]
        if short:
            reasons[i] = "; ".join(short)
            continue
        timed = all(column(name, path, "duration") is not None for name, (_, _, path) in sides.items())
        if not timed:
            reasons[i] = "no durations in both"
        u, v = (
            _Saccades(
                x[:-1],
                y[:-1],
                x[1:] - x[:-1],
                y[1:] - y[:-1],
                durations(name, path, len(x)) if timed else np.full(len(x), np.nan),
            )
            for name, (x, y, path) in sides.items()
        )
        if simplify is not None:
            if not timed:
                raise ValueError("a and b must hold 'duration' in seconds where simplify is given, got none")
            u, v = _simplified(u, simplify), _simplified(v, simplify)
        pairs.append((i, u, v, float(np.hypot(width, height))))
    # Pairs of like sizes go together, so that their tables waste little.
    pairs.sort(key=lambda pair: (_longest(pair), len(pair[1].dx)), reverse=True)
    while pairs:
        n = max(1, _VALUES_AT_ONCE // (2 * _longest(pairs[0]) ** 2))
        chunk, pairs = pairs[:n], pairs[n:]
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


class _Saccades(NamedTuple):
    """Where each saccade starts and its vector, shape (saccade,), and how long each fixation lasts."""

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    dx: NDArray[np.float64]
    dy: NDArray[np.float64]
    duration: NDArray[np.float64]


_Pair: TypeAlias = tuple[int, _Saccades, _Saccades, float]  # place, saccades of a and b, diagonal in px


def _simplified(path: _Saccades, rule: Simplification) -> _Saccades:
    """Join saccades in line and short ones in turns until nothing changes."""
    while True:
        joined = _join_short(_join_in_line(path, rule), rule)
        if len(joined.duration) == len(path.duration):
            return joined
        path = joined


def _joined(path: _Saccades, starts: list[int]) -> _Saccades:
    """Join each saccade with those that follow it up to the next start."""
    return _Saccades(
        path.x[starts],
        path.y[starts],
        np.add.reduceat(path.dx, starts),
        np.add.reduceat(path.dy, starts),
        path.duration[[*starts, -1]],
    )


def _join_in_line(path: _Saccades, rule: Simplification) -> _Saccades:
    turn = np.arctan2(
        path.dx[:-1] * path.dy[1:] - path.dy[:-1] * path.dx[1:],
        path.dx[:-1] * path.dx[1:] + path.dy[:-1] * path.dy[1:],
    )
    moves = np.hypot(path.dx, path.dy) > 0  # else it has no direction
    with_next = np.zeros(len(path.dx), bool)
    with_next[:-1] = (np.degrees(np.abs(turn)) < rule.direction) & moves[:-1] & moves[1:]
    with_next &= path.duration[1 : len(path.dx) + 1] < rule.duration
    return _joined(path, _pair_off(with_next))


def _join_short(path: _Saccades, rule: Simplification) -> _Saccades:
    n = len(path.dx)
    short = np.hypot(path.dx, path.dy) < rule.amplitude
    brief = path.duration < rule.duration
    with_next = short & (brief[:n] | brief[1 : n + 1])
    last_is_short = n > 1 and bool(short[-1] and (brief[-1] or brief[-2]))
    with_next[-1] = False
    starts = _pair_off(with_next)
    if not last_is_short or (starts[-1] == n - 2 and with_next[n - 2]):
        return _joined(path, starts)  # the last saccade stays, or is joined with the one before already
    joined = _joined(path, starts[:-1])
    if rule.published_end:
        joined.dx[-1], joined.dy[-1] = path.dx[-2:].sum(), path.dy[-2:].sum()
        joined = joined._replace(
            duration=np.r_[joined.duration[:-1], path.duration[n - 2], path.duration[-1]]
        )
    return joined


def _pair_off(with_next: NDArray[np.bool_]) -> list[int]:
    """Return the saccades that remain when each, from the first on, takes the next one along or not."""
    starts, i = [], 0
    while i < len(with_next):
        starts.append(i)
        i += 2 if with_next[i] else 1
    return starts


def _longest(pair: _Pair) -> int:
    return max(len(pair[1].dx), len(pair[2].dx))


def _compare(u: list[_Saccades], v: list[_Saccades], diagonal: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return similarities (pair, dimension)."""
    n, m = (np.array([len(side.dx) for side in sides]) for sides in (u, v))
    ux, uy, udx, udy, ut = _padded(u, n)
    vx, vy, vdx, vdy, vt = _padded(v, m)
    i, j, pair, step = _cheapest_path(udx, udy, vdx, vdy, n, m)
    a, b = (i, pair), (j, pair)
    scale = diagonal[pair]
    turn = np.abs(np.arctan2(udy[a], udx[a]) - np.arctan2(vdy[b], vdx[b]))
    longer = np.maximum(ut[a], vt[b])
    differences = (
        np.hypot(udx[a] - vdx[b], udy[a] - vdy[b]) / (2 * scale),
        np.minimum(turn, 2 * np.pi - turn) / np.pi,
        np.abs(np.hypot(udx[a], udy[a]) - np.hypot(vdx[b], vdy[b])) / scale,
        np.hypot(ux[a] - vx[b], uy[a] - vy[b]) / scale,
        np.abs(ut[a] - vt[b]) / np.where(longer == 0, 1, longer),
    )
    return 1 - _medians(np.stack(differences, axis=1), pair, step, len(n))


def _padded(sides: list[_Saccades], n: NDArray[np.int64]) -> list[NDArray[np.float64]]:
    """Return each named array of the saccades as (saccade, pair), padded with 0."""
    there = np.arange(n.max()) < n[:, None]
    stacked = []
    for name in _Saccades._fields:
        out = np.zeros(there.shape)
        out[there] = np.concatenate([getattr(side, name)[:k] for side, k in zip(sides, n, strict=True)])
        stacked.append(np.ascontiguousarray(out.T))
    return stacked


def _cheapest_path(
    udx: NDArray[np.float64],
    udy: NDArray[np.float64],
    vdx: NDArray[np.float64],
    vdy: NDArray[np.float64],
    n: NDArray[np.int64],
    m: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return the nodes of each pair's cheapest path, as arrays (node,) of i, j, pair and step.

    The sums along the cheapest ways are filled one anti-diagonal i + j at a time, for all pairs together. What lies
    beyond a pair's own sizes is filled as well, and never reached from within.
    """
    rows, columns = len(udx), len(vdx)
    # sums[1 + i + j, 1 + i] is the node (i, j); the margins, like all outside the table, are infinite.
    sums = np.full((rows + columns, rows + 1, len(n)), np.inf)
    backwards_dx, backwards_dy = vdx[::-1], vdy[::-1]
    for d in range(rows + columns - 1):
        low, high = max(0, d - columns + 1), min(d, rows - 1) + 1
        facing = slice(columns - 1 - d + low, columns - 1 - d + high)
        dx, dy = udx[low:high] - backwards_dx[facing], udy[low:high] - backwards_dy[facing]
        cost = np.sqrt(dx * dx + dy * dy)
        if d:
            cost += np.minimum(
                np.minimum(sums[d - 1, low:high], sums[d, low:high]), sums[d, low + 1 : high + 1]
            )
        sums[d + 1, low + 1 : high + 1] = cost
    i, j, pair = n - 1, m - 1, np.arange(len(n))
    nodes = []
    for step in range(rows + columns - 1):
        nodes.append((i, j, pair, np.full(len(pair), step)))
        going = (i > 0) | (j > 0)
        if not going.any():
            break
        i, j, pair = i[going], j[going], pair[going]
        # The diagonal where it is as good as any; then the step back in a.
        diagonal = sums[i + j - 1, i, pair]
        back_a, back_b = sums[i + j, i, pair], sums[i + j, i + 1, pair]
        straight = (back_a < diagonal) | (back_b < diagonal)
        keep_i = straight & (back_b < back_a)
        i, j = i - ~keep_i, j - ~(straight & ~keep_i)
    return tuple(np.concatenate(part) for part in zip(*nodes, strict=True))  # type: ignore[return-value]


def _medians(
    values: NDArray[np.float64], pair: NDArray[np.int64], step: NDArray[np.int64], n_pairs: int
) -> NDArray[np.float64]:
    """Return the median over the nodes of each pair, values (node, dimension)."""
    table = np.full((n_pairs, int(step.max()) + 1, values.shape[1]), np.nan)
    table[pair, step] = values
    count = np.bincount(pair, minlength=n_pairs)
    table.sort(axis=1)  # NaN goes last; a pair without durations is NaN throughout
    rows = np.arange(n_pairs)
    return np.asarray((table[rows, (count - 1) // 2] + table[rows, count // 2]) / 2)
