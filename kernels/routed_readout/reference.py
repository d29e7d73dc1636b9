"""Routed readout as published: every unit reads every region, and a mask keeps its own."""

from __future__ import annotations

import torch
from torch import Tensor


def routed_readout(h: Tensor, weight: Tensor, bias: Tensor | None, masks: Tensor | None) -> Tensor:
    """Return (batch, unit); ``masks`` (region, unit) bool, None where every unit has its own token."""
    full = h @ weight.T
    if bias is not None:
        full = full + bias
    if masks is None:
        return torch.diagonal(full, dim1=-2, dim2=-1)
    return (full * masks).sum(1)
