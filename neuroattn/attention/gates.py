"""Channel attention: gates that scale each channel of a signal by what the signal holds.

A gate reduces every channel to a few statistics of its time course (squeeze) and turns those of all channels into
one factor a channel (excite). The excitation is the class, the squeeze its argument, so that every pair can be
had: ``SqueezeExcite(16, squeeze="entropy")``, ``EfficientChannelAttention(16, squeeze=("avg", "std"))``.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neuroattn._checks import check_option, check_range, check_shape
from neuroattn.attention.family import ATTENTIONS
from neuroattn.attention.tokens import TokenAttention
from neuroattn.kernels import channel_gate

_EPS = 1e-5  # of the l2 norms, as published


class ChannelGate(nn.Module, ABC):
    """Scale the channels of a signal by a gate computed from that signal.

    A subclass defines `gate`; the multiplication, and how the gate is handed out, are the same for all.

    Parameters
    ----------
    n_channels : int
        Number of channels of the signal.

    Examples
    --------
    >>> class Mute(ChannelGate):
    ...     def gate(self, x):
    ...         return x.new_zeros(x.shape[:2])
    >>> Mute(2)(torch.ones(1, 2, 3))
    tensor([[[0., 0., 0.],
             [0., 0., 0.]]])
    """

    def __init__(self, n_channels: int) -> None:
        super().__init__()
        check_range("n_channels", n_channels, 1)
        self.n_channels = n_channels

    @abstractmethod
    def gate(self, x: Tensor) -> Tensor:
        """Return the factors of a signal (batch, channel, time): (batch, channel) or (batch, channel, time)."""

    def forward(self, x: Tensor, return_gate: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """Scale a signal.

        Parameters
        ----------
        x : Tensor, shape (batch, channel, time)
            Any number of samples, at least one.
        return_gate : bool, default False
            Also return the gate.

        Returns
        -------
        y : Tensor, shape (batch, channel, time)
        gate : Tensor, shape (batch, channel) or (batch, channel, time)
            Only with ``return_gate=True``.
        """
        check_shape("x", x, "batch", self.n_channels, "time")
        gate = self.gate(x)
        y = channel_gate(x, gate) if gate.ndim == 2 else x * gate
        return (y, gate) if return_gate else y


# Squeezes: (batch, channel, time) -> (batch, channel, statistic)


def _average(x: Tensor) -> Tensor:
    return x.mean(-1, keepdim=True)


def _l2(x: Tensor) -> Tensor:
    return (x.square().sum(-1, keepdim=True) + _EPS).sqrt()


def _maximum(x: Tensor) -> Tensor:
    return x.amax(-1, keepdim=True)


def _deviation(x: Tensor) -> Tensor:
    variance = (x - x.mean(-1, keepdim=True)).square().sum(-1, keepdim=True) / max(x.shape[-1] - 1, 1)
    return (variance + 1e-12).sqrt()  # the root alone has no gradient where a channel is constant


def _covariance(x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred @ centred.mT / max(x.shape[-1] - 1, 1)


def _entropy(x: Tensor, over: int, eps: float) -> Tensor:
    """Return the entropy of the softmax over one axis of a signal, scaled to [0, 1] along the other, keeping axes.

    From the logarithm of the softmax, since p log p is NaN where p underflows; eps keeps equal entropies finite.
    """
    log_p = x.log_softmax(over)
    entropy = -(log_p.exp() * log_p).sum(over, keepdim=True)
    across = 3 - over
    low, high = entropy.amin(across, keepdim=True), entropy.amax(across, keepdim=True)
    return (entropy - low) / (high - low + eps)


def _channel_entropy(x: Tensor, eps: float = 1e-6) -> Tensor:
    return _entropy(x, 2, eps)


def _cosine(x: Tensor, frequency: int) -> Tensor:
    n = x.shape[-1]
    time = torch.arange(n, dtype=x.dtype, device=x.device) + 0.5
    wave = torch.cos(math.pi * frequency / n * time) * math.sqrt((2 if frequency else 1) / n)
    return (x @ wave)[..., None]


class LearnedFilter(nn.Module):
    """Project every channel onto a time course of its own, learned for a window length, and normalise over trials.

    The gather operator with parameters of gather-excite [1]_. A window of another length meets the same time course,
    stretched: samples that are repeated, or a constant signal, give the response that they gave before. The
    published form accepts the length it was built for only.

    Parameters
    ----------
    n_channels : int
    n_times : int
        Samples of the window that the filter is learned on.
    normalize : bool, default True
        Follow with batch normalisation.

    References
    ----------
    .. [1] Hu, Shen, Albanie, Sun & Vedaldi (2018). Gather-excite: exploiting feature context in convolutional
       neural networks. NeurIPS.

    Examples
    --------
    >>> squeeze = LearnedFilter(4, n_times=50)
    >>> squeeze(torch.zeros(2, 4, 50)).shape, squeeze(torch.zeros(2, 4, 73)).shape
    (torch.Size([2, 4, 1]), torch.Size([2, 4, 1]))
    """

    def __init__(self, n_channels: int, n_times: int, *, normalize: bool = True) -> None:
        super().__init__()
        check_range("n_times", n_times, 1)
        bound = n_times**-0.5  # of torch's depthwise convolution
        self.weight = nn.Parameter(torch.empty(n_channels, n_times).uniform_(-bound, bound))
        self.norm = nn.BatchNorm1d(n_channels) if normalize else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Squeeze a signal (batch, channel, time) to (batch, channel, 1)."""
        weight: Tensor = self.weight
        n_times = x.shape[-1]
        if n_times != weight.shape[1]:
            # Resample the running sum: the filter as a step function, integrated over the new samples.
            total = F.pad(weight.cumsum(1), (1, 0))[None]
            weight = F.interpolate(total, n_times + 1, mode="linear", align_corners=True)[0].diff(dim=1)
        out: Tensor = self.norm((x * weight).sum(-1, keepdim=True))
        return out


