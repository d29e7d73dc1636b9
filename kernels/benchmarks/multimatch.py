"""MultiMatch over many pairs of scanpaths, all in one run against one pair at a time."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from neuroattn.kernels.benchmarks.registry import Case
from neuroattn.metrics import multimatch_pairs
from neuroattn.results import Scanpath

PAIRS, SHARE, SIZE = 1000, 0.1, (1280, 720)
PACKAGE = "multimatch-gaze"


def scanpath(rng: np.random.Generator) -> Scanpath:
    n = rng.integers(10, 41)
    x, y = (rng.uniform(0, extent, n) for extent in SIZE)
    return Scanpath(x, y, SIZE, duration=rng.uniform(0.1, 0.5, n))


def cases(device: str) -> list[Case]:
    from multimatch_gaze import docomparison

    rng = np.random.default_rng(0)
    a, b = ([scanpath(rng) for _ in range(PAIRS)] for _ in range(2))
    records = [
        [
            np.rec.fromarrays([path.x, path.y, path.duration], names="start_x,start_y,duration")
            for path in side[: int(SHARE * PAIRS)]
        ]
        for side in (a, b)
    ]

    def theirs() -> Tensor:
        return torch.tensor([docomparison(one, other, SIZE) for one, other in zip(*records, strict=True)])

    return [
        Case(
            name=f"MultiMatch of {PAIRS} pairs of scanpaths, 10 to 40 fixations each",
            ours=lambda: torch.from_numpy(multimatch_pairs(a, b).values),
            peers={PACKAGE: theirs},
            check=1e-9,
            target={PACKAGE: 20.0},
            share={PACKAGE: SHARE},
        )
    ]
