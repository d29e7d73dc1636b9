"""Integration of tokens into a workspace of constant size."""

from neuroattn.kernels.workspace_integrate.op import Workspace, workspace_integrate

__all__ = ["Workspace", "workspace_integrate"]