SQUEEZES: dict[str, Callable[[Tensor], Tensor]] = {
    "avg": _average,
    "l2": _l2,
    "max": _maximum,
    "std": _deviation,
    "entropy": _channel_entropy,
    "dct": partial(_cosine, frequency=1),
    "cov": _covariance,
}
"""Statistics of the time course of a channel, by name: functions (batch, channel, time) -> (batch, channel, statistic).

``avg``, ``max`` and ``std`` (unbiased) as named; ``l2`` the norm; ``entropy`` of the softmax over time, scaled to
[0, 1] over the channels of a trial; ``dct`` the projection on half a cosine period (DCT-II, first frequency);
``cov`` the covariance with every channel, as many statistics as there are channels; the others give one.
"""

Squeeze = str | Sequence[str] | nn.Module


class _Statistics(nn.Module):
    """Names of statistics as one squeeze."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.names = tuple(check_option("squeeze", name, SQUEEZES) for name in names)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([SQUEEZES[name](x) for name in self.names], -1)

    def extra_repr(self) -> str:
        return ", ".join(self.names)


def _squeeze(squeeze: Squeeze, n_channels: int) -> tuple[nn.Module, int]:
    """Return the squeeze and how many statistics it gives for a channel; a module of the caller's gives one."""
    if isinstance(squeeze, nn.Module):
        return squeeze, 1
    names = [squeeze] if isinstance(squeeze, str) else list(squeeze)
    if not names:
        raise ValueError("squeeze must name at least one statistic, got none")
    return _Statistics(names), sum(n_channels if name == "cov" else 1 for name in names)


def _check_single(width: int, squeeze: Squeeze) -> None:
    if width != 1:
        raise ValueError(f"squeeze must give one statistic for a channel here, got {squeeze!r}")


def _check_kernel(kernel_size: int) -> None:
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise ValueError(f"kernel_size must be odd and positive, got {kernel_size}")


def _mlp(n_in: int, n_channels: int, reduction: int, bias: bool) -> nn.Sequential:
    if not 1 <= reduction <= n_channels:
        raise ValueError(f"reduction must be between 1 and the {n_channels} channels, got {reduction}")
    hidden = n_in // reduction
    return nn.Sequential(nn.Linear(n_in, hidden, bias), nn.ReLU(), nn.Linear(hidden, n_channels, bias))


