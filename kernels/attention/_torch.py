"""Attention in plain torch: the CPU route, and the route of CUDA shapes that have no kernel."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

# Scores held at once. A block of this size stays in the cache between its passes.
BLOCK_SCORES = 1 << 21


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """Dtype of sums, maps and log-sum-exps."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def empty_merged(x: Tensor) -> Tensor:
    """Allocate a gradient of (batch, head, token, feature) so that merging its heads needs no copy."""
    batch, heads, length, width = x.shape
    return x.new_empty(batch, length, heads, width).transpose(1, 2)


def map_shape(map: str, batch: int, heads: int, n_queries: int, n_keys: int) -> tuple[int, ...]:
    """Shape of the map inside the operator, where an absent map is empty."""
    return {"none": (0,), "heads": (batch, heads, n_queries, n_keys), "mean": (batch, n_queries, n_keys)}[map]


def in_window(lo: Tensor, hi: Tensor, n_keys: int) -> Tensor:
    """Which keys each query may see, shape (query, key)."""
    key = torch.arange(n_keys, device=lo.device)
    return (key >= lo[:, None]) & (key < hi[:, None])


def _fused_fits(q: Tensor, v: Tensor, bias: Tensor | None, lo: Tensor | None) -> bool:
    # A bias and a window together would need a mask of the size of the scores.
    return q.device.type == "cpu" and q.shape[-1] == v.shape[-1] and (bias is None or lo is None)


def _fused_mask(
    q: Tensor, k: Tensor, bias: Tensor | None, lo: Tensor | None, hi: Tensor | None
) -> Tensor | None:
    if bias is not None:
        return bias[:, :, None, :]
    if lo is None or hi is None:
        return None
    hidden = ~in_window(lo, hi, k.shape[2])
    return torch.zeros(hidden.shape, dtype=accumulator(q.dtype)).masked_fill_(hidden, -math.inf)[None, None]


