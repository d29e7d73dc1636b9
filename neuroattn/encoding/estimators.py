"""What all encoders share, and ridge regression on features."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from safetensors.numpy import load_file, save_file
from sklearn.base import BaseEstimator, MultiOutputMixin, RegressorMixin
from sklearn.model_selection import PredefinedSplit
from sklearn.utils.validation import check_is_fitted, validate_data

from neuroattn._checks import check_option, check_range, check_shape
from neuroattn.datasets import Rows
from neuroattn.encoding.backbones import Backbone, load_backbone
from neuroattn.encoding.features import FeatureStore
from neuroattn.metrics import pearson_r
from neuroattn.results import provenance, replacing, write_json


class Encoder(MultiOutputMixin, RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """Base of all encoders: features or images in, responses out.

    Examples
    --------
    >>> issubclass(RidgeEncoder, Encoder), RidgeEncoder.needs_tokens, PooledRidgeEncoder.needs_tokens
    (True, False, True)
    """

    needs_tokens: ClassVar[bool] = False
    backbone: str | Backbone | None

    def score(self, X: ArrayLike, y: ArrayLike, sample_weight: None = None) -> float:
        """Return the mean Pearson correlation over units (not R^2).

        Parameters
        ----------
        X : array, shape (stimulus, ...)
            As for ``fit``.
        y : array, shape (stimulus, unit)
        sample_weight : None
            Not supported.

        Returns
        -------
        float
            NaN units (constant responses or predictions) are left out.
        """
        if sample_weight is not None:
            raise ValueError("sample_weight must be None: correlations are not weighted")
        y = np.asarray(y)
        predicted = self.predict(X)
        if y.ndim == 1:
            y, predicted = y[:, None], predicted[:, None]
        r = pearson_r(y, predicted)
        return float(np.nanmean(r)) if np.isfinite(r).any() else float("nan")

    def _features(self, X: Any) -> Any:
        """Return features of images, or features as they are."""
        if self.backbone is None:
            return X
        backbone = load_backbone(self.backbone) if isinstance(self.backbone, str) else self.backbone
        images = np.asarray(X)
        if images.ndim != 4 or images.dtype != np.uint8 or images.shape[3] != 3:
            raise ValueError(
                "X must be uint8 images of shape (stimulus, y, x, 3) when backbone is given, "
                f"got {images.dtype} {images.shape}"
            )
        return backbone.extract(images)

    def save(self, folder: str | Path) -> None:
        """Write ``model.safetensors`` and ``config.json`` into a folder that appears whole or not at all.

        Parameters
        ----------
        folder : str or Path
            Replaced if it exists.
        """
        check_is_fitted(self)
        tensors, extra = self._fitted_state()
        params = {
            name: value
            for name, value in self.get_params(deep=False).items()
            if name not in ("rois", "backbone")
        }
        backbone = self.backbone.config if isinstance(self.backbone, Backbone) else self.backbone
        config = {"class": type(self).__name__, "params": params, "backbone": backbone, **extra}
        config |= {"neuroattn_version": provenance(0, {})["neuroattn_version"]}
        with replacing(folder) as temporary:
            temporary.mkdir()
            save_file(
                {k: np.ascontiguousarray(v) for k, v in tensors.items()}, temporary / "model.safetensors"
            )
            write_json(temporary / "config.json", config)

    def _fitted_state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Return fitted arrays, and what else is needed to build the estimator again."""
        raise NotImplementedError(f"{type(self).__name__} must define _fitted_state")

    def _restore(self, tensors: dict[str, NDArray[Any]], config: dict[str, Any]) -> None:
        """Take back what ``_fitted_state`` returned."""
        raise NotImplementedError(f"{type(self).__name__} must define _restore")


