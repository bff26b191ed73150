"""Training: every backend goes the same way, the way of PyTorch; a run that resumes has never stopped."""

from __future__ import annotations

import json
import runpy
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dualml as dm
from dualml.backends import blas
from dualml.data import TokenBatches
from dualml.errors import CheckpointError, DataError
from dualml.models import GPT, GPTConfig
from dualml.text import CharTokenizer
from dualml.train import Plan, Reporter, TrainConfig, Trainer, learning_rate, prepare, recipe, resume
from dualml.train.evaluation import Evaluation
from dualml.train.metrics import read
from dualml.train.trainer import make_optimizer

TEXT = "the quick brown fox jumps over the lazy dog and runs away. " * 60
SMALL = TrainConfig(steps=10, batch=3, context=8, lr=1e-2, min_lr=1e-3, warmup=3, eval_batches=2, dropout=0.1)


def make(backend: str, config: TrainConfig = SMALL, folder: Path | None = None, reporter: Reporter | None = None,
         layers: int = 2) -> Trainer:
    tokenizer = CharTokenizer.from_text(TEXT)
    with dm.use_backend(backend):
        dm.manual_seed(config.seed)
        model = GPT(GPTConfig(tokenizer.vocab_size, config.context, layers, 2, 32, config.dropout, head_bias=True))
    data = TokenBatches(tokenizer.encode(TEXT), config.context, config.batch, config.seed)
    return Trainer(model, data, tokenizer, config, folder, reporter)


def losses(trainer: Trainer, steps: int) -> list[float]:
    for _ in range(steps):
        trainer.train_step()
    trainer.read_losses()
    return [loss for _, loss in trainer.metrics.losses]


# ---- the same way on every backend --------------------------------------------------------------------------------

@cache
def reference() -> list[float]:
    return losses(make("cpu"), 10)


def test_first_ten_losses_agree(backend: str) -> None:
    """Same seed, data and configuration, dropout included."""
    np.testing.assert_allclose(losses(make(backend), 10), reference(), rtol=1e-4)
    assert reference()[-1] < reference()[0] - 0.2


def torch_loss(torch: Any, weights: dict[str, Any], tokens: np.ndarray, targets: np.ndarray) -> Any:
    """The same GPT (2 layers, 2 heads, width 32) written out in PyTorch."""
    functional = torch.nn.functional

    def linear(x: Any, name: str) -> Any:
        return functional.linear(x, weights[name + ".weight"], weights[name + ".bias"])

    def norm(x: Any, name: str) -> Any:
        return functional.layer_norm(x, (32,), weights[name + ".weight"], weights[name + ".bias"])

    x = weights["wte.weight"][torch.from_numpy(tokens).long()] + weights["wpe.weight"]
    for i in range(2):
        qkv = linear(norm(x, f"h.{i}.ln_1"), f"h.{i}.attn.qkv").split(32, 2)
        q, k, v = (t.reshape(*t.shape[:2], 2, 16).transpose(1, 2) for t in qkv)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(x.shape)
        x = x + linear(mixed, f"h.{i}.attn.proj")
        hidden = functional.gelu(linear(norm(x, f"h.{i}.ln_2"), f"h.{i}.mlp.fc"), approximate="tanh")
        x = x + linear(hidden, f"h.{i}.mlp.proj")
    logits = functional.linear(norm(x, "ln_f"), weights["wte.weight"], weights["head_bias"])
    return functional.cross_entropy(logits.flatten(0, 1), torch.from_numpy(targets).long().flatten())


def test_ten_steps_against_pytorch(fast_backend: str) -> None:
    torch = pytest.importorskip("torch")
    config = SMALL.changed(dropout=0.0, weight_decay=0.1)
    trainer = make(fast_backend, config)
    weights = {n: torch.from_numpy(t.numpy().copy()).requires_grad_() for n, t in trainer.model.state_dict().items()}
    matrices = [w for w in weights.values() if w.ndim > 1]
    vectors = [w for w in weights.values() if w.ndim < 2]
    optimizer = torch.optim.AdamW([{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}],
                                  betas=(config.beta1, config.beta2))
    expected = []
    for step in range(10):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, trainer.plan, step)
        loss = torch_loss(torch, weights, *trainer.data.get("train", step))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(list(weights.values()), config.clip)
        optimizer.step()
        expected.append(loss.item())
    np.testing.assert_allclose(losses(trainer, 10), expected, rtol=1e-4)
    for name, tensor in trainer.model.state_dict().items():
        wanted = weights[name].detach().numpy()
        # AdamW divides by the root of tiny squares at first, which makes rounding errors of gradients visible
        np.testing.assert_allclose(tensor.numpy(), wanted, rtol=1e-2, atol=2e-3, err_msg=name)


