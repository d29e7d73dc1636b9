"""Encoders that are trained by gradient descent, behind the same face as ridge regression."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd
import torch
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import check_is_fitted
from torch.utils.data import DataLoader

from neuroattn._backbones import Backbone
from neuroattn._checks import check_option, check_range, check_shape
from neuroattn.encoding.estimators import Encoder
from neuroattn.encoding.features import (
    ChunkShuffleSampler,
    FeatureDataset,
    collate,
    feature_shape,
    token_statistics,
)
from neuroattn.encoding.networks import (
    AttentionNetwork,
    ConvolutionNetwork,
    EncoderNetwork,
    FactorizedNetwork,
    GaussianNetwork,
    MapNetwork,
    ProbeNetwork,
)
from neuroattn.encoding.training import train_network
from neuroattn.metrics import pearson_r
from neuroattn.results import label_rois, provenance

Rois = xr.DataArray | Mapping[str, ArrayLike] | None


class NetworkEncoder(Encoder):
    """Base of encoders that are networks: training, prediction, storing.

    Attributes
    ----------
    network_ : EncoderNetwork
    history_ : list of dict
        Losses by epoch.
    validation_correlation_ : array, shape (unit,)
        Pearson correlation over the stimuli that early stopping watched, with the weights it kept; NaN where
        responses or predictions are constant. Weights of an ensemble may depend on it, reported accuracy may not.
    feature_layers_ : list of str or None
        Names of the layers where X was a mapping.

    Examples
    --------
    >>> X, y = np.zeros((20, 4, 2, 2), "f4"), np.random.default_rng(0).normal(size=(20, 3))
    >>> encoder = ProbeEncoder(epochs=2, seed=1).fit(X, y)
    >>> isinstance(encoder, NetworkEncoder), len(encoder.history_)
    (True, 2)
    """

    needs_tokens = True
    mixes_layers: ClassVar[bool] = False
    rois: Rois
    epochs: int
    batch_size: int
    lr: float
    weight_decay: float
    patience: int
    clip: float
    validation_fraction: float
    seed: int
    device: str

    def fit(
        self,
        X: Any,
        y: Any,
        groups: ArrayLike | None = None,
        *,
        checkpoint: Path | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Self:
        """Fit.

        Parameters
        ----------
        X : array or FeatureStore, shape (stimulus, channel, y, x), or images with a backbone
            For :class:`BrainEncoder` also a mapping of layer name to features of equal shape.
        y : array or Responses, shape (stimulus, unit)
        groups : array, shape (stimulus,), optional
            Stimulus identity: early stopping watches stimuli that training does not see.
        checkpoint : Path, optional
            Folder for the state of training; an interrupted fit continues from it with the same result.
        progress : callable, optional
            Called with the number of finished epochs.

        Returns
        -------
        self
        """
        features = self._features(X)
        network = self._start(features, y)
        train, valid = _holdout(feature_shape(features)[0], self.validation_fraction, self.seed, groups)
        _standardise(network, *token_statistics(features, train))
        train_set, valid_set = self._datasets(features, y, train, valid)
        history = train_network(
            network,
            train_set,
            valid_set,
            sampler=ChunkShuffleSampler(train_set, seed=self.seed),
            batch_size=self.batch_size,
            **self._training(checkpoint, progress),
        )
        self._finish(network, history, features, y, valid)
        return self

    def build_network(
        self,
        n_channels: int,
        grid: tuple[int, int],
        n_units: int,
        feature_layers: Sequence[str] | None = None,
    ) -> EncoderNetwork:
        """Build the untrained network, which checks its options before any long work.

        Parameters
        ----------
        n_channels : int
        grid : tuple of int, (y, x)
        n_units : int
        feature_layers : sequence of str, optional
            Names of the layers where X is to be a mapping.

        Returns
        -------
        EncoderNetwork

        Raises
        ------
        ValueError
            If an option is unknown or does not fit the shapes.
        """
        check_range("epochs", self.epochs, 1)
        check_range("batch_size", self.batch_size, 1)
        check_range("validation_fraction", self.validation_fraction, 0, 1)
        self.grid_, self.n_channels_, self.n_units_ = grid, n_channels, n_units
        self.feature_layers_ = None if feature_layers is None else list(feature_layers)
        return self._new_network()

    def predict(self, X: Any) -> NDArray[np.float32]:
        """Predict responses.

        Parameters
        ----------
        X : array or FeatureStore, shape (stimulus, channel, y, x), or images with a backbone

        Returns
        -------
        array, shape (stimulus, unit)
        """
        features = self._fitted_features(X)
        standard = self._run(features, None, lambda network, batch: network(batch))
        standard *= self.target_scale_  # in place, since predictions of many stimuli are large
        standard += self.target_mean_
        return standard

    def _start(self, features: Any, y: Any) -> EncoderNetwork:
        """Check features and responses and return the untrained network."""
        n, n_channels, height, width = self._check_tokens(features)
        n_units = check_shape("y", y, n, "unit")[1]
        layers = list(features) if isinstance(features, Mapping) else None
        return self.build_network(n_channels, (height, width), n_units, layers)

    def _datasets(
        self, features: Any, y: Any, train: NDArray[np.intp], valid: NDArray[np.intp]
    ) -> tuple[FeatureDataset, FeatureDataset]:
        """Return the rows to train on and to watch, with responses standardised by the former."""
        mean, scale = self.target_mean_, self.target_scale_ = _target_statistics(y, train)
        return (
            FeatureDataset(features, train, y, target_mean=mean, target_scale=scale),
            FeatureDataset(features, valid, y, target_mean=mean, target_scale=scale),
        )

    def _training(self, checkpoint: Path | None, progress: Callable[[int], None] | None) -> dict[str, Any]:
        """Return the options of :func:`train_network` that parameters decide."""
        return {
            "collate": collate,
            "epochs": self.epochs,
            "lr": self.lr,
            "weight_decay": self.weight_decay,
            "patience": self.patience,
            "clip": self.clip,
            "seed": self.seed,
            "device": resolve_device(self.device),
            "checkpoint": checkpoint,
            "progress": progress,
        }

    def _finish(
        self,
        network: EncoderNetwork,
        history: list[dict[str, Any]],
        features: Any,
        y: Any,
        valid: NDArray[np.intp],
    ) -> None:
        """Keep the trained network and what it makes of the rows that were watched."""
        self.network_, self.history_ = network.cpu().eval(), history
        predicted = self._run(features, valid, lambda network, batch: network(batch))
        self.validation_correlation_ = pearson_r(y[valid], predicted)

    def _run(
        self,
        features: Any,
        rows: NDArray[np.intp] | None,
        call: Callable[[EncoderNetwork, torch.Tensor], torch.Tensor],
    ) -> NDArray[np.float32]:
        """Call the network on batches of rows (None: all) in evaluation mode and join the results."""
        device = resolve_device(self.device)
        network = self.network_.to(device)
        if rows is None:
            rows = np.arange(feature_shape(features)[0])
        loader: DataLoader[Any] = DataLoader(
            FeatureDataset(features, rows),
            batch_size=self.batch_size,
            collate_fn=collate,
            generator=torch.Generator(),  # a loader draws a seed, which must not come from the global state
        )
        joined = np.empty(0, np.float32)
        done = 0
        with torch.no_grad():
            for batch, _ in loader:
                result = call(network, batch.to(device)).cpu().numpy()
                if not done:
                    joined = np.empty((len(rows), *result.shape[1:]), np.float32)
                joined[done : done + len(result)] = result
                done += len(result)
        self.network_.cpu()
        return joined

    def _check_tokens(self, features: Any) -> tuple[int, int, int, int]:
        """Return the numbers of stimuli, channels, rows and columns."""
        name = type(self).__name__
        mapped = isinstance(features, Mapping)
        if mapped and not self.mixes_layers:
            raise ValueError(
                f"{name} needs features of one layer, got a mapping of {len(features)}; BrainEncoder mixes layers"
            )
        shape = feature_shape(features)
        if len(shape) != 4 + mapped:
            raise ValueError(
                f"{name} needs features of shape (stimulus, channel, y, x), got {shape}; "
                "features without spatial tokens fit RidgeEncoder"
            )
        return shape[0], shape[-3], shape[-2], shape[-1]

    def _fitted_features(self, X: Any) -> Any:
        """Return the features of X, which must fit the network."""
        check_is_fitted(self)
        return self._matching(self._features(X))

    def _matching(self, features: Any) -> Any:
        """Return features whose channels and layers are those of the network, layers in its order."""
        n_channels = self._check_tokens(features)[1]
        if n_channels != self.n_channels_:
            raise ValueError(f"X must have {self.n_channels_} channels as in fit, got {n_channels}")
        given = list(features) if isinstance(features, Mapping) else None
        if self.feature_layers_ is None and given is None:
            return features
        if self.feature_layers_ is None or given is None or set(given) != set(self.feature_layers_):
            raise ValueError(f"X must have the layers {self.feature_layers_} as in fit, got {given}")
        return {name: features[name] for name in self.feature_layers_}

    def _new_network(self) -> EncoderNetwork:
        """Build the untrained network from the parameters and the shapes seen in ``fit``."""
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            return self._build()

    def _build(self) -> EncoderNetwork:
        raise NotImplementedError(f"{type(self).__name__} must define _build")

    def _membership(self) -> xr.DataArray:
        """Return the labelled regions, one region of all units where none were given."""
        if self.rois is None:
            return label_rois({"all": np.ones(self.n_units_, dtype=bool)})
        rois = self.rois if isinstance(self.rois, xr.DataArray) else label_rois(self.rois)
        check_shape("rois", rois, "roi", self.n_units_)
        return rois

    def _fitted_state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        tensors = {f"network.{k}": v.numpy() for k, v in self.network_.state_dict().items()}
        tensors |= {"target_mean": self.target_mean_, "target_scale": self.target_scale_}
        tensors["validation_correlation"] = self.validation_correlation_
        shapes = {"grid": list(self.grid_), "n_channels": self.n_channels_, "n_units": self.n_units_}
        shapes["feature_layers"] = self.feature_layers_
        rois = self._membership()
        tensors["rois"] = rois.values
        labels = {name: {"dims": c.dims, "values": c.values.tolist()} for name, c in rois.coords.items()}
        return tensors, {"shapes": shapes, "rois": labels}

    def _restore(self, tensors: dict[str, NDArray[Any]], config: dict[str, Any]) -> None:
        labels, shapes = config["rois"], config["shapes"]
        coords = {name: (c["dims"], c["values"]) for name, c in labels.items()}
        self.rois = xr.DataArray(tensors.pop("rois"), dims=("roi", "unit"), coords=coords, name="membership")
        self.grid_ = (shapes["grid"][0], shapes["grid"][1])
        self.n_channels_, self.n_units_ = shapes["n_channels"], shapes["n_units"]
        self.feature_layers_ = shapes["feature_layers"]
        self.target_mean_, self.target_scale_ = tensors.pop("target_mean"), tensors.pop("target_scale")
        self.validation_correlation_ = tensors.pop("validation_correlation")
        self.network_ = self._new_network()
        self.network_.load_state_dict(
            {k.removeprefix("network."): torch.from_numpy(v) for k, v in tensors.items()}
        )
        self.network_.eval()


class BrainEncoder(NetworkEncoder):
    """Transformer brain encoder: every region asks the image its own question [1]_.

    A learned query a region (and hemisphere) attends to the tokens of a frozen backbone; a linear readout maps what
    it finds to the region's units. Units of several regions get the sum over their regions.

    Differs from the paper: widths, training and regularisation are set for data sets of hundreds of images rather
    than ten thousand, features are standardised by channel and responses by unit, the learning rate follows a warm-up
    and cosine, there is no dropout on attention weights, regions without units have no query, and units in no region
    read a query "rest" of their own as there.

    The paper's recipe as far as it goes here: ``heads=16, feedforward=1024, lr=5e-4, weight_decay=1e-4, clip=0.1,
    epochs=15, batch_size=32``. It differs in that the paper halves the learning rate every three epochs without
    warm-up, sums the losses of the hemispheres instead of averaging over all units, and keeps the epoch with the best
    correlation rather than the smallest loss.

    Where X is a mapping of layer name to features of equal shape, every query learns its own mixture of the layers.

    Parameters
    ----------
    rois : DataArray (roi, unit) or mapping of str to bool mask, optional
        From :func:`neuroattn.results.label_rois`; None: one region.
    backbone : str or Backbone, optional
        Given, X is images.
    readout : {"roi", "hemisphere", "unit"}
        One query a region and hemisphere, a hemisphere, or a unit.
    width : int, optional
        Channels inside; default those of the features, without a projection.
    layers, heads, feedforward : int
        Decoder layers, attention heads, and hidden units of the feed-forward blocks.
    encoder_layers : int, default 0
        Layers of self-attention between tokens before the queries read them.
    encoder_attention : str, default "softmax"
        Attention of these layers: a name in :data:`neuroattn.attention.ATTENTIONS`, such as "manar".
    dropout : float
    norm : {"pre", "post"}
    position : {"sine", "learned", "none"}
    epochs, batch_size : int
    lr, weight_decay, clip : float
        Highest learning rate and decay of AdamW, and the norm to which gradients are cut.
    patience : int
        Epochs without a better validation loss before training stops.
    validation_fraction : float
        Share of the stimuli that early stopping watches.
    seed : int
    device : str, default "auto"

    Attributes
    ----------
    network_ : AttentionNetwork
    queries_ : DataFrame
        ``roi`` and ``hemisphere`` of each query.
    history_, validation_correlation_, feature_layers_
        As for :class:`NetworkEncoder`.

    References
    ----------
    .. [1] Adeli, Sun & Kriegeskorte (2025). Transformer brain encoders explain human high-level visual responses.
       arXiv:2505.17329.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> X, y = rng.normal(size=(40, 8, 3, 5)).astype("f4"), rng.normal(size=(40, 6)).astype("f4")
    >>> encoder = BrainEncoder({"V1": np.arange(6) < 4, "FFA": np.arange(6) > 2}, epochs=1, heads=2).fit(X, y)
    >>> encoder.predict(X).shape
    (40, 6)
    >>> dict(encoder.attention(X[:2]).sizes)
    {'stimulus': 2, 'query': 2, 'y': 3, 'x': 5}
    """

    READOUTS: ClassVar[tuple[str, ...]] = ("roi", "hemisphere", "unit")
    mixes_layers = True

    def __init__(
        self,
        rois: Rois = None,
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

    def _build(self) -> EncoderNetwork:
        masks, self.queries_ = query_masks(self._membership(), self.readout)
        return AttentionNetwork(
            self.n_channels_,
            self.n_units_,
            masks,
            n_left=n_left_units(self._membership()),
            n_feature_layers=None if self.feature_layers_ is None else len(self.feature_layers_),
            width=self.width,
            heads=self.heads,
            layers=self.layers,
            encoder_layers=self.encoder_layers,
            encoder_attention=self.encoder_attention,
            feedforward=self.feedforward,
            dropout=self.dropout,
            norm=self.norm,
            position=self.position,
        )

    def attention(self, X: Any, *, per_head: bool = False) -> xr.DataArray:
        """Return where each query looks.

        Parameters
        ----------
        X : array or FeatureStore, shape (stimulus, channel, y, x), or images with a backbone
        per_head : bool, default False
            One map a head instead of their mean.

        Returns
        -------
        DataArray, dims (stimulus, query, [head,] y, x)
            Weights of the last layer, which sum to one over y and x; coordinates ``roi`` and ``hemisphere`` along
            ``query``. A map explains routing, not the features that are read.
        """

        def weights(network: EncoderNetwork, features: torch.Tensor) -> torch.Tensor:
            attention: torch.Tensor = network(features, return_attention=True).attention
            return attention if per_head else attention.mean(2)

        maps = self._run(self._fitted_features(X), None, weights)
        maps = maps.reshape(*maps.shape[:-1], *self.grid_)
        heads = ("head",) if per_head else ()
        return xr.DataArray(
            maps,
            dims=("stimulus", "query", *heads, "y", "x"),
            coords={name: ("query", self.queries_[name].to_numpy(str)) for name in ("roi", "hemisphere")},
            name="attention",
            attrs={"units": "share of attention", **provenance(self.seed, {"class": type(self).__name__})},
        )

    def layer_weights(self) -> xr.DataArray:
        """Return how much of each layer every query reads, where X was a mapping of layers.

        Returns
        -------
        DataArray, dims (query, layer)
            Weights that sum to one over layers; coordinates ``roi`` and ``hemisphere`` along ``query``. They weigh
            features that are standardised by channel and layer.

        Examples
        --------
        >>> rng = np.random.default_rng(0)
        >>> X = {name: rng.normal(size=(40, 8, 3, 5)).astype("f4") for name in ("block.3", "block.7")}
        >>> encoder = BrainEncoder(epochs=1).fit(X, rng.normal(size=(40, 6)).astype("f4"))
        >>> dict(encoder.layer_weights().sizes)
        {'query': 1, 'layer': 2}
        """
        check_is_fitted(self)
        network = self.network_
        if self.feature_layers_ is None or not isinstance(network, AttentionNetwork) or network.mix is None:
            raise ValueError("X must be a mapping of layers in fit to have layer weights, got one layer")
        return xr.DataArray(
            network.mix.weights.detach().numpy(),
            dims=("query", "layer"),
            coords={
                "layer": self.feature_layers_,
                **{name: ("query", self.queries_[name].to_numpy(str)) for name in ("roi", "hemisphere")},
            },
            name="layer_weight",
            attrs={"units": "share of features", **provenance(self.seed, {"class": type(self).__name__})},
        )


class FactorizedEncoder(NetworkEncoder):
    """A fixed spatial map times features [1]_: the control that cannot look elsewhere on another image.

    Parameters
    ----------
    rois : DataArray (roi, unit) or mapping of str to bool mask, optional
    backbone : str or Backbone, optional
    spatial_map : {"unit", "roi"}
        One map a unit, as a receptive field, or one a region and hemisphere.
    epochs, batch_size, lr, weight_decay, clip, patience, validation_fraction, seed, device
        As for :class:`BrainEncoder`.

    References
    ----------
    .. [1] Klindt, Ecker, Euler & Bethge (2017). Neural system identification for large populations separating
       "what" and "where". NeurIPS.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> X, y = rng.normal(size=(40, 8, 3, 5)).astype("f4"), rng.normal(size=(40, 6)).astype("f4")
    >>> dict(FactorizedEncoder(epochs=1).fit(X, y).spatial_maps().sizes)
    {'query': 6, 'y': 3, 'x': 5}
    """

    _network_class: ClassVar[type[MapNetwork]] = FactorizedNetwork

    def __init__(
        self,
        rois: Rois = None,
        backbone: str | Backbone | None = None,
        *,
        spatial_map: str = "unit",
        epochs: int = 30,
        batch_size: int = 32,
        lr: float = 2e-2,
        weight_decay: float = 0.05,
        clip: float = 1.0,
        patience: int = 10,
        validation_fraction: float = 0.1,
        seed: int = 0,
        device: str = "auto",
    ) -> None:
        self.rois = rois
        self.backbone = backbone
        self.spatial_map = spatial_map
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.weight_decay = weight_decay
        self.clip = clip
        self.patience = patience
        self.validation_fraction = validation_fraction
        self.seed = seed
        self.device = device

    def _build(self) -> EncoderNetwork:
        check_option("spatial_map", self.spatial_map, ("unit", "roi"))
        masks, self.queries_ = query_masks(self._membership(), self.spatial_map)
        n_left = n_left_units(self._membership())
        return self._network_class(self.n_channels_, self.grid_, self.n_units_, masks, n_left=n_left)

    def spatial_maps(self) -> xr.DataArray:
        """Return the fitted maps.

        Returns
        -------
        DataArray, dims (query, y, x)
            Weights that sum to one over y and x.
        """
        check_is_fitted(self)
        network = self.network_
        if not isinstance(network, MapNetwork):
            raise TypeError(f"network_ must be a MapNetwork, got {type(network).__name__}")
        return xr.DataArray(
            network.maps.detach().numpy().reshape(-1, *self.grid_),
            dims=("query", "y", "x"),
            coords={name: ("query", self.queries_[name].to_numpy(str)) for name in ("roi", "hemisphere")},
            name="spatial_map",
            attrs={"units": "share of weight", **provenance(self.seed, {"class": type(self).__name__})},
        )


class GaussianEncoder(FactorizedEncoder):
    """A Gaussian receptive field times features [1]_: a factorized encoder with three numbers a map.

    Differs from the paper: fields are fitted by gradient descent together with the feature weights rather than chosen
    from a grid of candidates.

    Parameters
    ----------
    rois : DataArray (roi, unit) or mapping of str to bool mask, optional
    backbone : str or Backbone, optional
    spatial_map : {"unit", "roi"}
        One receptive field a unit, or one a region and hemisphere.
    epochs, batch_size, lr, weight_decay, clip, patience, validation_fraction, seed, device
        As for :class:`BrainEncoder`.

    References
    ----------
    .. [1] St-Yves & Naselaris (2018). The feature-weighted receptive field: an interpretable encoding model for
       complex feature spaces. NeuroImage 180.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> X, y = rng.normal(size=(40, 8, 3, 5)).astype("f4"), rng.normal(size=(40, 6)).astype("f4")
    >>> fields = GaussianEncoder(epochs=1).fit(X, y).receptive_fields()
    >>> list(fields), dict(fields.sizes)
    (['x', 'y', 'size'], {'query': 6})
    """

    _network_class = GaussianNetwork

    def receptive_fields(self) -> xr.Dataset:
        """Return the fitted fields.

        Returns
        -------
        Dataset, dims (query,)
            ``x`` and ``y`` of the centres from the image's left and top edge, as shares of its width and height;
            ``size``, the standard deviation as a share of its longer side; coordinates ``roi`` and ``hemisphere``.
        """
        check_is_fitted(self)
        network = self.network_
        if not isinstance(network, GaussianNetwork):
            raise TypeError(f"network_ must be a GaussianNetwork, got {type(network).__name__}")
        y, x = network.centers.detach().numpy().T
        size = network.sizes.detach().numpy()
        units = {"x": "share of width", "y": "share of height", "size": "share of longer side"}
        return xr.Dataset(
            {
                name: ("query", value, {"units": units[name]})
                for name, value in (("x", x), ("y", y), ("size", size))
            },
            coords={name: ("query", self.queries_[name].to_numpy(str)) for name in ("roi", "hemisphere")},
            attrs=provenance(self.seed, {"class": type(self).__name__}),
        )


class ConvolutionEncoder(NetworkEncoder):
    """A strided 3 x 3 convolution and one linear map of all it returns [1]_: the paper's "linear" model.

    It keeps where things are and learns which features to keep. Its loss adds ``group_norm`` times the sum of the
    norms, not squared, of each hemisphere's readout weights and bias.

    Differs from the paper: what all networks of this package share (see :class:`BrainEncoder`), and the mean squared
    error is averaged over all units where the paper adds up the means of the hemispheres, so the same ``group_norm``
    weighs about twice as much here.

    Parameters
    ----------
    rois : DataArray (roi, unit) or mapping of str to bool mask, optional
        Kept for the face all encoders share; hemispheres are taken from it.
    backbone : str or Backbone, optional
    width : int
        Channels of the convolution.
    stride : int
        Tokens between two places of the convolution, along y and x; the paper has 3 for 31 x 31 tokens and 2 for
        16 x 16.
    group_norm : float, default 0.02
        The paper's, for 40,000 units. Norms grow with the root of the number of units, so that a few hundred units and
        images want about ten times as much.
    epochs, batch_size, lr, weight_decay, clip, patience, validation_fraction, seed, device
        As for :class:`BrainEncoder`.

    References
    ----------
    .. [1] Adeli, Sun & Kriegeskorte (2025). Transformer brain encoders explain human high-level visual responses.
       arXiv:2505.17329.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> X, y = rng.normal(size=(40, 8, 3, 5)).astype("f4"), rng.normal(size=(40, 6)).astype("f4")
    >>> ConvolutionEncoder(epochs=1).fit(X, y).predict(X).shape
    (40, 6)
    """

    def __init__(
        self,
        rois: Rois = None,
        backbone: str | Backbone | None = None,
        *,
        width: int = 256,
        stride: int = 3,
        group_norm: float = 0.02,
        epochs: int = 30,
        batch_size: int = 32,
        lr: float = 1e-3,
        weight_decay: float = 0.05,
        clip: float = 1.0,
        patience: int = 10,
        validation_fraction: float = 0.1,
        seed: int = 0,
        device: str = "auto",
    ) -> None:
        self.rois = rois
        self.backbone = backbone
        self.width = width
        self.stride = stride
        self.group_norm = group_norm
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.weight_decay = weight_decay
        self.clip = clip
        self.patience = patience
        self.validation_fraction = validation_fraction
        self.seed = seed
        self.device = device

    def _build(self) -> EncoderNetwork:
        return ConvolutionNetwork(
            self.n_channels_,
            self.grid_,
            self.n_units_,
            n_left=n_left_units(self._membership()),
            width=self.width,
            stride=self.stride,
            group_norm=self.group_norm,
        )


class ProbeEncoder(NetworkEncoder):
    """Multi-query attentive probe [1]_: attention without regions, since all units read one pooled vector.

    Parameters
    ----------
    rois : DataArray (roi, unit) or mapping of str to bool mask, optional
        Kept for the face all encoders share; hemispheres are taken from it.
    backbone : str or Backbone, optional
    queries : int
        Probe queries, a divisor of ``width``.
    width : int
        Channels of the pooled vector.
    epochs, batch_size, lr, weight_decay, clip, patience, validation_fraction, seed, device
        As for :class:`BrainEncoder`.

    References
    ----------
    .. [1] Psomas et al. (2025). Attention, please! Revisiting attentive probing through the lens of efficiency.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> X, y = rng.normal(size=(40, 8, 3, 5)).astype("f4"), rng.normal(size=(40, 6)).astype("f4")
    >>> ProbeEncoder(epochs=1).fit(X, y).predict(X).shape
    (40, 6)
    """

    def __init__(
        self,
        rois: Rois = None,
        backbone: str | Backbone | None = None,
        *,
        queries: int = 8,
        width: int = 128,
        epochs: int = 30,
        batch_size: int = 32,
        lr: float = 2e-3,
        weight_decay: float = 0.05,
        clip: float = 1.0,
        patience: int = 10,
        validation_fraction: float = 0.1,
        seed: int = 0,
        device: str = "auto",
    ) -> None:
        self.rois = rois
        self.backbone = backbone
        self.queries = queries
        self.width = width
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.weight_decay = weight_decay
        self.clip = clip
        self.patience = patience
        self.validation_fraction = validation_fraction
        self.seed = seed
        self.device = device

    def _build(self) -> EncoderNetwork:
        n_left = n_left_units(self._membership())
        return ProbeNetwork(
            self.n_channels_, self.n_units_, n_left=n_left, queries=self.queries, width=self.width
        )


def query_masks(rois: xr.DataArray, readout: str) -> tuple[torch.Tensor | None, pd.DataFrame]:
    """Return which units read which query, and the labels of the queries.

    Parameters
    ----------
    rois : DataArray (roi, unit)
    readout : {"roi", "hemisphere", "unit"}

    Returns
    -------
    masks : Tensor of bool, shape (query, unit), or None for one query a unit
        Left queries first; queries without units are left out, and units in no region read "rest".
    queries : DataFrame
        ``roi`` and ``hemisphere`` of each query.

    Examples
    --------
    >>> rois = label_rois({"V1": [True, False, True]}, hemisphere=["left", "left", "right"])
    >>> masks, queries = query_masks(rois, "roi")
    >>> queries.hemisphere.str.cat(queries.roi, " ").tolist()
    ['left V1', 'left rest', 'right V1']
    """
    check_option("readout", readout, BrainEncoder.READOUTS)
    member, side = rois.values.astype(bool), rois["hemisphere"].values.astype(str)
    if readout == "unit":
        names = [" + ".join(rois["roi"].values[m]) or "rest" for m in member.T]
        return None, pd.DataFrame({"roi": names, "hemisphere": side})
    rows, labels = [], []
    for hemisphere in ("left", "right", "none"):
        here = side == hemisphere
        candidates = {"all": np.ones_like(here)}
        if readout == "roi":
            candidates = dict(zip(rois["roi"].values, member, strict=True)) | {"rest": ~member.any(0)}
        for name, mask in candidates.items():
            if (mask & here).any():
                rows.append(mask & here)
                labels.append((str(name), hemisphere))
    return torch.from_numpy(np.stack(rows)), pd.DataFrame(labels, columns=["roi", "hemisphere"])


def n_left_units(rois: xr.DataArray) -> int:
    """Return the number of units of the left hemisphere, or of all units where there are no hemispheres.

    Examples
    --------
    >>> n_left_units(label_rois({"V1": [True, True, True]}, hemisphere=["left", "right", "right"]))
    1
    """
    side = rois["hemisphere"].values
    return int((side != "right").sum())


def resolve_device(device: str) -> str:
    """Return "cuda" where there is a GPU if "auto" is asked for, else the device as named.

    Examples
    --------
    >>> resolve_device("cpu")
    'cpu'
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {device!r} cannot be used: {str(error).splitlines()[0]}") from None
    return device


