"""What the scanpath metrics read: named coordinates of fixations, however they are held."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from neuroattn.results import Scanpath

Fixations: TypeAlias = Scanpath | Mapping[str, Any] | pd.DataFrame
TRIAL_LABELS = ("observer", "image", "scene", "task", "condition", "target")
_LONGEST_MEAN = 10.0  # seconds; a fixation lasts about a quarter of one


def column(argument: str, path: Fixations, name: str) -> NDArray[Any] | None:
    """Return one named array of the fixations, None where it is not there."""
    if isinstance(path, Scanpath):
        given = getattr(path, name)
    elif isinstance(path, Mapping | pd.DataFrame):
        given = path.get(name)
    else:
        raise TypeError(
            f"{argument} must be a Scanpath or hold named arrays such as {{'x': ..., 'y': ...}}, "
            f"got {type(path).__name__}"
        )
    return None if given is None else np.asarray(given)


def needed(argument: str, path: Fixations, name: str, why: str) -> NDArray[Any]:
    """Return one named array of the fixations, or say why it must be there."""
    values = column(argument, path, name)
    if values is None:
        raise ValueError(f"{argument} must hold {name!r} {why}, got none")
    if values.ndim != 1:
        raise ValueError(f"{argument}[{name!r}] must have shape (fixation,), got {values.shape}")
    return values


def xy(argument: str, path: Fixations) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the finite coordinates of each fixation in px."""
    if isinstance(path, Scanpath):
        return path.x, path.y  # checked when it was made
    x, y = (needed(argument, path, name, "in px").astype(np.float64) for name in ("x", "y"))
    if x.shape != y.shape:
        raise ValueError(f"{argument}['y'] must have shape {x.shape}, got {y.shape}")
    for name, values in (("x", x), ("y", y)):
        if not np.isfinite(values).all():
            raise ValueError(
                f"{argument}[{name!r}] must be finite, got {values[~np.isfinite(values)][0]} among its values"
            )
    return x, y


def durations(argument: str, path: Fixations, n_fixations: int) -> NDArray[np.float64]:
    """Return the duration of each fixation in seconds; warn where it looks like milliseconds."""
    duration = needed(argument, path, "duration", "in seconds").astype(np.float64, copy=False)
    if duration.shape != (n_fixations,):
        raise ValueError(f"{argument}['duration'] must have shape ({n_fixations},), got {duration.shape}")
    if not isinstance(path, Scanpath):
        known = np.isfinite(duration) & (duration >= 0)
        if not known.all():
            raise ValueError(
                f"{argument}['duration'] must be finite and not negative, got {duration[~known][0]} s"
            )
    if duration.sum() > _LONGEST_MEAN * n_fixations:
        warnings.warn(
            f"{argument}['duration'] has a mean of {duration.mean():g} s; are these milliseconds?",
            UserWarning,
            stacklevel=4,
        )
    return duration


def size_of(image_size: tuple[int, int] | None, **paths: Fixations) -> tuple[float, float]:
    """Return (width, height) in px: as given, or that which the scanpaths agree on."""
    if image_size is None:
        sizes = {name: path.image_size for name, path in paths.items() if isinstance(path, Scanpath)}
        if len(sizes) < len(paths) or len(set(sizes.values())) != 1:
            raise ValueError(
                f"image_size must be given as (width, height) unless all scanpaths carry the same, got {sizes or None}"
            )
        (image_size,) = set(sizes.values())
    width, height = image_size
    if not (np.isfinite([width, height]).all() and width > 0 and height > 0):
        raise ValueError(f"image_size must be (width, height) in px, got {image_size!r}")
    return float(width), float(height)


def is_one(paths: object) -> bool:
    """Tell one scanpath from several."""
    return isinstance(paths, Scanpath | Mapping | pd.DataFrame)


def as_list(argument: str, paths: Iterable[Fixations]) -> list[Fixations]:
    """Return several scanpaths as a list; one alone is refused."""
    if is_one(paths):
        raise TypeError(f"{argument} must be a sequence of scanpaths, got one {type(paths).__name__}")
    return list(paths)


def labels(argument: str, paths: Sequence[Fixations], name: str) -> NDArray[np.str_]:
    """Return the label ``attrs[name]`` of each scanpath; an image and an observer must have a name."""
    found = []
    for i, path in enumerate(paths):
        label = path.attrs.get(name) if isinstance(path, Scanpath) else None
        if label is None or (name in ("image", "observer") and str(label) == ""):
            raise ValueError(
                f"{argument}[{i}] must be a Scanpath whose attrs name its {name}, got {path!r:.60}"
            )
        found.append(str(label))
    return np.asarray(found, dtype=np.str_)


def trial_coords(paths: Sequence[Fixations]) -> dict[str, tuple[str, NDArray[np.str_]]]:
    """Return the labels that all scanpaths carry, as coordinates along ``trial``."""
    attrs = [path.attrs if isinstance(path, Scanpath) else {} for path in paths]
    return {
        name: ("trial", np.asarray([str(attr[name]) for attr in attrs], dtype=np.str_))
        for name in TRIAL_LABELS
        if attrs and all(name in attr for attr in attrs)
    }
