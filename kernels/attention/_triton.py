"""Triton kernels of attention with an exact map.

Rows are queries, columns are keys. Sums are float32, no kernel uses atomics, and every element is written by
one program, so results are equal from run to run. A query that sees no key has a log-sum-exp of minus
infinity; kernels that read it back use plus infinity instead, which makes its weights exactly 0.
"""
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from neuroattn.kernels.attention._torch import empty_merged, map_shape, reduced


@triton.jit
def _load(ptr, rows, cols, row_stride, col_stride, in_rows, in_cols, UP: tl.constexpr):
    """Load a tile. Interpreted, bf16 is a bit pattern: UP lifts it to float32; compiled code is unchanged."""
    x = tl.load(
        ptr + rows[:, None] * row_stride + cols[None, :] * col_stride,
        mask=in_rows[:, None] & in_cols[None, :],
        other=0.0,
    )
    return x.to(tl.float32) if UP else x


@triton.jit
def _scores(
    q, k, bias_ptr, bias_n, keys, in_keys, lo, hi, scale,
    HAS_BIAS: tl.constexpr, HAS_WINDOW: tl.constexpr, PREC: tl.constexpr,
):  # fmt: skip
    """Scale and bias the products of one tile; minus infinity where a query may not see a key."""
    s = tl.dot(q, tl.trans(k), input_precision=PREC) * scale
    if HAS_BIAS:
        s += tl.load(bias_ptr + keys * bias_n, mask=in_keys, other=float("-inf"))[None, :]
    else:
        s = tl.where(in_keys[None, :], s, float("-inf"))
    if HAS_WINDOW:
        s = tl.where((keys[None, :] >= lo[:, None]) & (keys[None, :] < hi[:, None]), s, float("-inf"))
    return s


