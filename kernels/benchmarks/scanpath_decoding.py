"""A hundred sampled paths of forty fixations on a shelf of 84 objects, at the published sizes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from neuroattn.kernels.benchmarks.registry import Case
from neuroattn.scanpath.reference import ReferenceOAT
from neuroattn.scanpath.transformer import (
    CUE,
    OBJECT,
    ObjectAttentionNetwork,
    PathCache,
    SceneBatch,
    SceneMemory,
    TransformerCore,
)

ROWS, COLUMNS, HEIGHT, WIDTH, DIM = 6, 14, 150, 93, 512
SAMPLES, FIXATIONS = 100, 40
PUBLISHED_FIXATIONS = 10  # of one path; later ones take longer, so the ratio is rather too small
AGAIN = "everything encoded again at each step of one path at a time, as published"

Continue = Callable[..., Tensor]


def draw(scores: Tensor, numbers: Tensor) -> Tensor:
    """Draw an object for each path by one uniform number each; scores (path, object), numbers (path,)."""
    reached = scores.double().softmax(-1).cumsum(-1)
    return (reached < numbers[:, None] * reached[:, -1:]).sum(-1).clamp_max(scores.shape[-1] - 1)


def cached(
    memory_of: Callable[[Tensor], SceneMemory], scores_of: Continue, core: TransformerCore
) -> Continue:
    """Return the function that encodes once and decodes the last object of all paths together."""

    @torch.no_grad()
    def run(crops: Tensor, numbers: Tensor) -> Tensor:
        memory = memory_of(crops)
        cache = core.cache(SAMPLES, FIXATIONS, memory.keys)
        objects = torch.empty(1, SAMPLES, 0, dtype=torch.int64, device=crops.device)
        steps = []
        for step in range(FIXATIONS):
            scores = scores_of(objects, memory, cache)[0, :, -1]
            steps.append(scores)
            objects = draw(scores[:, : ROWS * COLUMNS], numbers[:, step])[None, :, None]
        return torch.stack(steps, 1).flatten(0, 1)

    return run


def published(memory_of: Callable[[Tensor], SceneMemory], scores_of: Continue) -> Continue:
    """Return the published loop for the beginning of the first path: pictures, scene and path anew each step."""

    @torch.no_grad()
    def run(crops: Tensor, numbers: Tensor) -> Tensor:
        objects = torch.empty(1, 1, 0, dtype=torch.int64, device=crops.device)
        steps = []
        for step in range(PUBLISHED_FIXATIONS):
            scores = scores_of(objects, memory_of(crops), None)[0, :, -1]
            steps.append(scores)
            chosen = draw(scores[:, : ROWS * COLUMNS], numbers[:1, step])
            objects = torch.cat([objects, chosen[None, :, None]], 2)
        return torch.cat(steps)

    return run


def reference(device: str) -> tuple[Callable[[Tensor], SceneMemory], Continue, TransformerCore]:
    """Return the published network with random weights and a random table of positions."""
    torch.manual_seed(0)
    config = {
        "rows": ROWS, "cols": COLUMNS, "n_objects": ROWS * COLUMNS, "emb_size": DIM, "nhead": 4, "num_layers": 4,
        "dim_feedforward": DIM, "object_attention_heads": 2, "object_attention_dk": DIM, "spp": 0,
        "crop_h": HEIGHT, "crop_w": WIDTH, "max_len": FIXATIONS,
    }  # fmt: skip
    network = ReferenceOAT(config, torch.randn(max(ROWS, COLUMNS), 86)).to(device).eval()
    target = torch.tensor([37], device=device)
    return (
        lambda crops: network.memory(crops[None], target),
        lambda objects, memory, cache: network.continue_paths(objects, memory, cache),
        network.core,
    )


def transformer(device: str) -> tuple[Callable[[Tensor], SceneMemory], Continue, TransformerCore]:
    """Return the network of ObjectAttentionTransformer at the published sizes, with random weights."""
    torch.manual_seed(0)
    network = ObjectAttentionNetwork(
        dim=DIM, heads=4, layers=4, feedforward=DIM, dropout=0.1, sigma=2 / COLUMNS, n_features=None,
        n_categories=0, n_observers=0, durations=False,
    )  # fmt: skip
    network = network.to(device).eval()
    index = np.arange(ROWS * COLUMNS)
    place = np.stack([index % COLUMNS + 0.5, index // COLUMNS + 0.5, *np.ones((2, len(index)))], 1) / COLUMNS
    place = np.concatenate([place, np.full((1, 4), np.nan)])[None].astype(np.float32)
    seen = torch.ones(1, len(index) + 1, dtype=torch.bool, device=device)
    kind = torch.full(seen.shape, OBJECT, device=device)
    kind[:, -1] = CUE

    def memory_of(crops: Tensor) -> SceneMemory:
        pictures = 255 * torch.cat([crops, crops[37:38]]).permute(0, 3, 1, 2)[None]  # the cue comes last
        place_there = torch.from_numpy(place).to(crops.device)
        return network.memory(SceneBatch(place_there, pictures, seen, torch.zeros_like(kind), kind, seen))

    def scores_of(objects: Tensor, memory: SceneMemory, cache: PathCache | None) -> Tensor:
        return network.read(network.continue_paths(objects, memory, cache=cache), memory)[0]

    return memory_of, scores_of, network.core


def cases(device: str) -> list[Case]:
    """Describe the workloads."""
    generator = torch.Generator().manual_seed(0)
    crops = torch.rand(ROWS * COLUMNS, HEIGHT, WIDTH, 3, generator=generator).to(device)
    numbers = torch.rand(SAMPLES, FIXATIONS, generator=generator, dtype=torch.float64).to(device)
    return [
        Case(
            name=f"{SAMPLES} paths of {FIXATIONS} fixations, {ROWS} x {COLUMNS} objects, {name}",
            ours=cached(*network),
            peers={AGAIN: published(*network[:2])},
            inputs=(crops, numbers),
            check=1e-4,
            target={AGAIN: 50.0},
            share={AGAIN: PUBLISHED_FIXATIONS / (SAMPLES * FIXATIONS)},
        )
        for name, network in (
            ("published network", reference(device)),
            ("ObjectAttentionTransformer", transformer(device)),
        )
    ]
