"""Pooling whose windows grow with eccentricity."""

from neuroattn.kernels.eccentricity_pool.law import LinearLaw
from neuroattn.kernels.eccentricity_pool.op import eccentricity_pool

__all__ = ["LinearLaw", "eccentricity_pool"]
