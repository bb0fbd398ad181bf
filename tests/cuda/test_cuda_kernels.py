"""The kernels' arithmetic and memory accesses, run on the CPU by the emulator beside this file.

The launches are those of `ufbert.cuda.launcher`, to the argument; only the processor is another. Reads and writes
outside an array, misaligned accesses and barriers that diverge end the emulator (sanitizers). All outputs and
scratch memory start as NaN.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pytest
from cuda_emulator import Array, Emulator, Floats, Memory, decode, encode, storage

from ufbert.cmm.tree import descend
from ufbert.cuda import launcher, naive, plan

TOLERANCE = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 1e-2}


@dataclass
class Case:
    """A layer and its input, in the values that the storage format holds exactly."""

    tokens: int
    hidden: int
    trees: int
    depth: int
    dtype: str
    offset: int = 0
    """Bytes by which x is off its alignment."""
    lean: float = 0.0
    """Added to the biases: positive makes tokens crowd in the right subtrees."""
    x: Array = field(init=False)
    grad_y: Array = field(init=False)
    w_in: Array = field(init=False)
    b_in: Array = field(init=False)
    w_out: Array = field(init=False)

    def __post_init__(self) -> None:
        random = np.random.default_rng(7)
        weights = (self.trees, 2 ** (self.depth + 1) - 1, self.hidden)
        scale = 1.0 / math.sqrt(self.hidden)
        self.x = encode(random.standard_normal((self.tokens, self.hidden)), self.dtype)
        self.grad_y = encode(random.standard_normal((self.tokens, self.hidden)), self.dtype)
        self.w_in = encode(random.standard_normal(weights) * scale, self.dtype)
        self.b_in = encode(random.standard_normal(weights[:2]) * 0.1 + self.lean, self.dtype)
        self.w_out = encode(random.standard_normal(weights), self.dtype)

    @property
    def sizes(self) -> dict[str, int]:
        return {"tokens": self.tokens, "hidden": self.hidden, "trees": self.trees, "depth": self.depth}

    def decoded(self, *names: str) -> list[Floats]:
        return [decode(getattr(self, name), self.dtype) for name in names]

    def forward(self, emulator: Emulator, backwards: bool = False) -> tuple[Array, Array, Array]:
        """y as stored, logits, leaves."""
        memory = Memory()
        bytes_ = storage(self.dtype).itemsize
        outputs = {
            "y": memory.poisoned(self.x.size * bytes_),
            "logits": memory.poisoned(self.tokens * self.trees * (self.depth + 1) * 4),
            "leaves": memory.poisoned(self.tokens * self.trees * 8),
        }
        layout, launches = launcher.forward_launches(
            x=memory.put(self.x, self.offset), w_in=memory.put(self.w_in), b_in=memory.put(self.b_in),
            w_out=memory.put(self.w_out), **outputs, **self.sizes, dtype=self.dtype,
        )  # fmt: skip
        emulator.run(layout, launches, memory, backwards)
        return (
            memory.get(outputs["y"], storage(self.dtype), self.tokens, self.hidden),
            memory.get(outputs["logits"], np.float32, self.tokens, self.trees, self.depth + 1),
            memory.get(outputs["leaves"], np.int64, self.tokens, self.trees),
        )

    def naive_forward(self, emulator: Emulator) -> Array:
        """y of the baseline, as stored."""
        memory = Memory()
        y = memory.poisoned(self.x.size * storage(self.dtype).itemsize)
        layout, launches = naive.forward_launches(
            x=memory.put(self.x, self.offset), w_in=memory.put(self.w_in), b_in=memory.put(self.b_in),
            w_out=memory.put(self.w_out), y=y,
            sums=y if self.dtype == "float32" else memory.poisoned(self.x.size * 4), **self.sizes, dtype=self.dtype,
        )  # fmt: skip
        emulator.run(layout, launches, memory)
        return memory.get(y, storage(self.dtype), self.tokens, self.hidden)

    def backward(
        self, emulator: Emulator, logits: Array, leaves: npt.NDArray[np.int64], backwards: bool = False
    ) -> dict[str, Array]:
        """The four gradients as stored."""
        first = 2**self.depth - 1
        order = np.argsort(leaves, axis=0, kind="stable").T
        starts = [np.searchsorted(leaves[order[p], p], np.arange(first, 2 * first + 2)) for p in range(self.trees)]
        memory = Memory()
        bytes_ = storage(self.dtype).itemsize
        shapes = {
            "grad_x": self.x.shape, "grad_w_in": self.w_in.shape, "grad_b_in": self.b_in.shape,
            "grad_w_out": self.w_out.shape,
        }  # fmt: skip
        outputs = {name: memory.poisoned(math.prod(shape) * bytes_) for name, shape in shapes.items()}
        layout, launches = launcher.backward_launches(
            grad_y=memory.put(self.grad_y), x=memory.put(self.x, self.offset), w_in=memory.put(self.w_in),
            w_out=memory.put(self.w_out), logits=memory.put(logits), leaves=memory.put(leaves),
            order=memory.put(np.ascontiguousarray(order, np.int64)),
            leaf_starts=memory.put(np.array(starts, np.int64)),
            workspace=memory.poisoned(launcher.backward_workspace(**self.sizes)),
            **outputs, **self.sizes, dtype=self.dtype,
        )  # fmt: skip
        emulator.run(layout, launches, memory, backwards)
        return {name: memory.get(outputs[name], storage(self.dtype), *shape) for name, shape in shapes.items()}

    def reference_gradients(self, logits: Floats, leaves: npt.NDArray[np.int64]) -> dict[str, Floats]:
        """The chain rule, node by node, in float64."""
        x, g, w_in, w_out = self.decoded("x", "grad_y", "w_in", "w_out")
        result = {
            "grad_x": np.zeros_like(x), "grad_w_in": np.zeros_like(w_in),
            "grad_b_in": np.zeros(w_in.shape[:2]), "grad_w_out": np.zeros_like(w_out),
        }  # fmt: skip
        for t, p, level in np.ndindex(self.tokens, self.trees, self.depth + 1):
            s = float(logits[t, p, level])
            node = ((int(leaves[t, p]) + 1) >> (self.depth - level)) - 1
            distribution = 0.5 * (1.0 + math.erf(s / math.sqrt(2.0)))
            slope = distribution + s * math.exp(-0.5 * s * s) / math.sqrt(2.0 * math.pi)
            ds = slope * float(g[t] @ w_out[p, node])
            result["grad_x"][t] += ds * w_in[p, node]
            result["grad_w_in"][p, node] += ds * x[t]
            result["grad_b_in"][p, node] += ds
            result["grad_w_out"][p, node] += s * distribution * g[t]
        return result


CASES = [
    pytest.param(Case(9, 33, 2, 3, "float32"), id="odd-hidden-scalar-loads"),
    pytest.param(Case(150, 132, 1, 4, "float32", lean=0.5), id="partial-chunk-and-three-tiles"),
    pytest.param(Case(140, 8, 2, 4, "bfloat16", lean=-0.2), id="runs-across-tiles"),
    pytest.param(Case(3, 1100, 2, 1, "float16"), id="two-warps-to-a-token"),
    pytest.param(Case(130, 1, 5, 0, "float32"), id="dense-layer-of-one-column"),
    pytest.param(Case(20, 8, 2, 4, "bfloat16", offset=2), id="misaligned-input"),
]


def relative_error(value: Floats, reference: Floats) -> float:
    return float(np.linalg.norm(value - reference)) / max(float(np.linalg.norm(reference)), 1e-30)


@pytest.mark.parametrize("case", CASES)
def test_forward_is_the_reference_descent(emulator: Emulator, case: Case) -> None:
    y, logits, leaves = case.forward(emulator)
    expected_y, expected_logits, expected_leaves = descend(*case.decoded("x", "w_in", "b_in", "w_out"))
    np.testing.assert_array_equal(leaves, expected_leaves)
    np.testing.assert_allclose(logits, expected_logits, rtol=1e-5, atol=1e-5)
    assert relative_error(decode(y, case.dtype), expected_y) < TOLERANCE[case.dtype]


@pytest.mark.parametrize("case", CASES)
def test_backward_is_the_chain_rule(emulator: Emulator, case: Case) -> None:
    _, logits, leaves = descend(*case.decoded("x", "w_in", "b_in", "w_out"))
    gradients = case.backward(emulator, logits.astype(np.float32), leaves)
    expected = case.reference_gradients(logits, leaves)
    visited = np.zeros(case.b_in.shape, bool)
    for t, p, level in np.ndindex(case.tokens, case.trees, case.depth + 1):
        visited[p, ((leaves[t, p] + 1) >> (case.depth - level)) - 1] = True
    for name, stored in gradients.items():
        values = decode(stored, case.dtype)
        assert relative_error(values, expected[name]) < TOLERANCE[case.dtype], name
        if name != "grad_x":
            assert not values[~visited].any(), f"{name} of unvisited nodes"


@pytest.mark.parametrize("case", [CASES[2], CASES[3]])
def test_results_depend_neither_on_the_order_of_threads_nor_on_the_grid(
    emulator: Emulator, case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second time the last threads go first, and one block does all the work: beyond the largest grid the
    kernels loop."""
    first = case.forward(emulator)
    gradients = case.backward(emulator, *first[1:])
    monkeypatch.setattr(plan, "GRID_LIMIT", 1)
    for one, other in zip(first, case.forward(emulator, backwards=True), strict=True):
        assert one.tobytes() == other.tobytes()
    again = case.backward(emulator, *first[1:], backwards=True)
    for name, values in gradients.items():
        assert values.tobytes() == again[name].tobytes(), name


