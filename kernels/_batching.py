"""Vmap by folding: the mapped axis joins an axis over which an operator works independently."""

import torch
from torch import Tensor


def fold(tensor: Tensor, in_dim: int | None, size: int, dim: int = 0) -> Tensor:
    """Merge the mapped axis into axis ``dim``; a tensor that is not mapped is repeated as a view first."""
    mapped = tensor.movedim(in_dim, dim) if in_dim is not None else tensor.unsqueeze(dim)
    sizes = [-1] * mapped.ndim
    sizes[dim] = size
    return mapped.expand(sizes).flatten(dim, dim + 1)


def unfold(tensor: Tensor, size: int, dim: int = 0) -> Tensor:
    """Split axis ``dim`` into the mapped axis and the rest: the inverse of `fold`."""
    return torch.unflatten(tensor, dim, (size, -1))
