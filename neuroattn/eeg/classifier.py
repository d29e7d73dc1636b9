"""A ready estimator for motor imagery: filter, standardisation and network as one model."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from safetensors.torch import load_file, save_file
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn
from torch.utils.data import default_collate

from neuroattn._checks import check_option, check_range, check_seed, check_shape
from neuroattn._files import read_config, reading
from neuroattn.attention.gates import Attention
from neuroattn.datasets.eeg import check_labels, check_signals
from neuroattn.eeg.basenet import BaseNet
from neuroattn.eeg.insert import insert_attention
from neuroattn.eeg.pipelines import BandPass, check_trials
from neuroattn.eeg.recipe import Standardizer, recombine_segments, trial_orders, warmup_cosine
from neuroattn.results import provenance, replacing, write_json

PREDICTED_TOGETHER = 256  # trials


class MotorImageryClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Decode motor imagery with BaseNet and channel attention, or with any network of braindecode.

    Trials are filtered, standardised with what the training trials tell, and classified. The network is trained as
    published [1]_: Adam, cross entropy, a learning rate that rises linearly and then falls as half a cosine, no
    early stopping.

    Parameters
    ----------
    attention : str, callable, Module or None, default None
        A name of :data:`neuroattn.attention.GATES`, or of :data:`neuroattn.attention.ATTENTIONS` for attention
        between windows (:class:`neuroattn.attention.TokenAttention`), a factory ``(n_channels, n_times) -> Module``, or
        a module, of which each fit takes a copy.
    attention_options : dict, optional
        Keyword arguments of a named attention, such as ``{"reduction": 4}``.
    model : str, class or None, default None
        None is :class:`BaseNet`. A name or class of :mod:`braindecode.models`, for instance "EEGNet", is trained with
        the same recipe; attention goes into it by :func:`insert_attention`.
    model_options : dict, optional
        Keyword arguments of the network.
    sfreq : float, optional
        Sampling rate in hertz; needed for arrays, read from :class:`mne.Epochs`.
    band : (float or None, float or None), default (8, 30)
        Pass band in hertz, part of the model; None leaves the signals as they are. Signals below 8 Hz hold evoked
        waves and eye movements that follow the cue, so a broadband score does not show imagery by itself.
    causal : bool, default False
        Filter forwards only, as :class:`StreamingDecoder` needs.
    lead_seconds : float, default 0
        Time at the start of each trial that the filter sees and the network does not: room for the filter to settle.
    standardize : {"sample", "channel"} or None, default "sample"
        See :class:`Standardizer`.
    filter_seconds, pool_seconds, stride_seconds : float, default 0.1, 0.3, 0.06
        Temporal filter, pooling window and its stride of BaseNet: 25, 75 and 15 samples at 250 Hz.
    n_epochs : int, default 1000
        Passes over the training trials.
    n_warmup : int, optional
        Passes in which the learning rate rises; by default a fiftieth of ``n_epochs``.
    batch_size : int, default 64
        Trials of a step. All trials are used in each pass.
    learning_rate : float, default 0.001
    augment : bool, default False
        Double each batch by :func:`recombine_segments`.
    seed : int, default 0
        Of the first weights, the order of trials, dropout and augmentation. Global random state stays as it was.
    device : str, default "cpu"

    Attributes
    ----------
    classes_ : array, shape (class,)
    network_ : Module
        Takes standardised trials (trial, channel, time), returns logits (trial, class).
    sfreq_ : float
    ch_names_ : list of str or None
        None after a fit on arrays.
    n_times_ : int
        Samples of a trial, ``lead_seconds`` included.
    history_ : list of float
        Training loss of each pass.

    References
    ----------
    .. [1] Wimpff, Gizzi, Zerfowski & Yang (2024). EEG motor imagery decoding: a framework for comparative analysis
       with channel attention mechanisms. J. Neural Eng. arXiv:2310.11198.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> y = np.array(["left", "right"] * 10)
    >>> X = rng.normal(size=(20, 3, 250)) * np.where(y == "left", 1.0, 3.0)[:, None, None]
    >>> classifier = MotorImageryClassifier("se", sfreq=125, n_epochs=50, standardize="channel").fit(X, y)
    >>> classifier.predict(X[:4])
    array(['left', 'right', 'left', 'right'], dtype='<U5')
    """

    def __init__(
        self,
        attention: Attention | None = None,
        *,
        attention_options: Mapping[str, Any] | None = None,
        model: str | Callable[..., nn.Module] | None = None,
        model_options: Mapping[str, Any] | None = None,
        sfreq: float | None = None,
        band: tuple[float | None, float | None] | None = (8.0, 30.0),
        causal: bool = False,
        lead_seconds: float = 0.0,
        standardize: str | None = "sample",
        filter_seconds: float = 0.1,
        pool_seconds: float = 0.3,
        stride_seconds: float = 0.06,
        n_epochs: int = 1000,
        n_warmup: int | None = None,
        batch_size: int = 64,
        learning_rate: float = 1e-3,
        augment: bool = False,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        self.attention = attention
        self.attention_options = attention_options
        self.model = model
        self.model_options = model_options
        self.sfreq = sfreq
        self.band = band
        self.causal = causal
        self.lead_seconds = lead_seconds
        self.standardize = standardize
        self.filter_seconds = filter_seconds
        self.pool_seconds = pool_seconds
        self.stride_seconds = stride_seconds
        self.n_epochs = n_epochs
        self.n_warmup = n_warmup
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.augment = augment
        self.seed = seed
        self.device = device

    def fit(self, X: Any, y: ArrayLike | None = None) -> Self:
        """Train on labelled trials.

        Parameters
        ----------
        X : float array, shape (trial, channel, time), or mne.Epochs
            Arrays in microvolt; the EEG channels of Epochs that are not bad are converted from volts.
        y : array, shape (trial,), optional
            Labels; by default the names of the events of Epochs.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If a channel is flat or holds NaN, there is one class only, or trials are too short for the network.
        """
        labels = _labels(X, y)
        scaled = self._prepare(X)
        codes = self._encode(labels, len(scaled))
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            network = self._build()
            self.history_ = self._train(network, scaled, codes)
        self.network_ = network.eval()
        return self

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Return the probability of each class.

        Parameters
        ----------
        X : float array, shape (trial, channel, time), or mne.Epochs

        Returns
        -------
        array, shape (trial, class)

        Raises
        ------
        ValueError
            If channels, sampling rate or length are not those of the training trials.
        """
        check_is_fitted(self, "network_")
        signals, ch_names, sfreq = _read(X)
        if sfreq is not None and sfreq != self.sfreq_:
            raise ValueError(f"X must be sampled at {self.sfreq_:g} Hz as in training, got {sfreq:g} Hz")
        if ch_names is not None and self.ch_names_ is not None and ch_names != self.ch_names_:
            if set(ch_names) != set(self.ch_names_):
                raise ValueError(
                    f"X must have the channels of training, {_shown(self.ch_names_)}, got {_shown(ch_names)}"
                )
            signals = signals[:, [ch_names.index(name) for name in self.ch_names_]]
        if signals.shape[1:] != (self.n_chans_, self.n_times_):
            raise ValueError(
                f"X must have {self.n_chans_} channels and {self.n_times_} samples as in training, "
                f"got {signals.shape[1]} and {signals.shape[2]}"
            )
        check_signals("X", signals, _names(signals, self.ch_names_))
        return self._probabilities(self._scale(self._filter(signals)))

    def predict(self, X: Any) -> NDArray[Any]:
        """Return the most probable class of each trial, shape (trial,); ``X`` as for :meth:`predict_proba`."""
        best = self.predict_proba(X).argmax(axis=1)
        labels: NDArray[Any] = self.classes_[best]
        return labels

    def score(self, X: Any, y: ArrayLike | None = None, sample_weight: ArrayLike | None = None) -> float:
        """Return the accuracy; without ``y`` on the event names of Epochs."""
        return float(super().score(X, _labels(X, y), sample_weight))

    def save(self, folder: str | Path) -> None:
        """Write ``model.safetensors`` and ``config.json`` into a folder that appears whole or not at all.

        Parameters
        ----------
        folder : str or Path
            Replaced if it exists.

        Raises
        ------
        TypeError
            If attention or model is not given by name: code cannot be written to the folder.
        """
        check_is_fitted(self, "network_")
        params = self.get_params(deep=False)
        for name in ("attention", "model"):
            if not isinstance(params[name], str | None):
                raise TypeError(f"{name} must be given by name to be saved, got {params[name]!r}")
        try:
            json.dumps(params)
        except TypeError as error:
            raise TypeError(f"options must be plain numbers, texts and lists to be saved: {error}") from None
        tensors = {f"network.{k}": v.cpu().clone() for k, v in self.network_.state_dict().items()}
        if self.standardizer_ is not None:
            tensors["mean"] = torch.from_numpy(np.ascontiguousarray(self.standardizer_.mean_))
            tensors["scale"] = torch.from_numpy(np.ascontiguousarray(self.standardizer_.scale_))
        config = {
            "class": type(self).__name__,
            "params": params,
            "classes": self.classes_.tolist(),
            "sfreq": self.sfreq_,
            "ch_names": self.ch_names_,
            "n_chans": self.n_chans_,
            "n_times": self.n_times_,
            "history": self.history_,
            "neuroattn_version": provenance(self.seed, {})["neuroattn_version"],
        }
        with replacing(folder) as temporary:
            temporary.mkdir()
            save_file(tensors, temporary / "model.safetensors")
            write_json(temporary / "config.json", config)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Load a classifier that :meth:`save` wrote.

        Parameters
        ----------
        folder : str or Path

        Returns
        -------
        MotorImageryClassifier
        """
        folder = Path(folder)
        config = read_config(folder, [cls.__name__])
        with reading(f"{folder / 'model.safetensors'} cannot be read:"):
            tensors = load_file(folder / "model.safetensors")
        with reading(f"{folder} must hold a classifier that save wrote, got"):
            classifier = cls(**config["params"])
            classifier.classes_ = np.asarray(config["classes"])
            classifier.sfreq_, classifier.ch_names_ = config["sfreq"], config["ch_names"]
            classifier.n_chans_, classifier.n_times_ = config["n_chans"], config["n_times"]
            classifier.history_ = config["history"]
            classifier.standardizer_ = None
            if classifier.standardize is not None:
                classifier.standardizer_ = Standardizer(classifier.standardize)
                classifier.standardizer_.mean_ = tensors.pop("mean").numpy()
                classifier.standardizer_.scale_ = tensors.pop("scale").numpy()
            with torch.random.fork_rng():
                network = classifier._build()
            network.load_state_dict({k.removeprefix("network."): v for k, v in tensors.items()})
            classifier.network_ = network.to(classifier.device).eval()
        return classifier

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        return tags

    def check_network(self, n_chans: int, n_times: int, n_classes: int) -> None:
        """Refuse settings that no fit to such trials could use, without a fit.

        Parameters
        ----------
        n_chans, n_times, n_classes : int
            Of the trials; ``sfreq`` must be given.

        Raises
        ------
        ValueError
            If an argument or a network does not fit.
        """
        self._check_recipe()
        probe = clone(self)
        probe.sfreq_, probe.n_chans_, probe.n_times_ = self.sfreq, n_chans, n_times
        probe.classes_ = np.arange(n_classes)
        with torch.random.fork_rng():
            probe._build()

    def _check_recipe(self) -> None:
        check_range("n_epochs", self.n_epochs, 1)
        check_range("batch_size", self.batch_size, 2)
        if self.n_warmup is not None:
            check_range("n_warmup", self.n_warmup, 0, self.n_epochs - 1)
        check_range("lead_seconds", self.lead_seconds, 0)
        check_seed(self.seed)

    def _prepare(self, X: Any) -> NDArray[np.float32]:
        """Learn what trials tell without labels; return them standardised."""
        signals, ch_names, sfreq = _read(X)
        if sfreq is None:
            sfreq = self.sfreq
        elif self.sfreq is not None and self.sfreq != sfreq:
            raise ValueError(f"sfreq must be that of the epochs, {sfreq:g} Hz, or None, got {self.sfreq:g}")
        if sfreq is None:
            raise ValueError(
                "sfreq must be given for arrays, which do not know their sampling rate, got None"
            )
        check_signals("X", signals, _names(signals, ch_names))
        self._check_recipe()
        self.__dict__.pop("network_", None)  # an old network must not outlive a fit that fails
        self.sfreq_, self.ch_names_, self.n_times_ = float(sfreq), ch_names, signals.shape[2]
        self.n_chans_ = signals.shape[1]
        filtered = self._filter(signals)
        self.standardizer_ = (
            None if self.standardize is None else Standardizer(self.standardize).fit(filtered)
        )
        return self._scale(filtered)

    def _encode(self, labels: NDArray[Any], n_trials: int) -> NDArray[np.intp]:
        """Learn the classes; return that of each trial as a number."""
        check_shape("y", labels, n_trials)
        self.classes_ = check_labels("y", labels)
        return np.searchsorted(self.classes_, labels)

    def _filter(self, signals: NDArray[Any]) -> NDArray[Any]:
        """Filter trials (trial, channel, time) and take off the time that only the filter sees."""
        if self.band is not None:
            signals = BandPass(*self.band, self.sfreq_, causal=self.causal).fit_transform(signals)
        lead = round(self.lead_seconds * self.sfreq_)
        check_range("lead_seconds", lead / self.sfreq_, 0, (signals.shape[2] - 1) / self.sfreq_)
        return signals[:, :, lead:]

    def _scale(self, filtered: NDArray[Any]) -> NDArray[np.float32]:
        """Standardise filtered trials as in training."""
        scaled = filtered if self.standardizer_ is None else self.standardizer_.transform(filtered)
        return np.asarray(scaled, dtype=np.float32)

    def _probabilities(self, scaled: NDArray[np.float32]) -> NDArray[np.float64]:
        """Run the network on standardised trials."""
        parts = []
        with torch.inference_mode():
            for start in range(0, len(scaled), PREDICTED_TOGETHER):
                part = torch.from_numpy(scaled[start : start + PREDICTED_TOGETHER]).to(self.device)
                parts.append(self.network_(part).double().softmax(dim=1).cpu().numpy())
        return np.concatenate(parts) if parts else np.empty((0, len(self.classes_)))

    def _build(self) -> nn.Module:
        """Build the network for the trials that were seen."""
        n_times = self.n_times_ - round(self.lead_seconds * self.sfreq_)
        signal = {
            "n_chans": self.n_chans_,
            "n_outputs": len(self.classes_),
            "n_times": n_times,
            "sfreq": self.sfreq_,
        }
        # A module's weights would be shared between fits.
        attention = copy.deepcopy(self.attention) if isinstance(self.attention, nn.Module) else self.attention
        options = dict(self.attention_options or {})
        if self.model is None:
            lengths = {
                "filter_length": 2 * round((self.filter_seconds * self.sfreq_ - 1) / 2) + 1,
                "pool_length": max(1, round(self.pool_seconds * self.sfreq_)),
                "pool_stride": max(1, round(self.stride_seconds * self.sfreq_)),
            }
            return BaseNet(
                **signal,
                attention=attention,
                attention_options=options,
                **{**lengths, **(self.model_options or {})},
            )
        model = self.model
        if isinstance(model, str):
            import braindecode.models

            check_option("model", model, braindecode.models.__all__)
            model = getattr(braindecode.models, model)
        network = model(**signal, **(self.model_options or {}))
        return network if attention is None else insert_attention(network, attention, **options)

    def _rate_factor(self, epoch: int) -> float:
        n_warmup = self.n_epochs // 50 if self.n_warmup is None else self.n_warmup
        return warmup_cosine(epoch, n_warmup, self.n_epochs)

    def _train(self, network: nn.Module, scaled: NDArray[np.float32], codes: NDArray[np.intp]) -> list[float]:
        """Train in place; return the loss of each pass."""
        from braindecode import EEGClassifier
        from skorch.callbacks import LRScheduler

        collate = (
            {"iterator_train__collate_fn": _Recombine(self.seed, scaled.shape[2])} if self.augment else {}
        )
        net = EEGClassifier(
            network,
            criterion=nn.CrossEntropyLoss,
            optimizer=torch.optim.Adam,
            lr=self.learning_rate,
            max_epochs=self.n_epochs,
            batch_size=_whole_batches(len(scaled), self.batch_size),
            iterator_train__drop_last=False,
            iterator_train__shuffle=False,
            iterator_train__sampler=_Shuffled(len(scaled), self.seed),
            iterator_train__generator=torch.Generator(),  # dropout alone draws from the global one
            train_split=None,
            classes=list(range(len(self.classes_))),
            callbacks=[("rate", LRScheduler(torch.optim.lr_scheduler.LambdaLR, lr_lambda=self._rate_factor))],
            callbacks__print_log=None,
            device=self.device,
            verbose=0,
            **collate,
        )
        net.fit(scaled, codes.astype(np.int64))
        if len(net.history) < self.n_epochs:
            raise KeyboardInterrupt  # skorch takes the user's interruption for a stopping rule
        return check_converged([float(row["train_loss"]) for row in net.history])


class _Shuffled:
    """Go through the trials in another order in every pass."""

    def __init__(self, n_trials: int, seed: int) -> None:
        self.n_trials, self.orders = n_trials, trial_orders(n_trials, seed)

    def __len__(self) -> int:
        return self.n_trials

    def __iter__(self) -> Iterator[int]:
        return iter(next(self.orders).tolist())


class _Recombine:
    """Collate a batch and double it with recombined trials."""

    def __init__(self, seed: int, n_times: int) -> None:
        self.rng = np.random.default_rng(seed)
        # Eight segments as published, or seven, or the largest number that divides the trial.
        self.n_segments = next((n for n in range(8, 1, -1) if n_times % n == 0), 1)
        if self.n_segments == 1:
            raise ValueError(f"augment needs trials that divide into 2 to 8 segments, got {n_times} samples")

    def __call__(self, batch: list[Any]) -> tuple[Tensor, Tensor]:
        x, y = default_collate(batch)
        x, y = recombine_segments(x.numpy(), y.numpy(), self.rng, self.n_segments)
        return torch.from_numpy(x), torch.from_numpy(y)


def check_converged(losses: list[float]) -> list[float]:
    """Return the training losses; the last must be finite."""
    if not math.isfinite(losses[-1]):
        raise ValueError(f"training must converge, got a loss of {losses[-1]}; lower learning_rate")
    return losses


def _whole_batches(n_trials: int, batch_size: int) -> int:
    """Return the size nearest below ``batch_size`` that leaves no batch of one, which has no variance."""
    wanted = min(batch_size, n_trials)
    sizes: Sequence[int] = (*range(wanted, 1, -1), *range(wanted, n_trials + 1))
    return next(size for size in sizes if n_trials % size != 1)


def _read(X: Any) -> tuple[NDArray[Any], list[str] | None, float | None]:
    """Return signals in microvolt, and the channel names and sampling rate of Epochs."""
    if not hasattr(X, "event_id"):
        return check_trials(X), None, None
    picked = X.copy().load_data().pick("eeg", exclude="bads")
    return 1e6 * picked.get_data(copy=False), list(picked.ch_names), float(picked.info["sfreq"])


def _labels(X: Any, y: ArrayLike | None) -> NDArray[Any]:
    if y is not None:
        return np.asarray(y)
    if not hasattr(X, "event_id"):
        raise ValueError("y must be given for arrays, which have no events, got None")
    names = {code: name for name, code in X.event_id.items()}
    return np.asarray([names[code] for code in X.events[:, 2]])


def _names(signals: NDArray[Any], ch_names: Sequence[str] | None) -> Sequence[str]:
    return [str(i) for i in range(signals.shape[1])] if ch_names is None else ch_names


def _shown(ch_names: Sequence[str]) -> str:
    few = ", ".join(ch_names[:4])
    return f"{few}, ... ({len(ch_names)})" if len(ch_names) > 4 else few
