"""Eccentricity-dependent visual search: eccNET, its experiments, and any backbone."""

from neuroattn.search import experiments, items
from neuroattn.search.backbone import SearchBackbone
from neuroattn.search.config import SearchConfig
from neuroattn.search.controls import PixelMatch, RandomSearch, random_weights, without_eccentricity
from neuroattn.search.eccnet import EccNet
from neuroattn.search.experiments import Condition, Experiment
from neuroattn.search.features import VGG16
from neuroattn.search.human import human_rt
from neuroattn.search.items import Item
from neuroattn.search.recognition import Recogniser, fit_recogniser
from neuroattn.search.reference import load_reference
from neuroattn.search.running import Searcher, fit_rt, run_experiment
from neuroattn.search.taps import TapBackbone, load_search_backbone
from neuroattn.search.trials import SearchTrial
from neuroattn.search.weights import VGG16Weights, read_vgg16_weights

__all__ = [
    "Condition",
    "EccNet",
    "Experiment",
    "Item",
    "PixelMatch",
    "RandomSearch",
    "Recogniser",
    "SearchBackbone",
    "SearchConfig",
    "SearchTrial",
    "Searcher",
    "TapBackbone",
    "VGG16",
    "VGG16Weights",
    "experiments",
    "fit_recogniser",
    "fit_rt",
    "human_rt",
    "items",
    "load_reference",
    "load_search_backbone",
    "random_weights",
    "read_vgg16_weights",
    "run_experiment",
    "without_eccentricity",
]
