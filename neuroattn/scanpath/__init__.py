"""Gaze scanpaths over objects: models, their references, and how well they predict people."""

from neuroattn.scanpath.base import PathState, PixelModel, ScanpathModel, sampled_scanpaths

__all__ = ["PathState", "PixelModel", "ScanpathModel", "sampled_scanpaths"]
