"""Published networks of channel attention for motor imagery."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from neuroattn.attention import load_reference_gate
from neuroattn.eeg.basenet import BaseNet

# Our argument: its names in the original and in braindecode.
_ARGUMENTS = {
    "n_chans": ("n_channels", "n_chans"),
    "n_outputs": ("n_classes", "n_outputs"),
    "n_times": ("input_window_samples", "n_times"),
    "n_filters": ("n_temporal_filters",),
    "filter_length": ("temp_filter_length_inp",),
    "spatial_expansion": ("spatial_expansion",),
    "pool_length": ("pool_length_inp",),
    "pool_stride": ("pool_stride_inp",),
    "n_features": ("ch_dim",),
    "feature_filter_length": ("temp_filter_length",),
    "feature_pool_length": ("pool_length",),
    "feature_pool_stride": ("pool_stride",),
    "drop_prob": ("dropout_inp", "drop_prob_inp"),
}
_GATE = "channel_attention_block.attention_block."


def load_reference(state_dict: Mapping[str, Tensor], config: Mapping[str, Any]) -> BaseNet:
    """Build BaseNet from the parameters and options of the published implementation or of braindecode's [1]_.

    Parameters
    ----------
    state_dict : mapping of str to Tensor
        Parameters and buffers by their names in either.
    config : mapping
        Arguments of the published ``BaseNet`` or of braindecode's ``AttentionBaseNet``; what is absent is the
        published default. ``attention_mode`` None or absent means no attention. The type of the activation is not
        read: it is ELU in all published networks.

    Returns
    -------
    BaseNet
        In evaluation mode and the precision of the parameters. Its gate behaves as published, see
        `neuroattn.attention.load_reference_gate`.

    Raises
    ------
    ValueError
        If parameters are missing, left over, or do not have the sizes of ``config``.

    References
    ----------
    .. [1] Wimpff, Gizzi, Zerfowski & Yang (2024). EEG motor imagery decoding: a framework for comparative analysis
       with channel attention mechanisms. J. Neural Eng.

    Examples
    --------
    >>> model = BaseNet(22, 4, 1000)
    >>> published = {theirs: model.state_dict()[ours] for theirs, ours in model.mapping.items()
    ...              if not theirs.startswith("final_layer")}
    >>> load_reference(published, {"n_channels": 22, "n_classes": 4, "input_window_samples": 1000}).n_chans
    22
    """
    arguments = {
        ours: config[theirs] for ours, names in _ARGUMENTS.items() for theirs in names if theirs in config
    }
    missing = [ours for ours in ("n_chans", "n_outputs", "n_times") if arguments.get(ours) is None]
    if missing:
        names = " or ".join(repr(name) for name in _ARGUMENTS[missing[0]])
        raise ValueError(f"config must have {names}, got {', '.join(sorted(config)) or 'nothing'}")
    gate: nn.Module | None = None
    mode = config.get("attention_mode")
    network = {name: value for name, value in state_dict.items() if not name.startswith(_GATE)}
    if mode is not None:
        block = {
            name.removeprefix(_GATE): value for name, value in state_dict.items() if name.startswith(_GATE)
        }
        gate = load_reference_gate(mode, block, {**config, "ch_dim": arguments.get("n_features", 16)})
    elif len(network) < len(state_dict):
        raise ValueError("config must have the attention_mode of the attention in state_dict, got None")
    model = BaseNet(**arguments, attention=gate)
    for name in ("dropout", "drop_prob_attn"):
        if name in config:
            model.feature_drop.p = float(config[name])
    model.to(dtype=next(value.dtype for value in network.values() if value.is_floating_point()))
    try:
        absent, left = model.load_state_dict(network, strict=False)
    except RuntimeError as error:  # torch: one line per size that does not fit
        raise ValueError(f"state_dict does not fit config: {str(error).splitlines()[1].strip()}") from None
    absent = [name for name in absent if not name.startswith("attention.")]
    if absent or left:
        raise ValueError(f"state_dict does not fit config: missing {absent[:5]}, without a place {left[:5]}")
    return model.eval()
