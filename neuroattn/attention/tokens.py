"""Attention between the moments of a signal."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from neuroattn._checks import check_shape
from neuroattn.attention.family import make_attention


class TokenAttention(nn.Module):
    """Let the moments of a signal attend to each other, and add what they read.

    Every moment is a token of all channels, normalised by layer normalisation. It stands where channel attention
    stands: by name in `make_gate`, and so in :class:`neuroattn.eeg.BaseNet` and
    :func:`neuroattn.eeg.insert_attention`. Tokens have no position code: the convolutions before have seen time.

    Parameters
    ----------
    n_channels : int
        Channels of the signal.
    attention : str, default "manar"
        A name in `ATTENTIONS`.
    num_heads : int, default 4
        Divides ``n_channels``.
    **options
        Of the layer that is named.

    Examples
    --------
    >>> import torch
    >>> layer = TokenAttention(16, "manar", n_concepts=8)
    >>> layer(torch.zeros(2, 16, 62)).shape
    torch.Size([2, 16, 62])
    """

    def __init__(
        self, n_channels: int, attention: str = "manar", *, num_heads: int = 4, **options: Any
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(n_channels)
        self.attention = make_attention(attention, n_channels, num_heads, batch_first=True, **options)

    def forward(self, x: Tensor) -> Tensor:
        """Map a signal (batch, channel, time) to the same shape."""
        check_shape("x", x, "batch", self.attention.embed_dim, "time")
        tokens = self.norm(x.mT)
        out: Tensor = x + self.attention(tokens, tokens, tokens, need_weights=False)[0].mT
        return out
