"""Replace the attention of a model that exists, and heal what that broke."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from neuroattn._checks import check_option, check_range, check_seed, check_shape
from neuroattn.attention.face import find_causal, masked, split_heads
from neuroattn.attention.manar import MANAR, GlobalWorkspace, place_concepts

Model = TypeVar("Model", bound=nn.Module)
Batch = Tensor | Sequence[Any] | Mapping[str, Any]

_TIMM = ("timm.layers.attention", "timm.models.vision_transformer")
_BERT = ("Bert", "Camembert", "Electra", "Roberta", "XLMRoberta")


class _TimmWorkspace(nn.Module):
    """Attention of a timm vision transformer, with a workspace instead of the softmax over tokens."""

    qkv: nn.Module
    q_norm: nn.Module
    k_norm: nn.Module
    norm: nn.Module
    gate: nn.Module | None
    proj: nn.Module
    proj_drop: nn.Module

    def __init__(self, attention: Any, **options: Any) -> None:
        super().__init__()
        self.num_heads, self.head_dim = attention.num_heads, attention.head_dim
        self.attn_dim, self.scale = attention.attn_dim, attention.scale
        self.register_module("gate", None)  # unless there is one
        for name, child in attention.named_children():
            self.add_module(name, child)
        weight = attention.qkv.weight
        self.workspace = GlobalWorkspace(
            num_heads=attention.num_heads,
            dim=weight.shape[1],
            dropout=attention.attn_drop.p,
            device=weight.device,
            dtype=weight.dtype,
            **options,
        )

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Attend, as the attention that this replaces."""
        keep, causal = _read_mask("attn_mask", attn_mask, *x.shape[:2])
        q, k, v = self._project(x)
        _, concept_k, concept_v = (part[0] for part in self._project(self.workspace.concepts[None]))
        heads = self.workspace(q, k, v, concept_k, concept_v, keep, is_causal or causal)
        out: Tensor = self.norm(heads.transpose(1, 2).flatten(2))
        if self.gate is not None:
            out = out * self.gate(x).sigmoid()
        out = self.proj_drop(self.proj(out))
        return out

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = (split_heads(part, self.num_heads) for part in self.qkv(x).chunk(3, -1))
        return self.q_norm(q), self.k_norm(k), v


class _BertWorkspace(nn.Module):
    """Self-attention of a BERT-type encoder, with a workspace instead of the softmax over tokens."""

    query: nn.Module
    key: nn.Module
    value: nn.Module

    def __init__(self, attention: Any, **options: Any) -> None:
        super().__init__()
        self.config, self.layer_idx = attention.config, attention.layer_idx
        self.num_attention_heads = attention.num_attention_heads
        self.attention_head_size, self.all_head_size = attention.attention_head_size, attention.all_head_size
        for name, child in attention.named_children():
            self.add_module(name, child)
        weight = attention.query.weight
        self.workspace = GlobalWorkspace(
            num_heads=attention.num_attention_heads,
            dim=weight.shape[1],
            dropout=attention.dropout.p,
            device=weight.device,
            dtype=weight.dtype,
            **options,
        )

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: object = None,
        **unused: Any,
    ) -> tuple[Tensor, None]:
        """Attend, as the attention that this replaces; the weights are always None."""
        if past_key_values is not None:
            raise ValueError(
                "past_key_values must be None: a workspace caches no tokens; call with use_cache=False"
            )
        keep, is_causal = _read_mask("attention_mask", attention_mask, *hidden_states.shape[:2])
        concepts = self.workspace.concepts[None]
        inputs = (hidden_states, hidden_states, hidden_states, concepts, concepts)
        layers = (self.query, self.key, self.value, self.key, self.value)
        q, k, v, concept_k, concept_v = (
            split_heads(layer(x), self.num_attention_heads) for layer, x in zip(layers, inputs, strict=True)
        )
        heads = self.workspace(q, k, v, concept_k[0], concept_v[0], keep, is_causal)
        return heads.transpose(1, 2).flatten(2), None


def _read_mask(name: str, mask: Tensor | None, n_batch: int, n_tokens: int) -> tuple[Tensor | None, bool]:
    """Return which tokens to keep, and whether the mask is causal.

    It is that of torch's ``scaled_dot_product_attention``: bool, True where visible, or additive.
    """
    if mask is None:
        return None, False
    if mask.ndim == 2:
        mask = mask[None, None]
    check_shape(name, mask, None, 1, None, n_tokens)
    hidden = (~mask if mask.dtype == torch.bool else masked(name, mask))[:, 0]
    padding = hidden.all(1)
    if (hidden == padding[:, None]).all():
        return ~padding.expand(n_batch, -1), False
    padding = hidden[:, -1]
    future = torch.ones_like(hidden).triu(1)
    causal = (hidden == (future | padding[:, None])).all()
    return ~padding.expand(n_batch, -1), find_causal(name, future if causal else hidden)


