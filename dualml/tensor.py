"""Tensor: an Array with gradients and PyTorch's methods. Layout methods that PyTorch makes as views copy here: Arrays
are always contiguous. reshape, view, squeeze, unsqueeze, flatten and detach share memory."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from . import dtypes, tape, tensor_methods as methods
from .array import Array
from .dims import Dims, normal_dim, normal_dims, resolved, sizes_of
from .dtypes import DType
from .errors import DTypeError, GradientError, ShapeError, not_a_tensor
from .ops import cumsum, gather, index_select, layout, matmul, reduce, softmax, statistics
from .ops.elementwise import ELEMENTWISE
from .tape import apply
from .tensor_docs import documented
from .tensor_methods import Extremes

Number = int | float | bool
Int: TypeAlias = int  # inside Tensor, int, float and bool are its casts
Float: TypeAlias = float
Flag: TypeAlias = bool


def unify(op: str, *values: Tensor | Number) -> list[Tensor | Number]:
    """Operands of one dtype, by PyTorch's rules: tensors promote to the widest, those without dimensions only to
    another kind (bool, integer, floating); Python numbers follow the tensors (a float makes ints float32)."""
    tensors = [v for v in values if isinstance(v, Tensor)]
    for value in values:
        if not isinstance(value, (Tensor, int, float, np.number, np.bool_)):
            raise not_a_tensor(op, "operands must be tensors or numbers", value)
    if not tensors:
        raise DTypeError(f"[{op}] expected at least one tensor, got {values}.")
    dtype = dtypes.promote_shaped([(t.dtype, t.ndim) for t in tensors])
    numbers = [v for v in values if not isinstance(v, Tensor)]
    if not dtype.is_floating_point and any(isinstance(v, (float, np.floating)) for v in numbers):
        dtype = dtypes.float32
    if dtype is dtypes.bool_ and any(not isinstance(v, (bool, np.bool_)) for v in numbers):
        dtype = dtypes.int32
    for number in numbers if dtype is dtypes.int32 else ():
        if not -2**31 <= number < 2**31:
            raise DTypeError(f"[{op}] the number {number} does not fit int32. Cast the tensor with .float() first.")
    return [v.to(dtype) if isinstance(v, Tensor) and v.dtype is not dtype else v for v in values]


_OF_BOOLS = {"add": "logical_or", "mul": "logical_and"}  # as in PyTorch


def elementwise(name: str, *values: Tensor | Number) -> Tensor:
    """Applies a row of the elementwise table to tensors and numbers, which broadcast."""
    tensors = [v for v in values if isinstance(v, Tensor)]
    numbers = {n: v for n, v in zip("abc", values, strict=False) if not isinstance(v, Tensor)}
    if name in _OF_BOOLS and tensors[0].dtype is dtypes.bool_:
        name = _OF_BOOLS[name]
    result: Tensor = apply(ELEMENTWISE[name], *tensors, **numbers)
    return result


@documented
class Tensor:
    """A multi-dimensional array on one backend. Make one with dm.tensor, dm.zeros, dm.randn and the like."""

    __slots__ = {  # with what help() says of them
        **dict.fromkeys(("__weakref__", "_array", "_index", "_lent", "_node", "_slot")),
        "grad": "What backward found: a tensor of this shape that more backwards add to; None before the first.",
        "requires_grad": "Whether ops on this tensor are recorded for backward."}
    __hash__ = object.__hash__
    __array_priority__ = 1000  # NumPy scalars leave arithmetic to us

    def __init__(self, array: Array, requires_grad: Flag = False, node: tape.Node | None = None,
                 index: Int = 0) -> None:
        if not isinstance(array, Array):
            raise not_a_tensor("Tensor", "array must be an Array", array)
        self._array = array
        self._node = node
        self._index = index
        self._slot: Array | None = None  # where an optimizer wants the gradient
        self._lent: weakref.ref[Array] | None = None  # the last .grad's Array that lay there
        self.grad: Tensor | None = None
        self.requires_grad = requires_grad

    # ---- what it is ----

    @property
    def shape(self) -> tuple[Int, ...]: return self._array.shape

    @property
    def dtype(self) -> DType: return self._array.dtype

    @property
    def ndim(self) -> Int: return len(self._array.shape)

    @property
    def backend(self) -> str: return self._array.backend.name

    @property
    def is_leaf(self) -> Flag: return self._node is None

    def dim(self) -> Int: return self.ndim

    def size(self, dim: Int | None = None) -> Any:
        return self.shape if dim is None else self.shape[normal_dim("size", dim, self.ndim)]

    def numel(self) -> Int: return self._array.size

    def numpy(self) -> np.ndarray:
        """A NumPy copy of the values. Waits for the device. Raises GradientError where a gradient would be lost."""
        if self.requires_grad and tape.is_grad_enabled():
            raise GradientError("[numpy] this tensor requires a gradient that NumPy would lose. Use .detach().numpy().")
        return self._array.numpy()

    def item(self) -> Any:
        """The single value as a Python number. Waits for the device."""
        if self.numel() != 1:
            raise ShapeError(f"[item] the tensor must have one element, got shape {self.shape}.")
        return self._array.numpy().item()

    def tolist(self) -> Any: return self._array.numpy().tolist()

    def __dlpack__(self, **kwargs: Any) -> Any:
        """Exchange without a copy (cpu) or on the device (cuda); WebGPU memory cannot be shared."""
        array, stored = self._array, self._array.backend.storage(self.dtype)
        shared = array.backend.view(array.buffer, array.offset * stored.itemsize, stored, array.size)
        return shared.reshape(self.shape).__dlpack__(**kwargs)

    def __dlpack_device__(self) -> tuple[Int, Int]: return self._array.backend.dlpack_device

    def __repr__(self) -> str: return methods.text(self)
    def __format__(self, spec: str) -> str: return format(self.item(), spec) if spec else str(self)
    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray: return np.asarray(self.numpy(), dtype)

    def __deepcopy__(self, memo: dict[Int, Any]) -> Tensor:
        if self._node is not None:
            raise GradientError("[deepcopy] only leaf tensors can be copied with their gradients. Use .clone().")
        made = type(self).__new__(type(self))
        Tensor.__init__(made, self._array.copy(), self.requires_grad)
        made.grad = None if self.grad is None else self.grad.__deepcopy__(memo)
        return made

    def __len__(self) -> Int:
        if not self.ndim:
            raise ShapeError("[len] a tensor without dimensions has no length.")
        return self.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        return (self[i] for i in range(len(self)))

    def __bool__(self) -> Flag:
        if self.numel() != 1:
            raise ShapeError(f"[bool] the truth of a tensor of shape {self.shape} is ambiguous: it has {self.numel()} "
                             "elements. Use .any() or .all().")
        return bool(self.item())

    def __float__(self) -> Float: return float(self.item())
    def __int__(self) -> Int: return int(self.item())

    def __index__(self) -> Int:
        if self.dtype.kind != "i":
            raise DTypeError(f"[index] only an integer tensor can be an index, got {self.dtype.name}.")
        return int(self.item())

    # ---- gradients ----

    def backward(self, gradient: Tensor | None = None, retain_graph: Flag = False) -> None:
        """Adds d(self)/d(leaf) to .grad of every leaf. `gradient` (this tensor's shape) is 1 for a scalar."""
        tape.backward([self], [gradient], retain_graph)

    def detach(self) -> Tensor:
        """The same memory without a history."""
        return Tensor(self._array)

    def requires_grad_(self, requires_grad: Flag = True) -> Tensor:
        if requires_grad and not self.dtype.is_floating_point:
            raise DTypeError(f"[requires_grad] only floating point tensors have gradients, got {self.dtype.name}.")
        self.requires_grad = requires_grad
        return self

    def _overwrite(self, op: str, value: Tensor) -> Tensor:
        if tape.is_grad_enabled() and self.requires_grad:
            raise GradientError(f"[{op}] a tensor that requires a gradient can be changed in place only under "
                                "dm.no_grad().")
        if value.shape != self.shape:
            raise ShapeError(f"[{op}] value must have shape {self.shape}, got {value.shape}.")
        self._array.copy_from(value.to(self.dtype).to(self.backend)._array)
        return self

    def copy_(self, value: Tensor) -> Tensor:
        """Overwrites the values in place."""
        return self._overwrite("copy_", value)

    def fill_(self, value: Number) -> Tensor:
        from .ops.create import fill
        return self._overwrite("fill_", Tensor(fill(self.shape, value, self.dtype, self._array.backend)))

    def zero_(self) -> Tensor: return self.fill_(0)

    def add_(self, other: Tensor | Number) -> Tensor:
        with tape.no_grad():
            value = self.detach() + other
        return self._overwrite("add_", value)

    def mul_(self, other: Tensor | Number) -> Tensor:
        with tape.no_grad():
            value = self.detach() * other
        return self._overwrite("mul_", value)

    def _augmented(self, op: str, value: Tensor) -> Tensor:
        """x += y: in place as in PyTorch; a new tensor where the sum has a history."""
        if value.requires_grad and not (self.is_leaf and self.requires_grad):
            return value
        if value.dtype is not self.dtype:
            raise DTypeError(f"[{op}] the result is {value.dtype.name}, which does not fit in {self.dtype.name}.")
        return self._overwrite(op, value)

    # ---- dtype and place ----

    def to(self, *targets: str | DType | Tensor, **named: Any) -> Tensor:
        """This tensor as another dtype ("float16", dm.int32), on another backend ("cpu", "webgpu", "cuda"), both, or as
        another tensor has them. By name: dtype=, backend=."""
        x = self
        for target in (*targets, *methods.named_targets(named)) if named else targets:
            x = methods.to(x, target)
        return x

    def float(self) -> Tensor: return self.to(dtypes.float32)
    def double(self) -> Tensor: return self.to(dtypes.float64)
    def half(self) -> Tensor: return self.to(dtypes.float16)
    def bfloat16(self) -> Tensor: return self.to(dtypes.bfloat16)
    def int(self) -> Tensor: return self.to(dtypes.int32)
    def bool(self) -> Tensor: return self.to(dtypes.bool_)
    def cpu(self) -> Tensor: return self.to("cpu")

    def long(self) -> Tensor:
        """int32: the integers there are."""
        return self.to(dtypes.int32)

    def clone(self) -> Tensor:
        """A copy with its own memory, through which gradients flow."""
        return elementwise("clone", self)

    def contiguous(self) -> Tensor: return self

    # ---- elementwise ----

    def __add__(self, other: Tensor | Number) -> Tensor: return _pair("add", self, other)
    def __radd__(self, other: Number) -> Tensor: return _pair("add", other, self)
    def __sub__(self, other: Tensor | Number) -> Tensor: return _pair("sub", self, other)
    def __rsub__(self, other: Number) -> Tensor: return _pair("sub", other, self)
    def __mul__(self, other: Tensor | Number) -> Tensor: return _pair("mul", self, other)
    def __rmul__(self, other: Number) -> Tensor: return _pair("mul", other, self)
    def __truediv__(self, other: Tensor | Number) -> Tensor: return elementwise("div", *_floating("div", self, other))
    def __rtruediv__(self, other: Number) -> Tensor: return elementwise("div", *_floating("div", other, self))
    def __floordiv__(self, other: Tensor | Number) -> Tensor: return self.floor_divide(other)
    def __rfloordiv__(self, other: Number) -> Tensor: return _pair("floor_divide", other, self)
    def __mod__(self, other: Tensor | Number) -> Tensor: return self.remainder(other)
    def __rmod__(self, other: Number) -> Tensor: return _pair("remainder", other, self)
    def __iadd__(self, other: Tensor | Number) -> Tensor: return self._augmented("+=", self + other)
    def __isub__(self, other: Tensor | Number) -> Tensor: return self._augmented("-=", self - other)
    def __imul__(self, other: Tensor | Number) -> Tensor: return self._augmented("*=", self * other)
    def __itruediv__(self, other: Tensor | Number) -> Tensor: return self._augmented("/=", self / other)
    def __ifloordiv__(self, other: Tensor | Number) -> Tensor: return self._augmented("//=", self // other)
    def __imod__(self, other: Tensor | Number) -> Tensor: return self._augmented("%=", self % other)
    def __neg__(self) -> Tensor: return elementwise("neg", self)
    def __abs__(self) -> Tensor: return self.abs()
    def __matmul__(self, other: Tensor) -> Tensor: return self.matmul(other)
    def __rpow__(self, other: Number) -> Tensor: return elementwise("pow", *_floating("pow", other, self))
    def __eq__(self, other: object) -> Tensor: return _compare("eq", self, other)  # type: ignore[override]
    def __ne__(self, other: object) -> Tensor: return _compare("ne", self, other)  # type: ignore[override]
    def __lt__(self, other: Tensor | Number) -> Tensor: return _compare("lt", self, other)
    def __le__(self, other: Tensor | Number) -> Tensor: return _compare("le", self, other)
    def __gt__(self, other: Tensor | Number) -> Tensor: return _compare("gt", self, other)
    def __ge__(self, other: Tensor | Number) -> Tensor: return _compare("ge", self, other)
    def __and__(self, other: Tensor | Flag) -> Tensor: return elementwise("logical_and", *unify("and", self, other))
    def __or__(self, other: Tensor | Flag) -> Tensor: return elementwise("logical_or", *unify("or", self, other))
    def __xor__(self, other: Tensor | Flag) -> Tensor: return elementwise("logical_xor", *unify("xor", self, other))
    def __invert__(self) -> Tensor: return elementwise("logical_not", self)

    def __pow__(self, other: Tensor | Number) -> Tensor:
        if isinstance(other, (int, float)) and other == 2:
            return self.square()
        return elementwise("pow", *_floating("pow", self, other))

    def pow(self, exponent: Tensor | Number) -> Tensor: return self ** exponent
    def abs(self) -> Tensor: return elementwise("abs", self)
    def sign(self) -> Tensor: return elementwise("sign", self)
    def exp(self) -> Tensor: return _unary("exp", self)
    def log(self) -> Tensor: return _unary("log", self)
    def log1p(self) -> Tensor: return _unary("log1p", self)
    def expm1(self) -> Tensor: return _unary("expm1", self)
    def sqrt(self) -> Tensor: return _unary("sqrt", self)
    def rsqrt(self) -> Tensor: return _unary("rsqrt", self)
    def reciprocal(self) -> Tensor: return _unary("reciprocal", self)
    def square(self) -> Tensor: return elementwise("square", self)
    def sin(self) -> Tensor: return _unary("sin", self)
    def cos(self) -> Tensor: return _unary("cos", self)
    def tanh(self) -> Tensor: return _unary("tanh", self)
    def sigmoid(self) -> Tensor: return _unary("sigmoid", self)
    def relu(self) -> Tensor: return _unary("relu", self)
    def silu(self) -> Tensor: return _unary("silu", self)
    def softplus(self) -> Tensor: return _unary("softplus", self)
    def erf(self) -> Tensor: return _unary("erf", self)
    def floor(self) -> Tensor: return _unary("floor", self)
    def ceil(self) -> Tensor: return _unary("ceil", self)
    def isnan(self) -> Tensor: return _unary("isnan", self)
    def isinf(self) -> Tensor: return _unary("isinf", self)
    def isfinite(self) -> Tensor: return _unary("isfinite", self)
    def maximum(self, other: Tensor | Number) -> Tensor: return _pair("maximum", self, other)
    def minimum(self, other: Tensor | Number) -> Tensor: return _pair("minimum", self, other)
    def floor_divide(self, other: Tensor | Number) -> Tensor: return _pair("floor_divide", self, other)
    def remainder(self, other: Tensor | Number) -> Tensor: return _pair("remainder", self, other)

    def clamp(self, min: Tensor | Number | None = None, max: Tensor | Number | None = None) -> Tensor:
        """Values limited to [min, max]; either may be None."""
        return methods.clamp(self, min, max)

    def where(self, condition: Tensor, other: Tensor | Number) -> Tensor:
        """self where condition is true, else other."""
        here, there = unify("where", self, other)
        return elementwise("where", methods.required("where", condition, "condition").bool(), here, there)

    def masked_fill(self, mask: Tensor, value: Tensor | Number) -> Tensor:
        """value where mask is true, else self."""
        here, there = unify("masked_fill", self, value)
        return elementwise("where", methods.required("masked_fill", mask, "mask").bool(), there, here)

    # ---- reductions ----

    def _reduce(self, op: Any, dim: Dims, keepdim: Flag, **options: Any) -> Tensor:
        return _apply(op, self, dim=normal_dims(op.name, dim, self.ndim), keepdim=keepdim, **options)

    def sum(self, dim: Dims = None, keepdim: Flag = False) -> Tensor: return self._reduce(reduce.Sum, dim, keepdim)
    def mean(self, dim: Dims = None, keepdim: Flag = False) -> Tensor: return self._reduce(reduce.Mean, dim, keepdim)
    def amax(self, dim: Dims = None, keepdim: Flag = False) -> Tensor: return self._reduce(reduce.Max, dim, keepdim)
    def amin(self, dim: Dims = None, keepdim: Flag = False) -> Tensor: return self._reduce(reduce.Min, dim, keepdim)
    def prod(self, dim: Dims = None, keepdim: Flag = False) -> Tensor: return self._reduce(reduce.Prod, dim, keepdim)
    def any(self, dim: Dims = None, keepdim: Flag = False) -> Tensor: return self._reduce(reduce.Any, dim, keepdim)
    def all(self, dim: Dims = None, keepdim: Flag = False) -> Tensor: return self._reduce(reduce.All, dim, keepdim)

    def max(self, dim: Int | Tensor | None = None, keepdim: Flag = False) -> Any:
        """The largest element; along a dim, (values, indices). Values that tie share the gradient evenly. With another
        tensor the larger of both at each place."""
        if isinstance(dim, Tensor):
            return self.maximum(dim)
        return self.amax() if dim is None else Extremes(self.amax(dim, keepdim), self.argmax(dim, keepdim))

    def min(self, dim: Int | Tensor | None = None, keepdim: Flag = False) -> Any:
        """The smallest element, as max has the largest."""
        if isinstance(dim, Tensor):
            return self.minimum(dim)
        return self.amin() if dim is None else Extremes(self.amin(dim, keepdim), self.argmin(dim, keepdim))

    def argmax(self, dim: Int | None = None, keepdim: Flag = False) -> Tensor:
        return self._reduce(statistics.ArgMax, dim, keepdim)

    def argmin(self, dim: Int | None = None, keepdim: Flag = False) -> Tensor:
        return self._reduce(statistics.ArgMin, dim, keepdim)

    def var(self, dim: Dims = None, correction: Int = 1, keepdim: Flag = False) -> Tensor:
        return self._reduce(statistics.Var, dim, keepdim, correction=correction)

    def std(self, dim: Dims = None, correction: Int = 1, keepdim: Flag = False) -> Tensor:
        return self._reduce(statistics.Std, dim, keepdim, correction=correction)

    def logsumexp(self, dim: Dims = None, keepdim: Flag = False) -> Tensor:
        return self._reduce(statistics.LogSumExp, dim, keepdim)

    def norm(self) -> Tensor:
        """The Euclidean norm of all elements; its gradient at zeros is zero, as in PyTorch."""
        return methods.norm(self)

    def softmax(self, dim: Int = -1) -> Tensor:
        return _apply(softmax.Softmax, self, dim=normal_dim("softmax", dim, self.ndim))

    def log_softmax(self, dim: Int = -1) -> Tensor:
        return _apply(softmax.LogSoftmax, self, dim=normal_dim("log_softmax", dim, self.ndim))

    # ---- along a dimension ----

    def cumsum(self, dim: Int) -> Tensor:
        """Running sums along dim; those of bools are int32."""
        x = self.int() if self.dtype is dtypes.bool_ else self
        return _apply(cumsum.Cumsum, x, dim=normal_dim("cumsum", dim, self.ndim))

    def gather(self, dim: Int, index: Tensor) -> Tensor:
        """out[i][j][k] = self[index[i][j][k]][j][k] for dim 0, and so on. An index (int32) outside the dimension gives
        NaN, or 0 in integers, and no gradient. In the other dimensions index may be smaller than self."""
        place = normal_dim("gather", dim, self.ndim)
        return _apply(gather.Gather, methods.cropped(self, place, index), index, dim=place)

    def topk(self, k: Int, dim: Int = -1, largest: Flag = True) -> Extremes:
        """The k largest (or smallest) along dim, best first: (values, indices). k is at most 256. Of equals the one
        with the lower index comes first; NaN counts as the largest."""
        return methods.topk(self, k, dim, largest)

    def sort(self, dim: Int = -1, descending: Flag = False) -> Extremes:
        """All elements in order along dim: (values, indices). Equals stay in their order; NaN counts as the largest."""
        return methods.sort(self, dim, descending)

    def argsort(self, dim: Int = -1, descending: Flag = False) -> Tensor:
        """The indices, int32, that sort along dim."""
        return self.sort(dim, descending).indices

    # ---- products ----

    def matmul(self, other: Tensor) -> Tensor:
        """The matrix product with PyTorch's rules: batches broadcast, 1-D operands are vectors."""
        a, b = unify("matmul", self, other)
        return _apply(matmul.MatMul, a, b)  # type: ignore[arg-type]

    # ---- layout ----

    def reshape(self, *shape: Any) -> Tensor:
        """The same elements under another shape; one dimension may be -1."""
        return _apply(layout.Reshape, self, shape=resolved("reshape", sizes_of(shape), self.numel()))

    def view(self, *shape: Any) -> Tensor: return self.reshape(*shape)
    def flatten(self, start_dim: Int = 0, end_dim: Int = -1) -> Tensor: return methods.flatten(self, start_dim, end_dim)

    def squeeze(self, dim: Int | None = None) -> Tensor:
        """Without dimensions of size 1: all of them, or dim where it is one."""
        return methods.squeeze(self, dim)

    def unsqueeze(self, dim: Int) -> Tensor:
        place = normal_dim("unsqueeze", dim, self.ndim + 1)
        return self.reshape(*self.shape[:place], 1, *self.shape[place:])

    def permute(self, *dims: Any) -> Tensor:
        axes = tuple(normal_dim("permute", d, self.ndim) for d in sizes_of(dims))
        return _apply(layout.Permute, self, axes=axes)

    def transpose(self, dim0: Int, dim1: Int) -> Tensor: return methods.transpose(self, dim0, dim1)

    def t(self) -> Tensor:
        """The transposed matrix; a vector as it is."""
        return methods.matrix_transpose(self)

    @property
    def T(self) -> Tensor: return self.permute(*reversed(range(self.ndim)))

    @property
    def mT(self) -> Tensor: return self.transpose(-1, -2)

    def expand(self, *sizes: Any) -> Tensor:
        """Broadcast to sizes (-1 keeps one). A copy."""
        return methods.expand(self, sizes_of(sizes))

    def broadcast_to(self, shape: Sequence[Int]) -> Tensor: return self.expand(*shape)
    def repeat(self, *sizes: Any) -> Tensor: return _apply(layout.Repeat, self, sizes=sizes_of(sizes))

    def flip(self, *dims: Any) -> Tensor:
        return _apply(layout.Flip, self, dims=normal_dims("flip", sizes_of(dims), self.ndim))

    def tril(self, diagonal: Int = 0) -> Tensor: return _apply(layout.Tril, self, diagonal=diagonal)
    def triu(self, diagonal: Int = 0) -> Tensor: return _apply(layout.Triu, self, diagonal=diagonal)

    def narrow(self, dim: Int, start: Int, length: Int) -> Tensor: return methods.narrow(self, dim, start, length)

    def split(self, split_size: Int | Sequence[Int], dim: Int = 0) -> tuple[Tensor, ...]:
        """Pieces along dim, of one size (the last may be smaller) or of the sizes given."""
        return methods.split(self, split_size, dim)

    def chunk(self, chunks: Int, dim: Int = 0) -> tuple[Tensor, ...]:
        size = self.shape[normal_dim("chunk", dim, self.ndim)]
        return self.split(max(1, -(-size // chunks)), dim)

    def index_select(self, dim: Int, index: Tensor) -> Tensor:
        return _apply(index_select.IndexSelect, self, index, dim=normal_dim("index_select", dim, self.ndim))

    def __getitem__(self, key: Any) -> Tensor:
        from .indexing import getitem
        return getitem(self, key)

    def __setitem__(self, key: Any, value: Any) -> None:
        raise methods.no_assignment()

    if not TYPE_CHECKING:
        def __getattr__(self, name: str) -> Any:
            raise methods.no_attribute(name)


def _apply(op: Any, *inputs: Tensor, **options: Any) -> Tensor:
    made: Tensor = apply(op, *inputs, **options)
    return made


def _floating(op: str, *values: Tensor | Number) -> list[Tensor | Number]:
    found = unify(op, *values)
    return [v.float() if isinstance(v, Tensor) and not v.dtype.is_floating_point else v for v in found]


def _pair(name: str, a: Tensor | Number, b: Tensor | Number) -> Tensor:
    return elementwise(name, *unify(name, a, b))


def _unary(name: str, x: Tensor) -> Tensor:
    return elementwise(name, x if x.dtype.is_floating_point else x.float())


def _compare(name: str, a: Tensor, b: Any) -> Tensor:
    if b is None or isinstance(b, str):
        return NotImplemented  # type: ignore[no-any-return]  # so that x == None is False
    left, right = unify(name, a, b)
    if name not in ("eq", "ne") and isinstance(left, Tensor) and left.dtype is dtypes.bool_:
        left, right = left.int(), right.int() if isinstance(right, Tensor) else right
    return elementwise(name, left, right)
