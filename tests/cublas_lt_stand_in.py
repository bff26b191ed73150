"""cuBLASLt in NumPy, beside the stand-in for CuPy: what dualml calls of it, in its own terms."""

from __future__ import annotations

import struct
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dualml.ops import bias_gelu
from tests.cupy_stand_in import CUBLAS_TYPES, Device, Gemm, at

ATTRIBUTES = {"MatmulDesc": {3: "=i", 4: "=i", 7: "=I", 8: "=Q", 11: "=Q", 12: "=q", 22: "=i", 26: "=i"},
              "MatrixLayout": {5: "=i", 6: "=q"},
              "MatmulPreference": {1: "=Q", 3: "=I", 5: "=I", 6: "=I", 7: "=I", 8: "=I"}}  # of cublasLt.h, with types


# of cublasLtEpilogue_t: BIAS, GELU_AUX_BIAS, DGELU, BGRADB; and what of a MatmulDesc they need
NEEDED = {4: {8, 26}, 164: {8, 26, 11, 12, 22}, 192: {11, 12, 22}, 512: {8, 26}}


@dataclass
class Thing:
    """A descriptor."""

    kind: str
    given: tuple[Any, ...]
    attributes: dict[int, int] = field(default_factory=dict)


class CublasLt:
    def __init__(self, device: Device) -> None:
        self.device, self.status, self.found, self.state = device, 0, 1, 0
        self.things: dict[int, Thing] = {}
        self.calls: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:
        for kind in ATTRIBUTES:
            for verb in ("Create", "SetAttribute", "Destroy"):
                if name == f"cublasLt{kind}{verb}":
                    return lambda *given: getattr(self, verb.lower())(kind, *given)
        raise AttributeError(name)

    def create(self, kind: str, made: Any, *given: Any) -> int:
        self.calls["create"] += 1
        made._obj.value = 1000 + self.calls["create"]
        self.things[made._obj.value] = Thing(kind, tuple(getattr(g, "value", g) for g in given))
        return 0

    def setattribute(self, kind: str, made: Any, name: int, value: bytes, nbytes: Any) -> int:
        thing = self.things[made.value]
        assert thing.kind == kind
        [thing.attributes[name]] = struct.unpack(ATTRIBUTES[kind][name], value)
        assert nbytes.value == len(value)
        return 0

    def destroy(self, kind: str, made: Any) -> int:
        assert self.things.pop(made.value).kind == kind
        return 0

    def cublasLtMatmulAlgoGetHeuristic(self, handle: Any, work: Any, a: Any, b: Any, c: Any, d: Any, wish: Any,
                                       wanted: int, results: Any, count: Any) -> int:
        wishes = self.things[wish.value].attributes
        assert handle.value in self.device.cuda.cublas.calls
        assert (wanted, wishes[1], wishes[3], len(results)) == (1, 32 << 20, 2, 96)
        results[:64] = self.algorithm(work, a, b, c, d, *(wishes[n] for n in (5, 6, 8)))
        struct.pack_into("=i", results, 72, self.state)
        count._obj.value = self.found
        self.calls["heuristic"] += 1
        return 0

    def algorithm(self, work: Any, *things: Any) -> bytes:
        """What stands for one: it knows what it was chosen for."""
        pointers = [self.things[work.value].attributes.get(name, 0) for name in (8, 11)]
        numbers = [*(min(p & -p, 256) for p in pointers), *(getattr(t, "value", t) for t in (work, *things))]
        return struct.pack(f"={len(numbers)}I", *numbers).ljust(64, b"\7")

    def cublasLtMatmul(self, handle: Any, work: Any, alpha: Any, x: Any, a: Any, y: Any, b: Any, beta: Any, old: Any,
                       c: Any, out: Any, d: Any, algorithm: Any, workspace: Any, nbytes: Any, stream: Any) -> int:
        self.calls["matmul"] += 1
        assert self.device.cuda.cublas.workspaces[handle.value] == workspace.value
        assert self.device.cuda.cublas.streams[handle.value] == stream.value
        assert nbytes.value == 32 << 20
        aligned = [min(p.value & -p.value, 256) for p in (x, y, out)]
        assert bytes(algorithm) == self.algorithm(work, a, b, c, d, *aligned), "an algorithm of another product"
        assert (old.value, c.value) == (out.value, d.value)
        layouts = [Thing(t.kind, t.given, dict(t.attributes)) for t in (self.things[n.value] for n in (a, b, d))]
        how, given = dict(self.things[work.value].attributes), self.things[work.value].given
        places = x.value, y.value, out.value
        self.device.on(stream.value).do(lambda: self.multiply(given, how, places, layouts, alpha.value, beta.value))
        return self.status

    @staticmethod
    def multiply(given: tuple[Any, ...], how: dict[int, int], places: tuple[int, ...], layouts: list[Thing], alpha: int,
                 beta: int) -> None:
        kind, epilogue = layouts[2].given[0], how[7]
        assert given == (68, 0)
        assert {layout.given[0] for layout in layouts} == {kind}
        assert set(how) - {3, 4, 7} == NEEDED[epilogue]
        assert how.get(26, kind) == how.get(22, kind) == kind
        assert [at(p, np.dtype(np.float32), 1)[0] for p in (alpha, beta)] == [1, 0]
        for i in range(layouts[2].attributes[5]):
            x, y, out = (Gemm.matrix(p + i * layout.attributes[6] * CUBLAS_TYPES[kind].itemsize, kind, layout.given[3],
                                     *layout.given[1:3]) for p, layout in zip(places, layouts, strict=True))
            x, y = (m.T if how[n] else m for n, m in ((3, x), (4, y)))
            x, y = x.astype(np.float32), y.astype(np.float32)
            vector = at(how[8], CUBLAS_TYPES[kind], out.shape[epilogue == 512]) if 8 in how else np.zeros(1, np.float32)
            made = x @ y + (vector.astype(np.float32)[:, None] if epilogue in (4, 164) else 0)
            if 11 in how:
                assert not how[12] % 8
                assert not how[11] % 16
                assert how[12] >= out.shape[0]
                aux = Gemm.matrix(how[11], kind, how[12], *out.shape)
            if epilogue == 164:
                aux[...], made = made.astype(out.dtype), bias_gelu.gelu(made, 1)
            elif epilogue == 192:
                made *= bias_gelu.gelu_slope(aux.astype(np.float32), 1)
            elif epilogue == 512:
                vector[...] = y.sum(0).astype(vector.dtype)
            out[...] = made.astype(out.dtype)
