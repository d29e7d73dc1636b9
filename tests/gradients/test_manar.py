"""Gradients of workspace attention reach everything that is learned."""

import pytest
import torch

from neuroattn.attention import MANAR


@pytest.mark.parametrize(
    ("options", "causal"),
    [({}, False), ({"retrieve": 2}, False), ({"competition": "sparsemax"}, False), ({}, True)],
    ids=["softmax", "retrieve", "sparsemax", "causal"],
)
def test_gradients(options, causal):
    torch.manual_seed(0)
    layer = MANAR(4, 2, batch_first=True, n_concepts=3, kappa=0.5, dtype=torch.float64, **options)
    names = [name for name, _ in layer.named_parameters()]
    ignored = torch.tensor([[False, True, False, False, False], [False, False, False, True, True]])

    def run(x, *parameters):
        arguments = {"key_padding_mask": ignored, "is_causal": causal, "need_weights": False}
        return torch.func.functional_call(
            layer, dict(zip(names, parameters, strict=True)), (x, x, x), arguments
        )[0]

    x = torch.randn(2, 5, 4, dtype=torch.float64, requires_grad=True)
    leaves = (x, *(p.detach().clone().requires_grad_() for p in layer.parameters()))
    assert torch.autograd.gradcheck(run, leaves)
    gradients = torch.autograd.grad(run(*leaves).square().sum(), leaves)
    assert all(gradient.abs().max() > 0 for gradient in gradients)


def test_chunks_do_not_matter_for_causal_gradients():
    """Across the border of a chunk, gradients are those of reading every prefix by itself."""
    torch.manual_seed(0)
    layer = MANAR(4, 2, batch_first=True, n_concepts=3, kappa=0.5, dtype=torch.float64)
    x = torch.randn(1, 70, 4, dtype=torch.float64, requires_grad=True)
    pull = torch.randn(1, 70, 4, dtype=torch.float64)
    leaves = (x, *layer.parameters())
    once = torch.autograd.grad((layer(x, x, x, need_weights=False, is_causal=True)[0] * pull).sum(), leaves)
    prefixes = [
        layer(x[:, i : i + 1], x[:, : i + 1], x[:, : i + 1], need_weights=False)[0] for i in range(70)
    ]
    torch.testing.assert_close(torch.autograd.grad((torch.cat(prefixes, 1) * pull).sum(), leaves), once)