@triton.jit
def _forward_kernel(
    q_ptr, k_ptr, v_ptr, bias_ptr, lo_ptr, hi_ptr, out_ptr, lse_ptr, map_ptr,
    q_b, q_h, q_m, q_d, k_b, k_h, k_n, k_d, v_b, v_h, v_n, v_d, bias_b, bias_h, bias_n,
    scale, n_heads, n_queries, n_keys, width, value_width,
    BM: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, BV: tl.constexpr,
    HAS_BIAS: tl.constexpr, HAS_WINDOW: tl.constexpr, WITH_MAP: tl.constexpr,
    PREC: tl.constexpr, UP: tl.constexpr,
):  # fmt: skip
    # One program per (batch, head, tile of queries).
    tiles = tl.cdiv(n_queries, BM)
    row = (tl.program_id(0) // tiles).to(tl.int64)
    b, h = row // n_heads, row % n_heads
    queries = (tl.program_id(0) % tiles) * BM + tl.arange(0, BM)
    d, e = tl.arange(0, BD), tl.arange(0, BV)
    in_queries, in_d, in_e = queries < n_queries, d < width, e < value_width
    k_ptr += b * k_b + h * k_h
    v_ptr += b * v_b + h * v_h
    bias_ptr += b * bias_b + h * bias_h
    q = _load(q_ptr + b * q_b + h * q_h, queries, d, q_m, q_d, in_queries, in_d, UP)
    lo, hi = queries, queries
    if HAS_WINDOW:
        lo = tl.load(lo_ptr + queries, mask=in_queries, other=0)
        hi = tl.load(hi_ptr + queries, mask=in_queries, other=0)
    top = tl.full([BM], float("-inf"), tl.float32)
    total = tl.zeros([BM], tl.float32)
    acc = tl.zeros([BM, BV], tl.float32)
    for start in range(0, n_keys, BN):
        keys = start + tl.arange(0, BN)
        in_keys = keys < n_keys
        k = _load(k_ptr, keys, d, k_n, k_d, in_keys, in_d, UP)
        s = _scores(q, k, bias_ptr, bias_n, keys, in_keys, lo, hi, scale, HAS_BIAS, HAS_WINDOW, PREC)
        new_top = tl.maximum(top, tl.max(s, 1))
        level = tl.where(new_top == float("-inf"), 0.0, new_top)  # no key seen yet
        p = tl.exp(s - level[:, None])
        shrink = tl.exp(top - level)
        v = _load(v_ptr, keys, e, v_n, v_d, in_keys, in_e, UP)
        total = total * shrink + tl.sum(p, 1)
        acc = acc * shrink[:, None] + tl.dot(p.to(v.dtype), v, input_precision=PREC)
        top = new_top
    dead = total == 0.0
    total = tl.where(dead, 1.0, total)
    lse = top + tl.log(total)
    tl.store(lse_ptr + row * n_queries + queries, lse, mask=in_queries)
    out = (acc / total[:, None]).to(out_ptr.dtype.element_ty)
    place = (row * n_queries + queries)[:, None] * value_width + e[None, :]
    tl.store(out_ptr + place, out, mask=in_queries[:, None] & in_e[None, :])
    if WITH_MAP:  # the keys come back from the cache; only the scores are made again
        # Not exp(s - lse): where scores are large, the log-sum-exp has lost the digits of the total.
        level = tl.where(dead, float("inf"), top)
        for start in range(0, n_keys, BN):
            keys = start + tl.arange(0, BN)
            in_keys = keys < n_keys
            k = _load(k_ptr, keys, d, k_n, k_d, in_keys, in_d, UP)
            s = _scores(q, k, bias_ptr, bias_n, keys, in_keys, lo, hi, scale, HAS_BIAS, HAS_WINDOW, PREC)
            cell = (row * n_queries + queries)[:, None] * n_keys + keys[None, :]
            p = tl.exp(s - level[:, None]) / total[:, None]
            tl.store(map_ptr + cell, p, mask=in_queries[:, None] & in_keys[None, :])


@triton.jit
def _mean_map_kernel(
    q_ptr, k_ptr, bias_ptr, lo_ptr, hi_ptr, lse_ptr, map_ptr,
    q_b, q_h, q_m, q_d, k_b, k_h, k_n, k_d, bias_b, bias_h, bias_n,
    scale, n_heads, n_queries, n_keys, width,
    BM: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr,
    HAS_BIAS: tl.constexpr, HAS_WINDOW: tl.constexpr, PREC: tl.constexpr, UP: tl.constexpr,
):  # fmt: skip
    # One program per (batch, tile of queries, tile of keys): the heads are summed in registers, in order.
    columns, tiles = tl.cdiv(n_keys, BN), tl.cdiv(n_queries, BM)
    b = (tl.program_id(0) // (columns * tiles)).to(tl.int64)
    queries = (tl.program_id(0) // columns % tiles) * BM + tl.arange(0, BM)
    keys = (tl.program_id(0) % columns) * BN + tl.arange(0, BN)
    d = tl.arange(0, BD)
    in_queries, in_keys, in_d = queries < n_queries, keys < n_keys, d < width
    lo, hi = queries, queries
    if HAS_WINDOW:
        lo = tl.load(lo_ptr + queries, mask=in_queries, other=0)
        hi = tl.load(hi_ptr + queries, mask=in_queries, other=0)
    acc = tl.zeros([BM, BN], tl.float32)
    for h in range(0, n_heads):
        q = _load(q_ptr + b * q_b + h * q_h, queries, d, q_m, q_d, in_queries, in_d, UP)
        k = _load(k_ptr + b * k_b + h * k_h, keys, d, k_n, k_d, in_keys, in_d, UP)
        bias = bias_ptr + b * bias_b + h * bias_h
        s = _scores(q, k, bias, bias_n, keys, in_keys, lo, hi, scale, HAS_BIAS, HAS_WINDOW, PREC)
        level = (b * n_heads + h) * n_queries + queries
        lse = tl.load(lse_ptr + level, mask=in_queries, other=0.0)
        acc += tl.exp(s - tl.where(lse == float("-inf"), float("inf"), lse)[:, None])
    place = (b * n_queries + queries)[:, None] * n_keys + keys[None, :]
    tl.store(map_ptr + place, acc / n_heads, mask=in_queries[:, None] & in_keys[None, :])


@triton.jit
def _row_terms(
    do, out_ptr, lse_ptr, grad_lse_ptr, row, n_queries, queries, e, value_width, in_queries, in_e,
    HAS_GRAD_LSE: tl.constexpr, UP: tl.constexpr,
):  # fmt: skip
    """Log-sum-exp of each query, and what its score gradients share: dO . O - d lse."""
    places = row * n_queries + queries
    out = _load(out_ptr, places, e, value_width, 1, in_queries, in_e, UP)
    lse = tl.load(lse_ptr + places, mask=in_queries, other=float("inf"))
    lse = tl.where(lse == float("-inf"), float("inf"), lse)
    delta = tl.sum(do.to(tl.float32) * out.to(tl.float32), 1)
    if HAS_GRAD_LSE:
        delta -= tl.load(grad_lse_ptr + places, mask=in_queries, other=0.0)
    return lse, delta


@triton.jit
def _map_gradient(ptr, queries, keys, g_m, g_n, in_queries, in_keys, factor):
    place = queries.to(tl.int64)[:, None] * g_m + keys[None, :] * g_n
    return factor * tl.load(ptr + place, mask=in_queries[:, None] & in_keys[None, :], other=0.0)


@triton.jit
def _map_term(
    q, k_ptr, bias_ptr, g_ptr, k_n, k_d, bias_n, g_m, g_n, queries, d, in_queries, in_d, lo, hi, lse,
    scale, g_factor, n_keys,
    BM: tl.constexpr, BN: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_WINDOW: tl.constexpr,
    PREC: tl.constexpr, UP: tl.constexpr,
):  # fmt: skip
    """Weighted sum of the map's gradient over the keys of each query."""
    term = tl.zeros([BM], tl.float32)
    for start in range(0, n_keys, BN):
        keys = start + tl.arange(0, BN)
        in_keys = keys < n_keys
        k = _load(k_ptr, keys, d, k_n, k_d, in_keys, in_d, UP)
        s = _scores(q, k, bias_ptr, bias_n, keys, in_keys, lo, hi, scale, HAS_BIAS, HAS_WINDOW, PREC)
        g = _map_gradient(g_ptr, queries, keys, g_m, g_n, in_queries, in_keys, g_factor)
        term += tl.sum(tl.exp(s - lse[:, None]) * g, 1)
    return term


@triton.jit
def _backward_few_kernel(
    do_ptr, g_ptr, grad_lse_ptr, q_ptr, k_ptr, v_ptr, bias_ptr, lo_ptr, hi_ptr, out_ptr, lse_ptr,
    dq_ptr, dk_ptr, dv_ptr, dbias_ptr,
    g_b, g_h, g_m, g_n, q_b, q_h, q_m, q_d, k_b, k_h, k_n, k_d, v_b, v_h, v_n, v_d,
    bias_b, bias_h, bias_n, scale, g_factor, n_heads, n_queries, n_keys, width, value_width,
    BM: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, BV: tl.constexpr,
    HAS_BIAS: tl.constexpr, HAS_WINDOW: tl.constexpr, HAS_MAP: tl.constexpr,
    HAS_GRAD_LSE: tl.constexpr, BIAS_GRAD: tl.constexpr, PREC: tl.constexpr, UP: tl.constexpr,
):  # fmt: skip
    # One program per (batch, head), all queries in one tile: gradients of a tile of keys are finished when
    # it is left, and the queries' stay in registers.
    row = tl.program_id(0).to(tl.int64)
    b, h = row // n_heads, row % n_heads
    queries, d, e = tl.arange(0, BM), tl.arange(0, BD), tl.arange(0, BV)
    in_queries, in_d, in_e = queries < n_queries, d < width, e < value_width
    k_ptr += b * k_b + h * k_h
    v_ptr += b * v_b + h * v_h
    bias_ptr += b * bias_b + h * bias_h
    g_ptr += b * g_b + h * g_h
    q = _load(q_ptr + b * q_b + h * q_h, queries, d, q_m, q_d, in_queries, in_d, UP)
    do = _load(do_ptr, row * n_queries + queries, e, value_width, 1, in_queries, in_e, UP)
    lse, delta = _row_terms(
        do, out_ptr, lse_ptr, grad_lse_ptr, row, n_queries, queries, e, value_width, in_queries, in_e,
        HAS_GRAD_LSE, UP,
    )  # fmt: skip
    lo, hi = queries, queries
    if HAS_WINDOW:
        lo = tl.load(lo_ptr + queries, mask=in_queries, other=0)
        hi = tl.load(hi_ptr + queries, mask=in_queries, other=0)
    if HAS_MAP:
        delta += _map_term(
            q, k_ptr, bias_ptr, g_ptr, k_n, k_d, bias_n, g_m, g_n, queries, d, in_queries, in_d, lo, hi,
            lse, scale, g_factor, n_keys, BM, BN, HAS_BIAS, HAS_WINDOW, PREC, UP,
        )  # fmt: skip
    # Gradients are (batch, token, head, feature) in memory.
    dk_ptr += (b * n_keys * n_heads + h) * width
    dv_ptr += (b * n_keys * n_heads + h) * value_width
    dq = tl.zeros([BM, BD], tl.float32)
    for start in range(0, n_keys, BN):
        keys = start + tl.arange(0, BN)
        in_keys = keys < n_keys
        k = _load(k_ptr, keys, d, k_n, k_d, in_keys, in_d, UP)
        v = _load(v_ptr, keys, e, v_n, v_d, in_keys, in_e, UP)
        s = _scores(q, k, bias_ptr, bias_n, keys, in_keys, lo, hi, scale, HAS_BIAS, HAS_WINDOW, PREC)
        p = tl.exp(s - lse[:, None])
        dv = tl.dot(tl.trans(p.to(do.dtype)), do, input_precision=PREC)
        place = keys[:, None] * n_heads * value_width + e[None, :]
        tl.store(dv_ptr + place, dv.to(dv_ptr.dtype.element_ty), mask=in_keys[:, None] & in_e[None, :])
        dp = tl.dot(do, tl.trans(v), input_precision=PREC)
        if HAS_MAP:
            dp += _map_gradient(g_ptr, queries, keys, g_m, g_n, in_queries, in_keys, g_factor)
        ds = p * (dp - delta[:, None])
        if BIAS_GRAD:
            tl.store(dbias_ptr + row * n_keys + keys, tl.sum(ds, 0), mask=in_keys)
        ds = (ds * scale).to(q.dtype)
        dk = tl.dot(tl.trans(ds), q, input_precision=PREC)
        place = keys[:, None] * n_heads * width + d[None, :]
        tl.store(dk_ptr + place, dk.to(dk_ptr.dtype.element_ty), mask=in_keys[:, None] & in_d[None, :])
        dq += tl.dot(ds, k, input_precision=PREC)
    place = (((b * n_queries + queries) * n_heads + h) * width)[:, None] + d[None, :]
    tl.store(dq_ptr + place, dq.to(dq_ptr.dtype.element_ty), mask=in_queries[:, None] & in_d[None, :])


@triton.jit
def _backward_queries_kernel(
    do_ptr, g_ptr, grad_lse_ptr, q_ptr, k_ptr, v_ptr, bias_ptr, lo_ptr, hi_ptr, out_ptr, lse_ptr,
    dq_ptr, delta_ptr,
    g_b, g_h, g_m, g_n, q_b, q_h, q_m, q_d, k_b, k_h, k_n, k_d, v_b, v_h, v_n, v_d,
    bias_b, bias_h, bias_n, scale, g_factor, n_heads, n_queries, n_keys, width, value_width,
    BM: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, BV: tl.constexpr,
    HAS_BIAS: tl.constexpr, HAS_WINDOW: tl.constexpr, HAS_MAP: tl.constexpr,
    HAS_GRAD_LSE: tl.constexpr, PREC: tl.constexpr, UP: tl.constexpr,
):  # fmt: skip
    # One program per (batch, head, tile of queries); leaves delta for the keys' kernel.
    tiles = tl.cdiv(n_queries, BM)
    row = (tl.program_id(0) // tiles).to(tl.int64)
    b, h = row // n_heads, row % n_heads
    queries = (tl.program_id(0) % tiles) * BM + tl.arange(0, BM)
    d, e = tl.arange(0, BD), tl.arange(0, BV)
    in_queries, in_d, in_e = queries < n_queries, d < width, e < value_width
    k_ptr += b * k_b + h * k_h
    v_ptr += b * v_b + h * v_h
    bias_ptr += b * bias_b + h * bias_h
    g_ptr += b * g_b + h * g_h
    q = _load(q_ptr + b * q_b + h * q_h, queries, d, q_m, q_d, in_queries, in_d, UP)
    do = _load(do_ptr, row * n_queries + queries, e, value_width, 1, in_queries, in_e, UP)
    lse, delta = _row_terms(
        do, out_ptr, lse_ptr, grad_lse_ptr, row, n_queries, queries, e, value_width, in_queries, in_e,
        HAS_GRAD_LSE, UP,
    )  # fmt: skip
    lo, hi = queries, queries
    if HAS_WINDOW:
        lo = tl.load(lo_ptr + queries, mask=in_queries, other=0)
        hi = tl.load(hi_ptr + queries, mask=in_queries, other=0)
    if HAS_MAP:
        delta += _map_term(
            q, k_ptr, bias_ptr, g_ptr, k_n, k_d, bias_n, g_m, g_n, queries, d, in_queries, in_d, lo, hi,
            lse, scale, g_factor, n_keys, BM, BN, HAS_BIAS, HAS_WINDOW, PREC, UP,
        )  # fmt: skip
    tl.store(delta_ptr + row * n_queries + queries, delta, mask=in_queries)
    dq = tl.zeros([BM, BD], tl.float32)
    for start in range(0, n_keys, BN):
        keys = start + tl.arange(0, BN)
        in_keys = keys < n_keys
        k = _load(k_ptr, keys, d, k_n, k_d, in_keys, in_d, UP)
        v = _load(v_ptr, keys, e, v_n, v_d, in_keys, in_e, UP)
        s = _scores(q, k, bias_ptr, bias_n, keys, in_keys, lo, hi, scale, HAS_BIAS, HAS_WINDOW, PREC)
        dp = tl.dot(do, tl.trans(v), input_precision=PREC)
        if HAS_MAP:
            dp += _map_gradient(g_ptr, queries, keys, g_m, g_n, in_queries, in_keys, g_factor)
        ds = (tl.exp(s - lse[:, None]) * (dp - delta[:, None]) * scale).to(q.dtype)
        dq += tl.dot(ds, k, input_precision=PREC)
    place = (((b * n_queries + queries) * n_heads + h) * width)[:, None] + d[None, :]
    tl.store(dq_ptr + place, dq.to(dq_ptr.dtype.element_ty), mask=in_queries[:, None] & in_d[None, :])


@triton.jit
def _backward_keys_kernel(
    do_ptr, g_ptr, q_ptr, k_ptr, v_ptr, bias_ptr, lo_ptr, hi_ptr, lse_ptr, delta_ptr,
    dk_ptr, dv_ptr, dbias_ptr,
    g_b, g_h, g_m, g_n, q_b, q_h, q_m, q_d, k_b, k_h, k_n, k_d, v_b, v_h, v_n, v_d,
    bias_b, bias_h, bias_n, scale, g_factor, n_heads, n_queries, n_keys, width, value_width,
    BM: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, BV: tl.constexpr,
    HAS_BIAS: tl.constexpr, HAS_WINDOW: tl.constexpr, HAS_MAP: tl.constexpr, BIAS_GRAD: tl.constexpr,
    PREC: tl.constexpr, UP: tl.constexpr,
):  # fmt: skip
    # One program per (batch, head, tile of keys), walking the queries.
    columns = tl.cdiv(n_keys, BN)
    row = (tl.program_id(0) // columns).to(tl.int64)
    b, h = row // n_heads, row % n_heads
    keys = (tl.program_id(0) % columns) * BN + tl.arange(0, BN)
    d, e = tl.arange(0, BD), tl.arange(0, BV)
    in_keys, in_d, in_e = keys < n_keys, d < width, e < value_width
    q_ptr += b * q_b + h * q_h
    bias_ptr += b * bias_b + h * bias_h
    g_ptr += b * g_b + h * g_h
    k = _load(k_ptr + b * k_b + h * k_h, keys, d, k_n, k_d, in_keys, in_d, UP)
    v = _load(v_ptr + b * v_b + h * v_h, keys, e, v_n, v_d, in_keys, in_e, UP)
    dk = tl.zeros([BN, BD], tl.float32)
    dv = tl.zeros([BN, BV], tl.float32)
    dbias = tl.zeros([BN], tl.float32)
    for start in range(0, n_queries, BM):
        queries = start + tl.arange(0, BM)
        in_queries = queries < n_queries
        places = row * n_queries + queries
        q = _load(q_ptr, queries, d, q_m, q_d, in_queries, in_d, UP)
        do = _load(do_ptr, places, e, value_width, 1, in_queries, in_e, UP)
        lse = tl.load(lse_ptr + places, mask=in_queries, other=float("inf"))
        lse = tl.where(lse == float("-inf"), float("inf"), lse)
        delta = tl.load(delta_ptr + places, mask=in_queries, other=0.0)
        lo, hi = queries, queries
        if HAS_WINDOW:
            lo = tl.load(lo_ptr + queries, mask=in_queries, other=0)
            hi = tl.load(hi_ptr + queries, mask=in_queries, other=0)
        s = _scores(q, k, bias_ptr, bias_n, keys, in_keys, lo, hi, scale, HAS_BIAS, HAS_WINDOW, PREC)
        p = tl.exp(s - lse[:, None])
        dv += tl.dot(tl.trans(p.to(do.dtype)), do, input_precision=PREC)
        dp = tl.dot(do, tl.trans(v), input_precision=PREC)
        if HAS_MAP:
            dp += _map_gradient(g_ptr, queries, keys, g_m, g_n, in_queries, in_keys, g_factor)
        ds = p * (dp - delta[:, None])
        if BIAS_GRAD:
            dbias += tl.sum(ds, 0)
        dk += tl.dot(tl.trans((ds * scale).to(q.dtype)), q, input_precision=PREC)
    in_tile = in_keys[:, None]
    place = (((b * n_keys + keys) * n_heads + h) * width)[:, None] + d[None, :]
    tl.store(dk_ptr + place, dk.to(dk_ptr.dtype.element_ty), mask=in_tile & in_d[None, :])
    place = (((b * n_keys + keys) * n_heads + h) * value_width)[:, None] + e[None, :]
    tl.store(dv_ptr + place, dv.to(dv_ptr.dtype.element_ty), mask=in_tile & in_e[None, :])
    if BIAS_GRAD:
        tl.store(dbias_ptr + row * n_keys + keys, dbias, mask=in_keys)


class Blocks(NamedTuple):
    """Tile of queries, tile of keys, warps and pipeline stages of a launch."""

    queries: int
    keys: int
    warps: int
    stages: int


def _width(n: int) -> int:
    return max(16, 1 << (n - 1).bit_length())


def _config(gradient: bool, width: int, dtype: torch.dtype, architecture: int) -> Blocks:
    """Look up the configuration by kernel, padded head size, dtype and compute capability times ten."""
    if architecture >= 90 and dtype != torch.float32 and width <= 64:
        return Blocks(64, 64, 8, 2) if gradient else Blocks(64, 64, 4, 2)
    if architecture < 90 and gradient and width > 64:
        return Blocks(32, 32, 8, 1)  # 64 queries spill with Triton 3.6 or 3.8
    return Blocks(64, 32, 8, 1)


def _architecture(x: Tensor) -> int:
    """Compute capability times ten; interpreted kernels take the configuration of sm_90."""
    if not x.is_cuda:
        return 90
    major, minor = torch.cuda.get_device_capability(x.device)
    return 10 * major + minor


def _precision(gradient: bool) -> str:
    # torch's own setting rules: outputs of float32 keep its accuracy (three products each) unless the user
    # gave it up. Gradients do not: with three products each the registers overflow.
    return "tf32" if gradient or torch.get_float32_matmul_precision() != "highest" else "tf32x3"


def _options(q: Tensor, bias: Tensor | None, lo: Tensor | None) -> dict[str, Any]:
    return {
        "HAS_BIAS": bias is not None,
        "HAS_WINDOW": lo is not None,
        "UP": q.dtype == torch.bfloat16 and not q.is_cuda,
    }


def _strides(x: Tensor, full: int, axis: int) -> tuple[int, ...]:
    """Strides with 0 for an axis of size 1 that stands for ``full`` elements."""
    return tuple(0 if i == axis and x.shape[i] == 1 < full else s for i, s in enumerate(x.stride()))


def _bias_strides(bias: Tensor | None, heads: int) -> tuple[int, ...]:
    return (0, 0, 0) if bias is None else _strides(bias, heads, 1)


def forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    lo: Tensor | None,
    hi: Tensor | None,
    scale: float,
    map: str,
    blocks: Blocks | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return output, map (empty for "none") and log-sum-exp; ``blocks`` overrides the configuration table."""
    (batch, heads, n_keys, value_width), (n_queries, width) = v.shape, q.shape[2:]
    wide = _width(width), _width(value_width)
    at = blocks or _config(False, max(wide), q.dtype, _architecture(q))
    out = torch.empty(batch, heads, n_queries, value_width, dtype=v.dtype, device=v.device)
    lse = torch.empty(batch, heads, n_queries, dtype=torch.float32, device=v.device)
    shape = map_shape(map, batch, heads, n_queries, n_keys)
    weights = torch.empty(shape, dtype=torch.float32, device=v.device)
    strides = _strides(q, batch, 0), _strides(k, heads, 1), _bias_strides(bias, heads)
    launch = _options(q, bias, lo) | {
        "PREC": _precision(gradient=False), "num_warps": at.warps, "num_stages": at.stages,
    }  # fmt: skip
    # An absent pointer is never read; any tensor stands for it.
    _forward_kernel[(triton.cdiv(n_queries, at.queries) * batch * heads,)](
        q, k, v, q if bias is None else bias, q if lo is None else lo, q if hi is None else hi,
        out, lse, weights, *strides[0], *strides[1], *v.stride(), *strides[2],
        scale, heads, n_queries, n_keys, width, value_width,
        BM=at.queries, BN=at.keys, BD=wide[0], BV=wide[1], WITH_MAP=map == "heads", **launch,
    )  # fmt: skip
    if map == "mean":
        tiles = triton.cdiv(n_queries, at.queries) * triton.cdiv(n_keys, at.keys)
        _mean_map_kernel[(tiles * batch,)](
            q, k, q if bias is None else bias, q if lo is None else lo, q if hi is None else hi,
            lse, weights, *strides[0], *strides[1], *strides[2],
            scale, heads, n_queries, n_keys, width,
            BM=at.queries, BN=at.keys, BD=wide[0], **launch,
        )  # fmt: skip
    return out, weights, lse


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
    blocks: Blocks | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of q, k, v and bias (empty unless asked for)."""
    (batch, heads, n_keys, value_width), (n_queries, width) = v.shape, q.shape[2:]
    wide = _width(width), _width(value_width)
    at = blocks or _config(True, max(wide), q.dtype, _architecture(q))
    do = torch.zeros_like(out) if grad_out is None else grad_out.contiguous()
    g_strides: tuple[int, ...] = (0, 0, 0, 0)
    if grad_map is not None:  # the mean over heads has one gradient for all heads
        g_strides = grad_map.stride()
        g_strides = g_strides if grad_map.ndim == 4 else (g_strides[0], 0, *g_strides[1:])
    g_factor = 1 / heads if grad_map is not None and grad_map.ndim == 3 else 1.0
    # A gradient summed over a shared axis afterwards is summed in float32.
    dq, dk, dv = (empty_merged(x) for x in (q, k, v))
    full = [
        x
        if x.shape[:2] == (batch, heads)
        else torch.empty(
            batch, x.shape[2], heads, x.shape[3], dtype=torch.float32, device=x.device
        ).transpose(1, 2)
        for x in (dq, dk)
    ]
    shape = (batch, heads, n_keys) if bias_grad else (0,)
    dbias = torch.empty(shape, dtype=torch.float32, device=v.device)
    bounds = q if lo is None else lo, q if hi is None else hi
    source = q, k, v, q if bias is None else bias, *bounds
    sizes = (
        *g_strides, *_strides(q, batch, 0), *_strides(k, heads, 1), *v.stride(), *_bias_strides(bias, heads),
        scale, g_factor, heads, n_queries, n_keys, width, value_width,
    )  # fmt: skip
    launch = _options(q, bias, lo) | {
        "PREC": _precision(gradient=True),
        "BM": at.queries, "BN": at.keys, "BD": wide[0], "BV": wide[1],
        "HAS_MAP": grad_map is not None, "num_warps": at.warps, "num_stages": at.stages,
    }  # fmt: skip
    g = q if grad_map is None else grad_map
    g_lse = lse if grad_lse is None else grad_lse.contiguous()
    if n_queries <= at.queries:
        _backward_few_kernel[(batch * heads,)](
            do, g, g_lse, *source, out, lse, *full, dv, dbias, *sizes,
            HAS_GRAD_LSE=grad_lse is not None, BIAS_GRAD=bias_grad, **launch,
        )  # fmt: skip
    else:
        delta = torch.empty_like(lse)
        _backward_queries_kernel[(triton.cdiv(n_queries, at.queries) * batch * heads,)](
            do, g, g_lse, *source, out, lse, full[0], delta, *sizes,
            HAS_GRAD_LSE=grad_lse is not None, **launch,
        )  # fmt: skip
        _backward_keys_kernel[(triton.cdiv(n_keys, at.keys) * batch * heads,)](
            do, g, *source, lse, delta, full[1], dv, dbias, *sizes, BIAS_GRAD=bias_grad, **launch,
        )  # fmt: skip
    return reduced(full[0], dq), reduced(full[1], dk), dv, dbias


def lint_variants() -> list[Any]:
    """List what is shipped, for ``python -m neuroattn.kernels.lint``."""
    from neuroattn.kernels.lint import Variant

    strides = [f"{x}_{axis}" for x, axes in (("q", "bhm"), ("k", "bhn"), ("v", "bhn")) for axis in axes]
    aligned = {*strides, "width", "value_width", "g_b", "g_h"}
    sizes = (
        "n_heads",
        "n_queries",
        "n_keys",
        "width",
        "value_width",
        "bias_b",
        "bias_h",
        "g_b",
        "g_h",
        "g_m",
    )
    numbers = dict.fromkeys((*strides, *sizes), "i32") | {"scale": "fp32", "g_factor": "fp32"}
    ones = dict.fromkeys(["q_d", "k_d", "v_d", "bias_n", "g_n"], 1)
    found: list[Any] = []

    def add(kernel: Any, name: str, wide: int, at: Blocks, architecture: int, **constants: Any) -> None:
        tensors = dict.fromkeys(["q", "k", "v", "out", "do", "dq", "dk", "dv"], name)
        tensors |= dict.fromkeys(["bias", "lse", "map", "g", "grad_lse", "delta", "dbias"], "*fp32")
        tensors |= {"lo": "*i32", "hi": "*i32"}
        types = {f"{x}_ptr": t for x, t in tensors.items()} | numbers
        values = ones | constants | {"BM": at.queries, "BN": at.keys, "BD": wide, "BV": wide, "UP": False}
        values |= {"HAS_BIAS": True, "HAS_WINDOW": False, "HAS_GRAD_LSE": False}
        names = kernel.arg_names
        found.append(
            Variant(
                kernel,
                {n: t for n, t in types.items() if n in names},
                {n: x for n, x in values.items() if n in names},
                at.warps,
                at.stages,
                tuple(n for n in names if n.endswith("_ptr") or n in aligned),
                tensor_cores=True,
                architectures=(architecture,),
            )
        )

    for architecture in (90, 80):
        for dtype, name in ((torch.float32, "*fp32"), (torch.float16, "*fp16"), (torch.bfloat16, "*bf16")):
            single = dtype == torch.float32
            for wide in (64,) if single else (64, 128):
                shape = name, wide, _config(False, wide, dtype, architecture), architecture
                for precision in ("tf32x3", "tf32") if single else ("tf32",):  # concerns float32 only
                    for flag in (False, True):
                        add(_forward_kernel, *shape, WITH_MAP=flag, PREC=precision)
                    add(_mean_map_kernel, *shape, PREC=precision)
                shape = name, wide, _config(True, wide, dtype, architecture), architecture
                for kernel in (_backward_few_kernel, _backward_queries_kernel, _backward_keys_kernel):
                    for flag in (False, True):
                        add(kernel, *shape, HAS_MAP=flag, BIAS_GRAD=flag, PREC="tf32")
    return found
