"""What a benchmark declares; ``run.py`` checks and times it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Case:
    """One workload and the ways to do it.

    Attributes
    ----------
    name : str
        What is computed, with its sizes.
    ours : callable
        Called with ``inputs``, returns a tensor or a tuple of tensors (None entries are ignored).
    peers : dict of callable
        Alternatives by name, called and checked alike.
    inputs : tuple of Tensor
        Arguments; those that require a gradient are differentiated where ``backward``.
    check : float
        Largest allowed difference between our results and gradients and a peer's, relative to the
        largest number in the peer's.
    backward : bool
        Whether to time forward and backward together as well.
    step : bool
        Whether the callables run backward themselves; their time is then that of forward and backward.
    bytes, flops : float
        Least traffic and work of one forward pass.
    target, training_target : dict of float
        Time of the peer over ours that is aimed at, forward and forward + backward, by peer.
    memory_target : dict of float
        Peak memory of the peer over ours that is aimed at, forward + backward, beyond the gradients returned.
    share : dict of float
        Part of the work that a peer does where all of it would take too long, by peer. Its time is divided by it,
        and its results are compared with the first of ours.
    items : int
        Things that one call of ours works on together, such as trials; their rate and the memory of each are then
        stated too.
    """

    name: str
    ours: Callable[..., Any]
    peers: dict[str, Callable[..., Any]]
    inputs: tuple[Tensor, ...] = ()
    check: float = 1e-5
    backward: bool = False
    step: bool = False
    bytes: float = 0.0
    flops: float = 0.0
    target: dict[str, float] = field(default_factory=dict)
    training_target: dict[str, float] = field(default_factory=dict)
    memory_target: dict[str, float] = field(default_factory=dict)
    share: dict[str, float] = field(default_factory=dict)
    items: int = 0
