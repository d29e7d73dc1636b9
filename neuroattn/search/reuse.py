"""The features of VGG16 without computing again what an earlier fixation, or another trial, has computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neuroattn.kernels.eccentricity_pool import LinearLaw, eccentricity_pool
from neuroattn.search.config import SearchConfig
from neuroattn.search.features import N_CONVOLUTIONS, VGG16, pool_plainly

# Blocks 1 to 3 see 18 px before and 21 px after the first pixel of a place of their map, which has stride 4. Five
# places at each border of a crop are therefore wrong, and 40 px around a change are enough.
_STRIDE, _WRONG, _AROUND = 4, 5, 40
Span = tuple[int, int]


@dataclass(eq=False)
class FeatureMemory:
    """The third block's features of one trial's image, for each phase of the gaze modulo 4 px.

    Attributes
    ----------
    maps : dict of (int, int) to Tensor, shape (channel, y, x)
        Those of the image and 20 px around, by the phase of the gaze.
    stale : dict of (int, int) to list of (Span, Span)
        Rows and columns of the image that have changed since.
    """

    maps: dict[Span, Tensor] = field(default_factory=dict)
    stale: dict[Span, list[tuple[Span, Span]]] = field(default_factory=dict)

    def change(self, rows: Span, columns: Span) -> None:
        """Note that a part of the image has changed."""
        for changes in self.stale.values():
            changes.append((rows, columns))


class ReusedFeatures:
    """Features of views whose background is constant, equal to those of `VGG16.search_maps`.

    Nothing before the third pooling stage depends on the gaze but its phase modulo 4 px, so the features of the
    image are kept by phase, and after an erasure computed again only around it. Of the later blocks only what the
    image reaches is computed. All else is the response to a view of background alone, which is computed once.

    Parameters
    ----------
    network : VGG16
    config : SearchConfig
    px_per_degree : float
    image_size : tuple of int, (y, x)
    side : int
        Of the view, which holds the whole image with `margin_px` around at every fixation.
    background : int
    """

    def __init__(
        self,
        network: VGG16,
        config: SearchConfig,
        px_per_degree: float,
        image_size: tuple[int, int],
        side: int,
        background: int,
    ) -> None:
        self.network, self.config, self.px_per_degree = network, config, px_per_degree
        self.taps = config.taps or network.taps
        self.depth = max(int(tap[4]) for tap in self.taps)
        self.side = side
        around = 2 * _AROUND + _STRIDE - 1
        self.lengths = [_STRIDE * -(-(size + around) // _STRIDE) for size in image_size]
        empty = torch.full((1, side, side, 3), background, dtype=torch.uint8, device=network.device)
        # Responses to background alone: of each block, pooled into the next, and at the taps.
        self.empty = {3: self._early(network.preprocess(empty))}
        self.pooled: dict[int, Tensor] = {}
        self.windows: dict[int, Tensor] = {}
        for block in range(4, self.depth + 1):
            before, n = self.empty[block - 1], self.empty[block - 1].shape[-1]
            windows = config.law(block - 1, px_per_degree).windows(n, n)
            self.windows[block - 1] = windows.to(network.device)
            self.pooled[block] = network.pool(block - 1, before, config, px_per_degree)
            self.empty[block] = network.block(block, self.pooled[block])
        self.taken = {
            block: pool_plainly(x, config.pool, times=5 - block)
            for block, x in self.empty.items()
            if f"conv{block}_3" in self.taps
        }

    def search_maps(
        self, canvases: Sequence[NDArray[np.uint8]], gazes: Sequence[Span], memories: Sequence[FeatureMemory]
    ) -> dict[str, Tensor]:
        """Return the features seen from some gazes, as `VGG16.search_maps`.

        Parameters
        ----------
        canvases : sequence of uint8 array, shape (y, x, 3)
            Images padded by half a side.
        gazes : sequence of (row, column)
            In pixels of the image.
        memories : sequence of FeatureMemory
            Brought up to date.

        Returns
        -------
        dict of str to Tensor, shape (batch, channel, place, place)
        """
        firsts = [[self._first(centre) for centre in gaze] for gaze in gazes]
        self._update(canvases, gazes, firsts, memories)
        features = {
            block: x.expand(len(gazes), -1, -1, -1).clone(memory_format=torch.channels_last)
            for block, x in self.taken.items()
        }
        for row, (gaze, first, memory) in enumerate(zip(gazes, firsts, memories, strict=True)):
            x = memory.maps[_phase(gaze)][None]
            corner = (first[0] // _STRIDE + _WRONG, first[1] // _STRIDE + _WRONG)
            for block in range(3, self.depth + 1):
                if block > 3:
                    x, corner = self._pool(block - 1, x, corner)
                    x, corner = self._block(block, x, corner)
                if block in features:
                    times = 5 - block
                    part, begin = _widen(self.empty[block], x, corner, 0, 2**times)
                    part = pool_plainly(part, self.config.pool, times)
                    _paste(features[block][row], part[0], (begin[0] >> times, begin[1] >> times))
        return {f"conv{block}_3": x for block, x in features.items()}

    def _first(self, centre: int) -> int:
        """First pixel, in the view, of the crop that holds the image."""
        return (self.side // 2 - centre - _AROUND) // _STRIDE * _STRIDE

    def _early(self, pixels: Tensor) -> Tensor:
        """Run blocks 1 to 3."""
        x = pixels
        for block in (1, 2, 3):
            x = self.network.block(block, x if block == 1 else pool_plainly(x, self.config.pool))
        return x

    def _early_crops(self, crops: Sequence[NDArray[np.uint8]]) -> Tensor:
        """Run blocks 1 to 3 on crops and leave out the places their borders reach."""
        pixels = torch.from_numpy(np.stack(crops)).to(self.network.device)
        out = self._early(self.network.preprocess(pixels))
        return out[:, :, _WRONG:-_WRONG, _WRONG:-_WRONG]

    def _update(
        self,
        canvases: Sequence[NDArray[np.uint8]],
        gazes: Sequence[Span],
        firsts: list[list[int]],
        memories: Sequence[FeatureMemory],
    ) -> None:
        """Bring the features of each trial, at the phase of its gaze, up to date."""
        missing = []
        for row, (canvas, gaze, first, memory) in enumerate(
            zip(canvases, gazes, firsts, memories, strict=True)
        ):
            phase = _phase(gaze)
            if phase not in memory.maps:
                missing.append(row)
                continue
            for change in memory.stale[phase]:
                self._repair(canvas, gaze, first, memory.maps[phase], change)
            memory.stale[phase] = []
        if not missing:
            return
        crops = []
        for row in missing:
            y, x = (start + centre for start, centre in zip(firsts[row], gazes[row], strict=True))
            crops.append(canvases[row][y : y + self.lengths[0], x : x + self.lengths[1]])
        for row, known in zip(missing, self._early_crops(crops), strict=True):
            phase = _phase(gazes[row])
            memories[row].maps[phase] = known.clone()
            memories[row].stale[phase] = []

    def _repair(
        self,
        canvas: NDArray[np.uint8],
        gaze: Span,
        first: list[int],
        known: Tensor,
        change: tuple[Span, Span],
    ) -> None:
        """Compute the features around a change of the image again."""
        crop, places, parts = [], [], []
        for axis, (start, stop) in enumerate(change):
            origin = first[axis] + gaze[axis]  # of the crop that holds the image, in the canvas
            begin = (start + self.side // 2 - _AROUND - origin) // _STRIDE
            end = -(-(stop + self.side // 2 + _AROUND - origin) // _STRIDE)
            crop.append(slice(origin + _STRIDE * begin, origin + _STRIDE * end))
            # The crop's own border is wrong on both sides; `known` begins as many places after its origin.
            low, high = max(begin, 0), min(end - 2 * _WRONG, known.shape[1 + axis])
            places.append(slice(low, high))
            parts.append(slice(low - begin, high - begin))
        known[:, places[0], places[1]] = self._early_crops([canvas[crop[0], crop[1]]])[0][
            :, parts[0], parts[1]
        ]

    def _pool(self, stage: int, x: Tensor, corner: Span) -> tuple[Tensor, Span]:
        """Pool a part of a map; return the part of the pooled map that it can change."""
        windows = self.windows[stage]
        largest = int(windows.max())
        reach = largest // 2 + 2
        part, begin = _widen(self.empty[stage], x, corner, 2 * (reach + 2), 2, odd=True)
        begin = (begin[0] // 2, begin[1] // 2)
        if largest == 2:
            pooled = pool_plainly(part, self.config.pool)
        else:
            rows, columns = (slice(b, b + -(-n // 2)) for b, n in zip(begin, part.shape[2:], strict=True))
            pooled = eccentricity_pool(
                part, law=_Given(given=windows[:, rows, columns]), mode=self.config.pool
            )
        # Windows at the edge of the part lack what lies beyond it.
        return _trim(pooled, begin, -(-reach // 2), self.pooled[stage + 1].shape[-1])

    def _block(self, block: int, x: Tensor, corner: Span) -> tuple[Tensor, Span]:
        """Run a block on a part of a map; return the part of its output that it can change."""
        reach = N_CONVOLUTIONS[block - 1]
        part, begin = _widen(self.pooled[block], x, corner, 2 * reach, 1)
        return _trim(self.network.block(block, part), begin, reach, self.pooled[block].shape[-1])


@dataclass(frozen=True, eq=False)
class _Given(LinearLaw):
    """The windows of a part of a map, whose own law they follow."""

    given: Tensor = field(default_factory=lambda: torch.empty(0))

    def canvas(self, height: int, width: int) -> Span:
        return height, width

    def windows(self, height: int, width: int, stride: int = 2, fixation: Tensor | None = None) -> Tensor:
        return self.given


def _widen(
    whole: Tensor, x: Tensor, corner: Span, by: int, multiple: int, *, odd: bool = False
) -> tuple[Tensor, Span]:
    """Surround a part (1, channel, y, x) by what the map is elsewhere, from a multiple to a multiple.

    With ``odd`` the part of a map of odd size has odd sizes, which decide how windows lie.
    """
    n = whole.shape[-1]
    begin, end = [], []
    for first, size in zip(corner, x.shape[2:], strict=True):
        begin.append(max(first - by, 0) // multiple * multiple)
        last = -(-(first + size + by) // multiple) * multiple
        end.append(min(last - 1 if odd and n % 2 else last, n))
    part = whole[:, :, begin[0] : end[0], begin[1] : end[1]].clone(memory_format=torch.channels_last)
    _paste(part[0], x[0], (corner[0] - begin[0], corner[1] - begin[1]))
    return part, (begin[0], begin[1])


def _paste(whole: Tensor, part: Tensor, corner: Span) -> None:
    """Write a part (channel, y, x) into a map."""
    (top, left), (height, width) = corner, part.shape[1:]
    whole[:, top : top + height, left : left + width] = part


def _trim(x: Tensor, corner: Span, by: int, n: int) -> tuple[Tensor, Span]:
    """Cut off the edges of a part, except where the map of side n ends there too."""
    kept = []
    for first, size in zip(corner, x.shape[2:], strict=True):
        kept.append((0 if first == 0 else by, size if first + size == n else size - by))
    (top, bottom), (left, right) = kept
    return x[:, :, top:bottom, left:right], (corner[0] + top, corner[1] + left)


def _phase(gaze: Span) -> Span:
    return gaze[0] % _STRIDE, gaze[1] % _STRIDE
