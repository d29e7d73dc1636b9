"""Attention primitives shared by all models: each has a reference, a fast CPU route and Triton kernels."""

if __name__ != "neuroattn.kernels":
    raise ImportError("import neuroattn.kernels; the top-level folder kernels/ is not a package of its own")

from neuroattn.kernels.attention import AttentionOutput, attention
from neuroattn.kernels.routed_readout import Routing, routed_readout

__all__ = ["AttentionOutput", "Routing", "attention", "routed_readout"]
