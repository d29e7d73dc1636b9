"""Gaze scanpaths over objects: models, their references, and how well they predict people."""

from neuroattn.scanpath.base import PathState, PixelModel, ScanpathModel, sampled_scanpaths
from neuroattn.scanpath.estimator import ObjectAttentionTransformer
from neuroattn.scanpath.reference import load_reference

__all__ = [
    "ObjectAttentionTransformer",
    "PathState",
    "PixelModel",
    "ScanpathModel",
    "load_reference",
    "sampled_scanpaths",
]
