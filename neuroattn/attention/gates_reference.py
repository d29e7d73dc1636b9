"""Published channel attention, from its parameters and options."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from neuroattn._checks import check_option
from neuroattn.attention.gates import (
    ChannelGate,
    CollaborativeChannelGate,
    CollaborativeGate,
    ContextEncoding,
    ConvBlockAttention,
    EfficientChannelGate,
    GatedChannelTransformation,
    GatherExcite,
    LearnedFilter,
    SecondOrderGate,
    SqueezeExcite,
    StyleRecalibration,
)


class _PublishedSecondOrder(SecondOrderGate):
    def gate(self, x: Tensor) -> Tensor:
        return self.logits(x)  # no sigmoid


class _PublishedContextEncoding(ContextEncoding):
    def gate(self, x: Tensor) -> Tensor:
        gate: Tensor = self.excite(self.residuals(x).mean(1)).sigmoid()
        return gate


class _PublishedCollaborative(CollaborativeGate):
    def temporal_maximum(self, x: Tensor) -> Tensor:
        return self.blurred(x).amax(2, keepdim=True)  # over time instead of over channels


# Our name -> the published name, or names that are joined in this order. Shapes differ by axes of length one.
Names = dict[str, tuple[str, ...]]
Built = tuple[ChannelGate, Names]


def _layer(ours: str, published: str, given: Mapping[str, Tensor]) -> Names:
    kinds = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    return {f"{ours}.{kind}": (f"{published}.{kind}",) for kind in kinds if f"{published}.{kind}" in given}


def _perceptron(
    first: str, second: str, given: Mapping[str, Tensor], ours: tuple[int, int] = (0, 2)
) -> Names:
    return _layer(f"excite.{ours[0]}", first, given) | _layer(f"excite.{ours[1]}", second, given)


def _reduction(weight: Tensor, config: Mapping[str, Any]) -> int:
    hidden, n_in = weight.shape[:2]
    return int(config.get("reduction_rate", n_in // max(hidden, 1)))


def _kernel(given: Mapping[str, Tensor], config: Mapping[str, Any]) -> int:
    return int(config.get("kernel_size", given["conv.weight"].shape[-1]))


def _se(given: Mapping[str, Tensor], config: Mapping[str, Any]) -> Built:
    weight = given["fc1.weight"]
    gate = SqueezeExcite(weight.shape[1], reduction=_reduction(weight, config), bias="fc1.bias" in given)
    return gate, _perceptron("fc1", "fc2", given)


def _gsop(given: Mapping[str, Tensor], config: Mapping[str, Any]) -> Built:
    weight = given["pw_conv1.weight"]
    reduction = _reduction(weight, config)
    gate = _PublishedSecondOrder(weight.shape[1], reduction=reduction, bias="pw_conv1.bias" in given)
    layers = {"mix": "pw_conv1", "norm": "bn", "rows": "rw_conv", "excite": "pw_conv2"}
    names: Names = {}
    for ours, published in layers.items():
        names |= _layer(ours, published, given)
    return gate, names


def _fca(given: Mapping[str, Tensor], config: Mapping[str, Any]) -> Built:
    stored = LearnedFilter(*given["weight"].shape, normalize=False)
    stored.weight.requires_grad_(False)
    weight = given["fc.0.weight"]
    gate = SqueezeExcite(weight.shape[1], reduction=_reduction(weight, config), squeeze=stored)
    return gate, {"squeeze.weight": ("weight",)} | _perceptron("fc.0", "fc.2", given)


def _encnet(given: Mapping[str, Tensor], config: Mapping[str, Any]) -> Built:
    n_codewords, n_channels = given["codewords"].shape
    gate = _PublishedContextEncoding(n_channels, n_codewords=int(config.get("n_codewords", n_codewords)))
    names: Names = {name: (name,) for name in ("codewords", "smoothing")}
    return gate, names | _layer("norm", "bn", given) | _layer("excite", "fc", given)


def _eca(given: Mapping[str, Tensor], config: Mapping[str, Any]) -> Built:
    gate = EfficientChannelGate(_n_channels(config), kernel_size=_kernel(given, config))
    return gate, _layer("excite", "conv", given)


def _ge(given: Mapping[str, Tensor], config: Mapping[str, Any]) -> Built:
    learned, perceptron = given.get("gather.0.weight"), given.get("mlp.0.weight")
    n_channels, names = _n_channels(config), Names()
    squeeze: str | LearnedFilter = "avg"
    if config.get("extra_params", learned is not None):
        weight = given["gather.0.weight"]
        n_channels = weight.shape[0]
        squeeze = LearnedFilter(n_channels, weight.shape[-1])
        names |= _layer("squeeze", "gather.0", given) | _layer("squeeze.norm", "gather.1", given)
    if not config.get("use_mlp", perceptron is not None):
        return GatherExcite(n_channels, squeeze=squeeze), names
    weight = given["mlp.0.weight"]
    gate = SqueezeExcite(
        weight.shape[1], reduction=_reduction(weight, config), squeeze=squeeze, bias="mlp.0.bias" in given
    )
    return gate, names | _perceptron("mlp.0", "mlp.2", given)


def _gct(given: Mapping[str, Tensor], config: Mapping[str, Any]) -> Built:
    gate = GatedChannelTransformation(given["alpha"].numel())
    return gate, {name: (name,) for name in ("alpha", "beta", "gamma")}


def _srm(given: Mapping[str, Tensor], config: Mapping[str, Any]) -> Built:
    norm, n_channels = _layer("norm", "bn", given), given["bn.weight"].numel()
    if config.get("use_mlp", "style_integration.weight" not in given):
        weight = given["style_integration.1.weight"]
        bias = "style_integration.1.bias" in given
        gate = StyleRecalibration(n_channels, reduction=_reduction(weight, config), bias=bias)
        return gate, norm | _perceptron("style_integration.1", "style_integration.3", given, (1, 3))
    gate = StyleRecalibration(n_channels, bias="style_integration.bias" in given)
    return gate, norm | _layer("excite", "style_integration", given)


def _cbam(given: Mapping[str, Tensor], config: Mapping[str, Any]) -> Built:
    weight = given["fc.0.weight"]
    gate = ConvBlockAttention(
        weight.shape[1], reduction=_reduction(weight, config), kernel_size=_kernel(given, config)
    )
    return gate, _perceptron("fc.0", "fc.2", given) | _layer("temporal", "conv", given)


def _scalars(half: str) -> tuple[str, ...]:
    return tuple(f"{half}_{letter}" for letter in ("alpha", "beta", "gamma"))


def _catlite(given: Mapping[str, Tensor], config: Mapping[str, Any]) -> Built:
    weight = given["mlp.0.weight"]
    gate = CollaborativeChannelGate(
        weight.shape[1], reduction=_reduction(weight, config), bias="mlp.0.bias" in given
    )
    gate.entropy_eps = _ENTROPY_EPS
    names: Names = {"blur": ("gauss_filter.weight",), "channel_weights": _scalars("c")}
    return gate, names | _perceptron("mlp.0", "mlp.2", given)


def _cat(given: Mapping[str, Tensor], config: Mapping[str, Any]) -> Built:
    weight = given["mlp.0.weight"]
    gate = _PublishedCollaborative(
        weight.shape[1],
        reduction=_reduction(weight, config),
        kernel_size=_kernel(given, config),
        bias="mlp.0.bias" in given,
    )
    gate.entropy_eps = _ENTROPY_EPS
    names: Names = {
        "blur": ("gauss_filter.weight",),
        "channel_weights": _scalars("c"),
        "temporal_weights": _scalars("s"),
        "balance": ("c_w", "s_w"),
    }
    return gate, names | _perceptron("mlp.0", "mlp.2", given) | _layer("temporal", "conv", given)


_ENTROPY_EPS = 1e-12  # published: none, and NaN where all entropies are equal

_BUILDERS: dict[str, Callable[[Mapping[str, Tensor], Mapping[str, Any]], Built]] = {
    "se": _se,
    "gsop": _gsop,
    "fca": _fca,
    "encnet": _encnet,
    "eca": _eca,
    "ge": _ge,
    "gct": _gct,
    "srm": _srm,
    "cbam": _cbam,
    "cat": _cat,
    "catlite": _catlite,
}


def _n_channels(config: Mapping[str, Any]) -> int:
    """Return the number of channels where no parameter tells it; 16 is the published default."""
    return int(config.get("ch_dim", 16))


def plan_reference_gate(mode: str, state_dict: Mapping[str, Tensor], config: Mapping[str, Any]) -> Built:
    """Build the module of a published block and say which of its tensors are which published ones.

    Parameters are those of `load_reference_gate`; the module has random parameters yet.

    Returns
    -------
    gate : ChannelGate
    names : dict of str to tuple of str
        For each parameter and buffer of the gate, the published names whose tensors it joins.

    Examples
    --------
    >>> plan_reference_gate("eca", {"conv.weight": torch.zeros(1, 1, 3)}, {})[1]
    {'excite.weight': ('conv.weight',)}
    """
    build = _BUILDERS[check_option("mode", mode, _BUILDERS)]
    # A configuration of the published network names every option, those it leaves alone with None.
    config = {name: value for name, value in config.items() if value is not None}
    try:
        gate, names = build(state_dict, config)
    except KeyError as error:
        raise ValueError(f"state_dict must have the parameter {error} for mode {mode!r}") from None
    if gate.n_channels != config.get("ch_dim", gate.n_channels):
        raise ValueError(
            f"config['ch_dim'] must be the {gate.n_channels} channels of state_dict, got {config['ch_dim']}"
        )
    left = set(state_dict).difference(*names.values())
    if left:
        raise ValueError(f"state_dict has parameters without a place: {', '.join(sorted(left)[:5])}")
    return gate, names


def load_reference_gate(
    mode: str, state_dict: Mapping[str, Tensor], config: Mapping[str, Any]
) -> ChannelGate:
    """Build a gate from the parameters and options of the published implementation [1]_.

    Parameters
    ----------
    mode : {"se", "gsop", "fca", "encnet", "eca", "ge", "gct", "srm", "cbam", "cat", "catlite"}
    state_dict : mapping of str to Tensor
        Parameters and buffers of the block by their published names, or by those of braindecode, which are the same.
    config : mapping
        Published options of the block (``ch_dim``, ``reduction_rate``, ``kernel_size``, ``n_codewords``,
        ``extra_params``, ``use_mlp``) or of the network around it. Options that are absent are read off the
        parameters; those of other gates are passed over.

    Returns
    -------
    ChannelGate
        In evaluation mode and in the precision of the parameters; maps (batch, channel, time) to the same shape.

    Raises
    ------
    ValueError
        If the mode is unknown, parameters are missing or left over, or do not have the sizes of ``config``.

    Notes
    -----
    These differ from the gates of `make_gate`, as published: "gsop" has no sigmoid, "encnet" takes the mean over
    codewords, the temporal half of "cat" takes its maximum over time, "fca" reads a stored, frozen filter, and the
    entropies of "cat" and "catlite" are scaled without a margin.

    References
    ----------
    .. [1] Wimpff, Gizzi, Zerfowski & Yang (2024). EEG motor imagery decoding: a framework for comparative
       analysis with channel attention mechanisms. Journal of Neural Engineering 21.

    Examples
    --------
    >>> gate = load_reference_gate("eca", {"conv.weight": torch.zeros(1, 1, 3)}, {"ch_dim": 4})
    >>> gate.gate(torch.ones(1, 4, 9)).detach()
    tensor([[0.5000, 0.5000, 0.5000, 0.5000]])
    """
    gate, names = plan_reference_gate(mode, state_dict, config)
    if names:
        gate.to(next(value.dtype for value in state_dict.values() if value.is_floating_point()))
    for ours, target in [*gate.named_parameters(), *gate.named_buffers()]:
        published = names.get(ours, (ours,))
        missing = [name for name in published if name not in state_dict]
        if missing:
            raise ValueError(
                f"state_dict must have {missing[0]!r} for mode {mode!r}, got {', '.join(state_dict)}"
            )
        value = torch.cat([state_dict[name].reshape(-1) for name in published])
        if len(published) == 1 and _sizes(state_dict[published[0]]) != _sizes(target):
            wanted, got = _sizes(target), tuple(state_dict[published[0]].shape)
            raise ValueError(
                f"state_dict[{published[0]!r}] must have the sizes {wanted} by config, got shape {got}"
            )
        with torch.no_grad():
            target.copy_(value.view_as(target))
    return gate.eval()


def _sizes(tensor: Tensor) -> list[int]:
    return [n for n in tensor.shape if n > 1]