def test_ties_go_left_and_bad_tokens_stay_alone(emulator: Emulator) -> None:
    """Shares the specialization of the first case. Tokens: all zeros, NaN, infinite, and ordinary ones."""
    case = Case(9, 33, 2, 3, "float32")
    clean_y, _, clean_leaves = case.forward(emulator)
    x = case.x.astype(np.float32)
    x[0], x[1, 5], x[2, 32] = 0.0, np.nan, -np.inf
    case.x = x
    case.b_in = np.zeros_like(case.b_in)
    y, logits, leaves = case.forward(emulator)
    assert not y[0].any()
    assert not logits[0].any()
    assert (leaves[:2] == 7).all()  # the leftmost leaf of a tree of depth 3
    assert (leaves >= 7).all()
    assert (leaves <= 14).all()
    assert not np.isfinite(y[1:3].astype(np.float64)).any()
    case.x = x[3:].copy()
    case.tokens = 6
    alone = case.forward(emulator)
    assert alone[0].tobytes() == y[3:].tobytes()
    assert clean_y.shape == y.shape
    assert clean_leaves.shape == leaves.shape


def test_bfloat16_rounds_to_nearest_even_and_keeps_nan(emulator: Emulator) -> None:
    """Two trees whose roots give 8 * w_out exactly; the other nodes give 0. Shares a specialization."""
    case = Case(1, 8, 2, 4, "bfloat16")
    case.x = np.zeros_like(case.x)
    b_in, w_out = np.zeros(case.b_in.shape), np.zeros(case.w_out.shape)
    b_in[:, 0] = 8.0
    unit = 2.0**-7  # the last place of a bfloat16 between 1 and 2
    sums = [1 + unit / 2, 1 + 1.5 * unit, 1 + 0.4375 * unit, 1 + 0.5625 * unit, np.nan, np.inf, -1 - unit / 2, 0]
    for column, value in enumerate(sums):
        whole = np.trunc(value) if np.isfinite(value) else value
        w_out[0, 0, column], w_out[1, 0, column] = whole / 8, (value - whole) / 8 if np.isfinite(value) else 0.0
    case.b_in, case.w_out = encode(b_in, "bfloat16"), encode(w_out, "bfloat16")
    y, logits, _ = case.forward(emulator)
    assert (logits[0, :, 0] == 8.0).all()
    expected = [1, 1 + 2 * unit, 1, 1 + unit, np.nan, np.inf, -1, 0]
    np.testing.assert_array_equal(decode(y, "bfloat16")[0], expected)


def test_no_tokens_give_zero_weight_gradients(emulator: Emulator) -> None:
    """Shares the specialization of the first case."""
    case = Case(0, 33, 2, 3, "float32")
    y, logits, leaves = case.forward(emulator)
    assert y.size == logits.size == leaves.size == 0
    for name, values in case.backward(emulator, logits, leaves).items():
        assert not values.astype(np.float64).any(), name


def test_preparing_launches_touch_nothing(emulator: Emulator) -> None:
    layout = launcher.forward_launches(
        x=0, w_in=0, b_in=0, w_out=0, y=0, logits=0, leaves=0,
        tokens=0, hidden=33, trees=1, depth=3, dtype="float32",
    )[0]  # fmt: skip
    emulator.run(layout, launcher.idle_launches(layout), Memory())


@pytest.mark.parametrize("case", [CASES[0], CASES[2]])
def test_the_naive_baseline_computes_the_same(emulator: Emulator, case: Case) -> None:
    y = case.naive_forward(emulator)
    expected, _, _ = descend(*case.decoded("x", "w_in", "b_in", "w_out"))
    assert relative_error(decode(y, case.dtype), expected) < TOLERANCE[case.dtype]
