"""A training step of BaseNet beside the same step of braindecode's port, which keeps the published order."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neuroattn.eeg import load_reference
from neuroattn.kernels.benchmarks.registry import Case

BATCH, TIMES, CLASSES = 64, 1000, 4
PEER = "braindecode AttentionBaseNet"


def step(model: nn.Module) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return a function that trains a model for one step of Adam and returns the loss and the gradient before it."""
    adam = torch.optim.Adam(model.parameters(), lr=1e-3)

    def run(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            adam.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
        gradient = torch.cat([p.grad.flatten() for p in model.parameters()])
        adam.step()
        return loss.detach(), gradient

    return run


def case(device: str, n_chans: int, target: float) -> Case:
    from braindecode.models import AttentionBaseNet

    torch.manual_seed(0)
    # Without dropout, so that both compute the same numbers.
    config = {
        "n_chans": n_chans, "n_outputs": CLASSES, "n_times": TIMES, "attention_mode": "se", "drop_prob_inp": 0.0,
        "drop_prob_attn": 0.0,
    }  # fmt: skip
    theirs = AttentionBaseNet(**config)
    ours = load_reference(theirs.state_dict(), config)
    x = torch.randn(BATCH, n_chans, TIMES)
    y = torch.randint(CLASSES, (BATCH,))
    return Case(
        name=f"step of Adam, SE, {BATCH} trials of {n_chans} electrodes x {TIMES} samples, float32",
        ours=step(ours.to(device).train()),
        peers={PEER: step(theirs.to(device).train())},
        inputs=(x.to(device), y.to(device)),
        check=1e-4,
        step=True,
        target={PEER: target},
    )


def cases(device: str) -> list[Case]:
    return [case(device, n_chans, target) for n_chans, target in ((3, 1.0), (22, 5.0), (44, 8.0))]
