"""The same training step with tinygrad, under its TinyJit. The device is tinygrad's own choice (environment DEV)."""

from importlib.metadata import version

import common
from tinygrad import Context, Device, Tensor, TinyJit, dtypes, nn
from tinygrad.nn.state import get_parameters

a = common.arguments()
Tensor.manual_seed(0)


class Block:
    def __init__(self) -> None:
        c = a.width
        self.ln_1, self.ln_2 = nn.LayerNorm(c), nn.LayerNorm(c)
        self.qkv, self.out = nn.Linear(c, 3 * c), nn.Linear(c, c)
        self.fc, self.proj = nn.Linear(c, 4 * c), nn.Linear(4 * c, c)

    def __call__(self, x: Tensor) -> Tensor:
        b, t, c = x.shape
        q, k, v = (p.reshape(b, t, a.heads, -1).transpose(1, 2) for p in self.qkv(self.ln_1(x)).split(c, 2))
        mixed = q.scaled_dot_product_attention(k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(b, t, c))
        return x + self.proj(self.fc(self.ln_2(x)).gelu())


class GPT:
    def __init__(self) -> None:
        self.wte, self.wpe = nn.Embedding(a.vocab, a.width), nn.Embedding(a.context, a.width)
        self.wte.weight = Tensor.normal(a.vocab, a.width, std=0.02)
        self.h = [Block() for _ in range(a.layers)]
        self.ln_f = nn.LayerNorm(a.width)
        self.head_bias = Tensor.zeros(a.vocab).contiguous() if a.head_bias else None

    def __call__(self, tokens: Tensor) -> Tensor:
        x = self.wte(tokens) + self.wpe(Tensor.arange(tokens.shape[1]).reshape(1, -1))
        for block in self.h:
            x = block(x)
        logits = self.ln_f(x) @ self.wte.weight.T
        return logits if self.head_bias is None else logits + self.head_bias


model = GPT()
parameters = get_parameters(model)
optimizer = nn.optim.AdamW(parameters, lr=3e-4, b1=0.9, b2=0.95, weight_decay=0.1)
x, y = (Tensor.randint(a.batch, a.context, low=0, high=a.vocab, dtype=dtypes.int32).realize() for _ in range(2))


@TinyJit
def jitted(tokens: Tensor, targets: Tensor) -> Tensor:
    with Context(TRAINING=1):
        optimizer.zero_grad()
        loss = model(tokens).reshape(-1, a.vocab).sparse_categorical_crossentropy(targets.reshape(-1))
        loss.backward()
        optimizer.step()
        return loss.realize()


def step() -> float:
    return float(jitted(x, y).item())


common.serve(f"tinygrad {version('tinygrad')}, {Device.DEFAULT}", sum(p.numel() for p in parameters), step)
