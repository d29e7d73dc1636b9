"""Definition of the channel gate."""

import torch.nn.functional as F
from torch import Tensor


def channel_gate(x: Tensor, gate: Tensor, kernel: int = 1, stride: int = 1) -> Tensor:
    """Scale each channel, then average over windows of time.

    Parameters
    ----------
    x : Tensor, shape (batch, channel, time)
    gate : Tensor, shape (batch, channel)
    kernel, stride : int, default 1
        Window of the average and its step, in samples; 1 and 1 leave the time axis as it is.

    Returns
    -------
    Tensor, shape (batch, channel, window)

    Examples
    --------
    >>> import torch
    >>> channel_gate(torch.tensor([[[1.0, 3.0, 5.0, 7.0]]]), torch.tensor([[0.5]]), 2, 2)
    tensor([[[1., 3.]]])
    """
    return F.avg_pool1d(x * gate[..., None], kernel, stride)
