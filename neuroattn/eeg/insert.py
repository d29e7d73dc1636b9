"""Channel attention in networks that were made without it."""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from neuroattn._checks import check_option
from neuroattn.attention.gates import Attention, make_gate

_POOLS = (nn.AvgPool1d, nn.AvgPool2d, nn.MaxPool1d, nn.MaxPool2d)
# Layers that have their channels on axis 1, whatever the network does with its axes elsewhere.
_CHANNELS_FIRST = (nn.Conv1d, nn.Conv2d, nn.BatchNorm1d, nn.BatchNorm2d)

_MAPS = "(batch, channel, time) or (batch, channel, row, column)"

Model = TypeVar("Model", bound=nn.Module)


class FeatureMapGate(nn.Module):
    """Apply a gate of signals (batch, channel, time) to feature maps with two axes behind the channels.

    The two axes are read as one, row by row, so that a channel has one factor wherever it is in the map.

    Parameters
    ----------
    gate : Module
        Maps (batch, channel, time) to the same shape.

    Examples
    --------
    >>> from neuroattn.attention import SqueezeExcite
    >>> FeatureMapGate(SqueezeExcite(16))(torch.ones(2, 16, 1, 62)).shape
    torch.Size([2, 16, 1, 62])
    """

    def __init__(self, gate: nn.Module) -> None:
        super().__init__()
        self.gate = gate

    def forward(self, x: Tensor) -> Tensor:
        """Gate a map (batch, channel, time) or (batch, channel, row, column)."""
        gated: Tensor = self.gate(x.flatten(2))
        return gated.view_as(x)


class _Call(NamedTuple):
    """What a module was given and what it returned in one forward pass."""

    module: nn.Module
    given: Any
    returned: Any


def insert_attention(
    model: Model, attention: Attention | None, *, after: str | None = None, **options: Any
) -> Model:
    """Put a channel attention into a braindecode model.

    The model is run once on zeros, in evaluation mode, to see the shapes of its feature maps. Without ``after`` the
    attention goes where BaseNet [1]_ has it: before the last pooling of a map with one time axis,
    (batch, channel, time) or (batch, channel, 1, time) in either order, that leaves more than one sample, the head
    ``final_layer`` left out. Where nothing is pooled so, it goes behind the last convolution or batch normalisation
    that returns such a map.

    Parameters
    ----------
    model : braindecode model
        With ``n_chans`` and ``n_times``; stays as it is.
    attention : str, callable, Module or None
        A name in `neuroattn.attention.GATES`, or in `neuroattn.attention.ATTENTIONS` for
        `neuroattn.attention.TokenAttention`, a factory called with the channels and samples of the map, a module
        that maps (batch, channel, time) to the same shape, or None for a mere copy.
    after : str, optional
        Path of a module as in ``model.named_modules()``; the attention scales what it returns, along axis 1.
        Needed where a network has its channels elsewhere, as behind the patches of a transformer.
    **options
        Further arguments of the attention that is named.

    Returns
    -------
    model
        A copy of the same class with the attention. Its parameters have names ending in
        ``<module>.attention.gate.*``. The module behind which, or the pooling before which, it stands is
        ``<module>.inner``; other names stay.

    Raises
    ------
    ValueError
        If ``after`` is no module of the model, is not called once, or returns no map with channels on axis 1; or if no
        place is found.
    TypeError
        If the model does not say its input shape.

    Notes
    -----
    Copying, pickling and saving the state work as before. ``get_config`` and ``from_config`` of the model do not know
    the attention; `inserted_attentions` gives what they lack. Maps with two long axes are gated
    by channel from all their samples. The gate of a trial is had from a hook:
    ``module.attention.gate.register_forward_pre_hook(lambda gate, args: gates.append(gate.gate(*args)))``.

    References
    ----------
    .. [1] Wimpff, Gizzi, Zerfowski & Yang (2024). EEG motor imagery decoding: a framework for comparative
       analysis with channel attention mechanisms. Journal of Neural Engineering 21.

    Examples
    --------
    >>> class Net(nn.Sequential):
    ...     n_chans, n_times = 3, 100
    >>> net = Net(nn.Conv1d(3, 8, 5), nn.ELU(), nn.AvgPool1d(4), nn.Flatten(), nn.LazyLinear(2))
    >>> gated = insert_attention(net, "eca", kernel_size=3)
    >>> gated(torch.zeros(5, 3, 100)).shape
    torch.Size([5, 2])
    >>> gated[2]
    Sequential(
      (attention): FeatureMapGate(
        (gate): EfficientChannelGate(
          (squeeze): _Statistics(avg)
          (excite): Conv1d(1, 1, kernel_size=(3,), stride=(1,), padding=(1,), bias=False)
        )
      )
      (inner): AvgPool1d(kernel_size=(4,), stride=(4,), padding=(0,))
    )
    """
    calls = _probe(model)
    if after is None:
        path, before = _find_place(type(model).__name__, calls)
    else:
        path, before = check_option("after", after, calls), False
    times = len(calls[path])
    if times != 1:
        raise ValueError(
            f"after must name a module that is called once in a forward pass, {path!r} is called {times} times"
        )
    call = calls[path][0]
    shape = _map_shape(call.given if before else call.returned)
    if shape is None:
        got = (
            tuple(call.returned.shape) if isinstance(call.returned, Tensor) else type(call.returned).__name__
        )
        raise ValueError(f"after must name a module that returns {_MAPS}, {path!r} returns {got}")
    gate = make_gate(attention, shape[1], shape[2:].numel(), **options)
    gated = copy.deepcopy(model)
    if gate is None:
        return gated
    inner = gated.get_submodule(path)
    attached = FeatureMapGate(gate).to(call.returned).train(model.training)
    parts = OrderedDict(attention=attached, inner=inner)
    if not before:
        parts.move_to_end("attention")
    gated.set_submodule(path, nn.Sequential(parts))
    request = {"attention": attention, "after": after, **options}
    gated._inserted = [*getattr(model, "_inserted", []), request]  # type: ignore[assignment]
    return gated


