"""Definition of the integration of tokens into a workspace."""

import torch
from torch import Tensor


def scores(k: Tensor, concept_k: Tensor, tau: Tensor) -> Tensor:
    """Score each token for each concept: how near their keys are, up to a constant of the token.

    Parameters
    ----------
    k : Tensor, shape (batch, head, token, feature)
    concept_k : Tensor, shape (head, concept, feature) or (batch, head, concept, feature)
    tau : Tensor, shape (head,)

    Returns
    -------
    Tensor, shape (batch, head, token, concept)

    Examples
    --------
    >>> scores(torch.tensor([[[[4.0], [1.0]]]]), torch.tensor([[[4.0], [-4.0]]]), torch.tensor([8.0]))
    tensor([[[[ 1.0000, -3.0000],
              [-0.5000, -1.5000]]]])
    """
    # -|k - concept|^2 / 2 without |k|^2, which a softmax cancels.
    scaled = concept_k / (tau[:, None, None] * k.shape[-1] ** 0.5)
    score: Tensor = k @ scaled.mT - (scaled * concept_k).sum(-1)[..., None, :] / 2
    return score


def assign(k: Tensor, concept_k: Tensor, tau: Tensor, mask: Tensor | None = None) -> Tensor:
    """Share each token among the concepts, by the distance of its key to theirs.

    Parameters
    ----------
    k : Tensor, shape (batch, head, token, feature)
    concept_k : Tensor, shape (head, concept, feature) or (batch, head, concept, feature)
    tau : Tensor, shape (head,)
    mask : bool Tensor, shape (batch, 1 or head, token), or None
        True keeps a token; others are shared with nobody.

    Returns
    -------
    Tensor, shape (batch, head, token, concept)

    Examples
    --------
    >>> assign(torch.tensor([[[[4.0], [1.0]]]]), torch.tensor([[[4.0], [-4.0]]]), torch.tensor([8.0]))
    tensor([[[[0.9820, 0.0180],
              [0.7311, 0.2689]]]])
    """
    share = scores(k, concept_k, tau).softmax(-1)
    return share if mask is None else torch.where(mask[..., None], share, 0)


def average(
    share: Tensor, k: Tensor, v: Tensor, concept_k: Tensor, concept_v: Tensor, log_kappa: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Average tokens by their shares, together with the concepts; see `workspace_integrate`.

    Examples
    --------
    >>> k, concept = torch.tensor([[[[4.0], [2.0]]]]), torch.tensor([[[4.0]]])
    >>> keys, _, log_mass = average(torch.ones(1, 1, 2, 1), k, k, concept, concept, torch.zeros(1, 1))
    >>> keys.item(), log_mass.exp().item()
    (3.33..., 3.0...)
    """
    kappa = log_kappa.exp()
    mass = share.sum(-2) + kappa
    full = mass >= torch.finfo(mass.dtype).tiny
    safe = torch.where(full, mass, 1)
    keys, values = (
        torch.where(full[..., None], (share.mT @ x + kappa[..., None] * concept) / safe[..., None], 0)
        for x, concept in ((k, concept_k), (v, concept_v))
    )
    return keys, values, torch.where(full, safe.log(), -torch.inf)


def workspace_integrate(
    k: Tensor,
    v: Tensor,
    concept_k: Tensor,
    concept_v: Tensor,
    log_kappa: Tensor,
    tau: Tensor,
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Average the tokens of each concept together with the concept itself.

    Parameters
    ----------
    k, v : Tensor, shape (batch, head, token, feature) and (batch, head, token, value_feature)
    concept_k, concept_v : Tensor, shape (head, concept, feature) and (head, concept, value_feature)
    log_kappa : Tensor, shape (head, concept)
    tau : Tensor, shape (head,)
    mask : bool Tensor, shape (batch, 1 or head, token), or None

    Returns
    -------
    keys, values, log_mass : Tensor
        Shapes (batch, head, concept, feature), (batch, head, concept, value_feature) and (batch, head,
        concept). A slot whose mass is below the smallest normal number is empty: 0, 0 and minus infinity.

    Examples
    --------
    >>> k = torch.tensor([[[[4.0], [2.0]]]])
    >>> concept = torch.tensor([[[4.0]]])
    >>> keys, _, log_mass = workspace_integrate(k, k, concept, concept, torch.zeros(1, 1), torch.ones(1))
    >>> keys.item(), log_mass.exp().item()
    (3.33..., 3.0...)
    """
    if mask is not None:  # what a masked token holds does not matter, not even NaN
        k, v = (torch.where(mask[..., None], x, 0) for x in (k, v))
    return average(assign(k, concept_k, tau, mask), k, v, concept_k, concept_v, log_kappa)
