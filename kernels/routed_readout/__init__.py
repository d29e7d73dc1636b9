"""Linear readout of units that listen to some regions only: definition, CPU route and Triton kernels."""

from neuroattn.kernels.routed_readout.op import routed_readout
from neuroattn.kernels.routed_readout.routing import Routing

__all__ = ["Routing", "routed_readout"]
