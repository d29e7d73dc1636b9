"""The integration as an operator: CPU route, dispatch, analytic gradients."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from neuroattn._checks import check_shape
from neuroattn.kernels._batching import fold, unfold
from neuroattn.kernels.workspace_integrate import reference

_LARGEST_TILE = 64  # concepts and features that a kernel holds at once


class Workspace(NamedTuple):
    """What `workspace_integrate` returns.

    Attributes
    ----------
    keys : Tensor, shape (batch, head, concept, feature)
        Posterior mean of each slot's keys, in the dtype of ``k``.
    values : Tensor, shape (batch, head, concept, value_feature)
        The same of the values.
    log_mass : Tensor, shape (batch, head, concept)
        Logarithm of the evidence in each slot, tokens and pseudo-count; minus infinity for an empty slot.
        Float32 (float64 for float64 input). It is the bias of the slot's key in the broadcast.
    assignment : Tensor, shape (batch, head, token, concept), or None
        How each token is shared among the slots, in the dtype of ``log_mass``; rows sum to 1, or to 0 where
        masked. None where it was not asked for.

    Examples
    --------
    >>> k, concept_k = torch.zeros(1, 1, 3, 2), torch.zeros(1, 2, 2)
    >>> workspace_integrate(k, k, concept_k, concept_k, torch.zeros(1, 2), tau=1.0).log_mass.exp()
    tensor([[[2.5000, 2.5000]]])
    """

    keys: Tensor
    values: Tensor
    log_mass: Tensor
    assignment: Tensor | None


def workspace_integrate(
    k: Tensor,
    v: Tensor,
    concept_k: Tensor,
    concept_v: Tensor,
    log_kappa: Tensor,
    tau: float | Tensor,
    mask: Tensor | None = None,
    *,
    return_assignment: bool = False,
) -> Workspace:
    """Gather tokens into one slot per concept: the first half of linear-time workspace attention.

    Tokens compete for the slots by the distance of their keys to the concepts' keys, and each slot becomes
    the posterior mean of the tokens it wins and of its own concept (per head, feature size d)::

        b_ij = softmax_j (k_i . c_j - |c_j|^2 / 2) / (tau sqrt d)      share of token i in slot j
        N_j  = sum_i b_ij + kappa_j                                    evidence mass
        K_j  = (sum_i b_ij k_i + kappa_j c_j) / N_j                    keys; values alike

    Queries then attend to the slots with ``log N_j`` added to the scores: `attention` with ``key_bias``.

    Parameters
    ----------
    k, v : Tensor, shape (batch, head, token, feature) and (batch, head, token, value_feature)
        Keys and values of the tokens. Float16, bfloat16, float32 or float64; sums are formed in float32 at
        least. Under autocast, these four are cast to its dtype.
    concept_k, concept_v : Tensor, shape (head, concept, feature) and (head, concept, value_feature)
        Keys and values of the concepts, in the dtype of ``k``.
    log_kappa : Tensor, shape (head, concept)
        Logarithm of the pseudo-count of each concept; minus infinity makes it a pure mean of tokens.
    tau : float or Tensor, shape () or (head,)
        Temperature of the competition, above 0; a tensor receives a gradient. Towards 0 each token goes to
        its nearest concept only.
    mask : bool Tensor, shape (batch, token), or None
        True keeps a token. Masked tokens have no influence, whatever they hold. None keeps all.
    return_assignment : bool, default False
        Whether to return the shares ``b`` too, at the price of a tensor of token x concept numbers.

    Returns
    -------
    Workspace
        Keys, values, log mass, and the assignment or None.

    Raises
    ------
    ValueError
        If a shape does not fit or ``tau`` is a number not above 0.
    TypeError
        If the dtypes of keys, values and concepts differ, or ``mask`` is not bool.

    Notes
    -----
    Time and memory are linear in tokens. The backward pass is analytic: it recomputes the shares from the
    inputs and the slots, so that beyond its inputs the operator keeps one number per slot and feature only.

    The equations are our derivation in the spirit of MANAR [1]_, of which we know the abstract only.

    References
    ----------
    .. [1] Jahshan, Ben Ishay & Yavits (2026). MANAR. arXiv:2603.18676.

    Examples
    --------
    >>> generator = torch.Generator().manual_seed(0)
    >>> k, v = torch.randn(2, 1, 4, 100, 8, generator=generator)
    >>> concepts = torch.randn(4, 6, 8, generator=generator)
    >>> slots = workspace_integrate(k, v, concepts, concepts, torch.zeros(4, 6), tau=1.0)
    >>> slots.keys.shape, slots.log_mass.shape
    (torch.Size([1, 4, 6, 8]), torch.Size([1, 4, 6]))
    >>> slots.log_mass.exp().sum(-1)  # 100 tokens and 6 pseudo-counts in each head
    tensor([[106.0000, 106.0000, 106.0000, 106.0000]])
    """
    n_batch, n_heads, n_tokens, width = check_shape("k", k, "batch", "head", "token", "feature")
    width_v = check_shape("v", v, n_batch, n_heads, n_tokens, "value_feature")[-1]
    n_concepts = check_shape("concept_k", concept_k, n_heads, "concept", width)[1]
    check_shape("concept_v", concept_v, n_heads, n_concepts, width_v)
    check_shape("log_kappa", log_kappa, n_heads, n_concepts)
    if mask is not None:
        check_shape("mask", mask, n_batch, n_tokens)
        if mask.dtype != torch.bool:
            raise TypeError(f"mask must be bool, got {mask.dtype}")
    device = k.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        k, v, concept_k, concept_v = (x.to(dtype) for x in (k, v, concept_k, concept_v))
    if not k.is_floating_point():
        raise TypeError(f"k must be floating, got {k.dtype}")
    for name, x in (("v", v), ("concept_k", concept_k), ("concept_v", concept_v)):
        if x.dtype != k.dtype:
            raise TypeError(f"{name} must have the dtype of k, {k.dtype}, got {x.dtype}")
    accumulator = _accumulator(k)
    if not isinstance(tau, Tensor):
        if not tau > 0:
            raise ValueError(f"tau must be above 0, got {tau}")
        tau = torch.full((n_heads,), tau, dtype=accumulator, device=k.device)
    elif tau.ndim:
        check_shape("tau", tau, n_heads)
    tau = tau.to(accumulator).expand(n_heads)
    keep = None if mask is None else mask[:, None]
    keys, values, log_mass = _integrate(k, v, concept_k, concept_v, log_kappa.to(accumulator), tau, keep)
    assignment = None
    if return_assignment:
        with torch.autocast(device, enabled=False):
            tokens = k if keep is None else torch.where(keep[..., None], k, 0)
            assignment = reference.assign(tokens.to(accumulator), concept_k.to(accumulator), tau, keep)
    return Workspace(keys, values, log_mass, assignment)


def has_kernel(k: Tensor, v: Tensor, concept_k: Tensor) -> bool:
    """Say whether the Triton kernels take these shapes; others go to the torch route.

    They hold all concepts of a head in one tile, so at most 64 of them, and as many features, and work in
    float32, float16 and bfloat16.
    """
    sizes = (concept_k.shape[1], k.shape[-1], v.shape[-1])
    return k.dtype != torch.float64 and all(0 < n <= _LARGEST_TILE for n in sizes) and k.numel() > 0


def _accumulator(k: Tensor) -> torch.dtype:
    return torch.promote_types(k.dtype, torch.float32)


@torch.library.custom_op("neuroattn::workspace_integrate", mutates_args=())
def _integrate(
    k: Tensor,
    v: Tensor,
    concept_k: Tensor,
    concept_v: Tensor,
    log_kappa: Tensor,
    tau: Tensor,
    mask: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    if k.is_cuda and has_kernel(k, v, concept_k):
        from neuroattn.kernels.workspace_integrate import _triton

        return _triton.forward(k, v, concept_k, concept_v, log_kappa, tau, mask)
    dtype = _accumulator(k)
    with torch.autocast(k.device.type, enabled=False):
        tokens, concepts = (k.to(dtype), v.to(dtype)), (concept_k.to(dtype), concept_v.to(dtype))
        keys, values, log_mass = reference.workspace_integrate(*tokens, *concepts, log_kappa, tau, mask)
    return keys.to(k.dtype), values.to(k.dtype), log_mass


@_integrate.register_fake
def _(
    k: Tensor,
    v: Tensor,
    concept_k: Tensor,
    concept_v: Tensor,
    log_kappa: Tensor,
    tau: Tensor,
    mask: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    slots = (*k.shape[:2], concept_k.shape[1])
    return (
        k.new_empty(*slots, k.shape[-1]),
        k.new_empty(*slots, v.shape[-1]),
        k.new_empty(slots, dtype=_accumulator(k)),
    )


@torch.library.custom_op("neuroattn::workspace_integrate_backward", mutates_args=())
def _integrate_backward(
    grad_keys: Tensor,
    grad_values: Tensor,
    grad_log_mass: Tensor,
    k: Tensor,
    v: Tensor,
    concept_k: Tensor,
    concept_v: Tensor,
    log_kappa: Tensor,
    tau: Tensor,
    mask: Tensor | None,
    keys: Tensor,
    values: Tensor,
    log_mass: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    dtype = _accumulator(k)
    with torch.autocast(k.device.type, enabled=False):
        # As x joins slot j the loss changes by grad_keys_j . x_k + grad_values_j . x_v + offset_j, over N_j.
        slot_k, slot_v = grad_keys.to(dtype), grad_values.to(dtype)
        offset = grad_log_mass - (slot_k * keys).sum(-1) - (slot_v * values).sum(-1)
        per_token = (k, v, concept_k, tau, mask, grad_keys, grad_values, offset, log_mass)
        if k.is_cuda and has_kernel(k, v, concept_k):
            from neuroattn.kernels.workspace_integrate import _triton

            grad_k, grad_v, pull, push = _triton.token_gradients(*per_token)
        else:
            grad_k, grad_v, pull, push = _token_gradients(*per_token)
        # The concepts' own part: kappa / N is their weight in the mean, as b / N is a token's.
        own = torch.where(log_mass > -torch.inf, (log_kappa - log_mass).exp(), 0)
        concepts_k, concepts_v = concept_k.to(dtype), concept_v.to(dtype)
        joined = (slot_k * concepts_k).sum(-1) + (slot_v * concepts_v).sum(-1) + offset
        grad_concept_k = pull - push[..., None] * concepts_k + own[..., None] * slot_k
        # The sum over tokens of gradient times score needs no token any more.
        heat = (pull * concepts_k).sum((-1, -2)) - (push * concepts_k.square().sum(-1) / 2).sum(-1)
        return (
            grad_k,
            grad_v,
            grad_concept_k.sum(0).to(k.dtype),
            (own[..., None] * slot_v).sum(0).to(k.dtype),
            (own * joined).sum(0),
            -heat.sum(0) / tau,
        )


@_integrate_backward.register_fake
def _(
    grad_keys: Tensor,
    grad_values: Tensor,
    grad_log_mass: Tensor,
    k: Tensor,
    v: Tensor,
    concept_k: Tensor,
    concept_v: Tensor,
    log_kappa: Tensor,
    tau: Tensor,
    mask: Tensor | None,
    keys: Tensor,
    values: Tensor,
    log_mass: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    first, second, third, fourth, fifth, sixth = (
        x.new_empty(x.shape) for x in (k, v, concept_k, concept_v, log_kappa, tau)
    )
    return first, second, third, fourth, fifth, sixth


def _token_gradients(
    k: Tensor,
    v: Tensor,
    concept_k: Tensor,
    tau: Tensor,
    mask: Tensor | None,
    grad_keys: Tensor,
    grad_values: Tensor,
    offset: Tensor,
    log_mass: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Differentiate by the tokens, and collect what the concepts receive through the shares.

    With ``g`` the gradient to ``k . c - |c|^2 / 2``, that is ``sum_i g_ij k_i`` and ``sum_i g_ij``.
    """
    dtype = _accumulator(k)
    tokens_k, tokens_v = (x.to(dtype) for x in (k, v))
    if mask is not None:
        tokens_k, tokens_v = (torch.where(mask[..., None], x, 0) for x in (tokens_k, tokens_v))
    concepts, slot_k, slot_v = (x.to(dtype) for x in (concept_k, grad_keys, grad_values))
    share = reference.assign(tokens_k, concepts, tau, mask)
    # Weights b / N are at most 1, even where N is tiny.
    weight = share * torch.where(log_mass > -torch.inf, (-log_mass).exp(), 0)[..., None, :]
    change = weight * (tokens_k @ slot_k.mT + tokens_v @ slot_v.mT + offset[..., None, :])
    change = change - share * change.sum(-1, keepdim=True)
    pulled = change / (tau[:, None, None] * k.shape[-1] ** 0.5)
    grad_k = weight @ slot_k + pulled @ concepts
    grad_v = weight @ slot_v
    return grad_k.to(k.dtype), grad_v.to(k.dtype), pulled.mT @ tokens_k, pulled.sum(-2)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs, *output)


