"""Kernels by name, for programs in files: a declared kernel is its name; an elementwise one is its expression too.

An expression from a file is compiled by Python and by the device's compiler. So it may hold nothing but arithmetic,
comparisons, and the functions that all three languages share.
"""

from __future__ import annotations

import keyword
import re
from typing import Any

from ..errors import CheckpointError, DualmlError
from ..kernel import KERNELS, Kernel
from ..ops.elementwise import Operand, expression_kernel
from ..ops.numpy_math import FUNCTIONS

_NAME = re.compile(r"[A-Za-z_]\w{0,79}")
_TOKEN = re.compile(r"\s+|(?P<word>[A-Za-z_]\w*)|\d+\.\d*(?:[eE][-+]?\d{1,3})?f|\d{1,10}u?|==|!=|<=|>=|[-+*/()<>&|,]")
_NOT_TOGETHER = re.compile(r"\*\s*\*|/\s*/|/\s*\*|\*\s*/|<\s*<|>\s*>")  # powers, comments, shifts
_LONGEST, _DEEPEST = 10_000, 60
_SHARED = FUNCTIONS.keys() - {"__builtins__"}
# Launched by fusion alone, after a file is read: sum_jobs writes where a table of numbers says.
_OF_FUSION = frozenset({"clip_adamw", "cross_entropy_count", "cross_entropy_in_place", "dropout_layer_norm_forward",
                        "embedding_accumulate", "embedding_add_forward", "layer_norm_dropout_backward", "matmul_pair",
                        "sum_jobs"})


def describe_kernel(kernel: Kernel) -> dict[str, Any]:
    """A kernel as JSON. Raises CheckpointError for one whose source is not dualml's own."""
    if KERNELS.get(kernel.name) is kernel:
        return {"name": kernel.name}
    if kernel.source == "elementwise" and not kernel.texts:
        operands = [[o.name, o.dtype, o.number, None if o.strides is None else list(o.strides)]
                    for o in kernel.context["operands"]]
        return {"name": kernel.name, "expression": kernel.context["expression"], "operands": operands,
                "inner": list(kernel.context["sizes"][1:]), "result": kernel.outputs[0].type}
    raise CheckpointError(f"[program] kernel {kernel.name} is declared outside dualml, so its name says nothing to who "
                          "loads the program. Leave its op out of the captured step.")


def kernel_of(entry: Any) -> Kernel:
    """The kernel of describe_kernel's answer. Raises ValueError with what is wrong."""
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        raise ValueError(f"kernel {str(entry)[:60]!r} has no name")
    name = entry["name"]
    if entry.keys() == {"name"}:
        if name not in KERNELS:
            raise ValueError(f"kernel {name[:60]!r} is unknown to this version of dualml")
        if name in _OF_FUSION:
            raise ValueError(f"kernel {name} is what loading makes of others, and no file has it")
        return KERNELS[name]
    if entry.keys() != {"name", "expression", "operands", "inner", "result"} or not _NAME.fullmatch(name):
        raise ValueError(f"kernel {name[:60]!r} must have a name, or name, expression, operands, inner and result")
    operands, inner = _operands(name, entry["operands"]), entry["inner"]
    if not _sizes(inner, 1) or entry["result"] not in ("F", "bool"):
        raise ValueError(f"kernel {name} must have inner sizes from 1 and a result F or bool")
    if any(o.strides is not None and len(o.strides) != 1 + len(inner) for o in operands):
        raise ValueError(f"kernel {name} must have a stride for each of {1 + len(inner)} sizes")
    _check_expression(name, entry["expression"], {o.name for o in operands})
    try:
        return expression_kernel(name, entry["expression"], operands, tuple(inner), entry["result"])
    except (SyntaxError, ValueError, MemoryError, RecursionError, DualmlError) as error:
        raise ValueError(f"kernel {name} has an expression that is none: {str(error)[:80]}") from None


def _sizes(values: Any, least: int) -> bool:
    return isinstance(values, list) and len(values) <= 32 and all(type(v) is int and least <= v < 2**31 for v in values)


def _operands(name: str, given: Any) -> tuple[Operand, ...]:
    found: list[Operand] = []
    for one in given if isinstance(given, list) and len(given) <= 16 else [None]:
        if not isinstance(one, list) or len(one) != 4:
            raise ValueError(f"kernel {name} must have at most 16 operands of name, dtype, number and strides")
        word, dtype, number, strides = one
        if not isinstance(word, str) or not _NAME.fullmatch(word) or keyword.iskeyword(word) or word in _SHARED \
                or word in {o.name for o in found}:
            raise ValueError(f"kernel {name} must name its operands apart, got {str(word)[:40]!r}")
        if dtype not in ("f32", "i32", "bool") or type(number) is not bool:
            raise ValueError(f"kernel {name} must have operands of f32, i32 or bool, got {str(dtype)[:40]!r}")
        if strides is not None and (number or not _sizes(strides, 0)):
            raise ValueError(f"kernel {name} has strides of {word} that cannot be")
        found.append(Operand(word, dtype, number, None if strides is None else tuple(strides)))
    if all(o.number for o in found):
        raise ValueError(f"kernel {name} must have a tensor among its operands")
    return tuple(found)


def _check_expression(name: str, text: Any, operands: set[str]) -> None:
    """Refuses whatever is not arithmetic on the operands."""
    if not isinstance(text, str) or len(text) > _LONGEST or _NOT_TOGETHER.search(text):
        raise ValueError(f"kernel {name} has an expression that is no arithmetic: {str(text)[:60]!r}")
    place = depth = 0
    while place < len(text):
        token = _TOKEN.match(text, place)
        if token is None:
            raise ValueError(f"kernel {name} has {text[place:place + 20]!r} in its expression, which is no arithmetic")
        word = token["word"]
        if word and word not in operands and word not in _SHARED:
            raise ValueError(f"kernel {name} uses {word[:40]!r}, which is no operand and no shared function")
        depth += {"(": 1, ")": -1}.get(token[0], 0)
        if not 0 <= depth <= _DEEPEST:
            raise ValueError(f"kernel {name} has parentheses that do not match, or deeper than {_DEEPEST}")
        place = token.end()
