// One invocation per row of D elements.

@compute @workgroup_size(BLOCK)
fn attention_backward_delta(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
                            @builtin(local_invocation_index) t: u32) {
    let row = (wid.x + wid.y * nwg.x) * BLOCK + t;
    if (row >= p.N) { return; }
    var sum = vec4f(0.0);
    for (var c = row * (D / 4u); c < (row + 1u) * (D / 4u); c++) { sum += vec4f(out[c]) * vec4f(dout[c]); }
    delta[row] = dot(sum, vec4f(1.0));
}
