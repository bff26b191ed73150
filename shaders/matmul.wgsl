{% include "lib/matmul_load.wgsl" %}
// A workgroup makes a tile of 64 x 64 from slices of 16 of the reduced dimension. An invocation loads one 4x4 block of
// a or b per slice, and owns 8 rows x 4 columns of the result.
const SLICE = 16u;
var<workgroup> a_slice: array<vec4f, 16u * SLICE>;  // [k][row / 4]
var<workgroup> b_slice: array<vec4f, 16u * SLICE>;  // [k][column / 4]

@compute @workgroup_size(BLOCK)
fn matmul(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
          @builtin(local_invocation_index) t: u32) {
    let g = wid.x + wid.y * nwg.x;
    if (g >= p.groups) { return; }
    let across = (p.N + 63u) / 64u;
    let down = (p.M + 63u) / 64u;
    let batch = g / (across * down);
    let row = g / across % down * 64u;
    let col = g % across * 64u;
    let base_a = select(batch, 0u, p.BA == 1u) * p.P * p.Q;
    let base_b = select(batch, 0u, p.BB == 1u) * p.R * p.S;
    let tx = t % 16u;
    let ty = t / 16u;
    let k4 = ty % 4u * 4u;  // loading: invocations 0-63 read a, 64-127 read b
    let c = col + tx * 4u;
    var s0 = {% if has_bias %}vec4f({% for e in range(4) %}f32(bias[c + {{ e }}u]){{ ", " if e < 3 }}{% endfor %}){% else %}vec4f(){% endif %};
{% for i in range(1, 8) %}
    var s{{ i }} = s0;
{% endfor %}
    for (var k = 0u; k < p.K; k += SLICE) {
        if (t < 64u) {
            let block = a_block(base_a, k + k4, row + tx * 4u);
{% for e in range(4) %}
            a_slice[(k4 + {{ e }}u) * 16u + tx] = block[{{ e }}];
{% endfor %}
        } else {
            let block = b_block(base_b, k + k4, col + tx * 4u);
{% for e in range(4) %}
            b_slice[(k4 + {{ e }}u) * 16u + tx] = block[{{ e }}];
{% endfor %}
        }
        workgroupBarrier();
        for (var e = 0u; e < SLICE; e += 1u) {
            let u = a_slice[e * 16u + ty];
            let v = a_slice[e * 16u + ty + 8u];
            let w = b_slice[e * 16u + tx];
{% for i in range(4) %}
            s{{ i }} += u[{{ i }}] * w;
            s{{ i + 4 }} += v[{{ i }}] * w;
{% endfor %}
        }
        workgroupBarrier();
    }
{% for i in range(8) %}
    store(batch, row + ty * 4u + {{ i % 4 + (i // 4) * 32 }}u, c, s{{ i }});
{% endfor %}
}

fn store(batch: u32, row: u32, col: u32, v: vec4f) {
    let at = (batch * p.M + row) * p.N + col;
    if (row >= p.M) { return; }
{% if "N" in vectors %}
    if (col < p.N) { out[at / 4u] = vec4<F>(v); }
{% else %}
{% for e in range(4) %}
    if (col + {{ e }}u < p.N) { out[at + {{ e }}u] = F(v[{{ e }}]); }
{% endfor %}
{% endif %}
}
