"""Routed readout in plain torch: the CPU route, and the route of CUDA dtypes that have no kernel."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

BLOCK_UNITS = 1024  # units per product: their weights stay in the cache between the gather and the product


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """Dtype of sums."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def _blocks(perm: Tensor | None, bounds: Sequence[int]) -> Iterator[tuple[int, slice | Tensor]]:
    """Group and units of each block: a slice where the units are neighbours, else their numbers."""
    for group in range(len(bounds) // 2):
        first, end = bounds[2 * group], bounds[2 * group + 1]
        if perm is None:
            yield group, slice(first, end)
        else:
            for a in range(first, end, BLOCK_UNITS):
                yield group, perm[a : min(a + BLOCK_UNITS, end)]


def forward(
    pooled: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    perm: Tensor | None,
    counts: Tensor,
    bounds: Sequence[int],
) -> Tensor:
    """Return (batch, unit) from pooled tokens (group, batch, feature)."""
    # Units first, so that a block of units is one run of memory.
    out = pooled.new_zeros(weight.shape[0], pooled.shape[1])
    for group, units in _blocks(perm, bounds):
        if isinstance(units, slice):
            torch.mm(weight[units], pooled[group].T, out=out[units])
        else:
            out[units] = weight[units] @ pooled[group].T
    result = out.T.contiguous()
    return result if bias is None else result.addcmul_(bias, counts.to(bias.dtype))


def backward(
    grad: Tensor,
    pooled: Tensor,
    weight: Tensor,
    perm: Tensor | None,
    counts: Tensor,
    bounds: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of the pooled tokens, the weight and the bias."""
    grad_t = grad.T.contiguous()
    covered = sum(bounds[1::2]) - sum(bounds[::2]) == weight.shape[0]
    dweight = torch.empty_like(weight) if covered else torch.zeros_like(weight)
    dpooled = torch.zeros(pooled.shape, dtype=accumulator(pooled.dtype), device=pooled.device)
    for group, units in _blocks(perm, bounds):
        g = grad_t[units]
        if isinstance(units, slice):
            torch.mm(g, pooled[group], out=dweight[units])
        else:
            dweight[units] = g @ pooled[group]
        dpooled[group] += g.T @ weight[units]
    dbias = grad_t.sum(1, dtype=dpooled.dtype) * counts
    return dpooled.to(pooled.dtype), dweight, dbias.to(weight.dtype)


def vertex_forward(h: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return (batch, unit) where unit v reads token v alone."""
    acc = accumulator(h.dtype)
    out = h.new_empty(h.shape[:2])
    for a in range(0, weight.shape[0], BLOCK_UNITS):
        units = slice(a, a + BLOCK_UNITS)
        w = weight[units].to(acc)
        for b in range(h.shape[0]):
            out[b, units] = (h[b, units] * w).sum(-1)
    return out if bias is None else out.add_(bias)


def vertex_backward(grad: Tensor, h: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of h, weight and bias."""
    acc = accumulator(h.dtype)
    dh = h.new_empty(h.shape)
    dweight = weight.new_empty(weight.shape)
    for a in range(0, weight.shape[0], BLOCK_UNITS):
        units = slice(a, a + BLOCK_UNITS)
        total = torch.zeros(weight[units].shape, dtype=acc, device=h.device)
        for b in range(h.shape[0]):
            g = grad[b, units, None]
            torch.mul(g, weight[units], out=dh[b, units])
            total.addcmul_(g.to(acc), h[b, units].to(acc))
        dweight[units] = total
    return dh, dweight, grad.sum(0, dtype=acc).to(weight.dtype)
