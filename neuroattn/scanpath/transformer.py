"""The object attention transformer: objects as tokens, paths as sequences of them, and a pointer to the next."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neuroattn.attention import (
    AttentionLayer,
    CrossAttention,
    gaussian_position,
    make_attention,
    sine_position,
)
from neuroattn.kernels import attention

OBJECT, MATCH, CUE = range(
    3
)  # kinds of tokens: an object, one known to be searched for, what was shown or named


class CachedAttention(CrossAttention):
    """Multi-head attention whose keys and values are projected once and read many times.

    Examples
    --------
    >>> layer = CachedAttention(8, heads=2)
    >>> keys, values = layer.keys_values(torch.zeros(1, 6, 8))
    >>> out, weights = layer.read(torch.zeros(1, 3, 8), keys, values, map="heads")
    >>> out.shape, weights.shape
    (torch.Size([1, 3, 8]), torch.Size([1, 2, 3, 6]))
    """

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)

    def keys_values(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Project tokens (batch, token, dim) to keys and values (batch, head, token, feature)."""
        dim = self.out_proj.in_features
        keys, values = F.linear(tokens, self.in_proj_weight[dim:], self.in_proj_bias[dim:]).chunk(2, -1)
        return self._heads(keys), self._heads(values)

    def read(
        self,
        query: Tensor,
        keys: Tensor,
        values: Tensor,
        *,
        mask: Tensor | None = None,
        window: tuple[Tensor, Tensor] | None = None,
        map: str = "none",
    ) -> tuple[Tensor, Tensor | None]:
        """Read values with queries (batch, query, dim); ``mask`` (batch, token) is True where a token is seen.

        Returns what is read and the map, as :class:`~neuroattn.attention.CrossAttention` does.
        """
        dim = self.out_proj.in_features
        q = self._heads(F.linear(query, self.in_proj_weight[:dim], self.in_proj_bias[:dim]))
        read = attention(q, keys, values, key_mask=mask, window=window, map=map)
        return self.out_proj(read.out.transpose(1, 2).flatten(2)), read.map


