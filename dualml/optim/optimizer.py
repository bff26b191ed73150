"""The base of all optimizers: parameter groups, arenas, and state dictionaries."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ..array import Array, from_numpy
from ..dtypes import DType, float32, float64
from ..errors import ShapeError
from ..nn.module import Parameter
from ..tensor import Tensor
from .arena import Arena, make_arenas

Groups = Iterable[Parameter] | Iterable[dict[str, Any]]


def _state_dtype(arena: Arena) -> DType:
    """State is float32 whatever the parameters are, but for float64 ones."""
    return float64 if arena.dtype is float64 else float32


class Optimizer:
    """Subclasses name their state Arrays in `state_names` and launch one step over a stretch of an arena."""

    state_names: tuple[str, ...] = ()

    def __init__(self, params: Groups, defaults: dict[str, Any]) -> None:
        given: list[Any] = list(params)
        if not given:
            raise ShapeError("[optimizer] params must hold at least one parameter, got none.")
        groups = given if isinstance(given[0], dict) else [{"params": given}]
        self.param_groups: list[dict[str, Any]] = [defaults | g | {"params": list(g["params"])} for g in groups]
        seen: set[int] = set()
        for parameter in (p for g in self.param_groups for p in g["params"]):
            if id(parameter) in seen:
                raise ShapeError("[optimizer] a parameter appears twice in params.")
            seen.add(id(parameter))
        self.step_count = 0
        self.arenas: list[list[Arena]] = [make_arenas(g["params"]) for g in self.param_groups]
        self.state: dict[Arena, dict[str, Array]] = {}
        self._hyper: dict[int, tuple[tuple[float, ...], Array]] = {}
        for arena in (a for group in self.arenas for a in group):
            self.state[arena] = {name: arena.zeros(_state_dtype(arena)) for name in self.state_names}

    def zero_grad(self) -> None:
        """Forgets all gradients; their memory stays with the arena."""
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    def step(self) -> None:
        """Changes every parameter that has a gradient: one launch per group."""
        self.step_count += 1
        for group, arenas in zip(self.param_groups, self.arenas, strict=True):
            for arena in arenas:
                hyper = self._on_device(arena, self.hyper(group))
                for start, stop in list(arena.runs()):
                    parts = [flat.slot(start, (stop - start,)) for flat in (arena.values, arena.gradients)]
                    state = [self.state[arena][n].slot(start, (stop - start,)) for n in self.state_names]
                    self.launch(group, *parts, *state, hyper)

    def _on_device(self, arena: Arena, values: tuple[float, ...]) -> Array:
        """The step's numbers in a device buffer, so that a recorded step sees new ones without new launches."""
        known = self._hyper.get(id(arena))
        if known is None:
            made = from_numpy(np.array(values), _state_dtype(arena), arena.backend)
            self._hyper[id(arena)] = (values, made)
            return made
        if known[0] != values:
            known[1].write(np.array(values))
            self._hyper[id(arena)] = (values, known[1])
        return known[1]

    def hyper(self, group: Mapping[str, Any]) -> tuple[float, ...]:
        """The numbers of this step that the kernel reads."""
        raise NotImplementedError

    def launch(self, group: Mapping[str, Any], *arrays: Array) -> None:
        """One step over flat Arrays: values, gradients, state ..., hyper."""
        raise NotImplementedError

    # ---- state ----

    def state_dict(self) -> dict[str, Any]:
        """PyTorch's form: state by parameter number, and the groups' settings with parameter numbers."""
        numbers = {id(p): i for i, p in enumerate(p for g in self.param_groups for p in g["params"])}
        state: dict[int, dict[str, Tensor]] = {}
        for arena, arrays in self.state.items():
            for index, parameter in enumerate(arena.parameters):
                state[numbers[id(parameter)]] = {n: Tensor(arena.view(a, index)) for n, a in arrays.items()}
        groups = [{k: v for k, v in g.items() if k != "params"} | {"params": [numbers[id(p)] for p in g["params"]]}
                  for g in self.param_groups]
        return {"step": self.step_count, "state": state, "param_groups": groups}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over what state_dict gave. Raises ShapeError where groups or shapes differ."""
        ours = self.state_dict()
        if [g["params"] for g in state["param_groups"]] != [g["params"] for g in ours["param_groups"]]:
            raise ShapeError("[optimizer] the saved parameter groups do not match this optimizer's.")
        for number, own in ours["state"].items():
            saved = state["state"].get(number, state["state"].get(str(number)))
            for name, tensor in own.items():
                if saved is None or name not in saved or tuple(saved[name].shape) != tensor.shape:
                    raise ShapeError(f"[optimizer] state {name} of parameter {number} must have shape {tensor.shape}.")
                tensor.copy_(saved[name])
        for group, saved_group in zip(self.param_groups, state["param_groups"], strict=True):
            group.update({k: v for k, v in saved_group.items() if k != "params"})
        self.step_count = int(state["step"])
