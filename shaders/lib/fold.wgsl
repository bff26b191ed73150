// How a reduction folds: T is what it computes in, `value` makes a T of an element, `join` joins two.
{% set A = spec.dtype(spec.kernel.outputs[0]) %}
{% set T = "f32" if A.kind == "f" else A.wgsl %}
{% set joined = {"sum": "a + b", "prod": "a * b", "max": "max(a, b)", "min": "min(a, b)"}[op] %}
alias T = {{ T }};
alias vecT = {{ "vec4<T>" if W == 4 else "T" }};
{% if op in ("max", "min") and T == "f32" and value == "plain" %}
// A NaN stays, as in PyTorch: max and min may return the other one.
{% include "lib/nan.wgsl" %}
fn join(a: T, b: T) -> T { return select(select({{ joined }}, b, nan(b)), a, nan(a)); }
fn vec_join(a: vecT, b: vecT) -> vecT { return select(select({{ joined }}, b, vec_nan(b)), a, vec_nan(a)); }
{% else %}
fn join(a: T, b: T) -> T { return {{ joined }}; }
fn vec_join(a: vecT, b: vecT) -> vecT { return {{ joined }}; }
{% endif %}

{% if value == "tie" %}
fn value(v: vecF, y: vecF) -> vecT { return select(vecT(0), vecT(1), v == y); }
{% else %}
fn value(v: vecF) -> vecT {
    return {{ {"plain": "vecT(v)", "truth": "select(vecT(0), vecT(1), v != vecF(0))",
               "zero": "select(vecT(0), vecT(1), v == vecF(0))",
               "nonzero": "select(vecT(v), vecT(1), v == vecF(0))"}[value] }};
}
{% endif %}
{% set first = op in ("max", "min") and value == "plain" %}
{% set start = "vecT(" ~ ("1" if op == "prod" or (op, value) == ("min", "truth") else "0") ~ ")" %}
{% macro begin_at(element) %}{{ "vecT(" ~ element ~ ")" if first else start }}{% endmacro %}
