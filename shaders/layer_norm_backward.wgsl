{% import "lib/layer_norm_backward.wgsl" as norm with context %}
{{ norm.shared() }}
@compute @workgroup_size(BLOCK)
fn layer_norm_backward(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
                       @builtin(local_invocation_index) t: u32) {
    {{- norm.body(false) }}
}
