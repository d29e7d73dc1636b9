"""Attention with and without its map, few queries over many keys as in a brain encoder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from neuroattn.kernels import attention
from neuroattn.kernels.benchmarks.registry import Case

BATCH, HEADS, QUERIES, KEYS, WIDTH = 32, 16, 48, 961, 48


def naive(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    weights = torch.softmax(q @ k.transpose(-1, -2) * WIDTH**-0.5, -1)
    return weights @ v, weights.to(torch.float32)


def naive_mean(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    out, weights = naive(q, k, v)
    return out, weights.mean(1)


def ours(map: str) -> Callable[..., Any]:
    return lambda q, k, v: tuple(attention(q, k, v, map=map)[: 1 if map == "none" else 2])


def multihead(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Do what nn.MultiheadAttention(need_weights=True) does between its projections."""
    flat = [x.flatten(0, 1) for x in (q, k, v)]
    weights = torch.softmax(torch.bmm(flat[0] * WIDTH**-0.5, flat[1].transpose(-1, -2)), -1)
    out = torch.bmm(weights, flat[2]).view_as(q)
    return out, weights.view(*q.shape[:3], -1).to(torch.float32).mean(1)


def flex(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Make the exact map from the log-sum-exp of flex_attention and a second product."""
    from torch.nn.attention.flex_attention import flex_attention

    out, lse = torch.compile(flex_attention)(q, k, v, return_lse=True)
    scores = (q @ k.transpose(-1, -2)).float() * WIDTH**-0.5
    return out, torch.exp(scores - lse[..., None])


def cases(device: str) -> list[Case]:
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        generator = torch.Generator().manual_seed(0)
        inputs = tuple(
            torch.randn(BATCH, HEADS, n, WIDTH, generator=generator).to(device, dtype).requires_grad_()
            for n in (QUERIES, KEYS, KEYS)
        )
        low = dtype == torch.bfloat16
        element = 2 if low else 4
        traffic = element * 2 * BATCH * HEADS * (KEYS + QUERIES) * WIDTH
        flops = 4 * BATCH * HEADS * QUERIES * KEYS * WIDTH
        sizes = f"B={BATCH} H={HEADS} Lq={QUERIES} Lk={KEYS} D={WIDTH}, {str(dtype).removeprefix('torch.')}"
        common: dict[str, Any] = {
            "inputs": inputs,
            "check": 3e-2 if low else 1e-4,
            "backward": True,
            "flops": flops,
        }
        compiled = {"compiled naive": torch.compile(naive)} if device == "cuda" else {}
        compiled_mean = {"compiled naive": torch.compile(naive_mean)} if device == "cuda" else {}
        found += [
            Case(
                f"no map, {sizes}",
                ours("none"),
                {"SDPA": lambda q, k, v: (F.scaled_dot_product_attention(q, k, v),)},
                bytes=traffic,
                target={"SDPA": 0.95},
                training_target={"SDPA": 0.95},
                **common,
            ),
            Case(
                f"mean map, {sizes}",
                ours("mean"),
                {"naive": naive_mean, "nn.MultiheadAttention": multihead, **compiled_mean},
                bytes=traffic + 4 * BATCH * QUERIES * KEYS,
                target={"naive": 1.0 if low else 2.0},
                **common,
            ),
            Case(
                f"map per head, {sizes}",
                ours("heads"),
                {"naive": naive, **compiled, **({"flex + second product": flex} if device == "cuda" else {})},
                bytes=traffic + 4 * BATCH * HEADS * QUERIES * KEYS,
                target={"naive": 1.0},
                **common,
            ),
        ]
    return found
