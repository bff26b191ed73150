"""A kernel of one's own in three languages, with a gradient: x * sigmoid(beta x), known as swish.

Run: python examples/02_new_kernel.py [cpu|webgpu|cuda]
"""

import sys

import numpy as np

import dualml as dm
from dualml.extend import Array, Op, apply, kernel, run


# 1. The reference is the declaration: shapes, dtypes, outputs and scalars are all in this one line.
@kernel("x[N] -> out[N] | beta", groups="cdiv(N, BLOCK)", wgsl="""
@compute @workgroup_size(BLOCK)
fn swish(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
         @builtin(local_invocation_index) t: u32) {
    let i = (wid.x + wid.y * nwg.x) * BLOCK + t;
    if (i >= p.N) { return; }
    let v = f32(x[i]);
    out[i] = F(v / (1.0 + exp(-p.beta * v)));
}
""", cuda="""
KERNEL {
    const u32 i = blockIdx.x * BLOCK + threadIdx.x;
    if (i >= p.N) return;
    const float v = float(x[i]);
    out[i] = F(v / (1.f + expf(-p.beta * v)));
}
""")
def swish(x, beta):
    return x / (1.0 + np.exp(-beta * x))


@kernel("x[N] dout[N] -> dx[N] | beta", groups="cdiv(N, BLOCK)", wgsl="""
@compute @workgroup_size(BLOCK)
fn swish_backward(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
                  @builtin(local_invocation_index) t: u32) {
    let i = (wid.x + wid.y * nwg.x) * BLOCK + t;
    if (i >= p.N) { return; }
    let v = f32(x[i]);
    let s = 1.0 / (1.0 + exp(-p.beta * v));
    dx[i] = F(f32(dout[i]) * s * (1.0 + p.beta * v * (1.0 - s)));
}
""", cuda="""
KERNEL {
    const u32 i = blockIdx.x * BLOCK + threadIdx.x;
    if (i >= p.N) return;
    const float v = float(x[i]), s = 1.f / (1.f + expf(-p.beta * v));
    dx[i] = F(float(dout[i]) * s * (1.f + p.beta * v * (1.f - s)));
}
""")
def swish_backward(x, dout, beta):
    s = 1.0 / (1.0 + np.exp(-beta * x))
    return dout * s * (1.0 + beta * x * (1.0 - s))


# 2. An op joins the two; it sees Arrays, never tensors.
class Swish(Op):
    def forward(self, x: Array, beta: float) -> Array:
        self.beta = beta
        self.save(x)
        return run(swish, x.reshape(x.size), beta=beta).reshape(*x.shape)

    def backward(self, dout: Array) -> tuple[Array]:
        (x,) = self.saved
        flat = run(swish_backward, x.reshape(x.size), dout.reshape(x.size), beta=self.beta)
        return (flat.reshape(*x.shape),)


# 3. Use it: the same on every backend.
dm.set_backend(sys.argv[1] if len(sys.argv) > 1 else "auto")
dm.manual_seed(0)
x = dm.randn(4, 1000, requires_grad=True)
apply(Swish, x, beta=1.5).sum().backward()

by_table = x.detach().requires_grad_()  # what the built-in ops make of the same formula
(by_table * (1.5 * by_table).sigmoid()).sum().backward()
difference = (x.grad - by_table.grad).abs().max().item()
print(f"{dm.get_backend()}: largest difference to the built-in ops {difference:.1e}")
assert difference < 1e-5
