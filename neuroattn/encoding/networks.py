"""Networks that map a grid of features to responses, with published and simple readouts."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neuroattn._checks import check_option, check_range, check_shape
from neuroattn.attention import CrossAttention, LearnedPosition2d, MultiQueryProbe, sine_position_2d
from neuroattn.kernels import Routing, routed_readout


class EncoderOutput(NamedTuple):
    """Responses with the attention that led to them.

    ``lh`` (batch, left unit) and ``rh`` (batch, right unit) are the responses of the hemispheres; without
    hemispheres all units are in ``lh``. ``attention`` (batch, query, head, token) is that of the last layer.

    Examples
    --------
    >>> network = AttentionNetwork(8, 5, torch.ones(2, 5, dtype=torch.bool), n_left=3, heads=2)
    >>> output = network(torch.zeros(4, 8, 3, 3), return_attention=True)
    >>> output.lh.shape, output.rh.shape, output.attention.shape
    (torch.Size([4, 3]), torch.Size([4, 2]), torch.Size([4, 2, 2, 9]))
    """

    lh: Tensor
    rh: Tensor
    attention: Tensor | None


class EncoderNetwork(nn.Module):
    """Base of all encoder networks: features to query tokens to responses.

    Parameters
    ----------
    n_channels : int
        Channels of the features, standardised by the buffers ``input_mean`` and ``input_scale``.
    width : int
        Channels of the tokens that the readout reads.
    n_units : int
    masks : Tensor of bool, shape (query, unit), optional
        Units that read each query; None gives every unit a query of its own.
    n_left : int, optional
        Units of the left hemisphere, which come first; default all.
    """

    input_mean: Tensor
    input_scale: Tensor

    def __init__(
        self, n_channels: int, width: int, n_units: int, masks: Tensor | None, n_left: int | None = None
    ) -> None:
        super().__init__()
        self.register_buffer("input_mean", torch.zeros(n_channels))
        self.register_buffer("input_scale", torch.ones(n_channels))
        if masks is not None:
            check_shape("masks", masks, "query", n_units)
        self.n_units = n_units
        self.n_left = n_units if n_left is None else n_left
        self.routing = None if masks is None else Routing.from_masks(masks)
        self.readout = nn.Linear(width, n_units)

    @property
    def n_queries(self) -> int:
        """Number of query tokens."""
        return self.n_units if self.routing is None else self.routing.n_regions

    def read(self, features: Tensor, map: str) -> tuple[Tensor, Tensor | None]:
        """Return query tokens (batch, query, width) of standardised features, and their map or None.

        The map has shape (batch, head, query, token).
        """
        raise NotImplementedError(f"{type(self).__name__} must define read")

    def forward(self, features: Tensor, *, return_attention: bool = False) -> Tensor | EncoderOutput:
        """Predict responses.

        Parameters
        ----------
        features : Tensor, shape (batch, channel, y, x)
        return_attention : bool, default False

        Returns
        -------
        Tensor, shape (batch, unit), or EncoderOutput
        """
        check_shape("features", features, "batch", len(self.input_mean), "y", "x")
        features = (features - self.input_mean[:, None, None]) / self.input_scale[:, None, None]
        tokens, attention = self.read(features, "heads" if return_attention else "none")
        responses = routed_readout(tokens, self.readout.weight, self.readout.bias, self.routing)
        if not return_attention:
            return responses
        if attention is not None:
            attention = attention.transpose(1, 2)
        return EncoderOutput(responses[:, : self.n_left], responses[:, self.n_left :], attention)


class DecoderLayer(nn.Module):
    """Cross-attention and a feed-forward block, each with a residual path.

    Queries do not attend to each other. With ``norm="pre"`` the normalised state plus the learned query asks; with
    ``norm="post"`` normalisation follows each residual sum, and once more the normalised state.

    Parameters
    ----------
    width, heads, feedforward : int
        Channels, heads, and hidden units of the feed-forward block.
    dropout : float
        On both residual branches and inside the feed-forward block.
    norm : {"pre", "post"}
    """

    def __init__(self, width: int, heads: int, feedforward: int, dropout: float, norm: str) -> None:
        super().__init__()
        self.pre = check_option("norm", norm, ("pre", "post")) == "pre"
        self.attention = CrossAttention(width, heads)
        self.norm1, self.norm3 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.norm2 = None if self.pre else nn.LayerNorm(width)
        self.linear1, self.linear2 = nn.Linear(width, feedforward), nn.Linear(feedforward, width)
        self.dropout = nn.Dropout(dropout)
        for linear in (self.linear1, self.linear2):
            nn.init.xavier_uniform_(linear.weight)

    def forward(
        self, state: Tensor, queries: Tensor, tokens: Tensor, position: Tensor | None, map: str
    ) -> tuple[Tensor, Tensor | None]:
        """Return the next state (batch, query, width) and the map (batch, head, query, token) or None."""
        residual = state if self.pre else self.norm1(state)
        asked = (self.norm1(state) if self.pre else residual) + queries
        read, attention = self.attention(asked, tokens, position, map=map)
        state = residual + self.dropout(read)
        if self.norm2 is not None:
            state = self.norm2(state)
        hidden = self.norm3(state) if self.pre else state
        state = state + self.dropout(self.linear2(self.dropout(F.relu(self.linear1(hidden)))))
        return state if self.pre else self.norm3(state), attention


class AttentionNetwork(EncoderNetwork):
    """Transformer brain encoder: one learned query a region or unit reads the token grid [1]_.

    Parameters
    ----------
    n_channels : int
        Channels of the features.
    n_units : int
    masks : Tensor of bool, shape (query, unit), optional
        None: one query a unit.
    n_left : int, optional
    width : int, optional
        Channels inside; default ``n_channels``, without a projection as in the paper. Else tokens are projected.
    heads, layers, feedforward : int
    dropout : float
    norm : {"pre", "post"}
    position : {"sine", "learned", "none"}

    References
    ----------
    .. [1] Adeli, Sun & Kriegeskorte (2025). Transformer brain encoders explain human high-level visual responses.
       arXiv:2505.17329.
    """

    def __init__(
        self,
        n_channels: int,
        n_units: int,
        masks: Tensor | None = None,
        *,
        n_left: int | None = None,
        width: int | None = None,
        heads: int = 4,
        layers: int = 1,
        feedforward: int = 256,
        dropout: float = 0.1,
        norm: str = "pre",
        position: str = "sine",
    ) -> None:
        width = n_channels if width is None else width
        super().__init__(n_channels, width, n_units, masks, n_left)
        check_range("layers", layers, 1)
        check_range("dropout", dropout, 0, 1)
        check_option("position", position, ("sine", "learned", "none"))
        self.input_proj = None if width == n_channels else nn.Linear(n_channels, width)
        self.queries = nn.Parameter(torch.randn(self.n_queries, width))
        self.layers = nn.ModuleList(
            DecoderLayer(width, heads, feedforward, dropout, norm) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)
        self.position = position
        self.learned_position = LearnedPosition2d(width) if position == "learned" else None
        if position == "sine" and width % 4:
            raise ValueError(f"width must be a multiple of 4 for sine positions, got {width}")

    def read(self, features: Tensor, map: str) -> tuple[Tensor, Tensor | None]:
        """Return query tokens (batch, query, width) and the last layer's map."""
        tokens = features.flatten(2).transpose(1, 2)
        if self.input_proj is not None:
            tokens = self.input_proj(tokens)
        position = self._position_of(features)
        queries = self.queries[None]
        state = torch.zeros_like(queries)  # the batch shares its queries until it has read the tokens
        attention = None
        for i, layer in enumerate(self.layers):
            last = i == len(self.layers) - 1
            state, attention = layer(state, queries, tokens, position, map if last else "none")
        return self.norm(state), attention

    def _position_of(self, features: Tensor) -> Tensor | None:
        """Return the code of the token grid, shape (token, width)."""
        height, width = features.shape[2:]
        if self.position == "none":
            return None
        code: Tensor
        if self.learned_position is not None:
            code = self.learned_position(height, width)
        else:
            code = sine_position_2d(height, width, self.queries.shape[1], device=features.device)
        return code.flatten(1).T.to(features.dtype)


