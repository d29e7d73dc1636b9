"""Attentive probes: learned queries that pool a token grid into one vector."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from neuroattn._checks import check_option, check_shape
from neuroattn.kernels import attention


class MultiQueryProbe(nn.Module):
    """Pool tokens with several learned queries of full width, after efficient probing [1]_.

    Keys are the tokens, unprojected. Each query owns a slice of the value projection. The published form projects
    every token and pools then; pooling first and projecting after is the same function, since the weights of a
    query sum to one, at a fraction of the arithmetic.

    Parameters
    ----------
    dim : int
        Channels of the tokens.
    queries : int, default 32
        Number of queries; divides ``out_dim``.
    out_dim : int, optional
        Width of the pooled vector; default ``dim``.

    References
    ----------
    .. [1] Psomas et al. (2025). Attention, please! Revisiting attentive probing through the lens of efficiency.

    Examples
    --------
    >>> pooled, weights = MultiQueryProbe(8, queries=4)(torch.zeros(2, 6, 8), map="heads")
    >>> pooled.shape, weights.shape
    (torch.Size([2, 8]), torch.Size([2, 4, 6]))
    """

    def __init__(self, dim: int, queries: int = 32, out_dim: int | None = None) -> None:
        super().__init__()
        out_dim = dim if out_dim is None else out_dim
        if queries < 1 or out_dim % queries:
            raise ValueError(f"queries must divide the output width {out_dim}, got {queries}")
        self.queries = nn.Parameter(torch.randn(queries, dim) * dim**-0.5)
        self.value = nn.Parameter(torch.randn(queries, dim, out_dim // queries) * dim**-0.5)
        self.value_bias = nn.Parameter(torch.zeros(out_dim))

    def forward(self, tokens: Tensor, *, map: str = "none") -> tuple[Tensor, Tensor | None]:
        """Pool the tokens.

        Parameters
        ----------
        tokens : Tensor, shape (batch, token, dim)
        map : {"none", "heads"}, default "none"

        Returns
        -------
        pooled : Tensor, shape (batch, out_dim)
        map : Tensor, shape (batch, query, token), or None
        """
        check_option("map", map, ("none", "heads"))
        check_shape("tokens", tokens, "batch", "token", self.queries.shape[1])
        keys = tokens[:, None]
        read = attention(self.queries[None, None], keys, keys, map=map)
        pooled = torch.einsum("bmd,mde->bme", read.out[:, 0], self.value).flatten(1) + self.value_bias
        return pooled, None if read.map is None else read.map[:, 0]
