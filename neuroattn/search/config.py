"""Every setting of a search, and the settings of the paper and of its ablations."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from neuroattn._checks import check_option, check_range
from neuroattn.kernels.eccentricity_pool import LinearLaw

Gaussian = tuple[int, float]

# The published settings follow the side of the target kernel: discs and natural targets (1), curves and bars
# (2 and 3), intersections (6).
_SHARPENING: tuple[tuple[int, tuple[Gaussian, Gaussian]], ...] = (
    (1, ((3, 0.0), (5, 1.0))),
    (3, ((3, 1.0), (5, 3.0))),
)
_COARSEST: tuple[Gaussian, Gaussian] = ((5, 3.0), (7, 5.0))


@dataclass(frozen=True)
class SearchConfig:
    """The settings of `EccNet`.

    The defaults are those of `clean`.

    Parameters
    ----------
    px_per_degree : float, optional
        Pixels per degree of visual angle of trials that do not say their own.
    slopes : tuple of float
        Growth of the pooling window per growth of eccentricity at the pooling stages, from the first on. Stage l has
        an input of stride ``2 ** (l - 1)``. Zeros are plain pooling.
    fovea_deg : float, default 4
        Radius of constant resolution, degrees.
    ring_deg : float, optional
        Width of the rings over which the window is constant, degrees; None for none.
    round_px_per_degree : bool, default False
        Round pixels per degree to a whole number at every stage, as published: the fovea then has a radius of 4.27
        degrees at stages 3 to 5.
    pool : {"mean", "max"}
    taps : tuple of str, optional
        Layers that are compared with the target. None is all of the backbone's.
    layer_weights : {"max", "equal"}
        Weigh each layer by its largest match, or all alike.
    sharpening : "kernel", ((size, sd), (size, sd)) or None
        Centre and surround Gaussian of the three sharpening steps of the map, in places of the map; a standard
        deviation of 0 is the fixed kernel (1/4, 1/2, 1/4). "kernel" takes the published pair for the side of the
        target kernel.
    compressed_template : bool, default False
        Read the target with twice the stride of the image, as published, which lays a compressed template on the
        map; otherwise with the same stride.
    view : {"image", "height"}
        The network sees all of the image at every fixation, or as published only what lies within its height.
    margin_px : int, default 64
        Background around that in the view, so that the network's own border stays away from the image.
    landing : {"centre", "top_left"}
        Where in the winning place of the map the gaze lands.
    erase : bool, default True
        Replace each visited cell by the background, as published. A cell is never visited twice in either case.
    ior_deg : float, default 1
        Side of the square around the fixation in which the target is recognised and, without cells, to which the
        gaze does not return; degrees.
    temperature : float, default 0
        Of a softmax over the map scaled to 0..1 over all open places. 0 takes the best place.
    quit_below : float, default 0
        Give up when the best open match falls below this part of the best match at the first fixation.
    saccade_deg : tuple of float, (shortest, longest)
        Limits of the length of a saccade, degrees; the default limits nothing.

    Examples
    --------
    >>> SearchConfig.paper().taps, SearchConfig.paper().px_per_degree
    (None, 30.0)
    >>> SearchConfig.paper().law(3, 30.0)
    LinearLaw(slope=0.07, px_per_degree=8, fovea_deg=4.0, window_min=2, ring_deg=1.0)
    """

    px_per_degree: float | None = None
    slopes: tuple[float, ...] = (0.0, 0.0, 0.07, 0.16, 0.32)
    fovea_deg: float = 4.0
    ring_deg: float | None = 1.0
    round_px_per_degree: bool = False
    pool: Literal["mean", "max"] = "mean"
    taps: tuple[str, ...] | None = None
    layer_weights: Literal["max", "equal"] = "max"
    sharpening: Literal["kernel"] | tuple[Gaussian, Gaussian] | None = "kernel"
    compressed_template: bool = False
    view: Literal["image", "height"] = "image"
    margin_px: int = 64
    landing: Literal["centre", "top_left"] = "centre"
    erase: bool = True
    ior_deg: float = 1.0
    temperature: float = 0.0
    quit_below: float = 0.0
    saccade_deg: tuple[float, float] = (0.0, float("inf"))

    def __post_init__(self) -> None:
        if self.px_per_degree is not None and not self.px_per_degree > 0:
            raise ValueError(f"px_per_degree must be above 0, got {self.px_per_degree!r}")
        for slope in self.slopes:
            check_range("slopes", slope, 0)
        check_range("fovea_deg", self.fovea_deg, 0)
        check_option("pool", self.pool, ("mean", "max"))
        if self.taps is not None and not self.taps:
            raise ValueError("taps must name at least one layer, got ()")
        check_option("layer_weights", self.layer_weights, ("max", "equal"))
        if isinstance(self.sharpening, str):
            check_option("sharpening", self.sharpening, ("kernel",))
        elif self.sharpening is not None:
            for size, sd in self.sharpening:
                if size < 1 or size % 2 == 0 or sd < 0 or (sd == 0 and size != 3):
                    raise ValueError(
                        f"sharpening must have odd sizes and sd above 0 (0 with size 3 alone), got {(size, sd)}"
                    )
        check_option("view", self.view, ("image", "height"))
        check_range("margin_px", self.margin_px, 0)
        check_option("landing", self.landing, ("centre", "top_left"))
        check_range("ior_deg", self.ior_deg, 0)
        check_range("temperature", self.temperature, 0)
        check_range("quit_below", self.quit_below, 0, 1)
        shortest, longest = self.saccade_deg
        if not 0 <= shortest < longest:
            raise ValueError(
                f"saccade_deg must be (shortest, longest) with 0 <= shortest < longest, "
                f"got {self.saccade_deg}"
            )

    @classmethod
    def clean(cls) -> SearchConfig:
        """Return the corrected choices: nothing rounded, compressed or cut off, landing in the middle.

        Examples
        --------
        >>> SearchConfig.clean() == SearchConfig()
        True
        """
        return cls()

    @classmethod
    def paper(cls, *, ior_px: float = 10) -> SearchConfig:
        """Return the published settings of the asymmetry experiments, with every quirk.

        Parameters
        ----------
        ior_px : float, default 10
            Side of the square of recognition and inhibition at 30 px per degree; 45 for arrays of objects.

        Examples
        --------
        >>> SearchConfig.paper().landing
        'top_left'
        """
        return cls(
            px_per_degree=30.0,
            round_px_per_degree=True,
            compressed_template=True,
            view="height",
            landing="top_left",
            ior_deg=ior_px / 30,
        )

    @classmethod
    def natural(cls) -> SearchConfig:
        """Return the published settings of natural images: equal layers, recognition within 64 px.

        Examples
        --------
        >>> SearchConfig.natural().layer_weights
        'equal'
        """
        return replace(cls.paper(ior_px=64), layer_weights="equal")

    @classmethod
    def ivsn(cls) -> SearchConfig:
        """Return IVSN: the deepest layer, max pooling, no eccentricity.

        Examples
        --------
        >>> SearchConfig.ivsn().taps
        ('conv5_3',)
        """
        return replace(cls.paper().without_eccentricity(), taps=("conv5_3",), pool="max")

    def without_eccentricity(self) -> SearchConfig:
        """Return these settings with the foveal window everywhere; the kind of pooling stays.

        The published ablation changed to max pooling at the same time:
        ``replace(config.without_eccentricity(), pool="max")``.

        Examples
        --------
        >>> ablated = SearchConfig.paper().without_eccentricity()
        >>> ablated.slopes, ablated.pool
        ((0.0, 0.0, 0.0, 0.0, 0.0), 'mean')
        """
        return replace(self, slopes=(0.0,) * len(self.slopes))

    def law(self, stage: int, px_per_degree: float) -> LinearLaw:
        """Return how the window grows at a pooling stage, counted from 1.

        Parameters
        ----------
        stage : int
        px_per_degree : float
            Of the image.

        Returns
        -------
        LinearLaw

        Examples
        --------
        >>> SearchConfig.clean().law(3, 30.0).px_per_degree
        7.5
        """
        scale = px_per_degree / 2 ** (stage - 1)
        if self.round_px_per_degree:
            scale = max(round(scale), 1)
        # A ring is at least as wide as one pixel of the pooled map, however few pixels a degree has.
        ring_deg = None if self.ring_deg is None else max(self.ring_deg, 2 / scale)
        return LinearLaw(self.slopes[stage - 1], scale, self.fovea_deg, 2, ring_deg)

    def gaussians(self, kernel_side: int) -> tuple[Gaussian, Gaussian] | None:
        """Return the centre and surround of the sharpening for a target kernel of a side.

        Examples
        --------
        >>> SearchConfig.paper().gaussians(2)
        ((3, 1.0), (5, 3.0))
        """
        if self.sharpening == "kernel":
            return next((pair for side, pair in _SHARPENING if kernel_side <= side), _COARSEST)
        return self.sharpening
