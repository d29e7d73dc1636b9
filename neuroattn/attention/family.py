"""Relatives of multi-head attention to compare with it, and controls, all with one face."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neuroattn._checks import check_option, check_range
from neuroattn.attention.face import AttentionLayer, Call, split_heads
from neuroattn.attention.manar import MANAR
from neuroattn.attention.positional import sine_position
from neuroattn.kernels import attention

_CHUNK = 64  # tokens of a causal block


class SoftmaxAttention(AttentionLayer):
    """Attend by the softmax of scaled products: multi-head attention itself [1]_.

    Same numbers as :class:`torch.nn.MultiheadAttention` without dropout, whose state it loads.

    Parameters
    ----------
    embed_dim, num_heads, **face
        See `AttentionLayer`.

    References
    ----------
    .. [1] Vaswani et al. (2017). Attention is all you need. NeurIPS.

    Examples
    --------
    >>> mha = nn.MultiheadAttention(16, 2, batch_first=True)
    >>> layer = SoftmaxAttention(16, 2, batch_first=True)
    >>> layer.load_state_dict(mha.state_dict())
    <All keys matched successfully>
    >>> x = torch.arange(80.0).sin().view(1, 5, 16)
    >>> torch.allclose(layer(x, x, x)[0], mha(x, x, x)[0], atol=1e-6)
    True
    """

    def _attend(self, call: Call, need_weights: bool) -> tuple[Tensor, Tensor | None]:
        return self._read(call, need_weights)

    def _read(self, call: Call, need_weights: bool, **options: Any) -> tuple[Tensor, Tensor | None]:
        return _read(*self._qkv(call), call, need_weights, **options)


class AffineAttention(SoftmaxAttention):
    """Scale and shift the weights of multi-head attention by what the query holds, after affine-scaled attention [1]_.

    Query i of a head reads ``alpha_i`` times the softmax-weighted mean of the values plus ``beta_i`` times their plain
    mean. Rows of weights sum to ``alpha_i + beta_i`` and need not be positive.

    Parameters
    ----------
    embed_dim, num_heads, **face
        See `AttentionLayer`.

    Attributes
    ----------
    affine : Linear
        From a query to scale and shift for each head. It starts at 0, where alpha is 1, beta is 0 and the layer is
        multi-head attention.

    Notes
    -----
    How the paper makes scale and shift is not known to us beyond its abstract: both depend on the input and act on the
    weights of the softmax. Ours are ``alpha = 2 sigmoid(affine)``, between 0 and 2, and a shift divided by the number
    of visible tokens, so that its effect does not grow with their number.

    References
    ----------
    .. [1] Bae et al. (2026). Affine-scaled attention: towards flexible and stable transformer attention.
       arXiv:2602.23057.

    Examples
    --------
    >>> layer = AffineAttention(16, 2, batch_first=True)
    >>> x = torch.arange(80.0).sin().view(1, 5, 16)
    >>> layer(x, x, x)[1].sum(-1).detach().round(decimals=3)  # as it starts
    tensor([[1., 1., 1., 1., 1.]])
    """

    def __init__(self, embed_dim: int, num_heads: int, **face: Any) -> None:
        super().__init__(embed_dim, num_heads, **face)
        self.affine = nn.Linear(embed_dim, 2 * num_heads, **_kind(face))
        nn.init.zeros_(self.affine.weight)
        nn.init.zeros_(self.affine.bias)

    def _attend(self, call: Call, need_weights: bool) -> tuple[Tensor, Tensor | None]:
        scale, shift = self.affine(call.query).mT.chunk(2, 1)
        alpha, beta = 2 * scale.sigmoid(), shift / call.n_visible[:, None].clamp_min(1)
        return self._read(call, need_weights, affine=(alpha, beta))


class GatedHeadsAttention(SoftmaxAttention):
    """Weigh the heads of multi-head attention by what the query holds: mixture-of-head attention [1]_.

    Some heads are shared by all queries; of the others a query takes the few that its router prefers. With routers
    ``r`` over heads and ``b`` over the two groups, all linear in the query, the output of a head is multiplied by::

        b_1 softmax(r_shared)_h     of a shared head
        b_2 softmax(r_routed)_h     of a routed head among the n_active best; 0 of another

    Parameters
    ----------
    embed_dim, num_heads
        See `AttentionLayer`.
    n_shared : int, optional
        Heads that all queries use, at least one. None means half of the heads, rounded up.
    n_active : int, optional
        Routed heads that a query uses. None means half of them, rounded up.
    **face
        See `AttentionLayer`.

    Notes
    -----
    The gates are multiplied by the number of heads, so that equal gates leave multi-head attention as it is. No
    operation is saved by a closed gate, and the paper's loss that balances the load of the heads is left out. The
    weights that are returned are those of the heads before their gates.

    References
    ----------
    .. [1] Jin et al. (2025). MoH: multi-head attention as mixture-of-head attention. ICML. arXiv:2410.11842.

    Examples
    --------
    >>> layer = GatedHeadsAttention(16, 4, batch_first=True)
    >>> gates = layer.gates(torch.zeros(1, 5, 16))
    >>> gates.shape, (gates > 0).sum(1)  # two shared heads and one of the others
    (torch.Size([1, 4, 5]), tensor([[3, 3, 3, 3, 3]]))
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        *,
        n_shared: int | None = None,
        n_active: int | None = None,
        **face: Any,
    ) -> None:
        super().__init__(embed_dim, num_heads, **face)
        self.n_shared = (num_heads + 1) // 2 if n_shared is None else n_shared
        check_range("n_shared", self.n_shared, 1, num_heads)
        n_routed = num_heads - self.n_shared
        self.n_active = (n_routed + 1) // 2 if n_active is None else n_active
        check_range("n_active", self.n_active, 0, n_routed)
        self.router = nn.Linear(embed_dim, num_heads, bias=False, **_kind(face))
        self.balance = nn.Linear(embed_dim, 2, bias=False, **_kind(face))

    def gates(self, query: Tensor) -> Tensor:
        """Return the factor of each head's output, shape (batch, head, query), of queries (batch, query, embed_dim)."""
        shared, routed = self.router(query).tensor_split([self.n_shared], -1)
        best = routed.topk(self.n_active, -1).indices
        active = torch.zeros_like(routed).scatter(-1, best, 1)
        balance = self.balance(query).softmax(-1)
        groups = (balance[..., :1] * shared.softmax(-1), balance[..., 1:] * active * routed.softmax(-1))
        return self.num_heads * torch.cat(groups, -1).mT

    def _attend(self, call: Call, need_weights: bool) -> tuple[Tensor, Tensor | None]:
        return self._read(call, need_weights, head_gate=self.gates(call.query))


