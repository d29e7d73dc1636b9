"""Attention with an exact map, as it is defined."""

from __future__ import annotations

import math

import torch
from torch import Tensor


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
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Return output, map (or None) and log-sum-exp; arguments as in :func:`neuroattn.kernels.attention`."""
    scores = q @ k.transpose(-1, -2) * (1 / math.sqrt(q.shape[-1]) if scale is None else scale)
    if key_bias is not None:
        scores = scores + key_bias[:, :, None, :]
    if key_mask is not None:
        scores = scores.masked_fill(~key_mask[:, None, None, :], -math.inf)
    if window is not None:
        first, end = (bound[:, None] for bound in window)
        key = torch.arange(k.shape[2], device=k.device)
        scores = scores.masked_fill((key < first) | (key >= end), -math.inf)
    visible = scores > -math.inf
    alive = visible.any(-1, keepdim=True)
    weights = torch.softmax(scores.where(alive, 0), -1).where(alive, 0)
    lse = torch.logsumexp(scores.where(alive, 0), -1).where(alive[..., 0], -math.inf)
    if affine is not None:
        alpha, beta = (x[..., None] for x in affine)
        weights = alpha * weights + beta * visible
    out = weights @ v
    if head_gate is not None:
        out = head_gate[..., None] * out
    return out, {"none": None, "heads": weights, "mean": weights.mean(1)}[map], lse
