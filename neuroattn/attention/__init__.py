"""Attention layers shared by all models."""

from neuroattn.attention.gates import (
    GATES,
    SQUEEZES,
    ChannelGate,
    CollaborativeChannelGate,
    CollaborativeGate,
    ContextEncoding,
    ConvBlockAttention,
    EfficientChannelGate,
    FrequencyGate,
    GatedChannelTransformation,
    GatherExcite,
    LearnedFilter,
    SecondOrderGate,
    SqueezeExcite,
    StyleRecalibration,
    make_gate,
)
from neuroattn.attention.gates_reference import load_reference_gate
from neuroattn.attention.multihead import CrossAttention
from neuroattn.attention.positional import (
    LearnedPosition2d,
    gaussian_position,
    sine_position,
    sine_position_2d,
)
from neuroattn.attention.probing import MultiQueryProbe

__all__ = [
    "GATES",
    "SQUEEZES",
    "ChannelGate",
    "CollaborativeChannelGate",
    "CollaborativeGate",
    "ContextEncoding",
    "ConvBlockAttention",
    "CrossAttention",
    "EfficientChannelGate",
    "FrequencyGate",
    "GatedChannelTransformation",
    "GatherExcite",
    "LearnedFilter",
    "LearnedPosition2d",
    "MultiQueryProbe",
    "SecondOrderGate",
    "SqueezeExcite",
    "StyleRecalibration",
    "gaussian_position",
    "load_reference_gate",
    "make_gate",
    "sine_position",
    "sine_position_2d",
]
