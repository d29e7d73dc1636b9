"""Paths that grow together from one encoded scene, and the search for the most probable ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neuroattn.scanpath.base import Floats, Objects, PathState
from neuroattn.scanpath.transformer import ObjectAttentionNetwork, PathCache, SceneMemory


@dataclass
class Decoding:
    """Paths in one scene, of which every step decodes the last object only.

    Parameters
    ----------
    network : ObjectAttentionNetwork
    memory : SceneMemory
        Of one scene; all paths read the same.
    observer : int Tensor, shape (path,)
    cache : PathCache
    """

    network: ObjectAttentionNetwork
    memory: SceneMemory
    observer: Tensor
    cache: PathCache

    @classmethod
    def start(
        cls, network: ObjectAttentionNetwork, memory: SceneMemory, observer: Tensor, n_steps: int
    ) -> Decoding:
        """Begin as many paths as there are observers, with room for so many steps."""
        return cls(network, memory, observer, network.core.cache(len(observer), n_steps, memory.keys))

    @torch.no_grad()
    def advance(self, objects: Tensor) -> tuple[Floats, Floats]:
        """Decode the objects that follow (path, step), none at the start.

        Returns
        -------
        log_prob : float array, shape (path, object)
            ln P(object | goes on) of the next object.
        end : float array, shape (path,)
            ln P(the path ends).
        """
        decoded = self.network.continue_paths(objects[None], self.memory, self.observer[None], self.cache)
        scores, end = self.network.read(decoded[:, :, -1:], self.memory)
        # In float64, since a rounded probability would not sum to one.
        return (
            scores[0, :, 0].double().log_softmax(-1).cpu().numpy(),
            torch.nn.functional.logsigmoid(end[0, :, 0].double()).cpu().numpy(),
        )

    def take(self, paths: NDArray[np.intp]) -> Decoding:
        """Return some of the paths, which may repeat."""
        rows = torch.from_numpy(paths).to(self.observer.device)
        return Decoding(self.network, self.memory, self.observer[rows], self.cache.take(rows))


def search_beam(
    step: Callable[[PathState], tuple[Floats, Floats]], state: PathState, width: int, limit: int
) -> list[tuple[Objects, Floats, float]]:
    """Find probable whole paths, keeping the ``width`` most probable beginnings after every fixation.

    Parameters
    ----------
    step : callable
        Returns ln P(object | goes on), (path, object), and ln P(end), (path,), and keeps a cache with ``take`` in
        the state.
    state : PathState
        One path without fixations.
    width : int
    limit : int
        Most fixations; longer paths are cut, and their end costs nothing.

    Returns
    -------
    list of (objects, log_prob, total)
        The most probable first, at most ``width``: objects (fixation,), ln P(object | goes on) of each, and the
        logarithm of the probability of the path with its end.
    """
    totals, log_prob = np.zeros(1), np.zeros((1, 0))
    finished: list[tuple[Objects, Floats, float]] = []
    for n in range(limit + 1):
        if n == limit:
            finished += zip(state.past, log_prob, totals.tolist(), strict=True)
            break
        objects, end = step(state)
        ended = (totals + end).tolist()
        finished += zip(state.past, log_prob, ended, strict=True)
        finished = sorted(finished, key=lambda path: -path[2])[:width]
        with np.errstate(divide="ignore"):  # a path may be certain to end
            going = totals + np.log1p(-np.exp(end))
        extended = (going[:, None] + objects).ravel()
        best = np.argsort(-extended, kind="stable")[:width]
        # What goes on can only become less probable.
        best = best[extended[best] > (finished[-1][2] if len(finished) == width else -np.inf)]
        if not len(best):
            break
        path, chosen = np.divmod(best, objects.shape[1])
        totals = extended[best]
        log_prob = np.concatenate([log_prob[path], objects[path, chosen][:, None]], 1)
        state.past = np.concatenate([state.past[path], chosen[:, None]], 1)
        state.observers = tuple(state.observers[i] for i in path)
        state.cache = state.cache.take(path)
    return sorted(finished, key=lambda path: -path[2])[:width]
