"""EEG decoding with channel attention."""

from neuroattn.eeg.basenet import BaseNet
from neuroattn.eeg.insert import insert_attention
from neuroattn.eeg.presets import PaperSettings, paper_settings
from neuroattn.eeg.recipe import Standardizer, recombine_segments, warmup_cosine
from neuroattn.eeg.reference import load_reference
from neuroattn.eeg.stem import SpatioTemporalStem, plain_stem

__all__ = [
    "BaseNet",
    "PaperSettings",
    "SpatioTemporalStem",
    "Standardizer",
    "insert_attention",
    "load_reference",
    "paper_settings",
    "plain_stem",
    "recombine_segments",
    "warmup_cosine",
]
