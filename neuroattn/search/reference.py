"""The published eccNET: its parameter names, its configuration, its behaviour."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from neuroattn._checks import check_option, check_shape
from neuroattn.results import Scanpath
from neuroattn.search.config import SearchConfig
from neuroattn.search.eccnet import EccNet
from neuroattn.search.features import N_CONVOLUTIONS, VGG16

_SETTINGS = (
    "ecc_depth", "pool", "out_layer", "weight_pattern", "dog", "corner_bias", "ior_size", "bg_value", "NumFix", "mode",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class ReferenceSearch:
    """A published model with the settings of its experiment.

    Parameters
    ----------
    model : EccNet
    background : int
        Grey level around the image.
    max_fixations : int
        Most fixations, the first included.
    with_cells : bool
        Whether it was recorded with cells; without, the cells of a call are left aside.
    """

    model: EccNet
    background: int
    max_fixations: int
    with_cells: bool

    def search(
        self,
        image: NDArray[np.uint8],
        target: NDArray[np.uint8],
        cells: NDArray[np.bool_] | None = None,
        target_mask: ArrayLike | None = None,
        *,
        return_maps: bool = False,
    ) -> Scanpath:
        """Search one image as published.

        Parameters
        ----------
        image, target, cells
            As of :class:`SearchTrial`.
        target_mask : bool or uint8 array, shape (y, x), optional
            Of uint8, what is above 125 counts.
        return_maps : bool, default False
            As of :meth:`EccNet.search_batch`.

        Returns
        -------
        Scanpath
        """
        if target_mask is not None:
            target_mask = np.asarray(target_mask)
            target_mask = target_mask if target_mask.dtype == bool else target_mask > 125
        return self.model.search(
            image,
            target,
            cells=cells if self.with_cells else None,
            target_mask=target_mask,
            max_fixations=self.max_fixations,
            background=self.background,
            return_maps=return_maps,
        )


def load_reference(weights: Mapping[str, ArrayLike], config: Mapping[str, Any]) -> ReferenceSearch:
    """Build the published eccNET [1]_ from its weights and settings.

    Parameters
    ----------
    weights : mapping of str to float array
        ``w_block<b>_conv<i>`` (row, column, input channel, output channel) and ``b_block<b>_conv<i>``, for input in
        the order blue, green, red. Any width.
    config : mapping
        The keys of the original: ``ecc_depth`` (pooling stages with eccentricity, from the first), ``pool`` ("avg" or
        "max"), ``out_layer`` (which of conv3_3, conv4_3 and conv5_3 count), ``weight_pattern`` ("nl" or "l"), ``dog``,
        ``corner_bias``, ``ior_size``, ``bg_value``, ``NumFix``, ``mode`` ("cells" or "free").

    Returns
    -------
    ReferenceSearch
        With ``search(image, target, cells=None, target_mask=None) -> Scanpath``.

    Raises
    ------
    ValueError
        If a weight is missing or of another shape, or a setting is none of the published ones.

    References
    ----------
    .. [1] Gupta, Zhang, Wu, Wolfe & Kreiman (2021). Visual search asymmetry: deep nets and humans share
       similar inherent biases. NeurIPS 34.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> weights, before = {}, 3
    >>> for block, n in enumerate((2, 2, 3, 3, 3), 1):
    ...     for i in range(1, n + 1):
    ...         weights[f"w_block{block}_conv{i}"] = rng.normal(size=(3, 3, before, 4)) * 0.3
    ...         weights[f"b_block{block}_conv{i}"] = np.zeros(4)
    ...         before = 4
    >>> config = dict(ecc_depth=5, pool="avg", out_layer=[1, 1, 1], weight_pattern="nl", dog=[[3, 0], [5, 1]],
    ...               corner_bias=64, ior_size=10, bg_value=0, NumFix=3, mode="free")
    >>> image = rng.integers(0, 256, (48, 48)).astype(np.uint8)
    >>> path = load_reference(weights, config).search(image, image[:16, :16])
    >>> len(path), path.found
    (3, None)
    """
    missing = [key for key in _SETTINGS if key not in config]
    if missing:
        raise ValueError(f"config must hold {missing[0]!r}, got {', '.join(sorted(config))}")
    check_option("config['pool']", config["pool"], ("avg", "max"))
    check_option("config['weight_pattern']", config["weight_pattern"], ("nl", "l"))
    check_option("config['mode']", config["mode"], ("cells", "free"))
    switches = [float(switch) for switch in config["out_layer"]]
    if len(switches) != 3 or not set(switches) <= {0.0, 1.0} or not any(switches):
        raise ValueError(
            f"config['out_layer'] must hold three of 0 and 1, at least one 1, got {config['out_layer']}"
        )
    paper = SearchConfig.paper(ior_px=config["ior_size"])
    (centre_size, centre_sd), (surround_size, surround_sd) = config["dog"]
    settings = dataclasses.replace(
        paper,
        slopes=tuple(s if i < config["ecc_depth"] else 0.0 for i, s in enumerate(paper.slopes)),
        pool="mean" if config["pool"] == "avg" else "max",
        taps=tuple(tap for tap, switch in zip(VGG16.taps, switches, strict=True) if switch),
        layer_weights="max" if config["weight_pattern"] == "nl" else "equal",
        sharpening=((int(centre_size), float(centre_sd)), (int(surround_size), float(surround_sd))),
        margin_px=int(config["corner_bias"]),
    )
    return ReferenceSearch(
        model=EccNet(_network(weights), settings),
        background=int(config["bg_value"]),
        max_fixations=int(config["NumFix"]),
        with_cells=config["mode"] == "cells",
    )


def _network(weights: Mapping[str, ArrayLike]) -> VGG16:
    state, widths, before = {}, [], 3
    for block, n in enumerate(N_CONVOLUTIONS, 1):
        for i in range(1, n + 1):
            name = f"block{block}_conv{i}"
            missing = [key for key in (f"w_{name}", f"b_{name}") if key not in weights]
            if missing:
                raise ValueError(f"weights must hold {missing[0]!r}, got {', '.join(sorted(weights))}")
            kernel = np.asarray(weights[f"w_{name}"], np.float32)
            check_shape(f"weights['w_{name}']", kernel, 3, 3, before, "output")
            if before == 3 and name == "block1_conv1":
                kernel = kernel[:, :, ::-1]  # from blue, green, red
            bias = np.asarray(weights[f"b_{name}"], np.float32)
            before = kernel.shape[3]
            check_shape(f"weights['b_{name}']", bias, before)
            state[f"{name}.weight"] = torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy())
            state[f"{name}.bias"] = torch.from_numpy(bias.copy())
        widths.append(before)
    network = VGG16(widths)
    network.load_state_dict(state)
    return network
