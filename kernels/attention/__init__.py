"""Softmax attention that also returns its exact map: definition, CPU route and Triton kernels."""

from neuroattn.kernels.attention.op import AttentionOutput, attention

__all__ = ["AttentionOutput", "attention"]
