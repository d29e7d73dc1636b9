"""From features to the next fixation: matches, the map, its enlargement, the choice of a place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from neuroattn.search.config import Gaussian, SearchConfig

_SHARPENING_STEPS = 3


def correlate(features: Tensor, kernels: Tensor) -> Tensor:
    """Match each sample's features (batch, channel, y, x) with its own kernel (batch, channel, row, column).

    Returns
    -------
    Tensor, shape (batch, y, x)
        Sums of products, zeros beyond the border, an even kernel reaching further down and right.

    Examples
    --------
    >>> correlate(torch.ones(1, 2, 3, 3), torch.ones(1, 2, 2, 2))[0]
    tensor([[8., 8., 4.],
            [8., 8., 4.],
            [4., 4., 2.]])
    """
    n_batch, n_channels, height, width = features.shape
    rows, columns = kernels.shape[-2:]
    before = ((columns - 1) // 2, columns // 2, (rows - 1) // 2, rows // 2)
    padded = F.pad(features, before).reshape(1, n_batch * n_channels, height + rows - 1, width + columns - 1)
    return F.conv2d(padded, kernels, groups=n_batch)[0]


def gaussian(size: int, sd: float) -> NDArray[np.float32]:
    """Return a one-dimensional Gaussian of unit sum; a standard deviation of 0 is (1/4, 1/2, 1/4).

    Examples
    --------
    >>> gaussian(3, 0.0)
    array([0.25, 0.5 , 0.25], dtype=float32)
    """
    if sd == 0:
        return np.array([0.25, 0.5, 0.25], np.float32)
    x = np.arange(size) - size // 2
    weights = np.exp(-(x**2) / (2 * sd**2))
    return np.asarray(weights / weights.sum(), np.float32)


def blur(maps: Tensor, size: int, sd: float) -> Tensor:
    """Blur maps (batch, y, x) with a Gaussian, mirrored at the border without repeating it.

    Examples
    --------
    >>> blur(torch.tensor([[[0.0, 1.0, 0.0]]]).expand(1, 3, 3), 3, 0.0)[0, 0]
    tensor([0.5000, 0.5000, 0.5000])
    """
    weights = torch.from_numpy(gaussian(size, sd)).to(maps)
    half = size // 2
    padded = F.pad(maps[:, None], (half, half, half, half), mode="reflect")
    rows = F.conv2d(padded, weights.view(1, 1, 1, -1))
    return F.conv2d(rows, weights.view(1, 1, -1, 1))[:, 0]


def sharpen(maps: Tensor, centre: Gaussian, surround: Gaussian) -> Tensor:
    """Add the difference of two Gaussian blurs to maps (batch, y, x), three times.

    Examples
    --------
    >>> sharpen(torch.ones(1, 8, 8), (3, 1.0), (5, 3.0)).sub(1).abs().max() < 1e-6
    tensor(True)
    """
    for _ in range(_SHARPENING_STEPS):
        maps = maps + blur(maps, *centre) - blur(maps, *surround)
    return maps


def scale_to_unit(maps: Tensor) -> Tensor:
    """Bring each map (batch, y, x) to 0..1; a constant one becomes 0.

    Examples
    --------
    >>> scale_to_unit(torch.tensor([[[1.0, 3.0]], [[2.0, 2.0]]]))
    tensor([[[0., 1.]],
            [[0., 0.]]])
    """
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return torch.where(high > low, (maps - low) / (high - low), 0.0)


def combine(matches: Mapping[str, Tensor], config: SearchConfig, kernel_side: int) -> Tensor:
    """Weigh the matches (batch, y, x) of the taps, add them up and sharpen the sum.

    Parameters
    ----------
    matches : mapping of str to Tensor, shape (batch, y, x)
    config : SearchConfig
    kernel_side : int
        Side of the target kernels, which decides the sharpening "kernel".

    Returns
    -------
    Tensor, shape (batch, y, x)

    Examples
    --------
    >>> matches = {"a": torch.rand(1, 9, 9), "b": torch.rand(1, 9, 9)}
    >>> combine(matches, SearchConfig(sharpening=None), 1).shape
    torch.Size([1, 9, 9])
    """
    stack = torch.stack(list(matches.values()))
    if config.layer_weights == "max":
        weights = stack.amax((2, 3), keepdim=True).clamp(min=0)
    else:
        weights = torch.ones_like(stack[:, :, :1, :1])
    total = weights.sum(0)
    weights = torch.where(total > 0, weights / total, 1.0 / len(stack))
    maps = (weights * scale_to_unit(stack.flatten(0, 1)).view_as(stack)).sum(0)
    pair = config.gaussians(kernel_side)
    return maps if pair is None else sharpen(maps, *pair)


@lru_cache(maxsize=64)
def _staircase(n: int, size: int) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Return the runs of equal pixels of ``n`` places made ``size`` pixels: their first pixels and weights.

    A pixel belongs to the place in which it begins, and where it ends in the next place to that one too, by
    the part that lies there.
    """
    pixel = np.arange(size)
    place = pixel * n // size
    part = np.clip((pixel + 1) * n - (place + 1) * size, 0, None) / n
    new = np.r_[True, (np.diff(place) > 0) | (np.diff(part) != 0)]
    weights = np.zeros((int(new.sum()), n), np.float32)
    run = np.arange(len(weights))
    weights[run, place[new]] = 1 - part[new]
    split = part[new] > 0
    weights[run[split], place[new][split] + 1] = part[new][split]
    return np.flatnonzero(new), weights


