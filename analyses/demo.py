"""The simulated subject of the demo: composed images, seen through the demo network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from neuroattn.analyses.fits import Progress, counting
from neuroattn.datasets import Recording, make_nsd_like
from neuroattn.encoding import Backbone, extract_features


def make_demo_recording(
    backbone: Backbone,
    cache: str | Path,
    *,
    n_train: int = 380,
    n_test: int = 120,
    seed: int = 0,
    progress: Progress | None = None,
) -> Recording:
    """Simulate a subject whose responses are planted on the features of a network.

    Parameters
    ----------
    backbone : Backbone
    cache : str or Path
        Folder of stored features; fitting the recording with the same network reads them from there.
    n_train, n_test : int
    seed : int
    progress : callable, optional
        Called with a stage, the steps done and the steps in all.

    Returns
    -------
    Recording
    """

    def features(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        report = None if progress is None else counting(progress, "features", len(images))
        return np.asarray(extract_features(images, backbone, cache, progress=report)[:], np.float32)

    return make_nsd_like(n_train, n_test, seed=seed, features=features, vertices_per_roi=16)
