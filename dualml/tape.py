"""The tape: which tensors came from which op, and the walk back along it. The only place that knows gradients flow."""

from __future__ import annotations

import heapq
import inspect
import itertools
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

from .array import Array
from .errors import BackendError, GradientError, not_a_tensor
from .ops.accumulate import add_into
from .ops.base import Op
from .ops.elementwise import evaluate
from .runtime import recorded_by

if TYPE_CHECKING:
    from .tensor import Tensor

_mode = threading.local()
_order = itertools.count()


def is_grad_enabled() -> bool:
    """Whether ops are recorded for backward: not within no_grad."""
    return getattr(_mode, "enabled", True)


def is_collecting() -> bool:
    """Whether the backward pass under way returns gradients (autograd.grad) instead of storing them in leaves."""
    return getattr(_mode, "collecting", False)


@contextmanager
def _grad_mode(enabled: bool) -> Iterator[None]:
    before = is_grad_enabled()
    _mode.enabled = enabled
    try:
        yield
    finally:
        _mode.enabled = before


def no_grad() -> Any:
    """Context or decorator within which no op is recorded, and so nothing is kept for backward."""
    return _grad_mode(False)


def enable_grad() -> Any:
    """Context or decorator that records ops again inside no_grad."""
    return _grad_mode(True)


Policy = Callable[[Any, tuple[Any, ...]], tuple[Any, ...]]


def input_policy() -> Policy | None:
    """What changes the inputs of ops before they run (amp.autocast casts them), if anything."""
    return getattr(_mode, "policy", None)


@contextmanager
def use_policy(policy: Policy | None) -> Iterator[None]:
    """Makes `policy(kind, inputs)` give the inputs of every op that is applied within."""
    before = input_policy()
    _mode.policy = policy
    try:
        yield
    finally:
        _mode.policy = before


class Node:
    """One recorded op. An edge leads to the node and output index an input came from, or to a leaf tensor. Inputs
    themselves are not kept: only what the op saved stays in memory."""

    __slots__ = ("edges", "op", "order", "outputs", "used")

    def __init__(self, op: Op, edges: tuple[Any, ...], outputs: int) -> None:
        self.op = op
        self.edges = edges
        self.outputs = outputs
        self.order = next(_order)
        self.used = False

    def __lt__(self, other: Node) -> bool:
        return self.order > other.order  # heapq pops the newest first


def edge_of(tensor: Tensor) -> Any:
    return (tensor._node, tensor._index) if tensor._node is not None else tensor


def record(op: Op, inputs: Sequence[Tensor | None], outputs: int) -> Node:
    edges = tuple(edge_of(t) if t is not None and need else None for t, need in zip(inputs, op.needs, strict=True))
    return Node(op, edges, outputs)


def _add(a: Array | None, b: Array) -> Array:
    return b if a is None else evaluate("add_forward", "a + b", {"a": a, "b": b}, a.shape, a.dtype)


def _apart(values: Array, slot: Array) -> Array:
    """values outside the slot's buffer: WebGPU does not read and write one buffer in one launch."""
    return values.copy() if values.buffer is slot.buffer else values


def fill_slot(slot: Array, values: Array) -> None:
    """Writes values into a slot by a kernel: a copy of bytes is of whole words, and would put what comes after an odd
    number of 16-bit floats into the gap behind the slot, which the gradient norm reads."""
    evaluate("clone_forward", "a", {"a": _apart(values, slot)}, slot.shape, slot.dtype, into=slot)


def lies_in(array: Array, slot: Array | None) -> bool:
    """Whether an Array is a slot's memory."""
    return slot is not None and array.buffer is slot.buffer and array.offset == slot.offset


def lend_slot(leaf: Tensor, slot: Array) -> None:
    """Makes the slot the leaf's gradient, by an Array of its own that free_slot finds again."""
    from .tensor import Tensor
    lent = slot.slot(0, slot.shape)
    leaf.grad, leaf._lent = Tensor(lent), weakref.ref(lent)


def free_slot(leaf: Tensor) -> Array | None:
    """The optimizer's slot, about to be overwritten. A former gradient that is still held gets memory of its own."""
    former = leaf._lent() if leaf._lent is not None else None
    if former is not None and lies_in(former, leaf._slot):
        with recorded_by(None):  # a replay has other holders to think of, or none
            apart = former.copy()
        former.buffer, former.offset = apart.buffer, apart.offset
    return leaf._slot


def accumulate_leaf(leaf: Tensor, gradient: Array, shared: bool = True) -> None:
    """Adds a gradient to leaf.grad: in place in the optimizer's slot where there is one, else into a new Array.
    `shared`: the Array has other uses, so that leaf.grad must not be it."""
    from .tensor import Tensor
    slot, present = leaf._slot, leaf.grad
    if gradient.shape != leaf.shape:
        raise GradientError(f"[backward] a gradient of shape {gradient.shape} came for a tensor of shape {leaf.shape}.")
    if present is None:
        if slot is None:
            leaf.grad = Tensor(gradient.copy() if shared else gradient)
            return
        if not lies_in(gradient, slot):
            free_slot(leaf)
            fill_slot(slot, gradient)
        lend_slot(leaf, slot)
    elif slot is not None and lies_in(present._array, slot):
        add_into(slot, _apart(gradient, slot))
    else:
        leaf.grad = Tensor(_add(present._array, gradient))


