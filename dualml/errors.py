"""Every error dualml raises on purpose. Messages read `[op] what was expected, what came. How to fix it.`"""

from __future__ import annotations


class DualmlError(Exception):
    """The base of all dualml errors."""


class ShapeError(DualmlError, ValueError):
    """Shapes that do not fit together."""


class DTypeError(DualmlError, TypeError):
    """A dtype that an op or a backend does not take."""


class BackendError(DualmlError, RuntimeError):
    """A backend that is absent, mixed with another one, or cannot do what was asked."""


class DeviceLostError(BackendError):
    """The device went away: a driver reset, a watchdog, an unplugged card."""


class OutOfMemoryError(BackendError, MemoryError):
    """The device has no room for an allocation."""


class LimitError(BackendError):
    """A size above a fixed limit of the device, such as WebGPU's largest binding."""


class GradientError(DualmlError, RuntimeError):
    """A backward pass that cannot be right: a graph used twice, a saved value overwritten."""


class KernelError(DualmlError, RuntimeError):
    """A kernel whose declaration and sources disagree, or whose source does not compile."""


class CaptureError(DualmlError, RuntimeError):
    """A step that cannot be replayed: it reads from the device, or does something else at every call."""


class DataError(DualmlError, ValueError):
    """A text, tokenizer or data set that cannot be used as it is."""


class CheckpointError(DualmlError, RuntimeError):
    """A checkpoint that is missing, incomplete, or of another model."""


class TrainingError(DualmlError, RuntimeError):
    """A training run that cannot go on, such as one whose loss is no longer a number."""


class MissingNameError(DualmlError, AttributeError):
    """A name that people know from elsewhere and that is not here."""


def not_a_tensor(op: str, must: str, value: object) -> DTypeError:
    """The error for a value where a Tensor belongs."""
    kind = type(value)
    package = "" if kind.__module__ == "builtins" else kind.__module__.split(".")[0] + "."
    known = hasattr(value, "__array__") or isinstance(value, (list, tuple, int, float))
    fix = (" Make one with dm.tensor(x.numpy())." if package == "torch." else " Make one with dm.tensor(x).") * known
    if isinstance(value, str):
        fix = " Encode text with a tokenizer first: dm.tensor([tokenizer.encode(text)])."
    return DTypeError(f"[{op}] {must}, got {package}{kind.__qualname__}.{fix}")
