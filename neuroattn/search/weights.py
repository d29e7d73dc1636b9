"""Weights of VGG16 from a user's file, with the preprocessing that belongs to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from neuroattn._backbones import Preprocessing
from neuroattn._checks import check_option
from neuroattn._files import check_file, listed, open_hdf5, reading
from neuroattn.search.features import CAFFE, N_CONVOLUTIONS, VGG16

LAYERS = tuple(f"block{i}_conv{j}" for i, n in enumerate(N_CONVOLUTIONS, 1) for j in range(1, n + 1))
# Places of the convolutions in the `features` of torchvision's VGG16; timm has the same names.
_FEATURES = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
_PREPROCESSING = {
    "caffe": CAFFE,
    "torchvision": Preprocessing((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
}
_MISMATCH = {
    "caffe": "they were trained on RGB scaled to unit variance, and caffe preprocessing would feed them inputs "
    "about 58 times too large with red and blue exchanged",
    "torchvision": "they were trained on BGR in 0..255 minus its mean, and torchvision preprocessing would feed "
    "them inputs about 58 times too small with red and blue exchanged",
}


@dataclass(frozen=True, eq=False)
class VGG16Weights:
    """Convolutions of a VGG16 and the preprocessing they were trained with.

    Parameters
    ----------
    arrays : mapping of str to float32 array
        Kernels ``w_block<i>_conv<j>``, shape (y, x, in, out), and biases ``b_block<i>_conv<j>``, shape (out,).
        Any width will do. The first kernel takes the colours in the order of ``preprocessing``.
    preprocessing : {"caffe", "torchvision"}
        "caffe": BGR in 0..255 minus (103.939, 116.779, 123.68). "torchvision": RGB in 0..1, minus
        (0.485, 0.456, 0.406), over (0.229, 0.224, 0.225). Arrays do not tell which; with the wrong one a network
        runs and sees nothing.

    Raises
    ------
    ValueError
        If a layer is missing, a shape does not follow the layer before, or a value is not finite.

    Examples
    --------
    >>> rng, arrays, n_in = np.random.default_rng(0), {}, 3
    >>> for layer in LAYERS:
    ...     arrays[f"w_{layer}"] = rng.normal(size=(3, 3, n_in, 4)).astype("float32")
    ...     arrays[f"b_{layer}"], n_in = np.zeros(4, "float32"), 4
    >>> network = VGG16Weights(arrays, "caffe").network()
    >>> network.taps
    ('conv3_3', 'conv4_3', 'conv5_3')
    """

    arrays: Mapping[str, NDArray[np.float32]]
    preprocessing: str

    def __post_init__(self) -> None:
        check_option("preprocessing", self.preprocessing, tuple(_MISMATCH))
        n_in = 3
        for layer in LAYERS:
            missing = [name for name in (f"w_{layer}", f"b_{layer}") if name not in self.arrays]
            if missing:
                raise ValueError(f"weights must hold {missing[0]} of VGG16, got {listed(self.arrays)}")
            kernel, bias = self.arrays[f"w_{layer}"], self.arrays[f"b_{layer}"]
            if kernel.ndim != 4 or kernel.shape[:3] != (3, 3, n_in) or bias.shape != kernel.shape[3:]:
                raise ValueError(
                    f"weights of {layer} must have shapes (3, 3, {n_in}, out) and (out,), "
                    f"got {kernel.shape} and {bias.shape}"
                )
            if not (np.isfinite(kernel).all() and np.isfinite(bias).all()):
                raise ValueError(f"weights of {layer} must be finite, got NaN or infinity")
            n_in = kernel.shape[3]

    def network(self, device: str = "cpu") -> VGG16:
        """Return the network with these weights and their preprocessing.

        Parameters
        ----------
        device : str, default "cpu"

        Returns
        -------
        VGG16
        """
        widths = [self.arrays[f"b_block{i}_conv1"].shape[0] for i in range(1, 6)]
        network = VGG16(widths, _PREPROCESSING[self.preprocessing])
        state = {}
        for layer in LAYERS:
            kernel = self.arrays[f"w_{layer}"]
            if layer == LAYERS[0] and self.preprocessing == "caffe":
                kernel = kernel[:, :, ::-1]  # the network takes red, green, blue
            state[f"{layer}.weight"] = torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy())
            state[f"{layer}.bias"] = torch.from_numpy(self.arrays[f"b_{layer}"].copy())
        network.load_state_dict(state)
        return network.to(device)


def read_vgg16_weights(path: str | Path, *, preprocessing: str | None = None) -> VGG16Weights:
    """Read the convolutions of VGG16 from a file of Keras, torchvision or timm.

    Parameters
    ----------
    path : str or Path
        ``.h5`` as Keras writes it, with layers named block1_conv1 and so on (the published weights of eccNET and of
        Keras Applications, with or without the top), or a state dict of torchvision or timm as ``.pth``, ``.pt`` or
        ``.safetensors``. Files are read without running code that is in them.
    preprocessing : {"caffe", "torchvision"}, optional
        What the weights were trained with, where the caller knows it: a check, not a choice. None takes what the
        kind of file says.

    Returns
    -------
    VGG16Weights

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is none of these, a layer is missing, or ``preprocessing`` is not that of the weights.

    Notes
    -----
    Weights of Keras are those of caffe: BGR in 0..255, mean subtracted. Weights of torchvision and timm are
    another training run on normalised RGB. A state dict whose classifier is not a number is torchvision's copy of
    the caffe weights for features alone, in RGB order; its first layer is turned to BGR. Weights of any other
    origin go through :class:`VGG16Weights`, which asks for their preprocessing.

    Examples
    --------
    >>> read_vgg16_weights("vgg16.h5")
    Traceback (most recent call last):
    FileNotFoundError: weights vgg16.h5 do not exist; give a .h5, .pth, .pt or .safetensors file
    """
    path = Path(path)
    kinds = {".h5": _read_keras, ".hdf5": _read_keras, ".pth": _read_torch, ".pt": _read_torch}
    kinds[".safetensors"] = _read_torch
    if path.suffix not in kinds:
        raise ValueError(f"weights must be a .h5, .pth, .pt or .safetensors file, got {path.name!r}")
    if not path.exists():
        raise FileNotFoundError(f"weights {path} do not exist; give a .h5, .pth, .pt or .safetensors file")
    check_file(path)
    arrays, found = kinds[path.suffix](path)
    if preprocessing is not None and check_option("preprocessing", preprocessing, tuple(_MISMATCH)) != found:
        raise ValueError(
            f"preprocessing must be {found!r} for {path.name}, got {preprocessing!r}: {_MISMATCH[preprocessing]}"
        )
    with reading(f"weights {path} cannot be used:"):
        return VGG16Weights(arrays, found)


def _read_keras(path: Path) -> tuple[dict[str, NDArray[np.float32]], str]:
    import h5py

    arrays: dict[str, NDArray[np.float32]] = {}

    def collect(name: str, item: Any) -> None:
        # Keras has nested a layer's group and renamed its arrays over time; kernel and bias differ by axes.
        layers = [part for part in name.split("/") if part in LAYERS]
        if layers and isinstance(item, h5py.Dataset):
            arrays[f"{'w' if item.ndim == 4 else 'b'}_{layers[0]}"] = np.asarray(item, dtype=np.float32)

    with reading(f"weights {path} are not an HDF5 file:"), open_hdf5(path) as file:
        file.visititems(collect)
    return arrays, "caffe"


def _read_torch(path: Path) -> tuple[dict[str, NDArray[np.float32]], str]:
    with reading(f"weights {path} cannot be read as a state dict:"):
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(state, Mapping):
        raise ValueError(f"weights {path} must hold a state dict, got {type(state).__name__}")
    arrays = {}
    for place, layer in zip(_FEATURES, LAYERS, strict=True):
        for ours, theirs in (("w", "weight"), ("b", "bias")):
            tensor = state.get(f"features.{place}.{theirs}")
            if not isinstance(tensor, torch.Tensor):
                raise ValueError(
                    f"weights {path} must hold features.{place}.{theirs} as torchvision's VGG16 does, "
                    f"got {listed(state)}"
                )
            if tensor.numel() * tensor.element_size() > path.stat().st_size:
                raise ValueError(
                    f"weights {path} must hold the numbers of features.{place}.{theirs} that it claims"
                )
            array = tensor.float().numpy()
            arrays[f"{ours}_{layer}"] = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array
    classifier = [v for k, v in state.items() if k.startswith("classifier") and isinstance(v, torch.Tensor)]
    if any(not bool(tensor.isfinite().all()) for tensor in classifier):
        arrays["w_block1_conv1"] = arrays["w_block1_conv1"][:, :, ::-1].copy()
        return arrays, "caffe"
    return arrays, "torchvision"
