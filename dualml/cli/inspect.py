"""dualml inspect."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from ..words import counted

HELP = """List a model's tensors: shapes, sizes, norms, and what is wrong with them.

MODEL is a run's folder (its newest checkpoint is shown), a checkpoint's folder, a folder in Hugging Face's form, or a \
.safetensors file; the newest run by default. Nothing is loaded onto a device; files are read a tensor at a time.

[bold]Examples[/]

  dualml inspect                                                    the newest run

  dualml inspect runs/gpt-nano-pydoc/checkpoints/step-000500        a certain checkpoint

  dualml inspect ~/models/SmolLM2-135M --match norm                 only tensors whose name has "norm" in it

  dualml inspect model.safetensors --json                           for programs

A NaN or an infinity in a weight is shown in red, and ends the command with exit code 1.
"""

Model = Annotated[Path | None, typer.Argument(metavar="MODEL", help="A folder or a .safetensors file.")]
Match = Annotated[str, typer.Option(metavar="TEXT", help="Show only tensors whose name contains TEXT.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
_AT_ONCE = 1 << 22  # elements that are looked at together


@dataclass(frozen=True)
class Row:
    """One tensor. Figures are of its finite elements; None for one that has none, or no numbers."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    count: int
    bytes: int
    norm: float | None
    mean: float | None
    std: float | None
    largest: float | None
    nan: int
    inf: int


def inspect(model: Model = None, match: Match = "", as_json: Json = False) -> None:
    from rich.console import Console
    path, tensors = _open(model)
    chosen = [n for n in tensors if match in n]
    console = Console(stderr=True)
    with console.status("reading ...") as status:
        rows = []
        for name in chosen:
            status.update(f"reading {name} ...")
            rows.append(_row(name, tensors[name]))
    broken = [r for r in rows if r.nan or r.inf]
    total = {"tensors": len(rows), "count": sum(r.count for r in rows), "bytes": sum(r.bytes for r in rows),
             "nan": sum(r.nan for r in rows), "inf": sum(r.inf for r in rows)}
    if as_json:
        print(json.dumps({"model": str(path), "total": total, "tensors": [asdict(r) for r in rows]}))
    else:
        _print(path, rows, total)
    if broken:
        raise typer.Exit(1)


def _open(model: Path | None) -> tuple[Path, Mapping[str, Any]]:
    """What MODEL stands for, and its tensors."""
    from ..checkpoints import COMMIT, latest, verify
    from ..errors import CheckpointError
    from ..safe_files import load_folder, load_tensors, refuse_pickle
    from ..train import latest_run
    model = latest_run(Path("runs")) if model is None else model
    if not model.exists():
        raise CheckpointError(f"[inspect] {model} does not exist. Name a run's folder, a checkpoint's, one in Hugging "
                              "Face's form, or a .safetensors file.")
    if model.is_file():
        return model, load_tensors(model)
    if (model / COMMIT).exists():
        verify(model)
    elif not any((model / name).exists() for name in ("model.safetensors", "model.safetensors.index.json")):
        if (model / "manifest.json").exists():
            raise CheckpointError(f"[inspect] {model} is a data folder and has no model. `dualml data info {model}` "
                                  "shows what it holds.")
        for file in model.iterdir():
            refuse_pickle(file)
        kept = model / "checkpoints"
        model = latest(kept if kept.is_dir() else model)
    return model, load_folder(model)


def _blocks(values: Any) -> Iterator[Any]:
    """A tensor's elements in float64, some at a time."""
    import numpy as np
    flat = values.reshape(-1)
    for start in range(0, flat.size, _AT_ONCE):
        yield flat[start:start + _AT_ONCE].astype(np.float64)


def _row(name: str, values: Any) -> Row:
    import numpy as np
    total = squares = largest = nan = inf = 0.0
    for block in _blocks(values):
        nan += np.isnan(block).sum()
        inf += np.isinf(block).sum()
        block = block[np.isfinite(block)]
        total += block.sum()
        squares += block @ block
        largest = max(largest, np.abs(block).max(initial=0.0))
    finite = values.size - int(nan) - int(inf)
    mean = total / finite if finite else math.nan
    spread = 0.0
    for block in _blocks(values) if finite else ():  # a second pass: squares less the square of the mean would cancel
        block = block[np.isfinite(block)] - mean
        spread += block @ block
    known = finite > 0
    return Row(name, tuple(values.shape), str(values.dtype), values.size, values.nbytes,
               norm=math.sqrt(squares) if known else None, mean=float(mean) if known else None,
               std=math.sqrt(spread / finite) if known else None, largest=float(largest) if known else None,
               nan=int(nan), inf=int(inf))


def _print(path: Path, rows: list[Row], total: Mapping[str, int]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text
    table = Table(title=str(path), title_justify="left", box=None, pad_edge=False)
    table.add_column("tensor", overflow="fold")
    for column in ("shape", "dtype", "elements", "size", "norm", "mean", "std", "largest", "broken"):
        table.add_column(column, justify="left" if column == "dtype" else "right", no_wrap=True)
    for r in rows:
        broken = ", ".join(f"{n:,} {what}" for n, what in ((r.nan, "NaN"), (r.inf, "inf")) if n)
        figures = ["-" if f is None else f"{f:.3g}" for f in (r.norm, r.mean, r.std, r.largest)]
        table.add_row(Text(r.name), " x ".join(map(str, r.shape)) or "1", r.dtype, f"{r.count:,}", _size(r.bytes),
                      *figures, Text(broken, "bold red"))
    console = Console(width=None if Console().is_terminal else 200)
    console.print(table)
    console.print(f"{counted(total['tensors'], 'tensor')}, {counted(total['count'], 'number')}, "
                  f"{_size(total['bytes'])}", highlight=False)
    if total["nan"] or total["inf"]:
        console.print(f"[bold red]{total['nan']:,} NaN and {total['inf']:,} infinities.[/] The weights are not usable.")


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            break
        count /= 1024
    return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