class FactorizedNetwork(EncoderNetwork):
    """A fixed spatial map for each region or unit, times features [1]_: routing that does not see the image.

    Parameters
    ----------
    n_channels : int
    grid : tuple of int (y, x)
    n_units : int
    masks : Tensor of bool, shape (query, unit), optional
        None: one map a unit.
    n_left : int, optional

    References
    ----------
    .. [1] Klindt, Ecker, Euler & Bethge (2017). Neural system identification for large populations separating
       "what" and "where". NeurIPS.
    """

    def __init__(
        self,
        n_channels: int,
        grid: tuple[int, int],
        n_units: int,
        masks: Tensor | None = None,
        *,
        n_left: int | None = None,
    ) -> None:
        super().__init__(n_channels, n_channels, n_units, masks, n_left)
        self.grid = grid
        self.logits = nn.Parameter(0.01 * torch.randn(self.n_queries, grid[0] * grid[1]))

    @property
    def maps(self) -> Tensor:
        """Spatial maps that sum to one, shape (query, token)."""
        return self.logits.softmax(1)

    def read(self, features: Tensor, map: str) -> tuple[Tensor, Tensor | None]:
        """Return pooled features (batch, query, channel) and the maps, equal for all images."""
        check_shape("features", features, "batch", "channel", *self.grid)
        maps = self.maps
        pooled = maps @ features.flatten(2).transpose(1, 2)
        shown = maps[None, None].expand(len(features), 1, -1, -1) if map == "heads" else None
        return pooled, shown


class ProbeNetwork(EncoderNetwork):
    """Multi-query attentive probe: all units read one pooled vector [1]_.

    Parameters
    ----------
    n_channels : int
    n_units : int
    n_left : int, optional
    queries : int
        Number of probe queries.
    width : int
        Channels of the pooled vector, a multiple of ``queries``.

    References
    ----------
    .. [1] Psomas et al. (2025). Attention, please! Revisiting attentive probing through the lens of efficiency.
    """

    def __init__(
        self,
        n_channels: int,
        n_units: int,
        *,
        n_left: int | None = None,
        queries: int = 8,
        width: int = 128,
    ) -> None:
        super().__init__(n_channels, width, n_units, torch.ones(1, n_units, dtype=torch.bool), n_left)
        self.probe = MultiQueryProbe(n_channels, queries, width)
        self.norm = nn.LayerNorm(width)

    def read(self, features: Tensor, map: str) -> tuple[Tensor, Tensor | None]:
        """Return the pooled vector (batch, 1, width) and the maps (batch, head, 1, token), a head a query."""
        pooled, attention = self.probe(features.flatten(2).transpose(1, 2), map=map)
        return self.norm(pooled)[:, None], None if attention is None else attention[:, :, None]
