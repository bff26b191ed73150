"""The op library: one file per family, each with its kernels, its ops and the cases that test them."""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType


def load_all() -> list[ModuleType]:
    """All modules of this package, imported: OPS and KERNELS are then complete."""
    return [importlib.import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__)]
