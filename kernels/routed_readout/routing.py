"""Which units read which regions, sorted once for the readout."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from neuroattn._checks import check_shape

TILE = 64  # units of one group that a kernel program takes


class Routing(nn.Module):
    """Groups of units that read the same set of regions.

    Build it with :meth:`from_masks`. The groups are disjoint even where regions overlap, so a readout
    over them touches every weight once. The tensors are buffers: they follow ``.to(device)`` of the
    module that holds the routing, and stay out of its ``state_dict``, since they are made from the masks.

    Attributes
    ----------
    n_regions, n_units : int
        Size of the masks.
    signatures : Tensor of bool, shape (group, region)
        Regions read by the units of each group; units in no region have no group.
    counts : Tensor of int, shape (unit,)
        Number of regions that each unit reads.
    perm : Tensor of int or None, shape (grouped unit,)
        Units in the order of the groups; None where every group is one run of neighbours already.
    bounds : tuple of int
        First unit and one past the last unit of group 0, of group 1, ...; places in ``perm`` if there
        is one.
    tiles : Tensor of int, shape (tile, 3)
        Group, first unit and one past the last unit of each tile of at most 64 units.

    Examples
    --------
    >>> routing = Routing.from_masks(torch.tensor([[True, True, False], [False, True, False]]))
    >>> routing.signatures
    tensor([[ True, False], [ True,  True]])
    >>> routing.counts
    tensor([1, 2, 0])
    """

    signatures: Tensor
    counts: Tensor
    perm: Tensor | None
    tiles: Tensor

    def __init__(
        self, signatures: Tensor, counts: Tensor, perm: Tensor | None, bounds: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.n_regions, self.n_units = signatures.shape[1], counts.shape[0]
        self.bounds = bounds
        rows = [
            (group, first, min(first + TILE, bounds[2 * group + 1]))
            for group in range(len(bounds) // 2)
            for first in range(bounds[2 * group], bounds[2 * group + 1], TILE)
        ]
        tiles = torch.tensor(rows, dtype=torch.int32).view(-1, 3)
        for name, buffer in (
            ("signatures", signatures),
            ("counts", counts),
            ("perm", perm),
            ("tiles", tiles),
        ):
            self.register_buffer(name, buffer, persistent=False)

    @classmethod
    def from_masks(cls, masks: Tensor) -> Routing:
        """Group the units of overlapping regions.

        Parameters
        ----------
        masks : Tensor of bool, shape (region, unit)
            True where the unit belongs to the region. Regions may overlap or be empty; units may
            belong to none.

        Returns
        -------
        Routing

        Raises
        ------
        ValueError
            If ``masks`` is not two-dimensional or not bool.
        """
        check_shape("masks", masks, "region", "unit")
        if masks.dtype != torch.bool:
            raise ValueError(f"masks must be bool, got {masks.dtype}")
        masks = masks.detach().cpu()
        counts = masks.sum(0)
        routed = counts.nonzero()[:, 0]
        signatures, group = torch.unique(masks.T[routed], dim=0, return_inverse=True)
        # Groups in the order of their first unit: units that are sorted by region need no permutation.
        first = torch.full((len(signatures),), len(group)).scatter_reduce(
            0, group, torch.arange(len(group)), reduce="amin"
        )
        order = first.argsort()
        group = order.argsort()[group]
        by_group = group.argsort(stable=True)
        perm = routed[by_group]
        ends = torch.bincount(group, minlength=len(order)).cumsum(0).tolist()
        places = list(zip([0, *ends][:-1], ends, strict=True))
        runs = [(int(perm[a]), int(perm[b - 1]) + 1) for a, b in places]
        neighbours = all(end - first == b - a for (first, end), (a, b) in zip(runs, places, strict=True))
        bounds = tuple(n for pair in (runs if neighbours else places) for n in pair)
        return cls(signatures[order], counts, None if neighbours else perm, bounds)

    def extra_repr(self) -> str:
        """Sizes for ``repr``."""
        return f"n_regions={self.n_regions}, n_units={self.n_units}, n_groups={len(self.signatures)}"
