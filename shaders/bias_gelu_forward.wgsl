{% include "lib/gelu.wgsl" %}

@compute @workgroup_size(BLOCK)
fn bias_gelu_forward(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
                     @builtin(local_invocation_index) t: u32) {
    let n = C / W;
    let i = (wid.x + wid.y * nwg.x) * BLOCK + t;
    if (i >= p.N * n) { return; }
    let a = vecf(x[i]) + vecf(bias[i % n]);
    out[i] = vecF({{ "vecf(gelu(a.x), gelu(a.y), gelu(a.z), gelu(a.w))" if W > 1 else "gelu(a)" }});
}
