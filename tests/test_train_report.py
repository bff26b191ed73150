"""What a run shows: the same facts in a live panel and in plain lines, and the picture."""

from __future__ import annotations

from pathlib import Path

import pytest

from dualml.train import PlainReporter, Reporter, RichReporter, make_reporter, plot
from dualml.train.evaluation import Evaluation
from dualml.train.metrics import Metrics, read
from dualml.train.report import Progress, clock, sparkline

NOW = Progress(step=120, total=2000, loss=2.25, rate=1e-3, tokens_per_second=12345.6, seconds_left=83.2, spent=9.0,
               history=[4.0, 3.0, 2.25])


@pytest.mark.parametrize("kind", [PlainReporter, RichReporter])
def test_reporters_say_it_all(kind: type[Reporter], capsys: pytest.CaptureFixture[str],
                              monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    reporter = kind()
    reporter.start("gpt-nano", ["text: a [bracketed] name", "webgpu: llvmpipe"])
    reporter.evaluated(100, Evaluation(2.5, 100, 250))
    reporter.progress(NOW)
    reporter.sample(100, "def [/]brackets")
    reporter.planned(1500, 2.0, 9000)
    reporter.stopping()
    reporter.close()
    shown = capsys.readouterr().out
    for fact in ("gpt-nano", "text: a [bracketed] name", "webgpu: llvmpipe", "2.5000", "2.2500", "12,346 tokens/s",
                 "1:23 left", "def [/]brackets", "1,500 steps", "Ctrl-C again"):
        assert fact in shown
    assert ("2,000" if kind is RichReporter else "120/2000") in shown


def test_before_the_length_is_known(capsys: pytest.CaptureFixture[str]) -> None:
    for reporter in (PlainReporter(), RichReporter()):
        reporter.start("gpt-nano", ["cpu"])
        reporter.progress(Progress(step=3))
        reporter.close()
    assert "step     3/?" in capsys.readouterr().out


def test_pipes_get_plain_lines() -> None:
    assert isinstance(make_reporter(), PlainReporter)


def test_small_formats() -> None:
    assert [clock(s) for s in (None, 0, 59.6, 61, 3725)] == ["-:--", "0:00", "1:00", "1:01", "1:02:05"]
    assert sparkline([1.0, 2.0, 3.0]) == "▁▅█" or sparkline([1.0, 2.0, 3.0]) == "▁▄█"
    assert sparkline([2.0, 2.0]) == "▁▁"
    assert sparkline([]) == ""


def test_metrics_survive_a_cut_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    metrics = Metrics(path)
    for step in (1, 2, 3):
        metrics.step(step, 4.0 - step, 1e-3, 1.0, 0.5)
    metrics.validation(3, Evaluation(1.5, 10, 20), 0.6)
    metrics.flush()
    with path.open("a", encoding="utf-8") as file:
        file.write('{"step": 4, "lo')
    again = Metrics(path)
    again.rewind(2)
    assert again.losses == [(1, 3.0), (2, 2.0)]
    assert again.validations == []
    assert [line["step"] for line in read(path)] == [1, 2]
    assert again.curve(1) == [2.5]


def test_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert plot.available()
    losses = [(i, 4.0 / i) for i in range(1, 50)]
    plot.loss_curve(tmp_path / "loss.png", losses, [(0, 4.5), (49, 0.2)], "a run")
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
    plot.loss_curve(tmp_path / "empty.png", [], [], "stopped before the first step")
