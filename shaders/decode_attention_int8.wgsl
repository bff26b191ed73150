{% import "lib/decode.wgsl" as decode with context %}
{{ decode.shared() }}
fn key(row: u32, c: u32) -> vec4f { return unpack4x8snorm(keys[row * D4 + c]) * scales[row]; }
fn value(row: u32, c: u32) -> vec4f { return unpack4x8snorm(values[row * D4 + c]) * scales[p.M + row]; }

@compute @workgroup_size(BLOCK)
fn decode_attention_int8(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
                         @builtin(local_invocation_index) t: u32) {
    {{- decode.body() }}
}
