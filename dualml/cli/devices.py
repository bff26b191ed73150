"""dualml devices: what this machine can compute on, and whether it computes right."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

HELP = """Show every backend with adapter, driver, limits and features, say why one is missing, and check their results.

The check runs a few operations forward and backward on every backend and compares them with NumPy in double precision.

[bold]Examples[/]

  dualml devices                   all of it, in about ten seconds

  dualml devices --no-check        only what is there

  DUALML_ADAPTER=intel dualml devices    with another WebGPU adapter
"""

Check = Annotated[bool, typer.Option("--check/--no-check", help="Compare results with the NumPy reference.")]


def devices(check: Check = True) -> None:
    from rich.console import Console

    from .. import runtime
    from ..errors import BackendError
    console = Console(highlight=False)
    found: dict[str, Any] = {}
    for name in runtime.backend_names():
        try:
            found[name] = runtime.get(name)
        except BackendError as error:
            found[name] = error
    console.print(_overview(found))
    adapters = _adapter_table()
    if adapters is not None:
        console.print(adapters)
    here = {n: b for n, b in found.items() if not isinstance(b, BackendError)}
    console.print(f"auto chooses [bold]{runtime.get('auto').name}[/].")
    if check and not _checked(console, list(here)):
        sys.exit(1)


def _overview(found: dict[str, Any]) -> Any:
    from rich.table import Table
    from rich.text import Text
    table = Table(title="Backends", title_justify="left", show_lines=True, expand=True)
    for column, share in (("backend", None), ("device", 2), ("driver", 2), ("what it has", 4)):
        table.add_column(column, overflow="fold", ratio=share)
    for name, backend in found.items():
        if isinstance(backend, Exception):
            table.add_row(Text(name, style="dim"), Text("not available", style="red"), "", Text(str(backend)))
            continue
        device = backend.device
        kind = " (computes on the CPU)" if device.software and name != "cpu" else ""
        table.add_row(Text(name, style="bold green"), Text(device.name + kind), Text(device.driver),
                      Text(_features(backend)))
    return table


def _features(backend: Any) -> str:
    device = backend.device
    lines = ["dtypes: " + ", ".join(sorted(d.name for d in backend.dtypes))]
    if device.backend == "webgpu":
        named = {"shader-f16": "f16", "subgroup": f"subgroups of {device.subgroup_size}",
                 "timestamp-query": "timestamps"}
        lines.append(", ".join(text if f in device.features else f"no {text.split()[0]}" for f, text in named.items()))
    if device.arch:
        lines.append(f"compute capability {device.arch // 10}.{device.arch % 10}")
    for name, value in device.limits.items():
        lines.append(f"{name.removeprefix('max-').replace('-', ' ')}: {_amount(name, value)}")
    return "\n".join(lines)


def _amount(name: str, value: int) -> str:
    """Sizes of memory in KiB or MiB, counts as they are."""
    if name.endswith(("buffer-size", "binding-size", "storage-size", "memory")):
        return f"{value / 2**20:,.0f} MiB" if value >= 1 << 20 else f"{value / 1024:,.0f} KiB"
    return f"{value:,}"


def _adapter_table() -> Any:
    """All WebGPU adapters, since only one is used."""
    from rich.table import Table
    from rich.text import Text

    from ..backends import webgpu
    from ..errors import BackendError
    try:
        found = webgpu.adapters()
    except BackendError:
        return None
    if len(found) < 2:
        return None
    table = Table(title="WebGPU adapters, best first (DUALML_ADAPTER=<part of a name> takes another)",
                  title_justify="left")
    for column in ("adapter", "kind", "driver"):
        table.add_column(column)
    for adapter in found:
        info = adapter.info
        driver = f"{info['backend_type']} {info['description']}"
        table.add_row(*map(Text, (info["device"], info["adapter_type"], driver)))
    return table


def _checked(console: Any, names: list[str]) -> bool:
    from rich.table import Table

    from .selfcheck import check_backend
    table = Table(title="Self-check: largest error, of scale, against float64", title_justify="left")
    table.add_column("operation")
    results = {}
    with console.status("checking ...") as status:
        for name in names:
            status.update(f"checking {name} ...")
            results[name] = check_backend(name)
            table.add_column(name, justify="right")
    for row in next(iter(results.values())):
        table.add_row(row, *[_cell(results[n][row]) for n in names])
    console.print(table)
    wrong = [n for n in names if not all(r.right for r in results[n].values())]
    for name in wrong:
        console.print(f"[bold red]{name} computes wrong results.[/] Update the driver, or use another backend; "
                      "`make test` shows every operation.")
    return not wrong


def _cell(result: Any) -> Any:
    from rich.text import Text
    if result.problem:
        return Text(result.problem, style="red")
    style = "green" if result.right else "bold red"
    return Text.assemble((f"{result.error:.1e}", style), f" {result.seconds * 1e3:6.0f} ms")
