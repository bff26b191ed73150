"""That training is right: where it begins, that it can learn by heart, what it measures, and the published recipes."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dualml as dm
from dualml import optim
from dualml.data import TokenBatches
from dualml.errors import CheckpointError, DataError, TrainingError
from dualml.models import GPT, GPTConfig
from dualml.text import CharTokenizer
from dualml.train import Evaluation, TrainConfig, Trainer, load_for_evaluation, prepare, recipe, resume
from dualml.train.diagnose import diagnose
from dualml.train.evaluation import byte_count
from dualml.train.metrics import Metrics, read
from dualml.train.trainer import make_optimizer
from tests.test_train import SMALL, TEXT, losses, make


def test_the_first_loss_is_that_of_a_guess(backend: str) -> None:
    """ln(vocabulary): the initial model knows nothing, and is not sure of anything wrong either."""
    tokenizer = CharTokenizer("".join(map(chr, range(256))))
    with dm.use_backend(backend):
        dm.manual_seed(1)
        model = GPT(GPTConfig(256, 16, 2, 2, 32, head_bias=True))
    tokens = np.random.default_rng(0).integers(0, 256, 2000).astype(np.int32)
    trainer = Trainer(model, TokenBatches(tokens, 16, 8), tokenizer, SMALL.changed(context=16))
    assert abs(trainer.evaluate().loss - math.log(256)) < 0.1
    trainer.train_step()
    trainer.read_losses()
    assert abs(trainer.metrics.losses[0][1] - math.log(256)) < 0.1


def test_one_batch_is_learned_by_heart(fast_backend: str) -> None:
    config = SMALL.changed(steps=120, dropout=0.0, batch=2, weight_decay=0.0, lr=3e-2, min_lr=1e-3)
    trainer = make(fast_backend, config, layers=1)
    batch = trainer.data.get("train", 0)
    trainer.data.get = lambda part, index: batch  # type: ignore[method-assign,assignment,misc]
    assert losses(trainer, 120)[-1] < 0.05


# ---- recipes --------------------------------------------------------------------------------------------------------

def test_the_recipe_of_the_12m_model(cpu: None) -> None:
    config = recipe("gpt-12m")
    wanted: dict[str, Any] = dict(
        batch=8, accumulation=4, steps=7500, context=256, dropout=0.1, lr=3e-4, min_lr=6e-5, warmup=200, beta1=0.9,
        beta2=0.95, weight_decay=0.1, clip=1.0, minutes=None, precision="float32")
    assert {name: getattr(config, name) for name in wanted} == wanted
    model = GPT.from_preset("gpt-12m", 4096)
    assert model.num_parameters() == 12_322_816
    sizes = model.config
    assert (sizes.layers, sizes.heads, sizes.width, sizes.context, sizes.dropout) == (6, 6, 384, 256, 0.1)
    assert model.ln_f.eps == 1e-5
    assert model.head_bias is not None
    assert model.head_bias.numel() == 4096
    groups = make_optimizer(model, config).param_groups
    assert [g["weight_decay"] for g in groups] == [0.1, 0.0]
    assert {p.ndim for p in groups[0]["params"]} == {2}
    assert {p.ndim for p in groups[1]["params"]} == {1}
    assert groups[0]["betas"] == (0.9, 0.95)
    trainer = Trainer(model, TokenBatches(np.zeros(9000, np.int32), 256, 8), CharTokenizer("a"), config)
    from dualml.train import learning_rate
    rates = [learning_rate(config, trainer.plan, s) for s in range(7501)]
    assert rates[0] == pytest.approx(3e-4 / 201)
    assert max(rates) == rates[200] == pytest.approx(3e-4)
    assert rates[3850] == pytest.approx((3e-4 + 6e-5) / 2)  # half of the cosine
    assert rates[7500] == pytest.approx(6e-5)


def test_the_shakespeare_recipes_are_nanogpts() -> None:
    gpu, cpu = recipe("gpt-shakespeare"), TrainConfig()
    assert (gpu.steps, gpu.batch, gpu.context, gpu.dropout, gpu.lr, gpu.min_lr, gpu.warmup, gpu.beta2, gpu.weight_decay,
            gpu.clip) == (5000, 64, 256, 0.2, 1e-3, 1e-4, 100, 0.99, 0.1, 1.0)
    assert (cpu.steps, cpu.batch, cpu.context, cpu.dropout, cpu.lr, cpu.min_lr, cpu.warmup, cpu.beta2, cpu.weight_decay,
            cpu.clip) == (2000, 12, 64, 0.0, 1e-3, 1e-4, 100, 0.99, 0.1, 1.0)


# ---- evaluation -----------------------------------------------------------------------------------------------------

def test_bits_per_byte() -> None:
    found = Evaluation(loss=2.0, tokens=100, bytes=400)
    assert found.perplexity == pytest.approx(math.e**2)
    assert found.bits_per_byte == pytest.approx(2.0 / math.log(2) / 4)
    assert str(found) == "2.0000 (perplexity 7.39, 0.721 bits per byte)"
    assert byte_count("aé€") == 6
    assert byte_count("\ufffd\ufffda\ufffdé\ufffd") == 2 + 1 + 3 + 2 + 1  # one inside is a character of the text


def test_evaluation_counts_the_bytes_of_its_targets(cpu: None) -> None:
    text = "aé€ " * 300
    tokenizer = CharTokenizer.from_text(text)
    model = GPT(GPTConfig(tokenizer.vocab_size, 8, 1, 1, 8))
    trainer = Trainer(model, TokenBatches(tokenizer.encode(text), 8, 2), tokenizer, SMALL.changed(batch=2))
    found = trainer.evaluate()
    assert (found.tokens, found.bytes) == (2 * 2 * 8, 2 * 2 * 2 * (1 + 2 + 3 + 1))  # any 8 characters hold each twice
    line = trainer.metrics.validations
    assert line == [(0, found.loss)]


def test_evaluation_counts_the_bytes_of_byte_tokens(cpu: None) -> None:
    """A tokenizer that cuts through characters is asked for its bytes, without those of special tokens."""
    class Bytes(CharTokenizer):
        def decode_bytes(self, tokens: np.ndarray, skip_special: bool) -> bytes:
            assert skip_special
            return b"xyz" * len(tokens)

    trainer = make("cpu")
    trainer.tokenizer = Bytes("ab")
    found = trainer.evaluate()
    assert found.bytes == 3 * found.tokens


def run_of(folder: Path, **changes: Any) -> tuple[Any, ...]:
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    config = recipe("gpt-nano", text=str(folder / "text.txt"),
                    **dict(steps=4, batch=2, context=8, eval_every=2, eval_batches=3, sample_tokens=0) | changes)
    return config, folder / "run"


def test_evaluation_of_a_run(tmp_path: Path, cpu: None, capsys: pytest.CaptureFixture[str],
                             monkeypatch: pytest.MonkeyPatch) -> None:
    """The command says what training measured."""
    from dualml.cli.main import main
    config, folder = run_of(tmp_path)
    run = prepare(config, "cpu", folder)
    assert run.execute()
    lines = [line for line in read(folder / "metrics.jsonl") if "val_loss" in line]
    assert lines[-1].keys() == {"step", "val_loss", "perplexity", "bits_per_byte", "seconds"}
    monkeypatch.setattr("sys.argv", ["dualml", "eval", "--out", str(folder), "--backend", "cpu", "--json"])
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main()
    told = json.loads(capsys.readouterr().out)
    assert told["loss"] == lines[-1]["val_loss"]
    assert told["bits_per_byte"] == pytest.approx(lines[-1]["bits_per_byte"])
    assert told["bytes"] == told["tokens"] == 3 * 2 * 8  # plain ASCII
    monkeypatch.setattr("sys.argv", ["dualml", "eval", "--out", str(folder), "--batches", "1", "--step", "2"])
    with pytest.raises(SystemExit):
        main()
    assert "bits per byte    " in capsys.readouterr().out
    (tmp_path / "text.txt").write_text(TEXT + "more", encoding="utf-8")
    with pytest.raises(CheckpointError, match="has changed since"):
        load_for_evaluation(folder, "cpu")
    assert load_for_evaluation(folder, "cpu", text=str(tmp_path / "text.txt"))[0].evaluate().loss > 0


# ---- one folder -----------------------------------------------------------------------------------------------------

def test_two_trainers_on_one_folder(tmp_path: Path, cpu: None) -> None:
    import os
    config, folder = run_of(tmp_path)
    first = prepare(config, "cpu", folder)
    taken = rf"run is being trained by process {os.getpid()}\. Wait for it, stop it, or name another"
    with pytest.raises(CheckpointError, match=taken):
        prepare(config, "cpu", folder)
    assert first.execute()
    second = resume(folder, steps=6)
    with pytest.raises(CheckpointError, match=taken):
        resume(folder, steps=8)
    assert second.execute()
    with pytest.raises(DataError, match="already holds a run"):
        prepare(config, "cpu", folder)
    resume(folder, steps=8).close()


def test_a_new_run_begins_its_own_metrics(tmp_path: Path, cpu: None) -> None:
    """Where a run was killed before its first checkpoint, lines of it may be left."""
    config, folder = run_of(tmp_path)
    folder.mkdir()
    (folder / "metrics.jsonl").write_text('{"step": 1, "loss": 9.0, "lr": 1.0, "grad_norm": 1.0, "seconds": 0}\n')
    assert prepare(config, "cpu", folder).execute()
    assert [line["step"] for line in read(folder / "metrics.jsonl") if "loss" in line] == [1, 2, 3, 4]


# ---- TensorBoard ----------------------------------------------------------------------------------------------------

def test_tensorboard(tmp_path: Path, cpu: None) -> None:
    pytest.importorskip("tensorboardX")
    config, folder = run_of(tmp_path)
    run = prepare(config, "cpu", folder, tensorboard=True)
    shown: list[tuple[int, str, float]] = []
    board = run.trainer.metrics.board
    assert board is not None
    board._writer.add_scalar = lambda name, value, step: shown.append((step, name, value))
    assert run.execute()
    assert {s for s, n, _ in shown if n == "training/loss"} == {1, 2, 3, 4}
    assert {s for s, n, _ in shown if n == "validation/bits_per_byte"} == {0, 2, 4}
    assert list((folder / "tensorboard").glob("events.out.tfevents.*"))
    again = resume(folder, steps=6)
    assert again.trainer.metrics.board is not None  # goes on without being asked
    assert again.execute()


def test_without_tensorboard_it_says_so(tmp_path: Path, cpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    config, folder = run_of(tmp_path)
    with pytest.raises(TrainingError, match=r"pip install 'dualml\[tensorboard\]'"):
        prepare(config, "cpu", folder, tensorboard=True)
    assert prepare(config, "cpu", folder).execute()  # the lock was let go


# ---- a run that breaks ----------------------------------------------------------------------------------------------

def test_a_nan_in_a_weight_is_named(fast_backend: str) -> None:
    trainer = make(fast_backend)
    with dm.no_grad():
        trainer.model.h[1].ln_1.weight.fill_(math.nan)
    with pytest.raises(TrainingError) as told:
        losses(trainer, 2)
    text = str(told.value)
    assert "the loss became nan at step 1." in text
    assert "Parameters before the step: 1 of 29 not finite, first h.1.ln_1.weight (32 of 32 values)" in text
    assert "kernel layer_norm_forward (forward pass, reading h.1.ln_1.weight, h.1.ln_1.bias)" in text
    assert "There was no checkpoint yet." in text
    assert "Try a lower --lr (it was 0.01), a longer --warmup." in text


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_a_broken_step_is_found_later_and_done_again(precision: str, fast_backend: str, tmp_path: Path) -> None:
    """The loss is read steps later. By then nothing has changed since: the same step breaks in the same place, and a
    checkpoint from before is kept."""
    trainer = make(fast_backend, SMALL.changed(precision=precision), tmp_path)
    trainer.scaler = dm.amp.LossScaler(precision, fast_backend, start=1.0)
    losses(trainer, 3)
    trainer.save()
    real, calls = trainer.data.get, [0]

    def get(part: str, index: int) -> tuple[np.ndarray, np.ndarray]:
        tokens, targets = real(part, index)
        if index == 4:
            calls[0] += 1
            targets = targets.copy()
            targets[1, 2] = 10**6  # no class
        return tokens, targets

    trainer.data.get = get  # type: ignore[method-assign,assignment]
    trainer.train_step()
    weights = trainer.model.wte.weight.detach().numpy()
    moments = {n: t.numpy() for n, t in trainer.optimizer.state_dict()["state"][0].items()}
    for _ in range(5):
        trainer.train_step()
    with pytest.raises(TrainingError) as told:
        trainer.read_losses()
    text = str(told.value)
    if precision == "float32":
        assert "at step 5.\n  Parameters before the step: all finite." in text
        assert "First value not finite: kernel cross_entropy_forward (forward pass) wrote 1 into loss [24]." in text
        assert "Gradients: 29 of 29 not finite" in text
        assert calls[0] == 2
    assert f"Kept: {tmp_path / 'checkpoints' / 'step-000003'}." in text
    assert "go on with --resume and a lower --lr (it was 0.01)" in text
    assert text.endswith("." if precision == "float32" else "or --precision float32.")
    assert (trainer.model.wte.weight.detach().numpy() == weights).all()
    for name, values in trainer.optimizer.state_dict()["state"][0].items():
        assert (values.numpy() == moments[name]).all()
    assert [step for step, _ in trainer.metrics.losses][:4] == [1, 2, 3, 4]
    assert make(fast_backend, folder=tmp_path).restore(tmp_path / "checkpoints" / "step-000003") is None


@pytest.mark.parametrize(("size", "place"), [
    (1e25, r"kernel matmul \(backward pass, reading h.0.mlp.fc.weight\) wrote [\d,]+ into out \[1, 24, 32\]"),
    (1e11, "none in the step's passes; the squares of the gradients overflow their sum")])
def test_a_gradient_that_overflows_is_named(size: float, place: str, fast_backend: str) -> None:
    """The loss is finite, its gradient or the sum of its squares is not."""
    trainer = make(fast_backend, layers=1)
    block = trainer.model.h[0]
    with dm.no_grad():
        block.ln_2.weight.fill_(0.0)  # the MLP adds nothing, but its gradient goes through both its weights
        block.mlp.fc.weight.copy_(dm.randn(128, 32) * size)
        block.mlp.proj.weight.copy_(dm.randn(32, 128) * size)
    with pytest.raises(TrainingError, match=r"gradient norm became (inf|nan) at step 1\.") as told:
        losses(trainer, 1)
    assert re.search(f"Parameters before the step: all finite.*{place}", str(told.value), re.DOTALL), str(told.value)


def test_the_step_done_again_is_the_very_same(fast_backend: str) -> None:
    """Its dropout too: the random generator goes back to the step's beginning, and then to where it was."""
    trainer = make(fast_backend, SMALL.changed(dropout=0.3, accumulation=2))
    start = dm.random.get_state()
    first = [loss.item() for loss in trainer._passes(3)]
    dm.randn(100)
    now, again = dm.random.get_state(), []

    def passes() -> Iterator[dm.Tensor]:
        for loss in trainer._passes(3):
            again.append(loss.item())
            yield loss

    said = diagnose(trainer.model.named_parameters(), passes, trainer.scaler.seed(2), start)
    assert again == first
    assert dm.random.get_state() == now
    assert said[0] == "Parameters before the step: all finite."
    assert said[2] == "Gradients: all finite."


