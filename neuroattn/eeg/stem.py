"""The spatio-temporal stem of BaseNet, which mixes the electrodes before it filters them."""

from __future__ import annotations

import inspect

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neuroattn._checks import check_range


class SpatioTemporalStem(nn.Module):
    """Filter every electrode in time, normalise, weigh the electrodes, and average over windows [1]_.

    The published order filters each of the electrodes with each of the filters and mixes them afterwards. Filters
    and electrode weights are linear, and the normalisation between them is affine, so the mix can come first: one
    filter then runs once instead of once per electrode. The statistics of the normalisation over trials, electrodes
    and samples are quadratic in the filters and follow from the lag moments of the signal. Outputs, gradients and
    running statistics are those of the published order up to rounding, at about a tenth of its arithmetic for 22
    electrodes and a fifteenth of its memory; `plain_stem` is that order.

    Parameters
    ----------
    n_chans : int
        Electrodes.
    n_filters : int, default 40
        Temporal filters.
    filter_length : int, default 25
        Samples of a filter; the signal is padded with ``filter_length // 2`` zeros on both sides, so that an even
        length gives one sample more.
    spatial_expansion : int, default 1
        Electrode mixtures per temporal filter.
    pool_length, pool_stride : int, default 75, 15
        Samples of the averaging windows, and between their starts.
    activation : type of nn.Module, default nn.ELU
        Non-linearity before the averaging.

    References
    ----------
    .. [1] Wimpff, Gizzi, Zerfowski & Yang (2024). EEG motor imagery decoding: a framework for comparative analysis
       with channel attention mechanisms. J. Neural Eng.

    Examples
    --------
    >>> stem = SpatioTemporalStem(22)
    >>> stem(torch.randn(2, 22, 1000)).shape
    torch.Size([2, 40, 1, 62])
    """

    def __init__(
        self,
        n_chans: int,
        *,
        n_filters: int = 40,
        filter_length: int = 25,
        spatial_expansion: int = 1,
        pool_length: int = 75,
        pool_stride: int = 15,
        activation: type[nn.Module] = nn.ELU,
    ) -> None:
        super().__init__()
        sizes = {
            "n_chans": n_chans,
            "n_filters": n_filters,
            "filter_length": filter_length,
            "spatial_expansion": spatial_expansion,
            "pool_length": pool_length,
            "pool_stride": pool_stride,
        }
        for name, size in sizes.items():
            check_range(name, size, 1)
        padding = filter_length // 2
        n_mixtures = n_filters * spatial_expansion
        self.temporal = nn.Conv2d(1, n_filters, (1, filter_length), padding=(0, padding), bias=False)
        self.temporal_norm = nn.BatchNorm2d(n_filters)
        self.spatial = nn.Conv2d(n_filters, n_mixtures, (n_chans, 1), groups=n_filters, bias=False)
        self.norm = nn.BatchNorm2d(n_mixtures)
        # What it overwrites is not needed again.
        in_place = {"inplace": True} if "inplace" in inspect.signature(activation).parameters else {}
        self.activation = activation(**in_place)
        self.pool = nn.AvgPool2d((1, pool_length), (1, pool_stride))

    def forward(self, x: Tensor) -> Tensor:
        """Return windows (batch, mixture, 1, window) of a signal (batch, channel, time)."""
        if not _mixes_first(x.shape, self.temporal.kernel_size[1]):
            return plain_stem(self, x)
        # Mixtures lead, so that trials stay in one piece through filter, normalisation and pooling.
        mixed = _filtered_mixtures(self, x)
        n_mixtures, n_trials, n_times = mixed.shape
        # One long signal has the statistics of its trials.
        y = self.activation(self.norm(mixed.reshape(1, n_mixtures, 1, n_trials * n_times)))
        windows: Tensor = self.pool(y.view(n_mixtures, n_trials, 1, n_times))
        return windows.transpose(0, 1)


