"""The brain encoder at the size of the Natural Scenes Dataset beside the published formulas."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from neuroattn.encoding import FeatureDataset, FeatureStore, collate, load_backbone
from neuroattn.encoding import features as stores
from neuroattn.encoding.networks import AttentionNetwork
from neuroattn.kernels import Routing, routed_readout
from neuroattn.kernels.benchmarks.registry import Case
from neuroattn.metrics import pearson_r

BATCH, WIDTH, SIDE = 32, 768, 31
HEADS, FEEDFORWARD = 16, 1024
REGIONS = 25  # a hemisphere: 24 and the rest
LEFT, RIGHT = 19_004, 20_544
IMAGES, UNITS, LOOPED = 500, 40_000, 400


def write_store(
    folder: Path, shape: tuple[int, ...], make: Callable[[int], NDArray[np.float32]]
) -> FeatureStore:
    """Write half-precision features as extraction would, a chunk at a time; ``make(n)`` gives those of n images."""
    size = max(1, stores._CHUNK_BYTES // (2 * int(np.prod(shape[1:]))))
    array = stores._create(folder, shape, size, "float16", {"format": stores._FORMAT})
    for start in range(0, shape[0], size):
        stop = min(start + size, shape[0])
        array[start:stop] = make(stop - start).astype(np.float16)
    return FeatureStore(folder)


def make_masks(n_units: int, generator: torch.Generator) -> Tensor:
    """Draw regions (region, unit): the rest holds most units; one in twenty is in the next region as well."""
    weights = torch.tensor([1.0] * (REGIONS - 1) + [1.5 * (REGIONS - 1)])
    own = torch.multinomial(weights, n_units, replacement=True, generator=generator)
    masks = F.one_hot(own, REGIONS).T.bool()
    twice = ((own < REGIONS - 2) & (torch.rand(n_units, generator=generator) < 0.05)).nonzero()[:, 0]
    masks[own[twice] + 1, twice] = True
    return masks


def published_readout(tokens: Tensor, weight: Tensor, bias: Tensor, masks: Tensor) -> Tensor:
    """Predict every unit from every region of its hemisphere, then mask [Adeli et al. 2025]."""
    raw = F.linear(tokens, weight, bias).transpose(1, 2)  # (batch, unit, region)
    return (raw * masks.T.long().repeat(len(tokens), 1, 1)).sum(2)


class PublishedNetwork(nn.Module):
    """Decoder and readout as published, without dropout, under our names of parameters."""

    def __init__(self, masks: tuple[Tensor, Tensor]) -> None:
        super().__init__()
        self.masks = masks
        self.queries = nn.Parameter(torch.empty(2 * REGIONS, WIDTH))
        layer = nn.Module()
        layer.attention = nn.MultiheadAttention(WIDTH, HEADS)
        layer.norm1, layer.norm3 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        layer.linear1, layer.linear2 = nn.Linear(WIDTH, FEEDFORWARD), nn.Linear(FEEDFORWARD, WIDTH)
        self.layers = nn.ModuleList([layer])
        self.norm = nn.LayerNorm(WIDTH)
        self.readout = nn.Linear(WIDTH, LEFT + RIGHT)

    def forward(self, features: Tensor, position: Tensor) -> Tensor:
        """Return responses (batch, unit)."""
        layer = self.layers[0]
        tokens = features.flatten(2).permute(2, 0, 1)  # (token, batch, channel)
        queries = self.queries[:, None].repeat(1, len(features), 1)
        state = torch.zeros_like(queries)
        asked = layer.norm1(state) + queries
        read, _ = layer.attention(asked, tokens + position[:, None], tokens)  # its map is returned
        state = state + read
        state = state + layer.linear2(F.relu(layer.linear1(layer.norm3(state))))
        tokens = self.norm(state).transpose(0, 1)
        sides = zip(
            tokens.split(REGIONS, 1),
            self.readout.weight.split((LEFT, RIGHT)),
            self.readout.bias.split((LEFT, RIGHT)),
            self.masks,
            strict=True,
        )
        return torch.cat([published_readout(*side) for side in sides], 1)


def cases(device: str) -> list[Case]:
    generator = torch.Generator().manual_seed(0)
    found = [*_networks(device, generator), _correlation(generator)]
    if device == "cpu":
        found.append(_stored_features(generator))
    return found


def _networks(device: str, generator: torch.Generator) -> list[Case]:
    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device)

    masks = tuple(make_masks(n, generator).to(device) for n in (LEFT, RIGHT))
    routings = [Routing.from_masks(m).to(device) for m in masks]
    check = 1e-4 if device == "cpu" else 1e-2  # tf32
    size = f"B={BATCH} R=2x{REGIONS} V={LEFT}+{RIGHT} D={WIDTH}, float32"

    def both(readout: Callable[..., Tensor], places: Any) -> Callable[..., tuple[Tensor, ...]]:
        def predict(left: Tensor, right: Tensor, *parameters: Tensor) -> tuple[Tensor, ...]:
            sides = zip((left, right), parameters[::2], parameters[1::2], places, strict=True)
            return tuple(readout(*side) for side in sides)

        return predict

    inputs = [normal(BATCH, REGIONS, WIDTH), normal(BATCH, REGIONS, WIDTH)]
    inputs += [normal(LEFT, WIDTH), normal(LEFT), normal(RIGHT, WIDTH), normal(RIGHT)]
    n_units = LEFT + RIGHT
    readout = Case(
        f"readout, {size}",
        both(routed_readout, routings),
        {"published": both(published_readout, masks)},
        inputs=tuple(x.requires_grad_() for x in inputs),
        check=check,
        backward=True,
        bytes=4.0 * (n_units * WIDTH + BATCH * n_units),
        flops=2.0 * BATCH * n_units * WIDTH,
        training_target={"published": 3.0},
        memory_target={"published": 4.0},
    )

    both_masks = torch.block_diag(*masks).bool()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)  # a hidden unit within rounding of zero, which few seeds have, has two gradients
        ours = AttentionNetwork(
            WIDTH, n_units, both_masks, heads=HEADS, feedforward=FEEDFORWARD, dropout=0.0
        ).to(device)
    published = PublishedNetwork(masks).to(device)
    features = normal(BATCH, WIDTH, SIDE, SIDE)
    position = ours._position_of(features)
    names = [name for name, _ in ours.named_parameters()]
    values = tuple(x.detach().requires_grad_() for x in ours.parameters())

    def run(network: nn.Module, *arguments: Tensor) -> Callable[..., Tensor]:
        def predict(*parameters: Tensor) -> Tensor:
            found: Tensor = torch.func.functional_call(
                network, dict(zip(names, parameters, strict=True)), arguments, strict=False
            )
            return found

        return predict

    tokens = SIDE * SIDE
    decoder = Case(
        f"decoder and readout, N={tokens} H={HEADS}, {size}",
        run(ours, features),
        {"published": run(published, features, position)},
        inputs=values,
        check=check,
        backward=True,
        bytes=4.0 * (features.numel() + n_units * WIDTH + BATCH * n_units),
        flops=2.0 * BATCH * WIDTH * (2 * tokens * WIDTH + n_units),
        training_target={"published": 1.8},
    )
    return [readout, decoder]


def _correlation(generator: torch.Generator) -> Case:
    measured = torch.randn(IMAGES, UNITS, generator=generator)
    predicted = measured + torch.randn(IMAGES, UNITS, generator=generator)

    def loop(y: Tensor, p: Tensor) -> Tensor:
        from scipy.stats import pearsonr

        pairs = zip(y.T[:LOOPED].numpy(), p.T[:LOOPED].numpy(), strict=True)
        return torch.tensor([pearsonr(a, b).statistic for a, b in pairs])

    name = f"scipy.stats.pearsonr in a loop (over {LOOPED} units)"
    return Case(
        f"correlation of {UNITS} units over {IMAGES} images, float32",
        lambda y, p: torch.from_numpy(pearson_r(y.numpy(), p.numpy())),
        {name: loop},
        inputs=(measured, predicted),
        check=1e-5,
        bytes=8.0 * IMAGES * UNITS,
        flops=6.0 * IMAGES * UNITS,
        target={name: 100.0},
        share={name: LOOPED / UNITS},
    )


def _stored_features(generator: torch.Generator) -> Case:
    """Set a training step with stored features beside the frozen network alone, which would run at every step.

    The ratio of an epoch without a store to one with it is larger by one, since that takes the step as well.
    """
    backbone = load_backbone("dinov2_vitb14", facet="q", weights="random")
    images = np.random.default_rng(0).integers(0, 256, (1, 425, 425, 3), np.uint8)
    folder = tempfile.TemporaryDirectory()  # removed when the case is
    # One image is enough to check and to time; the store holds its features for every image of the batch.
    features = backbone.extract(images)
    store = write_store(
        Path(folder.name) / "store", (BATCH, *features.shape[1:]), lambda n: features.repeat(n, 0)
    )
    masks = torch.block_diag(*(make_masks(n, generator) for n in (LEFT, RIGHT))).bool()
    n_units = LEFT + RIGHT
    network = AttentionNetwork(WIDTH, n_units, masks, heads=HEADS, feedforward=FEEDFORWARD)
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)
    data = FeatureDataset(store, np.arange(BATCH), np.zeros((BATCH, n_units), np.float32))

    def step() -> Tensor:
        with torch.enable_grad():
            store._decoded.clear()  # an epoch is larger than what a store keeps decoded
            x, responses = collate(data.__getitems__(range(BATCH)))
            optimizer.zero_grad()
            F.mse_loss(network(x), responses).backward()
            optimizer.step()
        folder.name  # noqa: B018 (keeps the folder)
        return x[:1]

    name = "the frozen network alone (on 1 image of the batch)"
    return Case(
        f"training step from stored features, DINOv2 ViT-B/14 at 434 px, B={BATCH}",
        step,
        {name: lambda: torch.from_numpy(backbone.extract(images))},
        check=2e-3,  # stored in half precision
        target={name: 19.0},
        share={name: 1 / BATCH},
    )
