"""One decision of the streaming decoder: four seconds of 22 electrodes, every tenth of a second."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from neuroattn.eeg import BandPass, MotorImageryClassifier, StreamingDecoder, load_reference
from neuroattn.kernels.benchmarks.registry import Case

CHANS, SFREQ, WINDOW, STEP, HEARD = 22, 250, 1000, 25, 15_000
NETWORK, AGAIN = "braindecode AttentionBaseNet in the same decoder", "the whole last minute filtered again"


def decide(classifier: MotorImageryClassifier, before: np.ndarray) -> Callable[[Tensor], Tensor]:
    """Return a function that takes the samples of one step behind ``before`` and returns probabilities."""
    decoder = StreamingDecoder(classifier, every=STEP / SFREQ)
    decoder.push(before)
    seen, state, window = decoder._seen, decoder._state.copy(), decoder._window.copy()

    def run(samples: Tensor) -> Tensor:
        decoder._seen, decoder._state = seen, state
        decoder._window[:] = window
        (decision,) = decoder.push(samples.numpy())
        return torch.from_numpy(decision.probabilities)

    return run


def offline(classifier: MotorImageryClassifier, before: np.ndarray) -> Callable[[Tensor], Tensor]:
    """Return a function that filters all that was heard and classifies the last window."""
    band = BandPass(*classifier.band, SFREQ, causal=True)

    def run(samples: Tensor) -> Tensor:
        filtered = band.transform(np.concatenate([before, samples.numpy()], axis=1)[None])
        scaled = classifier._scale(filtered[:, :, -WINDOW:])
        return torch.from_numpy(classifier._probabilities(scaled)[0])

    return run


def with_network(classifier: MotorImageryClassifier, network: nn.Module) -> MotorImageryClassifier:
    other = copy.copy(classifier)
    other.network_ = network.eval()
    return other


def cases(device: str) -> list[Case]:
    from braindecode.models import AttentionBaseNet

    rng = np.random.default_rng(0)
    trials = 10 * rng.normal(size=(4, CHANS, WINDOW))
    classifier = MotorImageryClassifier(
        sfreq=SFREQ, causal=True, standardize="channel", n_epochs=1, device=device
    ).fit(trials, [0, 1, 0, 1])
    torch.manual_seed(0)
    config = {"n_chans": CHANS, "n_outputs": 2, "n_times": WINDOW, "attention_mode": "se"}
    theirs = AttentionBaseNet(**config)
    for _ in range(
        50
    ):  # running statistics of signals like these, so that the networks' answers are not a constant
        theirs(torch.randn(8, CHANS, WINDOW))
    ours = with_network(classifier, load_reference(theirs.state_dict(), config).to(device))
    recording = 10 * rng.normal(size=(CHANS, HEARD + STEP))
    before = recording[:, :HEARD]
    return [
        Case(
            name=f"decision every {STEP / SFREQ:g} s over {WINDOW / SFREQ:g} s of {CHANS} electrodes at {SFREQ} Hz",
            ours=decide(ours, before),
            peers={
                NETWORK: decide(with_network(classifier, theirs.to(device)), before),
                AGAIN: offline(ours, before),
            },
            inputs=(torch.from_numpy(recording[:, HEARD:]),),
            check=1e-5,
            target={AGAIN: 1.0},
        )
    ]
