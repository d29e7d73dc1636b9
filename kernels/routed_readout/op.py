"""The readout operators: checks, registration with torch, and the choice between kernel and torch route."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from neuroattn._checks import check_shape
from neuroattn.kernels.routed_readout import _torch
from neuroattn.kernels.routed_readout.routing import Routing


def _has_kernel(weight: Tensor) -> bool:
    """Whether Triton serves these tensors; float64 on a GPU goes to the torch route."""
    return weight.is_cuda and weight.dtype in (torch.float32, torch.float16, torch.bfloat16)


@torch.library.custom_op("neuroattn::grouped_readout", mutates_args=())
def _grouped(
    pooled: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    perm: Tensor | None,
    counts: Tensor,
    tiles: Tensor,
    chunks: Tensor,
    bounds: Sequence[int],
) -> Tensor:
    if _has_kernel(weight):
        from neuroattn.kernels.routed_readout import _triton

        with torch.cuda.device(weight.device):
            return _triton.forward(pooled, weight, bias, perm, counts, tiles, bounds)
    return _torch.forward(pooled, weight, bias, perm, counts, bounds)


@torch.library.custom_op("neuroattn::grouped_readout_backward", mutates_args=())
def _grouped_backward(
    grad: Tensor,
    pooled: Tensor,
    weight: Tensor,
    perm: Tensor | None,
    counts: Tensor,
    tiles: Tensor,
    chunks: Tensor,
    bounds: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor]:
    if _has_kernel(weight):
        from neuroattn.kernels.routed_readout import _triton

        with torch.cuda.device(weight.device):
            return _triton.backward(grad, pooled, weight, perm, counts, tiles, chunks, bounds)
    return _torch.backward(grad, pooled, weight, perm, counts, bounds)


@torch.library.custom_op("neuroattn::vertex_readout", mutates_args=())
def _vertex(h: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if _has_kernel(weight):
        from neuroattn.kernels.routed_readout import _triton

        with torch.cuda.device(weight.device):
            return _triton.vertex_forward(h, weight, bias)
    return _torch.vertex_forward(h, weight, bias)


@torch.library.custom_op("neuroattn::vertex_readout_backward", mutates_args=())
def _vertex_backward(grad: Tensor, h: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    if _has_kernel(weight):
        from neuroattn.kernels.routed_readout import _triton

        with torch.cuda.device(weight.device):
            return _triton.vertex_backward(grad, h, weight)
    return _torch.vertex_backward(grad, h, weight)


@_grouped.register_fake
def _(
    pooled: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    perm: Tensor | None,
    counts: Tensor,
    tiles: Tensor,
    chunks: Tensor,
    bounds: Sequence[int],
) -> Tensor:
    return pooled.new_empty(pooled.shape[1], weight.shape[0])


@_grouped_backward.register_fake
def _(
    grad: Tensor,
    pooled: Tensor,
    weight: Tensor,
    perm: Tensor | None,
    counts: Tensor,
    tiles: Tensor,
    chunks: Tensor,
    bounds: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor]:
    return pooled.new_empty(pooled.shape), weight.new_empty(weight.shape), weight.new_empty(weight.shape[0])


@_vertex.register_fake
def _(h: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return h.new_empty(h.shape[:2])


@_vertex_backward.register_fake
def _(grad: Tensor, h: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return h.new_empty(h.shape), weight.new_empty(weight.shape), weight.new_empty(weight.shape[0])


def _setup_grouped(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    pooled, weight, bias, *routing, ctx.bounds = inputs
    ctx.has_bias = bias is not None
    ctx.save_for_backward(pooled, weight, *routing)


def _backward_grouped(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    dpooled, dweight, dbias = _grouped_backward(grad, *ctx.saved_tensors, ctx.bounds)
    return dpooled, dweight, dbias if ctx.has_bias else None, None, None, None, None, None


def _setup_vertex(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    h, weight, bias = inputs
    ctx.has_bias = bias is not None
    ctx.save_for_backward(h, weight)


def _backward_vertex(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    dh, dweight, dbias = _vertex_backward(grad, *ctx.saved_tensors)
    return dh, dweight, dbias if ctx.has_bias else None


_grouped.register_autograd(_backward_grouped, setup_context=_setup_grouped)
_vertex.register_autograd(_backward_vertex, setup_context=_setup_vertex)


def _each(op: Callable[..., Any], info: Any, in_dims: Any, *args: Any) -> tuple[Any, Any]:
    """Call ``op`` once per mapped element: the weights differ, so no product can be shared."""
    results = [
        op(*(x.select(d, i) if isinstance(d, int) else x for x, d in zip(args, in_dims, strict=True)))
        for i in range(info.batch_size)
    ]
    if isinstance(results[0], Tensor):
        return torch.stack(results), 0
    return tuple(torch.stack(r) for r in zip(*results, strict=True)), (0,) * len(results[0])


def _batched(op: Callable[..., Tensor], axis: int, info: Any, in_dims: Any, *args: Any) -> tuple[Any, Any]:
    """Fold a mapped axis of the tokens, whose batch is at ``axis``, into the batch."""
    if any(isinstance(d, int) for d in in_dims[1:]):
        return _each(op, info, in_dims, *args)
    out = op(args[0].movedim(in_dims[0], axis).flatten(axis, axis + 1).contiguous(), *args[1:])
    return out.view(info.batch_size, -1, out.shape[1]), 0


_grouped.register_vmap(partial(_batched, _grouped, 1))
_vertex.register_vmap(partial(_batched, _vertex, 0))
_grouped_backward.register_vmap(partial(_each, _grouped_backward))
_vertex_backward.register_vmap(partial(_each, _vertex_backward))


def routed_readout(h: Tensor, weight: Tensor, bias: Tensor | None, routing: Routing | None) -> Tensor:
    r"""Predict every unit from the tokens of the regions it belongs to.

    With :math:`S(v)` the regions of unit v,

    .. math:: y_{bv} = \sum_{r \in S(v)} (w_v \cdot h_{br} + c_v)
        = w_v \cdot \sum_{r \in S(v)} h_{br} + |S(v)|\, c_v.

    A unit in several regions gets its bias once per region, and a unit in none is 0, as in the
    published model [1]_. Without a routing every unit has its own token:
    :math:`y_{bv} = w_v \cdot h_{bv} + c_v`.

    Parameters
    ----------
    h : Tensor, shape (batch, region, feature)
        One token per region, or per unit where ``routing`` is None.
    weight : Tensor, shape (unit, feature)
        Readout weights in the units' own order.
    bias : Tensor, shape (unit,), or None
        Bias c; None means none.
    routing : Routing or None
        Regions of each unit; None means one token per unit.

    Returns
    -------
    Tensor, shape (batch, unit)
        Predictions in the dtype of ``h``. Under autocast ``h``, ``weight`` and ``bias`` are cast to its
        dtype.

    Raises
    ------
    ValueError
        If a shape, dtype or the routing does not fit.

    Notes
    -----
    The published code predicts every unit from every region and masks the result:
    ``2 batch region unit feature`` operations. Here tokens are summed per group of units that share
    their regions, which needs ``2 batch unit feature`` and no temporary larger than the result.
    Where the units of each group are neighbours, weights are read in place.

    References
    ----------
    .. [1] Adeli, Sun & Kriegeskorte (2025). Transformer brain encoders explain human high-level visual
       responses. NeurIPS.

    Examples
    --------
    >>> routing = Routing.from_masks(torch.tensor([[True, True, False], [False, True, False]]))
    >>> tokens = torch.tensor([[[1.0], [10.0]]])
    >>> routed_readout(tokens, torch.ones(3, 1), torch.full((3,), 0.5), routing)
    tensor([[ 1.5000, 12.0000, 0.0000]])
    """
    units, width = check_shape("weight", weight, "unit", "feature")
    check_shape("h", h, "batch", units if routing is None else routing.n_regions, width)
    if routing is not None and routing.n_units != units:
        raise ValueError(f"weight must have one row per unit of routing ({routing.n_units}), got {units}")
    if bias is not None:
        check_shape("bias", bias, units)
    dtypes = {x.dtype for x in (h, weight, bias) if x is not None}
    if len(dtypes) > 1 or not h.is_floating_point():
        raise ValueError(f"h, weight and bias must have one floating dtype, got {sorted(map(str, dtypes))}")
    device = h.device.type
    if torch.is_autocast_enabled(device) and h.dtype != torch.float64:
        dtype = torch.get_autocast_dtype(device)
        h, weight, bias = h.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    if routing is None:
        vertex: Tensor = _vertex(h, weight, bias)
        return vertex
    acc = _torch.accumulator(h.dtype)
    with torch.autocast(device, enabled=False):  # tokens of many regions are summed in full precision
        pooled = torch.einsum("sr,brd->sbd", routing.signatures.to(acc), h.to(acc)).to(h.dtype).contiguous()
    out: Tensor = _grouped(
        pooled, weight, bias, routing.perm, routing.counts, routing.tiles, routing.chunks, routing.bounds
    )
    return out