def test_accumulation_is_a_larger_batch(fast_backend: str) -> None:
    one = make(fast_backend, SMALL.changed(batch=4, dropout=0.0))
    two = make(fast_backend, SMALL.changed(batch=2, accumulation=2, dropout=0.0))
    rows = [two.data.get("train", i) for i in range(2)]
    joined = tuple(np.concatenate(parts) for parts in zip(*rows, strict=True))
    one.data.get = lambda part, index: joined  # type: ignore[method-assign,assignment,return-value]
    first, second = losses(one, 1), losses(two, 1)
    assert first == pytest.approx(second, rel=1e-5)
    for mine, other in zip(one.model.parameters(), two.model.parameters(), strict=True):
        np.testing.assert_allclose(mine.detach().numpy(), other.detach().numpy(), rtol=1e-2, atol=1e-3)


def test_decay_is_for_matrices_only(cpu: None) -> None:
    trainer = make("cpu", SMALL.changed(lr=1e-2, min_lr=1e-2, warmup=0, weight_decay=0.5, clip=0.0))
    optimizer = make_optimizer(trainer.model, trainer.config)
    before = {n: p.detach().numpy() for n, p in trainer.model.named_parameters()}
    for parameter in trainer.model.parameters():
        parameter.grad = dm.zeros_like(parameter)
    optimizer.step()
    for name, parameter in trainer.model.named_parameters():
        factor = 1 - 1e-2 * 0.5 if parameter.ndim > 1 else 1.0
        np.testing.assert_allclose(parameter.detach().numpy(), before[name] * factor, rtol=1e-6)


# ---- a run: resume, plan, metrics --------------------------------------------------------------------------------

def test_resume_is_exact(fast_backend: str, tmp_path: Path) -> None:
    whole = losses(make(fast_backend), 10)
    first = make(fast_backend, folder=tmp_path)
    losses(first, 4)
    path = first.save()
    assert path is not None
    second = make(fast_backend, SMALL, tmp_path)
    dm.randn(5)  # the random stream is restored, wherever it stands
    second.restore(path)
    assert second.step == 4
    assert losses(second, 6) == whole  # earlier losses come from metrics.jsonl


def test_a_whole_run_and_its_files(tmp_path: Path, cpu: None) -> None:
    text = tmp_path / "text.txt"
    text.write_text(TEXT, encoding="utf-8")
    shown = Recorder()
    config = recipe("gpt-nano", text=str(text), steps=12, batch=2, context=8, eval_batches=2, warmup=2,
                    sample_tokens=10)
    assert prepare(config, "cpu", tmp_path / "run", shown).execute()
    assert [s for s, _ in shown.validations] == [0, 2, 4, 6, 8, 10, 12]
    assert shown.validations[-1][1] < shown.validations[0][1] - 0.2
    assert shown.samples[-1][0] == 12
    lines = read(tmp_path / "run" / "metrics.jsonl")
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 13))
    assert len([line for line in lines if "val_loss" in line]) == 7
    assert (tmp_path / "run" / "sample.txt").read_text(encoding="utf-8") == shown.samples[-1][1]
    picture = tmp_path / "run" / "loss.png"
    if picture.exists():
        assert picture.read_bytes().startswith(b"\x89PNG")
    else:
        assert any("pip install 'dualml[plot]'" in note for note in shown.notes)
    with pytest.raises(DataError, match="already holds a run"):
        prepare(config, "cpu", tmp_path / "run")
    longer = resume(tmp_path / "run", steps=14, reporter=shown)
    assert longer.execute()
    assert longer.trainer.step == 14
    text.write_text(TEXT + "and more", encoding="utf-8")
    with pytest.raises(CheckpointError, match="has changed since"):
        resume(tmp_path / "run")


def test_without_matplotlib_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cpu: None) -> None:
    monkeypatch.setattr("dualml.train.plot.available", lambda: False)
    shown = Recorder()
    config = recipe("gpt-nano", steps=1, batch=2, eval_batches=1, sample_tokens=0)
    assert prepare(config, "cpu", tmp_path / "run", shown).execute()
    assert not (tmp_path / "run" / "loss.png").exists()
    assert any("matplotlib is not installed" in note for note in shown.notes)