def load_encoder(folder: str | Path) -> Encoder:
    """Load a fitted encoder that :meth:`Encoder.save` wrote.

    Parameters
    ----------
    folder : str or Path

    Returns
    -------
    Encoder
        Takes features; an encoder that was fitted on images gets its backbone from ``config.json`` through
        :func:`load_backbone` and ``set_params``.

    Examples
    --------
    >>> import tempfile
    >>> X, y = np.random.default_rng(0).normal(size=(2, 20, 3))
    >>> folder = Path(tempfile.mkdtemp()) / "ridge"
    >>> ridge = RidgeEncoder().fit(X, y)
    >>> ridge.save(folder)
    >>> bool(np.allclose(load_encoder(folder).predict(X), ridge.predict(X)))
    True
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} must hold config.json and model.safetensors of an encoder")
    config = json.loads((folder / "config.json").read_text())
    package = importlib.import_module("neuroattn.encoding")
    name = check_option("class", config["class"], [n for n in package.__all__ if n.endswith("Encoder")])
    encoder: Encoder = getattr(package, name)(**config["params"])
    encoder._restore(load_file(folder / "model.safetensors"), config)
    return encoder


def inner_folds(n: int, k: int, groups: ArrayLike | None = None) -> PredefinedSplit:
    """Assign rows to k folds at random (seed 0); rows of one group share a fold.

    Parameters
    ----------
    n : int
        Number of rows.
    k : int
        Number of folds; fewer where there are fewer groups.
    groups : array, shape (row,), optional
        Stimulus identity.

    Returns
    -------
    PredefinedSplit

    Examples
    --------
    >>> inner_folds(4, 2, groups=["a", "b", "a", "b"]).get_n_splits()
    2
    """
    group = np.arange(n) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    check_shape("groups", group, n)
    n_groups = int(group.max()) + 1
    if n_groups < 2:
        raise ValueError(f"X must hold at least 2 stimuli to choose the penalty, got n_samples = {n_groups}")
    order = np.random.default_rng(0).permutation(n_groups)
    return PredefinedSplit(order[group] % min(k, n_groups))


class RidgeEncoder(Encoder):
    """Predict responses linearly from all features, with the penalty chosen by cross-validation.

    ``w* = argmin_w |y - X w - b|^2 + alpha |w|^2`` for each unit, where every column of X has variance 1/p for p
    columns, so that a penalty means the same for any number of features. Solved by himalaya [1]_ in the kernel of
    stimuli.

    Parameters
    ----------
    alphas : sequence of float, optional
        Penalties to choose from; default 21 values from 1e-5 to 1e5.
    alpha_per_target : bool, default True
        One penalty a unit, or one for all units.
    cv : int, default 5
        Inner folds; a stimulus is in one fold only.
    backbone : str or Backbone, optional
        Given, X is images.

    Attributes
    ----------
    alphas_ : array, shape (unit,)
        Chosen penalties.
    dual_coef_ : array, shape (stimulus, unit)

    References
    ----------
    .. [1] Dupré la Tour, Eickenberg, Nunez-Elizalde & Gallant (2022). Feature-space selection with banded ridge
       regression. NeuroImage 264.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(60, 4, 2, 2))
    >>> y = X.reshape(60, -1)[:, :3]
    >>> RidgeEncoder().fit(X[:50], y[:50]).score(X[50:], y[50:]) > 0.99
    True
    """

    _arrays = (
        "alphas_", "block_weight_", "dual_coef_", "intercept_", "mean_", "scale_", "widths_", "X_fit_",
        "components_", "token_mean_", "token_scale_",
    )  # fmt: skip

    def __init__(
        self,
        alphas: ArrayLike | None = None,
        *,
        alpha_per_target: bool = True,
        cv: int = 5,
        backbone: str | Backbone | None = None,
    ) -> None:
        self.alphas = alphas
        self.alpha_per_target = alpha_per_target
        self.cv = cv
        self.backbone = backbone

    def fit(self, X: ArrayLike, y: ArrayLike, groups: ArrayLike | None = None) -> Self:
        """Fit.

        Parameters
        ----------
        X : array, shape (stimulus, channel, y, x) or (stimulus, feature), or images with a backbone
        y : array, shape (stimulus, unit) or (stimulus,)
        groups : array, shape (stimulus,), optional
            Stimulus identity, so that inner folds do not share stimuli.

        Returns
        -------
        RidgeEncoder
        """
        from himalaya.kernel_ridge import solve_multiple_kernel_ridge_random_search

        check_range("cv", self.cv, 2)
        alphas = np.logspace(-5, 5, 21) if self.alphas is None else np.asarray(self.alphas, dtype=float)
        stimuli, targets = validate_data(
            self,
            self._read(X),
            None if y is None else np.asarray(y),
            allow_nd=True,
            multi_output=True,
            y_numeric=True,
            dtype=np.float32,
        )
        folds = inner_folds(len(stimuli), self.cv, groups)
        self.single_target_ = targets.ndim == 1
        targets = targets.reshape(len(targets), -1).astype(np.float64)
        blocks = self._blocks(stimuli, fit=True)
        self.widths_ = np.asarray([block.shape[1] for block in blocks])
        scales = [self._column_scale(i, block) for i, block in enumerate(blocks)]
        design, scale = np.concatenate(blocks, axis=1), np.concatenate(scales)
        self.mean_ = design.mean(0)
        # A column without variance says nothing; leave it at zero rather than divide by rounding errors.
        self.scale_ = np.where(design.std(0) > 1e-6 * np.abs(self.mean_), scale, np.inf).astype(np.float32)
        self.X_fit_ = (design - self.mean_) / self.scale_
        target_mean = targets.mean(0)
        with np.errstate(divide="ignore"):  # a block without a share has the logarithm of zero
            log_weight, self.dual_coef_, _, self.alphas_, intercept = (
                solve_multiple_kernel_ridge_random_search(
                    self._kernels(self.X_fit_),
                    targets - target_mean,
                    n_iter=self._block_shares(),
                    alphas=alphas,
                    cv=folds,
                    fit_intercept=True,
                    return_weights="dual",
                    return_alphas=True,
                    local_alpha=self.alpha_per_target,
                    n_targets_batch=2000,  # keeps the predictions of all penalties and folds within memory
                    progress_bar=False,
                )
            )
        self.block_weight_ = np.exp(log_weight)
        self.intercept_ = intercept + target_mean
        return self

    def predict(self, X: ArrayLike) -> NDArray[np.float64]:
        """Predict responses.

        Parameters
        ----------
        X : array
            As for ``fit``.

        Returns
        -------
        array, shape (stimulus, unit), or (stimulus,) if fitted on one
        """
        check_is_fitted(self)
        stimuli = validate_data(self, self._read(X), allow_nd=True, dtype=np.float32, reset=False)
        design = (np.concatenate(self._blocks(stimuli, fit=False), axis=1) - self.mean_) / self.scale_
        predicted: NDArray[np.float64] = self.intercept_ + sum(
            kernel @ (weight * self.dual_coef_)
            for kernel, weight in zip(self._kernels(design), self.block_weight_, strict=True)
        )
        return predicted[:, 0] if self.single_target_ else predicted

    def _read(self, X: Any) -> Any:
        features = self._features(X)
        return features[:] if isinstance(features, Rows | FeatureStore) else features

    def _blocks(self, X: NDArray[np.float32], *, fit: bool) -> list[NDArray[np.float32]]:
        """Return predictors (stimulus, column) in blocks, each of total variance one once it is scaled."""
        return [X.reshape(len(X), -1)]

    def _column_scale(self, i: int, block: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return what the columns of block i are divided by: each column gets an equal share of variance."""
        return np.asarray(block.std(0) * np.sqrt(block.shape[1]))

    def _block_shares(self) -> NDArray[np.float64]:
        """Return the shares of the blocks (candidate, block) among which every unit chooses."""
        return np.ones((1, 1))

    def _kernels(self, design: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the products of scaled predictors with those of the fit, (block, stimulus, fitted stimulus)."""
        edges = np.cumsum(self.widths_)[:-1]
        pairs = zip(np.split(design, edges, axis=1), np.split(self.X_fit_, edges, axis=1), strict=True)
        return np.stack([_linear_kernel(a, b) for a, b in pairs])

    def _fitted_state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        extra = {"single_target": self.single_target_, "n_features_in": self.n_features_in_}
        return {name: np.asarray(getattr(self, name)) for name in self._arrays if hasattr(self, name)}, extra

    def _restore(self, tensors: dict[str, NDArray[Any]], config: dict[str, Any]) -> None:
        for name, value in tensors.items():
            setattr(self, name, value)
        self.single_target_, self.n_features_in_ = config["single_target"], config["n_features_in"]


def _linear_kernel(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return ``a b^T`` with float64 sums over blocks of columns."""
    out = np.zeros((len(a), len(b)))
    for start in range(0, a.shape[1], 8192):
        part = slice(start, start + 8192)
        out += a[:, part].astype(np.float64) @ b[:, part].astype(np.float64).T
    return out


POOLINGS = ("mean", "max", "std", "second-moment")


class PooledRidgeEncoder(RidgeEncoder):
    """Ridge on statistics of the tokens that forget where things are.

    The strongest simple rivals of attention: what a region can know of an image without looking anywhere in
    particular. The second moment of the tokens holds all products of two channels, so it can bind a category to the
    features found at the same place, summed over the image. Every unit chooses by cross-validation, with its penalty,
    one of the statistics, all of the first order, or all together.

    Parameters
    ----------
    pooling : sequence of {"mean", "max", "std", "second-moment"}
        Statistics over tokens of standardised channels.
    max_channels : int, default 128
        The second moment is taken of so many principal components where there are more channels.
    alphas, alpha_per_target, cv, backbone
        As for :class:`RidgeEncoder`.

    Examples
    --------
    >>> X = np.random.default_rng(0).normal(size=(80, 3, 5, 5))
    >>> y = X.max((2, 3))
    >>> PooledRidgeEncoder(pooling=["max"]).fit(X[:60], y[:60]).score(X[60:], y[60:]) > 0.99
    True
    """

    needs_tokens = True

    def __init__(
        self,
        pooling: tuple[str, ...] = POOLINGS,
        *,
        max_channels: int = 128,
        alphas: ArrayLike | None = None,
        alpha_per_target: bool = True,
        cv: int = 5,
        backbone: str | Backbone | None = None,
    ) -> None:
        super().__init__(alphas, alpha_per_target=alpha_per_target, cv=cv, backbone=backbone)
        self.pooling = pooling
        self.max_channels = max_channels

    def _blocks(self, X: NDArray[np.float32], *, fit: bool) -> list[NDArray[np.float32]]:
        if X.ndim != 4:
            raise ValueError(f"X must have shape (stimulus, channel, y, x) to be pooled, got {X.shape}")
        tokens = X.reshape(*X.shape[:2], -1)
        if fit:
            self.token_mean_ = tokens.mean((0, 2))[:, None]
            self.token_scale_ = tokens.std((0, 2)).clip(1e-6)[:, None]
        tokens = (tokens - self.token_mean_) / self.token_scale_
        return [self._pool(tokens, check_option("pooling", name, POOLINGS), fit) for name in self.pooling]

    def _pool(self, tokens: NDArray[np.float32], name: str, fit: bool) -> NDArray[np.float32]:
        if name != "second-moment":
            return np.asarray(getattr(tokens, name)(2))
        n_channels, n_tokens = tokens.shape[1:]
        if n_channels > self.max_channels:
            if fit:
                flat = tokens.transpose(1, 0, 2).reshape(n_channels, -1)
                self.components_ = np.linalg.eigh(flat @ flat.T)[1][:, : -self.max_channels - 1 : -1]
            tokens = self.components_.T @ tokens
        moment = tokens @ tokens.transpose(0, 2, 1) / n_tokens
        row, column = np.triu_indices(tokens.shape[1])
        # Products off the diagonal stand for two entries of the matrix.
        return np.asarray(moment[:, row, column] * np.where(row == column, 1, np.sqrt(2)), dtype=np.float32)

    def _column_scale(self, i: int, block: NDArray[np.float32]) -> NDArray[np.float32]:
        if self.pooling[i] != "second-moment":
            return super()._column_scale(i, block)
        # One scale for all products: rare directions stay small, as ridge on the moment matrix itself has it.
        return np.full(block.shape[1], np.sqrt(block.var(0).sum()), np.float32)

    def _block_shares(self) -> NDArray[np.float64]:
        first_order = np.asarray([float(name != "second-moment") for name in self.pooling])
        candidates = [*np.eye(len(self.pooling)), first_order, np.ones(len(self.pooling))]
        shares = np.unique([c for c in candidates if c.any()], axis=0)
        return np.asarray(shares / shares.sum(1, keepdims=True))