class _Kind(NamedTuple):
    """Attention of one library: how to know it, what replaces it, and the tokens it was called with."""

    name: str
    matches: Callable[[nn.Module], bool]
    convert: Callable[..., nn.Module]
    tokens: Callable[[Any, inspect.BoundArguments], tuple[Tensor, ...]]


def _is_timm(module: nn.Module) -> bool:
    return type(module).__module__ in _TIMM and type(module).__name__ == "Attention"


def _is_bert(module: nn.Module) -> bool:
    name = type(module).__name__
    known = type(module).__module__.startswith("transformers.models.")
    return known and name.removesuffix("SelfAttention") in _BERT and name.endswith("SelfAttention")


def _multihead_tokens(module: nn.MultiheadAttention, call: inspect.BoundArguments) -> tuple[Tensor, ...]:
    key, value = call.arguments["key"], call.arguments["value"]
    mask = call.arguments.get("key_padding_mask")
    if key.ndim == 3 and not module.batch_first:
        key, value = key.transpose(0, 1), value.transpose(0, 1)
    if mask is not None:
        keep = ~masked("key_padding_mask", mask)
        key, value = key[keep], value[keep]
    return key.flatten(0, -2), value.flatten(0, -2)


def _self_tokens(module: nn.Module, call: inspect.BoundArguments) -> tuple[Tensor, ...]:
    tokens, mask = list(call.signature.parameters)[:2]
    x = call.arguments[tokens]
    keep, _ = _read_mask(mask, call.arguments.get(mask), *x.shape[:2])
    return (x.flatten(0, -2) if keep is None else x[keep],)


_KINDS = (
    _Kind(
        "torch.nn.MultiheadAttention",
        lambda module: type(module) is nn.MultiheadAttention,
        MANAR.from_multihead,
        _multihead_tokens,
    ),
    _Kind("timm's Attention", _is_timm, _TimmWorkspace, _self_tokens),
    _Kind(
        "self-attention of Hugging Face's BERT, RoBERTa and Electra", _is_bert, _BertWorkspace, _self_tokens
    ),
)


def _find(model: nn.Module) -> dict[str, _Kind]:
    """Return the attention layers of a model by name."""
    found = {}
    for name, module in model.named_modules():
        for kind in _KINDS:
            if kind.matches(module):
                found[name] = kind
    if not found:
        raise ValueError(
            f"model must have attention of a kind that is known ({'; '.join(kind.name for kind in _KINDS)}), "
            f"found none in {type(model).__name__}"
        )
    return found


def _call(model: nn.Module, batch: Batch) -> Any:
    if isinstance(batch, Mapping):
        return model(**batch)
    return model(batch) if isinstance(batch, Tensor) else model(*batch)


def _first(output: Any) -> Tensor:
    """Return the first tensor of what a module returned."""
    while not isinstance(output, Tensor):
        output = next(iter(output.values() if isinstance(output, Mapping) else output))
    return output


def _detached(model: Model) -> Model:
    """Copy a model, in evaluation mode and without the nested tensors of torch's encoder, which hide the mask."""
    twin = copy.deepcopy(model).eval()
    for module in twin.modules():
        if isinstance(module, nn.TransformerEncoder):
            module.use_nested_tensor = False
    return twin


def _put(model: nn.Module, old: nn.Module, new: nn.Module) -> nn.Module:
    """Put a module in all places of another, and return the model."""
    places = [name for name, module in model.named_modules(remove_duplicate=False) if module is old]
    for name in places:
        if not name:
            return new
        model.set_submodule(name, new)
    return model


