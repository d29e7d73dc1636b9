"""What is searched: an image, a target, and where the gaze may go."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuroattn._checks import check_range


@dataclass(frozen=True, eq=False)
class SearchTrial:
    """One image to search for one target.

    Parameters
    ----------
    image : uint8 array, shape (y, x) or (y, x, 3)
        Grey images are read as three equal channels. RGBA images are laid on ``background`` and 16-bit ones
        reduced to 8 bits, both with a warning.
    target : uint8 array, shape (y, x) or (y, x, 3)
        The target alone, not larger than the image.
    target_mask : bool array, shape (y, x), optional
        Where the target is. None where it is absent or nobody knows.
    cells : bool array, shape (cell, y, x), optional
        The places that an item may occupy, empty ones too; they do not overlap. With cells the gaze goes to cells
        only and each cell is visited once; without, it goes anywhere.
    max_fixations : int, optional
        Most fixations, the first included. None is one more than the number of cells, or 20 without cells.
    background : int, default 0
        Grey level around the image, 0 to 255.
    px_per_degree : float, optional
        Pixels per degree of visual angle. None takes that of the model's configuration.
    start : tuple of float, (x, y), optional
        First fixation, px. None is the centre.
    attrs : dict, optional
        Anything else: condition, set size. Copied into the scanpath.

    Raises
    ------
    TypeError, ValueError
        Where a type, a shape or a value does not fit.

    Examples
    --------
    >>> image = np.zeros((30, 40), np.uint8)
    >>> image[10:20, 25:35] = 255
    >>> trial = SearchTrial(image, image[10:20, 25:35], target_mask=image > 0, px_per_degree=10)
    >>> trial.image.shape, trial.first_fixation, trial.fixation_limit
    ((30, 40, 3), (20, 15), 20)
    """

    image: NDArray[np.uint8]
    target: NDArray[np.uint8]
    target_mask: NDArray[np.bool_] | None = None
    cells: NDArray[np.bool_] | None = None
    max_fixations: int | None = None
    background: int = 0
    px_per_degree: float | None = None
    start: tuple[float, float] | None = None
    attrs: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_range("background", self.background, 0, 255)
        for name in ("image", "target"):
            object.__setattr__(self, name, _as_rgb(name, getattr(self, name), self.background))
        size = self.image.shape[:2]
        if any(t > s for t, s in zip(self.target.shape, size, strict=False)):
            raise ValueError(
                f"target must not be larger than the image, {_size(self.image)} px, got {_size(self.target)} px"
            )
        if self.target_mask is not None:
            mask = _as_mask("target_mask", self.target_mask, size)
            if not mask.any():
                raise ValueError("target_mask must mark at least one pixel of the image, got an empty mask")
            object.__setattr__(self, "target_mask", mask)
        if self.cells is not None:
            object.__setattr__(self, "cells", _as_cells(self.cells, size))
        if self.max_fixations is not None:
            check_range("max_fixations", self.max_fixations, 1)
        if self.px_per_degree is not None and not self.px_per_degree > 0:
            raise ValueError(f"px_per_degree must be above 0, got {self.px_per_degree!r}")
        if self.start is not None:
            check_range("start[0]", self.start[0], 0, size[1] - 1)
            check_range("start[1]", self.start[1], 0, size[0] - 1)

    @property
    def first_fixation(self) -> tuple[int, int]:
        """Where the gaze begins, (x, y) in px."""
        if self.start is None:
            return self.image.shape[1] // 2, self.image.shape[0] // 2
        return round(self.start[0]), round(self.start[1])

    @property
    def fixation_limit(self) -> int:
        """Most fixations, the first included."""
        if self.max_fixations is not None:
            return self.max_fixations
        return 20 if self.cells is None else len(self.cells) + 1


def _size(image: NDArray[Any]) -> str:
    return f"{image.shape[1]} x {image.shape[0]}"


def _as_rgb(name: str, image: NDArray[Any], background: int) -> NDArray[np.uint8]:
    """Return (y, x, 3) uint8, and say where that changed more than the number of channels."""
    image = np.asarray(image)
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (1, 3, 4)) or not image.size:
        raise ValueError(f"{name} must have shape (y, x), (y, x, 3) or (y, x, 4), got {image.shape}")
    if image.dtype == np.uint16:
        warnings.warn(f"{name} has 16 bits; it is reduced to 8 (divided by 257)", stacklevel=4)
        image = np.round(image / 257).astype(np.uint8)
    if image.dtype != np.uint8:
        raise TypeError(f"{name} must be uint8 in 0..255, got {image.dtype}")
    if image.ndim == 2:
        image = image[:, :, None]
    if image.shape[2] == 4:
        warnings.warn(f"{name} has an alpha channel; it is laid on the background {background}", stacklevel=4)
        alpha = image[:, :, 3:] / 255
        image = np.round(image[:, :, :3] * alpha + background * (1 - alpha)).astype(np.uint8)
    return np.broadcast_to(image, (*image.shape[:2], 3))


def _as_mask(name: str, mask: NDArray[Any], size: tuple[int, ...]) -> NDArray[np.bool_]:
    mask = np.asarray(mask)
    if mask.shape != tuple(size):
        raise ValueError(f"{name} must have the shape of the image, {tuple(size)}, got {mask.shape}")
    if mask.dtype != bool:
        raise TypeError(f"{name} must be bool, got {mask.dtype}")
    return mask


def _as_cells(cells: NDArray[Any], size: tuple[int, ...]) -> NDArray[np.bool_]:
    cells = np.asarray(cells)
    if cells.ndim != 3 or cells.shape[1:] != tuple(size) or not len(cells):
        raise ValueError(f"cells must have shape (cell, {size[0]}, {size[1]}), got {cells.shape}")
    if cells.dtype != bool:
        raise TypeError(f"cells must be bool, got {cells.dtype}")
    empty = ~cells.any((1, 2))
    if empty.any():
        raise ValueError(
            f"cells must each hold a pixel of the image, got an empty cell {int(empty.argmax())}"
        )
    shared = cells.sum(0, dtype=np.int32).max()
    if shared > 1:
        raise ValueError(f"cells must not overlap, got a pixel in {shared} of them")
    return cells
