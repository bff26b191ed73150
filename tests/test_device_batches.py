"""Batches drawn on the device: the host's, bit for bit, whether a step is captured, saved, resumed or moved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dualml as dm
from dualml import runtime
from dualml.data import DeviceBatches, Prefetch, TokenBatches, WindowBatches, placed, why_on_host, write_shards
from dualml.data.batches import ArrayStream
from dualml.errors import CaptureError, DataError
from dualml.text import CharTokenizer
from dualml.train import TrainConfig, prepare, resume
from tests.test_train import SMALL, losses, make

TOKENS = np.random.default_rng(0).integers(0, 2**31 - 1, 1000).astype(np.int32)


def host(batch: int = 6, context: int = 9, seed: int = 3) -> TokenBatches:
    return TokenBatches(TOKENS, context, batch, seed)


def assert_same(drawn: Any, gathered: Any) -> None:
    for one, other in zip(drawn, gathered, strict=True):
        assert one.dtype is dm.int32
        np.testing.assert_array_equal(one.numpy(), other)


# ---- the same batches -----------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("batch", "context", "seed"), [(1, 1, 0), (6, 9, 2**63 - 1), (37, 40, 2**62 + 1)])
def test_batches_are_those_of_the_host(batch: int, context: int, seed: int, backend: str) -> None:
    data = host(batch, context, seed)
    drawn = DeviceBatches(data, backend)
    assert drawn.parts is data.parts
    for part in ("train", "val"):
        for index in (0, 5, 2**32 - 1, 2**40 + 7):
            assert_same(drawn.get(part, index), data.get(part, index))


def test_windows_are_numpys(cpu: None) -> None:
    """What a run has read since the first version must stay what it reads. Values of numpy.random.Philox."""
    drawn = DeviceBatches(TokenBatches(np.arange(10_000), 4, 5, seed=1337), "cpu")
    words = np.random.Philox(key=[1337, 0], counter=[0, 0, 0, 12]).random_raw(5)
    starts = [int(word >> 32) * (9000 - 4) >> 32 for word in words.tolist()]
    assert drawn.get("train", 12)[0].numpy()[:, 0].tolist() == starts == [4446, 3987, 6319, 4667, 1551]


def test_batches_one_after_the_other(backend: str) -> None:
    """Each part goes its own way, `get` disturbs neither, and numbers carry into their second word."""
    data = host()
    drawn = DeviceBatches(data, backend)
    for index in range(3):
        assert_same(drawn.next("train"), data.get("train", index))
        drawn.get("train", 100)
    assert_same(drawn.next("val"), data.get("val", 0))
    drawn.seek("train", 2**32 - 1)
    for index in (2**32 - 1, 2**32):
        assert_same(drawn.next("train"), data.get("train", index))
    assert_same(drawn.next("val"), data.get("val", 1))


# ---- captured -------------------------------------------------------------------------------------------------------

def test_a_captured_step_reads_on(backend: str) -> None:
    """Two batches a call: the two launches are alike, and must not be taken for one."""
    data = host()
    drawn = DeviceBatches(data, backend)

    @dm.capture
    def step() -> tuple[dm.Tensor, ...]:
        return (*drawn.next("train"), *drawn.next("train"))

    for index in range(5):
        assert_same(step(), (*data.get("train", 2 * index), *data.get("train", 2 * index + 1)))
    drawn.seek("train", 3)
    assert_same(step(), (*data.get("train", 3), *data.get("train", 4)))
    assert len(step.programs) == 1


def test_a_captured_step_cannot_seek(cpu: None) -> None:
    drawn = DeviceBatches(host(), "cpu")

    @dm.capture
    def step() -> tuple[dm.Tensor, ...]:
        drawn.seek("train", 1)
        return drawn.next("train")

    with pytest.raises(CaptureError, match="writes host values to a tensor from outside"):
        step()


def test_a_saved_program_reads_on(fast_backend: str, tmp_path: Path) -> None:
    """It has tokens and number with it, and needs no arguments."""
    data = host()
    drawn = DeviceBatches(data, fast_backend)

    @dm.capture
    def step() -> tuple[dm.Tensor, ...]:
        return drawn.next("train")

    for _ in range(4):
        step()
    step.programs[0].save(tmp_path / "step")
    loaded = dm.load_program(tmp_path / "step", backend=fast_backend)
    for index in (4, 5):
        assert_same(loaded(), data.get("train", index))


# ---- training -------------------------------------------------------------------------------------------------------

def trainer_of(backend: str, drawn: bool, config: TrainConfig = SMALL, folder: Path | None = None) -> Any:
    made = make(backend, config, folder)
    if drawn:
        made.data = placed(made.data, backend)
        assert isinstance(made.data, DeviceBatches)
    return made


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_run_is_the_same_with_either(accumulation: int, backend: str) -> None:
    found = []
    for drawn in (True, False):
        trainer = trainer_of(backend, drawn, SMALL.changed(accumulation=accumulation, batch=2))
        evaluations = [trainer.evaluate()]
        read = losses(trainer, 6)
        evaluations.append(trainer.evaluate())
        assert len(trainer._replayed.programs) == 1
        found.append((evaluations, read, [p.detach().numpy().tobytes() for p in trainer.model.parameters()]))
    assert found[0] == found[1]


@pytest.mark.parametrize("drawn", [True, False])
def test_a_run_goes_on_with_either(drawn: bool, backend: str, tmp_path: Path) -> None:
    """Resumed after a checkpoint in its middle; and the same trainer, put back to it after more steps."""
    first = trainer_of(backend, drawn, folder=tmp_path)
    losses(first, 4)
    kept = first.save()
    wanted = losses(first, 4)[4:]
    second = trainer_of(backend, not drawn, folder=tmp_path)
    for trainer in (second, first):
        trainer.restore(kept)
        assert losses(trainer, 4)[-4:] == wanted


def test_a_step_takes_next_to_nothing_from_the_host(fast_backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The optimizer's settings: no tokens."""
    sizes: list[int] = []
    trainer = trainer_of(fast_backend, True, SMALL.changed(dropout=0.0, accumulation=2))
    losses(trainer, 4)
    write = trainer.backend.write
    monkeypatch.setattr(trainer.backend, "write", lambda buffer, offset, data: (
        sizes.append(data.nbytes), write(buffer, offset, data))[1])
    monkeypatch.setattr(trainer.data, "seek", None)  # the device knows where it is
    trainer.train_step()
    assert 0 < sum(sizes) < 100
    assert 4 * 2 * 3 * 8 > 100  # the bytes of the inputs alone


