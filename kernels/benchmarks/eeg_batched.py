"""Training of eight networks together beside the same training of one after the other."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from neuroattn.eeg import BaseNet
from neuroattn.eeg.batched import train_networks
from neuroattn.eeg.recipe import trial_orders
from neuroattn.kernels.benchmarks.registry import Case

NETWORKS, TIMES, RATES = 8, 1000, (1e-3, 1e-3)
PEER = "one after the other"


def make_networks(n_chans: int, device: str) -> list[BaseNet]:
    networks = []
    for seed in range(NETWORKS):
        torch.manual_seed(seed)
        # Without dropout, so that both compute the same numbers.
        network = BaseNet(n_chans=n_chans, n_outputs=2, n_times=TIMES, attention="se", drop_prob=0.0)
        networks.append(network.to(device).train())
    return networks


def case(device: str, n_chans: int, batch: int, target: float) -> Case:
    """Both train for two epochs of two steps, every network with its own labels and order of the same trials."""
    torch.manual_seed(0)
    x = torch.randn(2 * batch, n_chans, TIMES, device=device)
    y = torch.randint(2, (NETWORKS, 2 * batch), device=device)

    def together(x: Tensor, y: Tensor) -> Tensor:
        with torch.enable_grad():
            return train_networks(
                make_networks(n_chans, device),
                x[None],
                [0] * NETWORKS,
                y,
                orders=[trial_orders(2 * batch, seed) for seed in range(NETWORKS)],
                generators=[torch.Generator(device) for _ in range(NETWORKS)],
                batch_size=batch,
                rates=RATES,
            )

    def alone(x: Tensor, y: Tensor) -> Tensor:
        losses = torch.zeros(len(RATES), NETWORKS, dtype=torch.float64)
        for i, network in enumerate(make_networks(n_chans, device)):
            adam = torch.optim.Adam(network.parameters(), fused=True)
            orders = trial_orders(2 * batch, i)
            for epoch, rate in enumerate(RATES):
                adam.param_groups[0]["lr"] = rate
                for rows in torch.split(torch.from_numpy(next(orders)).to(device), batch):
                    with torch.enable_grad():
                        loss = F.cross_entropy(network(x[rows]), y[i, rows])
                        adam.zero_grad()
                        loss.backward()  # type: ignore[no-untyped-call]
                    adam.step()
                    losses[epoch, i] += loss.item() / 2
        return losses

    return Case(
        name=f"training of {NETWORKS} networks, batches of {batch} trials of {n_chans} electrodes x {TIMES} samples",
        ours=together,
        peers={PEER: alone},
        inputs=(x, y),
        check=1e-3,
        target={PEER: target},
    )


def cases(device: str) -> list[Case]:
    return [case(device, 3, 16, 1.0), case(device, 22, 64, 0.9)]
