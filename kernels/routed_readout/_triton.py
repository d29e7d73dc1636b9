"""Triton kernels of the routed readout.

Units are the rows of every product (64 or more of them use the widest matrix instructions), samples the
columns. Sums are float32, no kernel uses atomics, and every element is written by one program.
"""
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from neuroattn.kernels.routed_readout.routing import TILE


@triton.jit
def _lift(x, UP: tl.constexpr):
    """Interpreted, bf16 is a bit pattern: UP lifts it to float32; compiled code is unchanged."""
    return x.to(tl.float32) if UP else x


@triton.jit
def _units(perm_ptr, places, inside, HAS_PERM: tl.constexpr):
    """Units at these places of the group order."""
    return tl.load(perm_ptr + places, mask=inside, other=0) if HAS_PERM else places.to(tl.int64)


@triton.jit
def _forward_kernel(
    pooled_ptr, weight_ptr, bias_ptr, counts_ptr, perm_ptr, tiles_ptr, out_ptr,
    weight_v, weight_d, n_batch, n_units, width,
    BV: tl.constexpr, BB: tl.constexpr, BD: tl.constexpr,
    HAS_BIAS: tl.constexpr, HAS_PERM: tl.constexpr, PREC: tl.constexpr, UP: tl.constexpr,
):  # fmt: skip
    # One program per (tile of units of one group, block of samples).
    tile = tiles_ptr + tl.program_id(0) * 3
    group, first, end = tl.load(tile).to(tl.int64), tl.load(tile + 1), tl.load(tile + 2)
    places = first + tl.arange(0, BV)
    samples = tl.program_id(1) * BB + tl.arange(0, BB)
    in_units, in_samples = places < end, samples < n_batch
    units = _units(perm_ptr, places, in_units, HAS_PERM)
    acc = tl.zeros([BV, BB], tl.float32)
    for start in range(0, width, BD):
        d = start + tl.arange(0, BD)
        in_d = d < width
        w = tl.load(
            weight_ptr + units[:, None] * weight_v + d[None, :] * weight_d,
            mask=in_units[:, None] & in_d[None, :], other=0.0,
        )  # fmt: skip
        h = tl.load(
            pooled_ptr + (group * n_batch + samples)[:, None] * width + d[None, :],
            mask=in_samples[:, None] & in_d[None, :], other=0.0,
        )  # fmt: skip
        acc += tl.dot(_lift(w, UP), tl.trans(_lift(h, UP)), input_precision=PREC)
    if HAS_BIAS:
        bias = _lift(tl.load(bias_ptr + units, mask=in_units, other=0.0), UP).to(tl.float32)
        acc += (bias * tl.load(counts_ptr + units, mask=in_units, other=0).to(tl.float32))[:, None]
    place = samples.to(tl.int64)[None, :] * n_units + units[:, None]
    tl.store(out_ptr + place, acc.to(out_ptr.dtype.element_ty), mask=in_units[:, None] & in_samples[None, :])


@triton.jit
def _weight_kernel(
    grad_ptr, pooled_ptr, perm_ptr, tiles_ptr, dweight_ptr,
    grad_b, grad_v, n_batch, width,
    BV: tl.constexpr, BB: tl.constexpr, BD: tl.constexpr,
    HAS_PERM: tl.constexpr, PREC: tl.constexpr, UP: tl.constexpr,
):  # fmt: skip
    # One program per (tile of units of one group, block of features), walking the samples.
    tile = tiles_ptr + tl.program_id(0) * 3
    group, first, end = tl.load(tile).to(tl.int64), tl.load(tile + 1), tl.load(tile + 2)
    places = first + tl.arange(0, BV)
    d = tl.program_id(1) * BD + tl.arange(0, BD)
    in_units, in_d = places < end, d < width
    units = _units(perm_ptr, places, in_units, HAS_PERM)
    acc = tl.zeros([BV, BD], tl.float32)
    for start in range(0, n_batch, BB):
        samples = start + tl.arange(0, BB)
        in_samples = samples < n_batch
        g = tl.load(
            grad_ptr + samples[None, :] * grad_b + units[:, None] * grad_v,
            mask=in_units[:, None] & in_samples[None, :], other=0.0,
        )  # fmt: skip
        h = tl.load(
            pooled_ptr + (group * n_batch + samples)[:, None] * width + d[None, :],
            mask=in_samples[:, None] & in_d[None, :], other=0.0,
        )  # fmt: skip
        acc += tl.dot(_lift(g, UP), _lift(h, UP), input_precision=PREC)
    place = units[:, None] * width + d[None, :]
    tl.store(
        dweight_ptr + place, acc.to(dweight_ptr.dtype.element_ty), mask=in_units[:, None] & in_d[None, :]
    )