class SqueezeExcite(ChannelGate):
    r"""Gate channels by a two-layer perceptron of their statistics [1]_.

    .. math:: g = \sigma(W_2 \, \mathrm{relu}(W_1 s)), \quad s_c = \frac{1}{T} \sum_t x_{ct}

    Parameters
    ----------
    n_channels : int
    reduction : int, default 4
        The hidden layer has (channels times statistics) // reduction units.
    squeeze : str, sequence of str or Module, default "avg"
        Names in `SQUEEZES`, or a module (batch, channel, time) -> (batch, channel, 1). "l2" is the SE-l2 of Wimpff
        et al. [2]_.
    bias : bool, default False
        As published for EEG; the original for images has one.

    References
    ----------
    .. [1] Hu, Shen & Sun (2018). Squeeze-and-excitation networks. CVPR.
    .. [2] Wimpff, Gizzi, Zerfowski & Yang (2024). EEG motor imagery decoding: a framework for comparative
       analysis with channel attention mechanisms. Journal of Neural Engineering 21.

    Examples
    --------
    >>> y, gate = SqueezeExcite(16, squeeze="l2")(torch.ones(2, 16, 62), return_gate=True)
    >>> y.shape, gate.shape
    (torch.Size([2, 16, 62]), torch.Size([2, 16]))
    """

    def __init__(
        self, n_channels: int, *, reduction: int = 4, squeeze: Squeeze = "avg", bias: bool = False
    ) -> None:
        super().__init__(n_channels)
        self.squeeze, width = _squeeze(squeeze, n_channels)
        self.excite = _mlp(width * n_channels, n_channels, reduction, bias)

    def gate(self, x: Tensor) -> Tensor:
        """Return the factors in (0, 1), shape (batch, channel)."""
        gate: Tensor = self.excite(self.squeeze(x).flatten(1)).sigmoid()
        return gate


class FrequencyGate(SqueezeExcite):
    r"""Gate channels by their projection on one cosine [1]_.

    Squeeze and excitation of :math:`q_c = \sum_t x_{ct} \cos(\pi k (t + 1/2) / T) \, n_k`, the k-th coefficient of
    the orthonormal DCT-II.

    Parameters
    ----------
    n_channels : int
    frequency : int, default 0
        Half periods in the window, for all channels. 0 is the mean times the root of the number of samples: gates
        sharper than those of `SqueezeExcite`.
    reduction : int, default 4

    Notes
    -----
    The cosine is made for the window at hand. The published code stores it for one length and counts its
    channels x samples values as parameters.

    References
    ----------
    .. [1] Qin, Zhang, Wu & Li (2021). FcaNet: frequency channel attention networks. ICCV.

    Examples
    --------
    >>> FrequencyGate(16, frequency=3)(torch.ones(2, 16, 62)).shape
    torch.Size([2, 16, 62])
    """

    def __init__(self, n_channels: int, *, frequency: int = 0, reduction: int = 4) -> None:
        check_range("frequency", frequency, 0)
        super().__init__(n_channels, reduction=reduction, squeeze=_Cosine(frequency))


class _Cosine(nn.Module):
    def __init__(self, frequency: int) -> None:
        super().__init__()
        self.frequency = frequency

    def forward(self, x: Tensor) -> Tensor:
        return _cosine(x, self.frequency)

    def extra_repr(self) -> str:
        return f"frequency={self.frequency}"


