"""Networks that map a grid of features to responses, with published and simple readouts."""

from __future__ import annotations

import math
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neuroattn._checks import check_option, check_range, check_shape
from neuroattn.attention import (
    ATTENTIONS,
    CrossAttention,
    LearnedPosition2d,
    MultiQueryProbe,
    make_attention,
    sine_position_2d,
)
from neuroattn.kernels import Routing, attention, routed_readout


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
    n_feature_layers : int, optional
        Backbone layers that features hold along an axis before the channels; None: there is no such axis.
    """

    input_mean: Tensor
    input_scale: Tensor

    def __init__(
        self,
        n_channels: int,
        width: int,
        n_units: int,
        masks: Tensor | None,
        n_left: int | None = None,
        n_feature_layers: int | None = None,
    ) -> None:
        super().__init__()
        channels = (n_channels,) if n_feature_layers is None else (n_feature_layers, n_channels)
        self.register_buffer("input_mean", torch.zeros(channels))
        self.register_buffer("input_scale", torch.ones(channels))
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
        features : Tensor, shape (batch, channel, y, x), or (batch, layer, channel, y, x) where layers are mixed
        return_attention : bool, default False

        Returns
        -------
        Tensor, shape (batch, unit), or EncoderOutput
        """
        check_shape("features", features, "batch", *self.input_mean.shape, "y", "x")
        features = (features - self.input_mean[..., None, None]) / self.input_scale[..., None, None]
        tokens, attention = self.read(features, "heads" if return_attention else "none")
        responses = routed_readout(tokens, self.readout.weight, self.readout.bias, self.routing)
        if not return_attention:
            return responses
        if attention is not None:
            attention = attention.transpose(1, 2)
        return EncoderOutput(responses[:, : self.n_left], responses[:, self.n_left :], attention)


