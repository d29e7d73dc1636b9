"""Search with eccentricity-dependent features: fixation after fixation, many trials at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neuroattn.results import Scanpath
from neuroattn.search.config import SearchConfig
from neuroattn.search.trials import SearchTrial


class SearchBackbone(Protocol):
    """What `EccNet` needs of a network.

    Attributes
    ----------
    taps : tuple of str
        The layers that are compared with the target, from shallow to deep.
    stride : int
        Pixels of the view between neighbouring places of the search maps.
    device : torch.device
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


class EccNet:
    """Eccentricity-dependent visual search [1]_.

    Parameters
    ----------
    backbone : SearchBackbone
    config : SearchConfig, default SearchConfig.clean()
    """

    def __init__(self, backbone: SearchBackbone, config: SearchConfig | None = None) -> None:
        self.backbone = backbone
        self.config = SearchConfig.clean() if config is None else config

    def search(
        self,
        image: NDArray[np.uint8],
        target: NDArray[np.uint8],
        *,
        cells: NDArray[np.bool_] | None = None,
        target_mask: NDArray[np.bool_] | None = None,
        max_fixations: int | None = None,
        background: int = 0,
        px_per_degree: float | None = None,
        start: tuple[float, float] | None = None,
        seed: int = 0,
        return_maps: bool = False,
    ) -> Scanpath:
        """Search one image; the arguments are those of `SearchTrial`."""
        trial = SearchTrial(
            image, target, target_mask, cells, max_fixations, background, px_per_degree, start
        )
        return self.search_batch([trial], seed=seed, return_maps=return_maps)[0]

    def search_batch(
        self,
        trials: Sequence[SearchTrial],
        *,
        batch_size: int = 8,
        seed: int = 0,
        progress: Callable[[int, int], None] | None = None,
        return_maps: bool = False,
    ) -> list[Scanpath]:
        """Search many trials.

        Parameters
        ----------
        trials : sequence of SearchTrial
        batch_size : int, default 8
            Trials in one forward pass.
        seed : int, default 0
            Each trial draws from its own stream, whatever the batch size.
        progress : callable, optional
            Called with the number of finished trials and of all.
        return_maps : bool, default False
            Keep the map of every fixation in ``attrs["maps"]`` (fixation, row, column).

        Returns
        -------
        list of Scanpath
            ``found`` is None without a target mask. ``attrs`` holds those of the trial, ``n_saccades`` and why
            the search ended, ``quit``: "found", "recognised", "limit", "gave up" or "exhausted".
        """
        raise NotImplementedError