class EfficientChannelGate(ChannelGate):
    """Gate channels by a convolution of their statistics along the channel axis [1]_.

    Neighbours on the channel axis share the kernel, so the order of the channels matters; outside the axis there
    are zeros.

    Parameters
    ----------
    n_channels : int
    kernel_size : int, default 9
        Odd.
    squeeze : str, sequence of str or Module, default "avg"
        Names in `SQUEEZES`, or a module (batch, channel, time) -> (batch, channel, 1).

    References
    ----------
    .. [1] Wang et al. (2020). ECA-Net: efficient channel attention for deep convolutional neural networks. CVPR.

    Examples
    --------
    >>> EfficientChannelGate(16, kernel_size=3).gate(torch.ones(2, 16, 62)).shape
    torch.Size([2, 16])
    """

    def __init__(self, n_channels: int, *, kernel_size: int = 9, squeeze: Squeeze = "avg") -> None:
        super().__init__(n_channels)
        _check_kernel(kernel_size)
        self.squeeze, width = _squeeze(squeeze, n_channels)
        self.excite = nn.Conv1d(width, 1, kernel_size, padding=kernel_size // 2, bias=False)

    def gate(self, x: Tensor) -> Tensor:
        """Return the factors in (0, 1), shape (batch, channel)."""
        gate: Tensor = self.excite(self.squeeze(x).mT)[:, 0].sigmoid()
        return gate


class GatherExcite(ChannelGate):
    """Gate channels by their own statistic alone [1]_.

    With the mean this is the gather-excite without parameters (theta-); with a `LearnedFilter` that with
    parameters (theta). A `SqueezeExcite` on a `LearnedFilter` is the one with a perceptron (theta+).

    Parameters
    ----------
    n_channels : int
    squeeze : str or Module, default "avg"
        A name in `SQUEEZES` with one statistic, or a module (batch, channel, time) -> (batch, channel, 1).

    References
    ----------
    .. [1] Hu, Shen, Albanie, Sun & Vedaldi (2018). Gather-excite: exploiting feature context in convolutional
       neural networks. NeurIPS.

    Examples
    --------
    >>> GatherExcite(2)(torch.zeros(1, 2, 3), return_gate=True)[1]
    tensor([[0.5000, 0.5000]])
    """

    def __init__(self, n_channels: int, *, squeeze: Squeeze = "avg") -> None:
        super().__init__(n_channels)
        self.squeeze, width = _squeeze(squeeze, n_channels)
        _check_single(width, squeeze)

    def gate(self, x: Tensor) -> Tensor:
        """Return the factors in (0, 1), shape (batch, channel)."""
        gate: Tensor = self.squeeze(x)[..., 0].sigmoid()
        return gate


class StyleRecalibration(ChannelGate):
    """Gate channels by their mean and deviation, normalised over trials [1]_.

    Each channel weighs its own two statistics, or a perceptron weighs those of all (SRMcross); batch normalisation
    and a sigmoid follow. In training a batch needs two trials.

    Parameters
    ----------
    n_channels : int
    reduction : int or None, default None
        The hidden layer of the perceptron has (channels times statistics) // reduction units; None for no
        perceptron.
    squeeze : str, sequence of str or Module, default ("avg", "std")
        Names in `SQUEEZES`, or a module (batch, channel, time) -> (batch, channel, 1).
    bias : bool, default False
        Before the normalisation, which removes it.

    References
    ----------
    .. [1] Lee, Kim & Nam (2019). SRM: a style-based recalibration module for convolutional neural networks. ICCV.

    Examples
    --------
    >>> StyleRecalibration(16, reduction=4).gate(torch.ones(2, 16, 62)).shape
    torch.Size([2, 16])
    """

    def __init__(
        self,
        n_channels: int,
        *,
        reduction: int | None = None,
        squeeze: Squeeze = ("avg", "std"),
        bias: bool = False,
    ) -> None:
        super().__init__(n_channels)
        self.squeeze, width = _squeeze(squeeze, n_channels)
        self.excite: nn.Module
        if reduction is None:
            self.excite = nn.Conv1d(n_channels, n_channels, width, groups=n_channels, bias=bias)
        else:
            self.excite = nn.Sequential(nn.Flatten(), *_mlp(width * n_channels, n_channels, reduction, bias))
        self.norm = nn.BatchNorm1d(n_channels)

    def gate(self, x: Tensor) -> Tensor:
        """Return the factors in (0, 1), shape (batch, channel)."""
        gate: Tensor = self.norm(self.excite(self.squeeze(x)).flatten(1)).sigmoid()
        return gate


class GatedChannelTransformation(ChannelGate):
    r"""Gate channels by how they compete in norm [1]_.

    .. math:: l_c = \alpha_c \lVert x_c \rVert, \quad
              g_c = 1 + \tanh\Bigl(\gamma_c l_c / \sqrt{\tfrac{1}{C} \sum_k l_k^2 + \epsilon} + \beta_c\Bigr)

    The gate is the identity at the start (alpha 1, beta and gamma 0) and, but for epsilon (1e-5), does not see the
    scale of the signal.

    Parameters
    ----------
    n_channels : int
    squeeze : str or Module, default "l2"
        A name in `SQUEEZES` with one statistic, or a module (batch, channel, time) -> (batch, channel, 1). "avg" is
        the GCT_GAP of Wimpff et al. (2024).

    References
    ----------
    .. [1] Yang, Zhu, Wu & Yang (2020). Gated channel transformation for visual recognition. CVPR.

    Examples
    --------
    >>> GatedChannelTransformation(2).gate(torch.ones(1, 2, 3)).detach()
    tensor([[1., 1.]])
    """

    def __init__(self, n_channels: int, *, squeeze: Squeeze = "l2") -> None:
        super().__init__(n_channels)
        self.squeeze, width = _squeeze(squeeze, n_channels)
        _check_single(width, squeeze)
        self.alpha = nn.Parameter(torch.ones(n_channels))
        self.beta = nn.Parameter(torch.zeros(n_channels))
        self.gamma = nn.Parameter(torch.zeros(n_channels))

    def gate(self, x: Tensor) -> Tensor:
        """Return the factors in (0, 2), shape (batch, channel)."""
        embedded = self.alpha * self.squeeze(x)[..., 0]
        scale = (embedded.square().mean(1, keepdim=True) + _EPS).rsqrt()
        gate: Tensor = 1 + (self.gamma * embedded * scale + self.beta).tanh()
        return gate


class SecondOrderGate(ChannelGate):
    """Gate channels by the covariance of their mixtures [1]_ (GSoP).

    The channels are mixed to ``n_channels // reduction``, the unbiased covariance of the mixtures over time is
    normalised over trials by row, each row gives four numbers, and a linear layer turns those into the gate.

    Parameters
    ----------
    n_channels : int
    reduction : int, default 4
    bias : bool, default True
        Of the three linear maps, as published.

    Notes
    -----
    With a sigmoid at the end, as equation 4 of Wimpff et al. (2024) has it; their code has none, so that its
    gates may be negative. `load_reference_gate` builds that form.

    References
    ----------
    .. [1] Gao, Xie, Wang & Li (2019). Global second-order pooling convolutional networks. CVPR.

    Examples
    --------
    >>> SecondOrderGate(16).gate(torch.ones(2, 16, 62)).shape
    torch.Size([2, 16])
    """

    def __init__(self, n_channels: int, *, reduction: int = 4, bias: bool = True) -> None:
        super().__init__(n_channels)
        if not 1 <= reduction <= n_channels:
            raise ValueError(f"reduction must be between 1 and the {n_channels} channels, got {reduction}")
        mixed = n_channels // reduction
        self.mix = nn.Conv1d(n_channels, mixed, 1, bias=bias)
        self.norm = nn.BatchNorm1d(mixed)
        self.rows = nn.Conv1d(mixed, 4 * mixed, mixed, groups=mixed, bias=bias)
        self.excite = nn.Linear(4 * mixed, n_channels, bias)

    def logits(self, x: Tensor) -> Tensor:
        """Return the gate before its sigmoid, shape (batch, channel)."""
        out: Tensor = self.excite(self.rows(self.norm(_covariance(self.mix(x)))).flatten(1))
        return out

    def gate(self, x: Tensor) -> Tensor:
        """Return the factors in (0, 1), shape (batch, channel)."""
        return self.logits(x).sigmoid()


class ContextEncoding(ChannelGate):
    r"""Gate channels by what remains of the samples around learned codewords [1]_ (EncNet).

    Samples are assigned softly to codewords, :math:`A_{tk} = \mathrm{softmax}_k(s_k \lVert x_t - d_k \rVert^2)`; the
    residuals :math:`e_k = \sum_t A_{tk} (x_t - d_k)` are normalised over trials, rectified and added over codewords,
    and a linear layer turns the sum into the gate.

    Parameters
    ----------
    n_channels : int
    n_codewords : int, default 4
        Wimpff et al. (2024) take the number of classes.

    Notes
    -----
    The sum over codewords is that of the paper; the code published with Wimpff et al. takes the mean, which
    `load_reference_gate` builds. There is no auxiliary loss.

    References
    ----------
    .. [1] Zhang et al. (2018). Context encoding for semantic segmentation. CVPR.

    Examples
    --------
    >>> ContextEncoding(16, n_codewords=2).gate(torch.ones(2, 16, 62)).shape
    torch.Size([2, 16])
    """

    def __init__(self, n_channels: int, *, n_codewords: int = 4) -> None:
        super().__init__(n_channels)
        check_range("n_codewords", n_codewords, 1)
        bound = (n_codewords * n_channels) ** -0.5
        self.codewords = nn.Parameter(torch.empty(n_codewords, n_channels).uniform_(-bound, bound))
        self.smoothing = nn.Parameter(torch.empty(n_codewords).uniform_(-1, 0))
        self.norm = nn.BatchNorm1d(n_codewords)
        self.excite = nn.Linear(n_channels, n_channels)

    def residuals(self, x: Tensor) -> Tensor:
        """Return the residuals, normalised and rectified, shape (batch, codeword, channel)."""
        norms = x.square().sum(1)[:, None] + self.codewords.square().sum(1)[:, None]
        distance = norms - 2 * self.codewords @ x  # (batch, codeword, time)
        assignment = (self.smoothing[:, None] * distance).softmax(1)
        sums = assignment @ x.mT - assignment.sum(-1, keepdim=True) * self.codewords
        out: Tensor = self.norm(sums).relu()
        return out

    def gate(self, x: Tensor) -> Tensor:
        """Return the factors in (0, 1), shape (batch, channel)."""
        gate: Tensor = self.excite(self.residuals(x).sum(1)).sigmoid()
        return gate


class ConvBlockAttention(ChannelGate):
    r"""Gate channels, then samples [1]_ (CBAM).

    .. math:: a_c = \sigma(M(\mathrm{mean}_t x) + M(\max_t x)), \quad
              b_t = \sigma(\mathrm{conv}[\mathrm{mean}_c (a x), \max_c (a x)])

    with one perceptron M; the gate is the product of both.

    Parameters
    ----------
    n_channels : int
    reduction : int, default 8
    kernel_size : int, default 15
        Of the convolution over time, odd.

    References
    ----------
    .. [1] Woo, Park, Lee & Kweon (2018). CBAM: convolutional block attention module. ECCV.

    Examples
    --------
    >>> ConvBlockAttention(16).gate(torch.ones(2, 16, 62)).shape
    torch.Size([2, 16, 62])
    """

    def __init__(self, n_channels: int, *, reduction: int = 8, kernel_size: int = 15) -> None:
        super().__init__(n_channels)
        _check_kernel(kernel_size)
        self.excite = _mlp(n_channels, n_channels, reduction, bias=False)
        self.temporal = nn.Conv1d(2, 1, kernel_size, padding=kernel_size // 2)

    def gate(self, x: Tensor) -> Tensor:
        """Return the factors in (0, 1), shape (batch, channel, time)."""
        channel = (self.excite(x.mean(-1)) + self.excite(x.amax(-1))).sigmoid()[..., None]
        scaled = x * channel
        time: Tensor = self.temporal(torch.stack([scaled.mean(1), scaled.amax(1)], 1)).sigmoid()
        gate: Tensor = channel * time
        return gate


class CollaborativeChannelGate(ChannelGate):
    """Gate channels by mean, maximum and entropy of their time course, each weighted (CATLite) [1]_.

    The three go through one perceptron M and are added with learned weights: sigmoid(a M(mean) + b M(maximum) +
    c M(entropy)). The maximum is that of the signal blurred by a Gaussian (five taps, sigma one sample); the entropy
    that of the softmax over time, scaled to [0, 1] over the channels of a trial.

    Parameters
    ----------
    n_channels : int
    reduction : int, default 4
    bias : bool, default True
        Of the perceptron. True as published for CATLite; the full form has none.

    Notes
    -----
    The weights start at zero, so that the gate starts at 1/2 and the perceptron learns from the second step on.
    The published entropy is NaN on signals that are constant in time and, in float32, on ranges above about 100; ours
    is finite.

    References
    ----------
    .. [1] Wu et al. (2022). CAT: learning to collaborate channel and spatial attention from multi-information
       fusion. IET Computer Vision. The channel half alone is from Wimpff et al. (2024).

    Examples
    --------
    >>> CollaborativeChannelGate(4).gate(torch.ones(1, 4, 9)).detach()
    tensor([[0.5000, 0.5000, 0.5000, 0.5000]])
    """

    blur: Tensor

    def __init__(self, n_channels: int, *, reduction: int = 4, bias: bool = True) -> None:
        super().__init__(n_channels)
        self.excite = _mlp(n_channels, n_channels, reduction, bias)
        self.channel_weights = nn.Parameter(torch.zeros(3))
        taps = torch.exp(-0.5 * torch.arange(-2.0, 3.0) ** 2)
        self.register_buffer("blur", taps / taps.sum(), persistent=False)
        self.entropy_eps = 1e-6

    def blurred(self, x: Tensor) -> Tensor:
        """Return the signal blurred over time, zeros beyond its ends."""
        return F.conv1d(x.flatten(0, 1)[:, None], self.blur[None, None], padding=2).view_as(x)

    def channel_logits(self, x: Tensor) -> Tensor:
        """Return the gate before its sigmoid, shape (batch, channel)."""
        entropy = _channel_entropy(x, self.entropy_eps)[..., 0]
        hidden = self.excite(torch.stack([x.mean(-1), self.blurred(x).amax(-1), entropy], 1))
        logits: Tensor = (self.channel_weights[:, None] * hidden).sum(1)
        return logits

    def gate(self, x: Tensor) -> Tensor:
        """Return the factors in (0, 1), shape (batch, channel)."""
        return self.channel_logits(x).sigmoid()


class CollaborativeGate(CollaborativeChannelGate):
    """Gate channels and samples and weigh both gates against each other (CAT) [1]_.

    The channel half is `CollaborativeChannelGate`. The temporal half adds mean, maximum and entropy over the channels
    of each sample with learned weights and convolves the sum, once for each channel, under a sigmoid. The gate is
    the mean of both, weighted by a softmax of two learned numbers.

    Parameters
    ----------
    n_channels : int
    reduction : int, default 4
    kernel_size : int, default 3
        Of the convolution over time, odd.
    bias : bool, default False
        Of the perceptron.

    Notes
    -----
    The maximum over channels is that of the paper; the published code takes the maximum over time there, which
    `load_reference_gate` builds. The mean enters with a minus sign and the convolution has channels x channels kernels,
    as published, although all channels read the same course.

    References
    ----------
    .. [1] Wu et al. (2022). CAT: learning to collaborate channel and spatial attention from multi-information
       fusion. IET Computer Vision.

    Examples
    --------
    >>> CollaborativeGate(16).gate(torch.ones(2, 16, 62)).shape
    torch.Size([2, 16, 62])
    """

    def __init__(
        self, n_channels: int, *, reduction: int = 4, kernel_size: int = 3, bias: bool = False
    ) -> None:
        super().__init__(n_channels, reduction=reduction, bias=bias)
        _check_kernel(kernel_size)
        self.temporal_weights = nn.Parameter(torch.zeros(3))
        self.temporal = nn.Conv1d(n_channels, n_channels, kernel_size, padding=kernel_size // 2, bias=False)
        self.balance = nn.Parameter(torch.zeros(2))

    def temporal_maximum(self, x: Tensor) -> Tensor:
        """Return the maximum of the blurred signal over channels, shape (batch, 1, time)."""
        return self.blurred(x).amax(1, keepdim=True)

    def gate(self, x: Tensor) -> Tensor:
        """Return the factors in (0, 1), shape (batch, channel, time)."""
        mean, maximum, entropy = self.temporal_weights
        course = maximum * self.temporal_maximum(x) - mean * x.mean(1, keepdim=True)
        course = course + entropy * _entropy(x, 1, self.entropy_eps)
        time = self.temporal(course.expand_as(x)).sigmoid()
        channel, temporal = self.balance.softmax(0)
        gate: Tensor = channel * self.channel_logits(x).sigmoid()[..., None] + temporal * time
        return gate


def _ge_theta(n_channels: int, n_times: int) -> ChannelGate:
    return GatherExcite(n_channels, squeeze=LearnedFilter(n_channels, n_times))


def _ge_theta_plus(n_channels: int, n_times: int, *, reduction: int = 4) -> ChannelGate:
    return SqueezeExcite(n_channels, reduction=reduction, squeeze=LearnedFilter(n_channels, n_times))


GATES: dict[str, Callable[..., ChannelGate]] = {
    "se": SqueezeExcite,
    "se-l2": partial(SqueezeExcite, squeeze="l2"),
    "gsop": SecondOrderGate,
    "fca": FrequencyGate,
    "encnet": ContextEncoding,
    "eca": EfficientChannelGate,
    "ge-theta-minus": GatherExcite,
    "ge-theta": _ge_theta,
    "ge-theta-plus": _ge_theta_plus,
    "gct": GatedChannelTransformation,
    "gct-gap": partial(GatedChannelTransformation, squeeze="avg"),
    "srm": StyleRecalibration,
    "srm-cross": partial(StyleRecalibration, reduction=4),
    "cbam": ConvBlockAttention,
    "cat": CollaborativeGate,
    "catlite": CollaborativeChannelGate,
}
"""The gates that Wimpff et al. (2024) compare, by name; `make_gate` builds them."""

_LEARNED_ON_A_WINDOW = ("ge-theta", "ge-theta-plus")

Attention = str | nn.Module | Callable[[int, int | None], nn.Module]


def make_gate(
    attention: Attention | None, n_channels: int, n_times: int | None = None, **options: Any
) -> nn.Module | None:
    """Build a channel attention from its name, or from what the caller brings.

    Parameters
    ----------
    attention : str, callable, Module or None
        A name in `GATES`, or in `ATTENTIONS` for `TokenAttention`; a factory, called with ``n_channels`` and
        ``n_times``; a module, returned as it is; or None for no attention.
    n_channels : int
        Channels of the signal.
    n_times : int, optional
        Samples of the window; "ge-theta" and "ge-theta-plus" learn a filter of this length.
    **options
        Further arguments of the gate that is named, or of the factory.

    Returns
    -------
    Module or None
        Maps (batch, channel, time) to the same shape.

    Raises
    ------
    ValueError
        If the name is unknown, or a size does not fit.
    TypeError
        If the gate does not know an option, or ``attention`` is nothing that makes a gate.

    Notes
    -----
    The arguments of Wimpff et al. [1]_ for their four data sets (BCI competition IV 2a and 2b, HGD, BCI competition
    III IVa). The defaults here are those for 2a. Their published configurations give all gates of a data set one
    reduction (4, 1, 8, 1) and one kernel (9, 11, 15, 7), which differs from the paper for "cbam", "cat" and, on III,
    "srm-cross". For "gsop", "fca" and "catlite" the paper names no argument.

    ======================================  ============  =====  =====  =====  =====
    gate                                    argument      2a     2b     HGD    III
    ======================================  ============  =====  =====  =====  =====
    se                                      reduction     4      1      8      1
    se-l2                                   reduction     4      1      8      8
    srm-cross                               reduction     4      1      8      8
    ge-theta-plus                           reduction     4      1      8      1
    eca                                     kernel_size   9      11     15     7
    encnet                                  n_codewords   4      2      4      2
    cbam                                    reduction     8      1      4      4
    cbam                                    kernel_size   15     15     7      3
    cat                                     reduction     4      2      4      8
    cat                                     kernel_size   3      9      7      7
    ======================================  ============  =====  =====  =====  =====

    References
    ----------
    .. [1] Wimpff, Gizzi, Zerfowski & Yang (2024). EEG motor imagery decoding: a framework for comparative
       analysis with channel attention mechanisms. Journal of Neural Engineering 21.

    Examples
    --------
    >>> gate = make_gate("eca", 16, kernel_size=5)
    >>> gate(torch.ones(2, 16, 62)).shape
    torch.Size([2, 16, 62])
    >>> make_gate("eca", 16, kernel_size=4)
    Traceback (most recent call last):
    ValueError: kernel_size must be odd and positive, got 4
    """
    if isinstance(attention, str):
        if attention in ATTENTIONS:
            return TokenAttention(n_channels, attention, **options)
        if attention not in GATES:
            raise ValueError(f"attention must be one of {', '.join(map(repr, GATES))}, got {attention!r}")
        if attention in _LEARNED_ON_A_WINDOW:
            if n_times is None:
                raise ValueError(f"n_times must be given for {attention!r}, got None")
            options["n_times"] = n_times
        return GATES[attention](n_channels, **options)
    if attention is not None and not isinstance(attention, nn.Module):
        if not callable(attention):
            raise TypeError(f"attention must be a name, a factory, a module or None, got {attention!r}")
        made = attention(n_channels, n_times, **options)
        if not isinstance(made, nn.Module):
            raise TypeError(f"attention must be a factory of modules, it returned {made!r}")
        return made
    if options:
        raise TypeError(f"options go with a name or a factory, got {', '.join(options)} for {attention!r}")
    return attention