def enlarge(small: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Enlarge a map (row, column) to a size (y, x) in steps, as OpenCV's INTER_AREA does.

    The search itself never makes this map: `choose` works on its runs of equal pixels.

    Examples
    --------
    >>> enlarge(np.array([[0, 1]], np.float32), (1, 5))
    array([[0. , 0. , 0.5, 1. , 1. ]], dtype=float32)
    """
    (rows, down), (columns, across) = (_staircase(n, to) for n, to in zip(small.shape, size, strict=True))
    runs = np.repeat(down @ small @ across.T, np.diff(rows, append=size[0]), axis=0)
    enlarged: NDArray[np.float32] = np.repeat(runs, np.diff(columns, append=size[1]), axis=1)
    return enlarged


@dataclass(frozen=True)
class Choice:
    """A chosen pixel of the view, and the logarithm of its place's probability."""

    row: int
    column: int
    log_prob: float


def best_open(values: NDArray[np.float32], is_open: NDArray[np.bool_]) -> float:
    """Return the largest value (place, place) over the open pixels of the enlarged map; none is -inf.

    Examples
    --------
    >>> best_open(np.array([[3.0, 1.0], [2.0, 0.0]], np.float32), np.eye(4, dtype=bool)[::-1])
    2.0
    """
    runs, n_open, _, _ = _runs(values, is_open)
    return float(runs[n_open > 0].max(initial=-np.inf))


def choose(
    small: NDArray[np.float32], is_open: NDArray[np.bool_], config: SearchConfig, rng: np.random.Generator
) -> Choice:
    """Choose a pixel of the view from its map.

    Parameters
    ----------
    small : float32 array, shape (place, place)
        The map at the network's resolution.
    is_open : bool array, shape (y, x)
        Pixels of the view to which the gaze may go, at least one.
    config : SearchConfig
        Its temperature and landing.
    rng : Generator
        Drawn from where the temperature is above 0.

    Returns
    -------
    Choice

    Examples
    --------
    >>> small = np.array([[0.0, 1.0], [0.5, 0.2]], np.float32)
    >>> everywhere = np.ones((8, 8), bool)
    >>> choose(small, everywhere, SearchConfig.paper(), np.random.default_rng(0))
    Choice(row=0, column=4, log_prob=0.0)
    >>> choose(small, everywhere, SearchConfig.clean(), np.random.default_rng(0))
    Choice(row=1, column=5, log_prob=0.0)
    """
    runs, n_open, rows, columns = _runs(small, is_open)
    candidates = n_open > 0
    values = runs[candidates]
    if config.temperature > 0:
        spread = values.max() - values.min()
        score = (values - values.min()) / spread if spread > 0 else np.zeros_like(values)
        score = score.astype(float) / config.temperature + np.log(n_open[candidates])
        log_prob = score - np.logaddexp.reduce(score)
        drawn = int(rng.choice(len(values), p=np.exp(log_prob) / np.exp(log_prob).sum()))
        winners = np.argwhere(candidates)[[drawn]]
        chosen_log_prob = float(log_prob[drawn])
    else:
        # The published mask multiplies the map by 0: places no better than its minimum lose to the first pixel.
        if config.landing == "top_left" and values.max() <= small.min():
            return Choice(0, 0, 0.0)
        winners = np.argwhere(candidates & (runs == values.max()))
        chosen_log_prob = 0.0
    ends = [np.append(starts[1:], size) for starts, size in zip((rows, columns), is_open.shape, strict=True)]
    pixels = []
    for i, j in winners:
        inside = np.argwhere(is_open[rows[i] : ends[0][i], columns[j] : ends[1][j]])
        if config.landing == "centre":
            inside = inside[[np.square(inside - inside.mean(0)).sum(1).argmin()]]
        pixels.append(tuple(int(v) for v in inside[0] + (rows[i], columns[j])))
    row, column = min(pixels)
    return Choice(row, column, chosen_log_prob)


def _runs(
    small: NDArray[np.float32], is_open: NDArray[np.bool_]
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.intp], NDArray[np.intp]]:
    """Value and number of open pixels of each run of the enlarged map, and where runs begin."""
    (rows, down), (columns, across) = (
        _staircase(n, size) for n, size in zip(small.shape, is_open.shape, strict=True)
    )
    n_open = np.add.reduceat(np.add.reduceat(is_open, rows, axis=0, dtype=np.int64), columns, axis=1)
    return np.asarray(down @ small @ across.T, np.float32), n_open, rows, columns
