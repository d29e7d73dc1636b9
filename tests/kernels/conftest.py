"""Kernels run interpreted on a CPU and compiled on a GPU, on poisoned outputs and guarded inputs."""

import pytest
import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TOLERANCE = {torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}


@pytest.fixture
def device():
    return DEVICE


@pytest.fixture
def poison(monkeypatch):
    """Fill what torch.empty allocates, so that an element nobody writes cannot pass."""
    empty = torch.empty

    def poisoned(*args, **kwargs):
        out = empty(*args, **kwargs)
        return out.fill_(float("nan") if out.is_floating_point() else -(2**15))

    monkeypatch.setattr(torch, "empty", poisoned)


@pytest.fixture
def guarded():
    """Put a tensor on the device inside a buffer of NaN, so that a read out of range shows."""

    def guard(x):
        buffer = torch.full((x.numel() + 4096,), float("nan"), dtype=x.dtype, device=DEVICE)
        inner = buffer[2048 : 2048 + x.numel()].view(x.shape)
        return inner.copy_(x)

    return guard


@pytest.fixture
def assert_close():
    """Compare with float64 numbers, relative to the largest of them, by the one tolerance of a dtype."""

    def check(got, want, dtype):
        scale = max(1.0, want.abs().max().item()) if want.numel() else 1.0
        tolerance = TOLERANCE[dtype] * scale
        torch.testing.assert_close(got.double().cpu(), want.double().cpu(), rtol=0, atol=tolerance)

    return check
