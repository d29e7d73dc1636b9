"""Published checkpoints of the transformer brain encoder."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from neuroattn._checks import check_option, check_shape
from neuroattn.encoding.networks import (
    AttentionNetwork,
    ConvolutionNetwork,
    EncoderNetwork,
    FactorizedNetwork,
    LinearNetwork,
)

# Parameters that the published model stores and never uses.
_DEAD = re.compile(r"transformer\.decoder\.layers\.\d+\.self_attn\.|transformer\.memory_proj\.")
# One group of regions a readout; its queries lie at the start of halves that are as long as those of the streams.
_GROUPS = ("visuals", "bodies", "faces", "places", "words")
READOUTS = ("streams_inc", "rois_all", *_GROUPS, "hemis", "voxels")


def load_reference(
    state_dict: Mapping[str, Tensor],
    config: Mapping[str, Any],
    roi_masks: Mapping[str, Tensor] | None = None,
) -> EncoderNetwork:
    """Build an encoder from the parameters and options of the published implementation [1]_.

    Parameters
    ----------
    state_dict : mapping of str to Tensor
        Parameters by their published names.
    config : mapping
        Published options. ``encoder_arch`` ("transformer", "spatial_feature" or "linear"), ``readout_res``, ``lh_vs``
        and ``rh_vs`` always; a transformer needs ``hidden_dim``, ``nheads``, ``dim_feedforward``, ``dropout``,
        ``dec_layers``, ``enc_layers``, ``enc_output_layer`` if there is an encoder, ``pre_norm`` and
        ``position_embedding`` too, and the linear model ``backbone_arch``.
    roi_masks : mapping with "lh" (region, left unit) and "rh" (region, right unit), bool, optional
        Regions in the order of the queries, "rest" last; needed for readouts by region.

    Returns
    -------
    EncoderNetwork
        In evaluation mode. Called with ``return_attention=True`` it returns ``lh``, ``rh`` and ``attention``
        (batch, query, head, token), None for the linear model; left queries come before right ones.

    Raises
    ------
    ValueError
        If an option is not supported or a parameter is missing or left over.

    Notes
    -----
    All nine readouts are built as they are meant, of which the published code runs "rois_all" and "voxels". Those
    of one group of regions ("visuals", "bodies", "faces", "places", "words") were to be trained on the units of the
    group only, so what they predict from the query "rest" means nothing.

    Of ``enc_layers`` self-attention layers the queries read number ``enc_output_layer``, counted from 0; layers
    after it are not used and not loaded. The published model drops attention weights out in training, and this one
    does not.

    References
    ----------
    .. [1] Adeli, Sun & Kriegeskorte (2025). arXiv:2505.17329.

    Examples
    --------
    >>> weights = {"spatial_embed.weight": torch.zeros(2, 961), "lh_embed.0.weight": torch.ones(3, 4),
    ...            "lh_embed.0.bias": torch.zeros(3), "rh_embed.0.weight": torch.ones(5, 4),
    ...            "rh_embed.0.bias": torch.zeros(5)}
    >>> config = {"encoder_arch": "spatial_feature", "readout_res": "hemis", "lh_vs": 3, "rh_vs": 5}
    >>> load_reference(weights, config)(torch.ones(1, 4, 31, 31)).shape
    torch.Size([1, 8])
    """
    build = _BUILDERS[check_option("encoder_arch", config["encoder_arch"], _BUILDERS)]
    check_option("readout_res", config["readout_res"], READOUTS)
    given = {name: value for name, value in state_dict.items() if not _DEAD.match(name)}
    network, renamed = build(given, config, roi_masks)
    for kind in ("weight", "bias"):
        halves = [_take(given, f"{side}_embed.0.{kind}") for side in ("lh", "rh")]
        renamed[f"readout.{kind}"] = torch.cat(halves)
    if given:
        raise ValueError(f"state_dict has parameters without a place: {', '.join(sorted(given)[:5])}")
    renamed |= {"input_mean": network.input_mean, "input_scale": network.input_scale}
    missing, unexpected = network.load_state_dict(renamed, strict=False)
    if missing or unexpected:
        raise ValueError(f"state_dict does not fit config: missing {missing}, unexpected {unexpected}")
    return network.eval()


def _transformer(
    given: dict[str, Tensor], config: Mapping[str, Any], roi_masks: Mapping[str, Tensor] | None
) -> tuple[EncoderNetwork, dict[str, Tensor]]:
    position = check_option("position_embedding", config["position_embedding"], ("sine", "learned"))
    pre = bool(config["pre_norm"])
    queries, masks = _queries(given, "query_embed.weight", config, roi_masks)
    renamed = {"queries": queries}
    n_channels = width = int(config["hidden_dim"])
    if "input_proj.weight" in given:  # a 1 x 1 convolution
        projection = given.pop("input_proj.weight").flatten(1)
        n_channels = projection.shape[1]
        renamed |= {"input_proj.weight": projection, "input_proj.bias": _take(given, "input_proj.bias")}
    encoder_layers = _encoder_depth(config)
    for name in list(given):
        if name.endswith(("row_embed.weight", "col_embed.weight")):
            ours = "rows" if "row_embed" in name else "columns"
            renamed[f"learned_position.{ours}"] = given.pop(name)
        elif name.startswith("transformer.decoder."):
            value = given.pop(name)
            ours = name.removeprefix("transformer.decoder.").replace("multihead_attn", "attention")
            if not (pre and ".norm2." in ours):  # unused before-hand normalisation of the published layer
                renamed[ours] = value
        elif name.startswith("transformer.encoder.layers."):
            value = given.pop(name)
            index, ours = name.removeprefix("transformer.encoder.layers.").split(".", 1)
            if int(index) < encoder_layers:
                renamed[f"encoder.{index}.{ours.replace('self_attn', 'attention')}"] = value
        elif name.startswith("transformer.encoder.norm."):
            renamed[name.removeprefix("transformer.").replace(".", "_", 1)] = given.pop(name)
    network = AttentionNetwork(
        n_channels,
        int(config["lh_vs"]) + int(config["rh_vs"]),
        masks,
        n_left=int(config["lh_vs"]),
        width=width,
        heads=int(config["nheads"]),
        layers=int(config["dec_layers"]),
        encoder_layers=encoder_layers,
        feedforward=int(config["dim_feedforward"]),
        dropout=float(config["dropout"]),
        norm="pre" if pre else "post",
        position=position,
    )
    if "encoder_norm.weight" not in renamed:
        network.encoder_norm = None
    if n_channels == width and "input_proj.weight" in renamed:
        network.input_proj = torch.nn.Linear(n_channels, width)
    return network, renamed


def _spatial_feature(
    given: dict[str, Tensor], config: Mapping[str, Any], roi_masks: Mapping[str, Tensor] | None
) -> tuple[EncoderNetwork, dict[str, Tensor]]:
    logits, masks = _queries(given, "spatial_embed.weight", config, roi_masks)
    n_left, n_right = int(config["lh_vs"]), int(config["rh_vs"])
    side = round(logits.shape[1] ** 0.5)
    n_channels = _width(given)
    network = FactorizedNetwork(n_channels, (side, side), n_left + n_right, masks, n_left=n_left)
    return network, {"logits": logits}


def _linear(
    given: dict[str, Tensor], config: Mapping[str, Any], roi_masks: Mapping[str, Tensor] | None
) -> tuple[EncoderNetwork, dict[str, Tensor]]:
    n_left, n_right = int(config["lh_vs"]), int(config["rh_vs"])
    weight, bias = _take(given, "input_proj.weight"), _take(given, "input_proj.bias")
    backbone, width = str(config["backbone_arch"]), _width(given)
    if backbone.endswith("_cls"):  # one vector, which never meets the stored convolution
        return LinearNetwork(width, n_left + n_right, n_left=n_left), {}
    stride = 1 if backbone.startswith("resnet") else 2 if backbone.startswith("clip") else 3
    side = round((width / len(weight)) ** 0.5)
    smallest = (side - 1) * stride + 1  # larger grids that the stride maps to the same side fit too
    network = ConvolutionNetwork(
        weight.shape[1],
        (smallest, smallest),
        n_left + n_right,
        n_left=n_left,
        width=len(weight),
        stride=stride,
    )
    return network, {"conv.weight": weight, "conv.bias": bias}


_BUILDERS = {"transformer": _transformer, "spatial_feature": _spatial_feature, "linear": _linear}


def _width(given: Mapping[str, Tensor]) -> int:
    """Return the channels that the readout reads."""
    return int(given["lh_embed.0.weight"].shape[1]) if "lh_embed.0.weight" in given else 0


def _take(given: dict[str, Tensor], name: str) -> Tensor:
    if name not in given:
        raise ValueError(f"state_dict must hold {name}, got {', '.join(sorted(given)[:5]) or 'nothing'}")
    return given.pop(name)


def _queries(
    given: dict[str, Tensor], name: str, config: Mapping[str, Any], roi_masks: Mapping[str, Tensor] | None
) -> tuple[Tensor, Tensor | None]:
    """Return the rows of the query table ``name`` that are used, left ones first, and who reads which.

    There are no masks where every unit has its own query.
    """
    n_left, n_right = int(config["lh_vs"]), int(config["rh_vs"])
    readout = config["readout_res"]
    if readout == "voxels":
        return _take(given, name), None
    if readout == "hemis":
        left, right = torch.ones(1, n_left, dtype=torch.bool), torch.ones(1, n_right, dtype=torch.bool)
    elif roi_masks is None:
        raise ValueError(f"roi_masks must be given for readout_res {readout!r}, got None")
    else:
        left, right = roi_masks["lh"], roi_masks["rh"]
        check_shape("roi_masks['lh']", left, "region", n_left)
        check_shape("roi_masks['rh']", right, left.shape[0], n_right)
    table = _take(given, name)
    half, used = len(table) // 2, len(left)
    if used > half or (used < half and readout not in _GROUPS):
        raise ValueError(f"roi_masks must hold {half} regions for readout_res {readout!r}, got {used}")
    table = torch.cat([table[:used], table[half : half + used]])
    return table, torch.cat([F.pad(left.bool(), (0, n_right)), F.pad(right.bool(), (n_left, 0))])


def _encoder_depth(config: Mapping[str, Any]) -> int:
    """Return how many self-attention layers the queries need."""
    n_layers = int(config.get("enc_layers", 0))
    if not n_layers:
        return 0
    output = int(config["enc_output_layer"])
    if not 0 <= output < n_layers:
        raise ValueError(f"enc_output_layer must lie in 0..{n_layers - 1} of enc_layers, got {output}")
    return output + 1
