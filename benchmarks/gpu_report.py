"""The report of gpu_check.py: what ran, the targets with a verdict each, the parity suite's worst, all figures."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import subprocess
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from targets import number, table

ROOT = Path(__file__).resolve().parents[1]


@dataclass
class Step:
    """One subprocess of the check. `numbers` is what its --json file said."""

    name: str
    command: list[str]
    limit: float
    status: str = "not run"
    seconds: float = 0.0
    summary: str = ""
    numbers: dict[str, Any] = field(default_factory=dict)

    @property
    def file(self) -> Path | None:
        return Path(self.command[self.command.index("--json") + 1]) if "--json" in self.command else None

    def read(self) -> None:
        """What a benchmark has written so far, even one that was stopped, perhaps while it wrote."""
        if self.file is not None and self.file.exists():
            with contextlib.suppress(ValueError):
                self.numbers = json.loads(self.file.read_text(encoding="utf-8"))

    def wrong(self) -> list[str]:
        """The rows whose result is wrong."""
        return [f"- {self.name}: {', '.join(str(v) for v in row.values() if isinstance(v, (str, int)))}"
                for row in self.numbers.get("rows", ()) if str(row.get("check")).startswith("WRONG")]


def about() -> list[str]:
    """Date, commit, versions."""
    try:
        words = ["git", "describe", "--always", "--dirty"]
        commit = subprocess.run(words, cwd=ROOT, text=True, capture_output=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = "unknown (not a git checkout)"
    versions = {}
    for name in ("numpy", "torch", "triton", "wgpu", "cupy-cuda13x", "cupy-cuda12x"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return [f"- {time.strftime('%Y-%m-%d %H:%M')}, commit {commit}",
            f"- {', '.join(f'{name} {version}' for name, version in versions.items())}"]


def parity_rows() -> list[str]:
    """The worst results of the parity suite on the GPUs."""
    from tests.parity.report import read_all
    rows = sorted((r for r in read_all() if r.mode not in ("cpu", "cuda_on_cpu")), key=lambda r: -r.worst)
    counted = {m: [r for r in rows if r.mode == m] for m in sorted({r.mode for r in rows})}
    lines = [f"- {mode}: {len(found)} results, {sum(r.cases for r in found)} cases, {sum(r.failed for r in found)} "
             f"failures, {sum(bool(r.unsupported) for r in found)} refused" for mode, found in counted.items()]
    lines += ["", "| op | mode | dtype | worst error / allowed | |", "| --- | --- | --- | ---: | --- |"]
    return lines + [f"| {r.op} | {r.mode} | {r.dtype} | {r.worst:.3g} | {'FAILS' if r.failed else ''} |"
                    for r in rows if r.failed or r in rows[:12]]


def numbers_table(step: Step) -> list[str]:
    """The figures of a benchmark as a table, whatever its columns are."""
    rows = step.numbers.get("rows")
    if rows is None:
        results = step.numbers.get("results", {})
        rows = [{"config": config} | row for config, by_name in results.items() for row in by_name.values()]
    if not rows:
        return []
    columns = [k for k in rows[0] if not isinstance(rows[0][k], (dict, list))]
    text = [[number(row.get(c)) for c in columns] for row in rows]
    head = [f"{k} {number(v)}" for k, v in step.numbers.items() if isinstance(v, (int, float, str))]
    return ["", f"### {step.name}", "", *([", ".join(head), ""] if head else []), "| " + " | ".join(columns) + " |",
            "|" + " --- |" * len(columns), *["| " + " | ".join(line) + " |" for line in text]]


def report(usable: dict[str, str], missing: dict[str, str], steps: list[Step], parity: bool) -> str:
    lines = ["# GPU check", "", *about(), *[f"- {n}: {d}" for n, d in usable.items()],
             *[f"- without {n}: {r}" for n, r in missing.items()], "",
             "| step | status | seconds | last line |", "| --- | --- | ---: | --- |",
             *[f"| {s.name} | {s.status} | {s.seconds:.0f} | {s.summary.replace('|', '/')[:160]} |" for s in steps]]
    verdicts = [row for s in steps for row in s.numbers.get("targets", ())]
    wrong = [line for s in steps for line in s.wrong()]
    lines += ["", "## Wrong results, which count for no target", "", *wrong] if wrong else []
    lines += ["", "## Targets", "", *(table(verdicts) or ["None measured."])]
    lines += ["", "## Parity", "", *parity_rows()] if parity else []
    return "\n".join([*lines, "", "## Benchmarks", *[line for s in steps for line in numbers_table(s)]]) + "\n"


def write(out: Path, usable: dict[str, str], missing: dict[str, str], steps: list[Step], parity: bool) -> str:
    """OUT/report.md and OUT/report.json. Returns the former's text."""
    text = report(usable, missing, steps, parity)
    (out / "report.md").write_text(text, encoding="utf-8")
    found = {"about": about(), "devices": usable, "missing": missing, "steps": [asdict(s) for s in steps]}
    (out / "report.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return text
