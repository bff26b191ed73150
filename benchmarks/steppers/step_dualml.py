"""A GPT training step with dualml. "+capture" behind the backend's name replays it; "+capture1" on one stream; with
"+lt" cuBLASLt adds biases, and makes GELU and gradients of biases with products; with "+own" our kernels do."""

import re
import sys

import common
import numpy as np

import dualml as dm
from dualml import amp, optim, runtime
from dualml.config import config
from dualml.models import GPT, GPTConfig
from dualml.train import recipe
from dualml.train.trainer import make_optimizer

a = common.arguments()
backend, *ways = a.backend.split("+")
unknown = [way for way in ways if not re.fullmatch(r"capture\d*|lt|own", way)]
if unknown or ({"lt", "own"} & {*ways} and backend != "cuda"):
    sys.exit(f"{a.backend}: behind a backend may stand +capture, +capture1 and so on, and +lt or +own behind cuda")
captured = next((way for way in ways if way.startswith("capture")), "")
config.cublaslt = "lt" in ways or config.cublaslt
dm.set_backend(backend)
if "own" in ways:
    runtime.get(backend).vendor = False
dm.manual_seed(0)
model = GPT(GPTConfig(a.vocab, a.context, a.layers, a.heads, a.width, a.dropout, head_bias=bool(a.head_bias)))
optimizer = make_optimizer(model, recipe("gpt-nano", lr=3e-4))
scaler = amp.LossScaler(amp.check(a.precision, backend), backend)
rng = np.random.default_rng(0)
x, y = (dm.tensor(rng.integers(0, a.vocab, (a.batch, a.context)), dtype="int32") for _ in range(2))


def train() -> dm.Tensor:
    """As dualml.train.Trainer makes it, but for what is not asked for."""
    with amp.autocast(a.precision):
        _, loss = model(x, y)
    if a.clip or a.precision != "float32":
        loss.backward(scaler.seed())
        factor, _ = scaler.factor(optim.grad_squares(model.parameters()), a.clip)
        optimizer.step(factor)
    else:
        loss.backward()
        optimizer.step()
    optimizer.zero_grad()
    return loss


name = backend
if captured:
    streams = captured.removeprefix("capture")
    if streams:
        runtime.get(backend).streams = int(streams)
    train = dm.capture(train)
    name = f"{backend}, captured" + (f", {streams} stream{'s' * (streams != '1')}" if streams else "")
if "lt" in ways:
    name += ", cuBLASLt"
if "own" in ways:
    name += ", no vendor's products"
if a.precision != "float32":
    name += f", {a.precision}"
common.serve(f"dualml {dm.__version__}, {name}", model.num_parameters(), train, lambda loss: float(loss.item()), a.wait)
