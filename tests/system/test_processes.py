"""Processes that meet before they join: threads stand for them here, and a store in memory for torchrun's."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch.distributed as dist

from ufbert.errors import BackendError, ConfigError
from ufbert.system.processes import MeetingPoint, World


def meeting_points(local_ranks: list[int]) -> list[MeetingPoint]:
    """One for each process, at one store; `local_ranks` by rank."""
    store = dist.HashStore()  # type: ignore[attr-defined]
    points = []
    for rank, local_rank in enumerate(local_ranks):
        point = MeetingPoint(World())  # which opens no store
        point.world, point.store = World(rank, len(local_ranks), local_rank), store
        points.append(point)
    return points


def at_once(*tasks: Callable[[], object]) -> list[object]:
    """What each task gives or raises."""

    def outcome(task: Callable[[], object]) -> object:
        try:
            return task()
        except Exception as error:  # noqa: BLE001  the outcome that is asked for
            return error

    with ThreadPoolExecutor(len(tasks)) as threads:
        return list(threads.map(outcome, tasks))


def test_a_text_is_left_and_taken_and_all_wait_for_all() -> None:
    first, second = meeting_points([0, 1])
    arrived: list[int] = []

    def lead() -> None:
        first.leave("corpus", "folder")
        arrived.append(0)
        first.wait()
        assert len(arrived) == 2

    def follow() -> str:
        text = second.take("corpus")
        arrived.append(1)
        second.wait()
        return text

    assert at_once(lead, follow) == [None, "folder"]


def test_a_failure_ends_the_wait_of_the_others() -> None:
    first, second, third = meeting_points([0, 1, 2])

    def fail() -> None:
        with first.tell_failure():
            raise ConfigError("no such corpus")

    outcomes = at_once(fail, lambda: second.take("corpus"), third.wait)
    assert [type(outcome) for outcome in outcomes] == [ConfigError, BackendError, BackendError]
    assert str(outcomes[1]) == "another process of this run has failed; its message says why"


def test_a_process_alone_meets_nobody() -> None:
    alone = MeetingPoint(World())
    alone.leave("corpus", "folder")
    alone.wait()
    with pytest.raises(ConfigError, match="no such corpus"), alone.tell_failure():
        raise ConfigError("no such corpus")


def test_an_environment_without_an_address_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_USE_AGENT_STORE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(ConfigError, match=r"the 2 processes cannot meet: .*MASTER_ADDR.*; use torchrun$"):
        MeetingPoint(World(0, 2, 0))