def _holdout(
    n: int, fraction: float, seed: int, groups: ArrayLike | None
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return rows to train on and rows to watch, which share no stimulus."""
    group = np.arange(n) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    check_shape("groups", group, n)
    n_groups = int(group.max()) + 1
    if n_groups < 2:
        raise ValueError(f"X must hold at least 2 stimuli to watch the validation loss, got {n_groups}")
    n_valid = min(max(1, round(fraction * n_groups)), n_groups - 1)
    watched = np.isin(group, np.random.default_rng(seed).permutation(n_groups)[:n_valid])
    return np.flatnonzero(~watched), np.flatnonzero(watched)


def _standardise(network: EncoderNetwork, mean: NDArray[np.float64], scale: NDArray[np.float64]) -> None:
    """Let a network standardise its channels."""
    network.input_mean.copy_(torch.from_numpy(mean))
    network.input_scale.copy_(torch.from_numpy(scale).clamp_min(1e-6))


def _target_statistics(y: Any, rows: NDArray[np.intp]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return mean and standard deviation of each unit over rows, read a block of rows at a time."""
    total, squares = 0.0, 0.0
    shift = np.asarray(y[rows[:1]], dtype=np.float64)[0]
    for start in range(0, len(rows), 512):
        block = np.asarray(y[rows[start : start + 512]], dtype=np.float64) - shift
        if not np.isfinite(block).all():
            raise ValueError("y must be finite, got NaN or infinity; drop those units first")
        total, squares = total + block.sum(0), squares + (block**2).sum(0)
    mean = total / len(rows)
    scale = np.sqrt(np.maximum(squares / len(rows) - mean**2, 0))
    scale = np.where(scale > 1e-12, scale, 1.0)  # a constant unit is predicted by its mean
    return (mean + shift).astype(np.float32), scale.astype(np.float32)
