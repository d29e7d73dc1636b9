"""The benchmarks refuse to time what disagrees, and render what they measured."""

import json

import pytest
import torch

from neuroattn.kernels.benchmarks import run
from neuroattn.kernels.benchmarks.registry import Case


def make_case(peer, **options):
    x = torch.linspace(-1, 1, 100).requires_grad_()
    return Case("tanh of 100 numbers", torch.tanh, {"by hand": peer}, inputs=(x,), **options)


def by_hand(x):
    return (x.exp() - (-x).exp()) / (x.exp() + (-x).exp())


def test_a_peer_that_disagrees_is_not_timed():
    with pytest.raises(
        SystemExit, match=r"tanh of 100 numbers: ours and by hand differ by .* 1.0e-05 allowed"
    ):
        run.measure(make_case(torch.sin), "cpu", training=False, rounds=2)
    with pytest.raises(SystemExit, match="ours and by hand differ by inf"):
        run.measure(make_case(lambda x: x[:50].tanh()), "cpu", training=False, rounds=2)
    # Equal values whose gradients differ.
    with pytest.raises(SystemExit, match="differ"):
        run.measure(make_case(lambda x: x.tanh().detach() + 0 * x), "cpu", training=True, rounds=2)


def test_ratios_targets_and_table():
    case = make_case(by_hand, bytes=800, flops=100, target={"by hand": 0.0}, training_target={"by hand": 1e9})
    forward = run.measure(case, "cpu", training=False, rounds=3)
    training = run.measure(case, "cpu", training=True, rounds=3)
    row = forward["by hand"]
    assert row["ratio"] > 0
    assert row["hit"] is True
    assert training["by hand"]["hit"] is False
    assert forward["ours"]["bytes_per_s"] == pytest.approx(800 / forward["ours"]["median_s"])
    machine = run.machine("cpu")
    entry = {"name": case.name, "forward": forward, "training": training}
    report = json.loads(json.dumps({"op": "tanh", "device": "cpu", "machine": machine, "cases": [entry]}))
    line = run.table([report]).splitlines()[2]
    assert line.startswith(f"| tanh | {case.name} | by hand | {row['ratio']:.2f}x | ")
    assert "(target 1e+09)" in line


def test_a_whole_step_is_reported_as_forward_and_backward():
    rows = {"ours": {"median_s": 1.0}, "by hand": {"ratio": 2.5}}
    report = {"op": "tanh", "machine": {"gpu": "none"}, "cases": [{"name": "a step", "training": rows}]}
    assert run.table([report]).splitlines()[2] == "| tanh | a step | by hand |  | 2.50x | none |"


def test_a_peer_may_do_a_share_of_the_work():
    x = torch.linspace(-1, 1, 100)

    def case(peer):
        return Case(
            "tanh", torch.tanh, {"tenth": peer}, inputs=(x,), share={"tenth": 0.1}, target={"tenth": 1.0}
        )

    calls = []

    def tenth(x):
        calls.append(1)
        return x[:10].tanh()

    row = run.measure(case(tenth), "cpu", training=False, rounds=2)["tenth"]
    assert row["error"] == 0
    assert row["share"] == 0.1
    assert len(calls) == 4
    with pytest.raises(SystemExit, match="differ"):
        run.measure(case(lambda x: x[10:20].tanh()), "cpu", training=False, rounds=2)


def test_memory_is_compared_beyond_the_gradients(monkeypatch):
    monkeypatch.setattr(run, "peak_memory", lambda device, call: next(peaks))
    peaks = iter([500, 1200])  # 400 bytes are the gradient
    case = make_case(by_hand, memory_target={"by hand": 4.0})
    row = run.measure(case, "cpu", training=True, rounds=2)["by hand"]
    assert row["extra_memory_ratio"] == 8
    assert row["memory_hit"] is True


@pytest.mark.parametrize("op", run.OPS)
def test_committed_results_render(op):
    reports = [json.loads(path.read_text()) for path in run.RESULTS.glob(f"*-{op}.json")]
    assert reports, f"no results of {op}"
    assert run.table(reports).count("\n") > 2
