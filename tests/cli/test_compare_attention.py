"""compare-attention says what it would train; its runs are those of the faults and of the study."""

import pytest

from neuroattn.cli import main


def test_a_dry_run_counts_networks_and_writes_nothing(tmp_path, monkeypatch, capsys):
    line = f"compare-attention --attention manar,softmax --seeds 3 --dry-run --out {tmp_path / 'out'}"
    monkeypatch.setattr("sys.argv", ["neuroattn", *line.split()])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    # Softmax, manar, the bag of tokens and the shuffled answers.
    assert capsys.readouterr().out == "12 networks of 1600 steps; nothing was written\n"
    assert not (tmp_path / "out").exists()
