"""The features of VGG16 without computing again what an earlier fixation, or another trial, has computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

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
        x = self._early(network.preprocess(empty))
        self.empty = {3: x}
        for block in range(4, self.depth + 1):
            x = network.block(block, network.pool(block - 1, x, config, px_per_degree))
            self.empty[block] = x

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
        x = _copies(self.empty[3], len(gazes))
        spans = []
        for row, (gaze, first, memory) in enumerate(zip(gazes, firsts, memories, strict=True)):
            known = memory.maps[_phase(gaze)]
            top, left = (start // _STRIDE + _WRONG for start in first)
            spans.append(((top, top + known.shape[1]), (left, left + known.shape[2])))
            x[row, :, slice(*spans[-1][0]), slice(*spans[-1][1])] = known
        features = {}
        for block in range(3, self.depth + 1):
            if block > 3:
                window = self._window(block - 1, x.shape[-1])
                x = self.network.pool(block - 1, x, self.config, self.px_per_degree)
                spans = [
                    (_pooled(rows, window, x.shape[2]), _pooled(columns, window, x.shape[3]))
                    for rows, columns in spans
                ]
                x, spans = self._late(block, x, spans)
            if f"conv{block}_3" in self.taps:
                features[f"conv{block}_3"] = pool_plainly(x, self.config.pool, times=5 - block)
        return features

    def _first(self, centre: int) -> int:
        """First pixel, in the view, of the crop that holds the image."""
        return (self.side // 2 - centre - _AROUND) // _STRIDE * _STRIDE

    def _window(self, stage: int, n: int) -> int:
        law = self.config.law(stage, self.px_per_degree)
        return 2 if law.slope == 0 else int(law.windows(n, n).max())

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

    def _late(
        self, block: int, x: Tensor, spans: list[tuple[Span, Span]]
    ) -> tuple[Tensor, list[tuple[Span, Span]]]:
        """Run a block where its input (batch, channel, n, n) differs from background, and fill in the rest."""
        reach, n = N_CONVOLUTIONS[block - 1], x.shape[-1]
        lengths = [
            min(max(span[axis][1] - span[axis][0] for span in spans) + 4 * reach, n) for axis in (0, 1)
        ]
        begins = [
            [min(max(span[axis][0] - 2 * reach, 0), n - lengths[axis]) for axis in (0, 1)] for span in spans
        ]
        crops = torch.stack(
            [
                sample[:, top : top + lengths[0], left : left + lengths[1]]
                for sample, (top, left) in zip(x, begins, strict=True)
            ]
        )
        computed = self.network.block(block, crops.contiguous(memory_format=torch.channels_last))
        out = _copies(self.empty[block], len(x))
        right = []
        for row, begin in enumerate(begins):
            # Where the crop ends at the border of the view, the network's own zeros lie beyond.
            area = [
                (0 if first == 0 else first + reach, n if first + length == n else first + length - reach)
                for first, length in zip(begin, lengths, strict=True)
            ]
            rows, columns = (slice(*span) for span in area)
            within = [
                slice(span[0] - first, span[1] - first) for span, first in zip(area, begin, strict=True)
            ]
            out[row, :, rows, columns] = computed[row, :, within[0], within[1]]
            right.append((area[0], area[1]))
        return out, right


def _copies(x: Tensor, n: int) -> Tensor:
    return x.expand(n, -1, -1, -1).clone(memory_format=torch.channels_last)


def _phase(gaze: Span) -> Span:
    return gaze[0] % _STRIDE, gaze[1] % _STRIDE


def _pooled(span: Span, window: int, n: int) -> Span:
    """Return the outputs that windows of up to a size, with stride 2, can fill from a span of inputs."""
    reach = window // 2 + 2
    return max((span[0] - reach) // 2, 0), min(-(-(span[1] + reach) // 2), n)
