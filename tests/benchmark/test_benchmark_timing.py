"""How the benchmark takes samples: budgets, turns, warm-up, threads."""

from __future__ import annotations

import pytest
import torch

from ufbert.benchmark.timing import Clock, Contestant, Spread, Threads, TimeBudget, calibrate, race

CPU = torch.device("cpu")


class TestTiming:
    def test_contestants_take_turns_on_other_inputs_and_layers(self) -> None:
        heard: list[tuple[str, int, int]] = []

        def contestant(name: str, layers: int) -> Contestant:
            functions = [lambda x, layer=layer: heard.append((name, layer, x)) for layer in range(layers)]
            return Contestant(name, functions, list(range(5)), seconds_per_call=0.01, calls_per_sample=2)

        first, second = contestant("a", 3), contestant("b", 3)
        rounds = race([first, second], Clock(CPU), 0.0)
        assert rounds >= 3
        assert len(first.samples) == len(second.samples) == rounds
        order = [name for name, _, _ in heard]
        assert order == ["a", "a", "b", "b"] * rounds
        of_a = [(layer, x) for name, layer, x in heard if name == "a"]
        assert of_a == [(i % 3, i % 5) for i in range(len(of_a))]

    def test_warm_weights_are_warmed_up_and_not_counted(self) -> None:
        calls: list[int] = []
        contestant = Contestant("a", [calls.append], [0], seconds_per_call=1e-3, calls_per_sample=8)
        rounds = race([contestant], Clock(CPU), 0.0)
        assert len(calls) == rounds * (8 + 8)
        assert len(contestant.samples) == rounds

    def test_before_is_called_before_every_sample(self) -> None:
        count: list[int] = []
        contestant = Contestant("a", [lambda x: x], [0], before=lambda: count.append(1))
        calibrate(contestant, Clock(CPU))
        assert contestant.seconds_per_call > 0
        assert contestant.calls_per_sample > 1
        rounds = race([contestant], Clock(CPU), 0.0)
        assert len(count) == rounds + 1

    def test_spread(self) -> None:
        spread = Spread.of([1.0, 2.0, 3.0, 4.0, 5.0])
        assert (spread.lower, spread.median, spread.upper) == (2.0, 3.0, 4.0)
        assert spread.relative == pytest.approx(2 / 3)

    def test_budget_is_shared_by_weight(self) -> None:
        budget = TimeBudget(100.0)
        assert budget.share(1.0, 4.0) == pytest.approx(25.0, abs=0.5)
        assert TimeBudget(1e-9).share(1.0, 1.0) == 0.0

    def test_threads_are_set_for_all_and_restored(self) -> None:
        from threadpoolctl import threadpool_info

        def blas() -> set[int]:
            return {i["num_threads"] for i in threadpool_info() if i["user_api"] == "blas"}

        before = torch.get_num_threads(), blas()
        with Threads(1) as threads:
            assert torch.get_num_threads() == 1
            assert blas() == {1}
            threads.set_blas(2)
            assert 2 in blas()
        assert (torch.get_num_threads(), blas()) == before
