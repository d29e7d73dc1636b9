"""What all encoders share, and encoders in closed form: ridge regressions and regression on principal components."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from safetensors.numpy import load_file, save_file
from sklearn.base import BaseEstimator, MultiOutputMixin, RegressorMixin
from sklearn.model_selection import PredefinedSplit
from sklearn.utils.validation import check_array, check_is_fitted, validate_data

from neuroattn._backbones import Backbone, load_backbone
from neuroattn._checks import check_option, check_range, check_shape
from neuroattn._files import listed, read_config, reading
from neuroattn.datasets import Responses, Rows
from neuroattn.encoding.features import FeatureStore
from neuroattn.metrics import pearson_r
from neuroattn.results import provenance, replacing, write_json

_BLOCK_NUMBERS = 2**27  # responses held in float64 at a time: 1 GB


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
    package = importlib.import_module("neuroattn.encoding")
    config = read_config(folder, [name for name in package.__all__ if name.endswith("Encoder")])
    with reading(f"{folder / 'model.safetensors'} cannot be read:"):
        tensors = load_file(folder / "model.safetensors")
    with reading(f"{folder} must hold an encoder that save wrote, got"):
        encoder: Encoder = getattr(package, config["class"])(**config["params"])
        encoder._restore(tensors, config)
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


class _ClosedFormEncoder(Encoder):
    """Base of encoders that read all features at once and responses a block of units at a time."""

    _arrays: ClassVar[tuple[str, ...]]

    def _check_fit(self, X: Any, y: Any) -> tuple[Any, Any]:
        """Return features, and responses (stimulus, unit) that stay on disk where they are."""
        if isinstance(y, Responses | Rows):
            stimuli = self._check_predict(X, reset=True)
            check_shape("y", y, len(stimuli), "unit")
            self.single_target_ = False
            return stimuli, y
        stimuli, targets = validate_data(
            self,
            self._read(X),
            None if y is None else np.asarray(y),
            allow_nd=True,
            multi_output=True,
            y_numeric=True,
            dtype=np.float32,
        )
        self.single_target_ = targets.ndim == 1
        return stimuli, targets.reshape(len(targets), -1)

    def _check_predict(self, X: Any, *, reset: bool = False) -> Any:
        return validate_data(self, self._read(X), allow_nd=True, dtype=np.float32, reset=reset)

    def _read(self, X: Any) -> Any:
        features = self._features(X)
        return features[:] if isinstance(features, Rows | FeatureStore) else features

    def _fitted_state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        extra = {"single_target": self.single_target_, "n_features_in": self.n_features_in_}
        return {name: np.asarray(getattr(self, name)) for name in self._arrays if hasattr(self, name)}, extra

    def _restore(self, tensors: dict[str, NDArray[Any]], config: dict[str, Any]) -> None:
        foreign = tensors.keys() - set(self._arrays)
        if foreign:
            raise ValueError(f"arrays {listed(sorted(foreign))}")
        for name, value in tensors.items():
            setattr(self, name, value)
        self.single_target_, self.n_features_in_ = config["single_target"], config["n_features_in"]


def _unit_blocks(n_rows: int, n_units: int) -> Iterator[slice]:
    """Yield blocks of units that are small enough to hold."""
    width = max(1, _BLOCK_NUMBERS // n_rows)
    for start in range(0, n_units, width):
        yield slice(start, start + width)


def _response_blocks(y: Any) -> Iterator[tuple[slice, NDArray[np.float64], NDArray[np.float64]]]:
    """Yield blocks of units: their place, responses without the mean over stimuli, and that mean."""
    for units in _unit_blocks(*y.shape):
        # A few rows at a time: responses on disk are read by row, with all their units.
        rows = [np.asarray(y[i : i + 256])[:, units] for i in range(0, len(y), 256)]
        block = np.concatenate(rows).astype(np.float64)
        if not np.isfinite(block).all():
            raise ValueError("y must be finite, got NaN or infinity; drop those units first")
        mean = block.mean(0)
        yield units, block - mean, mean


class RidgeEncoder(_ClosedFormEncoder):
    """Predict responses linearly from all features, with the penalty chosen by cross-validation.

    ``w* = argmin_w |y - X w - b|^2 + alpha |w|^2`` for each unit, where every column of X has variance 1/p for p
    columns, so that a penalty means the same for any number of features. Solved by himalaya [1]_ in the kernel of
    stimuli, a block of units at a time: responses may be wider than memory.

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

    def fit(self, X: Any, y: Any, groups: ArrayLike | None = None) -> Self:
        """Fit.

        Parameters
        ----------
        X : array, shape (stimulus, channel, y, x) or (stimulus, feature), or images with a backbone
            The latter shape is also that of class tokens and other pooled features.
        y : array or Responses, shape (stimulus, unit) or (stimulus,)
        groups : array, shape (stimulus,), optional
            Stimulus identity, so that inner folds do not share stimuli.

        Returns
        -------
        self
        """
        check_range("cv", self.cv, 2)
        alphas = np.logspace(-5, 5, 21) if self.alphas is None else np.asarray(self.alphas, dtype=float)
        stimuli, targets = self._check_fit(X, y)
        n, n_units = targets.shape
        folds = inner_folds(n, self.cv, groups)
        blocks = self._blocks(stimuli, fit=True)
        self.widths_ = np.asarray([block.shape[1] for block in blocks])
        scales = [self._column_scale(i, block) for i, block in enumerate(blocks)]
        design, scale = np.concatenate(blocks, axis=1), np.concatenate(scales)
        self.mean_ = design.mean(0)
        # A column without variance says nothing; leave it at zero rather than divide by rounding errors.
        self.scale_ = np.where(design.std(0) > 1e-6 * np.abs(self.mean_), scale, np.inf).astype(np.float32)
        self.X_fit_ = (design - self.mean_) / self.scale_
        kernels, shares = self._kernels(self.X_fit_), self._block_shares()
        if not self.alpha_per_target:
            # Errors summed over units know responses by their products alone, so n columns stand for all units.
            products = np.zeros((n, n))
            for _, block, _ in _response_blocks(targets):
                products += block @ block.T
            values, vectors = np.linalg.eigh(products)
            stand_in = vectors * np.sqrt(np.maximum(values, 0))
            weight, _, alpha, _ = _solve(kernels, stand_in, alphas, shares, folds, alpha_per_target=False)
            alphas, shares = alpha[:1], weight[:, :1].T * alpha[0]
        self.alphas_, self.intercept_ = np.empty((2, n_units))
        self.block_weight_, self.dual_coef_ = np.empty((len(kernels), n_units)), np.empty((n, n_units))
        for units, block, mean in _response_blocks(targets):
            weight, dual, alpha, intercept = _solve(kernels, block, alphas, shares, folds)
            self.block_weight_[:, units], self.dual_coef_[:, units] = weight, dual
            self.alphas_[units], self.intercept_[units] = alpha, intercept + mean
        return self

    def predict(self, X: Any) -> NDArray[np.float64]:
        """Predict responses.

        Parameters
        ----------
        X : array
            As for ``fit``.

        Returns
        -------
        array, shape (stimulus, unit), or (stimulus,) if fitted on one
        """
        kernels = self._kernels_of(X)
        predicted = np.tile(self.intercept_, (kernels.shape[1], 1))
        for units in _unit_blocks(*self.dual_coef_.shape):
            for kernel, weight in zip(kernels, self.block_weight_, strict=True):
                predicted[:, units] += kernel @ (weight[units] * self.dual_coef_[:, units])
        return predicted[:, 0] if self.single_target_ else predicted

    def _kernels_of(self, X: Any) -> NDArray[np.float64]:
        """Return the products of new stimuli with those of the fit, (block, stimulus, fitted stimulus)."""
        check_is_fitted(self)
        stimuli = self._check_predict(X)
        return self._kernels(
            (np.concatenate(self._blocks(stimuli, fit=False), axis=1) - self.mean_) / self.scale_
        )

    def _blocks(self, X: Any, *, fit: bool) -> list[NDArray[np.float32]]:
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


