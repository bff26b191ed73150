"""The GPT: sizes, initial state, causality, sampling, and the same numbers as PyTorch's with the same weights."""

from __future__ import annotations

import math

import numpy as np
import pytest

import dualml as dm
from dualml.errors import ShapeError
from dualml.models import GPT, PRESETS, GPTConfig

TINY = GPTConfig(vocab_size=17, context=8, layers=2, heads=2, width=16)


def tiny(seed: int = 0, config: GPTConfig = TINY) -> GPT:
    dm.manual_seed(seed)
    return GPT(config)


def tokens_of(config: GPTConfig, batch: int = 2, seed: int = 0) -> tuple[dm.Tensor, dm.Tensor]:
    rng = np.random.default_rng(seed)
    x, y = (rng.integers(0, config.vocab_size, (batch, config.context)).astype(np.int32) for _ in range(2))
    return dm.tensor(x), dm.tensor(y)


@pytest.mark.parametrize(("preset", "vocab", "count"), [
    ("gpt-12m", 4096, 12_322_816), ("gpt2", 50_257, 124_439_808), ("gpt-nano", 65, 809_856),
    ("gpt-shakespeare", 65, 10_770_816)])
def test_parameter_counts(cpu: None, preset: str, vocab: int, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GPT, "_initialise", lambda self: None)  # drawing 124 million numbers proves nothing here
    monkeypatch.setattr(dm.creation, "randn", dm.empty)
    monkeypatch.setattr(dm.nn.init, "kaiming_uniform_", lambda x, a: x)
    monkeypatch.setattr(dm.nn.init, "uniform_", lambda x, a, b: x)
    assert GPT.from_preset(preset, vocab).num_parameters() == count


def test_initial_loss_is_that_of_a_guess(fast_backend: str) -> None:
    x, y = tokens_of(TINY, 8)
    _, loss = tiny()(x, y)
    assert loss.item() == pytest.approx(math.log(TINY.vocab_size), rel=0.03)


def test_initial_spread(cpu: None) -> None:
    config = GPTConfig(vocab_size=300, context=16, layers=2, heads=2, width=64, head_bias=True)
    state = {n: t.numpy() for n, t in tiny(config=config).state_dict().items()}
    assert state["wte.weight"].std() == pytest.approx(0.02, rel=0.05)
    assert state["h.0.mlp.fc.weight"].std() == pytest.approx(0.02, rel=0.05)
    assert state["h.0.mlp.proj.weight"].std() == pytest.approx(0.01, rel=0.05)  # 0.02 / sqrt(2 * 2 layers)
    assert all((v == 0).all() for n, v in state.items() if n.endswith("bias"))
    assert all((v == 1).all() for n, v in state.items() if ".ln_" in n and n.endswith("weight"))


def test_shorter_sequences(fast_backend: str) -> None:
    x, y = tokens_of(TINY)
    model = tiny()
    logits, _ = model(x, y)
    short, loss = model(x[:, :5], y[:, :5])
    assert short.shape == (2, 5, 17)
    np.testing.assert_allclose(short.detach().numpy(), logits.detach().numpy()[:, :5], rtol=1e-4, atol=1e-5)
    loss.backward()
    assert (model.wpe.weight.grad.numpy()[5:] == 0).all()


def test_no_token_sees_the_next(fast_backend: str) -> None:
    model, (x, _) = tiny(), tokens_of(TINY)
    changed = x.numpy().copy()
    changed[:, 5] = (changed[:, 5] + 1) % 17
    with dm.no_grad():
        before, after = (model(t)[0].numpy() for t in (x, dm.tensor(changed)))
    np.testing.assert_array_equal(before[:, :5], after[:, :5])
    assert np.abs(before[:, 5:] - after[:, 5:]).max() > 1e-4


def test_no_query_sees_what_the_others_score(fast_backend: str) -> None:
    """Not in the last bit either, where only some rows' scores are far from zero, whose largest is subtracted."""
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((1, 2, 64, 16)).astype(np.float32) for _ in range(3))
    large = q.copy()
    large[:, :, 40:] *= 50
    results = [dm.nn.functional.scaled_dot_product_attention(*map(dm.tensor, (x, k, v)), is_causal=True).numpy()
               for x in (q, large)]
    np.testing.assert_array_equal(results[0][:, :, :40], results[1][:, :, :40])


def test_overfits_one_batch(fast_backend: str) -> None:
    model, (x, y) = tiny(), tokens_of(TINY)
    optimizer = dm.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    for _ in range(60):
        _, loss = model(x, y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss.item() < 0.1


def test_generates_what_it_learned(fast_backend: str) -> None:
    model = tiny()
    cycle = np.arange(33, dtype=np.int32) % 17
    x, y = (dm.tensor(np.stack([cycle[i + s:i + s + 8] for i in range(16)])) for s in (0, 1))
    optimizer = dm.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    for _ in range(40):
        _, loss = model(x, y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert model.generate([3], 20, temperature=0) == [(4 + i) % 17 for i in range(20)]  # beyond the context too
    assert model.generate([3], 5, temperature=1.0, top_k=1) == [4, 5, 6, 7, 8]


def test_generation_repeats_with_its_seed_and_ignores_dropout(cpu: None) -> None:
    model = tiny(config=GPTConfig(vocab_size=17, context=8, layers=1, heads=2, width=16, dropout=0.5))
    first = model.generate([1, 2], 12, seed=5)
    assert first == model.generate([1, 2], 12, seed=5)
    assert first != model.generate([1, 2], 12, seed=6)
    assert model.training


@pytest.mark.parametrize(("call", "message"), [
    (lambda m: m(dm.zeros(1, 9, dtype="int32")), r"tokens must be \[B,T\] with T at most 8"),
    (lambda m: m.generate([], 3), "at least one token"),
    (lambda m: m.generate([1], 3, temperature=-1.0), "temperature must be 0 or more"),
    (lambda m: m.generate([1], 3, top_k=0), "top_k must be at least 1"),
    (lambda m: m.load_state_dict({k: v * np.nan for k, v in m.state_dict().items()}) or m.generate([1], 1),
     "logits must be finite"),
    (lambda m: GPTConfig(vocab_size=5, layers=0), "layers must be at least 1"),
    (lambda m: GPT(GPTConfig(vocab_size=5, heads=3, width=16)), "multiple of num_heads=3")])
def test_what_is_refused(cpu: None, call: object, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        call(tiny())  # type: ignore[operator]


def test_presets_are_complete(cpu: None) -> None:
    from dualml.train import RECIPES
    assert RECIPES.keys() == PRESETS.keys()
    for name, config in RECIPES.items():
        assert config.preset == name
        assert config.context == PRESETS[name]["context"]
        assert config.dropout == PRESETS[name].get("dropout", 0.0)
