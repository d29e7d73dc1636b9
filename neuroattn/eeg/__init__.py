"""Decoding of motor imagery from EEG: networks with channel attention, baselines, protocols, streaming."""

from neuroattn.eeg.alignment import EuclideanAlignment
from neuroattn.eeg.baselines import baseline
from neuroattn.eeg.basenet import BaseNet
from neuroattn.eeg.batched import train_together
from neuroattn.eeg.classifier import MotorImageryClassifier
from neuroattn.eeg.insert import insert_attention, inserted_attentions
from neuroattn.eeg.interpret import attention_gates, attention_maps, saliency, spatial_patterns
from neuroattn.eeg.moabb import run_moabb
from neuroattn.eeg.pipelines import BandPass, LateralDifferences
from neuroattn.eeg.presets import PaperSettings, paper_settings
from neuroattn.eeg.protocols import TrialFold, split_trials
from neuroattn.eeg.recipe import Standardizer, recombine_segments, warmup_cosine
from neuroattn.eeg.reference import load_reference
from neuroattn.eeg.stem import SpatioTemporalStem, plain_stem
from neuroattn.eeg.streaming import Decision, Replay, StreamingDecoder

__all__ = [
    "BandPass",
    "BaseNet",
    "Decision",
    "EuclideanAlignment",
    "LateralDifferences",
    "MotorImageryClassifier",
    "PaperSettings",
    "Replay",
    "SpatioTemporalStem",
    "Standardizer",
    "StreamingDecoder",
    "TrialFold",
    "attention_gates",
    "attention_maps",
    "baseline",
    "insert_attention",
    "inserted_attentions",
    "load_reference",
    "paper_settings",
    "plain_stem",
    "recombine_segments",
    "run_moabb",
    "saliency",
    "spatial_patterns",
    "split_trials",
    "train_together",
    "warmup_cosine",
]
