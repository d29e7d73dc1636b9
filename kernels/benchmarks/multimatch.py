"""MultiMatch over many pairs of scanpaths, all in one run against one pair at a time."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from neuroattn.kernels.benchmarks.registry import Case
from neuroattn.metrics import multimatch_pairs
from neuroattn.results import Scanpath

SIZE = (1280, 720)
PACKAGE = "multimatch-gaze"


def scanpath(rng: np.random.Generator, least: int, most: int) -> Scanpath:
    n = rng.integers(least, most + 1)
    x, y = (rng.uniform(0, extent, n) for extent in SIZE)
    return Scanpath(x, y, SIZE, duration=rng.uniform(0.1, 0.5, n))


def make_case(pairs: int, least: int, most: int, share: float, target: dict[str, float]) -> Case:
    from multimatch_gaze import docomparison

    rng = np.random.default_rng(0)
    a, b = ([scanpath(rng, least, most) for _ in range(pairs)] for _ in range(2))
    records = [
        [
            np.rec.fromarrays([path.x, path.y, path.duration], names="start_x,start_y,duration")
            for path in side[: int(share * pairs)]
        ]
        for side in (a, b)
    ]

    def theirs() -> Tensor:
        return torch.tensor([docomparison(one, other, SIZE) for one, other in zip(*records, strict=True)])

    return Case(
        name=f"MultiMatch of {pairs} pairs of scanpaths, {least} to {most} fixations each",
        ours=lambda: torch.from_numpy(multimatch_pairs(a, b).values),
        peers={PACKAGE: theirs},
        check=1e-9,
        target=target,
        share={PACKAGE: share},
    )


def cases(device: str) -> list[Case]:
    return [
        make_case(1000, 10, 40, share=0.1, target={PACKAGE: 20.0}),
        make_case(100, 100, 200, share=0.05, target={}),
    ]
