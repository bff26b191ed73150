"""The file that a benchmark leaves: its figures, and of what device and when."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from dualml.backends.base import Backend
from dualml.safe_files import replacing


def write_figures(path: Path | None, backend: Backend, found: dict[str, Any]) -> None:
    """Writes `found` as JSON behind backend, device, driver and date; nothing where no file is asked for."""
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    device = {"backend": backend.name, "device": backend.device.name, "driver": backend.device.driver,
              "date": time.strftime("%Y-%m-%d")}
    with replacing(path, "Name another --json.") as partial:
        partial.write_text(json.dumps(device | found, indent=1) + "\n", encoding="utf-8")
