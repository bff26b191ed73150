"""Which launches of a program may run side by side: found on the memory that they really use, and right in any order
that the found dependences allow."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import dualml as dm
from dualml import nn, optim, runtime
from dualml.backends.base import Backend, Binding, Frozen
from dualml.backends.cpu import CpuBackend
from dualml.backends.cuda_graph import turns
from dualml.models import GPT, GPTConfig
from dualml.programs import Program
from dualml.programs.branches import Use, needs
from tests.orders import Launches, conflicts, reach, some_order, unordered, uses
from tests.training import training_step


class PackedCpu(CpuBackend):
    """The cpu backend with the temporaries of a program in shared slabs, as on a GPU."""

    name = "packed_cpu"
    packs = True
    freeze = Backend.freeze  # slabs are not let go


@pytest.fixture
def packed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(runtime._FACTORIES, PackedCpu.name, ("tests.test_branches", "PackedCpu"))
    monkeypatch.setitem(runtime._open, PackedCpu.name, PackedCpu())
    with runtime.use_backend(PackedCpu.name):
        yield


# ---- dependences ---------------------------------------------------------------------------------------------------

BUFFERS: list[Any] = [object(), object(), object()]
STRETCHES = st.builds(lambda n, at, size, written: (Binding(BUFFERS[n], at, size), written),
                      st.integers(0, 2), st.integers(0, 12), st.integers(0, 6), st.booleans())


@settings(max_examples=300, deadline=None)
@given(st.lists(st.lists(STRETCHES, max_size=4), max_size=14))
def test_every_conflict_is_ordered_and_no_edge_is_idle(launches: Launches) -> None:
    after = needs(launches)
    assert unordered(launches, after) == []
    before, wanted = reach(after), set(conflicts(launches))
    for later, edges in enumerate(after):
        assert list(edges) == sorted(edges)
        for edge in edges:
            assert (edge, later) in wanted
            assert not any(edge in before[other] for other in edges)


def test_stretches_of_one_buffer() -> None:
    def use(offset: int, nbytes: int, written: bool = False) -> Use:
        return Binding(BUFFERS[0], offset, nbytes), written

    assert needs([[use(0, 8, True)], [use(8, 8, True)], [use(0, 8)], [use(4, 8)], [use(0, 16, True)], [use(15, 1)]]) \
        == [[], [], [0], [0, 1], [2, 3], [4]]
    assert needs([[use(0, 4, True)], [use(0, 4), use(0, 4, True)], [use(0, 0), use(0, 0, True)], [use(2, 4)]]) \
        == [[], [0], [], [1]]  # a launch does not wait for itself; no bytes, no needs


# ---- training steps ------------------------------------------------------------------------------------------------

CONFIG = GPTConfig(vocab_size=32, context=8, layers=2, heads=2, width=16, dropout=0.1)


class Training:
    """A GPT with dropout, clipping and AdamW whose captured step can be replayed in another order."""

    def __init__(self) -> None:
        dm.manual_seed(0)
        self.model = GPT(CONFIG)
        self.step: Any = dm.capture(training_step(self.model, optim.AdamW(self.model.parameters(), 1e-2)))
        self.rng = np.random.default_rng(0)

    def losses(self, count: int) -> list[float]:
        return [self.step(*self.rng.integers(0, 32, (2, 3, 8)).astype(np.int32)).item() for _ in range(count)]

    @property
    def program(self) -> Program:
        return self.step.programs[0]

    def reorder(self, order: Sequence[int]) -> None:
        self.program._replay = self.program.backend.freeze([self.program._frozen[i] for i in order])

    def state(self) -> bytes:
        return b"".join(p.detach().numpy().tobytes() for p in self.model.parameters())


def test_any_order_gives_the_same_bits(packed: None) -> None:
    """Each replay of one in another order; the packed memory is used again and again."""
    plain = Training()
    plain.losses(2)
    wanted = [(plain.losses(1), plain.state()) for _ in range(12)]
    shuffled, rng = Training(), random.Random(1)
    shuffled.losses(2)
    after = [one.after for one in shuffled.program._frozen]
    assert shuffled.program.arena_bytes < shuffled.program.temporary_bytes
    assert unordered(uses(shuffled.program), after) == []
    for one in wanted:
        order = some_order(after, rng)
        assert order != sorted(order)
        shuffled.reorder(order)
        assert (shuffled.losses(1), shuffled.state()) == one


def test_a_missing_dependence_is_noticed(packed: None) -> None:
    """Planted faults: without one of its edges, a launch that runs as early as it may changes the bits."""
    plain = Training()
    plain.losses(2)
    wanted, state = plain.losses(1), plain.state()
    after = [list(one.after) for one in plain.program._frozen]
    used = uses(plain.program)
    caught = 0
    planted = [(later, edge) for later, edges in enumerate(after) for edge in edges][::4]
    for later, edge in planted:
        faulty = [[e for e in edges if (e, n) != (edge, later)] for n, edges in enumerate(after)]
        assert (edge, later) in unordered(used, faulty)
        early = reach(faulty)[later]
        other = Training()
        other.losses(2)
        other.reorder([*sorted(early), later, *(i for i in range(len(after)) if i != later and i not in early)])
        try:
            caught += other.losses(1) != wanted or other.state() != state
        except IndexError:  # an index that was not there yet
            caught += 1
    assert caught > 0.6 * len(planted), f"{caught} of {len(planted)}"  # what the last replay left may be the same


def test_the_two_gradients_of_a_linear_layer_run_side_by_side(packed: None) -> None:
    dm.manual_seed(0)
    model = nn.Sequential(*[nn.Linear(24, 24, bias=False) for _ in range(4)])

    @dm.capture
    def step(x: dm.Tensor) -> None:
        model.zero_grad()
        model(x).square().mean().backward()
    for _ in range(2):
        step(dm.ones(5, 24))
    program = step.programs[0]
    products = [i for i, item in enumerate(program.items) if item.name == "matmul"]
    before = reach([one.after for one in program._frozen])
    apart = [(a, b) for a in products for b in products if a < b and a not in before[b]]
    assert len(products) == 4 + 4 + 3  # forward, weights, inputs but the first
    gradients = [b for b in products[4:] if sum(b in pair for pair in apart)]
    assert len(gradients) >= 6, f"{apart} of {products}"
    wide = turns(program._frozen, 2)
    assert {wide[i].lane for i in products[4:]} == {0, 1}


def test_a_step_is_shorter_than_its_launches(packed: None) -> None:
    training = Training()
    training.losses(2)
    depth: list[int] = []
    for one in training.program._frozen:
        depth.append(1 + max((depth[i] for i in one.after), default=0))
    assert max(depth) < 0.85 * len(depth), f"{max(depth)} of {len(depth)}"


# ---- streams -------------------------------------------------------------------------------------------------------

@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(STRETCHES, max_size=4), max_size=14), st.integers(1, 4))
def test_streams_order_what_must_be_ordered(launches: Launches, streams: int) -> None:
    """A stream's own order and the waits are enough, and no wait is for what is known to be done."""
    frozen = [Frozen(None, [b for b, _ in uses], b"", 0, (), after)
              for uses, after in zip(launches, needs(launches), strict=True)]
    found, last, edges = turns(frozen, streams), {}, []  # type: Any, dict[int, int], list[list[int]]
    for index, turn in enumerate(found):
        edges.append([*turn.waits, *([last[turn.lane]] if turn.lane in last else [])])
        last[turn.lane] = index
    before = reach(edges)
    for index, turn in enumerate(found):
        assert before[index].issuperset(frozen[index].after)
        assert all(found[other].lane != turn.lane for other in turn.waits)
        for other in turn.waits:
            assert not any(other in before[e] for e in edges[index])
    if streams == 1:
        assert all(turn.lane == 0 and turn.waits == () for turn in found)
