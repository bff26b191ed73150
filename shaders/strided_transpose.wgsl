// One workgroup per tile of 32 x 32. GPUs turn it in workgroup memory, so that reads and writes both run along memory;
// CPU drivers (W is 4) turn blocks of 4 x 4 in registers, four blocks of a row and two of a column at a time.
const TILE = 32u;
{% if W == 1 %}
var<workgroup> tile: array<F, {{ 32 * 33 }}>;
{% endif %}

@compute @workgroup_size(BLOCK)
fn strided_transpose(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
                     @builtin(local_invocation_index) t: u32) {
    var g = wid.x + wid.y * nwg.x;
    if (g >= p.groups) { return; }
    const across = (N + TILE - 1u) / TILE;
    const down = (M + TILE - 1u) / TILE;
    let n = g % across * TILE;
    g /= across;
    let m = g % down * TILE;
    g /= down;
    let i2 = g % n2;
    g /= n2;
    let i1 = g % n1;
    g /= n1;
    let source = u32(i32(p.start) + i32(g) * p.s0 + i32(i1) * p.s1 + i32(i2) * p.s2);
    let target_ = g * p.o0 + i1 * p.o1 + i2 * p.o2;
{% if W == 4 %}
    for (var b = t; b < 64u; b += BLOCK) {
        let bn = n + (b / 32u * 4u + b % 4u) * 4u;
        let bm = m + b / 4u % 8u * 4u;
        if (bn < N && bm < M) {
            let step = u32(p.sm) / 4u;
            let from_ = (source + bm * u32(p.sm) + bn) / 4u;
            let r0 = x[from_];
            let r1 = x[from_ + step];
            let r2 = x[from_ + 2u * step];
            let r3 = x[from_ + 3u * step];
            let to = (target_ + bn * p.on + bm) / 4u;
            let row = p.on / 4u;
            out[to] = vecF(r0.x, r1.x, r2.x, r3.x);
            out[to + row] = vecF(r0.y, r1.y, r2.y, r3.y);
            out[to + 2u * row] = vecF(r0.z, r1.z, r2.z, r3.z);
            out[to + 3u * row] = vecF(r0.w, r1.w, r2.w, r3.w);
        }
    }
{% else %}
    let column = t % TILE;
    for (var r = t / TILE; r < TILE; r += BLOCK / TILE) {
        if (m + r < M && n + column < N) { tile[r * 33u + column] = x[source + (m + r) * u32(p.sm) + n + column]; }
    }
    workgroupBarrier();
    for (var r = t / TILE; r < TILE; r += BLOCK / TILE) {
        if (n + r < N && m + column < M) { out[target_ + (n + r) * p.on + m + column] = tile[column * 33u + r]; }
    }
{% endif %}
}