class _Bottleneck(AttentionLayer):
    """Let a few learned points query the tokens, and the queries the points."""

    patterns = ("self", "cross")
    linear = True
    has_weights = False

    def __init__(self, embed_dim: int, num_heads: int, n_points: int, **face: Any) -> None:
        super().__init__(embed_dim, num_heads, **face)
        kind = _kind(face)
        self.points = nn.Parameter(torch.randn(n_points, embed_dim, **kind))
        self.point_query = nn.Linear(embed_dim, embed_dim, **kind)
        self.point_out = nn.Linear(embed_dim, embed_dim, **kind)
        self.point_key_value = nn.Linear(embed_dim, 2 * embed_dim, **kind)

    def _attend(self, call: Call, need_weights: bool) -> tuple[Tensor, Tensor | None]:
        query = split_heads(self.point_query(self._norm(self.points[None])), self.num_heads)
        k, v = self._project("k", call.key), self._project("v", call.value)
        read = attention(query, k, v, key_mask=call.keep).out
        points = self._process(self.points + self.point_out(read.transpose(1, 2).flatten(2)))
        k, v = (split_heads(x, self.num_heads) for x in self.point_key_value(points).chunk(2, -1))
        return attention(self._project("q", call.query), k, v).out, None

    def _norm(self, points: Tensor) -> Tensor:
        """Return what of the points queries the tokens."""
        raise NotImplementedError

    def _process(self, points: Tensor) -> Tensor:
        """Return what the queries read, from points that have read the tokens."""
        raise NotImplementedError


