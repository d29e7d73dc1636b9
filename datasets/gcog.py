"""Small visual reasoning tasks with splits that ask for three kinds of generalization."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from neuroattn._checks import check_range, check_seed
from neuroattn.results import provenance

COLOURS = ("red", "green", "blue", "yellow", "purple", "orange")
SHAPES = ("disc", "square", "triangle", "star", "cross", "ring")
WORDS = ("", "answer", "exist", "colour", "shape", "same", "if", "object")
ANSWERS = ("no", "yes", *COLOURS, *SHAPES)
SPLITS = ("train", "familiar", "distractor", "systematic", "productive")
N_SLOTS = 8
N_CELLS = 16

# Never seen in training: these objects, and these operands of "colour" and "shape".
HELD_OBJECTS = frozenset((i, i) for i in range(1, 1 + len(COLOURS)))
HELD_COLOUR, HELD_SHAPE = len(COLOURS), len(SHAPES)

_FEW, _MANY = (5, 8), (12, 15)  # objects in a scene

Object = tuple[int, int]  # colour and shape, from 1 on as in tokens
Scene = tuple[Object | None, ...]  # by cell
_Draw = Callable[[np.random.Generator], "Program"]


class Program(NamedTuple):
    """A question: an operator, what it asks for, and the programs it is made of.

    ``colour`` and ``shape`` count from 1 on in ``COLOURS`` and ``SHAPES``; 0 where the operator has no such operand.
    """

    word: str
    colour: int = 0
    shape: int = 0
    parts: tuple[Program, ...] = ()

    def __str__(self) -> str:
        operands = f"{('', *COLOURS)[self.colour]} {('', *SHAPES)[self.shape]}".strip()
        return f"{self.word}({operands or ', '.join(map(str, self.parts))})"

    @property
    def task(self) -> str:
        """The program without its operands."""
        return f"{self.word}({', '.join(part.task for part in self.parts)})" if self.parts else self.word

    @property
    def depth(self) -> int:
        """Operators on the longest way through the program."""
        return 1 + max((part.depth for part in self.parts), default=0)

    def nodes(self) -> Iterator[Program]:
        """Yield this program and those within it, in prefix order."""
        yield self
        for part in self.parts:
            yield from part.nodes()

    def answer(self, objects: frozenset[Object]) -> str:
        """Answer the question about a set of objects; "colour" and "shape" need one that fits, and one only."""
        if self.word == "exist":
            return "yes" if (self.colour, self.shape) in objects else "no"
        if self.word == "colour":
            (found,) = (colour for colour, shape in objects if shape == self.shape)
            return COLOURS[found - 1]
        if self.word == "shape":
            (found,) = (shape for colour, shape in objects if colour == self.colour)
            return SHAPES[found - 1]
        first, *others = (part.answer(objects) for part in self.parts)
        if self.word == "same":
            return "yes" if first == others[0] else "no"
        return others[0] if first == "yes" else others[1]


def make_gcog(n_train: int = 20_000, n_test: int = 1_000, *, seed: int = 0) -> xr.Dataset:
    """Make questions about grids of coloured shapes, after the generic COG tasks of Ito et al. [1]_.

    A scene is a grid of 4 x 4 cells with different objects, each of one of six colours and six shapes. A question is a
    program of five operators: ``exist(red disc)``; ``colour(disc)`` and ``shape(red)``, of the one object that fits;
    ``same(..., ...)``, whether two such features are equal; ``if(..., ..., ...)``. Where an object that is asked for
    does not exist, one of its colour and one of its shape do.

    Parameters
    ----------
    n_train : int, default 20000
        Items of the split "train".
    n_test : int, default 1000
        Items of each other split.
    seed : int, default 0

    Returns
    -------
    Dataset
        ``tokens`` (item, token, field), ``label`` (item), index of the answer in ``attrs["answers"]``. Along item the
        coordinates ``split``, ``program``, ``task`` (the program without operands), ``depth``, ``n_objects``,
        ``answer`` and ``novel`` ("object", "operand" or "").

        Fields are ``word``, ``colour`` and ``shape``, indices in ``attrs["words"]``, and one more than those in
        ``attrs["colours"]`` and ``attrs["shapes"]``; 0 is none. The place of a token says what it is: token 0 is
        where the answer is read (word "answer"), tokens 1 to 8 hold the program in prefix order, an operator and its
        operands a token, from a random token on, so that every place is met in training; the last 16 are the cells,
        row by row, each an object or nothing.

        Splits share no item (program and scene), and differ so:

        ============  =================  ==========  =========================================================
        split         depth of programs  objects     new to a network that was trained on "train"
        ============  =================  ==========  =========================================================
        train         1, 2               5 to 8
        familiar      1, 2               5 to 8      nothing
        distractor    1, 2               12 to 15    more objects
        systematic    1, 2               5 to 8      either an object asked for is of a colour and shape never seen
                                                     together, or "colour" is asked of a ring or "shape" of
                                                     something orange
        productive    3                  5 to 8      longer programs
        ============  =================  ==========  =========================================================

    References
    ----------
    .. [1] Ito, Dan, Rigotti, Kozloski & Campbell (2024). On the generalization capacity of neural networks during
       generic multimodal reasoning. ICLR. Theirs has larger grids and vocabularies, and deeper programs.

    Examples
    --------
    >>> data = make_gcog(n_train=100, n_test=10, seed=0)
    >>> dict(data.tokens.sizes)
    {'item': 140, 'token': 25, 'field': 3}
    >>> item = data.isel(item=0)
    >>> item.program.item(), item.answer.item()
    ('if(exist(red ring), shape(yellow), shape(green))', 'disc')
    """
    check_range("n_train", n_train, 1)
    check_range("n_test", n_test, 1)
    rng = check_seed(seed)
    seen: set[tuple[Program, Scene]] = set()
    rows: list[dict[str, str | int]] = []
    tokens: list[NDArray[np.int8]] = []
    for split in SPLITS:
        for number in range(n_train if split == "train" else n_test):
            novel = ("object", "operand")[number % 2] if split == "systematic" else ""
            program, scene = _item(split, novel, rng)
            while (program, scene) in seen:
                program, scene = _item(split, novel, rng)
            seen.add((program, scene))
            objects = frozenset(filter(None, scene))
            tokens.append(_encode(program, scene, rng))
            rows.append(
                {
                    "split": split,
                    "program": str(program),
                    "task": program.task,
                    "depth": program.depth,
                    "n_objects": len(objects),
                    "answer": program.answer(objects),
                    "novel": novel,
                }
            )
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    return xr.Dataset(
        {
            "tokens": (("item", "token", "field"), np.stack(tokens)),
            "label": ("item", [ANSWERS.index(answer) for answer in columns["answer"]]),
        },
        coords={
            "field": ["word", "colour", "shape"],
            **{name: ("item", values) for name, values in columns.items()},
        },
        attrs=provenance(seed, {"n_train": n_train, "n_test": n_test})
        | {"words": WORDS, "colours": COLOURS, "shapes": SHAPES, "answers": ANSWERS},
    )


def _item(split: str, novel: str, rng: np.random.Generator) -> tuple[Program, Scene]:
    """Draw a kind of program, then operands and scenes until they fit a split and what is to be novel."""
    kinds: Sequence[_Draw] = _LONGER if split == "productive" else _FAMILIAR
    if novel == "operand":
        kinds = [kind for kind in kinds if kind is not _exist]  # all operands of "exist" are trained
    draw = kinds[int(rng.integers(len(kinds)))]
    while True:
        program = draw(rng)
        asked = _referents(program, rng)
        nodes = list(program.nodes())
        new_operand = any(
            (node.word == "colour" and node.shape == HELD_SHAPE)
            or (node.word == "shape" and node.colour == HELD_COLOUR)
            for node in nodes
        )
        new_object = not HELD_OBJECTS.isdisjoint([*asked, *((node.colour, node.shape) for node in nodes)])
        if (new_operand, new_object) != (novel == "operand", novel == "object"):
            continue
        objects = _fill(nodes, asked, _MANY if split == "distractor" else _FEW, rng)
        if objects is not None:
            scene: list[Object | None] = [None] * N_CELLS
            for cell, one in zip(rng.permutation(N_CELLS), objects, strict=False):
                scene[cell] = one
            return program, tuple(scene)


def _draw(n: int, rng: np.random.Generator, but: int = 0) -> int:
    """Draw a number of 1..n other than one."""
    if not but:
        return 1 + int(rng.integers(n))
    return 1 + (but + int(rng.integers(n - 1))) % n


def _colour(rng: np.random.Generator, but: int = 0) -> int:
    return _draw(len(COLOURS), rng, but)


def _shape(rng: np.random.Generator, but: int = 0) -> int:
    return _draw(len(SHAPES), rng, but)


def _exist(rng: np.random.Generator) -> Program:
    return Program("exist", _colour(rng), _shape(rng))


def _feature(rng: np.random.Generator) -> Program:
    return Program("colour", shape=_shape(rng)) if rng.integers(2) else Program("shape", colour=_colour(rng))


def _same(rng: np.random.Generator) -> Program:
    first = _feature(rng)
    if first.word == "colour":
        return Program("same", parts=(first, Program("colour", shape=_shape(rng, first.shape))))
    return Program("same", parts=(first, Program("shape", colour=_colour(rng, first.colour))))


def _if(*parts: _Draw) -> _Draw:
    def draw(rng: np.random.Generator) -> Program:
        return Program("if", parts=tuple(part(rng) for part in parts))

    return draw


_choose = _if(_exist, _feature, _feature)
_FAMILIAR = (_exist, _feature, _same, _choose)
_LONGER = (
    _if(_same, _feature, _feature),
    _if(_exist, _same, _feature),
    _if(_exist, _feature, _same),
    _if(_exist, _choose, _feature),
    _if(_exist, _feature, _choose),
)


def _referents(program: Program, rng: np.random.Generator) -> list[Object]:
    """Draw the objects that a program asks for; "exist" and "same" are to be true in half of the cases."""
    colour, shape = program.colour, program.shape
    if program.word == "exist":
        if rng.integers(2):
            return [(colour, shape)]
        # Held objects as lures would have "no" rejected more often than "yes".
        lures = [(colour, other) for other in range(1, 1 + len(SHAPES)) if other not in (shape, colour)]
        others = [(other, shape) for other in range(1, 1 + len(COLOURS)) if other not in (shape, colour)]
        return [lures[rng.integers(len(lures))], others[rng.integers(len(others))]]
    if program.word == "colour":
        return [(_colour(rng), shape)]
    if program.word == "shape":
        return [(colour, _shape(rng))]
    if program.word == "same":
        (first,), second = _referents(program.parts[0], rng), program.parts[1]
        equal = bool(rng.integers(2))
        if second.word == "colour":
            return [first, (first[0] if equal else _colour(rng, first[0]), second.shape)]
        return [first, (second.colour, first[1] if equal else _shape(rng, first[1]))]
    return [one for part in program.parts for one in _referents(part, rng)]


def _fill(
    nodes: Sequence[Program], asked: Sequence[Object], n_objects: tuple[int, int], rng: np.random.Generator
) -> list[Object] | None:
    """Return what is asked for and objects that nothing asks for; None if what is asked for contradicts itself."""
    wanted = dict.fromkeys(asked)
    shapes = [node.shape for node in nodes if node.word == "colour"]
    colours = [node.colour for node in nodes if node.word == "shape"]
    for features, field in ((colours, 0), (shapes, 1)):
        if any(sum(one[field] == feature for one in wanted) != 1 for feature in features):
            return None
    taken = {*HELD_OBJECTS, *wanted, *((node.colour, node.shape) for node in nodes)}
    free = [
        (colour, shape)
        for colour in range(1, 1 + len(COLOURS))
        for shape in range(1, 1 + len(SHAPES))
        if colour not in colours and shape not in shapes and (colour, shape) not in taken
    ]
    n_more = int(rng.integers(n_objects[0], n_objects[1] + 1)) - len(wanted)
    if n_more > len(free):
        return None
    return [*wanted, *(free[i] for i in rng.permutation(len(free))[: max(n_more, 0)])]


def _encode(program: Program, scene: Scene, rng: np.random.Generator) -> NDArray[np.int8]:
    """Return tokens (token, field) as `make_gcog` describes them."""
    tokens = np.zeros((1 + N_SLOTS + N_CELLS, 3), np.int8)
    tokens[0, 0] = WORDS.index("answer")
    nodes = list(program.nodes())
    start = 1 + int(rng.integers(N_SLOTS - len(nodes) + 1))
    for token, node in enumerate(nodes, start):
        tokens[token] = WORDS.index(node.word), node.colour, node.shape
    for token, one in enumerate(scene, 1 + N_SLOTS):
        if one is not None:
            tokens[token] = WORDS.index("object"), *one
    return tokens
