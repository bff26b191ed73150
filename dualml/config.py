"""The environment flags of dualml, all of them, read once at import."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

FLAGS = {
    "DUALML_BACKEND": "backend chosen at start: auto, cpu, webgpu or cuda (default auto)",
    "DUALML_DEBUG": "1 device chosen, 2 every launch with its time, 3 with its shapes, 4 generated sources, "
                    "5 PTX or SPIR-V",
    "DUALML_CHECK": "1 re-runs the NumPy reference after every launch and stops at the first kernel that disagrees",
    "DUALML_CACHE": "folder for compiled kernels and downloaded texts (default: the user's cache folder)",
    "DUALML_ADAPTER": "part of the name of the WebGPU adapter to use, where there are several",
    "DUALML_LIMITS": "adapter: ask WebGPU for all that the adapter has instead of the browser's default limits",
    "DUALML_CUBLASLT": "1 lets cuBLASLt make biases, GELU and gradients of biases with products (not yet run on a GPU)",
    "DUALML_CUDA_ON_CPU": "tests only: how the CUDA test device runs: forward, reversed, shuffled=SEED, asan, tsan",
    "DUALML_REQUIRE": "tests only: backends that must be there, a missing one is then a failure and not a skip",
}


def _cache_folder() -> Path:
    named = os.environ.get("DUALML_CACHE")
    if named:
        return Path(named)
    local = os.environ.get("LOCALAPPDATA") if os.name == "nt" else os.environ.get("XDG_CACHE_HOME")
    return (Path(local) if local else Path.home() / ".cache") / "dualml"


@dataclass
class Config:
    backend: str = os.environ.get("DUALML_BACKEND", "auto")
    debug: int = int(os.environ.get("DUALML_DEBUG", "0") or 0)
    check: bool = os.environ.get("DUALML_CHECK", "0") not in ("", "0")
    adapter: str = os.environ.get("DUALML_ADAPTER", "")
    cublaslt: bool = os.environ.get("DUALML_CUBLASLT", "0") not in ("", "0")
    limits: str = os.environ.get("DUALML_LIMITS", "browser")

    @property
    def cache(self) -> Path:
        return _cache_folder()


config = Config()
