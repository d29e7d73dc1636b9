"""How large a pooling window is at each output pixel."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from neuroattn._checks import check_range, check_shape

_FAR = 2.0**40  # output pixels; any window has reached its largest size long before


@dataclass(frozen=True)
class LinearLaw:
    """Pooling windows that grow linearly with eccentricity outside a fovea of constant resolution.

    Pixels are those of the pooled map: a stage whose input has half the resolution of the image has half of
    the image's ``px_per_degree``. The defaults are the fourth pooling stage of eccNET [1]_.

    Parameters
    ----------
    slope : float, default 0.16
        Growth of the window per growth of eccentricity, in input pixels per input pixel.
    px_per_degree : float, default 4
        Input pixels per degree of visual angle.
    fovea_deg : float, default 4
        Radius within which the window is ``window_min``, in degrees.
    window_min : int, default 2
        Side of the smallest window, in input pixels.
    ring_deg : float or None, default 1
        Width of the rings over which the window is constant, in degrees. With None the window follows the
        distance of each single output pixel.

    Notes
    -----
    With rings this is the published layer in every detail. Radii are rounded half to even to output pixels,
    and one output pixel counts as two input pixels whatever the stride. The map is first padded with zeros
    to a square, and the zeros count as data. A ring holds the output pixels strictly nearer than its radius;
    its window follows from that radius, i.e. from its outer edge. Around the map's own centre, the last ring
    begins where the next radius would reach half the side, and holds all that lies outside. Around a given
    fixation we let the rings go on, so that the window is a function of eccentricity alone.

    Without rings (ours) nothing is padded, the stride enters the eccentricity, and the window is
    ``window_min + round(slope * max(eccentricity - fovea, 0))``.

    A window that covers the map from every output pixel is not made larger: its mean does not change.

    References
    ----------
    .. [1] Gupta, Zhang, Wu, Wolfe & Kreiman (2021). Visual search asymmetry: deep nets and humans share
       similar inherent biases. NeurIPS 34.

    Examples
    --------
    >>> LinearLaw(slope=0.5, px_per_degree=2, fovea_deg=1).windows(10, 10)[0, 2]
    tensor([4, 3, 2, 3, 4], dtype=torch.int32)
    """

    slope: float = 0.16
    px_per_degree: float = 4.0
    fovea_deg: float = 4.0
    window_min: int = 2
    ring_deg: float | None = 1.0

    def __post_init__(self) -> None:
        check_range("slope", self.slope, 0)
        check_range("px_per_degree", self.px_per_degree, 0)
        check_range("fovea_deg", self.fovea_deg, 0)
        check_range("window_min", self.window_min, 1)
        if self.ring_deg is not None:
            check_range("ring_deg", self.ring_deg, 0)
            if self._ring_px < 1:
                raise ValueError(
                    f"ring_deg must be at least one output pixel wide at {self.px_per_degree} px per degree, "
                    f"got {self.ring_deg}"
                )

    def canvas(self, height: int, width: int) -> tuple[int, int]:
        """Size of the map after padding: a square with rings, unchanged without."""
        return (height, width) if self.ring_deg is None else (max(height, width),) * 2

    def rings(self, height: int, width: int, stride: int = 2, fixation: Tensor | None = None) -> Tensor:
        """Label each output pixel with its ring, from the fovea (0) outwards.

        Parameters
        ----------
        height, width, stride, fixation
            As in `windows`.

        Returns
        -------
        Tensor, int64, shape (1 or batch, row, column)
        """
        if self.ring_deg is None:
            raise ValueError("ring_deg must be given for a law to have rings, got None")
        distance = self._distance(height, width, stride, fixation)
        ring = torch.floor((distance - self._fovea_px) / self._ring_px).long().add(1).clamp(min=0)
        if fixation is not None:
            return ring
        reach = distance.shape[-1] / 2 - self._fovea_px
        return ring.clamp(max=max(0, math.ceil(reach / self._ring_px)))

    def windows(self, height: int, width: int, stride: int = 2, fixation: Tensor | None = None) -> Tensor:
        """Side of the window of each output pixel.

        Parameters
        ----------
        height, width : int
            Size of the input map, in pixels.
        stride : int, default 2
            Input pixels between neighbouring outputs.
        fixation : Tensor, shape (batch, 2), or None
            Row and column of the gaze in input pixels, as in `eccentricity_pool`.

        Returns
        -------
        Tensor, int32, shape (1 or batch, row, column)
            In input pixels.
        """
        if self.ring_deg is None:
            eccentricity = stride * self._distance(height, width, stride, fixation)
            growth = (eccentricity - self.fovea_deg * self.px_per_degree).clamp(min=0)
        else:
            ring = self.rings(height, width, stride, fixation)
            outer = 2.0 * (self._fovea_px + ring * self._ring_px)
            growth = torch.where(ring > 0, outer - self.fovea_deg * self.px_per_degree, 0.0)
        largest = max(2 * max(height, width), self.window_min)
        size = self.window_min + torch.round(self.slope * growth)
        return size.clamp(self.window_min, largest).int()

    @property
    def _fovea_px(self) -> int:
        return round(self.fovea_deg * self.px_per_degree / 2)

    @property
    def _ring_px(self) -> int:
        return 0 if self.ring_deg is None else round(self.ring_deg * self.px_per_degree / 2)

    def _distance(self, height: int, width: int, stride: int, fixation: Tensor | None) -> Tensor:
        """Distance of each output pixel from the gaze, in output pixels, float64."""
        canvas = self.canvas(height, width)
        rows, columns = (-(-n // stride) for n in canvas)
        device = None if fixation is None else fixation.device
        if fixation is None:
            gaze = torch.tensor([[rows // 2, columns // 2]], dtype=torch.float64)
        else:
            check_shape("fixation", fixation, "batch", 2)
            before = torch.tensor([(canvas[0] - height) // 2, (canvas[1] - width) // 2], device=device)
            gaze = (fixation.detach().double() + before) / stride
        row = torch.arange(rows, device=device)[:, None] - gaze[:, 0, None, None]
        column = torch.arange(columns, device=device) - gaze[:, 1, None, None]
        return (row.square() + column.square()).sqrt().nan_to_num(nan=_FAR, posinf=_FAR).clamp(max=_FAR)
