"""Motor imagery decoding from EEG: networks with channel attention, baselines, protocols, streaming."""

from neuroattn.eeg.alignment import EuclideanAlignment
from neuroattn.eeg.baselines import baseline
from neuroattn.eeg.insert import insert_attention
from neuroattn.eeg.pipelines import BandPass, LateralDifferences
from neuroattn.eeg.protocols import TrialFold, split_trials

__all__ = [
    "BandPass",
    "EuclideanAlignment",
    "LateralDifferences",
    "TrialFold",
    "baseline",
    "insert_attention",
    "split_trials",
]
