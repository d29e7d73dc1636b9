"""Attention layers shared by all models."""

from neuroattn.attention.conversion import attention_sensitivity, convert_to_manar, distill
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
from neuroattn.attention.manar import MANAR, GlobalWorkspace, WorkspaceView
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
    "MANAR",
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
    "GlobalWorkspace",
    "LearnedFilter",
    "LearnedPosition2d",
    "MultiQueryProbe",
    "SecondOrderGate",
    "SqueezeExcite",
    "StyleRecalibration",
    "WorkspaceView",
    "attention_sensitivity",
    "convert_to_manar",
    "distill",
    "gaussian_position",
    "load_reference_gate",
    "make_gate",
    "sine_position",
    "sine_position_2d",
]
