"""Eccentricity-dependent pooling beside the published way: pool the whole map once per ring."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

from neuroattn.kernels.benchmarks.registry import Case
from neuroattn.kernels.eccentricity_pool import LinearLaw, eccentricity_pool

LAW, STRIDE = LinearLaw(), 2


def ring_by_ring(x: Tensor, mode: str) -> Tensor:
    """Add up whole pooled maps times the masks of their rings; windows and masks are made once."""
    side = x.shape[-1]
    total = x.new_zeros(*x.shape[:2], *rings(side)[0][1].shape)
    for k, ring in rings(side):
        beyond = max((ring.shape[-1] - 1) * STRIDE + k - side, 0)
        padding = [beyond // 2, beyond - beyond // 2] * 2
        if mode == "max":
            pooled = F.max_pool2d(F.pad(x, padding, value=-torch.inf), k, STRIDE)
        else:
            count = F.avg_pool2d(F.pad(x.new_ones(1, 1, side, side), padding), k, STRIDE)
            pooled = F.avg_pool2d(F.pad(x, padding), k, STRIDE) / count
        total = total + pooled * ring.to(x)
    return total


@functools.cache
def rings(side: int) -> list[tuple[int, Tensor]]:
    label, windows = LAW.rings(side, side)[0], LAW.windows(side, side)[0]
    return [(int(windows[label == i][0]), label == i) for i in range(int(label.max()) + 1)]


def case(device: str, channels: int, side: int, dtype: torch.dtype, mode: str) -> Case:
    x = torch.rand(1, channels, side, side, generator=torch.Generator().manual_seed(0))
    x = x.to(device, dtype).requires_grad_()
    mean = mode == "mean"
    return Case(
        name=f"{mode} pooling 1x{channels}x{side}x{side}, {len(rings(side))} rings, "
        f"{str(dtype).removeprefix('torch.')}",
        ours=lambda x: eccentricity_pool(x, law=LAW, mode=mode),
        peers={"ring by ring": lambda x: ring_by_ring(x, mode)},
        inputs=(x,),
        check=1e-5 if dtype == torch.float32 else 3e-2,
        # The published layer was not trained; of equal maxima of a half, either may take the gradient.
        backward=mean,
        bytes=x.element_size() * x.numel() * 1.25,
        flops=float(LAW.windows(side, side).square().sum()) * channels,
        target={"ring by ring": 6.0} if mean else {},
    )


def cases(device: str) -> list[Case]:
    found = [
        case(device, 64, 160, torch.float32, "mean"),
        case(device, 64, 160, torch.bfloat16, "mean"),
        case(device, 64, 160, torch.float32, "max"),
    ]
    if device == "cuda":  # layer 3 of a picture of 1280 pixels
        found.append(case(device, 256, 320, torch.float32, "mean"))
    return found
