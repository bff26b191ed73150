// Rows of L logits, of which the first V stand for classes.
const WITH_CLASSES = (V + W - 1u) / W;  // vectors

// Vector c of something, with another value where there is no class.
fn classes(v: vecf, c: u32, other: f32) -> vecf {
{% if V == L %}
    return v;
{% elif W == 4 %}
    return select(vecf(other), v, vec4u(4u * c) + vec4u(0u, 1u, 2u, 3u) < vec4u(V));
{% else %}
    return select(other, v, c < V);
{% endif %}
}