class Ticks:
    """A clock that moves by the same step whenever it is read: time bounds do not depend on how busy the machine is."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        self.now += 0.1
        return self.now


def test_time_bounds_a_run(cpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dualml.train.trainer.time", Ticks())
    shown = Recorder()
    trainer = make("cpu", recipe("gpt-nano", minutes=0.12, batch=2, context=8, eval_batches=1,
                                  sample_tokens=0), reporter=shown)
    assert trainer.train()
    assert 5.5 < trainer.spent < 9.0  # of that clock; 7.2 were asked for
    assert any("Planned" in note for note in shown.notes)
    assert trainer.metrics.rate < 1e-3  # the cosine has come to its end


class Recorder(Reporter):
    """Keeps what it is shown."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.validations: list[tuple[int, float]] = []
        self.samples: list[tuple[int, str]] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def evaluated(self, step: int, found: Evaluation) -> None:
        self.validations.append((step, found.loss))

    def sample(self, step: int, text: str) -> None:
        self.samples.append((step, text))


def test_best_checkpoint_stays(tmp_path: Path, cpu: None) -> None:
    trainer = make("cpu", folder=tmp_path)
    losses(trainer, 1)
    trainer.best = {"step": 1, "loss": 0.5}
    for _ in range(4):
        trainer.save()
        trainer.train_step()
    kept = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    assert kept == ["step-000001", "step-000003", "step-000004"]
    state = json.loads((tmp_path / "checkpoints" / "step-000004" / "state.json").read_text(encoding="utf-8"))
    assert state["best"] == {"step": 1, "loss": 0.5}


# ---- the plan -----------------------------------------------------------------------------------------------------

def test_learning_rate_is_warmup_and_cosine() -> None:
    config = TrainConfig(steps=200, warmup=20)
    plan = Plan.start(config)
    for step in range(0, 210, 7):
        wanted = dm.optim.warmup_cosine(step, config.lr, config.min_lr, config.warmup, config.steps)
        assert learning_rate(config, plan, step) == pytest.approx(wanted)


def test_a_moved_end_bends_the_curve_without_a_jump() -> None:
    config = TrainConfig(steps=1000, warmup=10, minutes=1.0)
    plan = Plan.start(config)
    plan.move(5, 800)
    before = learning_rate(config, plan, 300)
    plan.move(300, 400)
    assert learning_rate(config, plan, 300) == pytest.approx(before)
    rates = [learning_rate(config, plan, s) for s in range(300, 401)]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == pytest.approx(config.min_lr)
    again = Plan(**json.loads(json.dumps(plan.to_dict())))
    assert learning_rate(config, again, 350) == rates[50]


@pytest.mark.parametrize(("changes", "message"), [
    ({"steps": 0}, "steps must be above 0, got 0"), ({"lr": -1.0}, "lr must be above 0"),
    ({"dropout": 1.0}, r"dropout must be in \[0, 1\)"), ({"minutes": 0.0}, "minutes must be above 0"),
    ({"min_lr": -1.0}, "min-lr must be 0 or more")])
def test_settings_that_are_refused(changes: dict[str, float], message: str) -> None:
    with pytest.raises(DataError, match=message):
        recipe("gpt-nano", **changes)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="one of gpt-nano, gpt-shakespeare, gpt-12m, gpt2, got 'gpt-5'"):
        recipe("gpt-5")


def test_example(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, cpu: None) -> None:
    monkeypatch.setattr("sys.argv", ["03_train_gpt.py", "cpu", "20"])
    runpy.run_path(str(Path(__file__).resolve().parents[1] / "examples" / "03_train_gpt.py"))
    assert "step   19  loss " in capsys.readouterr().out


def test_blas_threads_are_chosen_by_measure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads on one free core take ten times as long as one: they wait for each other without sleeping."""
    for name in blas._ASKED:
        monkeypatch.delenv(name, raising=False)
    threads, now = blas.Threads(), [0]
    threads.choices = [1, 2]

    def slow_with_two(count: int) -> None:
        now[0] = count

    ticks = iter(range(10**6))
    monkeypatch.setattr(blas.time, "perf_counter", lambda: next(ticks) * (10 if now[0] == 2 else 1))
    assert threads.measure(slow_with_two) == 1
    assert now == [1]
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert blas.Threads()._set is None
