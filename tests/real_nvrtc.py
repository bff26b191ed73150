"""NVIDIA's run-time compiler under CuPy's names: it needs neither CuPy nor a device nor a driver."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any


@functools.cache
def nvrtc() -> tuple[ctypes.CDLL, list[Path]] | None:
    """The library and the folder of CUDA's headers, or None where the wheels of the extra `nvrtc` are not installed.
    DUALML_TEST_NVRTC names a folder to take instead of what is installed (`make nvrtc`)."""
    if chosen := os.environ.get("DUALML_TEST_NVRTC"):
        places = [f"{chosen}/nvidia"]
    else:
        package = importlib.util.find_spec("nvidia")
        places = list(package.submodule_search_locations or ()) if package else []
    for place in map(Path, places):
        libraries, headers = sorted(place.glob("*/lib/libnvrtc.so.*")), sorted(place.glob("*/include/cuda_bf16.h"))
        if libraries and headers:
            for built_in in place.glob("*/lib/libnvrtc-builtins.so.*"):
                ctypes.CDLL(str(built_in))  # which NVRTC 13.0 looks for by its name alone
            return ctypes.CDLL(str(libraries[-1])), [headers[-1].parent]
    assert not chosen, f"no NVRTC in {chosen}"
    return None


class RealNvrtc:
    """What dualml uses of `cupy.cuda.nvrtc`."""

    class NVRTCError(RuntimeError): ...

    def __init__(self) -> None:
        found = nvrtc()
        assert found, "NVRTC's wheels are not installed"
        self.library, self.headers = found

    def _call(self, name: str, *given: Any) -> None:
        status = getattr(self.library, f"nvrtc{name}")(*given)
        if status:
            raise self.NVRTCError(f"nvrtc{name} answers {status}")

    def _fetch(self, what: str, program: Any) -> bytes:
        size = ctypes.c_size_t()
        self._call(f"Get{what}Size", program, ctypes.byref(size))
        text = ctypes.create_string_buffer(size.value)
        self._call(f"Get{what}", program, text)
        return text.raw[:size.value]

    def getVersion(self) -> tuple[int, int]:
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._call("Version", ctypes.byref(major), ctypes.byref(minor))
        return major.value, minor.value

    def getSupportedArchs(self) -> list[int]:
        return [80, 90]

    def createProgram(self, source: str, name: str, headers: Any = (), names: Any = ()) -> ctypes.c_void_p:
        program = ctypes.c_void_p()
        self._call("CreateProgram", ctypes.byref(program), source.encode(), name.encode(), 0, None, None)
        return program

    def compileProgram(self, program: Any, options: Sequence[str]) -> None:
        self._call("CompileProgram", program, len(options),
                   (ctypes.c_char_p * len(options))(*(o.encode() for o in options)))

    def getPTX(self, program: Any) -> bytes:
        return self._fetch("PTX", program).rstrip(b"\0")

    def getCUBIN(self, program: Any) -> bytes:
        return self._fetch("CUBIN", program)

    def getProgramLog(self, program: Any) -> str:
        return self._fetch("ProgramLog", program).decode().strip("\0")

    def destroyProgram(self, program: Any) -> None:
        self._call("DestroyProgram", ctypes.byref(program))
