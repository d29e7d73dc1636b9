"""Eccentricity-dependent pooling as an operator: CPU routes, dispatch, gradients."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from neuroattn._checks import check_option, check_shape
from neuroattn.kernels._batching import fold, unfold
from neuroattn.kernels.eccentricity_pool.law import LinearLaw

_STAGE_4 = LinearLaw()
_LAST = 2**32 - 1  # the low half of an order key holds how far a pixel lies before this one


def eccentricity_pool(
    x: Tensor,
    fixation: Tensor | None = None,
    law: LinearLaw = _STAGE_4,
    stride: int = 2,
    mode: str = "mean",
) -> Tensor:
    """Pool a feature map with windows that grow with the distance from the gaze.

    ``y[b, c, i, j]`` is the mean (or maximum) of ``x[b, c]`` over a square window near pixel
    ``(stride * i, stride * j)`` whose side is given by ``law``. All windows are read in one pass, whereas the
    original pools the whole map once per ring.

    Parameters
    ----------
    x : Tensor, shape (batch, channel, height, width)
        Float16, bfloat16, float32 or float64; sums are formed in float32 at least.
    fixation : Tensor, shape (batch, 2), or None
        Row and column of each sample's gaze in pixels of ``x``. It may lie outside; one that is not finite
        counts as far away. The windows are steps in it, so it receives no gradient. None is the middle of
        the output, which is the published layer.
    law : LinearLaw, default LinearLaw()
        Window as a function of eccentricity.
    stride : int, default 2
        Input pixels between neighbouring outputs.
    mode : "mean" or "max", default "mean"
        With "max" the gradient goes to the first largest pixel in row-major order.

    Returns
    -------
    Tensor, shape (batch, channel, row, column)
        ``ceil(n / stride)`` outputs per axis, where n is the axis of ``law.canvas(height, width)``: the
        larger of the two for a law with rings, which pads the map to a square.

    Raises
    ------
    ValueError
        If a shape does not fit or ``mode`` is unknown.
    TypeError
        If ``x`` is not floating.

    See Also
    --------
    LinearLaw : Where it follows the published layer [1]_ and where it does not.

    References
    ----------
    .. [1] Gupta, Zhang, Wu, Wolfe & Kreiman (2021). Visual search asymmetry: deep nets and humans share
       similar inherent biases. NeurIPS 34.

    Examples
    --------
    >>> x = torch.arange(36.0).view(1, 1, 6, 6)
    >>> law = LinearLaw(slope=1.0, px_per_degree=2, fovea_deg=1)
    >>> eccentricity_pool(x, law=law)[0, 0]
    tensor([[ 7.0000,  8.5000, 10.0000],
            [16.0000, 17.5000, 19.0000],
            [25.0000, 26.5000, 28.0000]])
    >>> eccentricity_pool(x, fixation=torch.tensor([[0.0, 0.0]]), law=law)[0, 0, 0, 0]
    tensor(3.5000)
    """
    n_batch, _, height, width = check_shape("x", x, "batch", "channel", "height", "width")
    if not x.is_floating_point():
        raise TypeError(f"x must be floating, got {x.dtype}")
    check_option("mode", mode, ("mean", "max"))
    if stride < 1:
        raise ValueError(f"stride must be at least 1, got {stride}")
    if height == 0 or width == 0:
        raise ValueError(f"x must have at least one pixel, got shape {tuple(x.shape)}")
    if fixation is not None:
        check_shape("fixation", fixation, n_batch, 2)
    windows = law.windows(height, width, stride, fixation).to(x.device)
    out: Tensor = _eccentricity_pool(x, windows, list(law.canvas(height, width)), stride, mode)[0]
    return out


def has_kernel(x: Tensor) -> bool:
    """Say whether the Triton kernels take this map; float64 and empty ones go to the torch route."""
    return x.dtype != torch.float64 and x.numel() > 0


def _starts(n: int, canvas: int, windows: Tensor, stride: int, rows: bool) -> Tensor:
    """First pixel of each window along one axis, in pixels of the map; may be negative."""
    m = windows.shape[-2 if rows else -1]
    beyond = ((m - 1) * stride + windows - canvas).clamp(min=0) // 2
    place = torch.arange(m, device=windows.device) * stride
    return (place[:, None] if rows else place) - beyond - (canvas - n) // 2


def _channel_groups(x: Tensor, windows: Tensor) -> Iterator[tuple[Tensor, int, slice]]:
    """Cut (batch, channel, ...) into (channel, ...) pieces that share windows and fit into the cache.

    Yields a view of each piece, the row of ``windows`` it belongs to and its place among all channels.
    """
    n_channels = x.shape[0] * x.shape[1] if len(windows) == 1 else x.shape[1]
    flat = x.flatten(0, 1)
    for first in range(0, len(flat), n_channels):
        for start in range(first, first + n_channels, 64):
            piece = slice(start, min(start + 64, first + n_channels))
            yield flat[piece], first // n_channels, piece


def _prefix_sums(table: Tensor) -> Tensor:
    """Sum a (row, column, channel) table from its first corner, in place; slices add faster than cumsum."""
    for i in range(1, table.shape[0]):
        table[i] += table[i - 1]
    for j in range(1, table.shape[1]):
        table[:, j] += table[:, j - 1]
    return table


def _corners(windows: Tensor, size: tuple[int, int], canvas: list[int], stride: int) -> tuple[Tensor, Tensor]:
    """Places (sample, output, 4) of the windows in the table of prefix sums, and their weights.

    The window's sum is first - second - third + fourth; the area counts the canvas, the places only the map.
    """
    spans, area = [], torch.ones((), dtype=torch.float64, device=windows.device)
    for axis in (0, 1):
        start = _starts(size[axis], canvas[axis], windows, stride, rows=axis == 0)
        before = (canvas[axis] - size[axis]) // 2
        inside = (start + windows).clamp(max=canvas[axis] - before) - start.clamp(min=-before)
        spans.append([end.clamp(0, size[axis]) for end in (start, start + windows)])
        area = area * inside
    (top, bottom), (left, right) = spans
    pitch = size[1] + 1
    places = [bottom * pitch + right, top * pitch + right, bottom * pitch + left, top * pitch + left]
    signs = torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64, device=windows.device)
    return torch.stack(places, -1).flatten(1, 2).long(), signs / area.flatten(1)[..., None]


def _mean(x: Tensor, windows: Tensor, canvas: list[int], stride: int) -> Tensor:
    # Each window is four entries of an integral image. Float64, since differences of float32 sums over a
    # whole map lose the small windows; channels last, since an entry is then one contiguous row.
    n_batch, n_channels, height, width = x.shape
    out = torch.empty(n_batch * n_channels, windows[0].numel(), dtype=x.dtype, device=x.device)
    places, weights = _corners(windows, (height, width), canvas, stride)
    for piece, sample, where in _channel_groups(x, windows):
        table = torch.zeros(height + 1, width + 1, len(piece), dtype=torch.float64, device=x.device)
        table[1:, 1:] = piece.permute(1, 2, 0)
        rows = _prefix_sums(table).flatten(0, 1)
        pooled = F.embedding_bag(places[sample], rows, mode="sum", per_sample_weights=weights[sample])
        out[where] = pooled.t()
    return out.view(n_batch, n_channels, *windows.shape[1:])


def _mean_adjoint(
    grad: Tensor, windows: Tensor, size: tuple[int, int], canvas: list[int], stride: int
) -> Tensor:
    # The same four entries, now collecting: entry by entry in a fixed order, then the prefix sums.
    height, width = size
    out = torch.empty(grad.shape[0] * grad.shape[1], height, width, dtype=grad.dtype, device=grad.device)
    places, weights = _corners(windows, size, canvas, stride)
    n_entries = (height + 1) * (width + 1)
    order = places.flatten(1).argsort(stable=True)
    for piece, sample, where in _channel_groups(grad.flatten(2), windows):
        counts = torch.bincount(places[sample].flatten(), minlength=n_entries)
        table = F.embedding_bag(
            order[sample] // 4,
            piece.t().double(),
            counts.cumsum(0) - counts,
            mode="sum",
            per_sample_weights=weights[sample].flatten()[order[sample]],
        )
        table = _prefix_sums(table.view(height + 1, width + 1, -1))
        out[where] = table[:-1, :-1].permute(2, 0, 1).to(grad.dtype)
    return out.view(*grad.shape[:2], height, width)


def _order_keys(x: Tensor) -> Tensor:
    """Whole numbers ordered like (value, earlier pixel), NaN first of all; 0 is a zero behind all pixels."""
    if x.dtype == torch.float64:
        _, rank = torch.unique(torch.cat([x.new_zeros(1), x.flatten()]), return_inverse=True)
        rank = (rank[1:] - rank[0]).view(x.shape)
    else:
        value = x.float() + 0.0  # turns -0 into 0
        bits = value.view(torch.int32)
        rank = torch.where(value.isnan(), 2**31 - 1, bits ^ ((bits >> 31) & (2**31 - 1))).long()
    pixel = torch.arange(x[0].numel(), device=x.device).view(x.shape[1:])
    keys: Tensor = (rank << 32) + (_LAST - pixel)
    return keys


def _max(x: Tensor, windows: Tensor, canvas: list[int], stride: int) -> tuple[Tensor, Tensor]:
    # Four overlapping squares of side 2^j cover a window of side k, 2^j <= k < 2^(j+1); maxima over all
    # squares of one j follow from those of j - 1.
    n_batch, n_channels, height, width = x.shape
    largest = int(windows.max())
    margin = largest // 2
    before = [(n - m) // 2 for n, m in zip(canvas, (height, width), strict=True)]
    top = _starts(height, canvas[0], windows, stride, rows=True) + before[0] + margin
    left = _starts(width, canvas[1], windows, stride, rows=False) + before[1] + margin
    pad = [before[1], canvas[1] - width - before[1], before[0], canvas[0] - height - before[0]]
    out = torch.empty(n_batch * n_channels, windows[0].numel(), dtype=x.dtype, device=x.device)
    place = torch.empty(out.shape, dtype=torch.int32, device=x.device)
    for piece, sample, where in _channel_groups(x, windows):
        best = F.pad(F.pad(_order_keys(piece), pad), [margin] * 4, value=torch.iinfo(torch.int64).min)
        keys = torch.empty(len(piece), windows[0].numel(), dtype=torch.int64, device=x.device)
        side = 1
        while True:
            here = (windows[sample] >= side) & (windows[sample] < 2 * side)
            rest, row = windows[sample][here] - side, best.shape[2]
            first = top[sample][here] * row + left[sample][here]
            corners = torch.stack([first, first + rest, first + rest * row, first + rest * (row + 1)])
            chosen = best.flatten(1).index_select(1, corners.flatten())
            keys[:, here.flatten()] = chosen.view(len(piece), 4, -1).amax(1)
            if 2 * side > largest:
                break
            for axis in (-1, -2):
                n = best.shape[axis] - side
                best = torch.maximum(best.narrow(axis, 0, n), best.narrow(axis, side, n))
            side *= 2
        pixel = torch.where(keys == 0, -1, _LAST - (keys & _LAST))
        values = piece.flatten(1).gather(1, pixel.clamp(min=0))
        out[where], place[where] = torch.where(pixel < 0, 0, values), pixel.int()
    shape = (n_batch, n_channels, *windows.shape[1:])
    return out.view(shape), place.view(shape)


@torch.library.custom_op("neuroattn::eccentricity_pool", mutates_args=())
def _eccentricity_pool(
    x: Tensor, windows: Tensor, canvas: list[int], stride: int, mode: str
) -> tuple[Tensor, Tensor]:
    if x.is_cuda and has_kernel(x):
        from neuroattn.kernels.eccentricity_pool import _triton

        return _triton.forward(x, windows, canvas, stride, mode)
    if mode == "max":
        return _max(x, windows, canvas, stride)
    return _mean(x, windows, canvas, stride), torch.empty(0, dtype=torch.int32, device=x.device)


@_eccentricity_pool.register_fake
def _(x: Tensor, windows: Tensor, canvas: list[int], stride: int, mode: str) -> tuple[Tensor, Tensor]:
    out = x.new_empty(*x.shape[:2], *windows.shape[1:])
    return out, torch.empty(out.shape if mode == "max" else 0, dtype=torch.int32, device=x.device)


@torch.library.custom_op("neuroattn::eccentricity_pool_backward", mutates_args=())
def _eccentricity_pool_backward(
    grad: Tensor, windows: Tensor, place: Tensor, size: list[int], canvas: list[int], stride: int, mode: str
) -> Tensor:
    height, width = size
    if grad.is_cuda and has_kernel(grad):
        from neuroattn.kernels.eccentricity_pool import _triton

        return _triton.backward(grad, windows, place, (height, width), canvas, stride, mode)
    if mode == "mean":
        return _mean_adjoint(grad, windows, (height, width), canvas, stride)
    total = torch.zeros(*grad.shape[:2], height * width, dtype=torch.promote_types(grad.dtype, torch.float32))
    share = torch.where(place < 0, 0, grad).to(total.dtype)
    total.scatter_add_(-1, place.clamp(min=0).flatten(2).long(), share.flatten(2))
    return total.view(*grad.shape[:2], height, width).to(grad.dtype)


@_eccentricity_pool_backward.register_fake
def _(
    grad: Tensor, windows: Tensor, place: Tensor, size: list[int], canvas: list[int], stride: int, mode: str
) -> Tensor:
    return grad.new_empty(*grad.shape[:2], *size)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, windows, ctx.canvas, ctx.stride, ctx.mode = inputs
    ctx.size = list(x.shape[-2:])
    ctx.save_for_backward(windows, output[1])


def _backward(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor, None, None, None, None]:
    windows, place = ctx.saved_tensors
    grad_x = _eccentricity_pool_backward(grad, windows, place, ctx.size, ctx.canvas, ctx.stride, ctx.mode)
    return grad_x, None, None, None, None


_eccentricity_pool.register_autograd(_backward, setup_context=_setup_context)


def _fold_windows(windows: Tensor, in_dim: int | None, size: int, n_batch: int) -> Tensor:
    if in_dim is None and len(windows) == 1:
        return windows
    windows = windows.movedim(in_dim, 0) if in_dim is not None else windows.expand(size, *windows.shape)
    return windows.expand(size, n_batch, -1, -1).flatten(0, 1)


@_eccentricity_pool.register_vmap
def _(
    info: Any, in_dims: Any, x: Tensor, windows: Tensor, canvas: list[int], stride: int, mode: str
) -> tuple[tuple[Tensor, Tensor], tuple[int, int | None]]:
    n = info.batch_size
    folded = fold(x, in_dims[0], n)
    windows = _fold_windows(windows, in_dims[1], n, len(folded) // n)
    out, place = _eccentricity_pool(folded, windows, canvas, stride, mode)
    if mode == "mean":
        return (unfold(out, n), place), (0, None)
    return (unfold(out, n), unfold(place, n)), (0, 0)


@_eccentricity_pool_backward.register_vmap
def _(
    info: Any,
    in_dims: Any,
    grad: Tensor,
    windows: Tensor,
    place: Tensor,
    size: list[int],
    canvas: list[int],
    stride: int,
    mode: str,
) -> tuple[Tensor, int]:
    n = info.batch_size
    folded = fold(grad, in_dims[0], n)
    windows = _fold_windows(windows, in_dims[1], n, len(folded) // n)
    place = fold(place, in_dims[2], n) if mode == "max" else place
    return unfold(_eccentricity_pool_backward(folded, windows, place, size, canvas, stride, mode), n), 0
