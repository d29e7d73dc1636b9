"""One attention decoder for several subjects: every subject has queries and a readout, all share how they read."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import pandas as pd
import torch
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset, Sampler, SequentialSampler

from neuroattn._backbones import Backbone
from neuroattn._checks import check_option, check_shape
from neuroattn.encoding.estimators import Encoder
from neuroattn.encoding.features import ChunkShuffleSampler, FeatureDataset, feature_shape, token_statistics
from neuroattn.encoding.network_encoders import BrainEncoder, Rois, _holdout, _standardise
from neuroattn.encoding.networks import AttentionNetwork
from neuroattn.encoding.training import train_network


class SharedBrainEncoder(Encoder):
    """Transformer brain encoders of several subjects that read images through one decoder.

    The decoder (projection of tokens, attention and feed-forward layers, norms, learned positions) is fitted to all
    subjects together; each subject has its own queries, mixtures of layers and readout. Subjects may have seen
    different images, as most images of the Natural Scenes Dataset were seen by one subject only, and may differ in
    regions and units. A decoder that many subjects have trained serves a subject with few images
    (:meth:`transfer`).

    Every batch holds images of one subject, subjects take turns, and the loss is the mean over subjects of their mean
    squared errors. Early stopping watches stimuli that no subject trains on. Features are standardised alike for all
    subjects. With one subject this is :class:`BrainEncoder`.

    Parameters
    ----------
    rois : mapping of str to DataArray (roi, unit) or to mapping of str to bool mask, optional
        Regions of each subject, as :class:`BrainEncoder` takes them; None: one region each.
    backbone : str or Backbone, optional
        Given, X holds images.
    readout, width, layers, encoder_layers, encoder_attention, heads, feedforward, dropout, norm, position
        As for :class:`BrainEncoder`.
    epochs, batch_size, lr, weight_decay, clip, patience, validation_fraction, seed, device
        As for :class:`BrainEncoder`. All subjects draw their queries from the same seed.

    Attributes
    ----------
    encoders_ : dict of str to BrainEncoder
        The fitted encoder of each subject. They hold one decoder, which fitting one of them again leaves alone.
    history_ : list of dict
        Losses by epoch.

    Notes
    -----
    Adeli et al. [1]_ train one network a subject; the shared decoder is ours.

    References
    ----------
    .. [1] Adeli, Sun & Kriegeskorte (2025). Transformer brain encoders explain human high-level visual responses.
       arXiv:2505.17329.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> X = {"subj01": rng.normal(size=(40, 8, 3, 3)).astype("f4"), "subj02": rng.normal(size=(30, 8, 3, 3))}
    >>> y = {"subj01": rng.normal(size=(40, 6)), "subj02": rng.normal(size=(30, 4))}
    >>> rois = {"subj01": {"V1": np.arange(6) < 4, "FFA": np.arange(6) > 2}, "subj02": {"V1": [True] * 4}}
    >>> encoder = SharedBrainEncoder(rois, epochs=1).fit(X, y)
    >>> encoder.predict(X["subj02"], subject="subj02").shape
    (30, 4)
    >>> dict(encoder.attention(X["subj01"][:2], subject="subj01").sizes)
    {'stimulus': 2, 'query': 2, 'y': 3, 'x': 3}
    """

    needs_tokens = True

    def __init__(
        self,
        rois: Mapping[str, Rois] | None = None,
        backbone: str | Backbone | None = None,
        *,
        readout: str = "roi",
        width: int | None = None,
        layers: int = 1,
        encoder_layers: int = 0,
        encoder_attention: str = "softmax",
        heads: int = 4,
        feedforward: int = 256,
        dropout: float = 0.1,
        norm: str = "pre",
        position: str = "sine",
        epochs: int = 30,
        batch_size: int = 32,
        lr: float = 4e-3,
        weight_decay: float = 0.05,
        clip: float = 1.0,
        patience: int = 10,
        validation_fraction: float = 0.1,
        seed: int = 0,
        device: str = "auto",
    ) -> None:
        self.rois = rois
        self.backbone = backbone
        self.readout = readout
        self.width = width
        self.layers = layers
        self.encoder_layers = encoder_layers
        self.encoder_attention = encoder_attention
        self.heads = heads
        self.feedforward = feedforward
        self.dropout = dropout
        self.norm = norm
        self.position = position
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.weight_decay = weight_decay
        self.clip = clip
        self.patience = patience
        self.validation_fraction = validation_fraction
        self.seed = seed
        self.device = device

    def fit(
        self,
        X: Mapping[str, Any],
        y: Mapping[str, Any],
        groups: Mapping[str, ArrayLike] | None = None,
        *,
        checkpoint: Path | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Self:
        """Fit the decoder, and the queries and readout of every subject.

        Parameters
        ----------
        X : mapping of str to array or FeatureStore, shape (stimulus, channel, y, x), or to images with a backbone
            Each subject's stimuli, as for :meth:`BrainEncoder.fit`, with channels and layers of the same backbone.
        y : mapping of str to array or Responses, shape (stimulus, unit)
        groups : mapping of str to array, shape (stimulus,), optional
            Identity of each subject's stimuli, the same for the same stimulus in all subjects. None takes the row
            for it: row i is then the same stimulus in all subjects, or they share no stimuli.
        checkpoint : Path, optional
            Folder for the state of training; an interrupted fit continues from it with the same result.
        progress : callable, optional
            Called with the number of finished epochs.

        Returns
        -------
        self

        Raises
        ------
        TypeError
            If X or another argument is no mapping of subjects.
        ValueError
            If arguments name different subjects, if their features differ in channels or layers, or if a subject
            is left without stimuli to train on or to watch.
        """
        subjects = _check_subjects("X", X)
        for name, value in {"y": y, "groups": groups, "rois": self.rois}.items():
            if value is not None or name == "y":
                _check_subjects(name, value, subjects)
        encoders = {s: self._encoder(None if self.rois is None else self.rois[s]) for s in subjects}
        self.history_ = _fit_together(encoders, X, y, groups, checkpoint=checkpoint, progress=progress)
        self.encoders_ = encoders
        return self

    def transfer(
        self,
        X: Any,
        y: Any,
        *,
        subject: str,
        rois: Rois = None,
        groups: ArrayLike | None = None,
        checkpoint: Path | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Self:
        """Add a subject: fit its queries and readout, and leave the decoder as it is.

        Queries of regions that other subjects have too, by name and hemisphere, start at the mean of theirs, others
        at random. Options of training are those of the encoder; :meth:`set_params` may change them before.

        Parameters
        ----------
        X : array or FeatureStore, shape (stimulus, channel, y, x), or images with a backbone
        y : array or Responses, shape (stimulus, unit)
        subject : str
            Name of the new subject.
        rois : DataArray (roi, unit) or mapping of str to bool mask, optional
        groups : array, shape (stimulus,), optional
            Stimulus identity, for early stopping.
        checkpoint, progress
            As for :meth:`fit`.

        Returns
        -------
        self
            Predictions for all other subjects are as before.

        Raises
        ------
        ValueError
            If there is a subject of this name, or the features do not fit the decoder.

        Examples
        --------
        >>> rng = np.random.default_rng(0)
        >>> X, y = rng.normal(size=(40, 8, 3, 3)).astype("f4"), rng.normal(size=(40, 6))
        >>> encoder = SharedBrainEncoder(epochs=1).fit({"subj01": X}, {"subj01": y})
        >>> encoder.transfer(X[:10], y[:10, :2], subject="new").predict(X, subject="new").shape
        (40, 2)
        """
        check_is_fitted(self)
        if subject in self.encoders_:
            raise ValueError(
                f"subject must be a new name, got {subject!r} of {', '.join(map(repr, self.encoders_))}"
            )
        encoder = self._encoder(rois)
        _fit_together(
            {subject: encoder},
            {subject: X},
            {subject: y},
            None if groups is None else {subject: groups},
            known=list(self.encoders_.values()),
            checkpoint=checkpoint,
            progress=progress,
        )
        self.encoders_ = {**self.encoders_, subject: encoder}
        return self

    def predict(self, X: Any, *, subject: str) -> NDArray[np.float32]:
        """Predict the responses of a subject.

        Parameters
        ----------
        X : array or FeatureStore, shape (stimulus, channel, y, x), or images with a backbone
        subject : str

        Returns
        -------
        array, shape (stimulus, unit)
        """
        return self._encoder_of(subject).predict(X)

    def score(self, X: Any, y: Any, sample_weight: None = None, *, subject: str | None = None) -> float:
        """Return the mean Pearson correlation over units (not R^2).

        Parameters
        ----------
        X : array, shape (stimulus, channel, y, x), or mapping of subjects to such
        y : array, shape (stimulus, unit), or mapping of subjects to such
        sample_weight : None
            Not supported.
        subject : str, optional
            None: X and y are mappings as for :meth:`fit`, and the score is the mean over their subjects.

        Returns
        -------
        float
            NaN units (constant responses or predictions) are left out.
        """
        if subject is not None:
            return self._encoder_of(subject).score(X, y, sample_weight)
        _check_subjects("y", y, _check_subjects("X", X))
        return float(np.mean([self._encoder_of(s).score(X[s], y[s], sample_weight) for s in X]))

    def attention(self, X: Any, *, subject: str, per_head: bool = False) -> xr.DataArray:
        """Return where each query of a subject looks.

        Parameters
        ----------
        X : array or FeatureStore, shape (stimulus, channel, y, x), or images with a backbone
        subject : str
        per_head : bool, default False
            One map a head instead of their mean.

        Returns
        -------
        DataArray, dims (stimulus, query, [head,] y, x)
            As of :meth:`BrainEncoder.attention`.
        """
        return self._encoder_of(subject).attention(X, per_head=per_head)

    def _encoder(self, rois: Rois) -> BrainEncoder:
        """Return a new encoder of one subject."""
        return BrainEncoder(**{**self.get_params(deep=False), "rois": rois})

    def _encoder_of(self, subject: str) -> BrainEncoder:
        """Return the fitted encoder of a subject."""
        check_is_fitted(self)
        return self.encoders_[check_option("subject", subject, self.encoders_)]

    def _fitted_state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        tensors: dict[str, NDArray[Any]] = {}
        described = []
        for i, (subject, encoder) in enumerate(self.encoders_.items()):
            own, config = encoder._fitted_state()
            tensors |= {f"{i}.{name}": value for name, value in own.items() if i == 0 or not _is_shared(name)}
            described.append({"subject": subject, **config})
        return tensors, {"subjects": described}

    def _restore(self, tensors: dict[str, NDArray[Any]], config: dict[str, Any]) -> None:
        states: list[dict[str, NDArray[Any]]] = [{} for _ in config["subjects"]]
        for key, value in tensors.items():
            i, _, name = key.partition(".")
            states[int(i)][name] = value
        shared = {name: value for name, value in states[0].items() if _is_shared(name)}
        encoders = {}
        for state, described in zip(states, config["subjects"], strict=True):
            encoder = self._encoder(None)
            encoder._restore(shared | state, described)
            encoders[described["subject"]] = encoder
        _tie(list(encoders.values()))
        self.encoders_ = encoders
        self.rois = {subject: encoder.rois for subject, encoder in encoders.items()}


class SharedNetwork(nn.Module):
    """Networks of several subjects that hold one decoder, called with batches of one subject each.

    Parameters
    ----------
    networks : sequence of AttentionNetwork
        Of the same channels and options.

    Examples
    --------
    >>> network = SharedNetwork([AttentionNetwork(8, 5), AttentionNetwork(8, 3)])
    >>> network(torch.zeros(2, 8, 3, 3), subject=torch.tensor([1, 1])).shape
    torch.Size([2, 3])
    """

    def __init__(self, networks: Sequence[AttentionNetwork]) -> None:
        super().__init__()
        for network in networks[1:]:
            network.share_decoder(networks[0])
        self.networks = nn.ModuleList(networks)

    def forward(self, features: Tensor, subject: Tensor) -> Tensor:
        """Predict responses (batch, unit) of the subject whose number fills ``subject`` (batch,)."""
        responses: Tensor = self.networks[int(subject[0])](features)
        return responses


class SubjectBatches(Sampler[tuple[int, list[int]]]):
    """Batches of one subject each, spread evenly over the epoch.

    Parameters
    ----------
    orders : sequence of ChunkShuffleSampler or SequentialSampler
        Of each subject's items.
    batch_size : int

    Examples
    --------
    >>> list(SubjectBatches([SequentialSampler(range(5)), SequentialSampler(range(2))], batch_size=2))
    [(0, [0, 1]), (0, [2, 3]), (1, [0, 1]), (0, [4])]
    """

    def __init__(self, orders: Sequence[ChunkShuffleSampler | SequentialSampler], batch_size: int) -> None:
        self.orders, self.batch_size = orders, batch_size

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch, counted from 0."""
        for order in self.orders:
            if isinstance(order, ChunkShuffleSampler):
                order.set_epoch(epoch)

    def __len__(self) -> int:
        return sum(-(-len(order) // self.batch_size) for order in self.orders)

    def __iter__(self) -> Iterator[tuple[int, list[int]]]:
        timed = []
        for subject, order in enumerate(self.orders):
            items = list(order)
            starts = range(0, len(items), self.batch_size)
            for k, start in enumerate(starts):
                batch = items[start : start + self.batch_size]
                timed.append(((k + 0.5) / len(starts), subject, batch))
        yield from ((subject, batch) for _, subject, batch in sorted(timed))


class SubjectDataset(Dataset[Any]):
    """Batches of several subjects' data sets, by the indices of :class:`SubjectBatches`.

    A batch comes with the subject's number and the weight that makes the sum over all images the mean over subjects.

    Parameters
    ----------
    parts : sequence of FeatureDataset

    Examples
    --------
    >>> parts = [FeatureDataset(np.zeros((n, 4, 2, 2)), np.arange(n), np.zeros((n, 3))) for n in (30, 10)]
    >>> batch, (y, weight) = SubjectDataset(parts)[1, [0, 4]]
    >>> batch["subject"], tuple(y.shape), weight
    (tensor([1, 1]), (2, 3), tensor(2.))
    """

    def __init__(self, parts: Sequence[FeatureDataset]) -> None:
        self.parts = parts

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)

    def __getitem__(self, index: tuple[int, list[int]]) -> tuple[dict[str, Tensor], tuple[Tensor, Tensor]]:
        subject, items = index
        part = self.parts[subject]
        features, responses = part.__getitems__(items)
        weight = torch.tensor(len(self) / (len(self.parts) * len(part)))
        return {"features": features, "subject": torch.full((len(items),), subject)}, (responses, weight)


class WeightedError(nn.Module):
    """Mean squared error of a batch times its weight.

    Examples
    --------
    >>> WeightedError()(torch.ones(2, 3), (torch.zeros(2, 3), torch.tensor(2.0)))
    tensor(2.)
    """

    def forward(self, predicted: Tensor, target: tuple[Tensor, Tensor]) -> Tensor:
        """Return the loss of responses (batch, unit) and their weight."""
        responses, weight = target
        return weight * F.mse_loss(predicted, responses)


def _fit_together(
    encoders: Mapping[str, BrainEncoder],
    X: Mapping[str, Any],
    y: Mapping[str, Any],
    groups: Mapping[str, ArrayLike] | None,
    *,
    known: Sequence[BrainEncoder] = (),
    checkpoint: Path | None,
    progress: Callable[[int], None] | None,
) -> list[dict[str, Any]]:
    """Fit encoders with one decoder, which is not trained where ``known`` encoders bring it; return the history."""
    first = next(iter(encoders.values()))
    reference = known[0] if known else None
    features, networks = {}, []
    for subject, encoder in encoders.items():
        found = encoder._features(X[subject])
        features[subject] = found if reference is None else reference._matching(found)
        networks.append(cast(AttentionNetwork, encoder._start(features[subject], y[subject])))
        reference = reference or encoder
    counts = {subject: feature_shape(x)[0] for subject, x in features.items()}
    folds = shared_holdout(counts, first.validation_fraction, first.seed, groups)
    network = SharedNetwork(networks)
    if known:
        # A copy, since training moves and switches what it holds.
        decoder = copy.deepcopy(_network_of(known[0])).requires_grad_(False)
        networks[0].share_decoder(decoder)
        _start_at_known(first, networks[0], known)
    else:
        _standardise(networks[0], *_pooled_statistics([(features[s], folds[s][0]) for s in encoders]))
    pairs = [e._datasets(features[s], y[s], *folds[s]) for s, e in encoders.items()]
    train, valid = ([pair[i] for pair in pairs] for i in (0, 1))
    history = train_network(
        network,
        SubjectDataset(train),
        SubjectDataset(valid),
        sampler=SubjectBatches([ChunkShuffleSampler(d, seed=first.seed) for d in train], first.batch_size),
        valid_sampler=SubjectBatches([SequentialSampler(d) for d in valid], first.batch_size),
        batch_size=None,
        criterion=WeightedError,
        **first._training(checkpoint, progress),
    )
    for (subject, encoder), own in zip(encoders.items(), networks, strict=True):
        encoder._finish(own, history, features[subject], y[subject], folds[subject][1])
    _tie([*known, *encoders.values()])
    return history


def shared_holdout(
    counts: Mapping[str, int], fraction: float, seed: int, groups: Mapping[str, ArrayLike] | None
) -> dict[str, tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Return each subject's rows to train on and to watch: no subject trains on a stimulus that any subject watches.

    Parameters
    ----------
    counts : mapping of str to int
        Number of stimuli of each subject.
    fraction : float
        Share of the different stimuli to watch.
    seed : int
    groups : mapping of str to array, shape (stimulus,), or None
        Stimulus identities; None: the row.

    Examples
    --------
    >>> groups = {"a": ["cat", "dog", "sun"], "b": ["dog", "cat", "fog"]}
    >>> shared_holdout({"a": 3, "b": 3}, 0.5, 0, groups)
    {'a': (array([1, 2]), array([0])), 'b': (array([0]), array([1, 2]))}
    """
    ids = []
    for subject, n in counts.items():
        own = np.arange(n) if groups is None else np.asarray(groups[subject])
        check_shape(f"groups[{subject!r}]", own, n)
        ids.append(own)
    total = sum(counts.values())
    watched = np.zeros(total, bool)
    watched[_holdout(total, fraction, seed, np.concatenate(ids))[1]] = True
    folds = {}
    parts = np.split(watched, np.cumsum(list(counts.values()))[:-1])
    for subject, part in zip(counts, parts, strict=True):
        if part.all() or not part.any():
            raise ValueError(
                f"validation_fraction must leave every subject stimuli to train on and to watch, got {fraction}, "
                f"which has {subject!r} watch {part.sum()} of {len(part)}"
            )
        folds[subject] = np.flatnonzero(~part), np.flatnonzero(part)
    return folds


def _pooled_statistics(
    parts: Sequence[tuple[Any, NDArray[np.intp]]],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and standard deviation of each channel over the rows of several features."""
    means, stds = (np.stack(s) for s in zip(*(token_statistics(x, rows) for x, rows in parts), strict=True))
    tokens = np.array([len(rows) * np.prod(feature_shape(x)[-2:]) for x, rows in parts])
    share = (tokens / tokens.sum()).reshape(-1, *[1] * (means.ndim - 1))
    mean = (share * means).sum(0)
    return mean, np.sqrt((share * (stds**2 + (means - mean) ** 2)).sum(0))


def _start_at_known(encoder: BrainEncoder, network: AttentionNetwork, known: Sequence[BrainEncoder]) -> None:
    """Set queries and layer mixtures to the mean of those of the same region and hemisphere in other subjects."""
    others = [_network_of(other) for other in known]
    label = ["roi", "hemisphere"]
    labels = pd.concat([other.queries_ for other in known], ignore_index=True)
    places = {here: torch.from_numpy(rows) for here, rows in labels.groupby(label).indices.items()}
    starts = [(network.queries, torch.cat([other.queries for other in others]))]
    if network.mix is not None:
        logits = torch.cat([other.mix.logits for other in others if other.mix is not None])
        starts.append((network.mix.logits, logits))
    with torch.no_grad():
        for i, here in enumerate(encoder.queries_[label].itertuples(index=False, name=None)):
            if here in places:
                for own, theirs in starts:
                    own[i] = theirs[places[here]].mean(0)


def _tie(encoders: Sequence[BrainEncoder]) -> None:
    """Let encoders with equal decoders hold one."""
    for encoder in encoders[1:]:
        _network_of(encoder).share_decoder(_network_of(encoders[0]))


def _network_of(encoder: BrainEncoder) -> AttentionNetwork:
    return cast(AttentionNetwork, encoder.network_)


def _is_shared(name: str) -> bool:
    """Return whether a stored tensor of an encoder belongs to the decoder."""
    part, _, rest = name.partition(".")
    return part == "network" and rest.split(".")[0] not in AttentionNetwork.OWN


def _check_subjects(name: str, value: Any, subjects: Sequence[str] | None = None) -> list[str]:
    """Return the subjects of a mapping, which must be those given."""
    if not isinstance(value, Mapping):
        raise TypeError(
            f"{name} must be a mapping of subjects such as {{'subj01': ...}}, got {type(value).__name__}"
        )
    if not value:
        raise ValueError(f"{name} must name at least one subject, got none")
    if subjects is not None and set(value) != set(subjects):
        raise ValueError(f"{name} must name the subjects of X, {list(subjects)}, got {list(value)}")
    return list(value)
