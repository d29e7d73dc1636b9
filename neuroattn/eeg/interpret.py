"""What a trained network attends to: gates by class, spatial patterns, maps on the scalp, gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import check_is_fitted
from torch import Tensor
from torch.nn import functional as F

from neuroattn._checks import check_shape
from neuroattn.eeg.basenet import BaseNet
from neuroattn.eeg.classifier import MotorImageryClassifier
from neuroattn.eeg.pipelines import check_trials
from neuroattn.results import provenance


def attention_gates(classifier: MotorImageryClassifier, X: ArrayLike, y: ArrayLike) -> xr.DataArray:
    """Return the weights that the attention gives to the features of each trial.

    Parameters
    ----------
    classifier : MotorImageryClassifier
        Fitted, with a BaseNet and an attention that has a gate.
    X : float array, shape (trial, channel, time)
        In microvolt, as for :meth:`MotorImageryClassifier.predict`.
    y : array, shape (trial,)
        Labels, kept as the coordinate ``label``.

    Returns
    -------
    DataArray, dims (epoch, feature) or (epoch, feature, time)
        Features are outputs of the network, not electrodes; :func:`attention_maps` leads back to the scalp.

    Raises
    ------
    ValueError
        If the attention has no gate.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> X, y = rng.normal(size=(20, 3, 250)), np.array(["left", "right"] * 10)
    >>> classifier = MotorImageryClassifier("eca", sfreq=125, n_epochs=2).fit(X, y)
    >>> gates = attention_gates(classifier, X, y)
    >>> dict(gates.groupby("label").mean().sizes)
    {'label': 2, 'feature': 16}
    """
    network, signals = _network_input(classifier, X)
    labels = np.asarray(y)
    check_shape("y", labels, len(signals))
    with torch.inference_mode():
        gate = network(signals, return_features=True)["gate"]
    if gate is None:
        raise ValueError(f"classifier must have an attention with a gate, got {classifier.attention!r}")
    return xr.DataArray(
        gate.cpu().numpy(),
        dims=("epoch", "feature", "time")[: gate.ndim],
        coords={"label": ("epoch", labels.astype(str))},
        name="gate",
        attrs=provenance(classifier.seed, {"attention": str(classifier.attention)}),
    )


def spatial_patterns(classifier: MotorImageryClassifier, X: ArrayLike) -> xr.DataArray:
    """Return what each spatial filter of a BaseNet measures on the scalp.

    The weights of a filter also cancel what it should not measure, so they cannot be read as sources. The pattern is
    the covariance of the signals at the electrodes with the output of the filter [1]_, both after the temporal
    filter that goes with it, per standard deviation of the output.

    Parameters
    ----------
    classifier : MotorImageryClassifier
        Fitted, with a BaseNet.
    X : float array, shape (trial, channel, time)
        Trials of the training set, in microvolt.

    Returns
    -------
    DataArray, dims (mixture, channel)
        Microvolt. The sign of a filter is arbitrary, and so is that of its pattern.

    References
    ----------
    .. [1] Haufe et al. (2014). On the interpretation of weight vectors of linear models in multivariate neuroimaging.
       NeuroImage 87.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> X, y = rng.normal(size=(20, 3, 250)), np.array(["left", "right"] * 10)
    >>> classifier = MotorImageryClassifier(sfreq=125, n_epochs=2).fit(X, y)
    >>> spatial_patterns(classifier, X).dims
    ('mixture', 'channel')
    """
    network, signals = _network_input(classifier, X)
    stem = network.stem
    taps = stem.temporal.weight.flatten(1)  # (filter, tap)
    weights = stem.spatial.weight.flatten(1)  # (mixture, channel)
    expansion = len(weights) // len(taps)
    scalp = torch.from_numpy(np.asarray(classifier._filter(check_trials(X)), np.float32)).to(signals.device)
    patterns = []
    with torch.inference_mode():
        for mixture, filter_weights in enumerate(weights):
            tap = taps[mixture // expansion]
            output = _filtered(torch.einsum("c,nct->nt", filter_weights, signals)[:, None], tap)
            at_electrodes = _filtered(scalp, tap)
            output = output - output.mean()
            at_electrodes = at_electrodes - at_electrodes.mean((0, 2), keepdim=True)
            covariance = (at_electrodes * output).mean((0, 2))
            patterns.append(covariance / output.square().mean().sqrt().clamp_min(1e-12))
    return xr.DataArray(
        torch.stack(patterns).cpu().numpy(),
        dims=("mixture", "channel"),
        coords={"channel": _channels(classifier)},
        name="pattern",
        attrs={**provenance(classifier.seed, {}), "units": "microvolt"},
    )


def attention_maps(classifier: MotorImageryClassifier, X: ArrayLike, y: ArrayLike) -> xr.DataArray:
    """Return how much the attended features draw on each electrode, for each class.

    A gate weighs features, and each feature draws on all spatial filters. The map of a class is
    ``sum over features k and filters f of gate_k |path_kf| |pattern_fc|`` with the mean gate of its trials, the
    weights between filter and feature, and the spatial patterns. It is a summary of magnitudes, without signs.

    Parameters
    ----------
    classifier : MotorImageryClassifier
        Fitted, with a BaseNet; without attention every gate is one and all classes have one map.
    X : float array, shape (trial, channel, time)
        In microvolt.
    y : array, shape (trial,)

    Returns
    -------
    DataArray, dims (label, channel)
        Shares of the whole: each map sums to one. The attribute ``gate_spread`` is the largest difference of mean
        gates between classes; where it is near zero, maps of classes do not differ.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> X, y = rng.normal(size=(20, 3, 250)), np.array(["left", "right"] * 10)
    >>> classifier = MotorImageryClassifier("eca", sfreq=125, n_epochs=2).fit(X, y)
    >>> attention_maps(classifier, X, y).sum("channel").values.round(3)
    array([1., 1.], dtype=float32)
    """
    network, _ = _network_input(classifier, X)
    labels = np.asarray(y).astype(str)
    path = xr.DataArray(_path(network), dims=("feature", "mixture"))
    if network.attention is None:
        names = np.unique(labels)
        ones = np.ones((len(names), path.sizes["feature"]), np.float32)
        gates = xr.DataArray(ones, dims=("label", "feature"), coords={"label": names})
    else:
        gates = attention_gates(classifier, X, labels)
        gates = (gates.mean("time") if "time" in gates.dims else gates).groupby("label").mean()
    maps = abs(gates) @ path @ abs(spatial_patterns(classifier, X))
    maps = (maps / maps.sum("channel")).transpose("label", "channel").rename("map")
    spread = float((gates.max("label") - gates.min("label")).max())
    return maps.assign_attrs(provenance(classifier.seed, {}) | {"gate_spread": spread})


def saliency(classifier: MotorImageryClassifier, X: ArrayLike, y: ArrayLike) -> xr.DataArray:
    """Return the size of the gradient of each trial's class by its signals.

    Parameters
    ----------
    classifier : MotorImageryClassifier
        Fitted, with any network.
    X : float array, shape (trial, channel, time)
        In microvolt.
    y : array, shape (trial,)
        Class of each trial whose logit is differentiated.

    Returns
    -------
    DataArray, dims (epoch, channel, time)
        Absolute derivative of the logit by the standardised, filtered signal; ``time`` in seconds from the first
        sample that the network sees. It says to which changes the network is sensitive, not where the signal is.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> X, y = rng.normal(size=(20, 3, 250)), np.array(["left", "right"] * 10)
    >>> classifier = MotorImageryClassifier(sfreq=125, n_epochs=2).fit(X, y)
    >>> saliency(classifier, X, y).mean(("epoch", "time")).dims
    ('channel',)
    """
    check_is_fitted(classifier, "network_")
    labels = np.asarray(y)
    signals = _scaled(classifier, X).requires_grad_()
    check_shape("y", labels, len(signals))
    unknown = np.setdiff1d(labels, classifier.classes_)
    if len(unknown):
        raise ValueError(f"y must hold classes of the classifier, got {unknown.tolist()[0]!r}")
    codes = torch.from_numpy(np.searchsorted(classifier.classes_, labels)).to(signals.device)
    logits = classifier.network_(signals).gather(1, codes[:, None]).sum()
    (gradient,) = torch.autograd.grad(logits, signals)
    return xr.DataArray(
        gradient.abs().cpu().numpy(),
        dims=("epoch", "channel", "time"),
        coords={
            "channel": _channels(classifier),
            "time": np.arange(gradient.shape[2]) / classifier.sfreq_,
            "label": ("epoch", labels.astype(str)),
        },
        name="saliency",
        attrs=provenance(classifier.seed, {}),
    )


def _scaled(classifier: MotorImageryClassifier, X: ArrayLike) -> Tensor:
    scaled = classifier._scale(classifier._filter(check_trials(X)))
    return torch.from_numpy(scaled).to(classifier.device)


def _network_input(classifier: MotorImageryClassifier, X: ArrayLike) -> tuple[BaseNet, Tensor]:
    check_is_fitted(classifier, "network_")
    if not isinstance(classifier.network_, BaseNet):
        raise ValueError(f"classifier must have a BaseNet, got {type(classifier.network_).__name__}")
    return classifier.network_, _scaled(classifier, X)


def _channels(classifier: MotorImageryClassifier) -> list[str]:
    return classifier.ch_names_ or [str(i) for i in range(classifier.n_chans_)]


def _filtered(x: Tensor, taps: Tensor) -> Tensor:
    """Filter (trial, channel, time) with one filter."""
    y = F.conv1d(x.reshape(-1, 1, x.shape[2]), taps[None, None], padding=len(taps) // 2)
    return y.view(*x.shape[:2], -1)


def _path(network: BaseNet) -> NDArray[np.float32]:
    """Return the magnitude (feature, mixture) with which features draw on mixtures."""
    with torch.no_grad():
        layers: list[Any] = list(network.separable)
        depthwise, pointwise, norm = layers[:3]
        inner = pointwise.weight.flatten(1).abs() * depthwise.weight.flatten(1).abs().sum(1)
        expand: Any = network.expansion[0]
        expansion = expand.weight.flatten(1).abs()
        outer = _scale(network.expansion[1])[:, None] * expansion * _scale(network.stem.norm)
        path: NDArray[np.float32] = (_scale(norm)[:, None] * inner @ outer).cpu().numpy()
    return path


def _scale(norm: Any) -> Tensor:
    """Return by how much a batch normalisation multiplies each channel."""
    scale: Tensor = norm.weight.abs() * (norm.running_var + norm.eps).rsqrt()
    return scale
