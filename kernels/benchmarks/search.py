"""Visual search beside the published order of work: one trial at a time, whole maps for every ring, a pass of zeros.

Displays like those of the curvature experiment (339 px, view of 806 px, 16 items in 36 cells), random weights. The
published order is written here for torch from its description, masks of rings for every channel included, in the
default layout of tensors.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from neuroattn.kernels.benchmarks.registry import Case
from neuroattn.kernels.eccentricity_pool import LinearLaw
from neuroattn.search import VGG16, EccNet, SearchConfig, SearchTrial
from neuroattn.search.features import pool_plainly
from neuroattn.search.maps import combine, correlate, enlarge

SIZE, GRID, CELL, ITEM, N_ITEMS = 339, 6, 56, 48, 16
CONFIG = SearchConfig.paper()
WIDTHS = (64, 128, 256, 512, 512)


def make_network(divisor: int, device: str) -> VGG16:
    network = VGG16([width // divisor for width in WIDTHS])
    generator = torch.Generator().manual_seed(1)
    for parameter in network.parameters():
        scale = (2 / parameter[0].numel()) ** 0.5 if parameter.ndim == 4 else 0.3
        parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    return network.to(device)


def make_trial(seed: int, max_fixations: int) -> SearchTrial:
    """Draw one smooth random shape among copies of another."""
    rng = np.random.default_rng(seed)
    first = (SIZE - GRID * CELL) // 2
    corners = [(first + CELL * i, first + CELL * j) for i in range(GRID) for j in range(GRID)]
    cells = np.zeros((len(corners), SIZE, SIZE), bool)
    for cell, (y, x) in zip(cells, corners, strict=True):
        cell[y : y + CELL, x : x + CELL] = True
    noise = torch.from_numpy(rng.standard_normal((2, 1, 6, 6)))
    shapes = F.interpolate(noise, (ITEM, ITEM), mode="bicubic")[:, 0].numpy() > 0.3
    image = np.zeros((SIZE, SIZE), np.uint8)
    chosen = rng.permutation(len(corners))[:N_ITEMS]
    for rank, k in enumerate(chosen):
        y, x = (int(corner + rng.integers(CELL - ITEM)) for corner in corners[k])
        image[y : y + ITEM, x : x + ITEM] = 255 * shapes[min(rank, 1)]
    target = (255 * shapes[0]).astype(np.uint8)
    return SearchTrial(image, target, cells[chosen[0]], cells, max_fixations)


def as_rows(fixations: Sequence[Sequence[tuple[int, int]]], n_most: int) -> Tensor:
    """Return the fixations (trial, fixation, 2), filled up with -1."""
    rows = np.full((len(fixations), n_most, 2), -1.0)
    for row, path in zip(rows, fixations, strict=True):
        row[: len(path)] = path
    return torch.from_numpy(rows)


def search(model: EccNet, trials: Sequence[SearchTrial], n_most: int) -> Tensor:
    paths = model.search_batch(trials, batch_size=len(trials))
    return as_rows([list(zip(path.y, path.x, strict=True)) for path in paths], n_most)


@functools.cache
def rings(law: LinearLaw, side: int, channels: int) -> list[tuple[int, Tensor]]:
    """Return the window and the mask (channel, row, column) of each ring; made once."""
    label, windows = law.rings(side, side)[0], law.windows(side, side)[0]
    return [
        (int(windows[label == i][0]), (label == i).float().repeat(channels, 1, 1))
        for i in range(int(label.max()) + 1)
    ]


def pool_by_rings(x: Tensor, law: LinearLaw) -> Tensor:
    """Pool the whole map for every ring, multiply by the ring's mask, add up."""
    side = x.shape[-1]
    total = x.new_zeros(*x.shape[:2], -(-side // 2), -(-side // 2))
    for k, ring in rings(law, side, x.shape[1]):
        beyond = max((ring.shape[-1] - 1) * 2 + k - side, 0)
        padding = [beyond // 2, beyond - beyond // 2] * 2
        if padding == [0] * 4:
            pooled = F.avg_pool2d(x, k, 2)
        else:
            count = F.avg_pool2d(F.pad(x.new_ones(1, 1, side, side), padding), k, 2)
            pooled = F.avg_pool2d(F.pad(x, padding), k, 2) / count
        total += pooled * ring.to(x.device)
    return total


def published_features(network: VGG16, view: np.ndarray, device: str) -> dict[str, Tensor]:
    x = network.preprocess(torch.from_numpy(view)[None].to(device)).contiguous()
    features = {}
    for block in range(1, 6):
        x = network.block(block, x)
        if block >= 3:
            features[f"conv{block}_3"] = pool_plainly(x, "mean", times=5 - block)
        if block < 5:
            x = pool_by_rings(x, CONFIG.law(block, 30.0))
    return features


def published(network: VGG16, trials: Sequence[SearchTrial], n_most: int, device: str) -> Tensor:
    """Search trial after trial in the published order."""
    paths = []
    for trial in trials:
        pad = SIZE + CONFIG.margin_px
        side = 2 * pad
        canvas = np.pad(trial.image, [(pad, pad), (pad, pad), (0, 0)])
        inside = np.zeros(canvas.shape[:2], np.float32)
        inside[pad:-pad, pad:-pad] = trial.cells.any(0)
        targets = network.preprocess(torch.from_numpy(trial.target.copy())[None].to(device))
        kernels = network.target_kernels(targets, CONFIG, 30.0)
        published_features(network, np.zeros((side, side, 3), np.uint8), device)  # to learn the shapes
        x, y = trial.first_fixation
        path = [(y, x)]
        while len(path) < trial.max_fixations:
            view = canvas[y : y + side, x : x + side]
            features = published_features(network, view, device)
            matches = {tap: correlate(maps, kernels[tap]) for tap, maps in features.items()}
            small = combine(matches, CONFIG, max(kernels["conv3_3"].shape[2:]))[0].cpu().numpy()
            large = enlarge(small, (side, side))
            large = (large - large.min()) * inside[y : y + side, x : x + side]
            row, column = np.unravel_index(large.argmax(), large.shape)
            y, x = int(y - pad + row), int(x - pad + column)
            path.append((y, x))
            cell = trial.cells[trial.cells[:, y, x].argmax()]
            inside[pad:-pad, pad:-pad][cell] = 0
            canvas[pad:-pad, pad:-pad][cell] = trial.background
            around = trial.target_mask[max(y - 5, 0) : y + 5, max(x - 5, 0) : x + 5]
            if around.any():
                break
        paths.append(path)
    return as_rows(paths, n_most)


def case(
    device: str,
    divisor: int,
    limits: Sequence[int],
    reuse: bool,
    share: int,
    target: float | None = None,
) -> Case:
    """Search some trials; the published order does the first few of them."""
    network = make_network(divisor, device)
    trials = [make_trial(seed, limit) for seed, limit in enumerate(limits)]
    model = EccNet(network, CONFIG, reuse=reuse)
    plain = copy.deepcopy(network).to(memory_format=torch.contiguous_format)
    most = max(limits)
    n_saccades = [path.n_saccades for path in model.search_batch(trials, batch_size=len(trials))]
    passes = [n + 1 for n in n_saccades]  # of the published order, the zeros included
    done = trials[:share]
    return Case(
        name=f"{len(trials)} trials, {sum(n_saccades)} saccades, width 1/{divisor}, view 806 px, "
        f"{'with' if reuse else 'without'} reuse",
        ours=lambda: search(model, trials, most),
        peers={"published order": lambda: published(plain, done, most, device)},
        check=0.0,
        target={} if target is None else {"published order": target},
        share={"published order": sum(passes[:share]) / sum(passes)},
        items=len(trials),
    )


def cases(device: str) -> list[Case]:
    # In the published experiment 180 trials of curvature took 214 passes, besides those of zeros.
    return [
        case(device, 8, (5,) * 6, reuse=False, share=1),
        case(device, 8, (5,) * 6, reuse=True, share=1, target=8.0),
        case(device, 1, (2, 2, 2, 2, 3), reuse=False, share=1, target=2.0),
        case(device, 1, (2, 2, 2, 2, 3), reuse=True, share=1, target=3.5),
    ]
