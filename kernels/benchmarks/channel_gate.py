"""The channel gate with and without the pooling that follows it in BaseNet."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from neuroattn.kernels.benchmarks.registry import Case
from neuroattn.kernels.channel_gate import channel_gate

BATCH, CHANNELS, TIMES = 64, 40, 1125


def case(device: str, dtype: torch.dtype, pool: tuple[int, int] | None) -> Case:
    kernel, stride = pool or (1, 1)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(BATCH, CHANNELS, TIMES, generator=generator).to(device, dtype)
    gate = torch.rand(BATCH, CHANNELS, generator=generator).to(device, dtype)
    windows = (TIMES - kernel) // stride + 1
    size = "no pooling" if pool is None else f"pooled over {kernel} by {stride}"
    return Case(
        name=f"channel gate {BATCH}x{CHANNELS}x{TIMES}, {size}, {str(dtype).removeprefix('torch.')}",
        ours=lambda x, gate: channel_gate(x, gate, pool),
        peers={
            "multiply, then pool": lambda x, gate: (
                x * gate[..., None] if pool is None else F.avg_pool1d(x * gate[..., None], kernel, stride)
            )
        },
        inputs=(x.requires_grad_(), gate.requires_grad_()),
        # In half precision the peer rounds the scaled signal and its sums.
        check=1e-5 if dtype == torch.float32 else 3e-2,
        backward=True,
        bytes=x.element_size() * BATCH * CHANNELS * (TIMES + windows),
        flops=2.0 * x.numel(),
        target={} if pool is None else {"multiply, then pool": 1.0},
        training_target={} if pool is None else {"multiply, then pool": 1.0},
    )


def cases(device: str) -> list[Case]:
    return [
        case(device, dtype, pool)
        for dtype in (torch.float32, torch.bfloat16)
        for pool in (None, (8, 8), (75, 15))
    ]
