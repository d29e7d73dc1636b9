"""Eccentricity-dependent visual search: eccNET, its experiments, and any backbone."""

from neuroattn.search.config import SearchConfig
from neuroattn.search.eccnet import EccNet, SearchBackbone
from neuroattn.search.taps import TapBackbone, load_search_backbone
from neuroattn.search.trials import SearchTrial
from neuroattn.search.weights import VGG16Weights, read_vgg16_weights

__all__ = [
    "EccNet",
    "SearchBackbone",
    "SearchConfig",
    "SearchTrial",
    "TapBackbone",
    "VGG16Weights",
    "load_search_backbone",
    "read_vgg16_weights",
]
