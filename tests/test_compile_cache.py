"""The cache of compiled CUDA kernels, by NVIDIA's compiler, with several processes at once of which some are killed.

`python -m tests.test_compile_cache FOLDER FIRST MOMENT COUNT` waits for a line, compiles all units from FIRST on, and
prints a hash of each image it got. At the COUNT-th time that it comes to MOMENT (write: a file is half written,
replace: it is written and not in place), it kills itself.
"""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dualml.backends import nvrtc as compiling
from dualml.config import config
from tests.real_nvrtc import RealNvrtc, nvrtc

UNITS = {f"k{i}": f'extern "C" __global__ void k{i}(float* x) {{ x[threadIdx.x] = expf(x[{i}]) * {i}.f; }}'
         for i in range(12)}


class Dying:
    """What is done, but at the given time."""

    def __init__(self, count: int) -> None:
        self.left = count

    def now(self) -> bool:
        self.left -= 1
        return self.left == 0


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_at(moment: str, count: int) -> None:
    dying, fdopen, replace = Dying(count), os.fdopen, os.replace

    class Half:
        def __init__(self, handle: int) -> None:
            self.file = fdopen(handle, "wb")

        def __enter__(self) -> Half:
            return self

        def write(self, content: bytes) -> None:
            now = moment == "write" and dying.now()
            self.file.write(content[:len(content) // 2 if now else None])
            self.file.flush()
            if now:
                die()

        def __exit__(self, *_: object) -> None:
            self.file.close()

    def replace_or_die(*paths: Any) -> None:
        if moment == "replace" and dying.now():
            die()
        replace(*paths)

    compiling.os = SimpleNamespace(fdopen=lambda handle, mode: Half(handle), replace=replace_or_die,  # type: ignore
                                   unlink=os.unlink, path=os.path)


def images(names: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    library = RealNvrtc()
    compiler = compiling.Compiler(library, library.headers, 90)
    for name in names:
        spec: Any = SimpleNamespace(kernel=SimpleNamespace(name=name, source=name), stem=name)
        yield name, compiler.compile(spec, UNITS[name])


def work(folder: str, first: str, moment: str, count: str) -> None:
    os.environ["DUALML_CACHE"] = folder
    die_at(moment, int(count))
    RealNvrtc()
    print("ready", flush=True)
    sys.stdin.readline()
    for name, image in images(list(UNITS)[int(first):] + list(UNITS)[:int(first)]):
        print(name, hashlib.sha256(image).hexdigest(), flush=True)


def at_once(folder: Path, *jobs: tuple[int, str, int]) -> list[subprocess.Popen[str]]:
    """Processes that have loaded all they need and begin together."""
    command = [sys.executable, "-m", "tests.test_compile_cache", str(folder)]
    made = [subprocess.Popen([*command, *map(str, job)], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            for job in jobs]
    for process in made:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
    for process in made:
        assert process.stdin
        process.stdin.write("\n")
        process.stdin.flush()
    return made


def test_processes_that_share_a_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.parity.modes import REQUIRED  # here, since it would be most of a worker's time
    if nvrtc() is None:
        (pytest.fail if "nvrtc" in REQUIRED else pytest.skip)("NVRTC's wheels are not installed")
    workers = at_once(tmp_path, (0, "never", 0), (0, "never", 0), (4, "write", 2), (8, "replace", 2))
    assert workers[0].stdout
    first = workers[0].stdout.readline()  # it has begun to compile, and is killed wherever it is then
    workers[0].kill()
    told = [first + workers[0].communicate()[0]] + [w.communicate()[0] for w in workers[1:]]
    assert [w.returncode for w in workers[1:]] == [0, -signal.SIGKILL, -signal.SIGKILL]
    left = list((tmp_path / "cuda").glob("*.partial"))
    assert len(left) >= 2  # of those that died

    later = at_once(tmp_path, (0, "never", 0), (6, "never", 0))  # find what is whole, and make the rest
    told += [w.communicate()[0] for w in later]
    assert [w.returncode for w in later] == [0, 0]
    monkeypatch.setenv("DUALML_CACHE", str(tmp_path / "alone"))
    right = {name: hashlib.sha256(image).hexdigest() for name, image in images(UNITS)}
    got = {line for text in told for line in text.splitlines()}
    assert got == {f"{name} {digest}" for name, digest in right.items()}
    kept = [path for path in (tmp_path / "cuda").iterdir() if path.suffix == ".cubin"]
    assert sorted(hashlib.sha256(compiling._kept(path) or b"").hexdigest() for path in kept) == sorted(right.values())


def test_a_program_that_is_kept_is_not_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DUALML_CACHE", str(tmp_path))
    assert config.cache == tmp_path
    compiling._keep(tmp_path / "cuda" / "one.cubin", b"image")
    assert compiling._kept(tmp_path / "cuda" / "one.cubin") == b"image"
    assert compiling._kept(tmp_path / "cuda" / "two.cubin") is None


if __name__ == "__main__":
    work(*sys.argv[1:])
