"""Triton kernels of the channel gate. Without pooling, the window and its stride are 1."""
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _forward_kernel(
    x_ptr, gate_ptr, out_ptr, x_b, x_c, x_t, gate_b, gate_c, n_channels, n_windows, kernel, stride,
    BLOCK: tl.constexpr,
):  # fmt: skip
    # One program per (batch, channel) row and block of windows.
    row = tl.program_id(0).to(tl.int64)
    b, c = row // n_channels, row % n_channels
    window = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = window < n_windows
    first = x_ptr + b * x_b + c * x_c + window.to(tl.int64) * stride * x_t
    total = tl.zeros([BLOCK], tl.float32)
    for tap in range(0, kernel):
        total += tl.load(first + tap * x_t, mask=inside, other=0.0).to(tl.float32)
    gate = tl.load(gate_ptr + b * gate_b + c * gate_c).to(tl.float32)
    out = gate * (total / kernel)
    tl.store(out_ptr + row * n_windows + window, out.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _backward_kernel(
    grad_ptr, x_ptr, gate_ptr, grad_x_ptr, grad_gate_ptr,
    grad_b, grad_c, grad_t, x_b, x_c, x_t, gate_b, gate_c,
    n_channels, n_times, n_windows, kernel, stride, n_overlap,
    BLOCK: tl.constexpr,
):  # fmt: skip
    # One program per row: each sample gathers the gradients of the windows that cover it, in a fixed order,
    # and the gate's gradient is the dot product of that share with x, kept in registers.
    row = tl.program_id(0).to(tl.int64)
    b, c = row // n_channels, row % n_channels
    gate = tl.load(gate_ptr + b * gate_b + c * gate_c).to(tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    for start in range(0, n_times, BLOCK):
        time = start + tl.arange(0, BLOCK)
        inside = time < n_times
        share = tl.zeros([BLOCK], tl.float32)
        for back in range(0, n_overlap):
            window = time // stride - back
            covers = inside & (window >= 0) & (window < n_windows) & (window * stride + kernel > time)
            place = grad_ptr + b * grad_b + c * grad_c + window.to(tl.int64) * grad_t
            share += tl.load(place, mask=covers, other=0.0).to(tl.float32)
        share = share / kernel
        # Samples after the last window have no say, whatever they hold.
        used = inside & (time < (n_windows - 1) * stride + kernel)
        x = tl.load(x_ptr + b * x_b + c * x_c + time.to(tl.int64) * x_t, mask=used, other=0.0)
        total += share * x.to(tl.float32)
        grad_x = (gate * share).to(grad_x_ptr.dtype.element_ty)
        tl.store(grad_x_ptr + row * n_times + time, grad_x, mask=inside)
    tl.store(grad_gate_ptr + row, tl.sum(total, 0).to(grad_gate_ptr.dtype.element_ty))


def _config(n: int) -> tuple[int, int]:
    """Give block and warps for a row of n elements."""
    return (256, 2) if n <= 256 else (1024, 4)


def forward(x: Tensor, gate: Tensor, kernel: int, stride: int, block: int | None = None) -> Tensor:
    """Gate and pool; ``block`` overrides the configuration table."""
    n_batch, n_channels, n_times = x.shape
    n_windows = (n_times - kernel) // stride + 1
    best, warps = _config(n_windows)
    block = block or best
    out = torch.empty(n_batch, n_channels, n_windows, dtype=x.dtype, device=x.device)
    _forward_kernel[(n_batch * n_channels, triton.cdiv(n_windows, block))](
        x, gate, out, *x.stride(), *gate.stride(), n_channels, n_windows, kernel, stride,
        BLOCK=block, num_warps=warps,
    )  # fmt: skip
    return out


def backward(
    grad: Tensor, x: Tensor, gate: Tensor, kernel: int, stride: int, block: int | None = None
) -> tuple[Tensor, Tensor]:
    """Gradients to the signal and to the gate; ``block`` overrides the configuration table."""
    n_batch, n_channels, n_times = x.shape
    best, warps = _config(n_times)
    grad_x = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    grad_gate = torch.empty(gate.shape, dtype=gate.dtype, device=x.device)
    _backward_kernel[(n_batch * n_channels,)](
        grad, x, gate, grad_x, grad_gate, *grad.stride(), *x.stride(), *gate.stride(),
        n_channels, n_times, grad.shape[-1], kernel, stride, triton.cdiv(kernel, stride),
        BLOCK=block or best, num_warps=warps,
    )  # fmt: skip
    return grad_x, grad_gate


def lint_variants() -> list[Any]:
    """List what is shipped, for ``python -m neuroattn.kernels.lint``."""
    from neuroattn.kernels.lint import Variant

    sizes = dict.fromkeys(
        ["x_b", "x_c", "x_t", "gate_b", "gate_c", "n_channels", "n_windows", "kernel", "stride"], "i32"
    )
    more = dict.fromkeys(["grad_b", "grad_c", "grad_t", "n_times", "n_overlap"], "i32")
    variants = []
    for dtype in ("*fp32", "*fp16", "*bf16"):
        pointers = {"x_ptr": dtype, "gate_ptr": dtype, "out_ptr": dtype}
        grads = {"x_ptr": dtype, "gate_ptr": dtype} | {
            f"grad{name}_ptr": dtype for name in ("", "_x", "_gate")
        }
        for n in (256, 1024):
            block, warps = _config(n)
            variants += [
                Variant(
                    _forward_kernel, pointers | sizes, {"BLOCK": block}, warps, 2, tuple(pointers), False
                ),
                Variant(
                    _backward_kernel, grads | sizes | more, {"BLOCK": block}, warps, 2, tuple(grads), False
                ),
            ]
    return variants
