"""Composed images of faces, bodies, places and words among weaker versions of themselves."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from string import ascii_uppercase
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

CATEGORIES = ("faces", "bodies", "places", "words")
GRID = 4  # cells along y and x; each holds one object
IMAGE_SIDE = 224  # px
OBJECT_SIDE = 48  # px

_SCALE = 2  # objects are drawn larger and reduced, for smooth edges

_Colour: TypeAlias = tuple[int, int, int]
_Draw: TypeAlias = Callable[[ImageDraw.ImageDraw, int, np.random.Generator], None]


def shuffle_cells(n_images: int, n_objects: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """Return the cell of each object, shape (image, category, object), row-major in the grid of cells."""
    cells = rng.permuted(np.tile(np.arange(GRID**2), (n_images, 1)), axis=1)
    return cells[:, : len(CATEGORIES) * n_objects].reshape(n_images, len(CATEGORIES), n_objects)


def draw_scenes(
    n_images: int, contrasts: tuple[float, ...], rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.intp]]:
    """Draw images with one object of each category for each entry of ``contrasts``.

    Returns
    -------
    images : uint8 array, shape (image, y, x, 3)
    corners : int array, shape (image, category, object, 2)
        Upper left corner (y, x) of each object's square of ``OBJECT_SIDE`` px.
    """
    from matplotlib import get_data_path

    path = Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans-Bold.ttf"
    fonts = [ImageFont.truetype(str(path), size) for size in range(22, 32)]
    cell = IMAGE_SIDE // GRID
    cells = shuffle_cells(n_images, len(contrasts), rng)
    corners = cell * np.stack(divmod(cells, GRID), -1)
    corners += rng.integers(0, cell - OBJECT_SIDE + 1, corners.shape)
    drawings: tuple[_Draw, ...] = (_face, _body, _house, partial(_word, fonts))
    images = np.empty((n_images, IMAGE_SIDE, IMAGE_SIDE, 3), np.uint8)
    for image, places in zip(images, corners, strict=True):
        canvas = _background(rng)
        for draw, of_category in zip(drawings, places, strict=True):
            for contrast, (y, x) in zip(contrasts, of_category, strict=True):
                patch = _patch(draw, rng)
                window = canvas[y : y + OBJECT_SIDE, x : x + OBJECT_SIDE]
                window += contrast / 255 * patch[..., 3:] * (patch[..., :3] - window)
        image[:] = canvas.round().clip(0, 255)
    return images, corners


def _background(rng: np.random.Generator) -> NDArray[np.float32]:
    """Draw coloured texture around mid grey, shape (y, x, 3)."""
    texture = np.full((IMAGE_SIDE, IMAGE_SIDE, 3), 128, np.float32)
    for side in (7, 28, 56):
        block = np.ones((IMAGE_SIDE // side, IMAGE_SIDE // side, 1), np.float32)
        texture += np.kron(rng.normal(0, 12, (side, side, 3)).astype(np.float32), block)
    return texture


def _patch(draw: _Draw, rng: np.random.Generator) -> NDArray[np.float32]:
    """Draw one object on a transparent square, shape (y, x, 4)."""
    side = OBJECT_SIDE * _SCALE
    image = Image.new("RGBA", (side, side), (0, 0, 0, 0))
    draw(ImageDraw.Draw(image), side, rng)
    return np.asarray(image.reduce(_SCALE), np.float32)


def _colour(rng: np.random.Generator, low: int = 0, high: int = 256) -> _Colour:
    red, green, blue = rng.integers(low, high, 3).tolist()
    return red, green, blue


def _skin(rng: np.random.Generator) -> _Colour:
    red, green, blue = (np.array([235, 190, 155]) * rng.uniform(0.35, 1.08)).clip(0, 255).astype(int).tolist()
    return red, green, blue


# The drawings below fill a square of s pixels; every number drawn from rng tells instances apart.


def _face(draw: ImageDraw.ImageDraw, s: int, rng: np.random.Generator) -> None:
    skin, hair, iris, line = _skin(rng), _colour(rng, 0, 200), _colour(rng, 0, 160), int(0.03 * s)
    middle, w, h = s / 2, rng.uniform(0.32, 0.44) * s, rng.uniform(0.42, 0.49) * s
    length = rng.uniform(-0.1, 0.9)
    draw.ellipse((middle - 1.1 * w, middle - h, middle + 1.1 * w, middle + length * h), fill=hair)
    draw.ellipse((middle - w, middle - 0.85 * h, middle + w, middle + h), fill=skin)
    apart, eye_y = rng.uniform(0.32, 0.5) * w, middle - rng.uniform(0.05, 0.25) * h
    eye, brow_y = rng.uniform(0.1, 0.17) * w + 0.02 * s, rng.uniform(1.5, 2.2)
    for x in (middle - apart, middle + apart):
        draw.ellipse((x - 1.5 * eye, eye_y - eye, x + 1.5 * eye, eye_y + eye), fill=(250, 250, 250))
        draw.ellipse((x - 0.8 * eye, eye_y - 0.8 * eye, x + 0.8 * eye, eye_y + 0.8 * eye), fill=iris)
        y = eye_y - brow_y * eye
        draw.line((x - 1.6 * eye, y, x + 1.6 * eye, y), fill=hair, width=line)
    shade = (int(0.7 * skin[0]), int(0.7 * skin[1]), int(0.7 * skin[2]))
    draw.line((middle, eye_y + eye, middle - 0.03 * s, middle + 0.25 * h), fill=shade, width=line)
    mouth, y = rng.uniform(0.25, 0.55) * w, middle + rng.uniform(0.45, 0.6) * h
    upper, lower = rng.uniform(0.03, 0.14) * h, rng.uniform(0.05, 0.16) * h
    lips = (int(rng.integers(120, 230)), 40, 60)
    draw.ellipse((middle - mouth, y - upper, middle + mouth, y + lower), fill=lips)


def _body(draw: ImageDraw.ImageDraw, s: int, rng: np.random.Generator) -> None:
    shirt, trousers, skin = _colour(rng), _colour(rng), _skin(rng)
    middle, shoulder, hip = s / 2, rng.uniform(0.2, 0.3) * s, rng.uniform(0.15, 0.24) * s
    top, waist, limb = 0.2 * s, rng.uniform(0.5, 0.58) * s, int(rng.uniform(0.11, 0.17) * s)
    draw.ellipse((middle - 0.1 * s, 0.0, middle + 0.1 * s, 0.21 * s), fill=skin)
    for sign in (-1, 1):
        upper, fore, leg = rng.uniform(-0.3, 1.1), rng.uniform(-1.2, 1.4), rng.uniform(0.0, 0.5)
        x, y = middle + sign * shoulder, top + 0.05 * s
        elbow_x, elbow_y = x + sign * 0.2 * s * np.cos(upper), y + 0.2 * s * np.sin(upper)
        hand_x, hand_y = elbow_x + sign * 0.12 * s * np.cos(fore), elbow_y + 0.16 * s * np.sin(fore)
        draw.line((x, y, elbow_x, elbow_y), fill=shirt, width=limb)
        draw.line((elbow_x, elbow_y, hand_x, hand_y), fill=skin, width=limb)
        x = middle + sign * 0.6 * hip
        foot_x, foot_y = x + sign * 0.4 * s * np.sin(leg), waist + 0.42 * s * np.cos(leg)
        draw.line((x, waist, foot_x, foot_y), fill=trousers, width=int(1.3 * limb))
    torso = [(middle - shoulder, top), (middle + shoulder, top), (middle + hip, waist), (middle - hip, waist)]
    draw.polygon(torso, fill=shirt)


def _house(draw: ImageDraw.ImageDraw, s: int, rng: np.random.Generator) -> None:
    wall, roof, glass = _colour(rng, 60), _colour(rng, 0, 200), _colour(rng)
    left, right = rng.uniform(0.04, 0.16) * s, rng.uniform(0.84, 0.96) * s
    eaves, ridge, ground = rng.uniform(0.3, 0.48) * s, rng.uniform(0.25, 0.75) * s, 0.97 * s
    draw.rectangle((left, eaves, right, ground), fill=wall)
    draw.polygon([(left - 0.04 * s, eaves), (right + 0.04 * s, eaves), (ridge, 0.03 * s)], fill=roof)
    columns, rows = int(rng.integers(2, 5)), int(rng.integers(1, 3))
    w, h = (right - left) / (2 * columns + 1), (ground - eaves) / (2 * rows + 2)
    for row, column in np.ndindex(rows, columns):
        x, y = left + (2 * column + 1) * w, eaves + (2 * row + 0.7) * h
        draw.rectangle((x, y, x + w, y + h), fill=glass, outline=(30, 30, 30))
    door = left + rng.uniform(0.15, 0.7) * (right - left)
    draw.rectangle((door, ground - 1.4 * h, door + 0.15 * s, ground), fill=roof)


def _word(
    fonts: list[ImageFont.FreeTypeFont], draw: ImageDraw.ImageDraw, s: int, rng: np.random.Generator
) -> None:
    ink, paper = _colour(rng, 0, 110), _colour(rng, 170)
    if rng.random() < 0.5:
        ink, paper = paper, ink
    draw.rectangle((0, 0.08 * s, s, 0.92 * s), fill=paper)
    for y in (0.3 * s, 0.7 * s):
        letters = rng.integers(0, 26, rng.integers(3, 5))
        text = "".join(ascii_uppercase[i] for i in letters)
        font = fonts[int(rng.integers(len(fonts)))]
        draw.text((s / 2, y), text, fill=ink, font=font, anchor="mm")
