"""The base of all optimizers: parameter groups, arenas, and state dictionaries."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np

from ..array import Array, from_numpy
from ..dims import check_number
from ..dtypes import DType, bfloat16, float16, float32, float64
from ..errors import DTypeError, ShapeError, not_a_tensor
from ..nn.module import Module, Parameter
from ..ops.optimizer import with_master
from ..runtime import relied, replayed
from ..tensor import Tensor
from .arena import Arena, make_arenas

Groups = Iterable[Parameter] | Iterable[dict[str, Any]]


def _state_dtype(arena: Arena) -> DType:
    """State is float32 whatever the parameters are, but for float64 ones."""
    return float64 if arena.dtype is float64 else float32


# Parameters of 16 bits have a float32 copy in their state, which takes the steps: one below half a unit in a weight's
# last place (0.2 % of it in bfloat16) would change nothing otherwise.
SHORT, MASTER = (float16, bfloat16), "master"


def _alike(counts: list[int]) -> tuple[bool, ...]:
    """Which neighbours have had as many steps; () where all have."""
    if counts.count(counts[0]) == len(counts):
        return ()
    return tuple([one == two for one, two in itertools.pairwise(counts)])


def check_settings(group: dict[str, Any]) -> None:
    """Raises for a setting of a group that no step can be made with, and for what is no Parameter."""
    for name in ("lr", "eps", "weight_decay", "momentum"):
        if name in group:
            check_number("optimizer", name, group[name])
    if "betas" in group:
        betas = group["betas"]
        if not isinstance(betas, (tuple, list)) or len(betas) != 2:
            raise ShapeError(f"[optimizer] betas must be two numbers, got {betas!r}.")
        for number, beta in enumerate(betas, 1):
            check_number("optimizer", f"beta{number}", beta, 0.0, 1.0, below=True)
        group["betas"] = tuple(betas)
    for parameter in group["params"]:
        if not isinstance(parameter, Tensor):
            raise not_a_tensor("optimizer", "params must hold parameters or dicts of settings", parameter)


class Optimizer:
    """Subclasses name their state Arrays in `state_names` and launch one step over a stretch of an arena."""

    def __init__(self, params: Groups, defaults: dict[str, Any]) -> None:
        if isinstance(params, (Module, Tensor)):
            raise DTypeError(f"[optimizer] params must be parameters or groups, got one {type(params).__name__}. Pass "
                             "model.parameters(), or a list.")
        given: list[Any] = list(params)
        if not given:
            raise ShapeError("[optimizer] params must hold at least one parameter, got none.")
        groups = given if isinstance(given[0], dict) else [{"params": given}]
        self.param_groups: list[dict[str, Any]] = [defaults | g | {"params": list(g["params"])} for g in groups]
        for group in self.param_groups:
            check_settings(group)
        seen: set[int] = set()
        for parameter in (p for g in self.param_groups for p in g["params"]):
            if id(parameter) in seen:
                raise ShapeError("[optimizer] a parameter appears twice in params.")
            seen.add(id(parameter))
        self.arenas: list[list[Arena]] = [make_arenas(g["params"]) for g in self.param_groups]
        self.steps = {arena: [0] * len(arena.parameters) for group in self.arenas for arena in group}
        self.state: dict[Arena, dict[str, Array]] = {arena: {} for arena in self.steps}
        self._unscaled = {arena: from_numpy(np.ones(1), _state_dtype(arena), arena.backend) for arena in self.steps}
        self._device: dict[tuple[Arena, int], tuple[tuple[float, ...], Array]] = {}
        self._counted: list[tuple[list[int], range]] = []  # of the last step
        for group, arenas in zip(self.param_groups, self.arenas, strict=True):
            for arena in arenas:
                self._state_of(group, arena)

    def _state_of(self, group: Mapping[str, Any], arena: Arena) -> list[Array]:
        """The arena's state Arrays, made where a setting that was changed needs new ones; a master copy comes last."""
        state, names = self.state[arena], (*self.state_names(group), *[MASTER] * (arena.dtype in SHORT))
        state.update({name: arena.zeros(_state_dtype(arena)) for name in names if name not in state})
        return [state[name] for name in names]

    def __repr__(self) -> str:
        """As PyTorch shows it: the settings of every group."""
        lines = [f"{type(self).__name__} ("]
        for number, group in enumerate(self.param_groups):
            lines += [f"Parameter Group {number}", *(f"    {k}: {group[k]}" for k in sorted(group) if k != "params")]
        return "\n".join([*lines, ")"])

    def zero_grad(self) -> None:
        """Forgets all gradients; their memory stays with the arena."""
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    def step(self, scale: Tensor | None = None) -> None:
        """Changes every parameter that has a gradient: one launch per group, as long as all have had as many steps.

        Args:
            scale: one float32 on the device that gradients are multiplied by; 0 leaves parameters and state as they
                are. Steps are counted either way (see uncount).
        """
        first = True
        for group, arenas in zip(self.param_groups, self.arenas, strict=True):
            relied((id(self), id(group)), partial(self.state_names, group))  # it chooses the kernel
            for arena in arenas:
                relied((id(self), id(arena)), partial(_alike, self.steps[arena]))  # and how many launches there are
                state = self._state_of(group, arena)
                factor = self._unscaled[arena] if scale is None else scale._array.reshape(1)
                for number, (start, stop, members) in enumerate(arena.stretches(self.steps[arena])):
                    replayed(partial(self._advance, group, arena, number, members, first))
                    first = False
                    flat = [array.slot(start, (stop - start,)) for array in (arena.values, arena.gradients, *state)]
                    self._update(group, flat, self._device[arena, number][1], factor)
        if first:  # no gradients
            self._counted.clear()

    def _update(self, group: Mapping[str, Any], flat: list[Array], hyper: Array, factor: Array) -> None:
        """One step over a stretch: values, gradients, state ..., and the master copy of 16-bit values."""
        values, gradients, *state = flat
        if values.dtype not in SHORT:
            self.launch(group, values, gradients, *state, hyper, factor)
            return
        *state, master = state
        with_master(values, master, lambda x: self.launch(group, x, gradients, *state, hyper, factor))

    def _advance(self, group: Mapping[str, Any], arena: Arena, number: int, members: range, first: bool) -> None:
        """Counts a step of neighbours in the arena, the first ones of this step or others, and writes its numbers to
        the device."""
        if first:
            self._counted.clear()
        counts = self.steps[arena]
        place = slice(members.start, members.stop)
        counts[place] = [count + 1 for count in counts[place]]
        self._counted.append((counts, members))
        self._on_device(arena, number, self.hyper(group, counts[members[0]]))

    def uncount(self) -> None:
        """Takes back the count of the step just done, whose scale was 0."""
        for counts, members in self._counted:
            for index in members:
                counts[index] -= 1
        self._counted.clear()

    def _on_device(self, arena: Arena, number: int, values: tuple[float, ...]) -> None:
        """Puts numbers of a step in a device buffer, so that a recorded step sees new ones without new launches."""
        known = self._device.get((arena, number))
        if known is None or len(known[0]) != len(values):
            array = from_numpy(np.array(values), _state_dtype(arena), arena.backend)
        else:
            array = known[1]
            if known[0] != values:
                array.write(np.array(values))
        self._device[arena, number] = values, array

    def state_names(self, group: Mapping[str, Any]) -> tuple[str, ...]:
        """What is kept of each parameter besides its value."""
        raise NotImplementedError

    def hyper(self, group: Mapping[str, Any], step: int) -> tuple[float, ...]:
        """The numbers that the kernel reads, in a parameter's step number `step`, from 1."""
        raise NotImplementedError

    def launch(self, group: Mapping[str, Any], *arrays: Array) -> None:
        """One step over flat Arrays: values, gradients, state ..., hyper, scale."""
        raise NotImplementedError

    # ---- state ----

    def _numbers(self) -> dict[int, int]:
        """A parameter's id to its place among all groups."""
        return {id(p): i for i, p in enumerate(p for g in self.param_groups for p in g["params"])}

    def state_dict(self) -> dict[str, Any]:
        """PyTorch's form: state by parameter number, and the groups' settings with parameter numbers. `steps` has how
        many steps each parameter took."""
        numbers = self._numbers()
        state: dict[int, dict[str, Tensor]] = {}
        steps = [0] * len(numbers)
        for arena, arrays in self.state.items():
            for index, parameter in enumerate(arena.parameters):
                steps[numbers[id(parameter)]] = self.steps[arena][index]
                state[numbers[id(parameter)]] = {n: Tensor(arena.view(a, index)) for n, a in arrays.items()}
        groups = [{k: v for k, v in g.items() if k != "params"} | {"params": [numbers[id(p)] for p in g["params"]]}
                  for g in self.param_groups]
        return {"steps": steps, "state": state, "param_groups": groups}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over what state_dict gave. Raises ShapeError where groups or shapes differ."""
        ours = self.state_dict()
        numbers = self._numbers()
        if [g["params"] for g in state["param_groups"]] != [g["params"] for g in ours["param_groups"]]:
            raise ShapeError("[optimizer] the saved parameter groups do not match this optimizer's.")
        for number, own in ours["state"].items():
            saved = state["state"].get(number, state["state"].get(str(number)))
            for name, tensor in own.items():
                if name == MASTER and saved is not None and name not in saved:  # of a run in float32, or of PyTorch
                    tensor.zero_()  # the next step takes the parameter itself
                    continue
                if saved is None or name not in saved or tuple(saved[name].shape) != tensor.shape:
                    raise ShapeError(f"[optimizer] state {name} of parameter {number} must have shape {tensor.shape}.")
                tensor.copy_(saved[name])
        for group, saved_group in zip(self.param_groups, state["param_groups"], strict=True):
            group.update({k: v for k, v in saved_group.items() if k != "params"})
        for arena, counts in self.steps.items():
            counts[:] = [int(state["steps"][numbers[id(p)]]) for p in arena.parameters]
