"""Signals that wait until a run has saved."""

from __future__ import annotations

import signal

import pytest

from ufbert.system.interruption import Interruption


def test_further_sigterms_do_not_disturb_what_the_first_one_asked_for(capfd: pytest.CaptureFixture[str]) -> None:
    with Interruption("stopping") as interruption:
        assert not interruption.requested
        for _ in range(3):
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
    assert interruption.received is signal.SIGTERM
    assert capfd.readouterr().err == "stopping\n"


def test_a_second_ctrl_c_stops_at_once() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with Interruption() as interruption:
        signal.raise_signal(signal.SIGINT)
        assert interruption.received is signal.SIGINT
        signal.raise_signal(signal.SIGTERM)  # torchrun's, after the terminal's Ctrl-C
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_what_was_held_back_is_done_after_the_block() -> None:
    with Interruption() as interruption:
        pass
    interruption.obey()  # nothing came
    with Interruption() as interruption:
        signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        interruption.obey()
    done: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: done.append(number))
    try:
        with Interruption() as interruption:
            signal.raise_signal(signal.SIGTERM)
        assert not done
        interruption.obey()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert done == [signal.SIGTERM]
