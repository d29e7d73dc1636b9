"""Eccentricity-dependent visual search: eccNET, its experiments, and any backbone."""

from neuroattn.search.config import SearchConfig
from neuroattn.search.eccnet import EccNet, SearchBackbone
from neuroattn.search.trials import SearchTrial

__all__ = ["EccNet", "SearchBackbone", "SearchConfig", "SearchTrial"]
