{% import "lib/layer_norm_backward.wgsl" as norm with context %}
{% include "lib/philox.wgsl" %}
{{ norm.shared() }}
@compute @workgroup_size(BLOCK)
fn layer_norm_dropout_backward(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
                               @builtin(local_invocation_index) t: u32) {
    {{- norm.body(true) }}
}
