"""Gaze scanpaths over objects: models, their references, and how well they predict people."""

from neuroattn.scanpath.base import PixelModel, ScanpathModel, sampled_scanpaths
from neuroattn.scanpath.estimator import ObjectAttentionTransformer
from neuroattn.scanpath.reference import load_reference
from neuroattn.scanpath.references import (
    CentreBias,
    ConditionalLogit,
    MemoryFullRandom,
    NearestUnvisited,
    PositionMarkov,
    SaliencySampling,
    UniformChoice,
    gold_standard,
)

__all__ = [
    "CentreBias",
    "ConditionalLogit",
    "MemoryFullRandom",
    "NearestUnvisited",
    "ObjectAttentionTransformer",
    "PixelModel",
    "PositionMarkov",
    "SaliencySampling",
    "ScanpathModel",
    "UniformChoice",
    "gold_standard",
    "load_reference",
    "sampled_scanpaths",
]
