"""The lint compiles kernels for a GPU that is not there, and says what is wrong with them."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("triton", reason="no triton on this platform")
from neuroattn.kernels import lint


@pytest.mark.parametrize("op", lint.OPS)
def test_shipped_kernels_compile_for_sm_90_without_spills(op):
    """One dtype here; `make lint` compiles all of them, for sm_80 too."""
    command = [sys.executable, "-m", "neuroattn.kernels.lint", "--op", op, "--arch", "90", "--dtype", "bf16"]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "TRITON_INTERPRET": "1"}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "sm_90" in done.stdout
    assert "0 with faults" in done.stdout


def test_faults_are_named():
    variant = lint.Variant(None, {}, {}, 4, 2, (), tensor_cores=True)
    sound = lint.Report(registers=128, spills=0, shared=1024, matrix_instructions=4)
    assert lint.faults(variant, 80, sound) == []
    bad = lint.Report(registers=255, spills=8, shared=200_000, matrix_instructions=0)
    assert lint.faults(variant, 90, bad) == ["spills 8 bytes", "no HGMMA"]
    assert lint.faults(variant, 80, bad) == [
        "spills 8 bytes",
        "200000 bytes of shared memory, 166912 allowed",
        "no HMMA",
    ]


def test_every_operator_lists_each_argument_of_its_kernels_once():
    for op in lint.OPS:
        module = __import__(f"neuroattn.kernels.{op}._triton", fromlist=["lint_variants"])
        kernels = {v.kernel.__name__ for v in module.lint_variants()}
        shipped = {name for name in vars(module) if name.endswith("_kernel")}
        assert kernels == shipped
        for variant in module.lint_variants():
            assert not set(variant.signature) & set(variant.constexprs)
            assert set(variant.signature) | set(variant.constexprs) == set(variant.kernel.arg_names)
