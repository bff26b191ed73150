"""Models of Hugging Face: the logits, tokens and gradients of transformers, from its files and back to them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dualml as dm
from dualml.errors import DTypeError, ShapeError
from dualml.models import from_pretrained, save_pretrained
from dualml.models.beam import beam_search
from dualml.models.families import family_for
from dualml.models.pretrained import _joined
from tests import hf_models
from tests.hf_models import DECODERS, MAKERS, theirs, tokens

torch = hf_models.torch
pytestmark = pytest.mark.xdist_group("transformers")  # one worker imports it
EXACT = 1e-4  # the largest difference of a float32 logit; logits here reach 5 to 10


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hf")


def ours(name: str, root: Path) -> Any:
    return from_pretrained(hf_models.folder(name, root))[0]


def outputs(model: Any, x: np.ndarray) -> np.ndarray:
    with dm.no_grad():
        found = model(dm.tensor(x))
    return (found[0] if isinstance(found, tuple) else found).numpy()


@pytest.mark.parametrize("name", MAKERS)
def test_logits(backend: str, name: str, root: Path) -> None:
    model, x = ours(name, root), tokens()
    want = hf_models.outputs(theirs(name), x)
    assert np.abs(want).max() > 1
    assert np.abs(outputs(model, x) - want).max() < EXACT
    assert not model.training


def greedy(model: Any, prompt: list[int], count: int) -> list[int]:
    """The likeliest tokens, each from a pass over all before it."""
    found = list(prompt)
    with dm.no_grad():
        for _ in range(count):
            found.append(int(model(dm.tensor(np.array([found], np.int32)))[0].numpy()[0, -1].argmax()))
    return found[len(prompt):]


@pytest.mark.parametrize("name", DECODERS)
def test_greedy_tokens(backend: str, name: str, root: Path) -> None:
    """Beyond the context where that is dynamic."""
    prompt, count = tokens(5, seed=1)[0].tolist(), 4 if backend == "cuda_on_cpu" else 16
    with torch.no_grad():
        found = theirs(name).generate(torch.tensor([prompt]), max_new_tokens=count, do_sample=False, pad_token_id=0,
                                      use_cache=False)
    assert greedy(ours(name, root), prompt, count) == found[0, len(prompt):].tolist()


@pytest.mark.parametrize("name", ["gpt2", "llama", "llama_dynamic", "qwen3"])
def test_generate(fast_backend: str, name: str, root: Path) -> None:
    """The model's own loop takes the same tokens, and past its context those after the later half of it."""
    model, prompt = ours(name, root), tokens(5, seed=1)[0].tolist()
    context = model.config.context
    assert model.generate(prompt, 6, temperature=0) == greedy(model, prompt, 6)
    window = list(prompt)
    for token in model.generate(prompt, context, temperature=0) if name != "llama_dynamic" else []:
        assert token == greedy(model, window, 1)[0]
        window.append(token)
        if len(window) > context:
            window = window[-(context // 2):]
    assert model.generate(prompt, 8, seed=3) == model.generate(prompt, 8, seed=3) != model.generate(prompt, 8, seed=4)
    with pytest.raises(ShapeError, match="at least one token"):
        model.generate([], 3)


@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen3", "bert"])
def test_gradients(fast_backend: str, name: str, root: Path) -> None:
    model, x = ours(name, root), np.maximum(tokens(), 1)  # token 0 pads, and gets no gradient from BERT of theirs
    torch_model, index = theirs(name), torch.tensor(x, dtype=torch.long)
    torch_model.zero_grad()
    if name == "bert":
        weights = np.random.default_rng(3).standard_normal((2, 24, 32)).astype(np.float32)
        (torch_model(index).last_hidden_state * torch.tensor(weights)).sum().backward()
        (model(dm.tensor(x)) * dm.tensor(weights)).sum().backward()
    else:
        logits = torch_model(index).logits
        torch.nn.functional.cross_entropy(logits[:, :-1].reshape(-1, hf_models.V), index[:, 1:].reshape(-1)).backward()
        made = model.head(model.hidden(dm.tensor(x[:, :-1])))
        dm.nn.functional.cross_entropy(made, dm.tensor(np.ascontiguousarray(x[:, 1:]))).backward()
    family = family_for(model)
    there = {n.removeprefix(family.prefix): np.zeros(p.shape, np.float32) if p.grad is None else p.grad.numpy()
             for n, p in torch_model.named_parameters()}
    mine, count = dict(model.named_parameters()), 0
    for entry in family.entries(model.config):
        if name == "bert" and entry.name.startswith("pooler"):
            continue
        want, got = _joined(entry, there), mine[entry.name].grad.numpy()
        assert np.abs(got - want).max() < 1e-4 * max(1.0, np.abs(want).max()), entry.name
        count += np.abs(want).max() > 1e-6
    assert count > 0.9 * len(mine)


@pytest.mark.parametrize("name", MAKERS)
def test_saved_loads_in_transformers(cpu: None, name: str, root: Path, tmp_path: Path) -> None:
    x = tokens()
    made = save_pretrained(ours(name, root), tmp_path / "saved", max_shard=16 << 10)
    assert len(list(made.glob("model-*-of-*.safetensors"))) > 2
    back, report = type(theirs(name)).from_pretrained(made, output_loading_info=True)
    assert not any(report[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    np.testing.assert_array_equal(hf_models.outputs(back.eval(), x), hf_models.outputs(theirs(name), x))
    again = from_pretrained(made)[0]
    np.testing.assert_array_equal(outputs(again, x), outputs(ours(name, root), x))


def test_a_model_of_our_own(cpu: None, tmp_path: Path) -> None:
    """Made here, with no config.json to start from."""
    dm.manual_seed(1)
    x = tokens(16)
    for config in (dm.models.LlamaConfig(hf_models.V, 32, 2, 4, 2, 32, 48, rope_theta=500.0),
                   dm.models.LlamaConfig(hf_models.V, 32, 2, 4, 2, 32, 48, head_size=12, qk_norm=True, tied=True),
                   dm.models.LlamaConfig(hf_models.V, 32, 1, 2, 2, 32, 48, qkv_bias=True)):
        model = dm.models.Llama(config)
        made = save_pretrained(model, tmp_path / f"{len(list(tmp_path.iterdir()))}")
        back = hf_models.transformers.AutoModelForCausalLM.from_pretrained(made).eval()
        assert np.abs(hf_models.outputs(back, x) - outputs(model, x)).max() < EXACT
        assert from_pretrained(made)[0].config == config
    gpt = dm.models.GPT(dm.models.GPTConfig(hf_models.V, 16, 1, 2, 16))
    back = hf_models.transformers.AutoModelForCausalLM.from_pretrained(save_pretrained(gpt, tmp_path / "gpt")).eval()
    assert np.abs(hf_models.outputs(back, x) - outputs(gpt, x)).max() < EXACT


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_sixteen_bit_files(cpu: None, dtype: str, tmp_path: Path) -> None:
    """Weights of 16 bits become float32 as they are."""
    model = MAKERS["llama"]().to(getattr(torch, dtype)).eval()
    model.save_pretrained(tmp_path)
    loaded = from_pretrained(tmp_path)[0]
    assert {p.dtype.name for p in loaded.parameters()} == {"float32"}
    back = hf_models.transformers.LlamaForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    want = hf_models.outputs(back, tokens())
    assert np.abs(outputs(loaded, tokens()) - want).max() < EXACT


def test_positions_beyond_the_context(cpu: None, root: Path) -> None:
    """Rotary models go on beyond it; dynamic scaling does so with the base of the longer text."""
    x = tokens(70)
    for name in ("llama", "llama_dynamic"):
        want = hf_models.outputs(theirs(name), x)
        assert np.abs(outputs(ours(name, root), x) - want).max() < EXACT


def test_sentence_embeddings(fast_backend: str, root: Path) -> None:
    """Of texts of several lengths, as transformers gives them with padding and a mask."""
    model, rng = ours("bert", root), np.random.default_rng(5)
    texts = [rng.integers(1, hf_models.V, n).tolist() for n in (3, 9, 3, 1, 32, 9, 3)]
    padded = np.zeros((7, 32), np.int64)
    mask = np.zeros((7, 32), np.int64)
    for i, text in enumerate(texts):
        padded[i, :len(text)], mask[i, :len(text)] = text, 1
    with torch.no_grad():
        x = theirs("bert")(torch.tensor(padded), attention_mask=torch.tensor(mask)).last_hidden_state
    kept = torch.tensor(mask)[..., None]
    mean = ((x * kept).sum(1) / kept.sum(1)).numpy()
    np.testing.assert_allclose(model.encode(texts, batch=2, normalize=False), mean, atol=1e-5)
    unit = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    np.testing.assert_allclose(model.encode(texts), unit, atol=1e-5)
    assert model.encode([]).shape == (0, 32)
    long = rng.integers(1, hf_models.V, 50).tolist()
    np.testing.assert_array_equal(model.encode([long]), model.encode([[*long[:31], long[-1]]]))


def test_segments(cpu: None, root: Path) -> None:
    x, kinds = tokens(8), (tokens(8, seed=2) % 2).astype(np.int32)
    with torch.no_grad():
        want = theirs("bert")(torch.tensor(x, dtype=torch.long),
                              token_type_ids=torch.tensor(kinds, dtype=torch.long)).last_hidden_state.numpy()
        got = ours("bert", root)(dm.tensor(x), dm.tensor(kinds))
    assert np.abs(got.detach().numpy() - want).max() < EXACT


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_mixed_precision(fast_backend: str, precision: str, root: Path) -> None:
    model, x = ours("qwen3", root), tokens()
    if precision == "bfloat16" and fast_backend == "webgpu":
        with pytest.raises(DTypeError, match="has no bfloat16"), dm.amp.autocast(precision):
            outputs(model, x)
        return
    with dm.amp.autocast(precision):
        got = outputs(model, x).astype(np.float32)
    want = hf_models.outputs(theirs("qwen3"), x)
    assert 0 < np.abs(got - want).max() < (0.05 if precision == "float16" else 0.4)


def test_captured_training(fast_backend: str, root: Path) -> None:
    """A replayed step gives the same losses, of a scaling whose table is made at the first call too."""
    losses = []
    for captured in (False, True):
        model = ours("llama_dynamic", root)
        optimizer = dm.optim.AdamW(model.parameters(), lr=3e-3)

        def step(x: dm.Tensor, model: Any = model, optimizer: Any = optimizer) -> dm.Tensor:
            loss = model(x, x)[1]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            return loss
        run = dm.capture(step) if captured else step
        losses.append([run(dm.tensor(tokens(20, seed=i))).item() for i in range(5)])
    assert losses[0] == losses[1]


@pytest.mark.parametrize("name", DECODERS[:2])
def test_fine_tuning(fast_backend: str, name: str, root: Path) -> None:
    """What was loaded learns."""
    model, x = ours(name, root), dm.tensor(tokens(12))
    optimizer = dm.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(12):
        _, loss = model(x, x)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize(("penalty", "stop"), [(1.0, False), (0.0, True), (2.0, True)])
def test_beam_search(fast_backend: str, root: Path, penalty: float, stop: bool) -> None:
    """The texts that transformers finds, in its order."""
    model, prompt = ours("gpt2", root), tokens(5, seed=1)[0].tolist()
    ends = set(range(0, model.config.vocab_size, 9)) if stop else set()
    found = theirs("gpt2").generate(torch.tensor([prompt]), max_new_tokens=8, num_beams=3, num_return_sequences=3,
                                    do_sample=False, early_stopping=True, length_penalty=penalty,
                                    eos_token_id=sorted(ends) or None, pad_token_id=0, output_scores=True,
                                    return_dict_in_generate=True)
    wanted = [sequence[len(prompt):].tolist() for sequence in found.sequences]
    got = beam_search(model, prompt, 8, beams=3, stop=ends, length_penalty=penalty)
    assert [beam.tokens + [0] * (len(wanted[0]) - len(beam.tokens)) for beam in got] == wanted
    np.testing.assert_allclose([beam.score for beam in got], found.sequences_scores.numpy(), atol=1e-4)
    assert not stop or any(beam.tokens[-1] in ends for beam in got)
