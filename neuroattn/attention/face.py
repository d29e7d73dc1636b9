"""The face that attention layers share: constructor and call of torch's multi-head attention."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neuroattn._checks import check_shape

PATTERNS = ("self", "cross", "causal self", "causal cross")


class Call(NamedTuple):
    """A checked call of an attention layer, batch first.

    Attributes
    ----------
    query : Tensor, shape (batch, query, embed_dim)
    key, value : Tensor, shape (batch, token, kdim) and (batch, token, vdim)
        Masked tokens are zeros.
    keep : bool Tensor, shape (batch, token), or None
        False where a token is masked.
    is_self : bool
        Whether queries and tokens are the same.
    is_causal : bool
    """

    query: Tensor
    key: Tensor
    value: Tensor
    keep: Tensor | None
    is_self: bool
    is_causal: bool

    @property
    def last(self) -> Tensor:
        """Last token that each query may see, shape (query,)."""
        n_queries, n_tokens = self.query.shape[1], self.key.shape[1]
        if not self.is_causal:
            return torch.full((n_queries,), n_tokens - 1, device=self.key.device)
        return torch.arange(n_queries, device=self.key.device).clamp_max(n_tokens - 1)

    @property
    def n_visible(self) -> Tensor:
        """Tokens that each query sees, shape (batch or 1, query)."""
        if self.keep is None:
            return self.last[None] + 1
        return self.keep.cumsum(-1)[:, self.last]


class AttentionLayer(nn.Module):
    """Give a mechanism of attention the constructor and the call of :class:`torch.nn.MultiheadAttention`.

    Every member of `ATTENTIONS` is one. Arguments, parameter names and results are those of torch's layer, with these
    differences: what a masked token holds never matters, not even NaN; a query that sees no token reads zeros, not NaN,
    before the output projection; dropout, biases appended to the keys and masks by pair are left out; layers whose
    outputs are no weighted sum of the tokens' values return None for weights.

    Parameters
    ----------
    embed_dim, num_heads : int
        Channels, and heads that they are split into.
    bias : bool, default True
        Whether the projections have one.
    kdim, vdim : int, optional
        Channels of ``key`` and ``value``; None means ``embed_dim``.
    batch_first : bool, default False
        Whether tensors are (batch, token, channel) rather than (token, batch, channel).
    device, dtype
        Of the parameters.

    Attributes
    ----------
    patterns : tuple of str
        Which of "self", "cross", "causal self" and "causal cross" the mechanism supports; others are refused. It is
        self-attention if ``key`` is ``query``, the same object.
    equivariant : bool
        Whether the order of tokens does not matter: without a causal mask, the outputs of permuted tokens are the
        permuted outputs.
    linear : bool
        Whether operations are linear in the number of tokens where no weights are asked for.
    has_weights : bool
        Whether there are weights of the tokens to return.

    Raises
    ------
    ValueError
        If ``num_heads`` does not divide ``embed_dim``.

    Examples
    --------
    >>> from neuroattn.attention import make_attention
    >>> layer = make_attention("agent", 16, num_heads=2, batch_first=True)
    >>> layer.patterns, layer.linear
    (('self', 'cross'), True)
    >>> x = torch.zeros(3, 10, 16)
    >>> layer(x, x, x, is_causal=True)
    Traceback (most recent call last):
    ValueError: AgentAttention supports 'self', 'cross', got 'causal self' attention
    """

    patterns: ClassVar[tuple[str, ...]] = PATTERNS
    equivariant: ClassVar[bool] = True
    linear: ClassVar[bool] = False
    has_weights: ClassVar[bool] = True
    _parts: ClassVar[str] = "qkv"  # which of queries, keys and values are projected

    in_proj_weight: nn.Parameter | None
    q_proj_weight: nn.Parameter | None
    k_proj_weight: nn.Parameter | None
    v_proj_weight: nn.Parameter | None
    in_proj_bias: nn.Parameter | None

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        *,
        bias: bool = True,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if num_heads < 1 or embed_dim < 1 or embed_dim % num_heads:
            raise ValueError(f"num_heads must divide embed_dim {embed_dim}, got {num_heads}")
        kind: Any = {"device": device, "dtype": dtype}
        self.embed_dim, self.num_heads, self.batch_first = embed_dim, num_heads, batch_first
        self.kdim = embed_dim if kdim is None else kdim
        self.vdim = embed_dim if vdim is None else vdim
        # False keeps torch's transformer layers from their fused path, which would attend by softmax.
        self._qkv_same_embed_dim = False
        together = self.kdim == self.vdim == embed_dim
        height = len(self._parts) * embed_dim
        shapes = {"in_proj_weight": (height, embed_dim) if together else None}
        for part, width in zip("qkv", (embed_dim, self.kdim, self.vdim), strict=True):
            own = part in self._parts and not together
            shapes[f"{part}_proj_weight"] = (embed_dim, width) if own else None
        for name, shape in shapes.items():
            weight = None if shape is None else nn.Parameter(torch.empty(*shape, **kind))
            if weight is not None:
                nn.init.xavier_uniform_(weight)
            self.register_parameter(name, weight)
        self.register_parameter("in_proj_bias", nn.Parameter(torch.zeros(height, **kind)) if bias else None)
        self.out_proj = nn.Linear(embed_dim, embed_dim, bias=bias, **kind)
        if bias:
            nn.init.zeros_(self.out_proj.bias)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend.

        Parameters
        ----------
        query : Tensor, shape (query, batch, embed_dim)
            With ``batch_first`` (batch, query, embed_dim); without a batch (query, embed_dim).
        key, value : Tensor, shape (token, batch, kdim) and (token, batch, vdim), alike
        key_padding_mask : Tensor, shape (batch, token), optional
            Bool with True, or floating with minus infinity, where a token is ignored.
        need_weights : bool, default True
            Whether to return the weights of the tokens, at a price quadratic in tokens.
        attn_mask : Tensor, shape (query, token) or (batch * head, query, token), optional
            The causal mask, bool or additive, or one that masks nothing; others are refused. Looked at only without
            ``is_causal``.
        average_attn_weights : bool, default True
            Whether to return the mean of the weights over heads.
        is_causal : bool, default False
            Query i sees tokens 0..i; ``attn_mask`` need not be given then.

        Returns
        -------
        out : Tensor, shape of ``query``
        weights : Tensor, shape (batch, query, token) or (batch, head, query, token), or None
        """
        call = self._check_call(query, key, value, key_padding_mask, attn_mask, is_causal)
        heads, weights = self._attend(call, need_weights)
        if call.keep is not None:
            blind = (call.n_visible == 0)[:, None, :, None]
            heads = heads.masked_fill(blind, 0)
            weights = None if weights is None else weights.masked_fill(blind, 0)
        out: Tensor = self.out_proj(heads.transpose(1, 2).flatten(2))
        if weights is not None and average_attn_weights:
            weights = weights.mean(1)
        if query.ndim == 2:
            return out[0], None if weights is None else weights[0]
        return out if self.batch_first else out.transpose(0, 1), weights

    def _attend(self, call: Call, need_weights: bool) -> tuple[Tensor, Tensor | None]:
        """Return what each head reads, (batch, head, query, feature), and weights (batch, head, query, token)."""
        raise NotImplementedError

    def _check_call(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None,
        attn_mask: Tensor | None,
        is_causal: bool,
    ) -> Call:
        is_self = key is query
        if query.ndim == 2:
            query, key, value = query[None], key[None], value[None]
            key_padding_mask = None if key_padding_mask is None else key_padding_mask[None]
        elif not self.batch_first:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        n_batch, n_queries, _ = check_shape("query", query, "batch", "query", self.embed_dim)
        n_tokens = check_shape("key", key, n_batch, "token", self.kdim)[1]
        check_shape("value", value, n_batch, n_tokens, self.vdim)
        keep = None
        if key_padding_mask is not None:
            check_shape("key_padding_mask", key_padding_mask, n_batch, n_tokens)
            keep = ~masked("key_padding_mask", key_padding_mask)
            key, value = (torch.where(keep[..., None], x, 0) for x in (key, value))
        if attn_mask is not None:
            lead = () if attn_mask.ndim == 2 else (n_batch * self.num_heads,)
            check_shape("attn_mask", attn_mask, *lead, n_queries, n_tokens)
            is_causal = is_causal or find_causal("attn_mask", masked("attn_mask", attn_mask))
        pattern = ("causal " if is_causal else "") + ("self" if is_self else "cross")
        if pattern not in self.patterns:
            supported = ", ".join(map(repr, self.patterns))
            raise ValueError(f"{type(self).__name__} supports {supported}, got {pattern!r} attention")
        return Call(query, key, value, keep, is_self, is_causal)

    def _weight(self, part: str) -> tuple[Tensor, Tensor | None]:
        """Return weight and bias of a projection: "q", "k" or "v"."""
        own = slice(self._parts.index(part) * self.embed_dim, (self._parts.index(part) + 1) * self.embed_dim)
        weight = (
            getattr(self, f"{part}_proj_weight") if self.in_proj_weight is None else self.in_proj_weight[own]
        )
        return weight, None if self.in_proj_bias is None else self.in_proj_bias[own]

    def _project(self, part: str, x: Tensor) -> Tensor:
        """Project (batch, token, channel) to queries, keys or values by head, (batch, head, token, feature)."""
        return split_heads(F.linear(x, *self._weight(part)), self.num_heads)

    def _qkv(self, call: Call) -> tuple[Tensor, Tensor, Tensor]:
        """Project the queries, keys and values of a call."""
        return self._project("q", call.query), self._project("k", call.key), self._project("v", call.value)


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """Bring (batch, token, head x feature) to (batch, head, token, feature)."""
    return x.reshape(*x.shape[:2], num_heads, -1).transpose(1, 2)


def masked(name: str, mask: Tensor) -> Tensor:
    """Return as bool, True where masked, what is bool so or floating with 0 and minus infinity."""
    if mask.dtype == torch.bool:
        return mask
    if not mask.is_floating_point():
        raise TypeError(f"{name} must be bool or floating, got {mask.dtype}")
    hidden = mask <= torch.finfo(mask.dtype).min
    other = ~hidden & (mask != 0)
    if other.any():
        raise ValueError(
            f"{name} must hold 0 and minus infinity only, got {mask[other][0].item():g}: a token is seen or not"
        )
    return hidden


def find_causal(name: str, hidden: Tensor) -> bool:
    """Say whether a mask (..., query, token), True where masked, is the causal one; others must mask nothing."""
    if not hidden.any():
        return False
    if (hidden == torch.ones_like(hidden).triu(1)).all():
        return True
    raise ValueError(
        f"{name} must be causal or mask nothing, got another of shape {tuple(hidden.shape)}: the layer may mix tokens"
        " before it is known which query reads; mask tokens for all queries"
    )
