// The maximum of a row and the sum of exp(element - maximum), in one pass.
{% include "lib/reduce.wgsl" %}
const LOWEST = -3.4028234e38f;  // where a maximum starts: infinity cannot be written

// Takes elements into a running maximum and sum, which is rescaled when it meets a larger element.
fn meet(v: vecf, top: ptr<function, f32>, sum: ptr<function, f32>) {
    let higher = max(*top, vec_max(v));
    *sum = *sum * exp(*top - higher) + vec_sum(exp(v - higher));
    *top = higher;
}
