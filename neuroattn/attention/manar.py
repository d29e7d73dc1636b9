"""Workspace attention: tokens write to a few slots, and read from them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neuroattn._checks import check_option, check_range, check_seed
from neuroattn.attention.face import AttentionLayer, Call
from neuroattn.kernels import attention
from neuroattn.kernels.workspace_integrate import reference, workspace_integrate

COMPETITIONS = ("softmax", "sparsemax")
_CHUNK = 64  # tokens of a causal block
_ITERATIONS = 25  # of k-means at most


class WorkspaceView(NamedTuple):
    """What happened in a workspace; see `GlobalWorkspace`.

    Shares, mass and weights are float32, or float64 for float64 input.

    Attributes
    ----------
    out : Tensor, shape (batch, head, query, value_feature)
        What the queries read, before the output projection.
    assignment : Tensor, shape (batch, head, token, slot)
        How each token is shared among the slots; rows sum to 1, or to 0 where masked.
    mass : Tensor, shape (batch, head, 1 or query, slot)
        Occupancy: the tokens in each slot and the pseudo-count of its concept. With a causal mask it grows from
        query to query.
    reading : Tensor, shape (batch, head, query, slot)
        Attention of the queries to the slots; rows sum to 1, or to 0 where no token is visible.
    weights : Tensor, shape (batch, head, query, token)
        Effective weight of each token in what each query reads. Rows sum to 1 minus the share of memory.
    memory_share : Tensor, shape (batch, head, query)
        Share of the learned concepts in what each query reads, 0..1.
    concept : integer Tensor, shape (batch, head, slot)
        Which concept each slot belongs to.

    Examples
    --------
    >>> layer = MANAR(8, 2, n_concepts=4, kappa=1.0, batch_first=True)
    >>> x = torch.zeros(1, 6, 8)
    >>> view = layer.view(x, x, x)
    >>> view.weights.shape, round(view.memory_share.mean().item(), 3)  # 6 tokens, 4 pseudo-counts
    (torch.Size([1, 2, 6, 6]), 0.4)
    """

    out: Tensor
    assignment: Tensor
    mass: Tensor
    reading: Tensor
    weights: Tensor
    memory_share: Tensor
    concept: Tensor


class GlobalWorkspace(nn.Module):
    """Let tokens compete for slots and queries read the slots, by equations of our own derivation.

    The heart of `MANAR`, between the projections: it takes queries, keys and values by head, and the keys and values
    of its concepts, which its caller projects as it projects tokens.

    Parameters
    ----------
    n_concepts : int
        Number M of learned concepts.
    num_heads : int
    dim : int
        Channels of the tokens that keys are made from; concepts live among them.
    value_dim : int, optional
        Channels of the tokens that values are made from, where they are others: there the concepts have values of
        their own. None means the same tokens.
    retrieve : int, optional
        Number m of concepts that take part, for each sample and head the m that would gather most tokens. None takes
        all.
    competition : {"softmax", "sparsemax"}, default "softmax"
        How tokens choose among concepts. Sparsemax [1]_ leaves most shares at exactly 0.
    tau : float, default 1
        Initial temperature of the competition, learned for each head. Towards 0 a token goes to its nearest concept
        only.
    kappa : float, default 0.01
        Initial pseudo-count: as how many tokens each concept counts, learned for each head and concept. With 0 the
        concepts only sort, are never read, and stay at 0.
    dropout : float, default 0
        On the weights with which queries read the slots, in training.
    device, dtype
        Of the parameters.

    Attributes
    ----------
    concepts : Parameter, shape (concept, dim)
    value_concepts : Parameter, shape (concept, value_dim), or None
    log_kappa : Parameter, shape (head, concept)
    log_tau : Parameter, shape (head,)

    References
    ----------
    .. [1] Martins & Astudillo (2016). From softmax to sparsemax: a sparse model of attention and multi-label
       classification. ICML.

    Examples
    --------
    >>> workspace = GlobalWorkspace(4, num_heads=2, dim=6)
    >>> q = k = v = torch.zeros(1, 2, 10, 3)
    >>> concepts = torch.zeros(2, 4, 3)
    >>> workspace(q, k, v, concepts, concepts).shape
    torch.Size([1, 2, 10, 3])
    """

    def __init__(
        self,
        n_concepts: int,
        num_heads: int,
        dim: int,
        value_dim: int | None = None,
        *,
        retrieve: int | None = None,
        competition: str = "softmax",
        tau: float = 1.0,
        kappa: float = 0.01,
        dropout: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_range("n_concepts", n_concepts, 1)
        if retrieve is not None:
            check_range("retrieve", retrieve, 1, n_concepts)
        if not tau > 0:
            raise ValueError(f"tau must be above 0, got {tau}")
        check_range("kappa", kappa, 0)
        check_range("dropout", dropout, 0, 1)
        self.competition = check_option("competition", competition, COMPETITIONS)
        self.retrieve = retrieve
        self.dropout = dropout
        kind: Any = {"device": device, "dtype": dtype}
        log_kappa = math.log(kappa) if kappa else -math.inf
        self.concepts = nn.Parameter(torch.randn(n_concepts, dim, **kind))
        self.value_concepts = (
            None if value_dim is None else nn.Parameter(torch.randn(n_concepts, value_dim, **kind))
        )
        self.log_kappa = nn.Parameter(torch.full((num_heads, n_concepts), log_kappa, **kind))
        self.log_tau = nn.Parameter(torch.full((num_heads,), math.log(tau), **kind))
        self._open: list[int] | None = None

    @contextmanager
    def lesion(self, concepts: Sequence[int]) -> Iterator[None]:
        """Take concepts out of the workspace within a ``with`` block: they win no token and are not read.

        Parameters
        ----------
        concepts : sequence of int
            At least one concept must be left.

        Examples
        --------
        >>> layer = MANAR(8, 2, n_concepts=4, batch_first=True)
        >>> x = torch.zeros(1, 6, 8)
        >>> with layer.workspace.lesion([0, 3]):
        ...     layer.view(x, x, x).concept[0]
        tensor([[1, 2],
                [1, 2]])
        """
        n_concepts = len(self.concepts)
        for concept in concepts:
            check_range("concepts", concept, 0, n_concepts - 1)
        before = self._open
        left = sorted(set(range(n_concepts) if before is None else before) - set(concepts))
        if not left:
            raise ValueError(f"concepts must leave at least one of {n_concepts}, got all of them")
        self._open = left
        try:
            yield
        finally:
            self._open = before

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        concept_k: Tensor,
        concept_v: Tensor,
        keep: Tensor | None = None,
        is_causal: bool = False,
        return_view: bool = False,
    ) -> Tensor | WorkspaceView:
        """Read from the workspace that tokens make.

        Parameters
        ----------
        q : Tensor, shape (batch, head, query, feature)
        k, v : Tensor, shape (batch, head, token, feature) and (batch, head, token, value_feature)
        concept_k, concept_v : Tensor, shape (head, concept, feature) and (head, concept, value_feature)
            Of all concepts.
        keep : bool Tensor, shape (batch, token), optional
            True keeps a token. A query that no token is visible to reads zeros, not memory alone.
        is_causal : bool, default False
            Query i reads the workspace of tokens 0..i.
        return_view : bool, default False
            Show the workspace too. Its weights are query x token numbers: the cost is not linear in tokens then.

        Returns
        -------
        Tensor, shape (batch, head, query, value_feature), or WorkspaceView
        """
        run = self._run(q, k, v, concept_k, concept_v, keep, is_causal, return_view)
        if run.assignment is None or run.reading is None or not return_view:
            return run.out
        log_mass = run.log_mass if is_causal else run.log_mass[:, :, None]
        weights = _divided(run.reading, log_mass) @ run.assignment.mT
        n_batch, n_heads, n_slots = *k.shape[:2], run.log_kappa.shape[-1]
        return WorkspaceView(
            run.out,
            run.assignment,
            log_mass.exp(),
            run.reading,
            weights.tril() if is_causal else weights,
            (_divided(run.reading, log_mass) * run.log_kappa.exp()[..., None, :]).sum(-1),
            run.concept.expand(n_batch, n_heads, n_slots),
        )

    def extra_repr(self) -> str:
        """Name the settings that are no parameters."""
        kinds = [f"n_concepts={len(self.concepts)}"]
        kinds += [] if self.retrieve is None else [f"retrieve={self.retrieve}"]
        return ", ".join([*kinds, f"competition={self.competition!r}"])

    def _run(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        concept_k: Tensor,
        concept_v: Tensor,
        keep: Tensor | None,
        is_causal: bool,
        details: bool,
    ) -> _Run:
        accumulator = torch.promote_types(q.dtype, torch.float32)
        tau, log_kappa = self.log_tau.to(accumulator).exp(), self.log_kappa.to(accumulator)
        concept = torch.arange(len(self.concepts), device=k.device)
        if self._open is not None:
            concept = concept[self._open]
            concept_k, concept_v, log_kappa = (x[:, concept] for x in (concept_k, concept_v, log_kappa))
        if self.retrieve is not None and self.retrieve < len(concept):
            if is_causal:
                raise ValueError(
                    f"retrieve must be None with a causal mask, got {self.retrieve}: what is retrieved would depend on"
                    " tokens that queries may not see"
                )
            best = self._retrieve(k, concept_k, tau, keep)
            concept = concept[best]
            concept_k, concept_v = (
                torch.take_along_dim(x[None], best[..., None], dim=2) for x in (concept_k, concept_v)
            )
            log_kappa = torch.take_along_dim(log_kappa[None], best, dim=2)
        slots = (concept_k, concept_v, log_kappa)

        dropout = self.dropout if self.training else 0.0
        assignment: Tensor | None = None
        if self.competition == "softmax" and not is_causal:
            keys, values, log_mass, assignment = _integrate(k, v, *slots, tau, keep, details)
        else:
            with torch.autocast(k.device.type, enabled=False):
                tokens_k, tokens_v = k.to(accumulator), v.to(accumulator)
                if keep is not None:  # what a masked token holds does not matter, not even NaN
                    tokens_k, tokens_v = (
                        torch.where(keep[:, None, :, None], x, 0) for x in (tokens_k, tokens_v)
                    )
                slots = (concept_k.to(accumulator), concept_v.to(accumulator), log_kappa)
                scores = reference.scores(tokens_k, slots[0], tau)
                assignment = scores.softmax(-1) if self.competition == "softmax" else _sparsemax(scores)
                if keep is not None:
                    assignment = torch.where(keep[:, None, :, None], assignment, 0)
                if is_causal:
                    blind = _blind(keep, q.shape[-2])
                    out, reading, log_mass = _read_causally(
                        q.to(accumulator), tokens_k, tokens_v, assignment, slots, blind, dropout
                    )
                    return _Run(out.to(v.dtype), assignment, log_mass, reading, log_kappa, concept)
                keys, values, log_mass = reference.average(assignment, tokens_k, tokens_v, *slots)
            keys, values = keys.to(k.dtype), values.to(v.dtype)
        if keep is not None:  # an empty workspace is not read, though its concepts count
            log_mass = log_mass.masked_fill(~keep.any(-1)[:, None, None], -torch.inf)
        read = attention(q, keys, values, key_bias=log_mass, map="heads" if details or dropout else "none")
        out = read.out
        if dropout and read.map is not None:
            out = F.dropout(read.map, dropout).to(values.dtype) @ values
        return _Run(out, assignment, log_mass, read.map, log_kappa, concept)

    @torch.no_grad()
    def _retrieve(self, k: Tensor, concept_k: Tensor, tau: Tensor, keep: Tensor | None) -> Tensor:
        """Return the concepts that would gather most tokens if all took part, (batch, head, slot), in order."""
        nothing = torch.full(concept_k.shape[:2], -torch.inf, dtype=tau.dtype, device=k.device)
        slots = workspace_integrate(k, k[..., :1], concept_k, concept_k[..., :1], nothing, tau, keep)
        return slots.log_mass.topk(self.retrieve or 0).indices.sort().values


class _Run(NamedTuple):
    out: Tensor
    assignment: Tensor | None
    log_mass: Tensor
    reading: Tensor | None
    log_kappa: Tensor
    concept: Tensor


def _integrate(
    k: Tensor,
    v: Tensor,
    concept_k: Tensor,
    concept_v: Tensor,
    log_kappa: Tensor,
    tau: Tensor,
    keep: Tensor | None,
    details: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Integrate tokens into slots whose concepts are those of all samples, or of each."""
    if concept_k.ndim == 3:
        return workspace_integrate(
            k, v, concept_k, concept_v, log_kappa, tau, keep, return_assignment=details
        )

    def one(k: Tensor, v: Tensor, *slots: Tensor | None) -> tuple[Tensor, ...]:
        concept_k, concept_v, log_kappa, keep = slots
        parts = workspace_integrate(
            k[None],
            v[None],
            concept_k,  # type: ignore[arg-type]
            concept_v,  # type: ignore[arg-type]
            log_kappa,  # type: ignore[arg-type]
            tau,
            None if keep is None else keep[None],
            return_assignment=details,
        )
        return tuple(part[0] for part in parts if part is not None)

    axes = (0, 0, 0, 0, 0, None if keep is None else 0)
    keys, values, log_mass, *rest = torch.vmap(one, axes)(k, v, concept_k, concept_v, log_kappa, keep)
    return keys, values, log_mass, rest[0] if details else None


