// Philox4x32-10: Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011.

// The high halves of two 32 x 32 bit products, from four products of 16-bit halves each.
fn high_products(a: vec2u, b: vec2u) -> vec2u {
    let al = a & vec2u(0xffffu);
    let ah = a >> vec2u(16u);
    let bl = b & vec2u(0xffffu);
    let bh = b >> vec2u(16u);
    let middle = ah * bl + ((al * bl) >> vec2u(16u));
    let other = al * bh + (middle & vec2u(0xffffu));
    return ah * bh + (middle >> vec2u(16u)) + (other >> vec2u(16u));
}

fn philox(counter: vec4u, seed: vec2u) -> vec4u {
    const factors = vec2u(0xd2511f53u, 0xcd9e8d57u);
    var c = counter;
    var key = seed;
    for (var i = 0u; i < 10u; i++) {
        let high = high_products(c.xz, factors);
        let low = c.xz * factors;
        c = vec4u(high.y ^ c.y ^ key.x, low.y, high.x ^ c.w ^ key.y, low.x);
        key += vec2u(0x9e3779b9u, 0xbb67ae85u);
    }
    return c;
}

// The words of elements 4c ... 4c + 3 of a launch whose counters begin at an offset.
fn words_at(offset: u32, c: u32) -> vec4u {
    let low = state[2] + (offset + c);
    let carry = select(0u, 1u, low < state[2]);
    return philox(vec4u(low, state[3] + carry, 0u, 0u), vec2u(state[0], state[1]));
}
{% if spec.kernel.params | selectattr(0, "equalto", "offset") | list %}

fn random_words(c: u32) -> vec4u { return words_at(p.offset, c); }
{% endif %}
