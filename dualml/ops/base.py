"""What an op is: a forward and a backward rule over Arrays, and the cases that its tests are generated from."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from ..array import Array
from ..errors import GradientError

Arrays = tuple[Array, ...]
Gradients = Sequence[Array | None]


@dataclass(frozen=True)
class Case:
    """Sample inputs of an op, as NumPy arrays in float64 (cast to each tested dtype), int32 or bool; None where an
    optional input is left out. `options` are forward's keyword arguments. `dtypes` are those tested besides float64;
    `differentiable` is False where the finite difference check makes no sense at these inputs."""

    name: str
    inputs: tuple[np.ndarray | None, ...]
    options: dict[str, Any] = field(default_factory=dict)
    dtypes: tuple[str, ...] = ("float32", "float16", "bfloat16")
    differentiable: bool = True


@dataclass(frozen=True)
class BadCase:
    """Inputs that must be refused, on every backend, with an error whose text matches the regular expression."""

    name: str
    inputs: tuple[np.ndarray | None, ...]
    message: str
    options: dict[str, Any] = field(default_factory=dict)


OPS: dict[str, type[Op]] = {}  # every op by name; filled as modules below ops/ are imported


class Op:
    """One instance is one application of the op: it keeps what backward needs.

    Subclasses give `forward(self, *arrays, **options) -> Array | tuple` and `backward(self, *gradients) -> tuple`, one
    gradient (or None) per input Array. An optional input that was left out is None in both.
    """

    name: ClassVar[str] = ""
    constant: ClassVar[tuple[int, ...]] = ()  # floating point inputs that have no gradient: tables, masks
    needs: tuple[bool, ...] = ()           # which inputs want a gradient; False everywhere under no_grad
    into: tuple[Array | None, ...] = ()    # where backward may write an input's gradient, to save a copy

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "name" not in cls.__dict__:
            cls.name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower()
        if not cls.name.startswith("_"):
            OPS[cls.name] = cls

    def __init__(self) -> None:
        self._saved: tuple[Array | None, ...] | None = ()
        self._versions: tuple[int, ...] = ()

    def forward(self, *arrays: Any, **options: Any) -> Any:
        raise NotImplementedError

    def backward(self, *gradients: Any) -> Gradients:
        raise GradientError(f"[{self.name}] has no gradient.")

    def save(self, *arrays: Array | None) -> None:
        """Keeps Arrays for backward, with a note of their versions. Nothing is kept where no gradient is wanted."""
        if any(self.needs):
            self._saved = arrays
            self._versions = tuple(a.buffer.version if a is not None else 0 for a in arrays)

    @property
    def saved(self) -> tuple[Any, ...]:
        if self._saved is None:
            raise GradientError(f"[{self.name}] backward ran through this graph before and its saved values are gone. "
                                "Pass retain_graph=True to the first backward, or run the forward again.")
        for array, version in zip(self._saved, self._versions, strict=True):
            if array is not None and array.buffer.version != version:
                raise GradientError(f"[{self.name}] a tensor of shape {array.shape} that its backward needs was "
                                    "changed in place after the forward. Change a copy instead (tensor.clone()).")
        return self._saved

    def release(self) -> None:
        self._saved = None

    @classmethod
    def cases(cls, rng: np.random.Generator) -> Iterator[Case]:
        return iter(())

    @classmethod
    def bad_cases(cls) -> Iterator[BadCase]:
        return iter(())
