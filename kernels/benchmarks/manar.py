"""The workspace layer with its projections beside multi-head attention, and where in tokens it begins to pay."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from neuroattn.attention import MANAR
from neuroattn.kernels.benchmarks.registry import Case

DIM, HEADS, CONCEPTS = 768, 12, 64
LENGTHS = (64, 128, 256, 512, 1024, 4096)  # the smallest bracket the crossover
LONGEST = 16384


def layers(device: str) -> tuple[MANAR, nn.MultiheadAttention, Tensor]:
    """Make a layer whose concepts are the only tokens there are, so that multi-head attention confirms it."""
    generator = torch.Generator().manual_seed(0)
    concepts = torch.randn(CONCEPTS, DIM, generator=generator)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        mha = nn.MultiheadAttention(DIM, HEADS, batch_first=True)
    ours = MANAR.from_multihead(mha, CONCEPTS, calibration=concepts, tau=1e-3, kappa=0)
    return ours.to(device), mha.to(device), concepts.to(device)


def case(device: str, tokens: int, *, causal: bool = False) -> Case:
    """Self-attention of one sequence, without weights."""
    ours, mha, concepts = layers(device)
    member = torch.randint(CONCEPTS, (tokens,), generator=torch.Generator().manual_seed(1))
    x = concepts[member.to(device)][None].requires_grad_()

    def attend(x: Tensor) -> Tensor:
        return ours(x, x, x, need_weights=False, is_causal=causal)[0]

    def full(x: Tensor) -> Tensor:
        mask = torch.ones(tokens, tokens, dtype=torch.bool, device=device).triu(1) if causal else None
        return mha(x, x, x, need_weights=False, attn_mask=mask, is_causal=causal)[0]

    return Case(
        name=f"layer with projections, 1x{tokens} tokens of {DIM}, {HEADS} heads, {CONCEPTS} concepts"
        f"{', causal' if causal else ''}, float32",
        ours=attend,
        peers={"nn.MultiheadAttention": full},
        inputs=(x,),
        check=1e-3,
        backward=tokens <= 4096,
        bytes=8.0 * x.numel(),
        flops=8.0 * tokens * DIM**2 + 10.0 * tokens * CONCEPTS * DIM,
    )


def cases(device: str) -> list[Case]:
    """Measure the layer by length, the causal one once, and the longest forward only."""
    return [
        *(case(device, tokens) for tokens in LENGTHS),
        case(device, 1024, causal=True),
        case(device, LONGEST),
    ]
