"""Controls of search models: no features, no model at all, no eccentricity, no training."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage, signal
from torch import nn

from neuroattn._checks import check_range
from neuroattn.results import Scanpath
from neuroattn.search.backbone import SearchBackbone
from neuroattn.search.config import SearchConfig
from neuroattn.search.eccnet import EccNet
from neuroattn.search.trials import SearchTrial

__all__ = ["PixelMatch", "RandomSearch", "random_weights", "without_eccentricity"]

_CHANNEL_MEANS = (123.68, 116.779, 103.939)  # red, green, blue: the preprocessing of the published weights


class _FixedPriority:
    """Search by one map that gaze does not change: the best open place, again and again."""

    def __init__(self, *, ior_deg: float = 1.0) -> None:
        check_range("ior_deg", ior_deg, 0)
        self.ior_deg = ior_deg

    @property
    def config(self) -> dict[str, Any]:
        """Settings, ready for JSON."""
        return {"ior_deg": self.ior_deg}

    def _priority(self, trial: SearchTrial, rng: np.random.Generator) -> NDArray[np.float64]:
        """Return how attractive each place is, (row, column); the largest is fixated next."""
        raise NotImplementedError

    def search(
        self,
        image: NDArray[np.uint8],
        target: NDArray[np.uint8],
        *,
        cells: NDArray[np.bool_] | None = None,
        target_mask: NDArray[np.bool_] | None = None,
        max_fixations: int | None = None,
        background: int = 0,
        px_per_degree: float | None = None,
        start: tuple[float, float] | None = None,
        seed: int = 0,
    ) -> Scanpath:
        """Search one image; the arguments are those of `SearchTrial`."""
        trial = SearchTrial(
            image, target, target_mask, cells, max_fixations, background, px_per_degree, start
        )
        return self.search_batch([trial], seed=seed)[0]

    def search_batch(
        self,
        trials: Sequence[SearchTrial],
        *,
        batch_size: int = 1,
        seed: int = 0,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[Scanpath]:
        """Search many trials, one after the other whatever the batch size."""
        paths = []
        for i, trial in enumerate(trials):
            paths.append(self._walk(trial, np.random.default_rng([seed, i])))
            if progress is not None:
                progress(i + 1, len(trials))
        return paths

    def _walk(self, trial: SearchTrial, rng: np.random.Generator) -> Scanpath:
        height, width = trial.image.shape[:2]
        priority = np.array(self._priority(trial, rng))
        if trial.cells is not None:
            priority[~trial.cells.any(0)] = -np.inf
        x, y = trial.first_fixation
        fixations = [(x, y)]
        # As in eccNET, the first fixation counts only where gaze is free.
        found = trial.cells is None and self._visit(trial, priority, x, y)
        while not found and len(fixations) < trial.fixation_limit and np.isfinite(priority.max()):
            y, x = divmod(int(priority.argmax()), width)
            fixations.append((x, y))
            found = self._visit(trial, priority, x, y)
        return Scanpath(
            x=np.array([x for x, _ in fixations], float),
            y=np.array([y for _, y in fixations], float),
            image_size=(width, height),
            found=None if trial.target_mask is None else found,
            px_per_degree=trial.px_per_degree,
            attrs={**trial.attrs, "n_saccades": len(fixations) - 1},
        )

    def _visit(self, trial: SearchTrial, priority: NDArray[np.float64], x: int, y: int) -> bool:
        """Close the cell or the window around a fixation, and return whether the target is there."""
        seen: Any
        if trial.cells is not None:
            seen = trial.cells[int(trial.cells[:, y, x].argmax())]
        else:
            if trial.px_per_degree is None:
                raise ValueError("px_per_degree must be given for a search without cells, got None")
            half = max(int(self.ior_deg * trial.px_per_degree / 2), 1)
            seen = slice(max(y - half, 0), y + half), slice(max(x - half, 0), x + half)
        priority[seen] = -np.inf
        return trial.target_mask is not None and bool(trial.target_mask[seen].any())


class PixelMatch(_FixedPriority):
    """Look where the pixels match the target: no features, no gaze.

    The correlation of image and target, less the mean of each channel in the published preprocessing and with zeros
    around, is blurred (7 x 7, standard deviation 3) and visited from its largest value downwards [1]_.

    Parameters
    ----------
    ior_deg : float, default 1
        Side of the square that a fixation inspects and closes where there are no cells, degrees.

    References
    ----------
    .. [1] Gupta, Zhang, Wu, Wolfe & Kreiman (2021). Visual search asymmetry: deep nets and humans share similar
       inherent biases. NeurIPS.

    Examples
    --------
    >>> image = np.zeros((30, 40), np.uint8)
    >>> image[5:11, 30:36] = 200
    >>> path = PixelMatch().search(image, image[5:11, 30:36], target_mask=image > 0, px_per_degree=10)
    >>> path.n_saccades, path.found
    (1, True)
    """

    def _priority(self, trial: SearchTrial, rng: np.random.Generator) -> NDArray[np.float64]:
        images = [np.asarray(image, np.float32) for image in (trial.image, trial.target)]
        grey = all(bool((image == image[..., :1]).all()) for image in images)
        match = np.zeros(trial.image.shape[:2])
        for channel, mean in enumerate(_CHANNEL_MEANS[: 1 if grey else 3]):
            image, target = (values[..., channel] - np.float32(mean) for values in images)
            match += signal.fftconvolve(image, target[::-1, ::-1], mode="same")
        return np.asarray(ndimage.gaussian_filter(match, 3, radius=3, mode="mirror"))


class RandomSearch(_FixedPriority):
    """Look anywhere but never twice: chance with a perfect memory.

    Cells that hold only background are visited last, so that the expected number of saccades grows by half a saccade
    per item in both conditions. Its asymmetry is what chance makes of one.

    Parameters
    ----------
    ior_deg : float, default 1
        Side of the square that a fixation inspects and closes where there are no cells, degrees.

    Examples
    --------
    >>> image = np.zeros((30, 30), np.uint8)
    >>> image[5:11, 20:26] = 200
    >>> path = RandomSearch().search(image, image[5:11, 20:26], target_mask=image > 0, px_per_degree=10,
    ...                              max_fixations=40)
    >>> path.found
    True
    """

    def _priority(self, trial: SearchTrial, rng: np.random.Generator) -> NDArray[np.float64]:
        priority = rng.random(trial.image.shape[:2])
        if trial.cells is not None:
            drawn = (trial.image != trial.background).any(-1)
            for cell in trial.cells:
                priority[cell] += bool(drawn[cell].any())
        return priority


def without_eccentricity(model: EccNet) -> EccNet:
    """Return the model with one resolution everywhere; the kind of pooling stays.

    Examples
    --------
    >>> from neuroattn.search import VGG16, EccNet
    >>> model = without_eccentricity(EccNet(VGG16(widths=(2, 2, 2, 2, 2))))
    >>> max(model.config.slopes)
    0.0
    """
    return _rebuilt(model, model.backbone, model.config.without_eccentricity())


def random_weights(model: EccNet, *, seed: int = 0) -> EccNet:
    """Return the model with an untrained network of the same architecture.

    Weights are drawn from He's normal distribution, so that activations neither die nor explode over the layers;
    biases are 0 and normalisation layers start afresh.

    Parameters
    ----------
    model : EccNet
        With a backbone that is a module or holds one. It is copied.
    seed : int, default 0

    Examples
    --------
    >>> from neuroattn.search import VGG16, EccNet
    >>> model = EccNet(VGG16(widths=(2, 2, 2, 2, 2)))
    >>> weight = random_weights(model).backbone.block5_conv3.weight
    >>> bool((weight == random_weights(model).backbone.block5_conv3.weight).all())
    True
    """
    check_range("seed", seed, 0)
    backbone = copy.deepcopy(model.backbone)
    network = find_network(backbone)
    if network is None:
        raise TypeError(
            f"model must have a backbone that is a Module or holds one, got {type(backbone).__name__}"
        )
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            drawn = torch.empty(module.weight.shape)
            nn.init.kaiming_normal_(drawn, generator=generator)
            module.weight.data.copy_(drawn)
            if module.bias is not None:
                module.bias.data.zero_()
        elif isinstance(module, nn.BatchNorm2d | nn.GroupNorm | nn.LayerNorm):
            module.reset_parameters()
    return _rebuilt(model, backbone, model.config)


def find_network(backbone: object) -> nn.Module | None:
    """Return the module that a backbone is or holds."""
    held = [backbone, *vars(backbone).values()]
    return next((part for part in held if isinstance(part, nn.Module)), None)


def _rebuilt(model: EccNet, backbone: SearchBackbone, config: SearchConfig) -> EccNet:
    copied = copy.copy(model)
    copied.backbone, copied.config = backbone, config
    return copied
