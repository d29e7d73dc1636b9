"""What the search needs of a network."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from neuroattn.search.config import SearchConfig


class SearchBackbone(Protocol):
    """What `EccNet` needs of a network.

    Attributes
    ----------
    taps : tuple of str
        The layers that are compared with the target, from shallow to deep.
    stride : int
        Pixels of the view between neighbouring places of the search maps.
    device : torch.device

    Examples
    --------
    >>> from neuroattn.search import VGG16
    >>> backbone: SearchBackbone = VGG16(widths=(4, 4, 8, 8, 8))
    >>> backbone.taps, backbone.stride
    (('conv3_3', 'conv4_3', 'conv5_3'), 16)
    """

    taps: tuple[str, ...]
    stride: int

    @property
    def device(self) -> torch.device:
        """Where the network is."""

    def preprocess(self, images: Tensor) -> Tensor:
        """Return the network's input (batch, 3, y, x) for uint8 RGB images (batch, y, x, 3)."""

    def search_maps(
        self, views: Tensor, config: SearchConfig, px_per_degree: float, fixation: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Return the features of square views seen from their middle, by tap.

        Parameters
        ----------
        views : Tensor, shape (batch, 3, side, side)
            Preprocessed.
        config : SearchConfig
            Its laws of eccentricity, its kind of pooling and its taps.
        px_per_degree : float
        fixation : Tensor, shape (batch, 2), optional
            Row and column of each gaze in pixels of the view; None is the middle.

        Returns
        -------
        dict of str to Tensor, shape (batch, channel, place, place)
            All taps at one stride.
        """

    def target_kernels(
        self, targets: Tensor, config: SearchConfig, px_per_degree: float
    ) -> dict[str, Tensor]:
        """Return the features (batch, channel, row, column) of preprocessed targets (batch, 3, y, x), by tap."""
