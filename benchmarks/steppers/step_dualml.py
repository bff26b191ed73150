"""A GPT training step with dualml."""

import common
import numpy as np

import dualml as dm
from dualml.models import GPT, GPTConfig
from dualml.train import recipe
from dualml.train.trainer import make_optimizer

a = common.arguments()
dm.set_backend(a.backend)
dm.manual_seed(0)
model = GPT(GPTConfig(a.vocab, a.context, a.layers, a.heads, a.width, head_bias=bool(a.head_bias)))
optimizer = make_optimizer(model, recipe("gpt-nano", lr=3e-4))
rng = np.random.default_rng(0)
x, y = (dm.tensor(rng.integers(0, a.vocab, (a.batch, a.context)), dtype="int32") for _ in range(2))


def step() -> float:
    _, loss = model(x, y)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return float(loss.item())


common.serve(f"dualml {dm.__version__}, {a.backend}", model.num_parameters(), step)
