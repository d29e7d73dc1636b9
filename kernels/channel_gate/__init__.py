"""Scaling of channels by a gate, alone or with the average pooling that follows."""

from neuroattn.kernels.channel_gate.op import channel_gate

__all__ = ["channel_gate"]
