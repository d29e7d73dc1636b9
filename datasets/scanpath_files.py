"""What readers of scanpaths share: JSON with errors that name the place, units of time, letterboxes."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from neuroattn._files import below, listed, refusal, shorten
from neuroattn.datasets.scenes import ObjectScene
from neuroattn.results import Scanpath

T = TypeVar("T")
Floats = NDArray[np.float64]

LARGEST = 2**53  # of the numbers that are read; whole ones above are no longer told apart

# Medians of fixations, s: shorter or longer ones are seconds taken for milliseconds, or the other way round.
PLAUSIBLE_MEDIAN = (0.02, 5.0)


@contextmanager
def naming(place: str) -> Iterator[None]:
    """Name a place in errors about what is there."""
    try:
        yield
    except (ValueError, TypeError) as error:
        raise refusal(f"{place}:", error) from None


@dataclass(frozen=True)
class Record:
    """A JSON object that says where it is from when an entry is missing or wrong."""

    file: Path
    name: str
    content: Any

    def __post_init__(self) -> None:
        if not isinstance(self.content, dict):
            raise ValueError(f"{self.file}: {self.name} must be an object, got {_shown(self.content)}")

    def get(self, key: str, kind: type[T] | tuple[type[T], ...], default: Any = ...) -> T:
        """Return an entry of the right kind; without a default it must be there."""
        if key not in self.content:
            if default is ...:
                raise ValueError(f"{self.file}: {self.name} must have {key!r}, got {listed(self.content)}")
            return default  # type: ignore[no-any-return]
        value = self.content[key]
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            self.refuse(key, _kinds(kind), value)
        if isinstance(value, int | float) and not abs(value) <= LARGEST:
            self.refuse(key, "a number that is finite and not above 2**53", value)
        return value  # type: ignore[no-any-return]

    def numbers(self, key: str, default: Any = ..., *, length: int | None = None) -> Floats:
        """Return an entry that is a list of finite numbers, of a given length if there is one."""
        values: Any = self.get(key, list, default)
        wanted = "a list of numbers" if length is None else f"a list of {length} numbers"
        wrong = [v for v in values if isinstance(v, bool | str | list | dict | None) or not abs(v) <= LARGEST]
        if wrong:
            self.refuse(key, wanted, wrong[0])
        if length is not None and len(values) != length:
            self.refuse(key, wanted, f"{len(values)}")
        return np.asarray(values, dtype=np.float64)

    def refuse(self, key: str, wanted: str, value: Any) -> None:
        """Raise the error for a wrong entry."""
        raise ValueError(f"{self.file}: {self.name} must have {wanted} in {key!r}, got {_shown(value)}")

    def naming(self) -> AbstractContextManager[None]:
        """Name the record in errors about its values."""
        return naming(f"{self.file}: {self.name}")


def records(path: Path, content: Any, noun: str = "record") -> list[Record]:
    """Return the objects of a JSON list; the error names the file."""
    if not isinstance(content, list):
        raise ValueError(f"{path} must hold a list, got {_shown(content)}")
    return [Record(path, f"{noun} {i}", item) for i, item in enumerate(content)]


def named_records(path: Path, content: Any) -> dict[str, Record]:
    """Return the objects of a JSON object by name; the error names the file."""
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold an object, got {_shown(content)}")
    return {name: Record(path, f"record {shorten(repr(name))}", item) for name, item in content.items()}


def warn_of_durations(paths: Sequence[Scanpath], source: Path, unit: str) -> None:
    """Warn if durations are not as long as fixations are, which a wrong unit explains best."""
    durations = [path.duration for path in paths if path.duration is not None and len(path)]
    if not durations:
        return
    median = float(np.median(np.concatenate(durations)))
    low, high = PLAUSIBLE_MEDIAN
    if not low <= median <= high:
        warnings.warn(
            f"{source}: the median duration read as {unit} is {median:.6g} s, and fixations take {low} to {high} s; "
            "is the unit another?",
            UserWarning,
            stacklevel=3,
        )


class Letterbox(NamedTuple):
    """How an image lies, centred and with its aspect ratio kept, in a frame of another size."""

    scale: float
    left: float
    top: float

    @classmethod
    def fit(cls, size: tuple[int, int], frame: tuple[int, int]) -> Letterbox:
        """Return how an image of ``size`` (width, height) fills ``frame``."""
        scale = min(frame[0] / size[0], frame[1] / size[1])
        return cls(scale, (frame[0] - scale * size[0]) / 2, (frame[1] - scale * size[1]) / 2)

    def boxes(self, boxes: ArrayLike) -> Floats:
        """Move boxes (left, top, width, height) of the image into the frame."""
        moved = np.asarray(boxes, dtype=np.float64).reshape(-1, 4) * self.scale
        moved[:, :2] += self.left, self.top
        return moved

    def points(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """Move points of the image into the frame."""
        return x * self.scale + self.left, y * self.scale + self.top


def save_in_frame(scene: ObjectScene, frame: tuple[int, int], path: Path) -> None:
    """Write the image of a scene, centred in a frame on black, as the kind of file that its name says."""
    letterbox = Letterbox.fit(scene.size, frame)
    canvas = Image.new("RGB", frame)
    size = (round(scene.size[0] * letterbox.scale), round(scene.size[1] * letterbox.scale))
    image = Image.fromarray(scene.pixels()).resize(size, Image.Resampling.BILINEAR)
    canvas.paste(image, (round(letterbox.left), round(letterbox.top)))
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.save(path, "JPEG" if path.suffix.lower() in (".jpg", ".jpeg") else "PNG", quality=95)


def find_picture(folder: Path | None, names: Sequence[str], *, required: bool) -> Path | None:
    """Return the first of some files below a folder that is there; a name must not lead out of it."""
    if folder is None:
        return None
    for name in names:
        path = below(folder, name)
        with suppress(OSError):  # a name that is too long for a file
            if path.is_file():
                return path
    if required:
        raise FileNotFoundError(f"image {shorten(folder / names[0])} does not exist")
    return None


def inside(box: Floats, x: Floats, y: Floats) -> NDArray[np.bool_]:
    """Return whether each fixation lies in a box (left, top, width, height)."""
    left, top, width, height = box.tolist()
    within: NDArray[np.bool_] = (x >= left) & (x < left + width) & (y >= top) & (y < top + height)
    return within


def overlap(box: ArrayLike, boxes: Floats) -> Floats:
    """Return the intersection over union of a box with others, shape (object,)."""
    box = np.asarray(box, dtype=np.float64)
    start = np.maximum(box[:2], boxes[:, :2])
    end = np.minimum(box[:2] + box[2:], boxes[:, :2] + boxes[:, 2:])
    shared = np.clip(end - start, 0, None).prod(1)
    union = box[2:].prod() + boxes[:, 2:].prod(1) - shared
    return np.asarray(shared / np.where(union > 0, union, 1))


def require(value: Any, name: str, trial: int, layout: str) -> Any:
    """Return what a layout cannot be written without."""
    if value is None:
        raise ValueError(f"dataset must have {name} to be written as {layout}, got none for trial {trial}")
    return value


def as_number(text: str) -> int | str:
    """Return observers as the numbers they are in files, if they are."""
    return int(text) if text.isdecimal() else text


def milliseconds(duration: Floats) -> list[int]:
    """Return durations in whole milliseconds."""
    return [round(1000 * value) for value in duration.tolist()]


def _kinds(kind: Any) -> str:
    names = {str: "a text", int: "a whole number", float: "a number", list: "a list", dict: "an object"}
    names |= {bool: "true or false"}
    kinds = kind if isinstance(kind, tuple) else (kind,)
    return " or ".join(names[k] for k in kinds)


def _shown(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."
