"""The sentences of Tensor's shorter members: tensor.py is a table of one-liners, what they mean is read here."""

from __future__ import annotations

from typing import TypeVar

T = TypeVar("T")

# `dim` is one dimension, several, or None for all of them, unless it says otherwise; keepdim leaves them with size 1.
SENTENCES = {
    # ---- what it is ----
    "shape": "The sizes of all dimensions, a tuple.",
    "dtype": "The type of the elements, such as dm.float32.",
    "ndim": "The number of dimensions.",
    "backend": "Where the elements are: \"cpu\", \"webgpu\" or \"cuda\".",
    "is_leaf": "Whether no op with a gradient made it, so that backward fills its .grad.",
    "dim": "The number of dimensions, as ndim.",
    "size": "The shape, or the size of one dimension.",
    "numel": "The number of elements.",
    "tolist": "The elements as nested Python lists; a number where there are no dimensions. Waits for the device.",
    # ---- in place ----
    "requires_grad_": "Says whether backward shall find this tensor's gradient; it must be floating. Returns it.",
    "fill_": "Makes every element this value, in place. Where a gradient is required only under dm.no_grad().",
    "zero_": "Makes every element 0, in place. Where a gradient is required only under dm.no_grad().",
    "add_": "Adds in place; other broadcasts to this shape. Where a gradient is required only under dm.no_grad().",
    "mul_": "Multiplies in place; other broadcasts to this shape. Where a gradient is required only under "
            "dm.no_grad().",
    # ---- dtype and place ----
    "float": "As float32.",
    "double": "As float64, which only the cpu backend has.",
    "half": "As float16.",
    "bfloat16": "As bfloat16.",
    "int": "As int32; fractions are cut off towards 0.",
    "bool": "As bool: whether each element is not 0.",
    "cpu": "On the cpu backend; itself where it is there.",
    "contiguous": "Itself: tensors always lie in memory without gaps.",
    # ---- elementwise ----
    "pow": "Each element to the power of exponent, a number or a tensor that broadcasts; as x ** exponent.",
    "abs": "The absolute value of each element.",
    "sign": "-1, 0 or 1 for each element; 0 for NaN.",
    "exp": "e to the power of each element.",
    "log": "The natural logarithm; NaN of what is negative.",
    "log1p": "log(1 + x), exact near 0 too.",
    "expm1": "exp(x) - 1, exact near 0 too.",
    "sqrt": "The square root; NaN of what is negative.",
    "rsqrt": "1 / sqrt(x).",
    "reciprocal": "1 / x.",
    "square": "x * x.",
    "sin": "The sine of angles in radians.",
    "cos": "The cosine of angles in radians.",
    "tanh": "The hyperbolic tangent.",
    "sigmoid": "1 / (1 + exp(-x)).",
    "relu": "x where it is positive, else 0.",
    "silu": "x * sigmoid(x).",
    "softplus": "log(1 + exp(x)), stable for any x.",
    "erf": "The error function.",
    "floor": "The largest whole number that is no larger.",
    "ceil": "The smallest whole number that is no smaller.",
    "isnan": "Whether each element is NaN.",
    "isinf": "Whether each element is infinite, of either sign.",
    "isfinite": "Whether each element is neither NaN nor infinite.",
    "floor_divide": "The quotient rounded down, as x // other; its gradient is 0. By 0 it is what division gives of "
                    "floats, 0 of integers.",
    "remainder": "What is left of x beyond the next lower multiple of other, as x % other: of other's sign. By 0 it "
                 "is NaN of floats, 0 of integers.",
    "maximum": "The larger of both at each place; they broadcast. NaN stays, equals share the gradient evenly.",
    "minimum": "The smaller of both at each place; they broadcast. NaN stays, equals share the gradient evenly.",
    # ---- reductions ----
    "sum": "The sum over dim: one dimension, several, or all without it. Of bools it counts, in int32.",
    "mean": "The mean of floating elements over dim: one dimension, several, or all without it.",
    "amax": "The largest element over dim: one dimension, several, or all without it. Equals share the gradient "
            "evenly.",
    "amin": "The smallest element over dim: one dimension, several, or all without it. Equals share the gradient "
            "evenly.",
    "prod": "The product over dim: one dimension, several, or all without it.",
    "any": "Whether some element over dim (one dimension, several, or all without it) is true.",
    "all": "Whether every element over dim (one dimension, several, or all without it) is true.",
    "argmax": "The index, int32, of the largest element along dim; without dim that in the flattened tensor.",
    "argmin": "The index, int32, of the smallest element along dim; without dim that in the flattened tensor.",
    "var": "The variance over dim: squared distances from the mean, added and divided by their number - correction.",
    "std": "The standard deviation over dim: the square root of var.",
    "logsumexp": "log(sum(exp(x))) over dim, without overflow.",
    "softmax": "exp(x) / sum(exp(x)) along dim, without overflow.",
    "log_softmax": "The logarithm of softmax along dim, stable where softmax would be 0.",
    # ---- layout ----
    "view": "As reshape.",
    "flatten": "Dimensions start_dim to end_dim as one; all by default.",
    "unsqueeze": "A dimension of size 1 more, at place dim of the result.",
    "permute": "The dimensions in another order: dimension i of the result is dims[i] of this tensor. A copy.",
    "transpose": "Dimensions dim0 and dim1 swapped. A copy.",
    "T": "All dimensions in reverse order. A copy.",
    "mT": "The last two dimensions swapped: [..., N, M] -> [..., M, N]. A copy.",
    "broadcast_to": "The tensor broadcast to shape. A copy.",
    "repeat": "The tensor tiled: sizes[i] times along dimension i, new dimensions in front. A copy.",
    "flip": "The elements in reverse order along dims. A copy.",
    "tril": "0 above the diagonal of the last two dimensions; diagonal=1 keeps one line more, -1 one less.",
    "triu": "0 below the diagonal of the last two dimensions; diagonal=-1 keeps one line more, 1 one less.",
    "narrow": "`length` elements along dim from `start` on, as x[start:start + length] does along dimension 0. A copy.",
    "chunk": "At most `chunks` pieces along dim, of one size; the last may be smaller.",
    "index_select": "The slices along dim that index, int32 [N], names: dim becomes N. Out of range they are NaN, 0 in "
                    "integers.",
}


def documented(cls: type[T]) -> type[T]:
    """Gives the class's members their sentences."""
    for name, sentence in SENTENCES.items():
        vars(cls)[name].__doc__ = sentence
    return cls
