"""A GPT training step with dualml. "+capture" behind the backend's name replays it."""

import common
import numpy as np

import dualml as dm
from dualml.models import GPT, GPTConfig
from dualml.train import recipe
from dualml.train.trainer import make_optimizer

a = common.arguments()
backend, _, captured = a.backend.partition("+")
dm.set_backend(backend)
dm.manual_seed(0)
model = GPT(GPTConfig(a.vocab, a.context, a.layers, a.heads, a.width, head_bias=bool(a.head_bias)))
optimizer = make_optimizer(model, recipe("gpt-nano", lr=3e-4))
rng = np.random.default_rng(0)
x, y = (dm.tensor(rng.integers(0, a.vocab, (a.batch, a.context)), dtype="int32") for _ in range(2))


def train() -> dm.Tensor:
    _, loss = model(x, y)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return loss


if captured:
    train = dm.capture(train)
name = f"{backend}, captured" if captured else backend
common.serve(f"dualml {dm.__version__}, {name}", model.num_parameters(), lambda: float(train().item()))