def test_the_command_line_ends_with_the_diagnosis(tmp_path: Path, cpu: None, monkeypatch: pytest.MonkeyPatch,
                                                  capsys: pytest.CaptureFixture[str]) -> None:
    from dualml.cli.main import main
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    real = optim.AdamW.zero_grad

    def spoil(self: optim.AdamW) -> None:
        real(self)
        if max(next(iter(self.steps.values()))) == 5:
            with dm.no_grad():
                self.param_groups[0]["params"][0].fill_(math.inf)

    monkeypatch.setattr(optim.AdamW, "zero_grad", spoil)
    monkeypatch.setattr("sys.argv", [
        "dualml", "train", "--text", str(tmp_path / "text.txt"), "--out", str(tmp_path / "run"), "--steps", "20",
        "--batch", "2", "--context", "8", "--eval-every", "4", "--eval-batches", "1", "--sample-tokens", "0", "--plain",
        "--backend", "cpu"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 1
    said = capsys.readouterr().err
    assert "the loss became nan at step 6." in said
    assert "first wte.weight" in said
    assert "step-000004" in said
    assert [line["step"] for line in read(tmp_path / "run" / "metrics.jsonl") if "loss" in line] == [1, 2, 3, 4, 5]
    monkeypatch.setattr(optim.AdamW, "zero_grad", real)  # whatever it was, a lower rate is taken on the way
    run = resume(tmp_path / "run", lr=1e-4, precision="float16")
    assert run.trainer.scaler.state_dict()["scale"] == 2.0**16
    assert run.execute()
    assert run.trainer.metrics.rate < 1e-4
    assert resume(tmp_path / "run").trainer.config.lr == 1e-4


def test_metrics_hold_json_only(tmp_path: Path) -> None:
    """A step that the loss scaler skipped has null for what was not finite."""
    metrics = Metrics(tmp_path / "metrics.jsonl")
    metrics.step(1, 2.0, 1e-3, 1.0, 0.0)
    metrics.step(2, 2.0, 1e-3, math.inf, 0.0)
    metrics.step(3, math.nan, 1e-3, math.nan, 0.0)
    metrics.flush()
    lines = [json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
             for text in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line.get("skipped", False) for line in lines] == [False, True, True]
    assert lines[2]["loss"] is None
    again = Metrics(tmp_path / "metrics.jsonl")
    again.rewind(3)
    assert again.losses == [(1, 2.0), (2, 2.0)]


def test_byte_pairs_learned_from_the_text(tmp_path: Path, cpu: None) -> None:
    """A run with --tokenizer bpe:N keeps its tokenizer, goes on with it, and samples whole characters."""
    (tmp_path / "text.txt").write_text("Der Bär fährt über die Brücke, 東京 🙂.\n" * 200, encoding="utf-8")
    settings = recipe("gpt-nano", text=str(tmp_path / "text.txt"), tokenizer="bpe:280", steps=3, batch=2, context=16,
                      eval_batches=1, sample_tokens=8)
    run = prepare(settings, "cpu", tmp_path / "run")
    assert run.trainer.model.config.vocab_size == 280
    assert run.execute()
    again = resume(tmp_path / "run", steps=4)
    assert again.trainer.tokenizer.to_dict() == run.trainer.tokenizer.to_dict()
    again.close()
    run.trainer.tokenizer.save(tmp_path / "tokenizer.json")
    from dualml.text import make_tokenizer
    loaded = make_tokenizer(str(tmp_path / "tokenizer.json"), "")
    assert loaded.encode("Brücke 🙂").tolist() == run.trainer.tokenizer.encode("Brücke 🙂").tolist()
    for wrong, message in (("bpe:x", "expected char, bpe:N"), ("bpe:100", "vocab"), ("nowhere.json", "tokenizer.json"),
                           ("bpe:90000", "needs a longer text")):
        with pytest.raises(DataError, match=message):
            make_tokenizer(wrong, "abc abc")
