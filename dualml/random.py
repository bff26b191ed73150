"""The random generator: a seed, and how far its stream has been used. The same seed gives the same bits everywhere."""

from __future__ import annotations

import secrets
from collections.abc import Mapping

import numpy as np

from .array import Array, from_numpy
from .backends.base import Backend
from .dtypes import uint32
from .errors import ShapeError

_SPAN = 2**31  # counters that offsets may reach before the base advances: an offset and an index then fit a u32


class Generator:
    """A stream of 2**64 counters of four words each. Kernels get the seed and a base in device memory (one Array per
    backend) and an offset as a scalar, so that a captured program moves on by changing the base alone.

    Args:
        seed: 64 bits; by default the system's entropy chooses.
    """

    def __init__(self, seed: int | None = None) -> None:
        self._states: dict[Backend, Array] = {}
        self.manual_seed(secrets.randbits(63) if seed is None else seed)

    def manual_seed(self, seed: int) -> Generator:
        """Starts the stream of `seed` from its beginning."""
        self._start(seed % 2**64, 0)
        return self

    def _start(self, seed: int, base: int) -> None:
        self.seed = seed
        self.base = base % 2**64
        self.offset = 0
        self._states = {}  # new Arrays from here on: graphs recorded before keep theirs

    def rebase(self) -> None:
        """Moves the base to where the stream stands, in the state Arrays that captured programs read."""
        if self.offset:
            self.base, self.offset = self.position, 0
            for state in self._states.values():
                state.write(self.words())

    @property
    def position(self) -> int:
        """Counters used so far."""
        return (self.base + self.offset) % 2**64

    def skip(self, count: int) -> int:
        """Reserves counters for `count` words. Returns the offset of the first from base, which may have moved."""
        counters = -(-count // 4)
        if self.offset + counters > _SPAN:
            self._start(self.seed, self.position)
        offset = self.offset
        self.offset += counters
        return offset

    def reserve(self, count: int, backend: Backend) -> tuple[Array, int]:
        """The state Array and the offset with which a kernel makes `count` words that no other use will get."""
        offset = self.skip(count)
        return self.state(backend), offset

    def words(self) -> np.ndarray:
        """uint32 [4]: seed low and high, base low and high."""
        return np.array([self.seed, self.base], "<u8").view(np.uint32)

    def state(self, backend: Backend) -> Array:
        """The same on a backend, as its kernels read it."""
        found = self._states.get(backend)
        if found is None:
            found = self._states[backend] = from_numpy(self.words(), uint32, backend)
        return found

    def get_state(self) -> dict[str, int]:
        """Where the stream stands, for a checkpoint."""
        return {"seed": self.seed, "position": self.position}

    def set_state(self, state: Mapping[str, int]) -> None:
        """Goes back to where get_state was called."""
        if set(state) != {"seed", "position"}:
            raise ShapeError(f"[random] state must hold seed and position, got {sorted(state)}. Pass what get_state "
                             "returned.")
        seed, ahead = int(state["seed"]), (int(state["position"]) - self.base) % 2**64
        if seed == self.seed and ahead <= _SPAN:
            self.offset = ahead  # the device's state stays valid: nothing to upload, and captured programs keep theirs
        else:
            self._start(seed, int(state["position"]))


_default = Generator()


def default_generator() -> Generator:
    """The generator of every function that is not given another one."""
    return _default


def manual_seed(seed: int) -> Generator:
    """Starts the default generator's stream of `seed` (64 bits) from its beginning."""
    return _default.manual_seed(seed)


def get_state() -> dict[str, int]:
    """Where the default generator stands: its seed and the counters used so far."""
    return _default.get_state()


def set_state(state: Mapping[str, int]) -> None:
    """Puts the default generator back to what get_state returned."""
    _default.set_state(state)