def _divided(reading: Tensor, log_mass: Tensor) -> Tensor:
    """Divide what a query reads from each slot by the slot's mass; 0 of an empty one."""
    full = log_mass > -torch.inf
    return torch.where(full, reading * torch.where(full, -log_mass, 0).exp(), 0)


def _sparsemax(scores: Tensor) -> Tensor:
    """Project on the simplex along the last axis."""
    scores = scores - scores.amax(-1, keepdim=True)
    ordered = scores.sort(-1, descending=True).values
    excess = ordered.cumsum(-1) - 1
    rank = torch.arange(1, scores.shape[-1] + 1, dtype=scores.dtype, device=scores.device)
    size = (rank * ordered > excess).sum(-1, keepdim=True)
    return (scores - excess.gather(-1, size - 1) / size).relu()


def _blind(keep: Tensor | None, n_queries: int) -> Tensor | None:
    """Which causal queries no token is visible to, shape (batch, 1, query, 1)."""
    if keep is None:
        return None
    last = torch.arange(n_queries, device=keep.device).clamp_max(keep.shape[1] - 1)
    return (keep.cumsum(-1) == 0)[:, None, last, None]


def _read_causally(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    share: Tensor,
    slots: tuple[Tensor, Tensor, Tensor],
    blind: Tensor | None,
    dropout: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Read for each query the workspace of the tokens up to its own.

    Sums over the tokens of earlier chunks are slots, of which there is one set a chunk; the tokens of a query's own
    chunk are added by masked products of chunk x chunk numbers. Returns what is read, the weights of the slots and
    the logarithm of their mass.
    """
    concept_k, concept_v, log_kappa = slots
    n_queries, kappa = q.shape[-2], log_kappa.exp()
    length = -(-n_queries // _CHUNK) * _CHUNK

    def chunks(x: Tensor) -> Tensor:
        """Cut to the length of the queries, and into chunks: (batch, head, chunk, token, feature)."""
        x = x[..., :n_queries, :]
        x = F.pad(x, (0, 0, 0, length - x.shape[-2]))
        return x.reshape(*x.shape[:2], -1, _CHUNK, x.shape[-1])

    def before(x: Tensor) -> Tensor:
        """Sum over earlier chunks."""
        return F.pad(x.cumsum(2)[:, :, :-1], (0, 0, 0, 0, 1, 0))

    q, k, v, share = (chunks(x) for x in (q, k, v, share))
    mass = before(share.sum(-2, keepdim=True)) + share.cumsum(-2) + kappa[:, None, None]
    full = mass >= torch.finfo(mass.dtype).tiny
    safe = torch.where(full, mass, 1)
    log_mass = torch.where(full, safe.log(), -torch.inf)
    state_k = before(share.mT @ k) + (kappa[..., None] * concept_k)[:, None]
    state_v = before(share.mT @ v) + (kappa[..., None] * concept_v)[:, None]
    score = q @ state_k.mT + (q @ k.mT).tril() @ share
    score = score / (safe * q.shape[-1] ** 0.5) + log_mass
    unread = (~full).all(-1, keepdim=True)
    if blind is not None:
        unread = unread | chunks(blind)
    reading = score.masked_fill(unread, 0).softmax(-1).masked_fill(unread, 0)
    dropped = F.dropout(reading, dropout) / safe
    out = dropped @ state_v + (dropped @ share.mT).tril() @ v
    out, reading, log_mass = (x.flatten(2, 3)[:, :, :n_queries] for x in (out, reading, log_mass))
    return out, reading, log_mass


class MANAR(AttentionLayer):
    """Attend through a global workspace: our derivation, not the paper's equations [1]_, at a cost linear in tokens.

    A drop-in for :class:`torch.nn.MultiheadAttention`, of which it takes constructor, call and parameter names. Tokens
    compete for a constant number of slots, one for each learned concept; a slot becomes the mean of the tokens it wins
    and of its own concept; queries attend to the slots instead of the tokens. Per head, with keys and values projected
    as in multi-head attention, for tokens and concepts c alike::

        b_ij = softmax_j (k_i . k^c_j - |k^c_j|^2 / 2) / (tau sqrt d)     share of token i in slot j
        N_j  = sum_i b_ij + kappa_j                                       mass
        K_j  = (sum_i b_ij k_i + kappa_j k^c_j) / N_j                     slot; V_j alike
        o_t  = sum_j softmax_j (q_t . K_j / sqrt d + log N_j) V_j         read by query t

    Of the paper only the abstract is known to us. The equations meet its claims: with as many slots as distinct tokens
    and tau towards 0 this is multi-head attention, exactly, whatever the number of copies of each token; with kappa
    above 0 what is read may lie outside the convex hull of the tokens' values.

    Parameters
    ----------
    embed_dim, num_heads : int
        Channels, and heads that they are split into.
    dropout : float, default 0
        On the weights with which queries read the slots, in training.
    bias : bool, default True
        Whether the projections have one.
    add_bias_kv, add_zero_attn : bool, default False
        Must be False: learned keys and values are what the concepts are.
    kdim, vdim : int, optional
        Channels of ``key`` and ``value``; None means ``embed_dim``. Where the two differ concepts have a part for
        each.
    batch_first : bool, default False
        Whether tensors are (batch, token, channel) rather than (token, batch, channel).
    device, dtype
        Of the parameters.
    n_concepts : int, default 64
    retrieve, competition, tau, kappa
        See `GlobalWorkspace`.

    Attributes
    ----------
    in_proj_weight, q_proj_weight, k_proj_weight, v_proj_weight, in_proj_bias, out_proj
        As in :class:`torch.nn.MultiheadAttention`, whose state loads with ``strict=False``.
    workspace : GlobalWorkspace
        Concepts, pseudo-counts and temperatures; `GlobalWorkspace.lesion` takes concepts out.

    Raises
    ------
    ValueError
        If ``num_heads`` does not divide ``embed_dim``, ``retrieve`` exceeds ``n_concepts``, or a mask is neither causal
        nor by token.

    Notes
    -----
    Time and memory are linear in tokens with ``need_weights=False``; the default returns weights, as
    :class:`torch.nn.MultiheadAttention` does.

    References
    ----------
    .. [1] Jahshan, Ben Ishay & Yavits (2026). MANAR. arXiv:2603.18676.

    Examples
    --------
    >>> layer = MANAR(16, num_heads=2, n_concepts=8, batch_first=True)
    >>> x = torch.zeros(3, 100, 16)
    >>> out, weights = layer(x, x, x)
    >>> out.shape, weights.shape
    (torch.Size([3, 100, 16]), torch.Size([3, 100, 100]))
    """

    linear = True

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        n_concepts: int = 64,
        retrieve: int | None = None,
        competition: str = "softmax",
        tau: float = 1.0,
        kappa: float = 0.01,
    ) -> None:
        for name, value in (("add_bias_kv", add_bias_kv), ("add_zero_attn", add_zero_attn)):
            if value:
                raise ValueError(
                    f"{name} must be False: the concepts are learned keys and values; got {value}"
                )
        super().__init__(
            embed_dim,
            num_heads,
            bias=bias,
            kdim=kdim,
            vdim=vdim,
            batch_first=batch_first,
            device=device,
            dtype=dtype,
        )
        self.workspace = GlobalWorkspace(
            n_concepts,
            num_heads,
            self.kdim,
            None if self.vdim == self.kdim else self.vdim,
            retrieve=retrieve,
            competition=competition,
            tau=tau,
            kappa=kappa,
            dropout=dropout,
            device=device,
            dtype=dtype,
        )

    @classmethod
    def from_multihead(
        cls,
        mha: nn.MultiheadAttention,
        n_concepts: int = 64,
        calibration: Tensor | tuple[Tensor, Tensor] | None = None,
        seed: int | np.random.Generator = 0,
        *,
        tau: float = 0.1,
        **options: Any,
    ) -> MANAR:
        """Copy the weights of multi-head attention, and place the concepts among its tokens.

        Parameters
        ----------
        mha : MultiheadAttention
        n_concepts : int, default 64
        calibration : Tensor, shape (..., token, kdim), or pair of Tensors, optional
            Tokens that the layer meets, at least ``n_concepts`` of them; the concepts are their k-means centroids.
            Projections are linear, so these are projected to the mean keys of the clusters in every head. A pair is
            keys and values, needed where their channels differ. None leaves concepts random.
        seed : int or Generator, default 0
            Of k-means.
        tau : float, default 0.1
            Initial temperature: nearer to multi-head attention than 1, the default of a layer that starts anew.
        **options
            ``retrieve``, ``competition`` and ``kappa``.

        Returns
        -------
        MANAR
            In the dtype, on the device and in the mode of ``mha``.

        Examples
        --------
        >>> mha = nn.MultiheadAttention(16, 2, batch_first=True)
        >>> tokens = torch.randn(4, 50, 16, generator=torch.Generator().manual_seed(0))
        >>> layer = MANAR.from_multihead(mha, n_concepts=200, calibration=tokens, tau=1e-4, kappa=0)
        >>> out, _ = layer(tokens, tokens, tokens)
        >>> torch.allclose(out, mha(tokens, tokens, tokens)[0], atol=1e-5)
        True
        """
        weight = mha.out_proj.weight
        layer = cls(
            mha.embed_dim,
            mha.num_heads,
            mha.dropout,
            mha.in_proj_bias is not None,
            mha.bias_k is not None,
            mha.add_zero_attn,
            mha.kdim,
            mha.vdim,
            mha.batch_first,
            weight.device,
            weight.dtype,
            n_concepts=n_concepts,
            tau=tau,
            **options,
        )
        layer.load_state_dict(mha.state_dict(), strict=False)
        if calibration is not None:
            place_concepts(layer.workspace, calibration, seed)
        return layer.train(mha.training)

    def view(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> WorkspaceView:
        """Show the workspace that `forward` makes of the same tensors."""
        call = self._check_call(query, key, value, key_padding_mask, attn_mask, is_causal)
        view: WorkspaceView = self.workspace(*self._arguments(call), return_view=True)
        return view

    def _attend(self, call: Call, need_weights: bool) -> tuple[Tensor, Tensor | None]:
        if not need_weights:
            return self.workspace(*self._arguments(call)), None
        view = self.workspace(*self._arguments(call), return_view=True)
        return view.out, view.weights

    def _arguments(self, call: Call) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None, bool]:
        """Project tokens and concepts, for the workspace."""
        concepts, value_concepts = self.workspace.concepts, self.workspace.value_concepts
        concept_k = self._project("k", concepts[None])[0]
        concept_v = self._project("v", (concepts if value_concepts is None else value_concepts)[None])[0]
        return *self._qkv(call), concept_k, concept_v, call.keep, call.is_causal


@torch.no_grad()
def place_concepts(
    workspace: GlobalWorkspace, tokens: Tensor | tuple[Tensor, Tensor], seed: int | np.random.Generator
) -> None:
    """Set the concepts to the k-means centroids of tokens (..., token, dim), or of keys and values together."""
    parts = [tokens] if isinstance(tokens, Tensor) else list(tokens)
    own = [x for x in (workspace.concepts, workspace.value_concepts) if x is not None]
    if len(parts) < len(own):
        raise ValueError(
            "calibration must be a pair, keys and values, because their channels differ; got one Tensor"
        )
    parts = parts[: len(own)]
    for part, concepts in zip(parts, own, strict=True):
        if part.ndim < 2 or part.shape[-1] != concepts.shape[-1]:
            raise ValueError(
                f"calibration must have shape (..., token, {concepts.shape[-1]}), got {tuple(part.shape)}"
            )
    points = torch.cat([part.flatten(0, -2) for part in parts], -1)
    if not points.isfinite().all():
        raise ValueError("calibration must be finite, got NaN or infinity")
    if len(points) < len(workspace.concepts):
        raise ValueError(
            f"calibration must hold at least n_concepts={len(workspace.concepts)} tokens, got {len(points)}"
        )
    centroids = _k_means(points, len(workspace.concepts), check_seed(seed))
    for concepts, part in zip(own, torch.split(centroids, [x.shape[-1] for x in own], -1), strict=True):
        concepts.copy_(part)


def _k_means(points: Tensor, k: int, rng: np.random.Generator) -> Tensor:
    """Return k centroids of points (point, dim): k-means++ seeds, then Lloyd's iterations.

    scikit-learn's is not used because attention layers need torch and numpy only, and points may be on any device.
    """
    points = points.to(torch.promote_types(points.dtype, torch.float32))
    chosen = [int(rng.integers(len(points)))]
    nearest = (points - points[chosen[0]]).square().sum(-1)
    for _ in range(k - 1):
        total = nearest.double().cumsum(0)
        at = torch.searchsorted(total, total[-1] * rng.random(), right=True)
        chosen.append(int(at.clamp_max(len(points) - 1)))
        nearest = torch.minimum(nearest, (points - points[chosen[-1]]).square().sum(-1))
    centroids = points[chosen]
    member = torch.full((len(points),), -1, device=points.device)
    for _ in range(_ITERATIONS):
        before, member = member, (points @ centroids.mT - centroids.square().sum(-1) / 2).argmax(-1)
        if (member == before).all():
            break
        count = torch.bincount(member, minlength=k)
        sums = torch.zeros_like(centroids).index_add_(0, member, points)
        # A cluster that lost all its points stays where it was.
        centroids = torch.where(count[:, None] > 0, sums / count.clamp_min(1)[:, None], centroids)
    return centroids
