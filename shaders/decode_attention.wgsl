{% import "lib/decode.wgsl" as decode with context %}
{{ decode.shared() }}
fn key(row: u32, c: u32) -> vec4f { return vec4f(keys[row * D4 + c]); }
fn value(row: u32, c: u32) -> vec4f { return vec4f(values[row * D4 + c]); }

@compute @workgroup_size(BLOCK)
fn decode_attention(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
                    @builtin(local_invocation_index) t: u32) {
    {{- decode.body() }}
}