def plain_stem(stem: SpatioTemporalStem, x: Tensor) -> Tensor:
    """Run a stem in its published order: the definition, and the faster way for few electrodes or little data.

    Examples
    --------
    >>> stem = SpatioTemporalStem(22).double()
    >>> x = torch.randn(4, 22, 200, dtype=torch.float64)
    >>> torch.allclose(plain_stem(stem, x), stem(x))
    True
    """
    y = stem.spatial(stem.temporal_norm(stem.temporal(x[:, None])))
    windows: Tensor = stem.pool(stem.activation(stem.norm(y)))
    return windows


def _mixes_first(shape: torch.Size, filter_length: int) -> bool:
    """Whether mixing first is the faster order: on a CPU it was from 3 electrodes and 12 rows of 1000 samples on."""
    n_trials, n_chans, n_times = shape
    return n_chans >= 3 and n_trials * n_chans * n_times >= 12_000 and n_times >= filter_length


def _filtered_mixtures(stem: SpatioTemporalStem, x: Tensor) -> Tensor:
    """Return spatial(temporal_norm(temporal(x))) as (mixture, batch, time)."""
    norm = stem.temporal_norm
    taps = stem.temporal.weight.flatten(1)  # (filter, tap)
    weights = stem.spatial.weight.flatten(1)  # (mixture, channel)
    if norm.training or norm.running_mean is None or norm.running_var is None:
        mean, var = _batch_statistics(taps, x)
        if norm.training and norm.running_mean is not None and norm.running_var is not None:
            n_filtered = x.shape[0] * x.shape[1] * (x.shape[2] + 2 * (taps.shape[1] // 2) - taps.shape[1] + 1)
            _track(norm, mean, var * (n_filtered / (n_filtered - 1)))
    else:
        mean, var = norm.running_mean, norm.running_var
    scale = norm.weight * (var + norm.eps).rsqrt().to(taps.dtype)
    shift = norm.bias - scale * mean.to(taps.dtype)
    expansion = weights.shape[0] // taps.shape[0]
    n_trials, n_chans, n_times = x.shape
    mixed = weights @ x.transpose(0, 1).reshape(n_chans, n_trials * n_times)
    return _fir(
        mixed.view(-1, n_trials, n_times),
        (scale[:, None] * taps).repeat_interleave(expansion, 0),
        shift.repeat_interleave(expansion) * weights.sum(1),
    )


def _track(norm: nn.BatchNorm2d, mean: Tensor, var: Tensor) -> None:
    """Update running statistics as `nn.BatchNorm2d` does."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    with torch.no_grad():
        norm.num_batches_tracked.add_(1)
        share = 1 / norm.num_batches_tracked.double() if norm.momentum is None else norm.momentum
        for running, value in ((norm.running_mean, mean), (norm.running_var, var)):
            running.add_(share * (value.to(running.dtype) - running))


def _batch_statistics(taps: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and biased variance (filter,) of a signal (batch, channel, time) filtered by each filter."""
    mean, covariance = lag_moments(x, taps.shape[1])
    taps = taps.double()
    return taps @ mean, ((taps @ covariance) * taps).sum(1).clamp_min(0)


def lag_moments(x: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Return mean (tap,) and covariance (tap, tap) of all windows of a signal padded with ``length // 2`` zeros.

    The windows of one sample's shift share almost all their products, so that the second moments follow from the
    sums of products at each lag and the few products at the edges. Sums of products are taken in the precision of the
    signal, trial by trial, after the mean of every electrode is removed; everything else is in float64. An offset
    much larger than the signal, and volts as well as microvolts, are therefore safe.

    Parameters
    ----------
    x : Tensor, shape (batch, channel, time)
        At least ``length`` samples.
    length : int
        Samples of a window.

    Examples
    --------
    >>> mean, covariance = lag_moments(torch.tensor([[[1.0, 2.0, 3.0, 4.0]]]), 3)
    >>> mean  # of (0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 0)
    tensor([1.5000, 2.5000, 2.2500], dtype=torch.float64)
    """
    padding, n_times = length // 2, x.shape[-1]
    n_windows = x.shape[0] * x.shape[1] * (n_times + 2 * padding - length + 1)
    lag = torch.arange(length, device=x.device)
    rows = x.flatten(0, 1).to(torch.promote_types(x.dtype, torch.float32))

    # Sums over the whole signal at each lag d of x[i] x[i + d] = (x[i] - c)(x[i + d] - c) + c (x[i] + x[i + d]) - c c.
    offset = rows.mean(1, keepdim=True).detach()
    products = _lag_products((rows - offset).view_as(x), length)
    head, tail = rows[:, : length - 1].double(), rows[:, n_times - length + 1 :].double()
    total = rows.sum(1, dtype=torch.float64)
    offset = offset[:, 0].double()
    missing = F.pad((offset @ (head + tail.flip(1))).cumsum(0), (1, 0))
    products = products + 2 * offset @ total - missing - (n_times - lag) * offset.square().sum()

    # A window one sample later loses a product at its start and gains one at its end.
    inner = length - 1 - padding
    first = F.pad(head[:, :inner], (padding, 0))
    last = F.pad(tail[:, length - 1 - inner :], (0, padding))
    gained, lost = _by_lag(last.mT @ last, length), _by_lag(first.mT @ first, length)
    start = products - gained.sum(0)
    second = start + F.pad((gained - lost).cumsum(0), (0, 0, 1, 0))
    second = second[torch.minimum(lag[:, None], lag), (lag[:, None] - lag).abs()] / n_windows
    mean = total.sum() - last.sum() + F.pad((last.sum(0) - first.sum(0)).cumsum(0), (1, 0))
    mean = mean / n_windows
    return mean, second - mean[:, None] * mean


def _lag_products(x: Tensor, length: int) -> Tensor:
    """Return sum(x[..., i] * x[..., i + d]) for lags d < length, from products of neighbouring blocks of samples."""
    n_trials, _, n_times = x.shape
    block = max(32, length - 1)
    n_blocks = -(-(n_times + length - 1) // block)  # zeros keep electrodes apart
    z = F.pad(x, (0, n_blocks * block - n_times)).reshape(n_trials, -1, block)
    gram = torch.cat([z.mT @ z, z[:, :-1].mT @ z[:, 1:]], 2).sum(0, dtype=torch.float64)
    return _by_lag(gram, length).sum(0)


def _by_lag(gram: Tensor, length: int) -> Tensor:
    """Return ``gram[i, i + d]`` at (i, d), zero outside."""
    rows = torch.arange(gram.shape[0], device=gram.device)[:, None]
    columns = rows + torch.arange(length, device=gram.device)
    inside = columns < gram.shape[1]
    return gram[rows, columns.clamp(max=gram.shape[1] - 1)] * inside


def _fir(x: Tensor, taps: Tensor, bias: Tensor) -> Tensor:
    """Filter (mixture, batch, time) with one filter (mixture, tap) each, padded with ``tap // 2`` zeros.

    Blocks of consecutive outputs are one matrix product of their inputs with a Toeplitz matrix of the taps.
    """
    (n_mixtures, n_trials, n_times), length = x.shape, taps.shape[1]
    padding = length // 2
    n_out = n_times + 2 * padding - length + 1
    block = _block_length(n_out, length)
    n_blocks = -(-n_out // block)
    width = block + length - 1
    padded = F.pad(x, (padding, n_blocks * block + length - 1 - n_times - padding))
    windows = padded.unfold(2, width, block).reshape(n_mixtures, n_trials * n_blocks, width)
    tap = torch.arange(width, device=x.device)[:, None] - torch.arange(block, device=x.device)
    toeplitz = taps[:, tap.clamp(0, length - 1)] * ((tap >= 0) & (tap < length))
    filtered = torch.baddbmm(bias[:, None, None], windows, toeplitz)
    return filtered.view(n_mixtures, n_trials, n_blocks * block)[:, :, :n_out]


def _block_length(n_times: int, filter_length: int) -> int:
    """Return a block near the best length that divides the signal, if there is one."""
    shortest = max(32, filter_length)
    exact = [block for block in range(shortest, 2 * shortest + 1) if n_times % block == 0]
    return exact[0] if exact else max(40, filter_length)
