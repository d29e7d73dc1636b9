"""The channel gate as an operator: CPU route, dispatch, gradients."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from neuroattn._checks import check_shape
from neuroattn.kernels._batching import fold, unfold

_HALVES = (torch.float16, torch.bfloat16)


def channel_gate(x: Tensor, gate: Tensor, pool: int | tuple[int, int] | None = None) -> Tensor:
    """Scale every channel by its gate and, if asked, average over windows of time.

    ``y[b, c, t] = gate[b, c] * x[b, c, t]``. A gate that does not vary in time commutes with averaging, so
    with ``pool`` the result equals ``avg_pool1d(gate * x)``, and the scaled signal at full rate is never
    written.

    Parameters
    ----------
    x : Tensor, shape (batch, channel, time)
        Float16, bfloat16, float32 or float64.
    gate : Tensor, shape (batch, channel)
        Any floating dtype; sums are formed in float32 at least.
    pool : int, (int, int) or None, default None
        Length of the averaging window in samples, or (length, stride); the stride defaults to the length, and
        samples after the last whole window are dropped, as in `torch.nn.functional.avg_pool1d`. None does not
        pool.

    Returns
    -------
    Tensor, shape (batch, channel, time) or (batch, channel, window)
        In the dtype of ``x``.

    Raises
    ------
    ValueError
        If a shape does not fit, or the window is longer than the signal.
    TypeError
        If ``x`` or ``gate`` is not floating.

    Notes
    -----
    Squeeze and excitation, i.e. where the gate comes from, are layers above this operator. Wimpff et al. [1]_
    scale first and pool after; the two orders differ by rounding only.

    References
    ----------
    .. [1] Wimpff, Gizzi, Zerfowski & Yang (2024). EEG motor imagery decoding: a framework for comparative
       analysis with channel attention mechanisms. Journal of Neural Engineering 21.

    Examples
    --------
    >>> x, gate = torch.ones(1, 2, 9), torch.tensor([[0.5, 2.0]])
    >>> channel_gate(x, gate).shape
    torch.Size([1, 2, 9])
    >>> channel_gate(x, gate, pool=4)
    tensor([[[0.5000, 0.5000],
             [2.0000, 2.0000]]])
    """
    n_batch, n_channels, n_times = check_shape("x", x, "batch", "channel", "time")
    check_shape("gate", gate, n_batch, n_channels)
    for name, tensor in (("x", x), ("gate", gate)):
        if not tensor.is_floating_point():
            raise TypeError(f"{name} must be floating, got {tensor.dtype}")
    kernel, stride = (1, 1) if pool is None else (pool, pool) if isinstance(pool, int) else pool
    if kernel < 1 or stride < 1:
        raise ValueError(f"pool must hold a length and a stride of at least 1, got {pool!r}")
    if kernel > n_times:
        raise ValueError(f"pool must not be longer than the {n_times} samples of x, got {pool!r}")
    out: Tensor = _channel_gate(x, gate, kernel, stride)
    return out


def has_kernel(x: Tensor) -> bool:
    """Say whether the Triton kernels take this signal; float64 and empty ones go to the torch route."""
    return x.dtype != torch.float64 and x.numel() > 0


def _n_windows(n_times: int, kernel: int, stride: int) -> int:
    return (n_times - kernel) // stride + 1


def _mean(x: Tensor, kernel: int, stride: int) -> Tensor:
    # Windows are unions of blocks of the common divisor: one pass over x, then windows over few block sums.
    n_windows, block = _n_windows(x.shape[-1], kernel, stride), math.gcd(kernel, stride)
    covered = (n_windows - 1) * stride + kernel
    total = torch.unflatten(x[..., :covered], -1, (-1, block)).sum(-1, dtype=_accumulator(x))
    if kernel != stride:
        total = F.avg_pool1d(total, kernel // block, stride // block)
    return total / block


def _mean_adjoint(grad: Tensor, n_times: int, kernel: int, stride: int, dtype: torch.dtype) -> Tensor:
    n_windows, block = grad.shape[-1], math.gcd(kernel, stride)
    step, width = stride // block, kernel // block
    n_blocks = (n_windows - 1) * step + width
    blocks = grad / kernel
    if kernel != stride:
        share, blocks = blocks, blocks.new_zeros(*grad.shape[:-1], n_blocks)
        for first in range(width):
            blocks[..., first : first + (n_windows - 1) * step + 1 : step] += share
    covered = n_blocks * block
    out = torch.empty(*grad.shape[:-1], n_times, dtype=dtype, device=grad.device)
    out[..., covered:] = 0
    torch.unflatten(out[..., :covered], -1, (n_blocks, block)).copy_(blocks.to(dtype)[..., None])
    return out


def _accumulator(x: Tensor) -> torch.dtype:
    return torch.float32 if x.dtype in _HALVES else x.dtype


@torch.library.custom_op("neuroattn::channel_gate", mutates_args=())
def _channel_gate(x: Tensor, gate: Tensor, kernel: int, stride: int) -> Tensor:
    if x.is_cuda and has_kernel(x):
        from neuroattn.kernels.channel_gate import _triton

        return _triton.forward(x, gate, kernel, stride)
    pooled = x if kernel == stride == 1 else _mean(x, kernel, stride)
    return (pooled * gate[..., None]).to(x.dtype).contiguous()


@_channel_gate.register_fake
def _(x: Tensor, gate: Tensor, kernel: int, stride: int) -> Tensor:
    return x.new_empty(*x.shape[:2], _n_windows(x.shape[-1], kernel, stride))


@torch.library.custom_op("neuroattn::channel_gate_backward", mutates_args=())
def _channel_gate_backward(
    grad: Tensor, x: Tensor, gate: Tensor, kernel: int, stride: int
) -> tuple[Tensor, Tensor]:
    if x.is_cuda and has_kernel(x):
        from neuroattn.kernels.channel_gate import _triton

        return _triton.backward(grad, x, gate, kernel, stride)
    acc = _accumulator(x)
    if kernel == stride == 1:
        grad_x = (grad * gate[..., None]).to(x.dtype).contiguous()
        return grad_x, (grad.to(acc) * x).sum(-1).to(gate.dtype)
    grad_gate = (grad * _mean(x, kernel, stride)).sum(-1).to(gate.dtype)
    return _mean_adjoint(grad.to(acc) * gate[..., None], x.shape[-1], kernel, stride, x.dtype), grad_gate


@_channel_gate_backward.register_fake
def _(grad: Tensor, x: Tensor, gate: Tensor, kernel: int, stride: int) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), gate.new_empty(gate.shape)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, gate, ctx.kernel, ctx.stride = inputs
    ctx.save_for_backward(x, gate)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
    return *_channel_gate_backward(grad, *ctx.saved_tensors, ctx.kernel, ctx.stride), None, None


_channel_gate.register_autograd(_backward, setup_context=_setup_context)


@_channel_gate.register_vmap
def _(info: Any, in_dims: Any, x: Tensor, gate: Tensor, kernel: int, stride: int) -> tuple[Tensor, int]:
    n = info.batch_size
    return unfold(_channel_gate(fold(x, in_dims[0], n), fold(gate, in_dims[1], n), kernel, stride), n), 0


@_channel_gate_backward.register_vmap
def _(
    info: Any, in_dims: Any, grad: Tensor, x: Tensor, gate: Tensor, kernel: int, stride: int
) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
    n = info.batch_size
    folded = (fold(t, d, n) for t, d in zip((grad, x, gate), in_dims, strict=False))
    grad_x, grad_gate = _channel_gate_backward(*folded, kernel, stride)
    return (unfold(grad_x, n), unfold(grad_gate, n)), (0, 0)
