"""Position codes of token grids."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from neuroattn._checks import check_range, check_shape


def sine_position(length: int, dim: int, *, device: torch.device | None = None) -> Tensor:
    """Code the places of a sequence by sines and cosines [1]_.

    Sine and cosine alternate over frequencies that fall from 1 to 1/10000 per step.

    Parameters
    ----------
    length : int
        Places, counted from 0.
    dim : int
        Number of channels, even.
    device : torch.device, optional

    Returns
    -------
    Tensor, shape (length, dim)

    References
    ----------
    .. [1] Vaswani et al. (2017). Attention is all you need. NeurIPS.

    Examples
    --------
    >>> sine_position(2, 2)
    tensor([[0.0000, 1.0000],
            [0.8415, 0.5403]])
    """
    if dim < 2 or dim % 2:
        raise ValueError(f"dim must be a positive multiple of 2, got {dim}")
    check_range("length", length, 0)
    channel = torch.arange(0, dim, 2, dtype=torch.float32, device=device)
    place = torch.arange(length, dtype=torch.float32, device=device)
    angle = place[:, None] * torch.exp(-math.log(10000.0) / dim * channel)
    return torch.stack([angle.sin(), angle.cos()], dim=2).flatten(1)


def gaussian_position(
    position: Tensor, dim: int, *, sigma: float, anchors: Tensor, norm: float = 1.0
) -> Tensor:
    r"""Code places on a line so that the codes of two places are as similar as a Gaussian of their distance.

    With :math:`k(x, y) = \exp(-(x-y)^2 / 2\sigma^2)`, anchors z and their Gram matrix
    :math:`K_{ij} = k(z_i, z_j)`, the code of x is

    .. math:: \mathrm{norm} \cdot k(x, z)\, K^{-1/2}\, Q,

    Q having orthonormal rows (cosines). At the anchors the inner products of codes, and their cosines, are those of
    the Gaussian exactly; elsewhere a code is the projection of the exact one, of endless length, on those of the
    anchors. For anchors at most ``0.7 * sigma`` apart and places between them the cosines are off by less than
    0.002, far from all anchors the code fades to zero.

    The published table for the places of a grid [1]_ is found by 10,000 steps of gradient descent towards the same
    cosines; this is its exact solution, without randomness, and it also codes places between those of the grid.

    Parameters
    ----------
    position : Tensor, any shape
        Places.
    dim : int
        Number of channels, at least the number of anchors.
    sigma : float
        Standard deviation of the Gaussian, in the units of ``position``.
    anchors : Tensor, shape (anchor,)
        Places where the code is exact, all different.
    norm : float, default 1
        Length of the codes of the anchors.

    Returns
    -------
    Tensor, shape (..., dim)
        In the dtype of ``position``; computed in float64.

    Raises
    ------
    ValueError
        If ``dim`` is smaller than the number of anchors or ``sigma`` is not above 0.

    References
    ----------
    .. [1] Fang et al. (2024). OAT: object-level attention transformer for gaze scanpath prediction. ECCV.

    Examples
    --------
    >>> grid = torch.arange(4.0)
    >>> code = gaussian_position(grid, 6, sigma=1.0, anchors=grid)
    >>> torch.allclose(code @ code.T, torch.exp(-((grid[:, None] - grid) ** 2) / 2), atol=1e-6)
    True
    """
    (n_anchors,) = check_shape("anchors", anchors, "anchor")
    if dim < n_anchors:
        raise ValueError(f"dim must be at least the number of anchors, {n_anchors}, got {dim}")
    if not (math.isfinite(sigma) and sigma > 0):
        raise ValueError(f"sigma must be above 0, got {sigma!r}")
    place, anchor = position.double(), anchors.double()

    def kernel(x: Tensor) -> Tensor:
        return torch.exp(-((x[..., None] - anchor) ** 2) / (2 * sigma**2))

    values, vectors = torch.linalg.eigh(kernel(anchor))
    # Of anchors much closer than sigma some combinations vanish in float64; they carry nothing.
    kept = values > 1e-13 * values[-1]
    root = vectors * torch.where(kept, values.clamp_min(1e-300).rsqrt(), 0.0) @ vectors.T
    channel = torch.arange(dim, dtype=torch.float64, device=place.device) + 0.5
    cosines = torch.cos(torch.arange(n_anchors, device=place.device)[:, None] * channel * math.pi / dim)
    cosines = cosines / cosines.norm(dim=1, keepdim=True)
    code: Tensor = norm * kernel(place) @ root @ cosines
    return code.to(position.dtype)


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
