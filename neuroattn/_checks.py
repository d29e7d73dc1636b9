"""The wording of input errors: argument, rule and value in one line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np


class Shaped(Protocol):
    """Anything with a shape: ndarray, Tensor, memmap, zarr array."""

    @property
    def shape(self) -> Any: ...


def check_option(name: str, value: str, options: Iterable[str]) -> str:
    """Return ``value`` if it is one of ``options``; the error names the nearest ones.

    Examples
    --------
    >>> check_option("norm", "pre", ("pre", "post"))
    'pre'
    >>> check_option("norm", "per", ("pre", "post"))
    Traceback (most recent call last):
    ValueError: norm must be one of 'pre', 'post', got 'per'
    """
    options = list(options)
    if value in options:
        return value
    shown = options
    if len(options) > 8:
        shown = difflib.get_close_matches(str(value), options, n=5, cutoff=0.3) or options[:5]
        raise ValueError(f"{name} {value!r} is unknown; nearest are {', '.join(map(repr, shown))}")
    raise ValueError(f"{name} must be one of {', '.join(map(repr, shown))}, got {value!r}")


def check_shape(name: str, array: Shaped, *dims: int | str | None) -> tuple[int, ...]:
    """Check the shape of an array against sizes (int), axis names (str: any size) or None (any size).

    Examples
    --------
    >>> check_shape("x", np.zeros((2, 5)), 2, "time")
    (2, 5)
    >>> check_shape("x", np.zeros((3,)), 2, "time")
    Traceback (most recent call last):
    ValueError: x must have shape (2, time), got (3,)
    """
    shape = tuple(array.shape)  # sizes stay symbolic while torch exports a model
    ok = len(shape) == len(dims) and all(
        not isinstance(want, int) or want == got for want, got in zip(dims, shape, strict=True)
    )
    if not ok:
        wanted = ", ".join("any" if d is None else str(d) for d in dims)
        raise ValueError(f"{name} must have shape ({wanted}{',' if len(dims) == 1 else ''}), got {shape}")
    return shape


def check_range(name: str, value: float, low: float | None = None, high: float | None = None) -> None:
    """Check that a number is finite and lies in ``[low, high]``.

    Examples
    --------
    >>> check_range("dropout", 1.5, 0, 1)
    Traceback (most recent call last):
    ValueError: dropout must be between 0 and 1, got 1.5
    """
    inside = np.isfinite(value) and (low is None or value >= low) and (high is None or value <= high)
    if not inside:
        if high is None:
            rule = f"at least {low}"
        elif low is None:
            rule = f"at most {high}"
        else:
            rule = f"between {low} and {high}"
        raise ValueError(f"{name} must be {rule}, got {value!r}")


def check_seed(seed: int | np.random.Generator) -> np.random.Generator:
    """Return a Generator made from a whole number, or the Generator itself.

    Examples
    --------
    >>> check_seed(0).integers(10)
    np.int64(8)
    >>> check_seed(None)
    Traceback (most recent call last):
    TypeError: seed must be a whole number or a numpy Generator, got None
    """
    if isinstance(seed, np.random.Generator):
        return seed
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer):
        raise TypeError(f"seed must be a whole number or a numpy Generator, got {seed!r}")
    if seed < 0:
        raise ValueError(f"seed must be at least 0, got {seed}")
    return np.random.default_rng(seed)