def test_a_broken_step_is_diagnosed(fast_backend: str) -> None:
    """It is done once more, with the batch of its number, though the device is past it."""
    trainer = trainer_of(fast_backend, True)
    trainer.data.host.parts["train"].tokens[:] = 10**6  # no row of the embedding
    for _ in range(2):
        trainer.train_step()
    with pytest.raises(dm.errors.TrainingError, match=r"(?s)at step 1\..*kernel embedding\w* \(forward pass"):
        trainer.read_losses()


# ---- where they cannot be drawn -------------------------------------------------------------------------------------

class Device:
    """A backend of which only the limits matter."""

    def __init__(self, **limits: int) -> None:
        self.device = type("Device", (), {"limits": limits})()


def many(count: int) -> ArrayStream:
    return ArrayStream(np.broadcast_to(np.int32(0), count))


@pytest.mark.parametrize(("train", "limits", "reason"), [
    (1 << 25, {"max-storage-buffer-binding-size": 128 << 20}, ""),
    ((1 << 25) + 1, {"max-storage-buffer-binding-size": 128 << 20}, "more than the 128.0 MiB that may lie in one"),
    ((1 << 28) - 100, {}, ""),
    (1 << 28, {}, "more than the 1,024.0 MiB that are kept for tokens"),
    (1 << 28, {"memory": 80 << 30}, ""),
    (1 << 28, {"memory": 8 << 30}, "more than the 1,024.0 MiB that are kept for tokens"),
    (1 << 31, {"memory": 800 << 30}, "that may lie in one buffer"),
])
def test_streams_that_are_too_large(train: int, limits: dict[str, int], reason: str,
                                    monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "get", lambda name: Device(**limits))
    data = WindowBatches({"train": many(train), "val": many(100)}, 8, 2)
    said = why_on_host(data, "some")
    assert reason in said
    assert bool(reason) == bool(said)
    if reason:
        assert placed(data, "some") is data
        with pytest.raises(DataError, match="Use them as they are"):
            DeviceBatches(data, "some")


def test_runs_say_where_batches_come_from(fast_backend: str, tmp_path: Path) -> None:
    """A text is drawn on the device, a data folder read by the host; resumed runs too, and evaluations."""
    text = tmp_path / "text.txt"
    text.write_text("the quick brown fox. " * 200)
    sizes: dict[str, Any] = dict(steps=2, batch=2, eval_batches=1, sample_tokens=0, layers=1, heads=1, width=8)
    config = TrainConfig(text=str(text), context=8, **sizes)
    run = prepare(config, fast_backend, tmp_path / "a")
    assert isinstance(run.trainer.data, DeviceBatches)
    assert "batches: drawn on the device, from 0.0 MiB of tokens there" in run.describe()[1]
    run.execute()
    again = resume(tmp_path / "a", steps=3)
    assert isinstance(again.trainer.data, DeviceBatches)
    again.execute()
    tokenizer = CharTokenizer("ab", ["<|endoftext|>"])
    write_shards(tmp_path / "d", [("train", np.ones(500), 1), ("val", np.ones(100), 1)], tokenizer)
    run = prepare(config.changed(data=str(tmp_path / "d")), fast_backend, tmp_path / "b")
    assert isinstance(run.trainer.data, Prefetch)
    assert "batches: gathered on the host, as the tokens are not held in memory as one stream" in run.describe()[1]
    run.close()
