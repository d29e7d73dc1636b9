"""Check, then time, the primitives beside their alternatives; write JSON; render it as a table."""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from neuroattn.kernels.benchmarks.registry import Case

OPS = (
    "attention",
    "routed_readout",
    "eccentricity_pool",
    "workspace_integrate",
    "channel_gate",
    "manar",
    "encoder",
    "eeg_basenet",
    "eeg_batched",
    "eeg_streaming",
    "multimatch",
    "scanpath_decoding",
    "search",
)
CLOCKS = {"processor": time.process_time, "wall": time.perf_counter}
RESULTS = Path(__file__).parent / "results"


def results_of(function: Callable[..., Any], case: Case, training: bool) -> list[Tensor]:
    """Return the outputs, or the gradients of the inputs for a gradient of ones."""
    with torch.set_grad_enabled(training):
        outputs = function(*case.inputs)
        outputs = [outputs] if isinstance(outputs, Tensor) else [x for x in outputs if x is not None]
        if not training:
            return outputs
        leaves = [x for x in case.inputs if x.requires_grad]
        return list(torch.autograd.grad(outputs, leaves, [torch.ones_like(x) for x in outputs]))


def error(ours: list[Tensor], theirs: list[Tensor]) -> float:
    """Largest difference relative to the largest number of the peer; infinite if something is missing."""
    if [x.shape for x in ours] != [x.shape for x in theirs]:
        return float("inf")
    pairs = [(a.double(), b.double()) for a, b in zip(ours, theirs, strict=True)]
    return max(float((a - b).abs().max() / b.abs().max().clamp_min(1e-30)) for a, b in pairs)


def peak_memory(device: str, run: Callable[[], Any]) -> int | None:
    """Bytes ``run`` needs beyond what the process holds, freed memory it kept included; None if unknown."""
    gc.collect()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before

    def status(field: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith(field)).split()[1])

    try:
        Path("/proc/self/clear_refs").write_text("5")  # set the high-water mark back to the present size
    except OSError:
        return None
    before = status("VmRSS")
    run()
    return max(0, status("VmHWM") - before)


def seconds(device: str, run: Callable[[], Any]) -> float:
    """Time one run."""
    if device == "cuda":
        event: Any = torch.cuda.Event
        start, end = event(enable_timing=True), event(enable_timing=True)
        start.record()
        run()
        end.record()
        torch.cuda.synchronize()
        return float(start.elapsed_time(end)) / 1e3
    clock = CLOCKS[cpu_clock()]
    begin = clock()
    run()
    return clock() - begin


def cpu_clock() -> str:
    """Name the clock: with one thread, processor time, in which other work on the machine does not count."""
    return "processor" if torch.get_num_threads() == 1 else "wall"


def check(case: Case, training: bool) -> dict[str, float]:
    """Return how far our results are from those of each peer; stop if that is too far."""
    errors = {}
    ours = results_of(case.ours, case, training)
    for name, peer in case.peers.items():
        theirs = results_of(peer, case, training)
        compared = ours
        if name in case.share:
            compared = [a[: len(b)] for a, b in zip(ours, theirs, strict=True)]
        errors[name] = error(compared, theirs)
        if not errors[name] <= case.check:
            raise SystemExit(
                f"{case.name}: ours and {name} differ by {errors[name]:.1e}, {case.check:.1e} allowed"
            )
    return errors


def measure(case: Case, device: str, training: bool, rounds: int) -> dict[str, Any]:
    """Check one case against its peers, then time them in turns."""
    functions = {"ours": case.ours, **case.peers}
    errors = check(case, training)
    times: dict[str, list[float]] = {name: [] for name in functions}
    runs = {name: partial(results_of, function, case, training) for name, function in functions.items()}
    memory = {name: peak_memory(device, run) for name, run in runs.items()}
    for _ in range(rounds):
        for name, run in runs.items():
            times[name].append(seconds(device, run) / case.share.get(name, 1))
    medians = {name: statistics.median(t) for name, t in times.items()}
    target = case.training_target if training else case.target
    table = {}
    for name, median in medians.items():
        quarters = statistics.quantiles(times[name], n=4)
        entry: dict[str, Any] = {
            "median_s": median,
            "interquartile_range_s": quarters[2] - quarters[0],
            "peak_bytes": memory[name],
        }
        if not training:
            entry |= {"bytes_per_s": case.bytes / median, "flop_per_s": case.flops / median}
        if case.items and name == "ours":
            entry |= {"items": case.items, "items_per_s": case.items / median}
            if memory[name] is not None:
                entry["bytes_per_item"] = memory[name] / case.items
        if name != "ours":
            ratio = statistics.median(p / o for p, o in zip(times[name], times["ours"], strict=True))
            entry |= {"error": errors[name], "ratio": ratio}
            if name in target:
                entry |= {"target": target[name], "hit": ratio >= target[name]}
            if name in case.share:
                entry["share"] = case.share[name]
            if training and name in case.memory_target and memory[name] is not None:
                # Beyond the gradients of the inputs, which both must return.
                kept = sum(x.numel() * x.element_size() for x in case.inputs if x.requires_grad)
                extra = {way: max(0, memory[way] - kept) for way in ("ours", name)}
                hit = extra["ours"] * case.memory_target[name] <= extra[name]
                entry |= {"our_extra_bytes": extra["ours"], "extra_bytes": extra[name], "memory_hit": hit}
        table[name] = entry
    return table


