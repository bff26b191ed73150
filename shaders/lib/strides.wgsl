{% set sizes = [0, n1, n2, n3, n4, n5] %}
// Where element i of an array of n0 x ... x n5 lies in memory that is walked with strides s0 ... s4 and `last`.
fn strided_offset(i: u32, first: u32, last: i32) -> u32 {
    var rest = i;
    var at = i32(first);
{% for d in range(5, 0, -1) if sizes[d] > 1 %}
    at += i32(rest % n{{ d }}) * {{ "last" if d == 5 else "p.s" ~ d }};
    rest /= n{{ d }};
{% endfor %}
    return u32(at + i32(rest) * p.s0);
}
