"""Pipelines that every network is compared with: Riemannian, spatial filters, and the slow-signal control."""

from __future__ import annotations

from collections.abc import Sequence

from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from neuroattn._checks import check_option
from neuroattn.eeg.pipelines import BandPass, LateralDifferences

BASELINES = ("tangent-space", "csp-lda", "slow-signals")


def baseline(
    name: str,
    *,
    sfreq: float,
    band: tuple[float | None, float | None] | None = (8.0, 30.0),
    causal: bool = False,
    ch_names: Sequence[str] | None = None,
) -> Pipeline:
    """Build a pipeline that networks are compared with.

    Parameters
    ----------
    name : {"tangent-space", "csp-lda", "slow-signals"}
        "tangent-space": shrunk covariances projected to the tangent space [1]_, logistic regression.
        "csp-lda": logarithmic power of six common spatial patterns, linear discriminant analysis.
        "slow-signals": logistic regression on right minus left electrodes below 4 Hz
        (:class:`LateralDifferences`). It is a control, not a decoder of imagery: what it scores on broadband signals
        can be had from eye movements and evoked waves that follow a cue on the left or right. A network's broadband
        score is evidence of imagery only where this pipeline fails.
    sfreq : float
        Sampling rate in hertz.
    band : (float or None, float or None), default (8, 30)
        Pass band in hertz of a first step; None if the trials are filtered already. Not used by "slow-signals", which
        needs unfiltered trials.
    causal : bool, default False
        Direction of that filter, as in :class:`BandPass`.
    ch_names : sequence of str
        Needed by "slow-signals" alone.

    Returns
    -------
    Pipeline
        Takes trials (trial, channel, time) in microvolt.

    References
    ----------
    .. [1] Barachant et al. (2013). Classification of covariance matrices using a Riemannian-based kernel for BCI
       applications. Neurocomputing 112.

    Examples
    --------
    >>> baseline("tangent-space", sfreq=250).steps[-1]
    ('logisticregression', LogisticRegression(max_iter=1000))
    """
    check_option("name", name, BASELINES)
    if name == "slow-signals":
        if ch_names is None:
            raise ValueError(
                "ch_names must be given for 'slow-signals', whose features are pairs of electrodes"
            )
        return make_pipeline(
            LateralDifferences(list(ch_names), sfreq), StandardScaler(), LogisticRegression(max_iter=1000)
        )
    steps = [] if band is None else [BandPass(*band, sfreq, causal=causal)]
    if name == "csp-lda":
        from mne.decoding import CSP

        return make_pipeline(*steps, CSP(n_components=6), LinearDiscriminantAnalysis())
    from pyriemann.estimation import Covariances
    from pyriemann.tangentspace import TangentSpace

    return make_pipeline(*steps, Covariances("oas"), TangentSpace(), LogisticRegression(max_iter=1000))
