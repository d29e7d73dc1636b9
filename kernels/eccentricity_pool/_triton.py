"""Triton kernels of eccentricity-dependent pooling: windows are read directly, gradients are gathered."""
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _before(window, n_out, n_canvas, stride):
    # Of the padding that a window asks for, the smaller half lies before the canvas (TensorFlow's SAME).
    return tl.maximum((n_out - 1) * stride + window - n_canvas, 0) // 2


@triton.jit
def _forward_kernel(
    x_ptr, window_ptr, out_ptr, place_ptr, x_b, x_c, x_h, x_w, window_b,
    n_channels, height, width, canvas_h, canvas_w, rows, columns, stride,
    MAX: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    # One program per sample, block of channels and block of outputs; window bounds serve all its channels.
    b = tl.program_id(2).to(tl.int64)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    p = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    n_outputs = rows * columns
    c_in, p_in = c < n_channels, p < n_outputs
    window = tl.load(window_ptr + b * window_b + p, mask=p_in, other=0)
    # Bounds in pixels of the canvas, then of the map inside it.
    off_y, off_x = (canvas_h - height) // 2, (canvas_w - width) // 2
    top = (p // columns) * stride - _before(window, rows, canvas_h, stride)
    left = (p % columns) * stride - _before(window, columns, canvas_w, stride)
    span_y = tl.minimum(top + window, canvas_h) - tl.maximum(top, 0)
    span_x = tl.minimum(left + window, canvas_w) - tl.maximum(left, 0)
    y0, y1 = tl.maximum(top - off_y, 0), tl.minimum(top + window - off_y, height)
    x0, x1 = tl.maximum(left - off_x, 0), tl.minimum(left + window - off_x, width)
    n_y = tl.max(tl.where(p_in, y1 - y0, 0), 0)
    n_x = tl.max(tl.where(p_in, x1 - x0, 0), 0)
    base = x_ptr + b * x_b + c.to(tl.int64)[:, None] * x_c
    total = tl.zeros([BLOCK_C, BLOCK_P], tl.float32)
    if MAX:
        total += float("-inf")
        place = tl.zeros([BLOCK_C, BLOCK_P], tl.int32) + (y0 * width + x0)[None, :]
    for dy in range(0, n_y):
        for dx in range(0, n_x):
            y, x = y0 + dy, x0 + dx
            inside = c_in[:, None] & (p_in & (y < y1) & (x < x1))[None, :]
            at = base + (y.to(tl.int64) * x_h + x.to(tl.int64) * x_w)[None, :]
            if MAX:
                value = tl.load(at, mask=inside, other=float("-inf")).to(tl.float32)
                better = (value > total) | (value != value)  # NaN wins
                total = tl.where(better, value, total)
                place = tl.where(better, (y * width + x)[None, :], place)
            else:
                total += tl.load(at, mask=inside, other=0.0).to(tl.float32)
    to = (b * n_channels + c[:, None]) * n_outputs + p[None, :]
    keep = c_in[:, None] & p_in[None, :]
    if MAX:
        # The canvas beyond the map holds zeros; they win only if larger than every pixel.
        n_pixels = tl.maximum(y1 - y0, 0) * tl.maximum(x1 - x0, 0)
        zero = (n_pixels < span_y * span_x)[None, :] & ((total < 0.0) | (n_pixels == 0)[None, :])
        total = tl.where(zero, 0.0, total)
        tl.store(place_ptr + to, tl.where(zero, -1, place), mask=keep)
    else:
        total = total / tl.maximum(span_y * span_x, 1).to(tl.float32)[None, :]
    tl.store(out_ptr + to, total.to(out_ptr.dtype.element_ty), mask=keep)


@triton.jit
def _backward_kernel(
    grad_ptr, window_ptr, largest_ptr, place_ptr, grad_x_ptr,
    grad_b, grad_c, grad_h, grad_w, window_b, largest_b,
    n_channels, height, width, canvas_h, canvas_w, rows, columns, stride,
    MAX: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    # Each pixel visits, in a fixed order, the outputs whose windows may cover it: no atomics.
    b = tl.program_id(2).to(tl.int64)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    p = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    n_pixels = height * width
    c_in, p_in = c < n_channels, p < n_pixels
    y = p // width + (canvas_h - height) // 2
    x = p % width + (canvas_w - width) // 2
    # A window of side k reaches (k - 1) // 2 pixels back from stride * output and `reach` forth at most.
    largest = tl.load(largest_ptr + b * largest_b)
    reach = tl.maximum((largest + stride + 1) // 2, stride)
    n_candidates = ((largest - 1) // 2 + reach) // stride + 1
    last_i, last_j = (y + (largest - 1) // 2) // stride, (x + (largest - 1) // 2) // stride
    total = tl.zeros([BLOCK_C, BLOCK_P], tl.float32)
    for di in range(0, n_candidates):
        i = last_i - di
        for dj in range(0, n_candidates):
            j = last_j - dj
            exists = p_in & (i >= 0) & (i < rows) & (j >= 0) & (j < columns)
            window = tl.load(window_ptr + b * window_b + i * columns + j, mask=exists, other=0)
            top = i * stride - _before(window, rows, canvas_h, stride)
            left = j * stride - _before(window, columns, canvas_w, stride)
            covers = exists & (top <= y) & (y < top + window) & (left <= x) & (x < left + window)
            use = c_in[:, None] & covers[None, :]
            at = (
                c.to(tl.int64)[:, None] * grad_c
                + (i.to(tl.int64) * grad_h + j.to(tl.int64) * grad_w)[None, :]
            )
            if MAX:
                winner = (b * n_channels + c[:, None]) * rows * columns + (i * columns + j)[None, :]
                use = use & (tl.load(place_ptr + winner, mask=use, other=-1) == p[None, :])
                total += tl.load(grad_ptr + b * grad_b + at, mask=use, other=0.0).to(tl.float32)
            else:
                span_y = tl.minimum(top + window, canvas_h) - tl.maximum(top, 0)
                span_x = tl.minimum(left + window, canvas_w) - tl.maximum(left, 0)
                area = tl.maximum(span_y * span_x, 1).to(tl.float32)
                grad = tl.load(grad_ptr + b * grad_b + at, mask=use, other=0.0).to(tl.float32)
                total += grad / area[None, :]
    to = (b * n_channels + c[:, None]) * n_pixels + p[None, :]
    tl.store(grad_x_ptr + to, total.to(grad_x_ptr.dtype.element_ty), mask=c_in[:, None] & p_in[None, :])


def _config(n_places: int) -> tuple[int, int, int]:
    """Give channels and places per block, and warps: small maps leave room for more channels."""
    return (4, 128, 4) if n_places >= 1024 else (8, 32, 2)


def forward(
    x: Tensor,
    windows: Tensor,
    canvas: list[int],
    stride: int,
    mode: str,
    blocks: tuple[int, int] | None = None,
) -> tuple[Tensor, Tensor]:
    """Pooled map and, for the maximum, each value's pixel (-1: padding); ``blocks`` overrides the table."""
    n_batch, n_channels, height, width = x.shape
    rows, columns = windows.shape[1:]
    windows = windows.contiguous()
    *best, warps = _config(rows * columns)
    block_c, block_p = blocks or best
    out = torch.empty(n_batch, n_channels, rows, columns, dtype=x.dtype, device=x.device)
    place = torch.empty(out.shape if mode == "max" else 0, dtype=torch.int32, device=x.device)
    _forward_kernel[(triton.cdiv(rows * columns, block_p), triton.cdiv(n_channels, block_c), n_batch)](
        x, windows, out, place, *x.stride(), rows * columns if len(windows) > 1 else 0,
        n_channels, height, width, *canvas, rows, columns, stride,
        MAX=mode == "max", BLOCK_C=block_c, BLOCK_P=block_p, num_warps=warps,
    )  # fmt: skip
    return out, place


def backward(
    grad: Tensor,
    windows: Tensor,
    place: Tensor,
    size: tuple[int, int],
    canvas: list[int],
    stride: int,
    mode: str,
    blocks: tuple[int, int] | None = None,
) -> Tensor:
    """Gradient to a map of the given (height, width); ``blocks`` overrides the table."""
    n_batch, n_channels, rows, columns = grad.shape
    windows, place = windows.contiguous(), place.contiguous()
    largest = windows.amax((1, 2))
    shared = len(windows) == 1
    *best, warps = _config(size[0] * size[1])
    block_c, block_p = blocks or best
    grad_x = torch.empty(n_batch, n_channels, *size, dtype=grad.dtype, device=grad.device)
    _backward_kernel[(triton.cdiv(size[0] * size[1], block_p), triton.cdiv(n_channels, block_c), n_batch)](
        grad, windows, largest, place, grad_x,
        *grad.stride(), 0 if shared else rows * columns, 0 if shared else 1,
        n_channels, *size, *canvas, rows, columns, stride,
        MAX=mode == "max", BLOCK_C=block_c, BLOCK_P=block_p, num_warps=warps,
    )  # fmt: skip
    return grad_x


def lint_variants() -> list[Any]:
    """List what is shipped, for ``python -m neuroattn.kernels.lint``."""
    from neuroattn.kernels.lint import Variant

    shape = dict.fromkeys(
        ["window_b", "n_channels", "height", "width", "canvas_h", "canvas_w", "rows", "columns", "stride"],
        "i32",
    )
    x_strides = dict.fromkeys(["x_b", "x_c", "x_h", "x_w"], "i32")
    grad_strides = dict.fromkeys(["grad_b", "grad_c", "grad_h", "grad_w", "largest_b"], "i32")
    index = {"window_ptr": "*i32", "place_ptr": "*i32"}
    variants = []
    for dtype in ("*fp32", "*fp16", "*bf16"):
        outs = {"x_ptr": dtype, "out_ptr": dtype} | index
        grads = {"grad_ptr": dtype, "grad_x_ptr": dtype, "largest_ptr": "*i32"} | index
        for n_places in (256, 1024):
            block_c, block_p, warps = _config(n_places)
            for maximum in (False, True):
                constants = {"MAX": maximum, "BLOCK_C": block_c, "BLOCK_P": block_p}
                forward = outs | x_strides | shape
                backward = grads | grad_strides | shape
                variants += [
                    Variant(_forward_kernel, forward, constants, warps, 2, tuple(outs), False),
                    Variant(_backward_kernel, backward, constants, warps, 2, tuple(grads), False),
                ]
    return variants
