"""Compile every shipped kernel for NVIDIA GPUs on a machine without one, and read what the compiler made.

``python -m neuroattn.kernels.lint`` prints registers, spills, shared memory and matrix instructions of each
variant and exits with 1 if one spills, takes more shared memory than a block may have, or multiplies
matrices without tensor cores. It says nothing about speed or races.
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

OPS = ("attention", "routed_readout", "eccentricity_pool", "workspace_integrate", "channel_gate")
# Largest shared memory of a block, in bytes, and the matrix instruction of 64 or more rows.
SHARED_LIMIT = {90: 232448, 80: 166912}
MATRIX_INSTRUCTION = {90: "HGMMA", 80: "HMMA"}


@dataclass(frozen=True)
class Variant:
    """One kernel as it is launched: what ``lint_variants()`` of an operator's ``_triton.py`` lists.

    Attributes
    ----------
    kernel : triton.JITFunction
        The kernel.
    signature : dict
        Type of each run-time argument by name, such as ``"*fp32"``, ``"i32"`` or ``"fp32"``.
    constexprs : dict
        Value of each compile-time argument by name. Strides that are 1 belong here, as in a launch.
    num_warps, num_stages : int
        Launch options.
    divisible_by_16 : tuple of str
        Arguments whose values (addresses for pointers) are multiples of 16.
    tensor_cores : bool
        Whether the kernel must multiply matrices on tensor cores.
    architectures : tuple of int
        Compute capabilities, times ten, that this configuration is launched on.
    """

    kernel: Any
    signature: dict[str, str]
    constexprs: dict[str, Any]
    num_warps: int
    num_stages: int
    divisible_by_16: tuple[str, ...]
    tensor_cores: bool
    architectures: tuple[int, ...] = (90, 80)


@dataclass(frozen=True)
class Report:
    """What the compiler made of a variant; sizes in bytes."""

    registers: int
    spills: int
    shared: int
    matrix_instructions: int


def compile_variant(variant: Variant, architecture: int) -> Report:
    """Compile one variant and read its machine code."""
    import triton
    import triton.backends.nvidia
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = list(variant.kernel.arg_names)
    types = {**variant.signature, **dict.fromkeys(variant.constexprs, "constexpr")}
    if set(types) != set(names):
        wrong = sorted(set(types) ^ set(names))
        raise ValueError(
            f"variant of {variant.kernel.__name__} must name each argument once, wrong or missing: {wrong}"
        )
    source = ASTSource(
        fn=variant.kernel,
        signature={name: types[name] for name in names},
        constexprs=variant.constexprs,
        attrs={(names.index(name),): [["tt.divisibility", 16]] for name in variant.divisible_by_16},
    )
    compiled = triton.compile(
        source,
        target=GPUTarget("cuda", architecture, 32),
        options={"num_warps": variant.num_warps, "num_stages": variant.num_stages},
    )
    tools = Path(triton.backends.nvidia.__file__).parent / "bin"
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder, "kernel.cubin")
        cubin.write_bytes(compiled.asm["cubin"])

        def run(tool: str, option: str) -> str:
            return subprocess.run(
                [tools / tool, option, cubin], capture_output=True, text=True, check=True
            ).stdout

        usage, code = run("cuobjdump", "--dump-resource-usage"), run("nvdisasm", "-c")

    def used(key: str) -> int:
        found = re.search(rf"{key}:(\d+)", usage)
        if found is None:
            raise RuntimeError(f"cuobjdump printed no {key}: {usage!r}")
        return int(found.group(1))

    return Report(
        registers=used("REG"),
        spills=used("STACK") + used("LOCAL"),
        shared=compiled.metadata.shared,
        matrix_instructions=len(re.findall(rf"\b{MATRIX_INSTRUCTION[architecture]}\b", code)),
    )


def faults(variant: Variant, architecture: int, report: Report) -> list[str]:
    """Say what is wrong with a compiled variant.

    Examples
    --------
    >>> variant = Variant(None, {}, {}, 4, 2, (), tensor_cores=True)
    >>> faults(variant, 90, Report(registers=255, spills=8, shared=1024, matrix_instructions=0))
    ['spills 8 bytes', 'no HGMMA']
    """
    found = []
    if report.spills:
        found.append(f"spills {report.spills} bytes")
    if report.shared > SHARED_LIMIT[architecture]:
        found.append(f"{report.shared} bytes of shared memory, {SHARED_LIMIT[architecture]} allowed")
    if variant.tensor_cores and not report.matrix_instructions:
        found.append(f"no {MATRIX_INSTRUCTION[architecture]}")
    return found


def main(arguments: list[str] | None = None) -> int:
    """Compile the variants of all operators and print one line for each."""
    parser = argparse.ArgumentParser(prog="python -m neuroattn.kernels.lint", description=__doc__)
    parser.add_argument("--op", choices=OPS, action="append", help="only this operator (may be repeated)")
    parser.add_argument("--arch", type=int, choices=SHARED_LIMIT, action="append", help="only this target")
    parser.add_argument("--dtype", choices=("fp32", "fp16", "bf16"), help="only kernels of this dtype")
    options = parser.parse_args(arguments)
    if os.environ.get("TRITON_INTERPRET"):  # interpreted kernels cannot be compiled
        environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
        command = [sys.executable, "-m", "neuroattn.kernels.lint"]
        return subprocess.run([*command, *(arguments or sys.argv[1:])], env=environment).returncode

    import triton

    architectures = options.arch or list(SHARED_LIMIT)
    print(f"triton {triton.__version__}")
    print(f"{'kernel':44} {'target':>6} {'regs':>5} {'spills':>6} {'shared':>7} {'matrix':>6}  configuration")
    failed = total = 0
    for op in options.op or OPS:
        module = importlib.import_module(f"neuroattn.kernels.{op}._triton")
        for variant in module.lint_variants():
            types = next(t for t in variant.signature.values() if t.startswith("*"))
            for architecture in architectures if options.dtype in (None, types[1:]) else ():
                if architecture not in variant.architectures:
                    continue
                report = compile_variant(variant, architecture)
                wrong = faults(variant, architecture, report)
                constants = " ".join(f"{name}={value}" for name, value in variant.constexprs.items())
                print(
                    f"{f'{op}.{variant.kernel.__name__} {types[1:]}':44} sm_{architecture:<3} "
                    f"{report.registers:5} {report.spills:6} {report.shared:7} "
                    f"{report.matrix_instructions:6}  warps={variant.num_warps} "
                    f"stages={variant.num_stages} {constants}"
                    + "".join(f"\n  FAULT: {fault}" for fault in wrong),
                    flush=True,
                )
                total += 1
                failed += bool(wrong)
    print(f"{total} variants, {failed} with faults")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
