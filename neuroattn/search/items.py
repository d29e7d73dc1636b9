"""Items of search displays as functions of the visual angle, drawn at any number of pixels per degree.

Every shape is defined by its edges in degrees, the published ones by their published pixels at 30 px per degree.
A pixel gets the grey level of what covers it, from 8 x 8 points inside it: edges that lie between pixels, as all
upright published ones do at 30 px per degree, are exact, and slanted ones are smoothed by area. The original
stimuli smoothed slanted edges by linear interpolation of a drawn image and went through JPEG.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from neuroattn._checks import check_option, check_range

__all__ = ["Item", "arc", "bar", "cross", "disc", "letter_l", "letter_t", "line", "non_cross"]

PUBLISHED_PX_PER_DEGREE = 30.0
_POINTS = 8  # in a pixel, along each axis
_SIDES = ("top", "bottom", "left", "right")

Array = NDArray[np.float64]
Grey = Callable[[Array, Array], Array]


@dataclass(frozen=True)
class Item:
    """Something to be found, or to be taken for it.

    Parameters
    ----------
    name : str
    side_deg : float
        Side of its square patch in degrees of visual angle.
    grey : callable
        Takes ``y, x`` in degrees from the patch's top left and returns the grey level there, 0 to 255, NaN where
        there is only background.
    background : int, default 255
        Grey level around the item, 0 to 255.

    Examples
    --------
    >>> square = Item("square", 1.0, lambda y, x: np.where((abs(y - 0.5) < 0.25) & (abs(x - 0.5) < 0.25), 0, np.nan))
    >>> square.draw(px_per_degree=4)
    array([[255, 255, 255, 255],
           [255,   0,   0, 255],
           [255,   0,   0, 255],
           [255, 255, 255, 255]], dtype=uint8)
    """

    name: str
    side_deg: float
    grey: Grey
    background: int = 255

    def __post_init__(self) -> None:
        if not self.side_deg > 0:
            raise ValueError(f"side_deg must be above 0, got {self.side_deg!r}")
        check_range("background", self.background, 0, 255)

    def draw(self, px_per_degree: float = PUBLISHED_PX_PER_DEGREE) -> NDArray[np.uint8]:
        """Return the item's patch, uint8 (y, x), of ``round(side_deg * px_per_degree)`` pixels a side."""
        side = round(self.side_deg * px_per_degree)
        if side < 1:
            raise ValueError(
                f"px_per_degree must give item {self.name!r} at least one pixel, got {px_per_degree!r}"
            )
        at = (np.arange(side * _POINTS) + 0.5) / (_POINTS * px_per_degree)
        grey = self.grey(*np.meshgrid(at, at, indexing="ij"))
        grey = np.where(np.isnan(grey), float(self.background), grey)
        covered = grey.reshape(side, _POINTS, side, _POINTS).mean((1, 3))
        return np.asarray(np.rint(covered), np.uint8)

    def rotated(self, degrees: float, *, about_deg: float | None = None) -> Item:
        """Return the item rotated clockwise about a point of its diagonal, its centre unless given in degrees."""
        pivot = self.side_deg / 2 if about_deg is None else about_deg
        cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))

        def grey(y: Array, x: Array) -> Array:
            y, x = y - pivot, x - pivot
            return self.grey(cos * y - sin * x + pivot, sin * y + cos * x + pivot)

        return replace(self, name=f"{self.name} rotated {degrees:g}", grey=grey)

    def transposed(self) -> Item:
        """Return the item mirrored along its diagonal from the top left."""
        return replace(self, name=f"{self.name} transposed", grey=lambda y, x: self.grey(x, y))

    def flipped(self, *, upside_down: bool) -> Item:
        """Return the item upside down, or else with left and right exchanged."""
        side = self.side_deg
        if upside_down:
            return replace(self, name=f"{self.name} upside down", grey=lambda y, x: self.grey(side - y, x))
        return replace(self, name=f"{self.name} mirrored", grey=lambda y, x: self.grey(y, side - x))


def bar(orientation: float = 0, *, background: int = 255) -> Item:
    """Make a bar of 2 by 0.3 degrees in a patch of 2.3 degrees, black unless the background is.

    Parameters
    ----------
    orientation : float, default 0
        Degrees clockwise from vertical.
    background : int, default 255

    Examples
    --------
    >>> patch = bar(0).draw()
    >>> patch.shape, int((patch == 0).sum())
    ((69, 69), 540)
    """
    upright = _bars(f"bar {orientation:g}", 69, background, (4, 64, 30, 39))
    return replace(upright.rotated(orientation, about_deg=35 / 30), name=upright.name)


