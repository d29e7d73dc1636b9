"""Brain encoders: from images to responses of fMRI vertices, voxels or neurons."""

from neuroattn._backbones import Backbone, Preprocessing, load_backbone
from neuroattn.encoding.estimators import (
    BandedRidgeEncoder,
    Encoder,
    PcaRegressionEncoder,
    PooledRidgeEncoder,
    RidgeEncoder,
    load_encoder,
)
from neuroattn.encoding.features import (
    FeatureDataset,
    FeatureStore,
    collate,
    extract_features,
)
from neuroattn.encoding.network_encoders import (
    BrainEncoder,
    ConvolutionEncoder,
    FactorizedEncoder,
    GaussianEncoder,
    NetworkEncoder,
    ProbeEncoder,
)
from neuroattn.encoding.networks import EncoderOutput, LayerMix
from neuroattn.encoding.reference import load_reference
from neuroattn.encoding.shared import SharedBrainEncoder

__all__ = [
    "Backbone",
    "BandedRidgeEncoder",
    "BrainEncoder",
    "ConvolutionEncoder",
    "Encoder",
    "EncoderOutput",
    "FactorizedEncoder",
    "FeatureDataset",
    "FeatureStore",
    "GaussianEncoder",
    "LayerMix",
    "NetworkEncoder",
    "PcaRegressionEncoder",
    "PooledRidgeEncoder",
    "Preprocessing",
    "ProbeEncoder",
    "RidgeEncoder",
    "SharedBrainEncoder",
    "collate",
    "extract_features",
    "load_backbone",
    "load_encoder",
    "load_reference",
]
