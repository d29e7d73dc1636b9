"""Pytest settings for the whole tree: what is collected, which kernels run, and no network."""

import os
import socket

import pytest
import torch

# These folders are imported as neuroattn.kernels, neuroattn.datasets and neuroattn.analyses only.
collect_ignore = ["kernels", "datasets", "analyses", "docs", "build"]

# Triton decides at decoration whether a kernel is interpreted, so this precedes every import of neuroattn.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")
os.environ.setdefault("MPLBACKEND", "Agg")


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    """Refuse every connection that leaves this machine."""
    connect = socket.socket.connect

    def guarded(self, address):
        host = address[0] if isinstance(address, tuple) else address
        if self.family != socket.AF_UNIX and host not in ("127.0.0.1", "::1", "localhost"):
            raise OSError(f"tests must not use the network, tried {host!r}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)
