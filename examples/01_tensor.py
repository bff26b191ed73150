"""Tensors and gradients, on whatever device is there. Run: python examples/01_tensor.py [cpu|webgpu|cuda]"""

import sys

import dualml as dm

dm.set_backend(sys.argv[1] if len(sys.argv) > 1 else "auto")
dm.manual_seed(0)  # the same numbers on every backend
print("backend:", dm.get_backend())

# A straight line y = 3x - 1 with noise, found again by gradient descent.
x = dm.rand(256, 1)
y = 3.0 * x - 1.0 + 0.1 * dm.randn(256, 1)

model = dm.nn.Linear(1, 1)
optimizer = dm.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.0)
for step in range(200):
    loss = dm.nn.functional.mse_loss(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 50 == 0:
        print(f"step {step:3d}  loss {loss.item():.4f}")
print(f"slope {model.weight.item():.2f} (3), offset {model.bias.item():.2f} (-1)")

# Gradients as values, and a check of them against finite differences.
a = dm.tensor([[0.5, -1.0], [2.0, 0.1]], dtype="float64", backend="cpu", requires_grad=True)
(gradient,) = dm.grad(a.tanh().sum(), a)
print("d tanh / d a:", gradient)
print("gradcheck:", dm.gradcheck(lambda t: (t.exp() * t).softmax(-1), [a]))
