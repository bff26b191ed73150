{% import "lib/embedding_backward.wgsl" as embedding with context %}
{{ embedding.shared() }}
@compute @workgroup_size(BLOCK)
fn embedding_backward(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
                      @builtin(local_invocation_index) t: u32) {
    {{- embedding.body(false) }}
}
