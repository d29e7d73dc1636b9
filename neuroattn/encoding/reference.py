"""Published checkpoints of the transformer brain encoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from neuroattn._checks import check_option, check_shape
from neuroattn.encoding.networks import AttentionNetwork, EncoderNetwork, FactorizedNetwork

# Parameters that the published model stores and never uses.
_DEAD = ("self_attn.", "memory_proj.")


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
        Published options: ``encoder_arch`` ("transformer" or "spatial_feature"), ``readout_res``, ``lh_vs``,
        ``rh_vs``, ``hidden_dim``, ``nheads``, ``dim_feedforward``, ``dropout``, ``dec_layers``, ``enc_layers``,
        ``pre_norm``, ``position_embedding``.
    roi_masks : mapping with "lh" (region, left unit) and "rh" (region, right unit), bool, optional
        Regions in the order of the queries, "rest" last; needed for readouts by region.

    Returns
    -------
    EncoderNetwork
        In evaluation mode. Called with ``return_attention=True`` it returns ``lh``, ``rh`` and ``attention``
        (batch, query, head, token); left queries come before right ones.

    Raises
    ------
    ValueError
        If an option is not supported or a parameter is missing or left over.

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
    arch = check_option("encoder_arch", config["encoder_arch"], ("transformer", "spatial_feature"))
    n_left, n_right = int(config["lh_vs"]), int(config["rh_vs"])
    masks = _query_masks(str(config["readout_res"]), n_left, n_right, roi_masks)
    given = {name: value for name, value in state_dict.items() if not any(dead in name for dead in _DEAD)}
    network: EncoderNetwork
    if arch == "spatial_feature":
        n_tokens = given["spatial_embed.weight"].shape[1]
        side = round(n_tokens**0.5)
        n_channels = given["lh_embed.0.weight"].shape[1]
        network = FactorizedNetwork(n_channels, (side, side), n_left + n_right, masks, n_left=n_left)
        renamed = {"logits": given.pop("spatial_embed.weight")}
    else:
        network, renamed = _transformer(given, config, masks, n_left, n_left + n_right)
    for kind in ("weight", "bias"):
        halves = [given.pop(f"{side}_embed.0.{kind}") for side in ("lh", "rh")]
        renamed[f"readout.{kind}"] = torch.cat(halves)
    if given:
        raise ValueError(f"state_dict has parameters without a place: {', '.join(sorted(given)[:5])}")
    renamed |= {"input_mean": network.input_mean, "input_scale": network.input_scale}
    missing, unexpected = network.load_state_dict(renamed, strict=False)
    if missing or unexpected:
        raise ValueError(f"state_dict does not fit config: missing {missing}, unexpected {unexpected}")
    return network.eval()


def _query_masks(
    readout: str, n_left: int, n_right: int, roi_masks: Mapping[str, Tensor] | None
) -> Tensor | None:
    """Return who reads which query, left queries first; None where every unit has its own."""
    if readout == "voxels":
        return None
    if readout == "hemis":
        left, right = torch.ones(1, n_left, dtype=torch.bool), torch.ones(1, n_right, dtype=torch.bool)
    elif roi_masks is None:
        raise ValueError(f"roi_masks must be given for readout_res {readout!r}, got None")
    else:
        left, right = roi_masks["lh"], roi_masks["rh"]
        check_shape("roi_masks['lh']", left, "region", n_left)
        check_shape("roi_masks['rh']", right, left.shape[0], n_right)
    pad = (0, n_right), (n_left, 0)
    return torch.cat([F.pad(left.bool(), pad[0]), F.pad(right.bool(), pad[1])])


def _transformer(
    given: dict[str, Tensor], config: Mapping[str, Any], masks: Tensor | None, n_left: int, n_units: int
) -> tuple[AttentionNetwork, dict[str, Tensor]]:
    if int(config.get("enc_layers", 0)):
        raise ValueError(f"enc_layers must be 0, got {config['enc_layers']}")
    position = check_option("position_embedding", config["position_embedding"], ("sine", "learned"))
    pre = bool(config["pre_norm"])
    renamed = {"queries": given.pop("query_embed.weight")}
    n_channels = int(config["hidden_dim"])
    projection = given.get("input_proj.weight")
    if projection is not None:
        n_channels = projection.shape[1]
        renamed["input_proj.weight"] = given.pop("input_proj.weight").flatten(1)
        renamed["input_proj.bias"] = given.pop("input_proj.bias")
    for name in list(given):
        if name.endswith(("row_embed.weight", "col_embed.weight")):
            ours = "rows" if "row_embed" in name else "columns"
            renamed[f"learned_position.{ours}"] = given.pop(name)
        elif name.startswith("transformer.decoder."):
            value = given.pop(name)
            ours = name.removeprefix("transformer.decoder.").replace("multihead_attn", "attention")
            if not (pre and ".norm2." in ours):  # unused before-hand normalisation of the published layer
                renamed[ours] = value
    network = AttentionNetwork(
        n_channels,
        n_units,
        masks,
        n_left=n_left,
        width=int(config["hidden_dim"]),
        heads=int(config["nheads"]),
        layers=int(config["dec_layers"]),
        feedforward=int(config["dim_feedforward"]),
        dropout=float(config["dropout"]),
        norm="pre" if pre else "post",
        position=position,
    )
    return network, renamed
