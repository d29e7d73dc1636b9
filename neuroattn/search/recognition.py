"""Learn to recognise the target at the gaze, in place of the oracle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from neuroattn._checks import check_seed
from neuroattn.search.backbone import SearchBackbone
from neuroattn.search.config import SearchConfig
from neuroattn.search.trials import SearchTrial


@dataclass(frozen=True)
class Recogniser:
    """A logistic function of the similarity between the target and what lies at the gaze.

    Parameters
    ----------
    weights : tuple of float
        One for each tap.
    intercept : float

    Examples
    --------
    >>> Recogniser((10.0,), -9.0).probability(np.array([[0.9], [1.0]])).round(2)
    array([0.5 , 0.73])
    """

    weights: tuple[float, ...]
    intercept: float

    def probability(self, similarity: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the probability of the target for similarities (place, tap)."""
        probability: NDArray[np.float64] = 1 / (1 + np.exp(-(similarity @ self.weights + self.intercept)))
        return probability


def fit_recogniser(
    backbone: SearchBackbone,
    config: SearchConfig,
    trials: Sequence[SearchTrial],
    *,
    n_places: int = 4,
    seed: int | np.random.Generator = 0,
) -> Recogniser:
    """Learn to tell the target from all else by the features at the gaze.

    Parameters
    ----------
    backbone : SearchBackbone
    config : SearchConfig
        Of the model that is to use it.
    trials : sequence of SearchTrial
        With target masks; those of the test do not belong here.
    n_places : int, default 4
        Places drawn in each trial in the target mask, and as many outside it (in other cells where there are cells).
    seed : int or Generator, default 0

    Returns
    -------
    Recogniser

    Raises
    ------
    ValueError
        If a trial has no target mask, or its mask leaves no place outside.

    Examples
    --------
    >>> from neuroattn.search import VGG16
    >>> _ = torch.manual_seed(0)
    >>> image = np.random.default_rng(0).integers(0, 50, (64, 64)).astype(np.uint8)
    >>> image[8:24, 40:56] = 255
    >>> trial = SearchTrial(image, image[8:24, 40:56], target_mask=image == 255, px_per_degree=8)
    >>> recogniser = fit_recogniser(VGG16(widths=(4, 4, 8, 8, 8)), SearchConfig.clean(), [trial])
    >>> len(recogniser.weights)
    3
    """
    from sklearn.linear_model import LogisticRegression

    rng = check_seed(seed)
    similarity, is_target = [], []
    for i, trial in enumerate(trials):
        if trial.target_mask is None:
            raise ValueError(f"trials must have target masks, got none in trial {i}")
        inside = trial.target_mask
        outside = ~inside if trial.cells is None else trial.cells.any(0) & ~inside
        if not outside.any():
            raise ValueError(f"trials must have places without the target, got none in trial {i}")
        px_per_degree = trial.px_per_degree or config.px_per_degree
        if px_per_degree is None:
            raise ValueError("px_per_degree must be given with the trial or in the configuration, got None")
        for mask, label in ((inside, True), (outside, False)):
            y, x = np.nonzero(mask)
            drawn = rng.integers(len(y), size=n_places)
            places = [(trial, (int(y[j]), int(x[j]))) for j in drawn]
            similarity.append(local_similarity(backbone, config, places, px_per_degree))
            is_target += [label] * n_places
    model = LogisticRegression(C=1e3, class_weight="balanced").fit(np.concatenate(similarity), is_target)
    return Recogniser(tuple(float(w) for w in model.coef_[0]), float(model.intercept_[0]))


def local_similarity(
    backbone: SearchBackbone,
    config: SearchConfig,
    places: Sequence[tuple[SearchTrial, tuple[int, int]]],
    px_per_degree: float,
) -> NDArray[np.float64]:
    """Compare the target with the image around some places, by the cosine of their features.

    Parameters
    ----------
    backbone : SearchBackbone
    config : SearchConfig
    places : sequence of (SearchTrial, (row, column))
        Targets of one size. The surround of a place is twice as large as the target, and within it the best match
        counts.
    px_per_degree : float

    Returns
    -------
    float array, shape (place, tap)
    """
    rows, columns = places[0][0].target.shape[:2]
    patches = []
    for trial, (y, x) in places:
        pad = ((rows, rows), (columns, columns), (0, 0))
        image = np.pad(trial.image, pad, constant_values=trial.background)
        patches.append(image[y : y + 2 * rows, x : x + 2 * columns])
    targets = np.stack([trial.target for trial, _ in places])
    with torch.inference_mode():
        kernels, features = (
            backbone.target_kernels(
                backbone.preprocess(torch.from_numpy(pixels).to(backbone.device)), config, px_per_degree
            )
            for pixels in (targets, np.stack(patches))
        )
        cosines = []
        for tap, kernel in kernels.items():
            size = kernel.shape[2:]
            windows = torch.nn.functional.unfold(features[tap], size)
            template = kernel.flatten(1)[:, :, None]
            cosines.append(torch.cosine_similarity(windows, template).amax(1))
    return torch.stack(cosines, 1).double().cpu().numpy()