def _blocks(batch: int, heads: int, n_queries: int, n_keys: int) -> Iterator[tuple[slice, slice]]:
    """Slices of samples and queries whose scores number about ``BLOCK_SCORES``."""
    samples = max(1, BLOCK_SCORES // max(1, heads * n_queries * n_keys))
    queries = max(1, min(n_queries, BLOCK_SCORES // max(1, heads * n_keys)))
    for b in range(0, batch, samples):
        for i in range(0, n_queries, queries):
            yield slice(b, min(b + samples, batch)), slice(i, min(i + queries, n_queries))


def _take(x: Tensor, samples: slice, acc: torch.dtype) -> Tensor:
    return (x if x.shape[0] == 1 else x[samples]).to(acc)


def _rows(x: Tensor, folded: bool) -> Tensor:
    """Fold the heads into the rows where all heads share the keys: one product instead of one per head."""
    return x.flatten(1, 2)[:, None] if folded else x


def _scores(
    q: Tensor, k: Tensor, bias: Tensor | None, inside: Tensor | None, samples: slice, out: Tensor
) -> Tensor:
    """Write scores + bias of one block, shape (samples, heads, queries, keys); q is already scaled."""
    shared = k.shape[1] == 1 < q.shape[1]
    if shared:
        q = q.expand(out.shape[0], -1, -1, -1)
    if q.dtype == out.dtype:
        torch.matmul(_rows(q, shared), k.transpose(-1, -2), out=_rows(out, shared))
    else:
        _rows(out, shared).copy_(_rows(q, shared) @ k.transpose(-1, -2))
    if bias is not None:
        out += bias[samples][:, :, None, :]
    if inside is not None:
        out.masked_fill_(~inside, -math.inf)
    return out


def forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    lo: Tensor | None,
    hi: Tensor | None,
    scale: float,
    map: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return output, map (empty for "none") and log-sum-exp."""
    (batch, heads, n_keys, width), n_queries = v.shape, q.shape[2]
    acc = accumulator(q.dtype)
    if map == "none" and _fused_fits(q, v, bias, lo):
        mask = _fused_mask(q, k, bias, lo, hi)
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            q.expand(batch, -1, -1, -1), k.expand(-1, heads, -1, -1), v, attn_mask=mask, scale=scale
        )
        lse = lse.contiguous()
        if mask is not None:
            lse.masked_fill_((mask == -math.inf).all(-1), -math.inf)
        return out.contiguous(), q.new_empty(0, dtype=acc), lse

    # bfloat16 products are fast on CPUs and round as the output does; float16 ones are slow.
    products = q.dtype if q.dtype == torch.bfloat16 else acc
    out = q.new_empty(batch, heads, n_queries, width)
    lse = q.new_empty(batch, heads, n_queries, dtype=acc)
    shape = {"none": (0,), "heads": (batch, heads, n_queries, n_keys), "mean": (batch, n_queries, n_keys)}[
        map
    ]
    weights = q.new_empty(shape, dtype=acc)
    inside = None if lo is None or hi is None else in_window(lo, hi, n_keys)
    scratch = None
    for samples, queries in _blocks(batch, heads, n_queries, n_keys):
        n, rows = samples.stop - samples.start, queries.stop - queries.start
        if map == "heads":
            block = weights[samples, :, queries]
        if map != "heads" or not block.is_contiguous():
            if scratch is None or scratch.shape != (n, heads, rows, n_keys):
                scratch = q.new_empty(n, heads, rows, n_keys, dtype=acc)
            block = scratch
        _scores(
            _take(q, samples, products)[:, :, queries] * scale,
            _take(k, samples, products),
            bias,
            None if inside is None else inside[queries],
            samples,
            block,
        )
        top = block.amax(-1)
        torch.softmax(block, -1, out=block)
        dead = top == -math.inf
        if (bias is not None or lo is not None) and dead.any():
            block.masked_fill_(dead[..., None], 0)
        # The largest weight is exp(top - lse).
        lse[samples, :, queries] = torch.where(dead, top, top - block.amax(-1).log())
        out[samples, :, queries] = torch.matmul(block.to(products), _take(v, samples, products))
        if map == "mean":
            torch.mean(block, 1, out=weights[samples, queries])
        elif map == "heads" and block is scratch:
            weights[samples, :, queries] = block
    return out, weights, lse


def reduced(x: Tensor, out: Tensor) -> Tensor:
    """Sum x over the axes that are 1 in ``out``; x itself where it has the layout of ``out`` already."""
    if x.shape == out.shape:
        return x if x.stride() == out.stride() else out.copy_(x)
    return out.copy_(x.sum_to_size(out.shape))


def backward(
    grad_out: Tensor | None,
    grad_map: Tensor | None,
    grad_lse: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    lo: Tensor | None,
    hi: Tensor | None,
    out: Tensor,
    lse: Tensor,
    scale: float,
    bias_grad: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of q, k, v and bias (empty unless asked for)."""
    (batch, heads, n_keys), n_queries = v.shape[:3], q.shape[2]
    acc = accumulator(q.dtype)
    dq, dk, dv = (empty_merged(x) for x in (q, k, v))
    if (
        grad_out is not None
        and grad_map is None
        and grad_lse is None
        and not bias_grad
        and _fused_fits(q, v, bias, lo)
    ):
        full_q, full_k, full_v = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            grad_out,
            q.expand(batch, -1, -1, -1),
            k.expand(-1, heads, -1, -1),
            v,
            out,
            lse.masked_fill(lse == -math.inf, 0),
            0.0,
            False,
            attn_mask=_fused_mask(q, k, bias, lo, hi),
            scale=scale,
        )
        dq, dk, dv = (reduced(x, to) for x, to in ((full_q, dq), (full_k, dk), (full_v, dv)))
        return dq, dk, dv, q.new_empty(0, dtype=acc)

    sums = [torch.zeros(x.shape, dtype=acc, device=q.device) for x in (q, k, v)]
    dbias = q.new_zeros((batch, heads, n_keys) if bias_grad else (0,), dtype=acc)
    inside = None if lo is None or hi is None else in_window(lo, hi, n_keys)
    shared = k.shape[1] == 1 < heads
    for samples, queries in _blocks(batch, heads, n_queries, n_keys):
        n, rows = samples.stop - samples.start, queries.stop - queries.start
        here = slice(0, 1) if q.shape[0] == 1 else samples
        q_block = _take(q, samples, acc)[:, :, queries] * scale
        k_block, v_block = _take(k, samples, acc), _take(v, samples, acc)
        p = _scores(
            q_block,
            k_block,
            bias,
            None if inside is None else inside[queries],
            samples,
            q.new_empty(n, heads, rows, n_keys, dtype=acc),
        )
        level = lse[samples, :, queries, None]
        p.sub_(level.masked_fill(level == -math.inf, math.inf)).exp_()
        ds = torch.zeros_like(p)
        if grad_out is not None:
            g = grad_out[samples, :, queries].to(acc)
            torch.matmul(g, v_block.transpose(-1, -2), out=ds)
            sums[2][samples] += p.transpose(-1, -2) @ g
        if grad_map is not None and grad_map.ndim == 4:
            ds += grad_map[samples, :, queries]
        elif grad_map is not None:
            ds += grad_map[samples, None, queries] / heads
        delta = (p * ds).sum(-1, keepdim=True)
        if grad_lse is not None:
            delta -= grad_lse[samples, :, queries, None]
        ds.sub_(delta).mul_(p)
        if bias_grad:
            dbias[samples] += ds.sum(-2)
        rows_q = _rows(q_block.expand(n, -1, -1, -1), shared)
        rows_ds = _rows(ds, shared)
        d_rows = (rows_ds @ k_block).view(n, heads, rows, -1).mul_(scale)
        sums[0][here, :, queries] += d_rows.sum_to_size(here.stop - here.start, *d_rows.shape[1:])
        sums[1][samples] += rows_ds.transpose(-1, -2) @ rows_q
    return dq.copy_(sums[0]), dk.copy_(sums[1]), dv.copy_(sums[2]), dbias
