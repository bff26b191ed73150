"""The same training step with PyTorch, eager or compiled.

On CUDA: float32 products without TF32, bfloat16 by autocast over float32 weights, a fused AdamW, clipping on the
device, and of scaled_dot_product_attention's implementations the fastest at this very size. The model is what
torch.compile gets; clipping and AdamW are PyTorch's own fused kernels.
"""

import contextlib
import time

import common
import torch
from torch import nn
from torch.nn import functional as F

a = common.arguments()
torch.manual_seed(0)
torch.set_float32_matmul_precision("highest")  # no TF32
ATTENTION = ("flash", "cudnn", "mem_efficient")


def attend_by(*names: str) -> None:
    """Leaves these implementations of attention to choose from."""
    for name in (*ATTENTION, "math"):
        getattr(torch.backends.cuda, f"enable_{name}_sdp")(name in names)


def seconds_of_attention(name: str) -> float:
    """Of forward and backward, packed as the model has it; the best of five rounds."""
    attend_by(name)
    kind = getattr(torch, a.precision)
    shape = (a.batch, a.context, 3, a.heads, a.width // a.heads)
    packed = torch.randn(shape, device=a.device, dtype=kind, requires_grad=True)
    best = float("inf")
    for _ in range(5):
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(20):
            q, k, v = (packed[:, :, i].transpose(1, 2) for i in range(3))
            F.scaled_dot_product_attention(q, k, v, is_causal=True).sum().backward()
        torch.cuda.synchronize()
        best = min(best, time.perf_counter() - began)
    return best


def choose_attention() -> str:
    if a.attention == "auto" or a.device == "cpu":
        return ""
    if a.attention != "best":
        attend_by(a.attention)
        return f", attention by {a.attention}"
    found = {}
    for name in ATTENTION:
        with contextlib.suppress(RuntimeError):  # it does not take this dtype or size
            found[name] = seconds_of_attention(name)
    if not found:
        attend_by("math")
        return ", attention by math"
    best = min(found, key=lambda name: found[name])
    attend_by(best)
    return f", attention by {best}"


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        c = a.width
        self.ln_1, self.ln_2 = nn.LayerNorm(c), nn.LayerNorm(c)
        self.qkv, self.out = nn.Linear(c, 3 * c), nn.Linear(c, c)
        self.fc, self.proj = nn.Linear(c, 4 * c), nn.Linear(4 * c, c)
        self.drop = nn.Dropout(a.dropout) if a.dropout else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, t, c = x.shape
        q, k, v = (part.view(b, t, a.heads, -1).transpose(1, 2) for part in self.qkv(self.ln_1(x)).split(c, 2))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.drop(self.out(mixed.transpose(1, 2).reshape(b, t, c)))
        return x + self.drop(self.proj(F.gelu(self.fc(self.ln_2(x)), approximate="tanh")))


class GPT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(a.vocab, a.width), nn.Embedding(a.context, a.width)
        self.drop = nn.Dropout(a.dropout) if a.dropout else nn.Identity()
        self.h = nn.Sequential(*[Block() for _ in range(a.layers)])
        self.ln_f = nn.LayerNorm(a.width)
        self.head_bias = nn.Parameter(torch.zeros(a.vocab)) if a.head_bias else None
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, 0.0, 0.02)

    def forward(self, tokens: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        x = self.ln_f(self.h(self.drop(self.wte(tokens) + self.wpe.weight)))
        return F.cross_entropy(F.linear(x, self.wte.weight, self.head_bias).view(-1, a.vocab), targets.view(-1))


attention = choose_attention()
model = GPT().to(a.device)
parameters = list(model.parameters())
matrices, others = [p for p in parameters if p.ndim >= 2], [p for p in parameters if p.ndim < 2]
if a.device == "cuda":  # groups and kernels as a training run has them
    groups = [{"params": matrices}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
else:
    optimizer = torch.optim.AdamW(parameters, lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1)
x, y = (torch.randint(0, a.vocab, (a.batch, a.context), device=a.device) for _ in range(2))
forward = model if a.compile == "none" else torch.compile(model, mode=a.compile, dynamic=False)
autocast = a.precision != "float32"
graphs = a.device == "cuda" and a.compile in ("reduce-overhead", "max-autotune")


def step() -> torch.Tensor:
    if graphs:
        torch.compiler.cudagraph_mark_step_begin()
    with torch.autocast(a.device, torch.bfloat16) if autocast else contextlib.nullcontext():
        loss = forward(x, y)
    optimizer.zero_grad()
    loss.backward()
    if a.clip:
        nn.utils.clip_grad_norm_(parameters, a.clip)
    optimizer.step()
    if not graphs:
        return loss
    optimizer.zero_grad()  # what lies in a graph's memory must not outlive the step
    return loss.detach().clone()


way = "eager" if a.compile == "none" else f"compiled {a.compile}"
where = f", {torch.cuda.get_device_name()}, {a.precision}{attention}" if a.device == "cuda" else \
    "" if a.precision == "float32" else f", {a.precision}"
common.serve(f"PyTorch {torch.__version__}, {way}{where}", sum(p.numel() for p in parameters), step,
             lambda loss: loss.item(), a.wait)