@triton.jit
def _tokens_kernel(
    grad_ptr, weight_ptr, perm_ptr, chunks_ptr, partial_ptr,
    grad_b, grad_v, weight_v, weight_d, n_batch, width,
    BV: tl.constexpr, BB: tl.constexpr, BD: tl.constexpr,
    HAS_PERM: tl.constexpr, PREC: tl.constexpr, UP: tl.constexpr,
):  # fmt: skip
    # One program per (chunk of units of one group, block of features, block of samples). Features are rows.
    chunk = chunks_ptr + tl.program_id(0) * 3
    first, end = tl.load(chunk + 1), tl.load(chunk + 2)
    d = tl.program_id(1) * BD + tl.arange(0, BD)
    samples = tl.program_id(2) * BB + tl.arange(0, BB)
    in_d, in_samples = d < width, samples < n_batch
    acc = tl.zeros([BD, BB], tl.float32)
    for start in range(first, end, BV):
        places = start + tl.arange(0, BV)
        in_units = places < end
        units = _units(perm_ptr, places, in_units, HAS_PERM)
        w = tl.load(
            weight_ptr + units[:, None] * weight_v + d[None, :] * weight_d,
            mask=in_units[:, None] & in_d[None, :], other=0.0,
        )  # fmt: skip
        g = tl.load(
            grad_ptr + samples[None, :] * grad_b + units[:, None] * grad_v,
            mask=in_units[:, None] & in_samples[None, :], other=0.0,
        )  # fmt: skip
        acc += tl.dot(tl.trans(_lift(w, UP)), _lift(g, UP), input_precision=PREC)
    row = tl.program_id(0).to(tl.int64) * n_batch + samples
    place = row[None, :] * width + d[:, None]
    tl.store(partial_ptr + place, acc, mask=in_d[:, None] & in_samples[None, :])


