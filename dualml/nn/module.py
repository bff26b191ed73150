"""Module: parameters and submodules by attribute, train and eval mode, state dictionaries with strict errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ..dtypes import DType
from ..errors import ShapeError
from ..runtime import recorder, relied
from ..tape import no_grad
from ..tensor import Tensor
from .missing import no_attribute


class Told:
    """An attribute of Tensor that tells a recording of its uses, and counts the changes of all, and of modes."""

    changes = 0

    def __set_name__(self, owner: type, name: str) -> None:
        self.attribute, self.__doc__ = getattr(Tensor, name), Tensor.__slots__[name]

    def __get__(self, parameter: Any, kind: Any = None) -> Any:
        if parameter is None:
            return self
        seen = recorder()
        if seen is not None:
            seen.used(parameter, self.attribute, False)
        return self.attribute.__get__(parameter)

    def __set__(self, parameter: Any, value: Any) -> None:
        seen = recorder()
        if seen is not None:
            seen.used(parameter, self.attribute, True)
        self.attribute.__set__(parameter, value)
        Told.changes += 1


class Parameter(Tensor):
    """A leaf tensor that a Module owns and an optimizer changes."""

    __slots__ = ()
    if not TYPE_CHECKING:
        grad, requires_grad = Told(), Told()

    def __init__(self, data: Tensor, requires_grad: bool = True) -> None:
        super().__init__(data._array, requires_grad)

    def __repr__(self) -> str:
        return f"Parameter({super().__repr__()})"


class Module:
    """The base of all layers and models: assign Parameters and Modules as attributes, define forward."""

    def __init__(self) -> None:
        self._training = True

    @property
    def training(self) -> bool:
        """Whether dropout and the like are at work. A captured step that has asked is recorded anew in another mode."""
        return relied((id(self), "training"), lambda: self._training, told=True)

    @training.setter
    def training(self, mode: bool) -> None:
        self._training = mode
        Told.changes += 1  # after it: who sees the new count must see the change

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the module computes: subclasses define it, calls of the module reach it."""
        raise NotImplementedError(f"{type(self).__name__} has no forward")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.forward(*args, **kwargs)

    if not TYPE_CHECKING:
        def __getattr__(self, name: str) -> Any:
            raise no_attribute(self, name)

    # ---- what it holds ----

    def children(self) -> Iterator[tuple[str, Module]]:
        """Direct submodules by attribute name, in order of assignment."""
        return ((n, v) for n, v in vars(self).items() if isinstance(v, Module))

    def modules(self) -> Iterator[Module]:
        """This module and all below it."""
        yield self
        for _, child in self.children():
            yield from child.modules()

    def named_parameters(self, prefix: str = "", remove_duplicate: bool = True) -> Iterator[tuple[str, Parameter]]:
        """Parameters by dotted name. A shared one (a tied head) comes once, under its first name."""
        seen: set[int] = set()
        for name, parameter in self._walk(prefix):
            if not remove_duplicate or id(parameter) not in seen:
                seen.add(id(parameter))
                yield name, parameter

    def _walk(self, prefix: str) -> Iterator[tuple[str, Parameter]]:
        for name, value in vars(self).items():
            if isinstance(value, Parameter):
                yield prefix + name, value
        for name, child in self.children():
            yield from child._walk(f"{prefix}{name}.")

    def parameters(self) -> Iterator[Parameter]:
        """All parameters, shared ones once, as an optimizer wants them."""
        return (p for _, p in self.named_parameters())

    def num_parameters(self) -> int:
        """How many numbers are trained; shared ones count once."""
        return sum(p.numel() for p in self.parameters())

    # ---- modes and moves ----

    def apply(self, function: Callable[[Module], object]) -> Module:
        """Calls function on every module below, then on this one, as initialisers want it. Returns the module."""
        for _, child in self.children():
            child.apply(function)
        function(self)
        return self

    def train(self, mode: bool = True) -> Module:
        """Turns dropout and the like on (or off), here and below. Returns the module."""
        for module in self.modules():
            module.training = mode
        return self

    def eval(self) -> Module:
        """Turns dropout and the like off, here and below. Returns the module."""
        return self.train(False)

    def zero_grad(self) -> None:
        """Forgets the gradients of all parameters."""
        for parameter in self.parameters():
            parameter.grad = None

    def to(self, *targets: str | DType | Tensor, **named: Any) -> Module:
        """Moves all parameters to a backend, or casts them to a dtype, in place, as Tensor.to. Make the optimizer
        afterwards."""
        with no_grad():
            for parameter in self.parameters():
                moved = parameter.detach().to(*targets, **named)._array
                if moved is not parameter._array:  # else an optimizer's arena stays valid
                    parameter._array.buffer.moved = True
                    parameter._array, parameter._slot, parameter.grad = moved, None, None
        return self

    # ---- state ----

    def state_dict(self) -> dict[str, Tensor]:
        """All parameters by dotted name, shared ones under each of their names. They share memory with the model."""
        return {name: p.detach() for name, p in self.named_parameters(remove_duplicate=False)}

    def load_state_dict(self, state: Mapping[str, Tensor], strict: bool = True) -> None:
        """Copies values into the parameters.

        Raises:
            ShapeError: keys are missing or unexpected (strict), or a shape differs; the message names them all.
        """
        own = dict(self.named_parameters(remove_duplicate=False))
        missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
        wrong = [f"{n} must be {own[n].shape}, got {tuple(state[n].shape)}" for n in own
                 if n in state and own[n].shape != tuple(state[n].shape)]
        problems = [f"missing keys: {', '.join(missing)}"] if strict and missing else []
        problems += [f"unexpected keys: {', '.join(unexpected)}"] if strict and unexpected else []
        problems += wrong
        if problems:
            raise ShapeError(f"[load_state_dict] {type(self).__name__}: {'; '.join(problems)}.")
        with no_grad():
            for name, parameter in own.items():
                if name in state:
                    parameter.copy_(state[name])

    def extra_repr(self) -> str:
        """What repr shows of the module's settings."""
        return ""

    def __repr__(self) -> str:
        children = list(self.children())
        if not children:
            return f"{type(self).__name__}({self.extra_repr()})"
        lines = [f"  ({name}): " + repr(child).replace("\n", "\n  ") for name, child in children]
        return "\n".join([f"{type(self).__name__}({self.extra_repr()}", *lines, ")"])