class LayerMix(nn.Module):
    """Let every query read its own mixture of several backbone layers.

    Query r reads the tokens ``sum_l w_rl X_l``, with weights ``w_r = softmax(10 logits_r)`` over layers. The mixture is
    never formed, as it would differ for each query: scores are linear in the keys and add up over layers, and so
    do values. Keys and values of all layers stand side by side within a head, and the blocks of a query are scaled
    by its weights before reading, those of its output after.

    Parameters
    ----------
    n_queries, n_layers : int

    Examples
    --------
    >>> mix = LayerMix(n_queries=3, n_layers=2)
    >>> out, attention = mix(CrossAttention(8, heads=2), torch.zeros(1, 3, 8), torch.zeros(5, 2, 6, 8), map="heads")
    >>> out.shape, attention.shape
    (torch.Size([5, 3, 8]), torch.Size([5, 2, 3, 6]))
    """

    def __init__(self, n_queries: int, n_layers: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(n_queries, n_layers))

    @property
    def weights(self) -> Tensor:
        """Share of each layer in what a query reads, shape (query, layer); rows sum to one."""
        return self.logits.softmax(1)

    def forward(
        self,
        layer: CrossAttention,
        query: Tensor,
        tokens: Tensor,
        position: Tensor | None = None,
        *,
        map: str,
    ) -> tuple[Tensor, Tensor | None]:
        """Read the mixtures through the projections of an attention layer.

        Parameters
        ----------
        layer : CrossAttention
        query : Tensor, shape (batch or 1, query, dim)
        tokens : Tensor, shape (batch, layer, token, dim)
        position : Tensor, shape (token, dim), optional
            Added to the keys of all layers.
        map : {"none", "heads", "mean"}

        Returns
        -------
        out : Tensor, shape (batch, query, dim)
        map : Tensor or None
            As of :class:`~neuroattn.attention.CrossAttention`.
        """
        check_shape("tokens", tokens, "batch", self.logits.shape[1], "token", "dim")
        check_shape("query", query, "batch", len(self.logits), "dim")
        dim, heads = tokens.shape[-1], layer.heads
        weight_q, weight_kv = layer.in_proj_weight[:dim], layer.in_proj_weight[dim:]
        q = F.linear(query, weight_q, layer.in_proj_bias[:dim])
        k, v = F.linear(tokens, weight_kv, layer.in_proj_bias[dim:]).chunk(2, -1)
        if position is not None:
            k = k + F.linear(position, weight_kv[:dim])
        # (batch, layer, token, head x feature) -> (batch, head, token, layer x feature)
        k, v = (t.view(*t.shape[:-1], heads, -1).permute(0, 3, 2, 1, 4).flatten(3) for t in (k, v))
        share = self.weights[..., None]  # (query, layer, 1)
        q = q.view(*q.shape[:2], heads, 1, -1).transpose(1, 2) * share
        read = attention(q.flatten(3), k, v, scale=(dim // heads) ** -0.5, map=map)
        out = (read.out.view(*read.out.shape[:3], share.shape[1], -1) * share).sum(3)
        return layer.out_proj(out.transpose(1, 2).flatten(2)), read.map


class SelfAttentionLayer(nn.Module):
    """Self-attention between tokens and a feed-forward block, each with a residual path [1]_.

    The position code is added to queries and keys.

    Parameters
    ----------
    width, heads, feedforward : int
    dropout : float
        On both residual branches and inside the feed-forward block.
    norm : {"pre", "post"}
    attention : str
        Name in :data:`neuroattn.attention.ATTENTIONS`.

    References
    ----------
    .. [1] Carion et al. (2020). End-to-end object detection with transformers. ECCV.
    """

    def __init__(
        self, width: int, heads: int, feedforward: int, dropout: float, norm: str, attention: str = "softmax"
    ) -> None:
        super().__init__()
        self.pre = check_option("norm", norm, ("pre", "post")) == "pre"
        self.attention = (
            CrossAttention(width, heads)  # projects the position once, not once an image
            if attention == "softmax"
            else make_attention(attention, width, heads, batch_first=True)
        )
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.linear1, self.linear2 = nn.Linear(width, feedforward), nn.Linear(feedforward, width)
        self.dropout = nn.Dropout(dropout)
        for linear in (self.linear1, self.linear2):
            nn.init.xavier_uniform_(linear.weight)

    def forward(self, tokens: Tensor, position: Tensor | None) -> Tensor:
        """Return the next tokens (batch, token, width)."""
        given = self.norm1(tokens) if self.pre else tokens
        asked = given if position is None else given + position
        if isinstance(self.attention, CrossAttention):
            attended = self.attention(asked, given, position)[0]
        else:
            attended = self.attention(asked, asked, given, need_weights=False)[0]
        tokens = tokens + self.dropout(attended)
        if not self.pre:
            tokens = self.norm1(tokens)
        hidden = self.norm2(tokens) if self.pre else tokens
        tokens = tokens + self.dropout(self.linear2(self.dropout(F.relu(self.linear1(hidden)))))
        return tokens if self.pre else self.norm2(tokens)


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
        self,
        state: Tensor,
        queries: Tensor,
        tokens: Tensor,
        position: Tensor | None,
        map: str,
        mix: LayerMix | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Return the next state (batch, query, width) and the map (batch, head, query, token) or None."""
        residual = state if self.pre else self.norm1(state)
        asked = (self.norm1(state) if self.pre else residual) + queries
        if mix is None:
            read, attention = self.attention(asked, tokens, position, map=map)
        else:
            read, attention = mix(self.attention, asked, tokens, position, map=map)
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
    n_feature_layers : int, optional
        Backbone layers along an axis of the features before the channels: each query learns its mixture of them
        (:class:`LayerMix`), the same in all decoder layers.
    width : int, optional
        Channels inside; default ``n_channels``, without a projection as in the paper. Else tokens are projected.
    heads, layers, feedforward : int
        Of the decoder, and ``heads`` and ``feedforward`` of the encoder too.
    encoder_layers : int, default 0
        Self-attention layers between tokens before the queries read them.
    encoder_attention : str, default "softmax"
        Attention of these layers: a name in :data:`neuroattn.attention.ATTENTIONS`, such as "manar".
    dropout : float
    norm : {"pre", "post"}
    position : {"sine", "learned", "none"}

    References
    ----------
    .. [1] Adeli, Sun & Kriegeskorte (2025). Transformer brain encoders explain human high-level visual responses.
       arXiv:2505.17329.
    """

    OWN: ClassVar[tuple[str, ...]] = ("queries", "mix", "readout", "routing")
    """Parts that a subject does not share with another that reads through the same decoder."""

    def __init__(
        self,
        n_channels: int,
        n_units: int,
        masks: Tensor | None = None,
        *,
        n_left: int | None = None,
        n_feature_layers: int | None = None,
        width: int | None = None,
        heads: int = 4,
        layers: int = 1,
        encoder_layers: int = 0,
        encoder_attention: str = "softmax",
        feedforward: int = 256,
        dropout: float = 0.1,
        norm: str = "pre",
        position: str = "sine",
    ) -> None:
        width = n_channels if width is None else width
        super().__init__(n_channels, width, n_units, masks, n_left, n_feature_layers)
        check_range("layers", layers, 1)
        check_range("encoder_layers", encoder_layers, 0)
        check_range("dropout", dropout, 0, 1)
        check_option("position", position, ("sine", "learned", "none"))
        check_option("encoder_attention", encoder_attention, ATTENTIONS)
        self.input_proj = None if width == n_channels else nn.Linear(n_channels, width)
        self.encoder = nn.ModuleList(
            SelfAttentionLayer(width, heads, feedforward, dropout, norm, encoder_attention)
            for _ in range(encoder_layers)
        )
        # Pre-norm layers add to tokens that nothing has normalised; post-norm ones end in a normalisation.
        self.encoder_norm = nn.LayerNorm(width) if encoder_layers and norm == "pre" else None
        self.queries = nn.Parameter(torch.randn(self.n_queries, width))
        self.mix = None if n_feature_layers is None else LayerMix(self.n_queries, n_feature_layers)
        self.layers = nn.ModuleList(
            DecoderLayer(width, heads, feedforward, dropout, norm) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)
        self.position = position
        self.learned_position = LearnedPosition2d(width) if position == "learned" else None
        if position == "sine" and width % 4:
            raise ValueError(f"width must be a multiple of 4 for sine positions, got {width}")

    def share_decoder(self, other: AttentionNetwork) -> None:
        """Read through the decoder of another network, which from now on is one decoder held by both.

        Parameters
        ----------
        other : AttentionNetwork
            Of the same channels and options. Projection, layers, norms, learned positions and standardisation of
            features become those of ``other``; what :attr:`OWN` names stays.
        """
        for name, part in other.named_children():
            if name not in self.OWN:
                setattr(self, name, part)
        self.input_mean, self.input_scale = other.input_mean, other.input_scale

    def read(self, features: Tensor, map: str) -> tuple[Tensor, Tensor | None]:
        """Return query tokens (batch, query, width) and the last layer's map."""
        tokens = features.flatten(-2).transpose(-1, -2)
        if self.input_proj is not None:
            tokens = self.input_proj(tokens)
        position = self._position_of(features)
        if self.encoder:
            tokens = self._encode(tokens.flatten(0, -3), position).view(tokens.shape)
        queries = self.queries[None]
        state = torch.zeros_like(queries)  # the batch shares its queries until it has read the tokens
        attention = None
        for i, layer in enumerate(self.layers):
            last = i == len(self.layers) - 1
            state, attention = layer(state, queries, tokens, position, map if last else "none", self.mix)
        return self.norm(state), attention

    def _encode(self, tokens: Tensor, position: Tensor | None) -> Tensor:
        """Let the tokens (batch, token, width) attend to each other."""
        for layer in self.encoder:
            tokens = layer(tokens, position)
        return tokens if self.encoder_norm is None else self.encoder_norm(tokens)

    def _position_of(self, features: Tensor) -> Tensor | None:
        """Return the code of the token grid, shape (token, width)."""
        height, width = features.shape[-2:]
        if self.position == "none":
            return None
        code: Tensor
        if self.learned_position is not None:
            code = self.learned_position(height, width)
        else:
            code = sine_position_2d(height, width, self.queries.shape[1], device=features.device)
        return code.flatten(1).T.to(features.dtype)


class MapNetwork(EncoderNetwork):
    """Base of networks with a fixed spatial map a query: routing that does not see the image.

    Parameters
    ----------
    n_channels : int
    grid : tuple of int (y, x)
    n_units : int
    masks : Tensor of bool, shape (query, unit), optional
        None: one map a unit.
    n_left : int, optional
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

    @property
    def log_maps(self) -> Tensor:
        """Logarithms of the maps up to a constant of each, shape (query, token)."""
        raise NotImplementedError(f"{type(self).__name__} must define log_maps")

    @property
    def maps(self) -> Tensor:
        """Spatial maps that sum to one, shape (query, token)."""
        return self.log_maps.softmax(1)

    def read(self, features: Tensor, map: str) -> tuple[Tensor, Tensor | None]:
        """Return pooled features (batch, query, channel) and the maps, equal for all images."""
        check_shape("features", features, "batch", "channel", *self.grid)
        maps = self.maps
        pooled = maps @ features.flatten(2).transpose(1, 2)
        shown = maps[None, None].expand(len(features), 1, -1, -1) if map == "heads" else None
        return pooled, shown


class FactorizedNetwork(MapNetwork):
    """A free spatial map for each region or unit, times features [1]_.

    Parameters as of :class:`MapNetwork`.

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
        super().__init__(n_channels, grid, n_units, masks, n_left=n_left)
        self.logits = nn.Parameter(0.01 * torch.randn(self.n_queries, grid[0] * grid[1]))

    @property
    def log_maps(self) -> Tensor:
        """Free parameters, shape (query, token)."""
        return self.logits


class GaussianNetwork(MapNetwork):
    """A Gaussian receptive field for each region or unit, times features [1]_.

    Parameters as of :class:`MapNetwork`.

    References
    ----------
    .. [1] St-Yves & Naselaris (2018). The feature-weighted receptive field: an interpretable encoding model for
       complex feature spaces. NeuroImage 180.
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
        super().__init__(n_channels, grid, n_units, masks, n_left=n_left)
        self.center_logits = nn.Parameter(0.1 * torch.randn(self.n_queries, 2))
        self.log_sizes = nn.Parameter(torch.full((self.n_queries,), math.log(0.25)))

    @property
    def centers(self) -> Tensor:
        """Centres (y, x) as shares of the grid's height and width, shape (query, 2)."""
        return self.center_logits.sigmoid()

    @property
    def sizes(self) -> Tensor:
        """Standard deviations as shares of the grid's longer side, shape (query,)."""
        return self.log_sizes.exp()

    @property
    def log_maps(self) -> Tensor:
        """Squared distances of token centres over twice the squared sizes, negative, shape (query, token)."""
        sigma = self.sizes[:, None] * max(self.grid)  # in tokens: a field is as wide as high in the image
        squares: list[Tensor] = []
        for n, center in zip(self.grid, self.centers.T, strict=True):
            token = torch.arange(n, device=center.device, dtype=center.dtype) + 0.5
            squares.append(((token - n * center[:, None]) / sigma) ** 2)
        y, x = squares
        return (y[:, :, None] + x[:, None, :]).flatten(1).mul(-0.5)


class LinearNetwork(EncoderNetwork):
    """One linear map of a single feature vector, as of a classification token.

    Parameters
    ----------
    n_channels, n_units : int
    n_left : int, optional
    """

    def __init__(self, n_channels: int, n_units: int, *, n_left: int | None = None) -> None:
        super().__init__(n_channels, n_channels, n_units, torch.ones(1, n_units, dtype=torch.bool), n_left)

    def read(self, features: Tensor, map: str) -> tuple[Tensor, Tensor | None]:
        """Return the vector (batch, 1, channel) of a grid of one token; there is no map."""
        check_shape("features", features, "batch", "channel", 1, 1)
        return features.flatten(1)[:, None], None


class ConvolutionNetwork(EncoderNetwork):
    """A strided 3 x 3 convolution and a linear map of all it returns: the published "linear" baseline [1]_.

    Parameters
    ----------
    n_channels : int
    grid : tuple of int (y, x)
    n_units : int
    n_left : int, optional
    width : int
        Channels of the convolution.
    stride : int
    group_norm : float
        Factor of :meth:`penalty`.

    References
    ----------
    .. [1] Adeli, Sun & Kriegeskorte (2025). Transformer brain encoders explain human high-level visual responses.
       arXiv:2505.17329.
    """

    def __init__(
        self,
        n_channels: int,
        grid: tuple[int, int],
        n_units: int,
        *,
        n_left: int | None = None,
        width: int = 256,
        stride: int = 3,
        group_norm: float = 0.02,
    ) -> None:
        check_range("width", width, 1)
        check_range("stride", stride, 1)
        check_range("group_norm", group_norm, 0)
        y, x = ((n - 1) // stride + 1 for n in grid)
        masks = torch.ones(1, n_units, dtype=torch.bool)
        super().__init__(n_channels, width * y * x, n_units, masks, n_left)
        self.conv = nn.Conv2d(n_channels, width, 3, padding=1, stride=stride)
        self.out_grid = y, x
        self.group_norm = group_norm

    def read(self, features: Tensor, map: str) -> tuple[Tensor, Tensor | None]:
        """Return the flattened convolution (batch, 1, channel x y x x); there is no map."""
        found = self.conv(features)
        check_shape("convolved features", found, "batch", "channel", *self.out_grid)
        return found.flatten(1)[:, None], None

    def penalty(self) -> Tensor:
        """Return ``group_norm`` times the sum of the norms, not squared, of each hemisphere's weights and bias."""
        sides = [slice(0, self.n_left), slice(self.n_left, self.n_units)]
        parts = [p[side] for side in sides for p in (self.readout.weight, self.readout.bias)]
        penalty: Tensor = self.group_norm * torch.stack([torch.linalg.vector_norm(p) for p in parts]).sum()
        return penalty


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
