"""Attention layers shared by all models."""

from neuroattn.attention.conversion import attention_sensitivity, convert_to_manar, distill
from neuroattn.attention.face import AttentionLayer
from neuroattn.attention.family import (
    ATTENTIONS,
    AffineAttention,
    AgentAttention,
    GatedHeadsAttention,
    HiLoAttention,
    InducedSetAttention,
    InLineAttention,
    LatentAttention,
    PositionAttention,
    ProbeAttention,
    SoftmaxAttention,
    StaticAttention,
    make_attention,
)
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
from neuroattn.attention.tokens import TokenAttention

__all__ = [
    "ATTENTIONS",
    "AffineAttention",
    "AgentAttention",
    "AttentionLayer",
    "ChannelGate",
    "CollaborativeChannelGate",
    "CollaborativeGate",
    "ContextEncoding",
    "ConvBlockAttention",
    "CrossAttention",
    "EfficientChannelGate",
    "FrequencyGate",
    "GATES",
    "GatedChannelTransformation",
    "GatedHeadsAttention",
    "GatherExcite",
    "GlobalWorkspace",
    "HiLoAttention",
    "InLineAttention",
    "InducedSetAttention",
    "LatentAttention",
    "LearnedFilter",
    "LearnedPosition2d",
    "MANAR",
    "MultiQueryProbe",
    "PositionAttention",
    "ProbeAttention",
    "SQUEEZES",
    "SecondOrderGate",
    "SoftmaxAttention",
    "SqueezeExcite",
    "StaticAttention",
    "StyleRecalibration",
<<<<<<< HEAD
    "TokenAttention",
=======
>>>>>>> hQ
    "WorkspaceView",
    "attention_sensitivity",
    "convert_to_manar",
    "distill",
    "gaussian_position",
    "load_reference_gate",
    "make_attention",
    "make_gate",
    "sine_position",
    "sine_position_2d",
]
