"""Readout of 20,000 units from 25 regions, and from one token per unit."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from neuroattn.kernels import Routing, routed_readout
from neuroattn.kernels.benchmarks.registry import Case

BATCH, REGIONS, UNITS, WIDTH = 32, 25, 20_000, 768
VERTICES = 2_000


def cases(device: str) -> list[Case]:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device).requires_grad_()

    own = torch.randint(0, REGIONS, (UNITS,), generator=generator)
    masks = torch.nn.functional.one_hot(own, REGIONS).T.bool()
    # One unit in ten belongs to a second region.
    second = torch.rand(UNITS, generator=generator) < 0.1
    masks[torch.randint(0, REGIONS, (UNITS,), generator=generator)[second], second.nonzero()[:, 0]] = True
    h, weight, bias = normal(BATCH, REGIONS, WIDTH), normal(UNITS, WIDTH), normal(UNITS)
    work = {"bytes": 4.0 * (UNITS * WIDTH + BATCH * UNITS), "flops": 2.0 * BATCH * UNITS * WIDTH}

    def dense(masks: Tensor) -> Callable[..., Tensor]:
        def predict(h: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
            return (torch.nn.functional.linear(h, weight, bias) * masks).sum(1)

        return predict

    found = []
    single = torch.nn.functional.one_hot(own.sort().values, REGIONS).T.bool()
    for name, chosen in (("overlapping", masks), ("sorted", single)):
        routing = Routing.from_masks(chosen).to(device)
        mask = chosen.to(device)
        peers = {"dense, then mask": dense(mask)}
        if device == "cuda":
            peers["dense, then mask, compiled"] = torch.compile(dense(mask))
        found.append(
            Case(
                f"{name} regions, B={BATCH} R={REGIONS} V={UNITS} D={WIDTH}, float32",
                lambda h, w, b, routing=routing: routed_readout(h, w, b, routing),
                peers,
                inputs=(h, weight, bias),
                check=1e-4 if device == "cpu" else 1e-2,  # tf32
                backward=True,
                target={"dense, then mask": 3.0},
                training_target={"dense, then mask": 3.0},
                **work,
            )
        )

    def diagonal(h: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return torch.diagonal(torch.nn.functional.linear(h, weight, bias), dim1=-2, dim2=-1)

    found.append(
        Case(
            f"token per unit, B={BATCH} V={VERTICES} D={WIDTH}, float32",
            lambda h, w, b: routed_readout(h, w, b, None),
            {
                "full product, diagonal": diagonal,
                "einsum": lambda h, w, b: torch.einsum("bvd,vd->bv", h, w) + b,
            },
            inputs=(normal(BATCH, VERTICES, WIDTH), normal(VERTICES, WIDTH), normal(VERTICES)),
            check=1e-4 if device == "cpu" else 1e-2,
            backward=True,
            bytes=4.0 * (BATCH + 1) * VERTICES * WIDTH,
            flops=2.0 * BATCH * VERTICES * WIDTH,
            target={"full product, diagonal": 20.0},
        )
    )
    return found
