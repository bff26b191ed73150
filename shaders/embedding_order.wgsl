// Each invocation counts what comes before its own index: the smaller ones, and the equal ones at earlier positions.
{% set vecu, veci = ("vec4<u32>", "vec4<i32>") if W > 1 else ("u32", "i32") %}

@compute @workgroup_size(BLOCK)
fn embedding_order(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
                   @builtin(local_invocation_index) t: u32) {
    let i = (wid.x + wid.y * nwg.x) * BLOCK + t;
    if (i >= p.N) { return; }
    let own = indices[i / W]{{ "[i % W]" if W > 1 }};
    var count = {{ vecu }}(0u);
    for (var j = 0u; j < p.N / W; j++) {
        let other = indices[j];
        let earlier = {{ "vec4<u32>(j * 4u) + vec4<u32>(0u, 1u, 2u, 3u)" if W > 1 else "j" }} < {{ vecu }}(i);
        let before = (other < {{ veci }}(own)) | ((other == {{ veci }}(own)) & earlier);
        count += select({{ vecu }}(0u), {{ vecu }}(1u), before);
    }
    let place = {{ "(count.x + count.y) + (count.z + count.w)" if W > 1 else "count" }};
    order[place] = i32(i);
    sorted[place] = own;
}
