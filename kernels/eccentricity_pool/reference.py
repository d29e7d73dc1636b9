"""Definition of eccentricity-dependent pooling: one pooled map per window size, then a choice per pixel."""

import torch
import torch.nn.functional as F
from torch import Tensor


def eccentricity_pool(
    x: Tensor, windows: Tensor, canvas: tuple[int, int], stride: int = 2, mode: str = "mean"
) -> Tensor:
    """Pool with a window per output pixel, the way the published layer does: window by window.

    Parameters
    ----------
    x : Tensor, shape (batch, channel, height, width)
    windows : Tensor of int, shape (1 or batch, row, column)
        Side of each window, in input pixels.
    canvas : (int, int)
        Size to which ``x`` is padded with zeros, the odd pixel at the bottom and at the right; they count.
    stride : int, default 2
    mode : "mean" or "max", default "mean"

    Returns
    -------
    Tensor, shape (batch, channel, row, column)

    Notes
    -----
    A window of side k is aligned as TensorFlow's "SAME": of the padding that k asks for beyond the canvas,
    the smaller half lies before it. This padding does not enter the mean or the maximum.

    Examples
    --------
    >>> windows = torch.tensor([[[1, 3]]])
    >>> eccentricity_pool(torch.tensor([[[[1.0, 2.0, 3.0, 4.0]]]]), windows, (1, 4))
    tensor([[[[1.0000, 3.5000]]]])
    """
    height, width = x.shape[-2:]
    x = F.pad(x, _split(canvas[1] - width) + _split(canvas[0] - height))
    rows, columns = windows.shape[-2:]
    out = x.new_zeros(*x.shape[:2], rows, columns)
    for k in torch.unique(windows).tolist():
        beyond_height, beyond_width = (
            max((m - 1) * stride + k - n, 0) for m, n in zip((rows, columns), canvas, strict=True)
        )
        beyond = _split(beyond_width) + _split(beyond_height)
        if mode == "max":
            pooled = F.max_pool2d(F.pad(x, beyond, value=-torch.inf), k, stride)
        else:
            inside = F.pad(x.new_ones(1, 1, *canvas), beyond)
            pooled = F.avg_pool2d(F.pad(x, beyond), k, stride) / F.avg_pool2d(inside, k, stride)
        out = torch.where(windows[:, None] == k, pooled[..., :rows, :columns], out)
    return out


def _split(n: int) -> list[int]:
    return [n // 2, n - n // 2]
