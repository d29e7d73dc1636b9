"""Training of encoder networks: skorch's loop, early stopping, and checkpoints that resume exactly."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from skorch import NeuralNet
from skorch.callbacks import Callback, EarlyStopping, GradientNormClipping
from skorch.helper import predefined_split
from torch import nn
from torch.utils.data import DataLoader, Dataset, Sampler

from neuroattn.results import replacing, write_json


class Schedule(Callback):  # type: ignore[misc]
    """Learning rate with linear warm-up and cosine decay, and randomness, as pure functions of the step.

    Nothing of it needs to be stored, so a resumed run takes the same steps as an uninterrupted one.
    """

    def __init__(self, lr: float, epochs: int, seed: int, warmup: float = 0.1) -> None:
        self.lr, self.epochs, self.seed, self.warmup = lr, epochs, seed, warmup

    def on_epoch_begin(self, net: NeuralNet, **kwargs: Any) -> None:
        """Seed dropout and the order of rows by the epoch."""
        self.epoch = len(net.history) - 1
        self.batch = 0
        torch.manual_seed(np.random.SeedSequence([self.seed, self.epoch]).generate_state(1)[0])
        net.iterator_train__sampler.set_epoch(self.epoch)

    def on_batch_begin(self, net: NeuralNet, training: bool = False, **kwargs: Any) -> None:
        """Set the learning rate of the step."""
        if not training:
            return
        batches = math.ceil(len(net.iterator_train__sampler) / net.batch_size)
        done = (self.epoch * batches + self.batch + 1) / (self.epochs * batches)
        factor = done / self.warmup if done < self.warmup else (1 + math.cos(math.pi * done)) / 2
        for group in net.optimizer_.param_groups:
            group["lr"] = self.lr * factor
        self.batch += 1


class Checkpoint(Callback):  # type: ignore[misc]
    """Write the whole state of training between epochs, and continue from it.

    The folder holds ``state.safetensors`` (network, optimiser, best weights) and ``state.json`` (history, stopping).
    """

    def __init__(self, folder: Path, stopping: EarlyStopping, epochs: int, every: float) -> None:
        self.folder, self.stopping, self.epochs, self.every = folder, stopping, epochs, every

    def on_train_begin(self, net: NeuralNet, **kwargs: Any) -> None:
        """Restore, after the other callbacks have reset themselves."""
        self.written = time.monotonic()
        if not (self.folder / "state.json").is_file():
            return
        tensors = load_file(self.folder / "state.safetensors")
        state = json.loads((self.folder / "state.json").read_text())

        def part(prefix: str) -> dict[str, torch.Tensor]:
            return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

        net.module_.load_state_dict(part("network."))
        optimizer = net.optimizer_.state_dict()
        for name, value in part("optimizer.").items():
            index, _, key = name.partition(".")
            optimizer["state"].setdefault(int(index), {})[key] = value
        net.optimizer_.load_state_dict(optimizer)
        net.history.clear()
        net.history.extend(state["history"])
        for name, value in state["stopping"].items():
            setattr(self.stopping, name, value)
        self.stopping.best_model_weights_ = part("best.") or None
        net.max_epochs = self.epochs - len(net.history)

    def on_epoch_end(self, net: NeuralNet, **kwargs: Any) -> None:
        """Write, at most every so many seconds: the state may be as large as several networks."""
        if time.monotonic() - self.written < self.every:
            return
        best = self.stopping.best_model_weights_ or {}
        tensors = {f"network.{k}": v for k, v in net.module_.state_dict().items()}
        tensors |= {f"best.{k}": v for k, v in best.items()}
        for index, slots in net.optimizer_.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{k}": v for k, v in slots.items()}
        history = [{k: v for k, v in row.items() if k != "batches"} for row in net.history]
        stopping = {k: getattr(self.stopping, k) for k in ("misses_", "dynamic_threshold_", "best_epoch_")}
        with replacing(self.folder) as temporary:
            temporary.mkdir()
            # A clone, since tied or viewed tensors cannot be written.
            save_file(
                {k: v.detach().cpu().clone() for k, v in tensors.items()}, temporary / "state.safetensors"
            )
            write_json(temporary / "state.json", {"history": history, "stopping": stopping})
        self.written = time.monotonic()


class Progress(Callback):  # type: ignore[misc]
    """Report every finished epoch."""

    def __init__(self, report: Callable[[int], None]) -> None:
        self.report = report

    def on_epoch_end(self, net: NeuralNet, **kwargs: Any) -> None:
        """Report."""
        self.report(len(net.history))


class _Net(NeuralNet):  # type: ignore[misc]
    """Adds the penalty of a network that has one to the training loss; validation watches the error alone."""

    def get_loss(
        self, y_pred: torch.Tensor, y_true: torch.Tensor, X: Any = None, training: bool = False
    ) -> torch.Tensor:
        loss: torch.Tensor = super().get_loss(y_pred, y_true, X, training=training)
        if training and hasattr(self.module_, "penalty"):
            loss = loss + self.module_.penalty()
        return loss


def train_network(
    network: nn.Module,
    train: Dataset[Any],
    valid: Dataset[Any],
    *,
    sampler: Sampler[int],
    collate: Callable[[Any], Any],
    epochs: int,
    batch_size: int,
    lr: float,
    weight_decay: float,
    patience: int,
    clip: float,
    seed: int,
    device: str,
    checkpoint: Path | None = None,
    checkpoint_every: float = 20.0,
    progress: Callable[[int], None] | None = None,
) -> list[dict[str, Any]]:
    """Train a network in place and leave it with its best weights.

    Mean squared error, plus ``network.penalty()`` in training where the network has one; AdamW, gradient clipping,
    linear warm-up and cosine decay; training stops ``patience`` epochs after the last improvement of the validation
    loss. The global random state is left as it was.

    Parameters
    ----------
    network : Module
        Maps features (batch, channel, y, x) to responses (batch, unit).
    train, valid : Dataset
        Batches of standardised features and responses.
    sampler : Sampler
        Order of the training rows, a pure function of ``set_epoch``.
    collate : callable
    epochs, batch_size, patience : int
    lr, weight_decay, clip : float
    seed : int
    device : str
    checkpoint : Path, optional
        Folder of the state between epochs; if it exists, training continues from it and ends with the weights of
        an uninterrupted run.
    checkpoint_every : float, default 20
        Seconds between two writings of the state.
    progress : callable, optional
        Called with the number of finished epochs.

    Returns
    -------
    list of dict
        One record an epoch, with ``train_loss`` and ``valid_loss``.
    """
    stopping = EarlyStopping(monitor="valid_loss", patience=patience, threshold=0, load_best=True)
    callbacks: list[tuple[str, Callback]] = [
        ("schedule", Schedule(lr, epochs, seed)),
        ("clip", GradientNormClipping(clip)),
    ]
    if progress is not None:
        callbacks.append(("progress", Progress(progress)))
    callbacks.append(("stopping", stopping))
    if checkpoint is not None:
        callbacks.append(("checkpoint", Checkpoint(checkpoint, stopping, epochs, checkpoint_every)))
    net = _Net(
        network,
        criterion=nn.MSELoss,
        optimizer=torch.optim.AdamW,
        optimizer__weight_decay=weight_decay,
        optimizer__fused=True,
        lr=lr,
        max_epochs=epochs,
        batch_size=batch_size,
        iterator_train=DataLoader,
        iterator_train__sampler=sampler,
        iterator_train__collate_fn=collate,
        iterator_valid__collate_fn=collate,
        train_split=predefined_split(valid),
        callbacks=callbacks,
        callbacks__print_log=None,
        device=device,
        verbose=0,
    )
    net.initialize()
    with torch.random.fork_rng():
        net.partial_fit(train)
    if len(net.history) < epochs and stopping.misses_ < patience:
        raise KeyboardInterrupt  # skorch takes the user's interruption for a stopping rule
    return [{k: v for k, v in row.items() if k != "batches"} for row in net.history]
