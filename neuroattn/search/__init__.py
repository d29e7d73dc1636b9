"""Eccentricity-dependent visual search: eccNET, its experiments, and any backbone."""

from neuroattn.search.backbone import SearchBackbone
from neuroattn.search.config import SearchConfig
from neuroattn.search.eccnet import EccNet
from neuroattn.search.features import VGG16
from neuroattn.search.recognition import Recogniser, fit_recogniser
from neuroattn.search.reference import load_reference
from neuroattn.search.trials import SearchTrial

__all__ = [
    "EccNet",
    "Recogniser",
    "SearchBackbone",
    "SearchConfig",
    "SearchTrial",
    "VGG16",
    "fit_recogniser",
    "load_reference",
]