def _solve(
    kernels: NDArray[np.float64],
    targets: NDArray[np.float64],
    alphas: NDArray[np.float64],
    shares: NDArray[np.float64],
    folds: PredefinedSplit,
    *,
    alpha_per_target: bool = True,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return weights of the blocks (block, unit), dual coefficients (stimulus, unit), penalties and intercepts."""
    from himalaya.kernel_ridge import solve_multiple_kernel_ridge_random_search

    with np.errstate(divide="ignore"):  # a block without a share has the logarithm of zero
        log_weight, dual, _, chosen, intercept = solve_multiple_kernel_ridge_random_search(
            kernels,
            targets,
            n_iter=shares,
            alphas=alphas,
            cv=folds,
            fit_intercept=True,
            return_weights="dual",
            return_alphas=True,
            local_alpha=alpha_per_target,
            # Keep the matrices of all penalties, and the predictions of all penalties and folds, within memory.
            n_alphas_batch=int(np.clip(_BLOCK_NUMBERS // len(targets) ** 2, 1, len(alphas))),
            n_targets_batch=2000,
            progress_bar=False,
        )
    return np.exp(log_weight), dual, chosen, intercept


def _linear_kernel(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return ``a b^T`` with float64 sums over blocks of columns."""
    out = np.zeros((len(a), len(b)))
    for start in range(0, a.shape[1], 8192):
        part = slice(start, start + 8192)
        out += a[:, part].astype(np.float64) @ b[:, part].astype(np.float64).T
    return out


class BandedRidgeEncoder(RidgeEncoder):
    """Ridge on several feature spaces, each with a penalty of its own for every unit [1]_.

    Columns of all spaces are scaled so that each space has total variance one. Every unit chooses by cross-validation
    its penalty and the shares of the spaces, among equal shares (plain ridge), each space alone, and shares drawn at
    random; a share of zero leaves a space out, which keeps a wide useless space from drowning a small useful one.
    Solved by himalaya's random search.

    Parameters
    ----------
    alphas : sequence of float, optional
        Penalties to choose from; default 21 values from 1e-5 to 1e5.
    n_iter : int, default 50
        Shares drawn from Dirichlet distributions of concentration 0.1 (few spaces) and 1 (any), by turns.
    cv : int, default 5
        Inner folds; a stimulus is in one fold only.
    seed : int, default 0
        Of the shares.

    Attributes
    ----------
    spaces_ : list of str
        Names of the spaces in the order of ``fit``.
    alphas_ : array, shape (unit,)
    block_weight_ : array, shape (space, unit)
        Shares divided by ``alphas_``: the reciprocal of each space's penalty.

    References
    ----------
    .. [1] Dupré la Tour, Eickenberg, Nunez-Elizalde & Gallant (2022). Feature-space selection with banded ridge
       regression. NeuroImage 264.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> X = {"motion": rng.normal(size=(80, 5)), "faces": rng.normal(size=(80, 4, 2, 2))}
    >>> y = X["motion"][:, :2]
    >>> train, test = ({name: x[rows] for name, x in X.items()} for rows in (slice(60), slice(60, 80)))
    >>> encoder = BandedRidgeEncoder(n_iter=10).fit(train, y[:60])
    >>> encoder.contributions(test, y[60:]).correlation.sel(space="faces").values.round(1) + 0.0
    array([0., 0.])
    """

    backbone = None  # images have no feature spaces
    alpha_per_target = True

    def __init__(
        self, alphas: ArrayLike | None = None, *, n_iter: int = 50, cv: int = 5, seed: int = 0
    ) -> None:
        self.alphas = alphas
        self.n_iter = n_iter
        self.cv = cv
        self.seed = seed

    def fit(self, X: Mapping[str, Any], y: Any, groups: ArrayLike | None = None) -> Self:
        """Fit.

        Parameters
        ----------
        X : mapping of str to array or FeatureStore, shape (stimulus, channel, y, x) or (stimulus, feature)
            Feature spaces by name; tokens are flattened.
        y : array or Responses, shape (stimulus, unit) or (stimulus,)
        groups : array, shape (stimulus,), optional
            Stimulus identity, so that inner folds do not share stimuli.

        Returns
        -------
        self

        Raises
        ------
        TypeError
            If X is no mapping.
        """
        check_range("n_iter", self.n_iter, 0)
        return super().fit(X, y, groups)

    def contributions(self, X: Mapping[str, Any], y: ArrayLike) -> xr.Dataset:
        """Divide the score among the feature spaces.

        Parameters
        ----------
        X : mapping of str to array
            As for ``fit``.
        y : array, shape (stimulus, unit)
            Held-out responses.

        Returns
        -------
        Dataset, dims (space, unit)
            ``correlation``, which sums over spaces to the Pearson correlation of the whole prediction; ``r2``, the
            product measure, which sums to the R^2 of responses and predictions without their means over these stimuli;
            and ``share``, the weight that the unit gives to a space, which sums to one. Correlated spaces divide what
            they share in proportion to their predictions, and contributions may be negative: for what one space alone
            explains, see :func:`neuroattn.metrics.variance_partitioning`. NaN where responses are constant.
        """
        from himalaya.scoring import correlation_score_split, r2_score_split

        kernels = self._kernels_of(X)
        measured = np.asarray(y, dtype=np.float64)
        measured = measured.reshape(len(measured), -1)
        n_units = check_shape("y", measured, kernels.shape[1], len(self.alphas_))[1]
        r, r2 = np.full((2, len(kernels), n_units), np.nan)
        for units in _unit_blocks(len(self.X_fit_), n_units):
            part = self.block_weight_[:, None, units] * self.dual_coef_[:, units]
            predicted = kernels @ part
            predicted -= predicted.mean(1, keepdims=True)
            block = measured[:, units] - measured[:, units].mean(0)
            varies = block.std(0) > 1e-12 * np.abs(measured[:, units]).max(0)
            with np.errstate(invalid="ignore", divide="ignore"):
                r[:, units] = np.where(varies, correlation_score_split(block, predicted), np.nan)
                r2[:, units] = np.where(varies, r2_score_split(block, predicted), np.nan)
        return xr.Dataset(
            {
                "correlation": (("space", "unit"), r),
                "r2": (("space", "unit"), r2),
                "share": (("space", "unit"), self.block_weight_ * self.alphas_),
            },
            coords={"space": self.spaces_},
            attrs=provenance(self.seed, {"class": type(self).__name__, **self.get_params()}),
        )

    def _check_fit(self, X: Any, y: Any) -> tuple[Any, Any]:
        spaces = self._check_spaces(X)
        self.single_target_ = False
        if not isinstance(y, Responses | Rows):
            y = validate_data(self, y=np.asarray(y), multi_output=True, y_numeric=True)
            self.single_target_ = y.ndim == 1
            y = y.reshape(len(y), -1)
        check_shape("y", y, len(next(iter(spaces.values()))), "unit")
        self.spaces_, self.n_features_in_ = list(spaces), sum(x.shape[1] for x in spaces.values())
        return list(spaces.values()), y

    def _check_predict(self, X: Any, *, reset: bool = False) -> Any:
        spaces = self._check_spaces(X)
        fitted = dict(zip(self.spaces_, self.widths_.tolist(), strict=True))
        given = {name: x.shape[1] for name, x in spaces.items()}
        if given != fitted:
            raise ValueError(
                f"X must hold the spaces of fit with their numbers of columns, {fitted}, got {given}"
            )
        return [spaces[name] for name in self.spaces_]

    def _check_spaces(self, X: Any) -> dict[str, NDArray[np.float32]]:
        """Return the columns (stimulus, column) of each feature space."""
        if not isinstance(X, Mapping):
            raise TypeError(
                f"X must be a mapping of feature spaces such as {{'name': features}}, got {type(X).__name__}; "
                "RidgeEncoder takes plain features"
            )
        if not X:
            raise ValueError("X must name at least one feature space, got none")
        spaces: dict[str, NDArray[np.float32]] = {}
        for name, features in X.items():
            x = check_array(self._read(features), allow_nd=True, dtype=np.float32, input_name=f"X[{name!r}]")
            spaces[name] = x.reshape(len(x), -1)
        counts = {name: len(x) for name, x in spaces.items()}
        if len(set(counts.values())) > 1:
            raise ValueError(f"X must hold the same stimuli in every space, got {counts}")
        return spaces

    def _blocks(self, X: list[NDArray[np.float32]], *, fit: bool) -> list[NDArray[np.float32]]:
        return X

    def _block_shares(self) -> NDArray[np.float64]:
        from himalaya.kernel_ridge import generate_dirichlet_samples

        n = len(self.spaces_)
        fixed = [np.full((1, n), 1 / n), *([np.eye(n)] if n > 1 else [])]
        if n == 1 or self.n_iter == 0:
            return np.concatenate(fixed)
        drawn = generate_dirichlet_samples(self.n_iter, n, concentration=[0.1, 1.0], random_state=self.seed)
        return np.concatenate([*fixed, drawn])

    def _fitted_state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        tensors, extra = super()._fitted_state()
        return tensors, {**extra, "spaces": self.spaces_}

    def _restore(self, tensors: dict[str, NDArray[Any]], config: dict[str, Any]) -> None:
        super()._restore(tensors, config)
        self.spaces_ = config["spaces"]


class PcaRegressionEncoder(_ClosedFormEncoder):
    """Least squares on principal components of the features: the regression baseline of Adeli et al. [1]_.

    Kept for comparison with published numbers. It has no penalty, so that components which a unit cannot use add noise;
    :class:`RidgeEncoder` is the stronger baseline. Differs from the published notebooks in that there are never more
    components than the training stimuli determine, and directions without variance are left out.

    Parameters
    ----------
    n_components : int, default 768
        At most as many as stimuli less one, and columns.
    seed : int, default 0
        Of the randomised solver, which scikit-learn's PCA takes for wide features.
    backbone : str or Backbone, optional
        Given, X is images.

    Attributes
    ----------
    components_ : array, shape (component, column)
        Fitted on training features.
    coef_ : array, shape (component, unit)

    References
    ----------
    .. [1] Adeli, Sun & Kriegeskorte (2025). Transformer brain encoders explain human high-level visual responses.
       arXiv:2505.17329.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(60, 4, 2, 2))
    >>> y = X.reshape(60, -1)[:, :3]
    >>> PcaRegressionEncoder().fit(X[:50], y[:50]).score(X[50:], y[50:]) > 0.99
    True
    """

    _arrays = ("mean_", "components_", "coef_", "intercept_")

    def __init__(
        self, n_components: int = 768, *, seed: int = 0, backbone: str | Backbone | None = None
    ) -> None:
        self.n_components = n_components
        self.seed = seed
        self.backbone = backbone

    def fit(self, X: Any, y: Any) -> Self:
        """Fit.

        Parameters
        ----------
        X : array, shape (stimulus, channel, y, x) or (stimulus, feature), or images with a backbone
        y : array or Responses, shape (stimulus, unit) or (stimulus,)

        Returns
        -------
        self
        """
        from sklearn.decomposition import PCA

        check_range("n_components", self.n_components, 1)
        stimuli, targets = self._check_fit(X, y)
        n, n_units = targets.shape
        if n < 2:
            raise ValueError(f"X must hold at least 2 stimuli to find components, got n_samples = {n}")
        flat = stimuli.reshape(n, -1)
        pca = PCA(min(self.n_components, n - 1, flat.shape[1]), random_state=self.seed).fit(flat)
        self.mean_, self.components_ = pca.mean_, pca.components_
        # Directions that only rounding gives a length are as good as absent.
        solution = np.linalg.pinv(_linear_kernel(flat - self.mean_, self.components_), rcond=1e-6)
        self.coef_, self.intercept_ = np.empty((len(solution), n_units)), np.empty(n_units)
        for units, block, mean in _response_blocks(targets):
            self.coef_[:, units], self.intercept_[units] = solution @ block, mean
        return self

    def predict(self, X: Any) -> NDArray[np.float64]:
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
        stimuli = self._check_predict(X)
        scores = _linear_kernel(stimuli.reshape(len(stimuli), -1) - self.mean_, self.components_)
        predicted: NDArray[np.float64] = scores @ self.coef_ + self.intercept_
        return predicted[:, 0] if self.single_target_ else predicted


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
