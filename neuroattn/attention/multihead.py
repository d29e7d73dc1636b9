"""Multi-head cross-attention whose exact map is cheap to have."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neuroattn._checks import check_option, check_shape
from neuroattn.kernels import attention


class CrossAttention(nn.Module):
    """Let queries read tokens with several heads.

    Keys are tokens plus their position code, values are the tokens alone. Parameter names and shapes are those
    of :class:`torch.nn.MultiheadAttention`, so its weights load as they are. Unlike there, queries that are the
    same for the whole batch may come with a batch of one and are projected once, and there is no dropout on the
    attention weights.

    Parameters
    ----------
    dim : int
        Channels of queries and tokens.
    heads : int
        Number of heads; divides ``dim``.

    Examples
    --------
    >>> layer = CrossAttention(8, heads=2)
    >>> out, weights = layer(torch.zeros(1, 3, 8), torch.zeros(5, 6, 8), map="heads")
    >>> out.shape, weights.shape
    (torch.Size([5, 3, 8]), torch.Size([5, 2, 3, 6]))
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        if heads < 1 or dim % heads:
            raise ValueError(f"heads must divide dim {dim}, got {heads}")
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = nn.Linear(dim, dim)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.xavier_uniform_(self.out_proj.weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(
        self,
        query: Tensor,
        tokens: Tensor,
        position: Tensor | None = None,
        *,
        key_mask: Tensor | None = None,
        map: str = "none",
    ) -> tuple[Tensor, Tensor | None]:
        """Read the tokens.

        Parameters
        ----------
        query : Tensor, shape (batch or 1, query, dim)
        tokens : Tensor, shape (batch, token, dim)
        position : Tensor, shape (token, dim), optional
            Added to the keys.
        key_mask : Tensor of bool, shape (batch, token), optional
            True where a token may be read; the weight of the others goes to these in proportion.
        map : {"none", "heads", "mean"}, default "none"

        Returns
        -------
        out : Tensor, shape (batch, query, dim)
        map : Tensor or None
            Attention weights (batch, head, query, token), or their mean over heads (batch, query, token).
        """
        check_option("map", map, ("none", "heads", "mean"))
        dim = self.out_proj.in_features
        check_shape("query", query, "batch", "query", dim)
        check_shape("tokens", tokens, "batch", "token", dim)
        weight_q, weight_kv = self.in_proj_weight[:dim], self.in_proj_weight[dim:]
        q = F.linear(query, weight_q, self.in_proj_bias[:dim])
        k, v = F.linear(tokens, weight_kv, self.in_proj_bias[dim:]).chunk(2, -1)
        if position is not None:
            # (X + P) W = X W + P W: the position is projected once, not once an image.
            k = k + F.linear(position, weight_kv[:dim])
        q, k, v = (t.view(*t.shape[:2], self.heads, -1).transpose(1, 2) for t in (q, k, v))
        read = attention(q, k, v, key_mask=key_mask, map=map)
        return self.out_proj(read.out.transpose(1, 2).flatten(2)), read.map