class LatentAttention(_Bottleneck):
    """Attend through latents that read the tokens, exchange what they read, and are read, as in Perceiver IO [1]_ [2]_.

    Parameters
    ----------
    embed_dim, num_heads
        See `AttentionLayer`.
    n_latents : int, default 64
    **face
        See `AttentionLayer`.

    Notes
    -----
    The parts of a Perceiver IO at their smallest, made a layer: one cross-attention from tokens to latents, one
    transformer layer over latents, one cross-attention to the queries. The residual connection and the perceptron
    after the last, and the normalisation of tokens, are left to the network around. A Perceiver's depth is in its
    latents; as a layer of a deeper network ours has one step.

    References
    ----------
    .. [1] Jaegle et al. (2021). Perceiver: general perception with iterative attention. ICML.
    .. [2] Jaegle et al. (2022). Perceiver IO: a general architecture for structured inputs and outputs. ICLR.

    Examples
    --------
    >>> layer = LatentAttention(16, 2, n_latents=8, batch_first=True)
    >>> out, weights = layer(torch.zeros(3, 5, 16), *[torch.zeros(3, 100, 16)] * 2)
    >>> out.shape, weights
    (torch.Size([3, 5, 16]), None)
    """

    def __init__(self, embed_dim: int, num_heads: int, *, n_latents: int = 64, **face: Any) -> None:
        check_range("n_latents", n_latents, 1)
        super().__init__(embed_dim, num_heads, n_latents, **face)
        kind = _kind(face)
        self.norm_read = nn.LayerNorm(embed_dim, **kind)
        self.norm_exchange = nn.LayerNorm(embed_dim, **kind)
        self.exchange = SoftmaxAttention(embed_dim, num_heads, batch_first=True, **kind)
        self.norm_perceptron = nn.LayerNorm(embed_dim, **kind)
        self.perceptron = nn.Sequential(
            nn.Linear(embed_dim, embed_dim, **kind), nn.GELU(), nn.Linear(embed_dim, embed_dim, **kind)
        )
        self.norm_out = nn.LayerNorm(embed_dim, **kind)

    def _norm(self, points: Tensor) -> Tensor:
        normed: Tensor = self.norm_read(points)
        return normed

    def _process(self, points: Tensor) -> Tensor:
        normed = self.norm_exchange(points)
        points = points + self.exchange(normed, normed, normed, need_weights=False)[0]
        points = points + self.perceptron(self.norm_perceptron(points))
        out: Tensor = self.norm_out(points)
        return out


class InducedSetAttention(_Bottleneck):
    """Attend through learned inducing points: the induced set attention block of the Set Transformer [1]_.

    Parameters
    ----------
    embed_dim, num_heads
        See `AttentionLayer`.
    n_points : int, default 64
    **face
        See `AttentionLayer`.

    Notes
    -----
    The first multi-head attention block, from tokens to points, is the paper's, with its residual connections,
    normalisation and perceptron. Of the second, from points to queries, only the attention is here: the rest is what
    the network around an attention layer has.

    References
    ----------
    .. [1] Lee et al. (2019). Set Transformer: a framework for attention-based permutation-invariant neural networks.
       ICML.

    Examples
    --------
    >>> layer = InducedSetAttention(16, 2, n_points=8, batch_first=True)
    >>> x = torch.zeros(3, 100, 16)
    >>> layer(x, x, x)[0].shape
    torch.Size([3, 100, 16])
    """

    def __init__(self, embed_dim: int, num_heads: int, *, n_points: int = 64, **face: Any) -> None:
        check_range("n_points", n_points, 1)
        super().__init__(embed_dim, num_heads, n_points, **face)
        kind = _kind(face)
        self.norm_attention = nn.LayerNorm(embed_dim, **kind)
        self.perceptron = nn.Linear(embed_dim, embed_dim, **kind)
        self.norm_perceptron = nn.LayerNorm(embed_dim, **kind)

    def _norm(self, points: Tensor) -> Tensor:
        return points

    def _process(self, points: Tensor) -> Tensor:
        points = self.norm_attention(points)
        out: Tensor = self.norm_perceptron(points + self.perceptron(points).relu())
        return out


