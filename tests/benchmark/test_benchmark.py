"""The benchmark's parts: settings, path statistics, references, checks, fair timing, comparison."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any

import numpy as np
import pytest
import torch
from benchmark_figures import LIMITS, figure

from ufbert.benchmark.layer import conditional, dense, roster
from ufbert.benchmark.layer.capacity import affordable_layers
from ufbert.benchmark.layer.checking import Checker
from ufbert.benchmark.layer.implementations import Implementation, Situation
from ufbert.benchmark.layer.operands import (
    INT8,
    DenseWeights,
    Pool,
    TreeWeights,
    draw_dense,
    draw_inputs,
    draw_trees,
    operand_dtype,
)  # fmt: skip
from ufbert.benchmark.layer.paths import path_statistics
from ufbert.benchmark.layer.pool import draw_pool
from ufbert.benchmark.layer.reference import check_output, dense_rows, near_tie, route, walk_rows
from ufbert.benchmark.layer.reference_gradients import check_training, dense_gradients, tree_gradients
from ufbert.benchmark.layer.roster import available
from ufbert.benchmark.layer.run import LayerBenchmark
from ufbert.benchmark.report.results import compare
from ufbert.benchmark.settings import BenchmarkSettings, Shape
from ufbert.benchmark.timing import Threads, TimeBudget
from ufbert.cmm.leaf_use import entropy_bits, expected_distinct, leaf_counts, right_shares
from ufbert.cmm.tree import descend
from ufbert.errors import ConfigError
from ufbert.inference.engine.linear import multiplied_as
from ufbert.model.fff import masked_dense_fff
from ufbert.numba_kernels import blas_levels

CPU = torch.device("cpu")
# Not timed here: compilation takes seconds.
COMPILED = ("torch-compiled", "torch-autotuned", "torch-compiled-tf32", "torch-autotuned-tf32")


def tiny(**options: Any) -> BenchmarkSettings:
    given: dict[str, Any] = {
        "hidden_size": 16, "depth": 3, "batches": "1,8", "layers": 2, "threads": 1, "seconds": 0.2, "dtypes": "float32",
    }  # fmt: skip
    return BenchmarkSettings.from_options(**{**given, **options})


def trees(hidden: int = 16, number: int = 2, depth: int = 3, dtype: torch.dtype = torch.float32) -> TreeWeights:
    return draw_trees(hidden, number, depth, 0, dtype, CPU)


class TestSettings:
    def test_the_default_is_the_papers_layer_against_as_many_dense_neurons(self) -> None:
        settings = BenchmarkSettings.from_options()
        assert settings.shape == Shape(hidden_size=768, trees=1, depth=11, intermediate_size=4095)
        assert settings.shape.bound == 341.25
        assert settings.threads >= 1

    def test_gpt3_is_the_source_articles(self) -> None:
        shape = BenchmarkSettings.from_options(preset="gpt3").shape
        assert (shape.hidden_size, shape.intermediate_size) == (12288, 49152)
        assert (shape.neurons_available, shape.neurons_visited) == (65535, 16)

    def test_options_change_a_preset_and_the_dense_layer_follows_the_trees(self) -> None:
        shape = BenchmarkSettings.from_options(preset="gpt3", depth=3, trees=2).shape
        assert (shape.intermediate_size, shape.neurons_visited) == (30, 8)

    def test_shared_neurons_are_visited_and_the_dense_layer_has_as_many(self) -> None:
        shape = BenchmarkSettings.from_options(hidden_size=384, trees=12, depth=6, shared_neurons=64).shape
        assert (shape.neurons_available, shape.neurons_visited) == (12 * 127 + 64, 12 * 7 + 64)
        assert shape.intermediate_size == shape.neurons_available
        assert shape.name == "12x6+64"
        assert BenchmarkSettings.from_options(shared_neurons=9).shape.intermediate_size == 4095 + 9

    def test_batches_are_sorted_and_counted_once(self) -> None:
        assert BenchmarkSettings.from_options(batches="32, 1,32").batches == (1, 32)

    @pytest.mark.parametrize(
        ("options", "text"),
        [
            ({"preset": "bert"}, "unknown preset 'bert'; known: bert-base, bert-large, gpt3"),
            ({"batches": "1,x"}, "--batch takes whole numbers separated by commas, not 'x'"),
            ({"batches": "0"}, "--batch takes whole numbers of at least 1"),
            ({"dtypes": "float16"}, "--dtype takes float32, bfloat16 and int8, not 'float16'"),
            ({"dtypes": "int8", "direction": "training"}, "--dtype takes float32 and bfloat16, not 'int8'"),
            ({"depth": 40}, "the largest depth is 31"),
            ({"seconds": 0.0}, "--seconds must be above 0"),
            ({"shared_neurons": -1}, "--shared must be at least 0, not -1"),
            ({"subject": "encoder", "direction": "training"}, "--direction belongs to `bench layer`"),
            ({"key_value_heads": 3}, "--key-value-heads belongs to `bench encoder`"),
            ({"subject": "encoder", "key_value_heads": 5}, "--key-value-heads 5 must divide 12 attention heads"),
            ({"subject": "encoder", "hidden_size": 100}, "--hidden-size 100 is no multiple of 12 attention heads"),
        ],
    )
    def test_bad_values_say_what_is_wrong(self, options: dict[str, Any], text: str) -> None:
        with pytest.raises(ConfigError, match=re.escape(text)):
            BenchmarkSettings.from_options(**options)


class TestPaths:
    def test_one_path_is_recognised_as_one(self) -> None:
        leaves = np.full((100, 1), 7)  # the leftmost of depth 3
        found = path_statistics(leaves, 3, (10,))
        assert found["distinct_leaves"] == 1
        assert found["entropy_bits"] == 0
        assert found["largest_leaf_share"] == 1
        assert found["right_share_by_level"] == [0, 0, 0]
        assert found["batches"][0]["distinct_leaves"] == 1
        assert found["batches"][0]["expected_distinct_leaves"] == pytest.approx(8 * (1 - (7 / 8) ** 10))

    def test_uniform_use_is_recognised(self) -> None:
        leaves = np.tile(np.arange(7, 15), 50)[:, None]
        found = path_statistics(leaves, 3, (4, 8))
        assert found["distinct_leaves"] == found["leaves_per_tree"] == 8
        assert found["entropy_bits"] == pytest.approx(3)
        assert found["right_share_by_level"] == [0.5, 0.5, 0.5]
        assert [b["distinct_leaves"] for b in found["batches"]] == [4, 8]

    def test_figures_of_several_trees_are_means(self) -> None:
        leaves = np.stack([np.full(80, 7), np.tile(np.arange(7, 15), 10)], axis=1)
        found = path_statistics(leaves, 3, ())
        assert found["distinct_leaves"] == 4.5
        assert found["entropy_bits"] == pytest.approx(1.5)

    def test_levels_are_counted_from_the_root(self) -> None:
        leaves = np.array([[12], [14]])  # right-left-right and right-right-right
        assert right_shares(leaf_counts(leaves, 3)) == [1.0, 0.5, 1.0]

    def test_a_tree_of_one_node_has_one_leaf(self) -> None:
        found = path_statistics(np.zeros((5, 3), np.int64), 0, (2,))
        assert found["distinct_leaves"] == found["expected_distinct_leaves"] == 1
        assert found["right_share_by_level"] == []

    def test_expectation_and_entropy(self) -> None:
        assert expected_distinct(2048, 1) == pytest.approx(1)
        assert expected_distinct(2048, 10**6) == pytest.approx(2048)
        assert entropy_bits(np.array([1, 1, 2, 0])) == pytest.approx(1.5)

    def test_random_inputs_reach_as_many_leaves_as_random_choices(self) -> None:
        weights = draw_trees(64, 1, 7, 0, torch.float32, CPU)
        leaves = route(draw_inputs(1000, 64, 1, torch.float32, CPU), weights).numpy()
        found = path_statistics(leaves, 7, (100,))
        assert found["distinct_leaves"] == pytest.approx(found["expected_distinct_leaves"], rel=0.1)
        assert found["entropy_bits"] == pytest.approx(found["expected_entropy_bits"], rel=0.05)


class TestReference:
    def test_walk_is_the_definition(self) -> None:
        weights = trees()
        x = draw_inputs(20, 16, 1, torch.float32, CPU)
        y, logits, leaves = descend(*(t.double().numpy() for t in (x, weights.w_in, weights.b_in, weights.w_out)))
        walk = walk_rows(x, weights)
        np.testing.assert_allclose(walk.y.numpy(), y, rtol=1e-10, atol=1e-12)
        np.testing.assert_array_equal(walk.leaves.numpy(), leaves)
        np.testing.assert_array_equal(route(x, weights).numpy(), leaves)
        closest = np.abs(logits[:, :, :-1]).min(axis=(1, 2)).argmin()
        assert walk.margin.argmin() == closest or walk.margin[closest] < 2 * walk.margin.min()

    def test_dense_is_linear_gelu_linear(self) -> None:
        weights = draw_dense(16, 600, 0, torch.float32, CPU)
        x = draw_inputs(5, 16, 1, torch.float32, CPU)
        wide = [t.double() for t in (weights.w_in, weights.b_in, weights.w_out)]
        torch.testing.assert_close(dense_rows(x, weights), dense.linear_gelu_linear(x.double(), *wide))

    def test_gradients_of_trees_are_those_of_autograd(self) -> None:
        weights = trees(dtype=torch.float64)
        x, g = (draw_inputs(30, 16, seed, torch.float64, CPU) for seed in (1, 2))
        results = by_autograd(masked_dense_fff, x, g, weights)
        assert check_training(results, tree_gradients(x, g, weights), torch.float32).error < 1e-12

    def test_shared_neurons_add_their_dense_layer(self) -> None:
        weights = draw_trees(16, 2, 3, 0, torch.float64, CPU, 6)
        assert weights.shared is not None
        assert len(weights.tensors) == 6
        x, g = (draw_inputs(30, 16, seed, torch.float64, CPU) for seed in (1, 2))
        alone = dataclasses.replace(weights, shared=None)
        beside = dense.linear_gelu_linear(x, *weights.shared.tensors)
        torch.testing.assert_close(walk_rows(x, weights).y, walk_rows(x, alone).y + beside)
        results = by_autograd(conditional.beside_shared(masked_dense_fff), x, g, weights)
        wanted = tree_gradients(x, g, weights)
        assert check_training(results, wanted, torch.float32).error < 1e-12
        names = ("grad_w_in (shared)", "grad_b_in (shared)", "grad_w_out (shared)")
        for number, name in enumerate(names, start=5):
            damaged = list(results)
            damaged[number] = damaged[number] * 1.01
            failure = check_training(tuple(damaged), wanted, torch.float32).failure
            assert failure.startswith(f"{name} is off by 0.01")

    def test_gradients_of_dense_layers_are_those_of_autograd(self) -> None:
        weights = draw_dense(16, 700, 0, torch.float64, CPU)
        x, g = (draw_inputs(50, 16, seed, torch.float64, CPU) for seed in (1, 2))
        results = by_autograd(dense.linear_gelu_linear, x, g, weights)
        assert check_training(results, dense_gradients(x, g, weights), torch.float32).error < 1e-12

    @pytest.mark.parametrize("index", range(5))
    def test_one_wrong_gradient_is_found(self, index: int) -> None:
        weights = trees()
        x, g = (draw_inputs(30, 16, seed, torch.float32, CPU) for seed in (1, 2))
        results = list(by_autograd(masked_dense_fff, x, g, weights))
        results[index] = results[index] * 1.01
        names = ("y", "grad_x", "grad_w_in", "grad_b_in", "grad_w_out")
        assert check_training(tuple(results), tree_gradients(x, g, weights), torch.float32).failure.startswith(
            f"{names[index]} is off by 0.01"
        )

    def test_a_gradient_at_an_unvisited_neuron_is_found(self) -> None:
        weights = trees()
        x, g = (draw_inputs(1, 16, seed, torch.float32, CPU) for seed in (1, 2))
        results = by_autograd(masked_dense_fff, x, g, weights)
        unvisited = int((results[2][0].norm(dim=1) == 0).nonzero()[0])
        results[2][0, unvisited, 3] = 1.0
        assert "grad_w_in is off" in check_training(results, tree_gradients(x, g, weights), torch.float32).failure


def by_autograd(function: Any, x: torch.Tensor, g: torch.Tensor, weights: Any) -> tuple[torch.Tensor, ...]:
    leaves = [t.clone().requires_grad_() for t in (x, *weights.tensors)]
    y = function(*leaves)
    return (y.detach(), *torch.autograd.grad(y, leaves, g))


class TestCheck:
    def test_a_right_result_passes(self) -> None:
        expected = draw_inputs(10, 16, 0, torch.float64, CPU)
        found = check_output(expected.float(), expected, torch.float32)
        assert not found.failure
        assert found.error < 1e-6

    @pytest.mark.parametrize("damage", ["scaled", "nan", "swapped", "shape"])
    def test_a_wrong_result_does_not(self, damage: str) -> None:
        expected = draw_inputs(10, 16, 0, torch.float64, CPU)
        y = expected.clone()
        if damage == "scaled":
            y[4] *= 1.001
        elif damage == "nan":
            y[4, 2] = math.nan
        elif damage == "swapped":
            y[[3, 4]] = y[[4, 3]]
        else:
            y = y[:9]
        assert check_output(y, expected, torch.float32).failure

    def test_a_token_may_go_another_way_only_near_a_tie(self) -> None:
        expected = draw_inputs(100, 16, 0, torch.float64, CPU)
        y = expected.clone()
        y[7] += 1.0
        margin = torch.full((100,), 1e9, dtype=torch.float64)
        assert "1 of 100 tokens differ" in check_output(y, expected, torch.float32, margin).failure
        margin[7] = 0.5
        found = check_output(y, expected, torch.float32, margin)
        assert not found.failure
        assert found.diverted == 1
        assert found.error == 0

    def test_too_many_diverted_tokens_are_no_rounding(self) -> None:
        expected = draw_inputs(100, 16, 0, torch.float64, CPU)
        found = check_output(expected + 1.0, expected, torch.float32, torch.zeros(100, dtype=torch.float64))
        assert found.failure == "100 of 100 tokens took another path than the reference"

    def test_training_pools_begin_without_near_ties(self) -> None:
        settings = tiny(direction="training", batches="64", hidden_size=32, depth=5)
        weights = draw_trees(32, 1, 5, 0, torch.bfloat16, CPU)
        plain = draw_inputs(4096, 32, settings.seed + 1, torch.bfloat16, CPU)
        assert near_tie(walk_rows(plain[:64], weights).margin, 32, torch.bfloat16).any()
        pool = draw_pool(settings, weights, torch.bfloat16, CPU)
        assert not near_tie(walk_rows(pool.x[:64], weights).margin, 32, torch.bfloat16).any()
        assert torch.equal(pool.x.double().sum(0).sort().values, plain.double().sum(0).sort().values)


def everything() -> list[tuple[Implementation, str, str]]:
    found = []
    for implementation in (*dense.DENSE, *conditional.CONDITIONAL):
        for direction in implementation.directions:
            found += [
                (implementation, direction, d) for d in implementation.dtypes if implementation.name not in COMPILED
            ]
    return found


class TestImplementations:
    @pytest.mark.parametrize(
        ("implementation", "direction", "dtype"), everything(), ids=lambda v: getattr(v, "name", v)
    )
    @pytest.mark.parametrize("shape", [(16, 1, 3, 0), (24, 3, 2, 0), (16, 5, 0, 0), (16, 2, 2, 6)], ids=str)
    def test_all_are_right(
        self, implementation: Implementation, direction: str, dtype: str, shape: tuple[int, int, int, int]
    ) -> None:
        if reason := implementation.missing():
            pytest.skip(reason)
        hidden, number, depth, shared = shape
        kind = operand_dtype(dtype)
        if (shared > 0) not in implementation.timed_with:
            pytest.skip("not timed with shared neurons" if shared else "timed with shared neurons only")
        if implementation.name in ("onednn-prepacked", "path-onednn") and multiplied_as(kind) != kind:
            pytest.skip("oneDNN packs no bfloat16 on this processor")
        tokens = 9
        settings = tiny(hidden_size=hidden, trees=number, depth=depth, direction=direction, batches=str(tokens))
        layer, role = implementation.layer, implementation.role
        weights: Any
        if layer == "ff":
            weights = draw_dense(hidden, settings.shape.intermediate_size, 0, kind, CPU)
        else:
            weights = draw_trees(hidden, number, depth, 0, kind, CPU, shared)
        pool = draw_pool(settings, weights, kind, CPU)
        situation = Situation(device=CPU, dtype=kind, int8=dtype == INT8, batch=tokens, threads=2, direction=direction)
        with torch.inference_mode(direction == "forward"):
            function = implementation.prepare(weights, situation)
            checker = Checker(
                {(layer, role): [weights]}, pool, kind, training=direction == "training", int8=dtype == INT8
            )
            given = implementation.convert(next(pool.batches(tokens)))
            found = checker.check(implementation, implementation.restore(function(given)), tokens)
        assert found.failure == ""

    def test_unknown_names_list_the_known_ones(self) -> None:
        with pytest.raises(ConfigError, match=r"unknown implementation 'ours'; known: .*torch-eager.*ufbert"):
            available(CPU, "float32", "forward", ("ours",))

    def test_a_name_can_be_limited_to_one_of_the_layers(self) -> None:
        chosen, _ = available(CPU, "float32", "forward", ("ff/torch-bmm", "ufbert"))
        assert [(i.layer, i.name) for i in chosen] == [("ff", "torch-bmm"), ("fff", "ufbert")]

    def test_what_is_not_there_says_why(self) -> None:
        chosen, absent = available(CPU, "bfloat16", "forward", ("blas-gemm", "torch-eager"))
        assert [i.name for i in chosen] == ["torch-eager"]
        assert [(a.implementation, a.reason) for a in absent] == [("blas-gemm", "has no bfloat16")]

    def test_blas_kernels_refuse_what_does_not_fit(self) -> None:
        x = np.zeros((2, 8), np.float32)
        w, b = np.zeros((3, 8), np.float32), np.zeros(3, np.float32)
        with pytest.raises(TypeError, match="w_in must be contiguous float32"):
            blas_levels.dense_level_1(x, w.astype(np.float64), b, w)
        with pytest.raises(ValueError, match="do not fit together"):
            blas_levels.dense_level_2(x, w, b[:2], w)
        with pytest.raises(ValueError, match="do not fit together"):
            blas_levels.conditional_level_1(x[:, :4].copy(), w[None], b[None], w[None])


class TestComparison:
    def test_speedups_are_against_the_fastest_dense_of_the_same_kind(self) -> None:
        ours = figure("fff", "ufbert", 2.0)
        same = figure("fff", "torch-bmm", 10.0)
        cycled = figure("fff", "ufbert", 4.0, weights="cycled")
        results = [
            figure("ff", "torch-eager", 20.0), figure("ff", "torch-bmm", 50.0),
            figure("ff", "path-eager", 1.0, role="control"), figure("ff", "torch-eager", 24.0, weights="cycled"),
            ours, same, cycled,
        ]  # fmt: skip
        compare(results)
        assert ours.fastest_dense == "torch-eager"  # not the control
        assert ours.speedup_over_dense == pytest.approx(10)
        assert ours.share_of_bound == pytest.approx(10 / (15 / 4))
        assert ours.speedup_over_same_method is None
        assert same.speedup_over_same_method == pytest.approx(5)
        assert cycled.speedup_over_dense == pytest.approx(6)

    def test_without_a_dense_layer_there_is_no_speedup(self) -> None:
        ours = figure("fff", "ufbert", 2.0)
        compare([ours])
        assert ours.speedup_over_dense is None


class TestLayer:
    def run(self, settings: BenchmarkSettings) -> LayerBenchmark:
        with Threads(settings.threads) as threads:
            benchmark = LayerBenchmark(settings, CPU, LIMITS, threads, TimeBudget(settings.seconds), lambda _: None)
            benchmark.run()
        return benchmark

    def test_every_figure_is_there_warm_and_cycled(self) -> None:
        found = self.run(tiny(implementations="torch-eager,ufbert,path-ufbert,blas-dot-axpy"))
        keys = {(r.layer, r.implementation, r.batch, r.weights) for r in found.results}
        rows = [
            ("ff", "torch-eager"),
            ("fff", "ufbert"),
            ("fff", "path-ufbert"),
            ("ff", "blas-dot-axpy"),
            ("fff", "blas-dot-axpy"),
        ]
        assert keys == {(*row, batch, kind) for row in rows for batch in (1, 8) for kind in ("warm", "cycled")}
        assert not found.absent
        for result in found.results:
            assert result.microseconds_per_token > 0
            assert result.largest_error < 1e-4
            assert result.layers == (1 if result.weights == "warm" else 2)
            assert result.timed_tokens <= result.batch
        control = next(r for r in found.results if r.implementation == "path-ufbert")
        assert (control.trees, control.depth, control.neurons) == (4, 0, 4)

    def test_a_wrong_kernel_is_never_timed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        called: list[int] = []

        def prepare(weights: TreeWeights, situation: Situation) -> Any:
            right = conditional.layer(weights, situation)

            def wrong(x: torch.Tensor) -> torch.Tensor:
                called.append(len(x))
                y: torch.Tensor = right(x).clone()
                y[-1, 0] += 0.1
                return y

            return wrong

        broken = tuple(
            dataclasses.replace(i, prepare=prepare) if i.name == "ufbert" else i for i in conditional.CONDITIONAL
        )
        monkeypatch.setattr(roster, "CONDITIONAL", broken)
        found = self.run(tiny(implementations="torch-eager,ufbert"))
        assert {r.implementation for r in found.results} == {"torch-eager"}
        assert [(a.implementation, a.wrong) for a in found.absent] == [("ufbert", True)] * 2
        assert "differ from the float64 reference" in found.absent[0].reason
        assert called == [1, 8]  # the checks alone

    def test_a_failing_implementation_is_named_and_the_others_go_on(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def prepare(*_: Any) -> Any:
            raise RuntimeError("no compiler\nwith a long story")

        broken = tuple(dataclasses.replace(i, prepare=prepare) if i.name == "torch-eager" else i for i in dense.DENSE)
        monkeypatch.setattr(roster, "DENSE", broken)
        found = self.run(tiny(implementations="torch-eager,ufbert", batches="8"))
        assert {r.implementation for r in found.results} == {"ufbert"}
        assert [(a.reason, a.wrong) for a in found.absent] == [("batch 8: failed: no compiler", False)]

    def test_copies_that_do_not_fit_are_not_made(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("ufbert.benchmark.layer.capacity.available_memory", lambda: 1000)
        found = self.run(tiny(implementations="blas-gemv", batches="8"))
        assert {r.layer for r in found.results} == {"fff"}
        assert "its copies of weights take" in found.absent[0].reason

    def test_gathered_rows_that_do_not_fit_are_not_gathered(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("ufbert.benchmark.layer.capacity.available_memory", lambda: 100_000)
        found = self.run(tiny(implementations="fff/torch-bmm", batches="8,1000"))
        assert {r.batch for r in found.results} == {8}
        assert found.absent[0].reason.startswith("batch 1000: its copies of weights take")

    def test_the_cycle_shrinks_to_what_fits(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("ufbert.benchmark.layer.capacity.physical_memory", lambda: 24 << 30)
        assert affordable_layers(BenchmarkSettings.from_options(), CPU) == 12
        assert affordable_layers(BenchmarkSettings.from_options(preset="gpt3"), CPU) == 1

    def test_training_times_forward_and_backward(self) -> None:
        found = self.run(
            tiny(direction="training", implementations="torch-eager,ufbert,ufbert-kernel,torch-masked", batches="16")
        )
        assert {r.implementation for r in found.results} == {"torch-eager", "ufbert", "ufbert-kernel", "torch-masked"}
        assert {r.direction for r in found.results} == {"training"}
        assert not found.absent

    def test_inputs_of_consecutive_calls_differ(self) -> None:
        pool = Pool(draw_inputs(100, 4, 0, torch.float32, CPU), None)
        batches = list(pool.batches(8))
        assert len(batches) == 12
        assert len({tuple(b.flatten().tolist()) for b in batches}) == 12

    def test_weights_of_layers_differ_and_seeds_repeat(self) -> None:
        first, again, other = (draw_dense(8, 4, seed, torch.float32, CPU) for seed in (0, 0, 4))
        assert isinstance(first, DenseWeights)
        assert torch.equal(first.w_in, again.w_in)
        assert not torch.equal(first.w_in, other.w_in)
