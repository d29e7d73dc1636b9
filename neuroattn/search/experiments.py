"""Search experiments: two conditions that exchange target and distractors, drawn in degrees of visual angle.

The six experiments of Gupta et al. [1]_ are the functions of :data:`EXPERIMENTS`; :meth:`Experiment.pair` composes
others from any two items. A display is drawn from the experiment's seed, its condition, set size and number alone:
more trials, fewer set sizes or one condition only leave the other displays as they are.

References
----------
.. [1] Gupta, Zhang, Wu, Wolfe & Kreiman (2021). Visual search asymmetry: deep nets and humans share similar inherent
   biases. NeurIPS.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuroattn._checks import check_option, check_range
from neuroattn.search import items
from neuroattn.search.items import PUBLISHED_PX_PER_DEGREE, Item
from neuroattn.search.trials import SearchTrial

__all__ = [
    "EXPERIMENTS",
    "Condition",
    "Experiment",
    "curvature",
    "intersection",
    "letters",
    "lighting",
    "orientation",
    "orientation_mixed",
]

VARIANTS = ("cycle", "random", "distinct")


@dataclass(frozen=True)
class Condition:
    """A target among distractors.

    Parameters
    ----------
    name : str
    target, distractors : sequence of Item
        Variants of each, such as orientations.
    variants : {"cycle", "random", "distinct"}, default "random"
        Which variant an item of a display is. "cycle": the running number of the item, target included, modulo
        their number, so that variants are balanced; "random": each drawn on its own; "distinct": distractors
        without repetition until all have been used, then again, in random order.

    Examples
    --------
    >>> Condition("T among Ls", [items.letter_t()], [items.letter_l()]).side_deg
    5.9
    """

    name: str
    target: Sequence[Item]
    distractors: Sequence[Item]
    variants: str = "random"

    def __post_init__(self) -> None:
        check_option("variants", self.variants, VARIANTS)
        for field in ("target", "distractors"):
            given = tuple(getattr(self, field))
            if not given:
                raise ValueError(f"{field} of condition {self.name!r} must hold at least one item, got none")
            object.__setattr__(self, field, given)
        grounds = sorted({item.background for item in (*self.target, *self.distractors)})
        if len(grounds) > 1:
            raise ValueError(f"items of condition {self.name!r} must have one background, got {grounds}")

    @property
    def background(self) -> int:
        """Grey level between the items."""
        return self.target[0].background

    @property
    def side_deg(self) -> float:
        """Side of the largest item in degrees."""
        return max(item.side_deg for item in (*self.target, *self.distractors))

    def draw_items(self, n: int, rng: np.random.Generator) -> tuple[list[Item], int]:
        """Return the ``n`` items of a display and which of them is the target."""
        target = int(rng.integers(n))
        pools = [self.target if i == target else self.distractors for i in range(n)]
        if self.variants == "cycle":
            return [pool[i % len(pool)] for i, pool in enumerate(pools)], target
        shown = [pool[int(rng.integers(len(pool)))] for pool in pools]
        if self.variants == "distinct":
            size = len(self.distractors)
            rounds = [rng.permutation(size) for _ in range(-(-n // size))]
            order = rng.permutation(np.concatenate(rounds)[: n - 1])
            for i, variant in zip((i for i in range(n) if i != target), order, strict=True):
                shown[i] = self.distractors[variant]
        return shown, target


@dataclass(frozen=True)
class Experiment:
    """Two conditions by set sizes by trials, on a grid of cells.

    Cells are square or oblong, as large as whole pixels allow, and start at the top left of the display. Items fall
    into cells drawn without replacement, at a place drawn within the cell; there is always one target.

    Parameters
    ----------
    name : str
    conditions : tuple of two Condition, (hard, easy)
        The one that people find harder, or that is expected to be, comes first: asymmetry is positive where its
        slope is the larger.
    set_sizes : sequence of int
        Items in a display, the target included.
    field_deg : float or tuple of float, (height, width)
        Size of the display in degrees.
    grid : tuple of int, (rows, columns)
    n_per_size : int, default 30
        Trials of each condition and set size.
    jitter_deg : float, optional
        Range of an item's place within its cell along each axis; what is left of the cell by default.
    px_per_degree : float, default 30
    seed : int, default 0

    Raises
    ------
    ValueError
        If items do not fit their cells, or a set size exceeds the number of cells.

    Notes
    -----
    In the original an item's offset is a whole number of pixels below ``jitter_deg`` times 30, so that the last pixel
    is never used; so it is here.

    Examples
    --------
    >>> experiment = curvature(n_per_size=2)
    >>> experiment.n_trials, experiment.size_px
    (12, (339, 339))
    >>> trial = experiment.trials()[0]
    >>> trial.image.shape, trial.target.shape, len(trial.cells), trial.attrs["condition"]
    ((339, 339, 3), (48, 48, 3), 36, 'line among curves')
    """

    name: str
    conditions: tuple[Condition, Condition]
    set_sizes: Sequence[int]
    field_deg: float | tuple[float, float]
    grid: tuple[int, int]
    n_per_size: int = 30
    jitter_deg: float | None = None
    px_per_degree: float = PUBLISHED_PX_PER_DEGREE
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "conditions", tuple(self.conditions))
        object.__setattr__(self, "set_sizes", tuple(int(size) for size in self.set_sizes))
        if len(self.conditions) != 2 or len({condition.name for condition in self.conditions}) != 2:
            names = [condition.name for condition in self.conditions]
            raise ValueError(f"conditions must be two of different names, got {names}")
        check_range("n_per_size", self.n_per_size, 1)
        check_range("seed", self.seed, 0)
        if not self.px_per_degree > 0:
            raise ValueError(f"px_per_degree must be above 0, got {self.px_per_degree!r}")
        if len(self.grid) != 2 or min(self.grid) < 1:
            raise ValueError(f"grid must be (rows, columns) of at least 1, got {self.grid!r}")
        n_cells = self.grid[0] * self.grid[1]
        sizes = self.set_sizes
        if not sizes or min(sizes) < 1 or max(sizes) > n_cells or len(set(sizes)) < len(sizes):
            raise ValueError(
                f"set_sizes must be different numbers from 1 to the {n_cells} cells, got {sizes}"
            )
        for condition in self.conditions:
            side = round(condition.side_deg * self.px_per_degree)
            jitter = self._jitter_px(condition)
            if any(side + offsets - 1 > cell for offsets, cell in zip(jitter, self.cell_px, strict=True)):
                height, width = self.cell_px
                raise ValueError(
                    f"items of condition {condition.name!r} and their jitter must fit cells of "
                    f"{width} x {height} px, got items of {side} px and {max(jitter)} offsets"
                )

    @classmethod
    def pair(
        cls,
        a: Item,
        b: Item,
        *,
        set_sizes: Sequence[int],
        field_deg: float | tuple[float, float],
        grid: tuple[int, int],
        n_per_size: int = 30,
        px_per_degree: float = PUBLISHED_PX_PER_DEGREE,
        seed: int = 0,
    ) -> Experiment:
        """Compose an experiment of two items, ``a`` among ``b`` and ``b`` among ``a``.

        Its asymmetry is positive where ``a`` among ``b`` is the harder search.

        Examples
        --------
        >>> tilt = Experiment.pair(items.bar(0), items.bar(20), set_sizes=(1, 4, 8), field_deg=11.3, grid=(4, 4))
        >>> [condition.name for condition in tilt.conditions]
        ['bar 0 among bar 20', 'bar 20 among bar 0']
        """
        return cls(
            f"{a.name} and {b.name}",
            (
                Condition(f"{a.name} among {b.name}", [a], [b]),
                Condition(f"{b.name} among {a.name}", [b], [a]),
            ),
            set_sizes,
            field_deg,
            grid,
            n_per_size,
            px_per_degree=px_per_degree,
            seed=seed,
        )

    @property
    def n_trials(self) -> int:
        """Trials of both conditions."""
        return 2 * len(self.set_sizes) * self.n_per_size

    @property
    def max_saccades(self) -> int:
        """Saccades after which a trial ends: as many as cells, so that a search that never returns finds all."""
        return self.grid[0] * self.grid[1]

    @property
    def size_px(self) -> tuple[int, int]:
        """Height and width of a display in pixels."""
        field = self.field_deg if isinstance(self.field_deg, tuple) else (self.field_deg, self.field_deg)
        return round(field[0] * self.px_per_degree), round(field[1] * self.px_per_degree)

    @property
    def cell_px(self) -> tuple[int, int]:
        """Height and width of a cell in pixels."""
        return self.size_px[0] // self.grid[0], self.size_px[1] // self.grid[1]

    @property
    def config(self) -> dict[str, Any]:
        """What defines the experiment, ready for JSON."""
        return {
            "name": self.name,
            "conditions": {
                condition.name: {
                    "target": [item.name for item in condition.target],
                    "distractors": [item.name for item in condition.distractors],
                    "variants": condition.variants,
                }
                for condition in self.conditions
            },
            "set_sizes": list(self.set_sizes),
            "field_px": list(self.size_px),
            "grid": list(self.grid),
            "n_per_size": self.n_per_size,
            "jitter_deg": self.jitter_deg,
            "px_per_degree": self.px_per_degree,
            "seed": self.seed,
        }

    def trials(self, condition: str | None = None) -> list[SearchTrial]:
        """Draw the displays of one condition, or of both, in the order condition, set size, repetition.

        Every trial carries its ``experiment``, ``condition``, ``set_size``, ``repetition`` and ``target_cell`` in
        ``attrs``. All trials share one array of cells.
        """
        names = [c.name for c in self.conditions]
        wanted = names if condition is None else [check_option("condition", condition, names)]
        cells = self._cells()
        patches: dict[Item, NDArray[np.uint8]] = {}
        return [
            self._trial(number, set_size, repetition, cells, patches)
            for number, name in enumerate(names)
            if name in wanted
            for set_size in self.set_sizes
            for repetition in range(self.n_per_size)
        ]

    def _trial(
        self,
        number: int,
        set_size: int,
        repetition: int,
        cells: NDArray[np.bool_],
        patches: dict[Item, NDArray[np.uint8]],
    ) -> SearchTrial:
        condition = self.conditions[number]
        # The name keeps experiments of one seed and one grid apart.
        key = [self.seed, zlib.crc32(self.name.encode()), number, set_size, repetition]
        rng = np.random.default_rng(key)
        shown, target = condition.draw_items(set_size, rng)
        places = rng.choice(len(cells), set_size, replace=False)
        jitter = self._jitter_px(condition)
        image = np.full(self.size_px, condition.background, np.uint8)
        for item, place in zip(shown, places, strict=True):
            if item not in patches:
                patches[item] = item.draw(self.px_per_degree)
            patch = patches[item]
            y, x = np.array(divmod(int(place), self.grid[1])) * self.cell_px + rng.integers(jitter)
            image[y : y + len(patch), x : x + len(patch)] = patch
        target_cell = int(places[target])
        return SearchTrial(
            image,
            patches[shown[target]],
            target_mask=cells[target_cell],
            cells=cells,
            max_fixations=1 + self.max_saccades,
            background=condition.background,
            px_per_degree=self.px_per_degree,
            attrs={
                "experiment": self.name,
                "condition": condition.name,
                "set_size": set_size,
                "repetition": repetition,
                "target_cell": target_cell,
            },
        )

    def _jitter_px(self, condition: Condition) -> tuple[int, int]:
        """Return how many offsets, in whole pixels from 0, an item may have in its cell along each axis."""
        if self.jitter_deg is not None:
            return (max(round(self.jitter_deg * self.px_per_degree), 1),) * 2
        side = round(condition.side_deg * self.px_per_degree)
        return max(self.cell_px[0] - side, 1), max(self.cell_px[1] - side, 1)

    def _cells(self) -> NDArray[np.bool_]:
        """Return the cells, bool (cell, y, x), row by row."""
        (height, width), (rows, columns) = self.cell_px, self.grid
        cells = np.zeros((rows, columns, *self.size_px), bool)
        for row in range(rows):
            for column in range(columns):
                y, x = row * height, column * width
                cells[row, column, y : y + height, x : x + width] = True
        return cells.reshape(rows * columns, *self.size_px)


def curvature(
    *, n_per_size: int = 30, px_per_degree: float = PUBLISHED_PX_PER_DEGREE, seed: int = 0
) -> Experiment:
    """Make experiment 1: a line among curves and a curve among lines, after Wolfe, Yee and Friedman-Hill (1992).

    Examples
    --------
    >>> curvature().set_sizes, curvature().cell_px
    ((8, 16, 32), (56, 56))
    """
    angles = (45, 90, 135, 180)
    lines, arcs = [items.line(angle) for angle in angles], [items.arc(angle) for angle in angles]
    return Experiment(
        "curvature",
        (
            Condition("line among curves", lines, arcs, "cycle"),
            Condition("curve among lines", arcs, lines, "cycle"),
        ),
        (8, 16, 32),
        339 / 30,
        (6, 6),
        n_per_size,
        px_per_degree=px_per_degree,
        seed=seed,
    )


def lighting(
    *, n_per_size: int = 30, px_per_degree: float = PUBLISHED_PX_PER_DEGREE, seed: int = 0
) -> Experiment:
    """Make experiment 2: discs shaded from the side and from above, after Kleffner and Ramachandran (1992).

    Examples
    --------
    >>> [condition.name for condition in lighting().conditions]
    ['shaded left to right', 'shaded top to bottom']
    """
    return Experiment(
        "lighting",
        (
            Condition("shaded left to right", [items.disc("left")], [items.disc("right")]),
            Condition("shaded top to bottom", [items.disc("top")], [items.disc("bottom")]),
        ),
        (1, 6, 12),
        198 / 30,
        (4, 4),
        n_per_size,
        px_per_degree=px_per_degree,
        seed=seed,
    )


def intersection(
    *, n_per_size: int = 36, px_per_degree: float = PUBLISHED_PX_PER_DEGREE, seed: int = 0
) -> Experiment:
    """Make experiment 3: a cross among non-crosses and the reverse, after Wolfe and DiMase (2003).

    Examples
    --------
    >>> intersection().n_trials
    216
    """
    names = ("cross among non-crosses", "non-cross among crosses")
    return _bars_in_four(
        "intersection", names, items.cross(), items.non_cross(), n_per_size, px_per_degree, seed
    )


def letters(
    *, n_per_size: int = 36, px_per_degree: float = PUBLISHED_PX_PER_DEGREE, seed: int = 0
) -> Experiment:
    """Make experiment 4: an L among Ts and a T among Ls, after Wolfe and DiMase (2003).

    Examples
    --------
    >>> letters().size_px
    (615, 615)
    """
    names = ("L among Ts", "T among Ls")
    return _bars_in_four(
        "letters", names, items.letter_l(), items.letter_t(), n_per_size, px_per_degree, seed
    )


def orientation(
    *, n_per_size: int = 30, px_per_degree: float = PUBLISHED_PX_PER_DEGREE, seed: int = 0
) -> Experiment:
    """Make experiment 5: an upright bar among tilted ones and the reverse, after Wolfe and others (1992).

    Examples
    --------
    >>> [len(condition.distractors) for condition in orientation().conditions]
    [1, 1]
    """
    upright, tilted = items.bar(0), items.bar(20)
    return Experiment(
        "orientation",
        (
            Condition("0 among 20", [upright], [tilted]),
            Condition("20 among 0", [tilted], [upright]),
        ),
        (1, 4, 8, 12),
        339 / 30,
        (4, 4),
        n_per_size,
        px_per_degree=px_per_degree,
        seed=seed,
    )


def orientation_mixed(
    *, n_per_size: int = 30, px_per_degree: float = PUBLISHED_PX_PER_DEGREE, seed: int = 0
) -> Experiment:
    """Make experiment 6: a tilted and an upright bar among bars of many orientations, after Wolfe and others (1992).

    Examples
    --------
    >>> [len(condition.distractors) for condition in orientation_mixed().conditions]
    [8, 8]
    """
    upright, tilted = items.bar(0), items.bar(20)
    others = [items.bar(angle) for angle in (-80, -60, -40, -20, 40, 60, 80)]
    return Experiment(
        "orientation_mixed",
        (
            Condition("20 among mixed", [tilted], [*others, upright], "distinct"),
            Condition("0 among mixed", [upright], [*others, tilted], "distinct"),
        ),
        (1, 4, 8, 12),
        339 / 30,
        (4, 4),
        n_per_size,
        px_per_degree=px_per_degree,
        seed=seed,
    )


def _bars_in_four(
    name: str,
    conditions: tuple[str, str],
    hard: items.Item,
    easy: items.Item,
    n_per_size: int,
    px_per_degree: float,
    seed: int,
) -> Experiment:
    hards, easies = _four_ways(hard), _four_ways(easy)
    return Experiment(
        name,
        (Condition(conditions[0], hards, easies), Condition(conditions[1], easies, hards)),
        (3, 6, 9),
        615 / 30,
        (3, 3),
        n_per_size,
        jitter_deg=27 / 30,
        px_per_degree=px_per_degree,
        seed=seed,
    )


def _four_ways(item: Item) -> list[Item]:
    """Return the published variants; two of the four Ls are the same."""
    on_its_side = item.transposed()
    return [item, item.flipped(upside_down=True), on_its_side, on_its_side.flipped(upside_down=False)]


#: The published experiments in their order.
EXPERIMENTS: dict[str, Callable[..., Experiment]] = {
    "curvature": curvature,
    "lighting": lighting,
    "intersection": intersection,
    "letters": letters,
    "orientation": orientation,
    "orientation_mixed": orientation_mixed,
}