def line(orientation: float = 0) -> Item:
    """Make a white line of 1.2 by 0.2 degrees in a black patch of 1.6 degrees.

    Parameters
    ----------
    orientation : float, default 0
        Degrees clockwise from horizontal.

    Examples
    --------
    >>> patch = line(0).draw()
    >>> patch.shape, int((patch == 255).sum())
    ((48, 48), 216)
    """
    level = _bars(f"line {orientation:g}", 48, 0, (21, 27, 6, 42))
    return replace(level.rotated(orientation, about_deg=24.5 / 30), name=level.name)


def arc(orientation: float = 0) -> Item:
    """Make a white arc, 75 degrees of a circle of 1 degree of visual angle, in a black patch of 1.6 degrees.

    Parameters
    ----------
    orientation : float, default 0
        Degrees clockwise from the arc that sags in its middle.

    Notes
    -----
    Its ends are cut along the radius; those of the original are OpenCV's.

    Examples
    --------
    >>> arc(45).draw().shape
    (48, 48)
    """

    def grey(y: Array, x: Array) -> Array:
        y, x = y - -1.5 / 30, x - 24.5 / 30
        angle, radius = np.rad2deg(np.arctan2(y, x)), np.hypot(y, x)
        return np.where((abs(radius - 1) < 2.5 / 30) & (angle > 52) & (angle < 127), 255.0, np.nan)

    name = f"arc {orientation:g}"
    return replace(Item(name, 48 / 30, grey, 0).rotated(orientation, about_deg=24.5 / 30), name=name)


def disc(bright: str = "bottom") -> Item:
    """Make a disc of 1 degree that is shaded in 16 steps, in a patch of 1.03 degrees of grey level 27.

    Parameters
    ----------
    bright : {"top", "bottom", "left", "right"}, default "bottom"
        The bright side.

    Examples
    --------
    >>> disc("bottom").draw()[[2, 15, 29], 15]
    array([ 17, 119, 238], dtype=uint8)
    """
    check_option("bright", bright, _SIDES)

    def grey(y: Array, x: Array) -> Array:
        inside = np.hypot(y - 15.5 / 30, x - 15.5 / 30) < 15 / 30
        return np.where(inside, 17 * np.clip(np.floor(y * 15), 0, 15), np.nan)

    item = Item("disc", 31 / 30, grey, 27)
    if bright in ("left", "right"):
        item = item.transposed()
    if bright in ("top", "left"):
        item = item.flipped(upside_down=bright == "top")
    return replace(item, name=f"disc bright {bright}")


def cross() -> Item:
    """Make a black cross of two bars of 5.5 degrees, one off the centre, in a patch of 5.9 degrees.

    Examples
    --------
    >>> cross().draw().shape
    (177, 177)
    """
    return _bars("cross", 177, 255, (6, 171, 80, 96), (55, 72, 6, 171))


def non_cross() -> Item:
    """Make the cross whose horizontal bar is broken, so that its halves meet the upright one at two heights.

    Examples
    --------
    >>> non_cross().draw()[80].min(), non_cross().draw()[60, :90].max()
    (np.uint8(0), np.uint8(255))
    """
    return _bars("non-cross", 177, 255, (6, 171, 80, 96), (55, 72, 6, 88), (105, 121, 88, 171))


def letter_l() -> Item:
    """Make a black L of 5.5 degrees in a patch of 5.9 degrees.

    Examples
    --------
    >>> letter_l().draw()[100, [10, 100]]
    array([  0, 255], dtype=uint8)
    """
    return _bars("L", 177, 255, (6, 171, 6, 22), (154, 171, 6, 171))


def letter_t() -> Item:
    """Make a black T of 5.5 degrees in a patch of 5.9 degrees.

    Examples
    --------
    >>> letter_t().draw()[100, [10, 90]]
    array([255,   0], dtype=uint8)
    """
    return _bars("T", 177, 255, (6, 171, 80, 96), (6, 22, 6, 171))


def _bars(name: str, side: int, background: int, *edges: tuple[int, int, int, int]) -> Item:
    """Return upright bars from their top, bottom, left and right edges in published pixels."""
    ink = 0.0 if background > 127 else 255.0

    def grey(y: Array, x: Array) -> Array:
        y, x = y * PUBLISHED_PX_PER_DEGREE, x * PUBLISHED_PX_PER_DEGREE
        inside = np.zeros(y.shape, bool)
        for top, bottom, left, right in edges:
            inside |= (y > top) & (y < bottom) & (x > left) & (x < right)
        return np.where(inside, ink, np.nan)

    return Item(name, side / PUBLISHED_PX_PER_DEGREE, grey, background)
