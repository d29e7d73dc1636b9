"""Search with eccentricity-dependent features: fixation after fixation, many trials at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neuroattn._checks import check_option, check_range, check_seed
from neuroattn.results import Scanpath
from neuroattn.search.backbone import SearchBackbone
from neuroattn.search.config import SearchConfig
from neuroattn.search.features import VGG16
from neuroattn.search.maps import best_open, choose, combine, correlate
from neuroattn.search.recognition import Recogniser, local_similarity
from neuroattn.search.reuse import FeatureMemory, ReusedFeatures
from neuroattn.search.trials import SearchTrial


class EccNet:
    """Eccentricity-dependent visual search [1]_.

    At each fixation a network whose pooling windows grow with eccentricity sees the image around the gaze. Its
    features are compared with those of the target, the matches of several layers are weighted, added up and
    sharpened, and the gaze goes to the best place that is still open, until the target lies at the gaze.

    Parameters
    ----------
    backbone : SearchBackbone
        The network, for instance :class:`VGG16`.
    config : SearchConfig, default SearchConfig.clean()
    recogniser : Recogniser, optional
        Decides at each fixation whether it is at the target. None is an oracle that knows the target mask, as
        published.
    reuse : bool, default False
        Keep the features of each image from one fixation to the next, and compute only what the image reaches: the
        same results up to rounding in a part of the time, for more memory. With a :class:`VGG16` and images no
        wider than high (any, where the view holds the whole image).

    Notes
    -----
    The features of several trials are computed in one pass. A trial that ends makes room for the next one, so
    that the batch stays full. The map is never enlarged to the view: the choice works on its runs of equal
    pixels, which is exact.

    The best two places can differ by less than half a percent. On CUDA devices torch rounds convolutions to TF32
    unless ``torch.backends.cudnn.allow_tf32`` is False, which can change fixations.

    References
    ----------
    .. [1] Gupta, Zhang, Wu, Wolfe & Kreiman (2021). Visual search asymmetry: deep nets and humans share
       similar inherent biases. NeurIPS 34.

    Examples
    --------
    >>> from neuroattn.search import VGG16
    >>> image = np.zeros((64, 64), np.uint8)
    >>> image[40:56, 8:24] = 255
    >>> _ = torch.manual_seed(0)
    >>> model = EccNet(VGG16(widths=(4, 4, 8, 8, 8)))
    >>> path = model.search(image, image[40:56, 8:24], target_mask=image > 0, px_per_degree=8)
    >>> path.first_fixation, path.x[0], path.y[0]
    ('initial', np.float64(32.0), np.float64(32.0))
    """

    def __init__(
        self,
        backbone: SearchBackbone,
        config: SearchConfig | None = None,
        *,
        recogniser: Recogniser | None = None,
        reuse: bool = False,
    ) -> None:
        self.backbone = backbone
        self.config = SearchConfig.clean() if config is None else config
        self.recogniser = recogniser
        self.reuse = reuse
        for tap in self.config.taps or ():
            check_option("taps", tap, backbone.taps)
        if reuse and not isinstance(backbone, VGG16):
            raise TypeError(f"reuse needs a VGG16 as backbone, got {type(backbone).__name__}")
        if reuse and self.config.margin_px < 46:
            raise ValueError(f"margin_px must be at least 46 with reuse, got {self.config.margin_px}")

    def search(
        self,
        image: NDArray[np.uint8],
        target: NDArray[np.uint8],
        *,
        cells: NDArray[np.bool_] | None = None,
        target_mask: NDArray[np.bool_] | None = None,
        max_fixations: int | None = None,
        background: int = 0,
        px_per_degree: float | None = None,
        start: tuple[float, float] | None = None,
        seed: int | np.random.Generator = 0,
        return_maps: bool = False,
    ) -> Scanpath:
        """Search one image.

        Parameters
        ----------
        image, target, cells, target_mask, max_fixations, background, px_per_degree, start
            As of :class:`SearchTrial`.
        seed, return_maps
            As of :meth:`search_batch`.

        Returns
        -------
        Scanpath
        """
        trial = SearchTrial(
            image, target, target_mask, cells, max_fixations, background, px_per_degree, start
        )
        return self.search_batch([trial], seed=seed, return_maps=return_maps)[0]

    def search_batch(
        self,
        trials: Sequence[SearchTrial],
        *,
        batch_size: int = 8,
        seed: int | np.random.Generator = 0,
        progress: Callable[[int, int], None] | None = None,
        return_maps: bool = False,
    ) -> list[Scanpath]:
        """Search many images.

        Parameters
        ----------
        trials : sequence of SearchTrial
            Those with images, targets and pixels per degree alike are searched together.
        batch_size : int, default 8
            Most trials in one forward pass.
        seed : int or Generator, default 0
            Each trial draws from a stream of its own, so the batch size changes nothing.
        progress : callable, optional
            Called with the numbers of finished and of all trials.
        return_maps : bool, default False
            Keep the maps from which each saccade was chosen.

        Returns
        -------
        list of Scanpath
            Whole pixels, the first fixation "initial". ``found`` says whether the search ended at the target; None
            without a target mask. ``attrs`` holds those of the trial, ``n_saccades``, and as ``quit`` why the
            search ended: "found", "recognised", "limit" of fixations, "gave up" by the quitting rule, or
            "exhausted" as no place was open. With ``return_maps`` also ``maps``, the sharpened map at the
            network's resolution (saccade, row, column), and ``matches``, the matches of each tap
            (saccade, tap, row, column).

        Raises
        ------
        ValueError
            If pixels per degree are given neither with a trial nor in the configuration.
        """
        check_range("batch_size", batch_size, 1)
        streams = check_seed(seed).spawn(len(trials))
        paths: dict[int, Scanpath] = {}
        groups: dict[tuple[object, ...], deque[int]] = {}
        for i, trial in enumerate(trials):
            size = (trial.image.shape, trial.target.shape)
            key = (*size, trial.background, self._px_per_degree(trial))
            groups.setdefault(key, deque()).append(i)
        for waiting in groups.values():
            active: list[_Search] = []
            reused = self._reused(trials[waiting[0]]) if self.reuse else None
            while waiting or active:
                entering = [waiting.popleft() for _ in range(min(len(waiting), batch_size - len(active)))]
                active += self._begin([(i, trials[i], streams[i]) for i in entering])
                self._step([search for search in active if search.quit is None], return_maps, reused)
                for search in active:
                    if search.quit is not None:
                        paths[search.index] = self._scanpath(search, return_maps)
                        if progress is not None:
                            progress(len(paths), len(trials))
                active = [search for search in active if search.quit is None]
        return [paths[i] for i in range(len(trials))]

    def _px_per_degree(self, trial: SearchTrial) -> float:
        px_per_degree = self.config.px_per_degree if trial.px_per_degree is None else trial.px_per_degree
        if px_per_degree is None:
            raise ValueError("px_per_degree must be given with the trial or in the configuration, got None")
        return px_per_degree

    def _begin(self, entering: list[tuple[int, SearchTrial, np.random.Generator]]) -> list[_Search]:
        """Start some trials of one group."""
        if not entering:
            return []
        px_per_degree = self._px_per_degree(entering[0][1])
        targets = np.stack([trial.target for _, trial, _ in entering])
        kernels = self._target_kernels(targets, px_per_degree)
        begun = []
        for row, (index, trial, rng) in enumerate(entering):
            height, width = trial.image.shape[:2]
            reach = self._reach(trial)
            pad = [(reach + self.config.margin_px,) * 2] * 2
            search = _Search(
                trial=trial,
                index=index,
                rng=rng,
                px_per_degree=px_per_degree,
                canvas=np.pad(trial.image, [*pad, (0, 0)], constant_values=trial.background),
                is_open=np.ones((height, width), bool) if trial.cells is None else trial.cells.max(0),
                kernels={tap: kernel[row] for tap, kernel in kernels.items()},
                reach=reach,
                # As published: the square has whole halves.
                half=round(self.config.ior_deg * px_per_degree) // 2,
            )
            x, y = trial.first_fixation
            search.gaze.append((y, x))
            begun.append(search)
        # With cells the first fixation is neither tested nor inhibited, as published.
        self._arrive([search for search in begun if search.trial.cells is None])
        for search in begun:
            if search.quit is None and search.trial.fixation_limit == 1:
                search.quit = "limit"
        return begun

    def _target_kernels(self, targets: NDArray[np.uint8], px_per_degree: float) -> dict[str, Tensor]:
        with torch.inference_mode():
            pixels = self.backbone.preprocess(torch.from_numpy(targets).to(self.backbone.device))
            return self.backbone.target_kernels(pixels, self.config, px_per_degree)

    def _step(self, active: list[_Search], return_maps: bool, reused: ReusedFeatures | None) -> None:
        """Move the gaze of every active search once."""
        if not active:
            return
        with torch.inference_mode():
            features = self._features(active, reused)
            matches = {
                tap: correlate(features[tap], torch.stack([search.kernels[tap] for search in active]))
                for tap in features
            }
            side = max(next(iter(active[0].kernels.values())).shape[-2:])
            small = combine(matches, self.config, side).cpu().numpy()
            raw = torch.stack(list(matches.values()), 1).cpu().numpy()
        for search, its_map, its_matches in zip(active, small, raw, strict=True):
            if return_maps:
                search.maps.append(its_map)
                search.matches.append(its_matches)
            self._move(search, its_map, its_matches)
        self._arrive([search for search in active if search.quit is None])
        for search in active:
            if search.quit is None and len(search.gaze) >= search.trial.fixation_limit:
                search.quit = "limit"

    def _features(self, active: list[_Search], reused: ReusedFeatures | None) -> dict[str, Tensor]:
        """Return the features seen from the gaze of each search."""
        if reused is not None:
            return reused.search_maps(
                [search.canvas for search in active],
                [search.gaze[-1] for search in active],
                [search.memory for search in active],
            )
        views = torch.from_numpy(np.stack([search.view for search in active]))
        pixels = self.backbone.preprocess(views.to(self.backbone.device))
        return self.backbone.search_maps(pixels, self.config, active[0].px_per_degree)

    def _reach(self, trial: SearchTrial) -> int:
        """Pixels from the gaze to where the image ends in the view."""
        height, width = trial.image.shape[:2]
        return int(max(height, width) if self.config.view == "image" else height)

    def _reused(self, trial: SearchTrial) -> ReusedFeatures:
        height, width = trial.image.shape[:2]
        reach = self._reach(trial)
        if width > reach:
            raise ValueError(
                f"reuse needs images no wider than high for a view of the height, got {width} x {height} px"
            )
        assert isinstance(self.backbone, VGG16)
        with torch.inference_mode():
            return ReusedFeatures(
                self.backbone,
                self.config,
                self._px_per_degree(trial),
                (height, width),
                2 * (reach + self.config.margin_px),
                trial.background,
            )

    def _move(self, search: _Search, small: NDArray[np.float32], matches: NDArray[np.float32]) -> None:
        """Choose the next fixation, or end the search."""
        config = self.config
        is_open = search.open_in_view(config)
        if not is_open.any():
            search.quit = "exhausted"
            return
        if config.quit_below > 0:
            if search.best_at_first is None:
                search.best_at_first = np.maximum(matches.max((1, 2), keepdims=True), 1e-30)
            evidence = (matches / search.best_at_first).mean(0)
            best = best_open(evidence, is_open)
            search.first_evidence = best if search.first_evidence is None else search.first_evidence
            if best < config.quit_below * search.first_evidence:
                search.quit = "gave up"
                return
        choice = choose(small, is_open, config, search.rng)
        (y, x), (height, width) = search.gaze[-1], search.trial.image.shape[:2]
        middle = search.reach + config.margin_px
        row = min(max(y - middle + choice.row, 0), height - 1)
        column = min(max(x - middle + choice.column, 0), width - 1)
        search.gaze.append((row, column))
        search.log_prob.append(choice.log_prob)

    def _arrive(self, searches: list[_Search]) -> None:
        """Look for the target at the gaze of each search; where it is not, inhibit the place."""
        if self.recogniser is not None and searches:
            places = [(search.trial, search.gaze[-1]) for search in searches]
            similarity = local_similarity(self.backbone, self.config, places, searches[0].px_per_degree)
            for search, is_target in zip(
                searches, self.recogniser.probability(similarity) > 0.5, strict=True
            ):
                search.quit = "recognised" if is_target else None
        elif self.recogniser is None:
            for search in searches:
                search.quit = "found" if search.at_target else None
        for search in searches:
            if search.quit is None:
                search.inhibit(self.config)

    def _scanpath(self, search: _Search, return_maps: bool) -> Scanpath:
        trial = search.trial
        rows, columns = np.array(search.gaze).T
        attrs = {**trial.attrs, "n_saccades": len(search.gaze) - 1, "quit": search.quit}
        if return_maps:
            attrs["maps"] = np.array(search.maps)
            attrs["matches"] = np.array(search.matches)
        at_target = search.quit in ("found", "recognised") and search.at_target
        return Scanpath(
            columns,
            rows,
            image_size=(trial.image.shape[1], trial.image.shape[0]),
            log_prob=np.array(search.log_prob),
            found=None if trial.target_mask is None else bool(at_target),
            px_per_degree=search.px_per_degree,
            attrs=attrs,
        )


@dataclass(eq=False)
class _Search:
    """A search under way. Rows and columns, in pixels of the image."""

    trial: SearchTrial
    index: int
    rng: np.random.Generator
    px_per_degree: float
    canvas: NDArray[np.uint8]
    is_open: NDArray[np.bool_]
    kernels: dict[str, Tensor]
    reach: int
    half: int
    gaze: list[tuple[int, int]] = field(default_factory=list)
    log_prob: list[float] = field(default_factory=lambda: [0.0])  # the first fixation is given
    quit: str | None = None
    best_at_first: NDArray[np.float32] | None = None
    first_evidence: float | None = None
    memory: FeatureMemory = field(default_factory=FeatureMemory)
    maps: list[NDArray[np.float32]] = field(default_factory=list)
    matches: list[NDArray[np.float32]] = field(default_factory=list)

    @property
    def side(self) -> int:
        """Side of the view."""
        return int(self.canvas.shape[0] - self.trial.image.shape[0])

    @property
    def view(self) -> NDArray[np.uint8]:
        """The image around the gaze, which is in the middle."""
        y, x = self.gaze[-1]
        return self.canvas[y : y + self.side, x : x + self.side]

    @property
    def window(self) -> tuple[slice, slice]:
        """The square around the gaze."""
        y, x = (
            slice(max(centre - self.half, 0), max(centre + self.half, centre + 1)) for centre in self.gaze[-1]
        )
        return y, x

    @property
    def at_target(self) -> bool:
        """Whether the target reaches into the square around the gaze."""
        mask = self.trial.target_mask
        return mask is not None and bool(mask[self.window].any())

    def open_in_view(self, config: SearchConfig) -> NDArray[np.bool_]:
        """Return the pixels of the view to which the gaze may go."""
        view = np.zeros((self.side, self.side), bool)
        ranges = []
        for centre, size in zip(self.gaze[-1], self.is_open.shape, strict=True):
            first, last = max(centre - self.reach, 0), min(centre + self.reach, size)
            shift = self.side // 2 - centre
            ranges.append((slice(first, last), slice(first + shift, last + shift)))
        (rows, view_rows), (columns, view_columns) = ranges
        view[view_rows, view_columns] = self.is_open[rows, columns]
        if config.saccade_deg != (0.0, float("inf")):
            offset = np.arange(self.side) - self.side // 2
            length = np.hypot(offset[:, None], offset) / self.px_per_degree
            view &= (length >= config.saccade_deg[0]) & (length <= config.saccade_deg[1])
        return view

    def inhibit(self, config: SearchConfig) -> None:
        """Close the place at the gaze: the first cell there, or the square around it."""
        cells = self.trial.cells
        if cells is None:
            self.is_open[self.window] = False
            return
        here = np.flatnonzero(cells[:, *self.gaze[-1]])
        if len(here):
            cell = cells[here[0]]
            self.is_open &= ~cell
            if config.erase:
                pad = self.side // 2
                inside = self.canvas[pad : pad + cell.shape[0], pad : pad + cell.shape[1]]
                inside[cell] = self.trial.background
                rows, columns = (np.flatnonzero(cell.any(axis)) for axis in (1, 0))
                self.memory.change((rows[0], rows[-1] + 1), (columns[0], columns[-1] + 1))
