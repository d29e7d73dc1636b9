"""Eccentricity-dependent visual search: eccNET, its experiments, and any backbone."""

from neuroattn.search.backbone import SearchBackbone
from neuroattn.search.config import SearchConfig
from neuroattn.search.eccnet import EccNet
from neuroattn.search.features import VGG16
from neuroattn.search.recognition import Recogniser, fit_recogniser
from neuroattn.search.reference import ReferenceSearch, load_reference
from neuroattn.search.taps import TapBackbone, load_search_backbone
from neuroattn.search.trials import SearchTrial
from neuroattn.search.weights import VGG16Weights, read_vgg16_weights

__all__ = [
    "EccNet",
    "Recogniser",
    "ReferenceSearch",
    "SearchBackbone",
    "SearchConfig",
    "SearchTrial",
    "TapBackbone",
    "VGG16",
    "VGG16Weights",
    "fit_recogniser",
    "load_reference",
    "load_search_backbone",
    "read_vgg16_weights",
]
