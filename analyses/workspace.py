"""Look into the workspaces of a model, and take concepts out of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from neuroattn import __version__
from neuroattn._checks import check_option
from neuroattn.attention import GlobalWorkspace, WorkspaceView


def inspect_workspace(model: nn.Module, *args: Any, **kwargs: Any) -> dict[str, xr.Dataset]:
    """Show what happens in every workspace of a model while it runs once, in evaluation mode and without gradients.

    The layers are workspace attention by our own derivation of MANAR [1]_.

    Parameters
    ----------
    model : Module
        A `neuroattn.attention.MANAR`, a model that has some, or one from `neuroattn.attention.convert_to_manar`.
    *args, **kwargs
        What the model takes.

    Returns
    -------
    dict of str to Dataset
        By name of the attention layer, "" for the model itself; of the last call where there are several. Dims sample,
        head, token, query and slot:

        - ``assignment`` (sample, head, token, slot): share of each token in each slot, 0..1;
        - ``mass`` (sample, head, slot), with a causal mask (sample, head, query, slot): occupancy, tokens and
          pseudo-count of the concept;
        - ``reading`` (sample, head, query, slot): attention of the queries to the slots;
        - ``weights`` (sample, head, query, token): effective weight of each token;
        - ``memory_share`` (sample, head, query): share of the learned concepts in what is read, 0..1; with ``weights``
          it sums to 1.

        Coordinate ``concept`` (sample, head, slot) says whose slot it is.

    Raises
    ------
    ValueError
        If the model has no workspace, or none was used.

    References
    ----------
    .. [1] Jahshan, Ben Ishay & Yavits (2026). MANAR. arXiv:2603.18676.

    Examples
    --------
    >>> from neuroattn.attention import MANAR
    >>> x = torch.zeros(3, 10, 8)
    >>> views = inspect_workspace(MANAR(8, 2, n_concepts=4, batch_first=True), x, x, x)
    >>> dict(views[""].sizes)
    {'sample': 3, 'head': 2, 'token': 10, 'slot': 4, 'query': 10}
    """
    views: dict[str, WorkspaceView] = {}
    handles = []
    for name, workspace in _workspaces(model).items():

        def look(module: GlobalWorkspace, inputs: Any, named: Any, name: str = name) -> None:
            view = module.forward(*inputs, **{**named, "return_view": True})
            if isinstance(view, WorkspaceView):
                views[name] = view

        handles.append(workspace.register_forward_pre_hook(look, with_kwargs=True))
    try:
        _run(model, args, kwargs)
    finally:
        for handle in handles:
            handle.remove()
    if not views:
        raise ValueError("args must make the model use a workspace, none was")
    return {name: _label(view) for name, view in views.items()}


def lesion_concepts(model: nn.Module, layer: str, *args: Any, **kwargs: Any) -> xr.DataArray:
    """Measure how much the output of a model changes when it loses one concept of a layer after the other.

    Parameters
    ----------
    model : Module
        See `inspect_workspace`.
    layer : str
        Name of the attention layer, "" for the model itself.
    *args, **kwargs
        What the model takes.

    Returns
    -------
    DataArray, dims (concept, sample)
        Norm of the change over the norm of the intact output, of its first tensor, whose first axis is taken for the
        sample; for layers without ``batch_first`` it is the token.

    Raises
    ------
    ValueError
        If there is no such layer or it has a single concept.

    Examples
    --------
    >>> from neuroattn.attention import MANAR
    >>> x = torch.randn(3, 10, 8)
    >>> lesion_concepts(MANAR(8, 2, n_concepts=4, batch_first=True), "", x, x, x).sizes
    Frozen({'concept': 4, 'sample': 3})
    """
    found = _workspaces(model)
    workspace = found[check_option("layer", layer, found)]
    intact = _run(model, args, kwargs).flatten(1)
    change = []
    for concept in range(len(workspace.concepts)):
        with workspace.lesion([concept]):
            lesioned = _run(model, args, kwargs).flatten(1)
        change.append(
            (lesioned - intact).norm(dim=1) / intact.norm(dim=1).clamp_min(torch.finfo(intact.dtype).tiny)
        )
    return xr.DataArray(
        _array(torch.stack(change)),
        dims=("concept", "sample"),
        coords={"concept": np.arange(len(change))},
        name="change",
        attrs={
            "long_name": "relative change of the output without the concept",
            "units": "1",
            "layer": layer,
            "neuroattn_version": __version__,
        },
    )


def _workspaces(model: nn.Module) -> dict[str, GlobalWorkspace]:
    """Return the workspaces by the name of the layer that holds each."""
    found = {
        name.rpartition(".")[0]: module
        for name, module in model.named_modules()
        if isinstance(module, GlobalWorkspace)
    }
    if not found:
        raise ValueError(f"model must have workspace attention, found none in {type(model).__name__}")
    return found


@torch.no_grad()
def _run(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor:
    """Run a model in evaluation mode, leave its modes as they were, and return the first tensor of its output."""
    modes = {module: module.training for module in model.modules()}
    try:
        output = model.eval()(*args, **kwargs)
    finally:
        for module, training in modes.items():
            module.training = training
    while not isinstance(output, Tensor):
        output = next(iter(output.values() if isinstance(output, Mapping) else output))
    return output


def _array(x: Tensor) -> np.ndarray[Any, Any]:
    array: np.ndarray[Any, Any] = x.detach().cpu().numpy()
    return array


def _label(view: WorkspaceView) -> xr.Dataset:
    across = ("sample", "head")
    mass = view.mass[:, :, 0] if view.mass.shape[2] == 1 else view.mass
    variables: dict[str, tuple[tuple[str, ...], Tensor, str, str]] = {
        "assignment": ((*across, "token", "slot"), view.assignment, "share of the token in the slot", "1"),
        "mass": (
            (*across, "slot") if mass.ndim == 3 else (*across, "query", "slot"),
            mass,
            "occupancy of the slot",
            "tokens",
        ),
        "reading": ((*across, "query", "slot"), view.reading, "attention of the query to the slot", "1"),
        "weights": ((*across, "query", "token"), view.weights, "effective weight of the token", "1"),
        "memory_share": ((*across, "query"), view.memory_share, "share of learned concepts", "1"),
    }
    return xr.Dataset(
        {
            name: (dims, _array(values), {"long_name": long_name, "units": units})
            for name, (dims, values, long_name, units) in variables.items()
        },
        coords={"concept": ((*across, "slot"), _array(view.concept))},
        attrs={"neuroattn_version": __version__},
    )
