"""VGG16 with eccentricity-dependent pooling."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neuroattn._backbones import Preprocessing
from neuroattn.kernels.eccentricity_pool import eccentricity_pool
from neuroattn.search.config import SearchConfig

CAFFE = Preprocessing(mean=(123.68, 116.779, 103.939), std=(1.0, 1.0, 1.0))
N_CONVOLUTIONS = (2, 2, 3, 3, 3)


class VGG16(nn.Module):
    """The convolutions of VGG16 [1]_ as eccNET reads them [2]_: a `SearchBackbone`.

    Between the blocks the maps are pooled with windows that grow with eccentricity. The features of a tap are read
    before its own block's pooling and brought to stride 16 by plain pooling, so that eccentricity reaches the
    shallowest tap not at all and the deepest one through the pooling stages 3 and 4.

    Parameters
    ----------
    widths : sequence of int, default (64, 128, 256, 512, 512)
        Channels of the five blocks.
    preprocessing : Preprocessing, default the one of the published weights
        The input channels are red, green and blue whatever the weights were trained on; weights for another order
        are turned when they are loaded.

    References
    ----------
    .. [1] Simonyan & Zisserman (2015). Very deep convolutional networks for large-scale image recognition. ICLR.
    .. [2] Gupta, Zhang, Wu, Wolfe & Kreiman (2021). Visual search asymmetry: deep nets and humans share
       similar inherent biases. NeurIPS 34.

    Examples
    --------
    >>> network = VGG16(widths=(2, 2, 4, 4, 4))
    >>> views = network.preprocess(torch.zeros(1, 64, 64, 3, dtype=torch.uint8))
    >>> {tap: maps.shape[1:] for tap, maps in network.search_maps(views, SearchConfig.paper(), 30.0).items()}
    {'conv3_3': torch.Size([4, 4, 4]), 'conv4_3': torch.Size([4, 4, 4]), 'conv5_3': torch.Size([4, 4, 4])}
    """

    taps: tuple[str, ...] = ("conv3_3", "conv4_3", "conv5_3")
    stride: int = 16

    def __init__(
        self, widths: Sequence[int] = (64, 128, 256, 512, 512), preprocessing: Preprocessing = CAFFE
    ) -> None:
        super().__init__()
        self.preprocess = preprocessing
        previous = 3
        for block, (width, n) in enumerate(zip(widths, N_CONVOLUTIONS, strict=True), 1):
            for i in range(1, n + 1):
                setattr(self, f"block{block}_conv{i}", nn.Conv2d(previous, width, 3, padding=1))
                previous = width
        # Convolutions and pooling of few channels run two to four times as fast in this layout.
        self.eval().requires_grad_(False).to(memory_format=torch.channels_last)

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.parameters()).device

    def search_maps(
        self, views: Tensor, config: SearchConfig, px_per_degree: float, fixation: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Return the features of square views at stride 16, by tap.

        Parameters
        ----------
        views : Tensor, shape (batch, 3, side, side)
            Preprocessed.
        config : SearchConfig
        px_per_degree : float
        fixation : Tensor, shape (batch, 2), optional
            Row and column of each gaze in pixels of the view; None is the middle.

        Returns
        -------
        dict of str to Tensor, shape (batch, channel, place, place)
        """
        maps: dict[str, Tensor] = {}
        x = views
        taps = config.taps or self.taps
        for block in range(1, 6):
            x = self.block(block, x)
            if f"conv{block}_3" in taps:
                maps[f"conv{block}_3"] = pool_plainly(x, config.pool, times=5 - block)
            if len(maps) == len(taps):
                break
            x = self.pool(block, x, config, px_per_degree, fixation)
        return maps

    def target_kernels(
        self, targets: Tensor, config: SearchConfig, px_per_degree: float
    ) -> dict[str, Tensor]:
        """Return the features (batch, channel, row, column) of targets (batch, 3, y, x), by tap.

        At stride 32, after the pooling of the search, with a compressed template; otherwise at stride 16 and
        without eccentricity.
        """
        kernels: dict[str, Tensor] = {}
        x = targets
        taps = config.taps or self.taps
        for block in range(1, 6):
            x = self.block(block, x)
            tap = f"conv{block}_3"
            if tap in taps and not config.compressed_template:
                kernels[tap] = pool_plainly(x, config.pool, times=5 - block)
            if config.compressed_template:
                x = self.pool(block, x, config, px_per_degree)
            else:
                x = pool_plainly(x, config.pool)
            if tap in taps and config.compressed_template:
                kernels[tap] = pool_plainly(x, config.pool, times=5 - block)
        return kernels

    def block(self, block: int, x: Tensor) -> Tensor:
        """Run the convolutions of a block, counted from 1."""
        for i in range(1, N_CONVOLUTIONS[block - 1] + 1):
            x = self.get_submodule(f"block{block}_conv{i}")(x).relu_()
        return x

    def pool(
        self,
        stage: int,
        x: Tensor,
        config: SearchConfig,
        px_per_degree: float,
        fixation: Tensor | None = None,
    ) -> Tensor:
        """Pool after a block, counted from 1; plainly where the window does not grow."""
        law = config.law(stage, px_per_degree)
        as_is = law.canvas(*x.shape[2:]) == tuple(x.shape[2:]) or not any(config.slopes)
        if law.slope == 0 and as_is:
            return pool_plainly(x, config.pool)
        gaze = None if fixation is None else fixation / 2 ** (stage - 1)
        return eccentricity_pool(x, gaze, law, mode=config.pool)


def pool_plainly(x: Tensor, mode: str, times: int = 1) -> Tensor:
    """Pool with windows of 2 x 2, clipped at the border.

    Examples
    --------
    >>> pool_plainly(torch.arange(9.0).view(1, 1, 3, 3), "mean")[0, 0]
    tensor([[2.0000, 3.5000],
            [6.5000, 8.0000]])
    """
    for _ in range(times):
        if mode == "max":
            x = F.max_pool2d(x, 2, ceil_mode=True)
        else:
            x = F.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False)
    return x