def _replacements(
    model: nn.Module,
    names: Mapping[str, _Kind],
    calibration: Batch | None,
    seed: int,
    options: dict[str, Any],
) -> dict[str, nn.Module]:
    """Make the layer that takes the place of each, with concepts among the tokens it meets."""
    tokens: dict[str, list[tuple[Tensor, ...]]] = {name: [] for name in names}
    if calibration is not None:
        handles = []
        for name, kind in names.items():

            def note(module: nn.Module, args: Any, kwargs: Any, name: str = name, kind: _Kind = kind) -> None:
                call = inspect.signature(module.forward).bind(*args, **kwargs)
                tokens[name].append(kind.tokens(module, call))

            handles.append(model.get_submodule(name).register_forward_pre_hook(note, with_kwargs=True))
        try:
            with torch.no_grad():
                _call(model, calibration)
        finally:
            for handle in handles:
                handle.remove()
    made = {}
    for name, kind in names.items():
        old = model.get_submodule(name)
        new = kind.convert(old, **options)
        if calibration is not None:
            if not tokens[name]:
                raise ValueError(f"calibration must reach all layers, {name!r} was not called")
            own = next(module for module in new.modules() if isinstance(module, GlobalWorkspace))
            met = [torch.cat(parts) for parts in zip(*tokens[name], strict=True)]
            place_concepts(own, met[0] if len(met) == 1 else (met[0], met[1]), check_seed(seed))
        made[name] = new
    return made


@torch.no_grad()
def _sweep(model: nn.Module, made: Mapping[str, nn.Module], batch: Batch) -> dict[str, float]:
    before = _first(_call(model, batch))
    change = {}
    for name, new in made.items():
        old = model.get_submodule(name)
        after = _first(_call(_put(model, old, new.eval()), batch))
        _put(model, new, old)
        change[name] = float(
            (after - before).norm() / before.norm().clamp_min(torch.finfo(before.dtype).tiny)
        )
    return change


def attention_sensitivity(
    model: nn.Module,
    calibration: Batch,
    *,
    n_concepts: int = 64,
    seed: int = 0,
    tau: float = 0.1,
    **options: Any,
) -> dict[str, float]:
    """Measure how much the output of a model changes when one attention layer after the other is converted.

    Parameters
    ----------
    model, calibration, n_concepts, seed, tau, **options
        See `convert_to_manar`; the model stays as it is.

    Returns
    -------
    dict of str to float
        Norm of the change over the norm of the output, of its first tensor, by name of the layer.

    Examples
    --------
    >>> layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    >>> model = nn.TransformerEncoder(layer, 3)
    >>> change = attention_sensitivity(model, torch.randn(4, 20, 16), n_concepts=4)
    >>> list(change), min(change.values()) > 0
    (['layers.0.self_attn', 'layers.1.self_attn', 'layers.2.self_attn'], True)
    """
    twin = _detached(model)
    made = _replacements(
        twin, _find(twin), calibration, seed, {"n_concepts": n_concepts, "tau": tau, **options}
    )
    return _sweep(twin, made, calibration)


def convert_to_manar(
    model: Model,
    calibration: Batch | None = None,
    *,
    n_concepts: int = 64,
    layers: Sequence[str] | int | None = None,
    seed: int = 0,
    tau: float = 0.1,
    **options: Any,
) -> Model:
    """Replace the attention of a model by workspace attention, which is our derivation of MANAR [1]_.

    The weights of the layers are kept, and so are the names of all parameters and what the layers take and return;
    each gets a child ``workspace`` with parameters of its own. Knows :class:`torch.nn.MultiheadAttention`, alone and in
    torch's transformers; the attention of timm's vision transformers; the self-attention of BERT, RoBERTa and Electra
    in Hugging Face's transformers.

    Parameters
    ----------
    model : Module
        Stays as it is.
    calibration : Tensor, sequence or mapping, optional
        One batch of inputs: the only argument, all positional or all keyword arguments. Each layer's concepts become
        the k-means centroids of the tokens it meets on it, masked ones left out. None leaves concepts random, which
        needs training.
    n_concepts : int, default 64
    layers : sequence of str, or int, optional
        Names of the layers to convert, or how many: those by whose conversion the output of ``calibration`` changes
        least, see `attention_sensitivity`. None converts all.
    seed : int, default 0
        Of k-means.
    tau : float, default 0.1
        Initial temperature, see `GlobalWorkspace`: nearer to the attention replaced than 1, its default.
    **options
        ``retrieve``, ``competition`` and ``kappa`` of `GlobalWorkspace`.

    Returns
    -------
    Module
        A copy. ``use_nested_tensor`` of a :class:`torch.nn.TransformerEncoder` is switched off in it.

    Raises
    ------
    ValueError
        If the model has no attention of these kinds, or ``layers`` are not among it.

    Notes
    -----
    Masks by query other than the causal one are refused when the converted model meets them. Attention weights of
    Hugging Face's models are None; `neuroattn.analyses.inspect_workspace` shows more.

    References
    ----------
    .. [1] Jahshan, Ben Ishay & Yavits (2026). MANAR. arXiv:2603.18676.

    Examples
    --------
    >>> layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    >>> model, x = nn.TransformerEncoder(layer, 2).eval(), torch.randn(4, 20, 16)
    >>> converted = convert_to_manar(model, x, n_concepts=80, tau=1e-4, kappa=0)
    >>> type(converted.layers[1].self_attn).__name__
    'MANAR'
    >>> torch.allclose(converted(x), model(x), atol=1e-3)  # a concept for each token
    True
    """
    twin = _detached(model)
    found = _find(twin)
    options = {"n_concepts": n_concepts, "tau": tau, **options}
    if isinstance(layers, int):
        check_range("layers", layers, 1, len(found))
        if calibration is None:
            raise ValueError(f"calibration must be given to choose layers={layers}, got None")
    elif layers is not None:
        found = {check_option("layers", name, found): found[name] for name in layers}
    made = _replacements(twin, found, calibration, seed, options)
    if isinstance(layers, int) and calibration is not None:
        change = _sweep(twin, made, calibration)
        made = {name: made[name] for name in sorted(change, key=change.__getitem__)[:layers]}
    converted: Any = twin
    for name, new in made.items():
        old = twin.get_submodule(name)
        converted = _put(twin, old, new)
    for name, module in model.named_modules():
        converted.get_submodule(name).training = module.training
    for name in made:
        layer = converted.get_submodule(name)
        layer.workspace.training = layer.training
    return converted  # type: ignore[no-any-return]


