"""What the suite found, as files in out/parity/, as workers share nothing else; scripts/write_docs.py reads them.

A run that is not for the docs names another folder in PARITY_FOLDER.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

FOLDER = Path(os.environ.get("PARITY_FOLDER") or Path(__file__).resolve().parents[2] / "out" / "parity")


@dataclass
class Result:
    """Of one op (or kernel) in one mode and dtype: the worst error over the allowed error, or why it is refused."""

    op: str
    mode: str
    dtype: str
    device: str = ""
    cases: int = 0
    worst: float = 0.0
    unsupported: str = ""
    failed: bool = False

    def write(self) -> None:
        FOLDER.mkdir(parents=True, exist_ok=True)
        name = f"{self.op}.{self.mode.replace(' ', '_')}.{self.dtype}.json"
        partial = FOLDER / f"{name}.part"  # a run that is stopped leaves no half of a result
        partial.write_text(json.dumps(asdict(self), sort_keys=True) + "\n")
        partial.replace(FOLDER / name)


def read_all() -> list[Result]:
    return [Result(**json.loads(path.read_text())) for path in sorted(FOLDER.glob("*.json"))]
