"""Tables of rotary positions at real models' sizes, against the frequencies that transformers computes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dualml.errors import DataError
from dualml.models.rotary import Rotary
from tests import hf_models

torch, transformers = hf_models.torch, hf_models.transformers
pytestmark = pytest.mark.xdist_group("transformers")
LLAMA_3 = {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
           "original_max_position_embeddings": 8192}
SETTINGS: dict[str, tuple[int, int, float, dict[str, Any]]] = {
    "plain": (64, 2048, 10_000.0, {}),
    "llama3": (64, 131_072, 500_000.0, LLAMA_3),
    "llama3_large": (128, 131_072, 500_000.0, LLAMA_3 | {"factor": 8.0}),
    "linear": (128, 16_384, 1e6, {"rope_type": "linear", "factor": 4.0}),
    "dynamic": (128, 4096, 10_000.0, {"rope_type": "dynamic", "factor": 2.0}),
    "yarn": (128, 131_072, 1e6, {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32_768}),
    "yarn_small": (64, 8192, 10_000.0, {"rope_type": "yarn", "factor": 16.0, "original_max_position_embeddings": 512,
                                        "beta_fast": 20, "beta_slow": 2, "truncate": False}),
    "yarn_scales": (64, 8192, 10_000.0, {"rope_type": "yarn", "factor": 40.0, "mscale": 1.0, "mscale_all_dim": 0.5,
                                         "original_max_position_embeddings": 4096}),
    "yarn_given": (64, 8192, 10_000.0, {"rope_type": "yarn", "factor": 2.0, "attention_factor": 0.7,
                                        "original_max_position_embeddings": 4096}),
}


def theirs(size: int, context: int, theta: float, scaling: dict[str, Any], length: int) -> tuple[np.ndarray, float]:
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
    config = transformers.LlamaConfig(hidden_size=4 * size, num_attention_heads=4, max_position_embeddings=context,
                                      rope_parameters={"rope_type": "default", **scaling, "rope_theta": theta})
    layer = LlamaRotaryEmbedding(config)
    layer(torch.zeros(1), torch.tensor([[length - 1]]))  # dynamic ones look at the longest position
    return layer.inv_freq.double().numpy(), layer.attention_scaling


@pytest.mark.parametrize("name", SETTINGS)
def test_tables(name: str) -> None:
    size, context, theta, scaling = SETTINGS[name]
    rows = 6000
    frequencies, scale = theirs(size, context, theta, scaling, rows)
    table = Rotary(size, context, theta, scaling).values(rows, rows if name == "dynamic" else 0)
    assert table.shape == (rows, 2, size // 2)
    angles = np.arange(rows)[:, None] * frequencies
    slack = 1e-6 + angles * 3e-7  # their frequencies are of float32
    assert (np.abs(table[:, 0] - np.cos(angles) * scale) < slack * scale).all()
    assert (np.abs(table[:, 1] - np.sin(angles) * scale) < slack * scale).all()


def test_dynamic_rows_grow_with_the_text() -> None:
    """Under a cache each row has the base of the text's length when it was written, as in transformers."""
    size, context, theta, scaling = SETTINGS["dynamic"]
    table = Rotary(size, context, theta, scaling).values(5000, 4500)
    for position, length in ((4499, 4500), (17, 4500), (4700, 4701), (4999, 5000)):
        angles = position * theirs(size, context, theta, scaling, length)[0]
        np.testing.assert_allclose(table[position, 0], np.cos(angles), atol=2e-3)
    short = Rotary(size, context, theta, scaling).values(4096)
    np.testing.assert_array_equal(short, Rotary(size, context, theta).values(4096))


def test_tables_are_kept_and_grow() -> None:
    rotary = Rotary(8, 100)
    first = rotary.table(5, "cpu")
    assert first.shape[0] == 64
    assert rotary.table(64, "cpu") is first
    assert rotary.table(65, "cpu").shape[0] == 128
    assert rotary.table(3, "cpu").shape[0] == 128


@pytest.mark.parametrize(("scaling", "message"), [
    ({"rope_type": "longrope"}, "rope_type must be one of"), ({"type": "linear"}, "linear scaling needs factor"),
    ({"rope_type": "yarn", "factor": -1.0}, "needs factor, a number above 0, got -1"),
    (LLAMA_3 | {"high_freq_factor": 1.0}, "needs low_freq_factor and high_freq_factor that differ")])
def test_what_is_refused(scaling: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Rotary(64, 4096, 10_000.0, scaling).values(4)
