"""What an observer looks at: an image, the objects in it, and what is searched for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from neuroattn._checks import check_option, check_range, check_shape
from neuroattn._files import open_image, reading

_UNITS = ("px", "degree")


@dataclass(frozen=True, eq=False, repr=False)
class ObjectScene:
    """An image with the boxes of its objects, and the target of the search if there is one.

    Parameters
    ----------
    boxes : float array, shape (object, 4)
        Left, top, width and height of each object, px. Boxes may overlap, and there may be none.
    size : tuple of int, (width, height)
        Size of the image, px.
    labels : sequence of str, one for each object, optional
        Categories.
    target : int, optional
        Index of the object that is searched for.
    target_label : str, optional
        Category that is searched for. It need not be in the scene: then the target is absent.
    image : uint8 array, shape (y, x, 3), or Path, optional
        RGB. It may be larger or smaller than ``size``, with the same aspect ratio; :meth:`pixels` resizes it.
    features : float array, shape (object, feature), optional
        Appearance of each object, computed beforehand.
    exemplar : uint8 array, shape (y, x, 3), or Path, optional
        The cue: another picture of the target.
    exemplar_features : float array, shape (feature,), optional
        Appearance of the cue, computed as ``features``.
    grid : tuple of int, (rows, columns), optional
        Grid that the objects form, in raster order.
    px_per_degree : float, optional
        Pixels per degree of visual angle; see :func:`px_per_degree`.
    name : str, default ""

    Raises
    ------
    ValueError
        If a box is not finite or has no area, a length does not fit the number of objects, the target is not one
        of the objects, or its label is not ``target_label``.

    Examples
    --------
    >>> scene = ObjectScene([[0, 0, 40, 30], [60, 10, 20, 20]], (100, 80), labels=["cup", "fork"],
    ...                     target_label="fork")
    >>> scene
    ObjectScene(2 objects in 100 x 80 px, target 'fork')
    >>> scene.matches_target
    array([False,  True])
    >>> scene.assign([5, 70, 99], [5, 15, 79])
    array([ 0,  1, -1])
    """

    boxes: NDArray[np.float64]
    size: tuple[int, int]
    labels: tuple[str, ...] | None = None
    target: int | None = None
    target_label: str | None = None
    image: NDArray[np.uint8] | Path | None = None
    features: NDArray[np.floating[Any]] | None = None
    exemplar: NDArray[np.uint8] | Path | None = None
    exemplar_features: NDArray[np.floating[Any]] | None = None
    grid: tuple[int, int] | None = None
    px_per_degree: float | None = None
    name: str = ""

    def __post_init__(self) -> None:
        put = partial(object.__setattr__, self)
        boxes = np.array(self.boxes, dtype=np.float64).reshape(-1, 4) if len(self.boxes) else np.empty((0, 4))
        if not np.isfinite(boxes).all() or (boxes[:, 2:] <= 0).any():
            row = int(np.flatnonzero(~np.isfinite(boxes).all(1) | (boxes[:, 2:] <= 0).any(1))[0])
            raise ValueError(f"boxes must be finite with width and height above 0, got {boxes[row].tolist()}")
        boxes.flags.writeable = False
        put("boxes", boxes)
        if len(self.size) != 2 or not 1 <= min(self.size) <= max(self.size) < 2**31:
            raise ValueError(f"size must be (width, height) in px, got {self.size!r}")
        put("size", (int(self.size[0]), int(self.size[1])))
        n = len(boxes)
        if self.labels is not None:
            put("labels", tuple(map(str, self.labels)))
            if len(self.labels) != n:
                raise ValueError(f"labels must name each of {n} objects, got {len(self.labels)}")
        if self.target is not None:
            if not 0 <= self.target < n:
                raise ValueError(f"target must be the index of one of {n} objects, got {self.target}")
            put("target", int(self.target))
            if None not in (self.labels, self.target_label) and not self.matches_target[self.target]:
                raise ValueError(
                    f"target must have the label {self.target_label!r}, got {self.labels[self.target]!r}"  # type: ignore[index]
                )
        for field in ("image", "exemplar"):
            picture = getattr(self, field)
            if isinstance(picture, str):
                put(field, Path(picture))
            elif picture is not None and not isinstance(picture, Path):
                check_shape(field, picture, "y", "x", 3)
                if picture.dtype != np.uint8:
                    raise TypeError(f"{field} must be uint8 RGB in 0..255, got {picture.dtype}")
        if isinstance(self.image, np.ndarray):
            self._check_aspect(self.image.shape[1], self.image.shape[0])
        if self.features is not None:
            put("features", np.asarray(self.features))
            check_shape("features", self.features, n, "feature")
        if self.exemplar_features is not None:
            put("exemplar_features", np.asarray(self.exemplar_features))
            n_features = "feature" if self.features is None else self.features.shape[1]
            check_shape("exemplar_features", self.exemplar_features, n_features)
        if self.grid is not None:
            put("grid", (int(self.grid[0]), int(self.grid[1])))
            if self.grid[0] * self.grid[1] != n:
                raise ValueError(f"grid must have a cell for each of {n} objects, got {self.grid}")
        if self.px_per_degree is not None:
            check_range("px_per_degree", self.px_per_degree, 0)

    @classmethod
    def from_boxes(
        cls, image: NDArray[np.uint8] | str | Path | tuple[int, int], boxes: ArrayLike, **fields: Any
    ) -> ObjectScene:
        """Make a scene of free boxes, with the size of its image.

        Parameters
        ----------
        image : uint8 array, shape (y, x, 3), Path or tuple (width, height)
            A size where there is no image.
        boxes : float array, shape (object, 4)
            Left, top, width and height, px of the image.
        **fields
            Any other field: ``labels``, ``target``, ``target_label``, ...

        Examples
        --------
        >>> ObjectScene.from_boxes(np.zeros((80, 100, 3), np.uint8), [[0, 0, 40, 30]], target=0).size
        (100, 80)
        """
        if isinstance(image, tuple):
            return cls(np.asarray(boxes), image, **fields)
        if not isinstance(image, np.ndarray):
            image = Path(image)
        return cls(np.asarray(boxes), _picture_size(image), image=image, **fields)

    @classmethod
    def from_grid(
        cls,
        image: NDArray[np.uint8] | str | Path | tuple[int, int],
        *,
        rows: int,
        columns: int,
        target: int | None = None,
        **fields: Any,
    ) -> ObjectScene:
        """Make a scene of equal cells that cover the image, in raster order.

        Parameters
        ----------
        image : uint8 array, shape (y, x, 3), Path or tuple (width, height)
        rows, columns : int
        target : int, optional
            Row times ``columns`` plus column of the target's cell.
        **fields
            Any other field.

        Examples
        --------
        >>> shelf = ObjectScene.from_grid((1400, 600), rows=6, columns=14, target=37)
        >>> shelf.boxes[37].tolist()
        [900.0, 200.0, 100.0, 100.0]
        """
        for name, value in (("rows", rows), ("columns", columns)):
            check_range(name, value, 1)
        width, height = image if isinstance(image, tuple) else _picture_size(image)
        row, column = np.divmod(np.arange(rows * columns), columns)
        cell = (width / columns, height / rows)
        boxes = np.stack([column * cell[0], row * cell[1], *np.broadcast_arrays(*cell, row)[:2]], 1)
        return cls.from_boxes(image, boxes, target=target, grid=(rows, columns), **fields)

    @classmethod
    def from_detector(
        cls, image: NDArray[np.uint8] | str | Path, detect: Callable[[NDArray[np.uint8]], Any], **fields: Any
    ) -> ObjectScene:
        """Make a scene of the objects that a detector finds.

        Parameters
        ----------
        image : uint8 array, shape (y, x, 3), or Path
        detect : callable
            Takes the image as a uint8 array and returns boxes (object, 4), or a tuple of boxes and labels, or of
            boxes, labels (or None) and features.
        **fields
            Any other field.

        Examples
        --------
        >>> def detect(image):
        ...     return [[0, 0, 40, 30], [60, 10, 20, 20]], ["cup", "fork"]
        >>> ObjectScene.from_detector(np.zeros((80, 100, 3), np.uint8), detect, target_label="cup")
        ObjectScene(2 objects in 100 x 80 px, target 'cup')
        """
        pixels = image if isinstance(image, np.ndarray) else _read_picture(Path(image))
        found = detect(pixels)
        if not isinstance(found, tuple):
            found = (found,)
        if not 1 <= len(found) <= 3:
            raise ValueError(f"detect must return boxes[, labels[, features]], got a tuple of {len(found)}")
        return cls.from_boxes(
            image, **dict(zip(("boxes", "labels", "features"), found, strict=False)), **fields
        )

    def __repr__(self) -> str:
        target = self.target_label if self.target_label is not None else self.target
        searched = "" if target is None else f", target {target!r}"
        return f"ObjectScene({self.n_objects} objects in {self.size[0]} x {self.size[1]} px{searched})"

    @property
    def n_objects(self) -> int:
        """Number of objects."""
        return len(self.boxes)

    @property
    def x(self) -> NDArray[np.float64]:
        """Centre of each object, px from the left, shape (object,)."""
        return self.boxes[:, 0] + self.boxes[:, 2] / 2

    @property
    def y(self) -> NDArray[np.float64]:
        """Centre of each object, px from the top, shape (object,)."""
        return self.boxes[:, 1] + self.boxes[:, 3] / 2

    @property
    def matches_target(self) -> NDArray[np.bool_]:
        """Whether each object is what is searched for, shape (object,).

        Its label equals ``target_label``; where either is not known, it is the object ``target``.
        """
        if self.labels is not None and self.target_label is not None:
            return np.array([label == self.target_label for label in self.labels], dtype=bool)
        matches: NDArray[np.bool_] = np.arange(self.n_objects) == (-1 if self.target is None else self.target)
        return matches

    def pixels(self) -> NDArray[np.uint8]:
        """Return the image, RGB, shape (height, width, 3) with the scene's size.

        Raises
        ------
        ValueError
            If the scene has no image, or its file cannot be read or has another aspect ratio.
        FileNotFoundError
            If the file of the image is missing.
        """
        if self.image is None:
            raise ValueError(f"scene {self.name!r} must have an image, got none")
        pixels = self.image if isinstance(self.image, np.ndarray) else _read_picture(self.image)
        if pixels.shape[:2] == self.size[::-1]:
            return pixels
        self._check_aspect(pixels.shape[1], pixels.shape[0])
        return np.asarray(Image.fromarray(pixels).resize(self.size, Image.Resampling.BILINEAR))

    def crops(self, size: tuple[int, int]) -> NDArray[np.uint8]:
        """Cut the objects out of the image, each resized.

        Parameters
        ----------
        size : tuple of int, (width, height)
            Size of a crop, px. Boxes are widened to whole pixels; parts beyond the image are left out.

        Returns
        -------
        uint8 array, shape (object, height, width, 3)

        Raises
        ------
        ValueError
            If the scene has no image, or a box lies outside it.

        Examples
        --------
        >>> scene = ObjectScene.from_grid(np.zeros((80, 100, 3), np.uint8), rows=2, columns=3)
        >>> scene.crops((32, 48)).shape
        (6, 48, 32, 3)
        """
        pixels = self.pixels()
        image = Image.fromarray(pixels)
        ends = np.ceil(np.clip(self.boxes[:, :2] + self.boxes[:, 2:], 0, self.size)).astype(int)
        starts = np.floor(np.clip(self.boxes[:, :2], 0, self.size)).astype(int)
        crops = np.empty((self.n_objects, size[1], size[0], 3), np.uint8)
        for i, (start, end) in enumerate(zip(starts, ends, strict=True)):
            if (end <= start).any():
                raise ValueError(
                    f"boxes[{i}] must overlap the image of {self.size} px, got {self.boxes[i].tolist()}"
                )
            # Cut before resizing: neighbouring pixels must not leak in.
            crop = image.crop((*start.tolist(), *end.tolist()))
            crops[i] = np.asarray(crop.resize(size, Image.Resampling.BILINEAR))
        return crops

    def exemplar_crop(self, size: tuple[int, int]) -> NDArray[np.uint8]:
        """Return the cue, resized as :meth:`crops` resizes objects.

        Parameters
        ----------
        size : tuple of int, (width, height)

        Returns
        -------
        uint8 array, shape (height, width, 3)

        Raises
        ------
        ValueError
            If the scene has no exemplar.
        """
        if self.exemplar is None:
            raise ValueError(f"scene {self.name!r} must have an exemplar, got none")
        pixels = self.exemplar if isinstance(self.exemplar, np.ndarray) else _read_picture(self.exemplar)
        return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR))

    def assign(
        self, x: ArrayLike, y: ArrayLike, *, max_distance: float | None = None, unit: str = "px"
    ) -> NDArray[np.int64]:
        """Find the object that each fixation is on.

        Parameters
        ----------
        x, y : float array, shape (fixation,)
            Pixels from the image's top left.
        max_distance : float, optional
            A fixation in no box belongs to the object whose centre is nearest, if it is this near; ``np.inf`` for
            any distance. None: it belongs to none.
        unit : {"px", "degree"}, default "px"
            Unit of ``max_distance``; degrees need the scene's ``px_per_degree``.

        Returns
        -------
        int array, shape (fixation,)
            Index of the smallest box that contains the fixation (of equal ones the first), else of the nearest
            object, else -1.

        Raises
        ------
        ValueError
            If ``unit`` is "degree" and the scene has no ``px_per_degree``.

        Examples
        --------
        >>> scene = ObjectScene([[0, 0, 100, 100], [20, 20, 10, 10]], (200, 100))
        >>> scene.assign([25, 50, 120], [25, 50, 50])
        array([ 1,  0, -1])
        >>> scene.assign([120, 199], [50, 50], max_distance=80)
        array([ 0, -1])
        """
        check_option("unit", unit, _UNITS)
        x, y = np.atleast_1d(np.asarray(x, np.float64)), np.atleast_1d(np.asarray(y, np.float64))
        check_shape("y", y, *x.shape)
        if not self.n_objects:
            return np.full(x.shape, -1, np.int64)
        left, top, width, height = (side[:, None] for side in self.boxes.T)
        inside = (x >= left) & (x < left + width) & (y >= top) & (y < top + height)
        area = np.where(inside, width * height, np.inf)
        objects = np.where(inside.any(0), area.argmin(0), -1)
        if max_distance is not None:
            check_range("max_distance", 0 if max_distance == np.inf else max_distance, 0)
            if unit == "degree":
                if self.px_per_degree is None:
                    raise ValueError("max_distance in degrees must come with px_per_degree, got None")
                max_distance *= self.px_per_degree
            distance = np.hypot(x - self.x[:, None], y - self.y[:, None])
            near = np.nan_to_num(distance, nan=np.inf)
            within = (objects < 0) & (distance.min(0) <= max_distance)
            objects = np.where(within, near.argmin(0), objects)
        return objects.astype(np.int64)

    def _check_aspect(self, width: int, height: int) -> None:
        # Half a pixel of rounding on the smaller picture.
        scale = min(width / self.size[0], height / self.size[1])
        if max(abs(width - scale * self.size[0]), abs(height - scale * self.size[1])) > 1:
            raise ValueError(
                f"image must have the aspect ratio of size {self.size} (width, height), got {(width, height)} px"
            )


def px_per_degree(distance_cm: float, width_cm: float, width_px: int) -> float:
    """Return how many pixels of a screen one degree of visual angle spans at its centre.

    Parameters
    ----------
    distance_cm : float
        From the eye to the screen, cm.
    width_cm : float
        Width of the screen, cm.
    width_px : int
        Width of the screen, px.

    Returns
    -------
    float
        ``2 * distance * tan(0.5 degree)`` in px.

    Examples
    --------
    >>> round(px_per_degree(47, 50, 1680), 2)
    27.56
    """
    for name, value in (("distance_cm", distance_cm), ("width_cm", width_cm), ("width_px", width_px)):
        check_range(name, value, 0)
        if value == 0:
            raise ValueError(f"{name} must be above 0, got {value}")
    return float(2 * distance_cm * np.tan(np.radians(0.5)) * width_px / width_cm)


def _picture_size(image: NDArray[np.uint8] | str | Path) -> tuple[int, int]:
    if isinstance(image, np.ndarray):
        check_shape("image", image, "y", "x", 3)
        return image.shape[1], image.shape[0]
    with _opened(Path(image)) as picture:
        width, height = picture.size
    return width, height


def _read_picture(path: Path) -> NDArray[np.uint8]:
    with _opened(path) as picture, reading(f"{path} must be an image, got a damaged file:"):
        return np.asarray(picture.convert("RGB"))


def _opened(path: Path) -> Image.Image:
    if not path.is_file():
        raise FileNotFoundError(f"image {path} does not exist")
    with reading(f"{path} must be an image, got"):
        picture: Image.Image = open_image(path)
    return picture