def distill(
    student: nn.Module, teacher: nn.Module, batches: Iterable[Batch], *, lr: float = 1e-3
) -> list[float]:
    """Heal a converted model: train its workspace layers to do what those of the original do, without labels.

    The loss of a batch is the relative squared error of the converted layers' outputs, averaged over them, plus that
    of the model's output (its first tensor). Each layer sees what the student's earlier layers made of the input.

    Parameters
    ----------
    student : Module
        From `convert_to_manar`, trained in place: the projections, concepts, pseudo-counts and temperatures of its
        converted layers, by Adam. All else stays.
    teacher : Module
        The original; stays as it is.
    batches : iterable
        Inputs, each as ``calibration`` of `convert_to_manar`; one step each.
    lr : float, default 1e-3
        Learning rate.

    Returns
    -------
    list of float
        Loss at each step.

    Raises
    ------
    ValueError
        If the student has no converted layer, ``batches`` is empty, or the loss is not finite.

    Examples
    --------
    >>> layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    >>> teacher, x = nn.TransformerEncoder(layer, 2), torch.randn(4, 20, 16)
    >>> student = convert_to_manar(teacher, x, n_concepts=8)
    >>> losses = distill(student, teacher, [x] * 20)
    >>> losses[-1] < losses[0]
    True
    """
    check_range("lr", lr, 0)
    teacher = _detached(teacher)
    own = [name for name, module in student.named_modules() if isinstance(module, GlobalWorkspace)]
    names = [name.rpartition(".")[0] for name in own]
    if not names:
        raise ValueError(f"student must have converted layers, found none in {type(student).__name__}")
    layers = [student.get_submodule(name) for name in names]
    parameters = [p for layer in layers for p in layer.parameters() if p.requires_grad]
    modes = {module: module.training for module in student.modules()}
    outputs: dict[tuple[str, str], Tensor] = {}
    handles = []
    for role, model in (("teacher", teacher), ("student", student)):
        for name in names:

            def note(
                module: nn.Module, inputs: Any, output: Any, key: tuple[str, str] = (role, name)
            ) -> None:
                outputs[key] = _first(output)

            handles.append(model.get_submodule(name).register_forward_hook(note))
    optimizer = torch.optim.Adam(parameters, lr)
    losses = []
    try:
        student.eval()
        for batch in batches:
            with torch.no_grad():
                wanted = _first(_call(teacher, batch))
            end = _error(_first(_call(student, batch)), wanted)
            inner = [_error(outputs["student", name], outputs["teacher", name]) for name in names]
            loss = end + torch.stack(inner).mean()
            losses.append(loss.item())
            if not np.isfinite(losses[-1]):
                raise ValueError(
                    f"loss must be finite, got {losses[-1]} at step {len(losses)}; lower lr={lr}"
                )
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient
            optimizer.step()
    finally:
        for handle in handles:
            handle.remove()
        for parameter in parameters:
            parameter.grad = None
        for module, training in modes.items():
            module.training = training
    if not losses:
        raise ValueError("batches must hold at least one batch, got none")
    return losses


def _error(found: Tensor, wanted: Tensor) -> Tensor:
    tiny = torch.finfo(wanted.dtype).tiny
    return (found - wanted).square().sum() / wanted.square().sum().clamp_min(tiny)