def _backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
    return *_integrate_backward(*grads, *ctx.saved_tensors), None


_integrate.register_autograd(_backward, setup_context=_setup_context)


_HEAD_AXES = (1, 1, 0, 0, 0, 0)  # in k, v, concept_k, concept_v, log_kappa and tau


def _fold_mask(mask: Tensor | None, in_dim: int | None, n: int, n_heads: int) -> Tensor | None:
    if mask is None or (in_dim is None and mask.shape[1] == 1):
        return mask
    mask = mask.unsqueeze(1) if in_dim is None else mask.movedim(in_dim, 1)
    return mask.expand(-1, n, n_heads, -1).flatten(1, 2)


@_integrate.register_vmap
def _(info: Any, in_dims: Any, *args: Any) -> tuple[tuple[Tensor, ...], tuple[int, int, int]]:
    n = info.batch_size
    folded = [fold(x, d, n, axis) for x, d, axis in zip(args, in_dims, _HEAD_AXES, strict=False)]
    mask = _fold_mask(args[6], in_dims[6], n, folded[0].shape[1] // n)
    return tuple(unfold(x, n, 1) for x in _integrate(*folded, mask)), (1, 1, 1)


@_integrate_backward.register_vmap
def _(info: Any, in_dims: Any, *args: Any) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    n, mask, mask_dim = info.batch_size, args[9], in_dims[9]
    axes = (1, 1, 1, *_HEAD_AXES, None, 1, 1, 1)
    folded: list[Any] = [
        None if axis is None else fold(x, d, n, axis) for x, d, axis in zip(args, in_dims, axes, strict=True)
    ]
    folded[9] = _fold_mask(mask, mask_dim, n, folded[3].shape[1] // n)
    grads = _integrate_backward(*folded)
    return tuple(unfold(x, n, axis) for x, axis in zip(grads, _HEAD_AXES, strict=True)), _HEAD_AXES