def machine(device: str) -> dict[str, Any]:
    """Where and with what the numbers were made."""
    model = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), model)

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    dirty = "-dirty" if git("status", "--porcelain", "--untracked-files=no") else ""
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "clock": "device" if device == "cuda" else cpu_clock(),
        "gpu": torch.cuda.get_device_name() if device == "cuda" else None,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": version("triton") if platform.system() == "Linux" else None,
        "commit": git("rev-parse", "--short", "HEAD") + dirty,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def measure_op(device: str, op: str, rounds: int) -> dict[str, Any]:
    """Measure all cases of an operator."""
    module = importlib.import_module(f"neuroattn.kernels.benchmarks.{op}")
    report: dict[str, Any] = {"op": op, "device": device, "machine": machine(device), "cases": []}
    for case in module.cases(device):
        mode = "training" if case.step else "forward"
        entry: dict[str, Any] = {"name": case.name, mode: measure(case, device, False, rounds)}
        if case.backward:
            entry["training"] = measure(case, device, True, rounds)
        report["cases"].append(entry)
        for mode in ("forward", "training"):
            for name, row in entry.get(mode, {}).items():
                if name != "ours":
                    verdict = ""
                    if "target" in row:
                        verdict = f"target {row['target']:g} {'hit' if row['hit'] else 'MISSED'}"
                    took = entry[mode]["ours"]["median_s"]
                    print(
                        f"{op} {case.name} | {mode:8} {1e3 * took:9.2f} ms | {name:32} "
                        f"{row['ratio']:7.2f}x {verdict}",
                        flush=True,
                    )
    return report


def load_results(*ops: str) -> list[dict[str, Any]]:
    """Read what was measured of some benchmarks, on any device."""
    paths = sorted(path for op in ops for path in RESULTS.glob(f"*-{op}.json"))
    return [json.loads(path.read_text()) for path in paths]


def table(reports: list[dict[str, Any]]) -> str:
    """Render reports as a Markdown table of time ratios, one row per peer."""
    lines = [
        "| primitive | workload | beside | forward | forward + backward | machine |",
        "| --- | --- | --- | --- | --- | --- |",
    ]

    def cell(row: dict[str, Any] | None) -> str:
        if row is None:
            return ""
        missed = f" (target {row['target']:g})" if row.get("hit") is False else ""
        return f"{row['ratio']:.2f}x{missed}"

    for report in reports:
        where = report["machine"]["gpu"] or report["machine"]["processor"]
        for case in report["cases"]:
            forward, training = case.get("forward", {}), case.get("training", {})
            for peer in forward or training:
                if peer != "ours":
                    ratios = [cell(forward.get(peer)), cell(training.get(peer))]
                    cells = [report["op"], case["name"], peer, *ratios, where]
                    lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmarks of one device, or print the table of what was measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, help="threads of torch on the CPU; default its own choice")
    parser.add_argument("--only", choices=OPS, help="one operator")
    parser.add_argument("--quick", action="store_true", help="three rounds instead of seven, write no file")
    parser.add_argument(
        "--table", action="store_true", help="print the table of the files and measure nothing"
    )
    options = parser.parse_args(arguments)
    if options.table:
        print(table(load_results(*OPS)))
        return
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA device is available")
    if options.threads:
        torch.set_num_threads(options.threads)
    for op in (options.only,) if options.only else OPS:
        report = measure_op(options.device, op, 3 if options.quick else 7)
        if not options.quick:
            RESULTS.mkdir(exist_ok=True)
            path = RESULTS / f"{options.device}-{op}.json"
            temporary = path.with_suffix(".tmp")
            temporary.write_text(json.dumps(report, indent=1) + "\n")
            temporary.replace(path)


if __name__ == "__main__":
    main()
