"""BaseNet: a small convolutional network for motor imagery with a place for channel attention."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn

from neuroattn._checks import check_range, check_shape
from neuroattn.attention import make_gate
from neuroattn.attention.gates import Attention
from neuroattn.eeg.stem import SpatioTemporalStem

try:
    from braindecode.models.base import EEGModuleMixin
except (ImportError, OSError) as error:  # OSError: a CUDA build of torchaudio beside a CPU build of torch
    raise ImportError(
        f"neuroattn.eeg needs braindecode, which does not load ({error}); "
        "install torch and torchaudio from the same index, then braindecode"
    ) from error

_PUBLISHED_SFREQ = 250.0  # Hz, at which the default lengths were chosen


class _Lengths(NamedTuple):
    """Filters and averages that shorten a signal, in samples and then in windows of the stem."""

    filter: int = 25
    pool: int = 75
    stride: int = 15
    feature_filter: int = 15
    feature_pool: int = 8
    feature_stride: int = 8

    def windows(self, n_times: int) -> tuple[int, int]:
        """Return how many windows the attention sees of a signal, and how many averages of them are left."""
        n_filtered = _convolved(n_times, self.filter)
        n_windows = _convolved((n_filtered - self.pool) // self.stride + 1, self.feature_filter)
        if n_filtered < self.pool or n_windows < self.feature_pool:
            needed = max(1, self.feature_pool - _convolved(0, self.feature_filter))
            shortest = (needed - 1) * self.stride + self.pool - _convolved(0, self.filter)
            raise ValueError(
                f"n_times must be at least {shortest} for these filter and pool lengths, got {n_times}"
            )
        return n_windows, (n_windows - self.feature_pool) // self.feature_stride + 1


def _convolved(n_times: int, filter_length: int) -> int:
    return n_times + 2 * (filter_length // 2) - filter_length + 1


_DEFAULTS = _Lengths()


class BaseNet(EEGModuleMixin, nn.Module):  # type: ignore[misc]
    """Decode motor imagery with a spatio-temporal convolution and channel attention over its features [1]_.

    Temporal filters, electrode weights, normalisation and averaging give about 17 samples per second of 40 features
    (`SpatioTemporalStem`); these are reduced to 16, filtered once more, weighted by the attention, averaged again and
    classified. It is a model of braindecode: it goes into ``EEGClassifier``, ``GridSearchCV`` and the Hub like its
    own. The signal (batch, channel, time) is expected in microvolts or standardised, not in volts.

    Parameters
    ----------
    n_chans, n_outputs, n_times : int, optional
        Electrodes, classes and samples of a window. What is not given is inferred from the next three.
    sfreq : float, optional
        Sampling frequency in Hz. A warning tells how to scale the default lengths if it is not 250.
    chs_info : list of dict, optional
        ``info["chs"]`` of MNE.
    input_window_seconds : float, optional
        Length of a window in seconds.
    attention : str, callable, nn.Module or None, default None
        Gate over the features, before the second averaging: a name of `neuroattn.attention.GATES`, or of
        `neuroattn.attention.ATTENTIONS` for attention between windows (`neuroattn.attention.TokenAttention`), a factory
        ``(n_channels, n_times) -> nn.Module``, or a module (batch, channel, time) -> (batch, channel, time). A module
        is used as it is, so two networks made with it share its weights; pass a factory to a grid search.
    attention_options : dict, optional
        Keyword arguments of a named gate, such as ``{"reduction": 4}``.
    n_filters : int, default 40
        Temporal filters of the stem.
    filter_length : int, default 25
        Samples of these filters. An even length makes the signal one sample longer.
    spatial_expansion : int, default 1
        Electrode mixtures per temporal filter.
    pool_length, pool_stride : int, default 75, 15
        Samples of the windows averaged by the stem, and between their starts.
    n_features : int, default 16
        Channels that the attention weighs. They are features, not electrodes.
    feature_filter_length : int, default 15
        Windows seen by the second temporal filter.
    feature_pool_length, feature_pool_stride : int, default 8, 8
        Windows averaged before classification, and between the starts of these averages.
    drop_prob : float, default 0.5
        Probability of dropout after both averages.
    activation : type of nn.Module, default nn.ELU
        Non-linearity.

    Raises
    ------
    ValueError
        If a length is not positive or the window is too short for the lengths. Lengths are never adapted in silence.

    Warns
    -----
    UserWarning
        If ``sfreq`` is known and not 250 Hz, and the lengths are the defaults.

    Notes
    -----
    Function, gradients and running statistics are the published ones. Electrodes are mixed before they are filtered
    (see `SpatioTemporalStem`), which is several times faster; braindecode's ``AttentionBaseNet`` keeps the published
    order. ``load_state_dict`` takes the names of both for everything but the gate; for whole published networks see
    `load_reference`.

    References
    ----------
    .. [1] Wimpff, Gizzi, Zerfowski & Yang (2024). EEG motor imagery decoding: a framework for comparative analysis
       with channel attention mechanisms. J. Neural Eng.

    Examples
    --------
    >>> import torch
    >>> model = BaseNet(n_chans=22, n_outputs=4, n_times=1000, attention="eca")
    >>> model(torch.zeros(2, 22, 1000)).shape
    torch.Size([2, 4])
    >>> out = model(torch.zeros(2, 22, 1000), return_features=True)
    >>> out["features"].shape, out["gate"].shape
    (torch.Size([2, 112]), torch.Size([2, 16]))
    """

    # Given by EEGModuleMixin.
    n_chans: int
    n_outputs: int
    n_times: int
    sfreq: float
    _braindecode_init_kwargs: dict[str, Any]
    _set_n_outputs: Callable[[int], None]

    _HUB_NOTES_TEMPLATE = ""  # braindecode's tell to import the model from braindecode

    def __init__(
        self,
        n_chans: int | None = None,
        n_outputs: int | None = None,
        n_times: int | None = None,
        sfreq: float | None = None,
        chs_info: list[dict[str, Any]] | None = None,
        input_window_seconds: float | None = None,
        *,
        attention: Attention | None = None,
        attention_options: Mapping[str, Any] | None = None,
        n_filters: int = 40,
        filter_length: int = _DEFAULTS.filter,
        spatial_expansion: int = 1,
        pool_length: int = _DEFAULTS.pool,
        pool_stride: int = _DEFAULTS.stride,
        n_features: int = 16,
        feature_filter_length: int = _DEFAULTS.feature_filter,
        feature_pool_length: int = _DEFAULTS.feature_pool,
        feature_pool_stride: int = _DEFAULTS.feature_stride,
        drop_prob: float = 0.5,
        activation: type[nn.Module] = nn.ELU,
    ) -> None:
        super().__init__(
            n_outputs=n_outputs,
            n_chans=n_chans,
            chs_info=chs_info,
            n_times=n_times,
            input_window_seconds=input_window_seconds,
            sfreq=sfreq,
        )
        del n_outputs, n_chans, chs_info, n_times, input_window_seconds, sfreq
        check_range("n_features", n_features, 1)
        check_range("feature_filter_length", feature_filter_length, 1)
        check_range("feature_pool_length", feature_pool_length, 1)
        check_range("feature_pool_stride", feature_pool_stride, 1)
        check_range("drop_prob", drop_prob, 0, 1)
        self._lengths = _Lengths(
            filter_length,
            pool_length,
            pool_stride,
            feature_filter_length,
            feature_pool_length,
            feature_pool_stride,
        )
        self._warn_of_sfreq()
        self.stem = SpatioTemporalStem(
            self.n_chans,
            n_filters=n_filters,
            filter_length=filter_length,
            spatial_expansion=spatial_expansion,
            pool_length=pool_length,
            pool_stride=pool_stride,
            activation=activation,
        )
        padding = feature_filter_length // 2
        self.drop = nn.Dropout(drop_prob)
        self.expansion = nn.Sequential(
            nn.Conv2d(n_filters * spatial_expansion, n_features, 1, bias=False),
            nn.BatchNorm2d(n_features),
            activation(),
        )
        self.separable = nn.Sequential(
            nn.Conv2d(
                n_features,
                n_features,
                (1, feature_filter_length),
                padding=(0, padding),
                groups=n_features,
                bias=False,
            ),
            nn.Conv2d(n_features, n_features, 1, bias=False),
            nn.BatchNorm2d(n_features),
            activation(),
        )
        self.pool = nn.AvgPool2d((1, feature_pool_length), (1, feature_pool_stride))
        self.feature_drop = nn.Dropout(drop_prob)
        n_windows, n_averages = self._lengths.windows(self.n_times)
        self.attention = make_gate(attention, n_features, n_windows, **(attention_options or {}))
        self.final_layer = nn.Linear(n_features * n_averages, self.n_outputs)

    @property
    def mapping(self) -> dict[str, str]:
        """Names of the published network and of braindecode's port, with ours."""
        return {f"{theirs}.{name}": f"{ours}.{name}" for theirs, ours, names in _RENAMED for name in names}

    def forward(self, x: Tensor, return_features: bool = False) -> Any:
        """Return the logits, or what they are read from.

        Parameters
        ----------
        x : Tensor, shape (batch, channel, time)
        return_features : bool, default False

        Returns
        -------
        Tensor, shape (batch, output), or dict
            With ``return_features=True`` a dict of "features" (batch, feature * window), the input of the final
            layer, and "gate" (batch, feature) or (batch, feature, time), None without an attention that has one.

        Raises
        ------
        ValueError
            If the shape does not fit.
        """
        if x.ndim != 3 or x.shape[1] != self.n_chans:
            check_shape("x", x, "batch", self.n_chans, "time")
        windows = self._lengths.windows
        if x.shape[2] != self.n_times and windows(x.shape[2])[1] != windows(self.n_times)[1]:
            raise ValueError(
                f"x must have about {self.n_times} samples, as the model was built for, got {x.shape[2]}"
            )
        y = self.separable(self.expansion(self.drop(self.stem(x))))
        gate = None
        if self.attention is not None:
            if return_features and hasattr(self.attention, "gate"):
                y, gate = self.attention(y.squeeze(2), return_gate=True)
            else:
                y = self.attention(y.squeeze(2))
            y = y.unsqueeze(2)
        features = self.feature_drop(self.pool(y)).flatten(1)
        return {"features": features, "gate": gate} if return_features else self.final_layer(features)

    def reset_head(self, n_outputs: int) -> None:
        """Replace the final layer by a new one.

        Parameters
        ----------
        n_outputs : int
            Classes from now on.
        """
        check_range("n_outputs", n_outputs, 1)
        self._set_n_outputs(n_outputs)
        old = self.final_layer.weight
        self.final_layer = nn.Linear(old.shape[1], n_outputs, device=old.device, dtype=old.dtype)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor as they can be written to JSON, see ``from_config``.

        Raises
        ------
        TypeError
            If the attention is a factory or a module, which cannot be written.
        """
        attention = self._braindecode_init_kwargs["attention"]
        if not (attention is None or isinstance(attention, str)):
            raise TypeError(f"attention must be a name or None to be written as a config, got {attention!r}")
        config: dict[str, Any] = super().get_config()
        return config

    def _warn_of_sfreq(self) -> None:
        try:
            sfreq = float(self.sfreq)
        except ValueError:  # neither given nor inferable
            return
        if sfreq == _PUBLISHED_SFREQ or self._lengths[:3] != _DEFAULTS[:3]:
            return
        scale = sfreq / _PUBLISHED_SFREQ
        odd = 2 * round((_DEFAULTS.filter * scale - 1) / 2) + 1
        pool, stride = (max(1, round(length * scale)) for length in _DEFAULTS[1:3])
        warnings.warn(
            f"the default lengths are samples at 250 Hz; at sfreq={sfreq:g} the same durations are "
            f"filter_length={odd}, pool_length={pool}, pool_stride={stride}",
            stacklevel=4,
        )


_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
_RENAMED = (
    ("input_block.temporal_conv", "stem.temporal", ("weight",)),
    ("input_block.intermediate_bn", "stem.temporal_norm", _NORM),
    ("input_block.spatial_conv", "stem.spatial", ("weight",)),
    ("input_block.bn", "stem.norm", _NORM),
    ("channel_expansion.0", "expansion.0", ("weight",)),
    ("channel_expansion.1", "expansion.1", _NORM),
    ("channel_attention_block.conv.0", "separable.0", ("weight",)),
    ("channel_attention_block.conv.1", "separable.1", ("weight",)),
    ("channel_attention_block.conv.2", "separable.2", _NORM),
    ("classifier.1", "final_layer", ("weight", "bias")),
    ("final_layer.1", "final_layer", ("weight", "bias")),
)
