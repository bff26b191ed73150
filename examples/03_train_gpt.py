"""A GPT from text to sample in one screen: what `dualml train` does, without its display, checkpoints and schedule.

Run: python examples/03_train_gpt.py [cpu|webgpu|cuda] [steps]
"""

import sys

import dualml as dm
from dualml.data import TokenBatches, load_text
from dualml.models import GPT, GPTConfig
from dualml.text import CharTokenizer

dm.set_backend(sys.argv[1] if len(sys.argv) > 1 else "auto")
dm.manual_seed(0)
steps = int(sys.argv[2]) if len(sys.argv) > 2 else 200

# Python's own documentation, a token per character, in random windows of 32 tokens.
text = load_text("pydoc").content
tokenizer = CharTokenizer.from_text(text)
data = TokenBatches(tokenizer.encode(text), context=32, batch=16)

model = GPT(GPTConfig(vocab_size=tokenizer.vocab_size, context=32, layers=2, heads=2, width=64))
optimizer = dm.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.1)
print(f"{model.num_parameters():,} parameters on {dm.get_backend()}")

for step in range(steps):
    tokens, targets = map(dm.tensor, data.get("train", step))  # int32 [B,T] each
    _, loss = model(tokens, targets)
    loss.backward()
    dm.optim.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    if step % 50 == 0 or step == steps - 1:
        print(f"step {step:4d}  loss {loss.item():.3f}")  # reading the loss waits for the device: not at every step

print(tokenizer.decode(model.generate(tokenizer.encode("The "), max_new_tokens=80, temperature=0.8)))
