"""The attention operator: checks, registration with torch, and the choice between kernel and torch route."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from neuroattn._checks import check_option, check_shape
from neuroattn.kernels.attention import _torch

MAPS = ("none", "heads", "mean")


class AttentionOutput(NamedTuple):
    """What :func:`attention` returns.

    Attributes
    ----------
    out : Tensor, shape (batch, head, query, value_feature)
        Attended values, in the dtype of ``v``.
    map : Tensor or None, shape (batch, head, query, key) or (batch, query, key)
        Attention weights per head or averaged over heads, float32 (float64 for float64 input);
        None where none was asked for.
    lse : Tensor, shape (batch, head, query)
        Log-sum-exp of the biased scores over the visible keys, in the dtype of the map;
        minus infinity where no key is visible.
    """

    out: Tensor
    map: Tensor | None
    lse: Tensor


@torch.library.custom_op("neuroattn::attention", mutates_args=())
def _attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    lo: Tensor | None,
    hi: Tensor | None,
    scale: float,
    map: str,
) -> tuple[Tensor, Tensor, Tensor]:
    return _torch.forward(q, k, v, bias, lo, hi, scale, map)


@torch.library.custom_op("neuroattn::attention_backward", mutates_args=())
def _attention_backward(
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
    return _torch.backward(grad_out, grad_map, grad_lse, q, k, v, bias, lo, hi, out, lse, scale, bias_grad)


@_attention.register_fake
def _(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    lo: Tensor | None,
    hi: Tensor | None,
    scale: float,
    map: str,
) -> tuple[Tensor, Tensor, Tensor]:
    (batch, heads, n_keys, width), n_queries = v.shape, q.shape[2]
    acc = _torch.accumulator(q.dtype)
    return (
        q.new_empty(batch, heads, n_queries, width),
        q.new_empty(_torch.map_shape(map, batch, heads, n_queries, n_keys), dtype=acc),
        q.new_empty(batch, heads, n_queries, dtype=acc),
    )


@_attention_backward.register_fake
def _(
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
    dq, dk, dv = (_torch.empty_merged(x) for x in (q, k, v))
    acc = _torch.accumulator(q.dtype)
    return dq, dk, dv, q.new_empty((*v.shape[:2], v.shape[2]) if bias_grad else (0,), dtype=acc)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    *tensors, ctx.scale, ctx.map = inputs
    ctx.save_for_backward(*tensors, output[0], output[2])
    ctx.set_materialize_grads(False)  # a zero gradient of an unused map would cost as much as the map


def _backward(
    ctx: Any, grad_out: Tensor | None, grad_map: Tensor | None, grad_lse: Tensor | None
) -> tuple[Tensor | None, ...]:
    bias_grad = ctx.needs_input_grad[3]
    if ctx.map == "none":
        grad_map = None
    dq, dk, dv, dbias = _attention_backward(
        grad_out, grad_map, grad_lse, *ctx.saved_tensors, ctx.scale, bias_grad
    )
    return dq, dk, dv, dbias if bias_grad else None, None, None, None, None


_attention.register_autograd(_backward, setup_context=_setup_context)


def _fold(n: int, batch: int, x: Tensor | None, dim: int | None) -> Tensor | None:
    """Fold a mapped axis of size n into the batch axis."""
    if x is None:
        return None
    x = x.expand(n, *x.shape) if dim is None else x.movedim(dim, 0)
    return x.expand(n, batch, *x.shape[2:]).flatten(0, 1)


def _vmap(
    op: Any, n: int, in_dims: Sequence[int | None], args: Sequence[Any], value: int, window: int
) -> tuple[Tensor, ...]:
    """Map ``op`` over its tensors; v is argument ``value``, the window bounds are ``window`` and the next."""
    if any(in_dims[i] is not None for i in (window, window + 1)):  # all samples of a call share one window
        calls = [
            op(*(x if d is None else x.select(d, i) for x, d in zip(args, in_dims, strict=True)))
            for i in range(n)
        ]
        return tuple(torch.stack(results) for results in zip(*calls, strict=True))
    v, v_dim = args[value], in_dims[value]
    batch = (v if v_dim is None else v.select(v_dim, 0)).shape[0]
    folded = [
        x if not (x is None or isinstance(x, Tensor)) or i in (window, window + 1) else _fold(n, batch, x, d)
        for i, (x, d) in enumerate(zip(args, in_dims, strict=True))
    ]
    return tuple(x.unflatten(0, (n, -1)) if x.numel() else x.new_empty(n, 0) for x in op(*folded))


@_attention.register_vmap
def _(info: Any, in_dims: Any, *args: Any) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    return _vmap(_attention, info.batch_size, in_dims, args, value=2, window=4), (0, 0, 0)


@_attention_backward.register_vmap
def _(info: Any, in_dims: Any, *args: Any) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    grads = _vmap(_attention_backward, info.batch_size, in_dims, args, value=5, window=7)
    q, dim = args[3], in_dims[3]
    if (q if dim is None else q.select(dim, 0)).shape[0] == 1:  # queries shared by the batch
        grads = (grads[0].sum(1, keepdim=True), *grads[1:])
    return grads, (0, 0, 0, 0)


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: float | None = None,
    key_bias: Tensor | None = None,
    key_mask: Tensor | None = None,
    window: tuple[Tensor, Tensor] | None = None,
    head_gate: Tensor | None = None,
    affine: tuple[Tensor, Tensor] | None = None,
    map: str = "none",
) -> AttentionOutput:
    r"""Attend from queries to keys and return the exact attention map with the output.

    With :math:`P = \mathrm{softmax}(s\,QK^\top + \mathrm{bias})` over the keys a query may see,

    .. math:: M = \alpha P + \beta, \qquad O = g\,(M V),

    where :math:`\alpha = 1`, :math:`\beta = 0` and :math:`g = 1` unless given. The map is the M that
    made the output. A key is invisible if its mask is False, its bias is minus infinity, or it
    lies outside the query's window; its entry in the map is 0. A query that sees no key gets zeros.

    Parameters
    ----------
    q : Tensor, shape (batch or 1, head, query, feature)
        Queries; one set of queries for the whole batch is never copied.
    k : Tensor, shape (batch, head or 1, key, feature)
        Keys; keys shared by all heads are never copied.
    v : Tensor, shape (batch, head, key, value_feature)
        Values. ``q``, ``k`` and ``v`` have one dtype; under autocast they are cast to its dtype.
    scale : float, optional
        Factor s of the scores; None means ``feature ** -0.5``.
    key_bias : Tensor, shape (batch, head, key), optional
        Added to the scores of every query, for instance the log of the number of tokens a key
        stands for.
    key_mask : Tensor of bool, shape (batch, key), optional
        True where the key may be seen.
    window : pair of integer Tensors, each of shape (query,), optional
        First key and one past the last key that each query may see.
    head_gate : Tensor, shape (batch, head, query), optional
        Factor g of the output; it does not change the map.
    affine : pair of Tensors, each of shape (batch, head, query), optional
        Alpha and beta above: affine-scaled attention, whose rows need not sum to one.
    map : {"none", "heads", "mean"}, default "none"
        Return no map, one map per head, or their mean over heads.

    Returns
    -------
    AttentionOutput
        ``out``, ``map`` and ``lse``; gradients flow through all three.

    Raises
    ------
    ValueError
        If a shape or dtype does not fit, or ``map`` is unknown.

    Notes
    -----
    Without a map the cost is that of ``torch.nn.functional.scaled_dot_product_attention``, which never
    returns weights. The head-mean map is made without storing the maps of the heads, except with
    ``affine``. Second derivatives are not available.

    Examples
    --------
    >>> q, k, v = torch.zeros(1, 2, 3, 8), torch.zeros(1, 2, 5, 8), torch.ones(1, 2, 5, 4)
    >>> out, weights, lse = attention(q, k, v, map="mean")
    >>> out.shape, weights.shape
    (torch.Size([1, 2, 3, 4]), torch.Size([1, 3, 5]))
    >>> weights[0, 0]
    tensor([0.2000, 0.2000, 0.2000, 0.2000, 0.2000])
    """
    check_option("map", map, MAPS)
    batch, heads, n_keys, _ = check_shape("v", v, "batch", "head", "key", "value_feature")
    if q.ndim != 4 or q.shape[0] != 1:
        check_shape("q", q, batch, heads, "query", "feature")
    n_queries, width = check_shape("q", q, None, heads, "query", "feature")[2:]
    if k.ndim != 4 or k.shape[1] != 1:
        check_shape("k", k, batch, heads, n_keys, width)
    check_shape("k", k, batch, None, n_keys, width)
    if not q.is_floating_point() or not q.dtype == k.dtype == v.dtype:
        raise ValueError(f"q, k and v must have one floating dtype, got {q.dtype}, {k.dtype}, {v.dtype}")
    device = q.device.type
    if torch.is_autocast_enabled(device) and q.dtype != torch.float64:
        q, k, v = (x.to(torch.get_autocast_dtype(device)) for x in (q, k, v))

    acc = _torch.accumulator(q.dtype)
    bias = None
    if key_bias is not None:
        check_shape("key_bias", key_bias, batch, heads, n_keys)
        bias = key_bias.to(acc)
    if key_mask is not None:
        check_shape("key_mask", key_mask, batch, n_keys)
        if key_mask.dtype != torch.bool:
            raise ValueError(f"key_mask must be bool, got {key_mask.dtype}")
        open_bias = q.new_zeros((), dtype=acc) if bias is None else bias
        bias = torch.where(key_mask[:, None, :], open_bias, -math.inf)
    lo = hi = None
    if window is not None:
        lo, hi = window
        for name, bound in (("window[0]", lo), ("window[1]", hi)):
            check_shape(name, bound, n_queries)
            if bound.is_floating_point() or bound.dtype == torch.bool:
                raise ValueError(f"{name} must hold whole numbers, got {bound.dtype}")
        lo, hi = lo.int(), hi.int()
    if head_gate is not None:
        check_shape("head_gate", head_gate, batch, heads, n_queries)

    # Beta is added per head, so the maps of the heads must be at hand before they are averaged.
    kind = "heads" if affine is not None and map == "mean" else map
    factor = 1 / math.sqrt(width) if scale is None else float(scale)
    out, weights, lse = _attention(q, k, v, bias, lo, hi, factor, kind)
    if affine is not None:
        alpha, beta = affine
        check_shape("affine[0]", alpha, batch, heads, n_queries)
        check_shape("affine[1]", beta, batch, heads, n_queries)
        visible = q.new_ones(1, 1, 1, n_keys, dtype=torch.bool)
        if bias is not None:
            visible = visible & (bias > -math.inf)[:, :, None, :]
        if lo is not None and hi is not None:
            visible = visible & _torch.in_window(lo, hi, n_keys)
        out = alpha[..., None] * out + beta[..., None] * (visible.to(v.dtype) @ v)
        if kind == "heads":
            weights = alpha[..., None].to(acc) * weights + beta[..., None].to(acc) * visible
            weights = weights.mean(1) if map == "mean" else weights
    if head_gate is not None:
        out = head_gate[..., None] * out
    return AttentionOutput(out.to(v.dtype), None if map == "none" else weights, lse)
