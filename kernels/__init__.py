"""Attention primitives shared by all models."""

if __name__ != "neuroattn.kernels":
    raise ImportError("import neuroattn.kernels; the top-level folder kernels/ is not a package of its own")

from neuroattn.kernels.attention import AttentionOutput, attention
from neuroattn.kernels.channel_gate import channel_gate
from neuroattn.kernels.eccentricity_pool import LinearLaw, eccentricity_pool
from neuroattn.kernels.routed_readout import Routing, routed_readout
from neuroattn.kernels.workspace_integrate import Workspace, workspace_integrate

__all__ = [
    "AttentionOutput",
    "LinearLaw",
    "Routing",
    "Workspace",
    "attention",
    "channel_gate",
    "eccentricity_pool",
    "routed_readout",
    "workspace_integrate",
]