class _Walk:
    """One backward pass from some outputs. `wanted` are edges whose gradients are collected instead of stored."""

    def __init__(self, retain: bool, wanted: Sequence[Any] | None) -> None:
        self.retain = retain
        self.wanted = None if wanted is None else {self._key(e): i for i, e in enumerate(wanted)}
        self.found: list[Array | None] = [None] * len(wanted or ())
        self.pending: dict[Node, list[Array | None]] = {}
        self.heap: list[Node] = []

    @staticmethod
    def _key(edge: Any) -> Any:
        return (id(edge[0]), edge[1]) if isinstance(edge, tuple) else id(edge)

    def arrive(self, edge: Any, gradient: Array, shared: bool = True) -> None:
        if self.wanted is not None:
            index = self.wanted.get(self._key(edge))
            if index is not None:
                self.found[index] = _add(self.found[index], gradient)
        if not isinstance(edge, tuple):
            if self.wanted is None:
                accumulate_leaf(edge, gradient, shared)
            return
        node, index = edge
        slots = self.pending.get(node)
        if slots is None:
            slots = self.pending[node] = [None] * node.outputs
            heapq.heappush(self.heap, node)
        slots[index] = _add(slots[index], gradient)

    def _slots(self, node: Node) -> tuple[Array | None, ...]:
        """Where leaves' gradients may be written directly: arena slots that nothing was written to yet."""
        free, seen = [], set()
        for edge in node.edges:
            leaf = edge if edge is not None and not isinstance(edge, tuple) else None
            usable = leaf is not None and leaf._slot is not None and leaf.grad is None and id(leaf) not in seen
            free.append(free_slot(leaf) if usable and leaf is not None and self.wanted is None else None)
            seen.add(id(leaf))
        return tuple(free)

    def run(self) -> None:
        while self.heap:
            node = heapq.heappop(self.heap)
            gradients = self.pending.pop(node)
            op = node.op
            op.into = self._slots(node)
            results = op.backward(*gradients)
            if not self.retain:
                op.release()
            known = {g.buffer for g in gradients if g is not None}  # a rule may pass one Array on, to several inputs
            for edge, gradient in zip(node.edges, results, strict=True):
                if edge is not None and gradient is not None:
                    self.arrive(edge, gradient, gradient.buffer in known)
                    known.add(gradient.buffer)


def _seed(output: Tensor, gradient: Tensor | None) -> Array:
    if not output.requires_grad:
        raise GradientError("[backward] this tensor does not depend on any tensor with requires_grad=True.")
    if gradient is None:
        if output.numel() != 1:
            raise GradientError(f"[backward] a tensor of shape {output.shape} needs an explicit gradient; only a "
                                "scalar has one by itself. Reduce it first, for instance with .sum().")
        from .ops.create import fill
        return fill(output.shape, 1.0, output.dtype, output._array.backend)
    if gradient.shape != output.shape:
        raise GradientError(f"[backward] gradient must have the tensor's shape {output.shape}, got {gradient.shape}.")
    if gradient._array.backend is not output._array.backend:
        raise BackendError(f"[backward] gradient must be on {output.backend}, got {gradient.backend}.")
    return gradient._array


def backward(outputs: Sequence[Tensor], gradients: Sequence[Tensor | None], retain_graph: bool = False,
             wanted: Sequence[Tensor] | None = None) -> list[Array | None]:
    """Walks back from outputs. Leaves' .grad are added to, or, with `wanted`, those tensors' gradients returned."""
    walk = _Walk(retain_graph, None if wanted is None else [edge_of(t) for t in wanted])
    before, _mode.collecting = is_collecting(), wanted is not None
    try:
        with no_grad():
            for output, gradient in zip(outputs, gradients, strict=True):
                walk.arrive(edge_of(output), _seed(output, gradient))
            walk.run()
    finally:
        _mode.collecting = before
    return [walk.found[walk.wanted[walk._key(edge_of(t))]] for t in wanted or ()] if walk.wanted is not None else []


def _refuse(kind: Any, place: int, given: object) -> NoReturn:
    """Raises for an input that is no Tensor, by the name that forward gives it."""
    names = [n for n in inspect.signature(kind.forward).parameters if n != "self"]
    name = names[place] if place < len(names) and names[place] != "arrays" else "every input"
    raise not_a_tensor(getattr(kind, "name", "apply").removeprefix("_"), f"{name} must be a Tensor", given)


def apply(kind: Callable[[], Op], *inputs: Tensor | None, **options: Any) -> Any:
    """Runs an op on tensors and records it. The way every function on tensors reaches an op."""
    from .tensor import Tensor
    for place, given in enumerate(inputs):
        if given is not None and not isinstance(given, Tensor):
            _refuse(kind, place, given)
    policy = input_policy()
    if policy is not None:
        inputs = policy(kind, inputs)
    op = kind()
    recording = is_grad_enabled() and any(t is not None and t.requires_grad for t in inputs)
    op.needs = tuple(recording and t is not None and t.requires_grad for t in inputs)
    result = op.forward(*[None if t is None else t._array for t in inputs], **options)
    results = result if isinstance(result, tuple) else (result,)
    node = record(op, inputs, len(results)) if recording else None
    wrapped = []
    for index, array in enumerate(results):
        flows = node is not None and array.dtype.is_floating_point
        wrapped.append(Tensor(array, requires_grad=flows, node=node if flows else None, index=index))
    return tuple(wrapped) if isinstance(result, tuple) else wrapped[0]
