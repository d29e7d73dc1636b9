"""Attention layers shared by all models."""

from neuroattn.attention.multihead import CrossAttention
from neuroattn.attention.positional import LearnedPosition2d, sine_position_2d
from neuroattn.attention.probing import MultiQueryProbe

__all__ = ["CrossAttention", "LearnedPosition2d", "MultiQueryProbe", "sine_position_2d"]
