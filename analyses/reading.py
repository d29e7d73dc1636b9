"""What analyses of a fitted encoder share: its features, its queries, and other stimuli to compare with."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from neuroattn._checks import check_shape
from neuroattn.encoding import BrainEncoder
from neuroattn.encoding.network_encoders import query_masks

N_RESAMPLES = 500
N_SHUFFLES = 5  # maps or masks of other stimuli, averaged over


def read_encoder(encoder: BrainEncoder, X: Any) -> tuple[BrainEncoder, NDArray[np.float32]]:
    """Return an encoder that is given features, and the features (stimulus, channel, y, x) of X in memory.

    Raises
    ------
    ValueError
        If the encoder mixes layers.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> X, y = rng.normal(size=(40, 8, 3, 5)), rng.normal(size=(40, 6)).astype("f4")
    >>> reader, features = read_encoder(BrainEncoder(epochs=1).fit(X, y), X)
    >>> reader.backbone, features.shape
    (None, (40, 8, 3, 5))
    """
    check_is_fitted(encoder)
    if encoder.feature_layers_ is not None:
        raise ValueError(f"encoder must read features of one layer, got {encoder.feature_layers_}")
    given = encoder._features(X)
    if isinstance(given, Mapping):
        raise ValueError(f"X must hold features of one layer, got {list(given)}")
    features = np.asarray(given[:], np.float32)
    check_shape("X", features, "stimulus", encoder.n_channels_, "y", "x")
    reader = copy.copy(encoder)
    reader.backbone = None
    return reader, features


def units_of_queries(encoder: BrainEncoder) -> NDArray[np.bool_]:
    """Return which units read each query (query, unit).

    Raises
    ------
    ValueError
        If the encoder has one query a unit.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> X, y = rng.normal(size=(40, 8, 3, 5)).astype("f4"), rng.normal(size=(40, 3)).astype("f4")
    >>> encoder = BrainEncoder({"V1": np.arange(3) < 2, "FFA": np.arange(3) > 0}, epochs=1).fit(X, y)
    >>> units_of_queries(encoder).tolist()
    [[True, True, False], [False, True, True]]
    """
    reads, _ = query_masks(encoder._membership(), encoder.readout)
    if reads is None:
        raise ValueError(f"readout must be 'roi' or 'hemisphere' to tell regions, got {encoder.readout!r}")
    masks: NDArray[np.bool_] = reads.numpy()
    return masks


def query_coords(encoder: BrainEncoder) -> dict[str, tuple[str, NDArray[np.str_]]]:
    """Return the coordinates ``roi`` and ``hemisphere`` of an encoder's queries.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> X, y = rng.normal(size=(40, 8, 3, 5)).astype("f4"), rng.normal(size=(40, 6)).astype("f4")
    >>> query_coords(BrainEncoder(epochs=1).fit(X, y))["roi"][1].tolist()
    ['all']
    """
    return {name: ("query", encoder.queries_[name].to_numpy(str)) for name in ("roi", "hemisphere")}


def other_rows(n: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """Return another row for every row, each once.

    Examples
    --------
    >>> other = other_rows(5, np.random.default_rng(0))
    >>> sorted(other.tolist()), bool((other != np.arange(5)).all())
    ([0, 1, 2, 3, 4], True)
    """
    cycle = rng.permutation(n)
    other = np.empty(n, np.intp)
    other[cycle] = np.roll(cycle, 1)
    return other
