"""The benchmarks refuse to time what disagrees, and render what they measured."""

import json

import pytest
import torch

from neuroattn.kernels.benchmarks import pages, run
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


@pytest.mark.parametrize(("peaks", "hit"), [((500, 800), True), ((500, 799), False), ((300, 400), True)])
def test_memory_is_compared_beyond_the_gradients(monkeypatch, peaks, hit):
    left = iter(peaks)
    monkeypatch.setattr(run, "peak_memory", lambda device, call: next(left))
    case = make_case(by_hand, memory_target={"by hand": 4.0})  # its gradient takes 400 bytes
    row = run.measure(case, "cpu", training=True, rounds=2)["by hand"]
    assert (row["our_extra_bytes"], row["extra_bytes"]) == tuple(max(0, peak - 400) for peak in peaks)
    assert row["memory_hit"] is hit


@pytest.mark.parametrize("op", run.OPS)
def test_committed_results_render(op):
    reports = run.load_results(op)
    assert reports, f"no results of {op}"
    assert run.table(reports).count("\n") > 2
    for report in reports:
        text = pages.section(report)
        for one in pages.comparisons(report):
            assert f"| {one.workload} | {one.peer}" in text
            assert f"{one.theirs['ratio']:.2f}x" in text
        assert f"commit `{report['machine']['commit'].removesuffix('-dirty')}`" in text


MACHINE = {
    "processor": "Abacus", "cores": 2, "threads": 1, "clock": "processor", "gpu": None, "system": "Linux",
    "python": "3", "torch": "2", "triton": "3", "commit": "abc-dirty", "date": "2026-01-01",
}  # fmt: skip


def make_report(*ratios, **theirs):
    rows = {"ours": {"median_s": 0.5, "peak_bytes": 2_000_000}}
    for ratio in ratios:
        row = {"median_s": 0.5 * ratio, "peak_bytes": None, "ratio": ratio, "error": 2e-7}
        rows[f"peer {ratio}"] = row | theirs
    return {"op": "tanh", "machine": MACHINE, "cases": [{"name": "tanh of 9 numbers", "forward": rows}]}


def test_a_page_says_where_ours_is_slower():
    setting, verdict, table = pages.section(make_report(0.5, 4.0)).split("\n\n")
    assert (
        "at commit `abc` with changes that were not committed: Abacus, 2 cores, 1 thread, processor time"
        in setting
    )
    assert "**slower than the alternative in 1 of 2 comparisons**" in verdict
    assert table.replace("\N{NO-BREAK SPACE}", "_").splitlines()[2:] == [
        "| tanh of 9 numbers | peer 0.5 | forward | 500_ms : 250_ms | **0.50x, slower** | 2e-07 | 2_MB : unknown |",
        "| tanh of 9 numbers | peer 4.0 | forward | 500_ms : 2_s | 4.00x | 2e-07 | 2_MB : unknown |",
    ]
    assert "in none of 1 comparisons" in pages.section(make_report(4.0))
    assert pages.overview([make_report(0.5, 4.0)]).splitlines()[2] == (
        "| `tanh` | 2 | 1 | 0.50x to 4.00x | Abacus | 2026-01-01 |"
    )


def test_a_page_names_shares_of_the_work_and_missed_targets():
    row = pages.section(make_report(1.5, share=0.0025, target=2.0, hit=False)).splitlines()[-1]
    assert "| peer 1.5, 0.25 % of the work, its time scaled |" in row
    assert "| 1.50x (target 2) |" in row


@pytest.mark.parametrize(("hit", "verdict"), [(True, "was kept"), (False, "was **exceeded**")])
def test_a_page_shows_the_memory_of_a_fit(hit, verdict):
    (report,) = run.load_results("encoder_memory")
    text = pages.section(report | {"hit": hit, "machine": MACHINE})
    assert f"the limit of 3,000\N{NO-BREAK SPACE}MB {verdict}" in text
    for step, peak in report["anonymous_bytes"].items():
        assert f"| {step} | {peak / 1e6:,.0f}\N{NO-BREAK SPACE}MB |" in text
