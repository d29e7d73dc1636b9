"""The core of workspace attention, integration and broadcast, beside full attention over the same tokens."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from neuroattn.kernels.benchmarks.registry import Case
from neuroattn.kernels.workspace_integrate import reference, workspace_integrate

HEADS, CONCEPTS, WIDTH = 12, 64, 64


def broadcast(q: Tensor, keys: Tensor, values: Tensor, log_mass: Tensor) -> Tensor:
    bias = log_mass[..., None, :].to(q.dtype).expand(*q.shape[:-1], -1)
    return F.scaled_dot_product_attention(q, keys, values, attn_mask=bias)


def case(device: str, batch: int, tokens: int, dtype: torch.dtype) -> Case:
    """Take copies of the concepts as tokens: the slots then speak for them exactly, as SDPA can confirm."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device, dtype)

    concept_k, concept_v = draw(HEADS, CONCEPTS, WIDTH), draw(HEADS, CONCEPTS, WIDTH)
    member = torch.randint(CONCEPTS, (batch, HEADS, tokens), generator=generator).to(device)
    head = torch.arange(HEADS, device=device)[:, None]
    k, v = concept_k[head, member], concept_v[head, member]
    log_kappa = torch.full((HEADS, CONCEPTS), -math.inf, device=device)
    q = draw(batch, HEADS, tokens, WIDTH)

    def ours(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        slots = workspace_integrate(k, v, concept_k, concept_v, log_kappa, tau=0.02)
        return broadcast(q, *slots[:3])

    def autograd(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        tau = torch.full((HEADS,), 0.02, device=device)
        tokens, concepts = (k.float(), v.float()), (concept_k.float(), concept_v.float())
        keys, values, log_mass = reference.workspace_integrate(*tokens, *concepts, log_kappa, tau)
        return broadcast(q, keys.to(dtype), values.to(dtype), log_mass)

    single = dtype == torch.float32
    return Case(
        name=f"workspace attention {batch}x{HEADS} heads, {tokens} tokens, {CONCEPTS} concepts of {WIDTH}, "
        f"{str(dtype).removeprefix('torch.')}",
        ours=ours,
        peers={
            "SDPA over all tokens": F.scaled_dot_product_attention,
            "the definition, by autograd": autograd,
        },
        inputs=tuple(x.requires_grad_() for x in (q, k, v)),
        check=1e-4 if single else 5e-2,
        backward=True,
        bytes=4.0 * q.element_size() * q.numel(),
        flops=10.0 * batch * HEADS * tokens * CONCEPTS * WIDTH,
        target={"SDPA over all tokens": 4.0} if tokens >= 4096 else {},
        training_target={"SDPA over all tokens": 4.0} if tokens >= 4096 else {},
    )


def cases(device: str) -> list[Case]:
    if device == "cuda":
        return [case(device, 32, 4096, dtype) for dtype in (torch.bfloat16, torch.float32)]
    return [
        case(device, 1, 4096, torch.float32),
        case(device, 1, 4096, torch.bfloat16),
        case(device, 1, 961, torch.float32),
    ]