def inserted_attentions(model: nn.Module) -> list[dict[str, Any]]:
    """Return the attentions put into a model, as arguments of `insert_attention` that can be written to JSON.

    Together with the model's own configuration they rebuild it, weights aside: put them in one after another, in
    their order.

    Parameters
    ----------
    model : Module
        Made by `insert_attention`, or any other: then nothing was put in.

    Returns
    -------
    list of dict

    Raises
    ------
    TypeError
        If an attention was given as a module or a factory, which has no name.

    Examples
    --------
    >>> from braindecode.models import ShallowFBCSPNet
    >>> model = ShallowFBCSPNet(n_chans=3, n_outputs=2, n_times=500, sfreq=250)
    >>> gated = insert_attention(model, "eca", kernel_size=3)
    >>> inserted_attentions(gated)
    [{'attention': 'eca', 'after': None, 'kernel_size': 3}]
    >>> again = ShallowFBCSPNet.from_config(gated.get_config())
    >>> for arguments in inserted_attentions(gated):
    ...     again = insert_attention(again, **arguments)
    >>> again.load_state_dict(gated.state_dict())
    <All keys matched successfully>
    """
    found: list[dict[str, Any]] = [dict(one) for one in getattr(model, "_inserted", [])]
    for one in found:
        if not isinstance(one["attention"], str):
            raise TypeError(
                f"model must hold attentions given by name, got a {type(one['attention']).__name__}"
            )
    return found


def _probe(model: nn.Module) -> dict[str, list[_Call]]:
    """Run a copy of the model on zeros and return the calls of each module but the model itself, in order."""
    if not (hasattr(model, "n_chans") and hasattr(model, "n_times")):
        raise TypeError(
            f"model must have n_chans and n_times, as braindecode models do, got a {type(model).__name__}"
        )
    probed = copy.deepcopy(model).eval()
    calls: dict[str, list[_Call]] = {}
    for name, module in probed.named_modules():
        if name:
            calls[name] = []

            def record(module: nn.Module, args: Any, out: Any, name: str = name) -> None:
                calls[name].append(_Call(module, args[0] if args else None, out))
                calls[name] = calls.pop(name)  # order of the calls

            module.register_forward_hook(record)
    weight = next(probed.parameters())
    with torch.no_grad():
        probed(weight.new_zeros(2, int(model.n_chans), int(model.n_times)))  # type: ignore[arg-type]
    return calls


def _map_shape(x: Any) -> torch.Size | None:
    return x.shape if isinstance(x, Tensor) and x.ndim in (3, 4) and x.is_floating_point() else None


def _n_times(x: Any) -> int:
    """Return the samples of a map with one time axis; 0 of anything else."""
    shape = _map_shape(x)
    return 0 if shape is None or (len(shape) == 4 and 1 not in shape[2:]) else shape[2:].numel()


def _find_place(model: str, calls: dict[str, list[_Call]]) -> tuple[str, bool]:
    """Return the path of a module and whether the attention goes before it."""
    once = [
        (name, made[0])
        for name, made in reversed(calls.items())
        if len(made) == 1 and "final_layer" not in name.split(".")
    ]
    for name, call in once:
        if isinstance(call.module, _POOLS) and 1 < _n_times(call.returned) < _n_times(call.given):
            return name, True
    for name, call in once:
        if isinstance(call.module, _CHANNELS_FIRST) and _n_times(call.returned) > 1:
            return name, False
    raise ValueError(
        f"after must be given for {model}: no feature map with channels on axis 1 and one time axis was found"
    )