@triton.jit
def _vertex_kernel(
    h_ptr, weight_ptr, bias_ptr, out_ptr,
    h_b, h_v, h_d, weight_v, weight_d, n_batch, n_units, width,
    BV: tl.constexpr, BD: tl.constexpr, HAS_BIAS: tl.constexpr, UP: tl.constexpr,
):  # fmt: skip
    # One program per (block of units, sample); neighbours share the weights, which stay in the cache.
    b = (tl.program_id(0) % n_batch).to(tl.int64)
    units = (tl.program_id(0) // n_batch) * BV + tl.arange(0, BV)
    in_units = units < n_units
    rows = units.to(tl.int64)[:, None]
    acc = tl.zeros([BV], tl.float32)
    for start in range(0, width, BD):
        d = start + tl.arange(0, BD)
        inside = in_units[:, None] & (d < width)[None, :]
        w = tl.load(weight_ptr + rows * weight_v + d[None, :] * weight_d, mask=inside, other=0.0)
        h = tl.load(h_ptr + b * h_b + rows * h_v + d[None, :] * h_d, mask=inside, other=0.0)
        acc += tl.sum(_lift(w, UP).to(tl.float32) * _lift(h, UP).to(tl.float32), 1)
    if HAS_BIAS:
        acc += _lift(tl.load(bias_ptr + units, mask=in_units, other=0.0), UP).to(tl.float32)
    tl.store(out_ptr + b * n_units + units, acc.to(out_ptr.dtype.element_ty), mask=in_units)


@triton.jit
def _vertex_backward_kernel(
    grad_ptr, h_ptr, weight_ptr, dh_ptr, dweight_ptr,
    grad_b, grad_v, h_b, h_v, h_d, weight_v, weight_d, n_batch, n_units, width,
    BV: tl.constexpr, BD: tl.constexpr, UP: tl.constexpr,
):  # fmt: skip
    # One program per (block of units, block of features), walking the samples.
    units = tl.program_id(0) * BV + tl.arange(0, BV)
    d = tl.program_id(1) * BD + tl.arange(0, BD)
    in_units = units < n_units
    inside = in_units[:, None] & (d < width)[None, :]
    rows = units.to(tl.int64)[:, None]
    w = tl.load(weight_ptr + rows * weight_v + d[None, :] * weight_d, mask=inside, other=0.0)
    w = _lift(w, UP).to(tl.float32)
    acc = tl.zeros([BV, BD], tl.float32)
    for b in range(0, n_batch):
        sample = tl.full([], b, tl.int64)
        g = tl.load(grad_ptr + sample * grad_b + units * grad_v, mask=in_units, other=0.0)
        g = _lift(g, UP).to(tl.float32)[:, None]
        h = tl.load(h_ptr + sample * h_b + rows * h_v + d[None, :] * h_d, mask=inside, other=0.0)
        acc += g * _lift(h, UP).to(tl.float32)
        place = (sample * n_units + rows) * width + d[None, :]
        tl.store(dh_ptr + place, (g * w).to(dh_ptr.dtype.element_ty), mask=inside)
    place = rows * width + d[None, :]
    tl.store(dweight_ptr + place, acc.to(dweight_ptr.dtype.element_ty), mask=inside)


def _samples(n: int, dtype: torch.dtype) -> int:
    """Put as many samples into one block as registers hold, so that weights are read rarely."""
    return min(32 if dtype == torch.float32 else 64, max(16, 1 << (n - 1).bit_length()))


class Steps(NamedTuple):
    """Features of a step, warps and pipeline stages of a launch."""

    features: int
    warps: int
    stages: int


def _config(dtype: torch.dtype, architecture: int) -> Steps:
    """Look up the configuration by dtype and compute capability times ten."""
    if dtype == torch.float32:
        return Steps(32, 8, 3)
    return Steps(64, 4 if architecture >= 90 else 8, 3)


def _architecture(x: Tensor) -> int:
    """Compute capability times ten; interpreted kernels take the configuration of sm_90."""
    if not x.is_cuda:
        return 90
    major, minor = torch.cuda.get_device_capability(x.device)
    return 10 * major + minor


def _launch(x: Tensor, perm: Tensor | None, steps: Steps) -> dict[str, Any]:
    return {
        "BD": steps.features,
        "num_warps": steps.warps,
        "num_stages": steps.stages,
        "HAS_PERM": perm is not None,
        # torch's own setting: float32 products keep float32 accuracy unless the user gave it up.
        "PREC": "tf32x3" if torch.get_float32_matmul_precision() == "highest" else "tf32",
        "UP": x.dtype == torch.bfloat16 and not x.is_cuda,
    }


def _allocate(bounds: Sequence[int], n_units: int, shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Allocate a result; units in no group, which no program visits, must be 0."""
    make = torch.empty if sum(bounds[1::2]) - sum(bounds[::2]) == n_units else torch.zeros
    return make(shape, dtype=like.dtype, device=like.device)


def forward(
    pooled: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    perm: Tensor | None,
    counts: Tensor,
    tiles: Tensor,
    bounds: Sequence[int],
    steps: Steps | None = None,
) -> Tensor:
    """Return (batch, unit) from pooled tokens (group, batch, feature), ``steps`` overrides the table."""
    _, n_batch, width = pooled.shape
    out = _allocate(bounds, weight.shape[0], (n_batch, weight.shape[0]), pooled)
    samples, steps = _samples(n_batch, weight.dtype), steps or _config(weight.dtype, _architecture(weight))
    if len(tiles):
        _forward_kernel[(len(tiles), triton.cdiv(n_batch, samples))](
            pooled, weight, weight if bias is None else bias, counts, tiles if perm is None else perm, tiles,
            out, *weight.stride(), n_batch, weight.shape[0], width,
            BV=TILE, BB=samples, HAS_BIAS=bias is not None, **_launch(weight, perm, steps),
        )  # fmt: skip
    return out


def backward(
    grad: Tensor,
    pooled: Tensor,
    weight: Tensor,
    perm: Tensor | None,
    counts: Tensor,
    tiles: Tensor,
    chunks: Tensor,
    bounds: Sequence[int],
    steps: Steps | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of the pooled tokens, the weight and the bias."""
    n_groups, n_batch, width = pooled.shape
    dweight = _allocate(bounds, weight.shape[0], tuple(weight.shape), weight)
    samples, steps = _samples(n_batch, weight.dtype), steps or _config(weight.dtype, _architecture(weight))
    partial = torch.empty(len(chunks), n_batch, width, dtype=torch.float32, device=pooled.device)
    launch = _launch(weight, perm, steps)
    places = tiles if perm is None else perm
    if len(tiles):
        _weight_kernel[(len(tiles), triton.cdiv(width, steps.features))](
            grad, pooled, places, tiles, dweight, *grad.stride(), n_batch, width,
            BV=TILE, BB=min(samples, 32), **launch,
        )  # fmt: skip
        # Features are its rows, and 64 rows use the widest matrix instructions.
        _tokens_kernel[(len(chunks), triton.cdiv(width, 64), triton.cdiv(n_batch, samples))](
            grad, weight, places, chunks, partial, *grad.stride(), *weight.stride(), n_batch, width,
            BV=TILE // 2, BB=samples, **launch | {"BD": 64},
        )  # fmt: skip
    if len(chunks) != n_groups:  # large groups were split: a product adds their parts in a fixed order
        member = chunks[:, 0] == torch.arange(n_groups, device=chunks.device)[:, None]
        partial = (member.float() @ partial.flatten(1)).view(n_groups, n_batch, width)
    dbias = grad.sum(0, dtype=torch.float32) * counts
    return partial.to(pooled.dtype), dweight, dbias.to(weight.dtype)


def vertex_forward(h: Tensor, weight: Tensor, bias: Tensor | None, units: int = 16) -> Tensor:
    """Return (batch, unit) where unit v reads token v alone; ``units`` is the block of a program."""
    n_batch, n_units, width = h.shape
    out = torch.empty(n_batch, n_units, dtype=h.dtype, device=h.device)
    _vertex_kernel[(triton.cdiv(n_units, units) * n_batch,)](
        h, weight, weight if bias is None else bias, out, *h.stride(), *weight.stride(),
        n_batch, n_units, width,
        BV=units, BD=128, HAS_BIAS=bias is not None, UP=h.dtype == torch.bfloat16 and not h.is_cuda,
        num_warps=4,
    )  # fmt: skip
    return out


def vertex_backward(
    grad: Tensor, h: Tensor, weight: Tensor, units: int = 16
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of h, weight and bias."""
    n_batch, n_units, width = h.shape
    dh = torch.empty(h.shape, dtype=h.dtype, device=h.device)
    dweight = torch.empty(weight.shape, dtype=weight.dtype, device=h.device)
    _vertex_backward_kernel[(triton.cdiv(n_units, units), triton.cdiv(width, 128))](
        grad, h, weight, dh, dweight, *grad.stride(), *h.stride(), *weight.stride(),
        n_batch, n_units, width,
        BV=units, BD=128, UP=h.dtype == torch.bfloat16 and not h.is_cuda, num_warps=4,
    )  # fmt: skip
    return dh, dweight, grad.sum(0, dtype=torch.float32).to(weight.dtype)


def lint_variants() -> list[Any]:
    """List what is shipped, for ``python -m neuroattn.kernels.lint``."""
    from neuroattn.kernels.lint import Variant

    sizes = ("n_batch", "n_units", "width", "weight_v", "grad_b", "h_b", "h_v")
    numbers = dict.fromkeys(sizes, "i32")
    integers = {"counts_ptr": "*i64", "perm_ptr": "*i64", "tiles_ptr": "*i32", "chunks_ptr": "*i32"}
    tensors = ("pooled", "weight", "bias", "out", "grad", "dweight", "h", "dh")
    found: list[Any] = []

    def add(
        kernel: Any, name: str, architecture: int, steps: Steps, products: bool, **constants: Any
    ) -> None:
        types = {f"{x}_ptr": name for x in tensors} | integers | {"partial_ptr": "*fp32"} | numbers
        values = constants | {"weight_d": 1, "grad_v": 1, "h_d": 1, "BD": steps.features}
        values |= {"HAS_BIAS": True, "HAS_PERM": True, "UP": False}
        names = kernel.arg_names
        arguments = {n: t for n, t in types.items() if n in names and n not in values}
        found.append(
            Variant(
                kernel,
                arguments,
                {n: x for n, x in values.items() if n in names},
                steps.warps,
                steps.stages,
                tuple(n for n in arguments if n != "n_batch"),
                tensor_cores=products,
                architectures=(architecture,),
            )
        )

    for architecture in (90, 80):
        for dtype, name in ((torch.float32, "*fp32"), (torch.float16, "*fp16"), (torch.bfloat16, "*bf16")):
            steps = _config(dtype, architecture)
            # Precision concerns float32 only.
            for precision in ("tf32x3", "tf32") if dtype == torch.float32 else ("tf32",):
                for samples in (16, 32 if dtype == torch.float32 else 64):
                    shape = name, architecture, steps, True
                    add(_forward_kernel, *shape, BV=TILE, BB=samples, PREC=precision)
                    add(_weight_kernel, *shape, BV=TILE, BB=min(samples, 32), PREC=precision)
                    shape = name, architecture, steps._replace(features=64), True
                    add(_tokens_kernel, *shape, BV=TILE // 2, BB=samples, PREC=precision)
            for kernel in (_vertex_kernel, _vertex_backward_kernel):
                add(kernel, name, architecture, Steps(128, 4, 3), False, BV=16)
    return found