class EncoderLayer(nn.Module):
    """Self-attention among the tokens of a scene, then a feed-forward block, each normalised after its residual.

    Parameters carry the names of :class:`torch.nn.TransformerEncoderLayer`.
    """

    def __init__(
        self, dim: int, heads: int, feedforward: int, dropout: float, attention: str = "softmax"
    ) -> None:
        super().__init__()
        self.self_attn = (
            CachedAttention(dim, heads)
            if attention == "softmax"
            else make_attention(attention, dim, heads, batch_first=True)
        )
        self.linear1, self.linear2 = nn.Linear(dim, feedforward), nn.Linear(feedforward, dim)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Map tokens (scene, token, dim) to the same shape."""
        if isinstance(self.self_attn, CachedAttention):
            attended = self.self_attn.read(x, *self.self_attn.keys_values(x), mask=mask)[0]
        else:
            hidden = None if mask is None else ~mask
            attended = self.self_attn(x, x, x, key_padding_mask=hidden, need_weights=False)[0]
        x = self.norm1(x + self.dropout(attended))
        x = self.norm2(x + self.dropout(self.linear2(self.dropout(self.linear1(x).relu()))))
        return x


class DecoderLayer(nn.Module):
    """Self-attention along a path, attention to the scene, then a feed-forward block; normalised as the encoder.

    Parameters carry the names of :class:`torch.nn.TransformerDecoderLayer`.
    """

    def __init__(self, dim: int, heads: int, feedforward: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = CachedAttention(dim, heads)
        self.multihead_attn = CachedAttention(dim, heads)
        self.linear1, self.linear2 = nn.Linear(dim, feedforward), nn.Linear(feedforward, dim)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(dim), nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        scene: tuple[Tensor, Tensor],
        mask: Tensor | None,
        past: tuple[Tensor, Tensor] | None,
        n_past: int,
        map: str = "none",
    ) -> tuple[Tensor, tuple[Tensor | None, Tensor | None]]:
        """Map steps (scene, path, step, dim) to the same shape, writing their keys and values behind ``past``.

        Returns them and the maps of the path (scene * path, head, step, earlier step) and of the scene
        (scene, head, path * step, token), or None for ``map="none"``.
        """
        n_scenes, n_paths, n_steps, _ = x.shape
        rows = x.flatten(0, 1)
        keys, values = self.self_attn.keys_values(rows)
        if past is not None:
            for store, new in zip(past, (keys, values), strict=True):
                store[:, :, n_past : n_past + n_steps] = new
            keys, values = (store[:, :, : n_past + n_steps] for store in past)
        window = None
        if n_steps > 1:  # a step sees itself and what came before
            end = torch.arange(n_past + 1, n_past + n_steps + 1, device=x.device)
            window = torch.zeros_like(end), end
        read, on_path = self.self_attn.read(rows, keys, values, window=window, map=map)
        rows = self.norm1(rows + self.dropout(read))
        # All paths of a scene are queries to one set of keys, which is never copied.
        joint = rows.reshape(n_scenes, n_paths * n_steps, -1)
        read, on_scene = self.multihead_attn.read(joint, *scene, mask=mask, map=map)
        joint = self.norm2(joint + self.dropout(read))
        joint = self.norm3(joint + self.dropout(self.linear2(self.dropout(self.linear1(joint).relu()))))
        return joint.view(x.shape), (on_path, on_scene)


class Pointer(nn.Module):
    """Score each token of a scene by the sum over heads of its inner product with what the decoder looks for [1]_.

    Parameters
    ----------
    dim : int
    width : int
        Channels of a head.
    heads : int, default 1
        The sum over heads is that of one wider head; several exist for published weights.

    References
    ----------
    .. [1] Fang et al. (2024). OAT: object-level attention transformer for gaze scanpath prediction. ECCV.

    Examples
    --------
    >>> pointer = Pointer(8, 4)
    >>> pointer(torch.zeros(2, 3, 8), pointer.key(torch.zeros(2, 5, 8))).shape
    torch.Size([2, 3, 5])
    """

    def __init__(self, dim: int, width: int, heads: int = 1) -> None:
        super().__init__()
        self.width, self.heads = width, heads
        self.query, self.key = nn.Linear(dim, heads * width), nn.Linear(dim, heads * width)
        self.readout = nn.Linear(heads, 1) if heads > 1 else None

    def forward(self, decoded: Tensor, keys: Tensor) -> Tensor:
        """Return scores (batch, query, token) of projected tokens (batch, token, head * width)."""
        query = self.query(decoded) / math.sqrt(self.width)
        if self.readout is not None:
            query = query * self.readout.weight[0].repeat_interleave(self.width)
        scores: Tensor = query @ keys.transpose(1, 2)
        return scores


class SceneMemory(NamedTuple):
    """What a decoder reads of encoded scenes, projected once.

    Attributes
    ----------
    tokens : Tensor, shape (scene, token, dim)
        Embedded objects before the encoder: what a path is made of.
    layers : tuple of (keys, values), each of shape (scene, head, token, feature)
    keys : Tensor, shape (scene, token, width)
        Encoded tokens, projected for the pointer.
    mask : Tensor of bool, shape (scene, token), or None
        True where there is a token.
    """

    tokens: Tensor
    layers: tuple[tuple[Tensor, Tensor], ...]
    keys: Tensor
    mask: Tensor | None

    def take(self, scenes: Tensor) -> SceneMemory:
        """Return the memory of some scenes, which may repeat."""
        return SceneMemory(
            self.tokens[scenes],
            tuple((keys[scenes], values[scenes]) for keys, values in self.layers),
            self.keys[scenes],
            None if self.mask is None else self.mask[scenes],
        )


class PathCache:
    """Keys and values of the steps decoded so far, one row a path.

    Parameters
    ----------
    layers : list of (keys, values), each of shape (path, head, step, feature)
        With room for all steps.
    """

    def __init__(self, layers: list[tuple[Tensor, Tensor]]) -> None:
        self.layers = layers
        self.n_steps = 0

    def take(self, paths: Tensor) -> PathCache:
        """Return the cache of some paths, which may repeat."""
        taken = PathCache([(keys[paths], values[paths]) for keys, values in self.layers])
        taken.n_steps = self.n_steps
        return taken

    def reserve(self, n_steps: int) -> None:
        """Make room for at least so many steps."""
        room = self.layers[0][0].shape[2]
        if n_steps > room:
            more = max(n_steps, 2 * room) - room
            self.layers = [(F.pad(k, (0, 0, 0, more)), F.pad(v, (0, 0, 0, more))) for k, v in self.layers]


class TransformerCore(nn.Module):
    """Encoder of scenes, decoder of paths and pointer, all on embedded tokens.

    Parameters
    ----------
    dim, heads, feedforward : int
        Channels of a token, attention heads, hidden units of the feed-forward blocks.
    encoder_layers, decoder_layers : int
    pointer : Pointer, optional
        None for a network that does not point.
    dropout : float, default 0
        After attention and inside the feed-forward blocks; unlike in the published network not on attention weights.
    encoder_attention : str, default "softmax"
        Of the encoder: a name in :data:`neuroattn.attention.ATTENTIONS`.

    Examples
    --------
    >>> core = TransformerCore(8, heads=2, feedforward=8, encoder_layers=1, decoder_layers=1, pointer=Pointer(8, 8))
    >>> memory = core.memory(torch.zeros(2, 5, 8))
    >>> decoded = core.decode(torch.zeros(2, 3, 4, 8), memory)  # two scenes, three paths, four steps
    >>> decoded.shape, core.point(decoded, memory).shape
    (torch.Size([2, 3, 4, 8]), torch.Size([2, 3, 4, 5]))
    """

    def __init__(
        self,
        dim: int,
        *,
        heads: int,
        feedforward: int,
        encoder_layers: int,
        decoder_layers: int,
        pointer: Pointer | None,
        dropout: float = 0.0,
        encoder_attention: str = "softmax",
    ) -> None:
        super().__init__()
        options = dim, heads, feedforward, dropout
        self.encoder = nn.ModuleList(EncoderLayer(*options, encoder_attention) for _ in range(encoder_layers))
        self.decoder = nn.ModuleList(DecoderLayer(*options) for _ in range(decoder_layers))
        self.pointer = pointer
        self.dim, self.heads = dim, heads
        # Layers of the family have more than projections, and begin as they need.
        own = [p for m in self.modules() if isinstance(m, AttentionLayer) for p in m.parameters()]
        kept = set(map(id, own))
        for parameter in self.parameters():
            if parameter.ndim > 1 and id(parameter) not in kept:
                nn.init.xavier_uniform_(parameter)

    def encode(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Let the tokens (scene, token, dim) of each scene see each other."""
        for layer in self.encoder:
            tokens = layer(tokens, mask)
        return tokens

    def memory(self, tokens: Tensor, mask: Tensor | None = None) -> SceneMemory:
        """Encode scenes and project what decoding reads of them."""
        encoded = self.encode(tokens, mask)
        layers = tuple(
            layer.multihead_attn.keys_values(encoded)
            for layer in self.decoder
            if isinstance(layer, DecoderLayer)
        )
        keys = encoded if self.pointer is None else self.pointer.key(encoded)
        return SceneMemory(tokens, layers, keys, mask)

    def cache(self, n_paths: int, n_steps: int, like: Tensor) -> PathCache:
        """Return an empty cache with room for so many paths and steps, of dtype and device of ``like``."""
        shape = (n_paths, self.heads, n_steps, self.dim // self.heads)
        return PathCache([(like.new_zeros(shape), like.new_zeros(shape)) for _ in self.decoder])

    def decode(self, steps: Tensor, memory: SceneMemory, cache: PathCache | None = None) -> Tensor:
        """Continue paths by embedded steps.

        Parameters
        ----------
        steps : Tensor, shape (scene, path, step, dim)
            The last objects of each path; all from the start without a cache.
        memory : SceneMemory
        cache : PathCache, optional
            Of the earlier steps, rows scene by scene; these steps are added to it. Gradients need None.

        Returns
        -------
        Tensor, shape (scene, path, step, dim)
        """
        n_past = 0
        if cache is not None:
            n_past = cache.n_steps
            cache.reserve(n_past + steps.shape[2])
        x = steps
        for i, layer in enumerate(self.decoder):
            past = None if cache is None else cache.layers[i]
            x = layer(x, memory.layers[i], memory.mask, past, n_past)[0]
        if cache is not None:
            cache.n_steps += steps.shape[2]
        return x

    def point(self, decoded: Tensor, memory: SceneMemory) -> Tensor:
        """Return unnormalised scores (scene, path, step, token) of all tokens, padding too."""
        if self.pointer is None:
            raise TypeError("pointer must be given to point, got None")
        scores: Tensor = self.pointer(decoded.flatten(1, 2), memory.keys)
        return scores.view(*decoded.shape[:3], -1)


class CropNetwork(nn.Module):
    """A small convolutional network for pictures of objects.

    Parameters
    ----------
    dim : int
        Channels of the result.
    pyramid : int, default 2
        Levels of spatial pyramid pooling, 2 to 4: maxima over 1, 2 x 2, 4 x 4 and 8 x 8 cells, for pictures of any
        size. 0 is fixed pooling for pictures of 93 x 150 px (width x height), as published.

    Examples
    --------
    >>> CropNetwork(16)(torch.zeros(2, 3, 40, 30)).shape
    torch.Size([2, 16])
    """

    def __init__(self, dim: int, pyramid: int = 2) -> None:
        super().__init__()
        if pyramid not in (0, 2, 3, 4):
            raise ValueError(f"pyramid must be 0, 2, 3 or 4, got {pyramid!r}")
        self.levels = [2**i for i in range(pyramid)]
        self.cnn1 = nn.Sequential(nn.Conv2d(3, 16, 5), nn.ReLU(), nn.MaxPool2d(5))
        self.cnn2 = nn.Sequential(nn.Conv2d(16, 32, 3), nn.ReLU())
        self.fc = nn.Linear(32 * (sum(n * n for n in self.levels) or 45), dim)

    def forward(self, pictures: Tensor) -> Tensor:
        """Map pictures (picture, 3, y, x) in 0..1 to vectors (picture, dim)."""
        smallest = 19  # leaves one cell after both convolutions
        if self.levels and min(pictures.shape[2:]) < smallest:
            raise ValueError(
                f"crops must be at least {smallest} px wide and high, got {tuple(pictures.shape[2:])}"
            )
        if not self.levels and pictures.shape[2:] != (150, 93):
            raise ValueError(
                f"crops must be 93 x 150 px (width x height) without a pyramid, got {tuple(pictures.shape[2:])}"
            )
        x = self.cnn2(self.cnn1(pictures))
        if not self.levels:
            pooled = F.max_pool2d(x, 3).flatten(1)
        else:
            pooled = torch.cat([_pool_cells(x, n).flatten(1) for n in self.levels], 1)
        out: Tensor = self.fc(pooled)
        return out


def _pool_cells(x: Tensor, n: int) -> Tensor:
    """Maxima over n x n cells of equal size; what is missing at the edges counts as zero, the least after a ReLU."""
    height, width = x.shape[2:]
    kernel = math.ceil(height / n), math.ceil(width / n)
    missing = kernel[0] * n - height, kernel[1] * n - width
    edges = (missing[1] // 2, missing[1] - missing[1] // 2, missing[0] // 2, missing[0] - missing[0] // 2)
    return F.max_pool2d(F.pad(x, edges), kernel)


@dataclass(frozen=True)
class SceneBatch:
    """What the network is given of scenes: tokens for the objects, padded, and behind them one for the cue.

    Parameters
    ----------
    place : Tensor, shape (scene, token, 4)
        Centre x and y, width and height, as shares of the longer side of the image; NaN where there is no place.
    looks : Tensor, shape (scene, token, feature), or pictures (scene, token, 3, y, x) in 0..255
    seen : Tensor of bool, shape (scene, token)
        Where there are looks.
    category : int Tensor, shape (scene, token)
        0 where it is not known.
    kind : int Tensor, shape (scene, token)
        OBJECT, MATCH or CUE.
    mask : Tensor of bool, shape (scene, token)
        Where there is a token.
    """

    place: Tensor
    looks: Tensor
    seen: Tensor
    category: Tensor
    kind: Tensor
    mask: Tensor

    def to(self, device: str | torch.device) -> SceneBatch:
        """Return the batch on a device."""
        return SceneBatch(*(getattr(self, field.name).to(device) for field in fields(self)))


class ObjectAttentionNetwork(nn.Module):
    """Network of :class:`ObjectAttentionTransformer`.

    Parameters
    ----------
    dim : int
        Channels of a token, a multiple of 4: the first half holds looks, the second the position.
    heads, layers, feedforward : int
        Layers of the encoder and as many of the decoder.
    encoder_attention : str
        Of the encoder: a name in :data:`neuroattn.attention.ATTENTIONS`.
    dropout : float
    sigma : float
        Width of the position code as a share of the longer side of the image.
    n_features : int or None
        Features of an object; None for pictures, which a :class:`CropNetwork` reads; 0 for no looks.
    n_categories, n_observers : int
        Numbers of known ones, 0 for none.
    durations : bool
        Whether to predict how long each fixation lasts.

    Examples
    --------
    >>> network = ObjectAttentionNetwork(
    ...     dim=16, heads=2, layers=1, feedforward=16, dropout=0.0, sigma=0.2, n_features=0, n_categories=0,
    ...     n_observers=0, durations=False)
    >>> zeros = torch.zeros(1, 4, dtype=torch.int64)
    >>> mask = torch.tensor([[True, True, True, False]])  # three objects and no cue
    >>> scene = SceneBatch(torch.rand(1, 4, 4), torch.zeros(1, 4, 0), ~mask, zeros, zeros, mask)
    >>> memory = network.memory(scene)
    >>> decoded = network.continue_paths(torch.tensor([[[2, 0], [1, 1]]]), memory)  # two paths of two fixations
    >>> scores, end = network.read(decoded, memory)
    >>> scores.shape, end.shape
    (torch.Size([1, 2, 3, 3]), torch.Size([1, 2, 3]))
    """

    feature_mean: Tensor
    feature_scale: Tensor
    anchors: Tensor

    def __init__(
        self,
        *,
        dim: int,
        heads: int,
        layers: int,
        feedforward: int,
        dropout: float,
        sigma: float,
        n_features: int | None,
        n_categories: int,
        n_observers: int,
        durations: bool,
        encoder_attention: str = "softmax",
    ) -> None:
        super().__init__()
        if dim < 8 or dim % 4:
            raise ValueError(f"dim must be a multiple of 4 and at least 8, got {dim}")
        self.sigma, self.n_observers = sigma, n_observers
        # As many anchors as a code this wide needs to be smooth between them, or as fit.
        n_anchors = min(dim // 4, math.ceil(1.5 / sigma) + 1)
        self.register_buffer("anchors", torch.linspace(0, 1, n_anchors), persistent=False)
        self.pictures = CropNetwork(dim // 2) if n_features is None else None
        self.features = nn.Linear(n_features, dim // 2) if n_features else None
        self.register_buffer("feature_mean", torch.zeros(n_features or 0))
        self.register_buffer("feature_scale", torch.ones(n_features or 0))
        self.category = nn.Embedding(n_categories + 1, dim // 2, padding_idx=0) if n_categories else None
        self.extent = nn.Linear(2, dim // 2)
        self.kind = nn.Embedding(3, dim)
        # Of each object and the cue: attention would need many scenes to learn to compare looks.
        self.likeness = nn.Linear(1, dim, bias=False)
        self.observer = nn.Embedding(n_observers, dim) if n_observers else None
        self.core = TransformerCore(
            dim,
            heads=heads,
            feedforward=feedforward,
            encoder_layers=layers,
            decoder_layers=layers,
            pointer=Pointer(dim, dim),
            dropout=dropout,
            encoder_attention=encoder_attention,
        )
        self.start = nn.Parameter(torch.zeros(dim))
        self.end = nn.Linear(dim, 1)
        self.duration = nn.Linear(2 * dim, 2) if durations else None
        self.dropout = nn.Dropout(dropout)

    def memory(self, scenes: SceneBatch) -> SceneMemory:
        """Embed and encode scenes."""
        half = self.core.dim // 2
        known = ~scenes.place.isnan().any(-1, keepdim=True)
        place = torch.where(known, scenes.place, 0.0)
        looks = place.new_zeros(*scenes.mask.shape, half)
        if self.pictures is not None and scenes.seen.any():
            read = self.pictures(scenes.looks[scenes.seen].float() / 255)
            looks = looks.index_put((scenes.seen,), read.to(looks.dtype))
        if self.features is not None:
            read = self.features((scenes.looks - self.feature_mean) / self.feature_scale)
            looks = read * scenes.seen[..., None]
        alike = F.cosine_similarity(looks, looks[:, -1:], dim=-1)[..., None]
        looks = looks + self.extent(place[..., 2:]) * known
        if self.category is not None:
            looks = looks + self.category(scenes.category)
        codes = [
            gaussian_position(
                place[..., axis], half // 2, sigma=self.sigma, anchors=self.anchors, norm=math.sqrt(half / 2)
            )
            for axis in (0, 1)
        ]
        tokens = torch.cat([looks, torch.cat(codes, -1) * known], -1)
        tokens = tokens + self.kind(scenes.kind) + self.likeness(alike)
        return self.core.memory(tokens, scenes.mask)

    def continue_paths(
        self,
        objects: Tensor,
        memory: SceneMemory,
        observer: Tensor | None = None,
        cache: PathCache | None = None,
    ) -> Tensor:
        """Decode paths by the objects that follow; at their start also the step before the first.

        Parameters
        ----------
        objects : int Tensor, shape (scene, path, step)
        memory : SceneMemory
        observer : int Tensor, shape (scene, path), optional
            -1 for one that is not known: the mean of the known ones.
        cache : PathCache, optional

        Returns
        -------
        Tensor, shape (scene, path, step, dim)
            One step more at the start of paths.
        """
        n_scenes, n_paths, _ = objects.shape
        steps = self.tokens_of(objects, memory)
        n_past = 0 if cache is None else cache.n_steps
        if n_past == 0:
            steps = torch.cat([self.start.expand(n_scenes, n_paths, 1, -1), steps], 2)
        steps = steps + sine_position(n_past + steps.shape[2], self.core.dim, device=steps.device)[n_past:]
        if self.observer is not None:
            weight = self.observer.weight
            person = weight.mean(0).expand(n_scenes, n_paths, -1)
            if observer is not None:
                person = torch.where(observer[..., None] >= 0, weight[observer.clamp_min(0)], person)
            steps = steps + person[:, :, None]
        return self.core.decode(self.dropout(steps), memory, cache)

    def read(self, decoded: Tensor, memory: SceneMemory) -> tuple[Tensor, Tensor]:
        """Return scores of the next object and of the end.

        Returns
        -------
        scores : Tensor, shape (scene, path, step, object)
            Unnormalised, minus infinity for padding.
        end : Tensor, shape (scene, path, step)
            Log odds that the path ends.
        """
        scores = self.core.point(decoded, memory)[..., :-1]
        if memory.mask is not None:
            scores = scores.masked_fill(~memory.mask[:, None, None, :-1], -math.inf)
        return scores, self.end(decoded)[..., 0]

    def read_durations(self, decoded: Tensor, objects: Tensor, memory: SceneMemory) -> tuple[Tensor, Tensor]:
        """Return mean and logarithm of the standard deviation of ln(duration / s) of each fixation.

        Parameters
        ----------
        decoded : Tensor, shape (scene, path, step, dim)
            Before each fixation.
        objects : int Tensor, shape (scene, path, step)
            Fixated then.

        Returns
        -------
        mean, log_scale : Tensor, shape (scene, path, step)
        """
        if self.duration is None:
            raise TypeError("durations must be True to read them, got False")
        mean, log_scale = self.duration(torch.cat([decoded, self.tokens_of(objects, memory)], -1)).unbind(-1)
        return mean - 1.5, log_scale.clamp(-4, 2)  # about 0.22 s to begin with

    def tokens_of(self, objects: Tensor, memory: SceneMemory) -> Tensor:
        """Return the embedded objects (scene, path, step, dim) of paths (scene, path, step)."""
        index = objects.flatten(1)[..., None].expand(-1, -1, self.core.dim)
        return memory.tokens.gather(1, index).view(*objects.shape, self.core.dim)