class AgentAttention(AttentionLayer):
    """Attend through agents, which are averages of queries: agent attention [1]_.

    Agents attend to the tokens, and queries to the agents, whose keys the agents are themselves. Agent j is the mean
    of the j-th segment of the queries.

    Parameters
    ----------
    embed_dim, num_heads
        See `AttentionLayer`.
    n_agents : int, default 64
        Fewer queries than this make as many agents as there are queries.
    **face
        See `AttentionLayer`.

    Notes
    -----
    Segments are runs of the sequence where the paper pools an image. Its position biases and its convolution of the
    values, which need an image too, are left out. In self-attention masked tokens are in no agent.

    References
    ----------
    .. [1] Han et al. (2024). Agent attention: on the integration of softmax and linear attention. ECCV.

    Examples
    --------
    >>> layer = AgentAttention(16, 2, n_agents=8, batch_first=True)
    >>> x = torch.zeros(3, 100, 16)
    >>> layer(x, x, x)[0].shape
    torch.Size([3, 100, 16])
    """

    patterns = ("self", "cross")
    equivariant = False
    linear = True

    def __init__(self, embed_dim: int, num_heads: int, *, n_agents: int = 64, **face: Any) -> None:
        super().__init__(embed_dim, num_heads, **face)
        check_range("n_agents", n_agents, 1)
        self.n_agents = n_agents

    def _attend(self, call: Call, need_weights: bool) -> tuple[Tensor, Tensor | None]:
        q, k, v = self._qkv(call)
        agents, alive = self._pool(q, call.keep if call.is_self else None)
        kind = "heads" if need_weights else "none"
        read = attention(agents, k, v, key_mask=call.keep, map=kind)
        out = attention(q, agents, read.out, key_mask=alive, map=kind)
        return out.out, None if out.map is None or read.map is None else out.map @ read.map

    def _pool(self, q: Tensor, keep: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return agents (batch, head, agent, feature), and which have a token, (batch, agent)."""
        n_agents = min(self.n_agents, q.shape[2])

        def mean(x: Tensor) -> Tensor:
            """Average segments of the last axis."""
            return F.adaptive_avg_pool1d(x.flatten(1, -2), n_agents).view(*x.shape[:-1], n_agents)

        if keep is None:
            return mean(q.mT).mT, None
        share = mean(keep[:, None].to(q.dtype))  # of each segment that is kept, (batch, 1, agent)
        kept = torch.where(keep[:, None, :, None], q, 0)
        agents = mean(kept.mT) / torch.where(share > 0, share, 1)[:, None]
        return agents.mT, share[:, 0] > 0


class InLineAttention(AttentionLayer):
    """Attend by products instead of their softmax, with rows that sum to 1: injective linear attention [1]_.

    The weight of token j for query i is ``(1 + s_ij - mean_j s_ij) / n`` with ``s_ij = q_i . k_j / sqrt d`` and n
    visible tokens. Subtracting the mean, where older linear attention divides by the sum, gives different weights to
    different queries. Weights may be negative: what is read may lie outside the convex hull of the values.

    Parameters
    ----------
    embed_dim, num_heads, **face
        See `AttentionLayer`.

    Notes
    -----
    The paper's form with the identity as feature map. Dividing products by ``n sqrt d`` is ours: the size of what is
    read does not depend on the number of tokens then, and the weights are those of softmax attention to first order in
    the products. The paper's residual of local attention is left out. Causal attention keeps running sums.

    References
    ----------
    .. [1] Han et al. (2024). Bridging the divide: reconsidering softmax and linear attention. NeurIPS.

    Examples
    --------
    >>> layer = InLineAttention(16, 2, batch_first=True)
    >>> x = torch.arange(80.0).sin().view(1, 5, 16)
    >>> out, weights = layer(x, x, x)
    >>> torch.allclose(weights.sum(-1), torch.ones(1, 5))
    True
    """

    linear = True

    def _attend(self, call: Call, need_weights: bool) -> tuple[Tensor, Tensor | None]:
        q, k, v = self._qkv(call)
        dtype, accumulator = v.dtype, torch.promote_types(v.dtype, torch.float32)
        with torch.autocast(v.device.type, enabled=False):
            q, k, v = q.to(accumulator) / q.shape[-1] ** 0.5, k.to(accumulator), v.to(accumulator)
            if call.keep is not None:
                k, v = (torch.where(call.keep[:, None, :, None], x, 0) for x in (k, v))
            count = call.n_visible[:, None, :, None].clamp_min(1).to(accumulator)
            if call.is_causal:
                products, sum_k, sum_v = _sum_causally(q, k, v)
            else:
                products = q @ (k.mT @ v)
                sum_k, sum_v = k.sum(2, keepdim=True), v.sum(2, keepdim=True)
            mean = (q * sum_k).sum(-1, keepdim=True) / count
            out = (products + (1 - mean) * sum_v) / count
            weights = None
            if need_weights:
                weights = (1 + q @ k.mT - mean) / count
                if call.keep is not None:
                    weights = weights * call.keep[:, None, None]
                weights = weights.tril() if call.is_causal else weights
        return out.to(dtype), weights


def _sum_causally(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return, for query i and the tokens j up to it, the sums of (q_i . k_j) v_j, of k_j and of v_j.

    Earlier chunks of tokens enter by the sum of their outer products, a query's own chunk by a masked product.
    """
    n_queries = q.shape[2]
    length = -(-n_queries // _CHUNK) * _CHUNK
    k, v = (x[:, :, :n_queries] for x in (k, v))
    q, k, v = (torch.unflatten(F.pad(x, (0, 0, 0, length - x.shape[2])), 2, (-1, _CHUNK)) for x in (q, k, v))
    state = F.pad((k.mT @ v).cumsum(2)[:, :, :-1], (0, 0, 0, 0, 1, 0))
    products, k, v = (x.flatten(2, 3)[:, :, :n_queries] for x in (q @ state + (q @ k.mT).tril() @ v, k, v))
    return products, k.cumsum(2), v.cumsum(2)


class HiLoAttention(AttentionLayer):
    """Split the heads by spatial frequency: some attend within windows, the others to averages of windows [1]_.

    Parameters
    ----------
    embed_dim, num_heads
        See `AttentionLayer`.
    alpha : float, default 0.5
        Share of the heads, the last ones, that attend to averages (low frequencies); rounded to whole heads.
    window : int, default 4
        Tokens of a window. The last window may be shorter.
    **face
        See `AttentionLayer`.

    Notes
    -----
    Windows are runs of the sequence where the paper has squares of an image: lay the tokens of a square side by side
    for those. Projections are linear, so keys and values are averaged after them instead of before. The average of a
    window leaves masked tokens out.

    References
    ----------
    .. [1] Pan, Cai & Zhuang (2022). Fast vision transformers with HiLo attention. NeurIPS.

    Examples
    --------
    >>> layer = HiLoAttention(16, 2, window=2, batch_first=True)
    >>> x = torch.zeros(1, 4, 16)
    >>> layer(x, x, x, average_attn_weights=False)[1][0, :, 0].detach()  # of the first token, high and low
    tensor([[0.5000, 0.5000, 0.0000, 0.0000],
            [0.2500, 0.2500, 0.2500, 0.2500]])
    """

    patterns = ("self",)
    equivariant = False

    def __init__(
        self, embed_dim: int, num_heads: int, *, alpha: float = 0.5, window: int = 4, **face: Any
    ) -> None:
        super().__init__(embed_dim, num_heads, **face)
        check_range("alpha", alpha, 0, 1)
        check_range("window", window, 1)
        self.n_high = num_heads - round(alpha * num_heads)
        self.window = window

    def _attend(self, call: Call, need_weights: bool) -> tuple[Tensor, Tensor | None]:
        q, k, v = self._qkv(call)
        keep = call.keep
        if keep is None:
            keep = torch.ones(call.key.shape[:2], dtype=torch.bool, device=k.device)
        keep = _cut(keep[:, None, :, None], self.window)[:, 0, ..., 0]  # (batch, window, token)
        n = self.n_high
        groups = []  # operators want one head at least
        if n:
            groups.append(_attend_within(q[:, :n], k[:, :n], v[:, :n], keep, need_weights))
        if n < self.num_heads:
            groups.append(_attend_to_averages(q[:, n:], k[:, n:], v[:, n:], keep, need_weights))
        outs, maps = zip(*groups, strict=True)
        return torch.cat(outs, 1), torch.cat(maps, 1) if need_weights else None


def _cut(x: Tensor, window: int) -> Tensor:
    """Cut (batch, head, token, feature) to windows, (batch, head, window, token, feature), the last filled with 0."""
    return torch.unflatten(F.pad(x, (0, 0, 0, -x.shape[2] % window)), 2, (-1, window))


def _attend_within(
    q: Tensor, k: Tensor, v: Tensor, keep: Tensor, need_weights: bool
) -> tuple[Tensor, Tensor | None]:
    """Attend within the windows whose visible tokens ``keep`` holds, (batch, window, token)."""
    n_tokens = q.shape[2]
    # Windows go to the batch axis, and come back.
    windows = (_cut(x, keep.shape[2]).transpose(1, 2).flatten(0, 1) for x in (q, k, v))
    read = attention(*windows, key_mask=keep.flatten(0, 1), map="heads" if need_weights else "none")
    out = torch.unflatten(read.out, 0, keep.shape[:2]).transpose(1, 2).flatten(2, 3)[:, :, :n_tokens]
    if read.map is None:
        return out, None
    weights = torch.unflatten(read.map, 0, keep.shape[:2]).transpose(1, 2)
    own = torch.eye(keep.shape[1], dtype=weights.dtype, device=weights.device)
    # Tokens t of window u for queries q of window w; 0 between windows.
    weights = torch.einsum("bhwqt,wu->bhwqut", weights, own).flatten(4).flatten(2, 3)
    return out, weights[:, :, :n_tokens, :n_tokens]


def _attend_to_averages(
    q: Tensor, k: Tensor, v: Tensor, keep: Tensor, need_weights: bool
) -> tuple[Tensor, Tensor | None]:
    """Attend to the means of the windows' visible tokens."""
    share = keep.to(k.dtype)
    share = share / share.sum(-1, keepdim=True).clamp_min(1)
    k, v = (torch.einsum("bhwtd,bwt->bhwd", _cut(x, keep.shape[2]), share) for x in (k, v))
    read = attention(q, k, v, key_mask=keep.any(-1), map="heads" if need_weights else "none")
    if read.map is None:
        return read.out, None
    return read.out, (read.map[..., None] * share[:, None, None]).flatten(3)[..., : q.shape[2]]


class ProbeAttention(AttentionLayer):
    """Read with one learned query for each head, whatever the queries hold: efficient probing [1]_ as a layer.

    Keys are the tokens, unprojected, and learned queries have their full width; each has its own slice of the value
    projection. All queries read the same. `MultiQueryProbe` is the same reading at the head of a model.

    Parameters
    ----------
    embed_dim, num_heads, **face
        See `AttentionLayer`.

    Notes
    -----
    The paper's probe has no output projection; ours keeps the one that the face has. Values are pooled first and
    projected after, which is the same since weights sum to 1.

    References
    ----------
    .. [1] Psomas et al. (2025). Attention, please! Revisiting attentive probing through the lens of efficiency.

    Examples
    --------
    >>> layer = ProbeAttention(16, 4, batch_first=True)
    >>> out, weights = layer(torch.zeros(3, 5, 16), *[torch.randn(3, 100, 16)] * 2)
    >>> bool((out == out[:, :1]).all()), weights.shape
    (True, torch.Size([3, 5, 100]))
    """

    patterns = ("self", "cross")
    linear = True
    _parts = "v"

    def __init__(self, embed_dim: int, num_heads: int, **face: Any) -> None:
        super().__init__(embed_dim, num_heads, **face)
        self.queries = nn.Parameter(torch.randn(num_heads, self.kdim, **_kind(face)) * self.kdim**-0.5)

    def _attend(self, call: Call, need_weights: bool) -> tuple[Tensor, Tensor | None]:
        n_queries, tokens, values = call.query.shape[1], call.key[:, None], call.value[:, None]
        kind = "heads" if need_weights else "none"
        read = attention(self.queries[None, None], tokens, values, key_mask=call.keep, map=kind)
        weight, bias = self._weight("v")
        pooled = torch.einsum(
            "bhd,hed->bhe", read.out[:, 0], torch.unflatten(weight, 0, (self.num_heads, -1))
        )
        if bias is not None:
            pooled = pooled + bias.view(self.num_heads, -1)
        weights = None if read.map is None else read.map[:, 0, :, None].expand(-1, -1, n_queries, -1)
        return pooled[:, :, None].expand(-1, -1, n_queries, -1), weights


class StaticAttention(AttentionLayer):
    """Attend by learned weights of pairs of positions: a control in which content routes nothing.

    The weights are the softmax of a table, as in the random form of the Synthesizer [1]_. Only values are projected.

    Parameters
    ----------
    embed_dim, num_heads
        See `AttentionLayer`.
    max_len : int, default 256
        Length of the longest sequence. The table has ``num_heads * max_len**2`` entries, which start at 0.
    **face
        See `AttentionLayer`.

    References
    ----------
    .. [1] Tay et al. (2021). Synthesizer: rethinking self-attention for transformer models. ICML.

    Examples
    --------
    >>> layer = StaticAttention(16, 2, max_len=10, batch_first=True)
    >>> x = torch.randn(1, 4, 16)
    >>> layer(x, x, x, is_causal=True)[1][0, 1]
    tensor([0.5000, 0.5000, 0.0000, 0.0000], grad_fn=<SelectBackward0>)
    """

    equivariant = False
    _parts = "v"

    def __init__(self, embed_dim: int, num_heads: int, *, max_len: int = 256, **face: Any) -> None:
        super().__init__(embed_dim, num_heads, **face)
        check_range("max_len", max_len, 1)
        self.table = nn.Parameter(torch.zeros(num_heads, max_len, max_len, **_kind(face)))

    def _attend(self, call: Call, need_weights: bool) -> tuple[Tensor, Tensor | None]:
        n_queries, n_tokens, longest = call.query.shape[1], call.key.shape[1], self.table.shape[1]
        if max(n_queries, n_tokens) > longest:
            raise ValueError(
                f"max_len must be at least {max(n_queries, n_tokens)}, the length of the sequence, got {longest}"
            )
        v = self._project("v", call.value)
        visible = torch.arange(n_tokens, device=v.device) <= call.last[:, None]
        if call.keep is not None:
            visible = visible & call.keep[:, None, None]
        scores = self.table[:, :n_queries, :n_tokens].to(torch.promote_types(v.dtype, torch.float32))
        # The lowest number, not minus infinity, keeps rows without a visible token from NaN.
        weights = torch.where(visible, scores, torch.finfo(scores.dtype).min).softmax(-1)
        weights = weights.expand(len(v), -1, -1, -1)
        return weights.to(v.dtype) @ v, weights if need_weights else None


class PositionAttention(AttentionLayer):
    """Attend by codes of the positions alone: a control in which content routes nothing, for any length.

    Multi-head attention whose queries and keys are made from sine codes of their places in the sequence [1]_, and whose
    values from the tokens.

    Parameters
    ----------
    embed_dim, num_heads, **face
        See `AttentionLayer`. Channels of queries and keys must be even, as `sine_position` is.

    References
    ----------
    .. [1] Vaswani et al. (2017). Attention is all you need. NeurIPS.

    Examples
    --------
    >>> layer = PositionAttention(16, 2, batch_first=True)
    >>> x, y = torch.zeros(1, 4, 16), torch.ones(1, 4, 16)
    >>> torch.equal(layer(x, x, x)[1], layer(y, y, y)[1])
    True
    """

    equivariant = False

    def _attend(self, call: Call, need_weights: bool) -> tuple[Tensor, Tensor | None]:
        v = self._project("v", call.value)
        codes = (sine_position(*x.shape[1:], device=x.device).to(x.dtype)[None] for x in call[:2])
        q, k = map(self._project, "qk", codes)
        return _read(q, k.expand(len(v), -1, -1, -1), v, call, need_weights)


def _read(
    q: Tensor, k: Tensor, v: Tensor, call: Call, need_weights: bool, **options: Any
) -> tuple[Tensor, Tensor | None]:
    """Attend by softmax to the tokens that each query may see."""
    window = None
    if call.is_causal:
        window = (torch.zeros_like(call.last), call.last + 1)
    kind = "heads" if need_weights else "none"
    read = attention(q, k, v, key_mask=call.keep, window=window, map=kind, **options)
    return read.out, read.map


def _kind(face: dict[str, Any]) -> dict[str, Any]:
    """Return device and dtype among the options of the face."""
    return {name: face.get(name) for name in ("device", "dtype")}


ATTENTIONS: dict[str, type[AttentionLayer]] = {
    "softmax": SoftmaxAttention,
    "manar": MANAR,
    "latent": LatentAttention,
    "isab": InducedSetAttention,
    "agent": AgentAttention,
    "inline": InLineAttention,
    "hilo": HiLoAttention,
    "probe": ProbeAttention,
    "affine": AffineAttention,
    "gated-heads": GatedHeadsAttention,
    "static": StaticAttention,
    "position": PositionAttention,
}
"""Layers with the face of multi-head attention, by name; `make_attention` builds them."""


def make_attention(name: str, embed_dim: int, num_heads: int, **options: Any) -> AttentionLayer:
    """Build an attention layer from its name.

    Parameters
    ----------
    name : str
        A name in `ATTENTIONS`.
    embed_dim, num_heads : int
        Channels, and heads that they are split into.
    **options
        ``batch_first`` and the other options of `AttentionLayer`, and those of the layer that is named.

    Returns
    -------
    AttentionLayer

    Raises
    ------
    ValueError
        If the name is unknown, or a size does not fit.
    TypeError
        If the layer does not know an option.

    Notes
    -----
    ===========  =====================================  ========================  ======  =================
    name         patterns                               options                   linear  order of tokens
    ===========  =====================================  ========================  ======  =================
    softmax      all                                                              no      does not matter
    manar        all                                    see `MANAR`               yes     does not matter
    latent       self, cross                            n_latents                 yes     does not matter
    isab         self, cross                            n_points                  yes     does not matter
    agent        self, cross                            n_agents                  yes     matters
    inline       all                                                              yes     does not matter
    hilo         self                                   alpha, window             no      matters
    probe        self, cross                                                      yes     does not matter
    affine       all                                                              no      does not matter
    gated-heads  all                                    n_shared, n_active        no      does not matter
    static       all                                    max_len                   no      matters
    position     all                                                              no      matters
    ===========  =====================================  ========================  ======  =================

    Examples
    --------
    >>> x = torch.zeros(2, 10, 16)
    >>> for name in ATTENTIONS:
    ...     out, _ = make_attention(name, 16, 2, batch_first=True)(x, x, x, need_weights=False)
    >>> out.shape
    torch.Size([2, 10, 16])
    """
    return ATTENTIONS[check_option("name", name, ATTENTIONS)](embed_dim, num_heads, **options)
