"""Position codes of token grids."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from neuroattn._checks import check_range


def sine_position_2d(
    height: int,
    width: int,
    dim: int,
    *,
    temperature: float = 10000.0,
    device: torch.device | None = None,
) -> Tensor:
    """Code the rows and columns of a grid by sines and cosines [1]_.

    Rows and columns count from 1 and are scaled so that the last one has phase 2 pi. The first half of the
    channels codes y, the second half x; within a half, sine and cosine alternate over falling frequencies.

    Parameters
    ----------
    height, width : int
        Tokens along y and x.
    dim : int
        Number of channels, a multiple of 4.
    temperature : float, default 10000
    device : torch.device, optional

    Returns
    -------
    Tensor, shape (dim, height, width)

    References
    ----------
    .. [1] Carion et al. (2020). End-to-end object detection with transformers. ECCV.

    Examples
    --------
    >>> sine_position_2d(2, 3, 8).shape
    torch.Size([8, 2, 3])
    """
    if dim < 4 or dim % 4:
        raise ValueError(f"dim must be a positive multiple of 4, got {dim}")
    check_range("height", height, 1)
    check_range("width", width, 1)
    half = dim // 2
    channel = torch.arange(half, dtype=torch.float32, device=device)
    wavelength = temperature ** (2 * torch.div(channel, 2, rounding_mode="floor") / half)

    def code(n: int) -> Tensor:
        phase = torch.arange(1, n + 1, dtype=torch.float32, device=device) / (n + 1e-6) * 2 * math.pi
        angle = phase[:, None] / wavelength
        return torch.stack([angle[:, 0::2].sin(), angle[:, 1::2].cos()], dim=2).flatten(1)  # (n, half)

    y = code(height).T[:, :, None].expand(half, height, width)
    x = code(width).T[:, None, :].expand(half, height, width)
    return torch.cat([y, x])


class LearnedPosition2d(nn.Module):
    """Learn one code for each row and one for each column.

    The first half of the channels codes x and the second half y, as in the published brain encoder and unlike
    :func:`sine_position_2d`.

    Parameters
    ----------
    dim : int
        Number of channels, even.
    max_side : int, default 50
        Longest grid side.

    Examples
    --------
    >>> LearnedPosition2d(8)(2, 3).shape
    torch.Size([8, 2, 3])
    """

    def __init__(self, dim: int, max_side: int = 50) -> None:
        super().__init__()
        if dim < 2 or dim % 2:
            raise ValueError(f"dim must be a positive multiple of 2, got {dim}")
        self.rows = nn.Parameter(torch.rand(max_side, dim // 2))
        self.columns = nn.Parameter(torch.rand(max_side, dim // 2))

    def forward(self, height: int, width: int) -> Tensor:
        """Return the code of a grid, shape (dim, height, width)."""
        check_range("height", height, 1, len(self.rows))
        check_range("width", width, 1, len(self.columns))
        x = self.columns[:width].T[:, None, :].expand(-1, height, width)
        y = self.rows[:height].T[:, :, None].expand(-1, height, width)
        return torch.cat([x, y])
