"""The same training step with PyTorch, eager."""

import common
import torch
from torch import nn
from torch.nn import functional as F

a = common.arguments()
torch.manual_seed(0)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        c = a.width
        self.ln_1, self.ln_2 = nn.LayerNorm(c), nn.LayerNorm(c)
        self.qkv, self.out = nn.Linear(c, 3 * c), nn.Linear(c, c)
        self.fc, self.proj = nn.Linear(c, 4 * c), nn.Linear(4 * c, c)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, t, c = x.shape
        q, k, v = (part.view(b, t, a.heads, -1).transpose(1, 2) for part in self.qkv(self.ln_1(x)).split(c, 2))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(b, t, c))
        return x + self.proj(F.gelu(self.fc(self.ln_2(x)), approximate="tanh"))


class GPT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(a.vocab, a.width), nn.Embedding(a.context, a.width)
        self.h = nn.Sequential(*[Block() for _ in range(a.layers)])
        self.ln_f = nn.LayerNorm(a.width)
        self.head_bias = nn.Parameter(torch.zeros(a.vocab)) if a.head_bias else None
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, 0.0, 0.02)

    def forward(self, tokens: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        x = self.ln_f(self.h(self.wte(tokens) + self.wpe.weight))
        return F.cross_entropy(F.linear(x, self.wte.weight, self.head_bias).view(-1, a.vocab), targets.view(-1))


model = GPT()
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1)
x, y = (torch.randint(0, a.vocab, (a.batch, a.context)) for _ in range(2))


def step() -> float:
    loss = model(x, y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


common.serve(f"PyTorch {torch.__version__}, eager", sum(p.numel() for p in model.parameters()), step)
