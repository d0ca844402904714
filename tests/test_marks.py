"""Marks of stages and steps: who hears them, what they cost nobody, and the clock of an epoch."""

from __future__ import annotations

import threading

import pytest
import torch

from rapids_slr.marks import Clock, heard_by, stage, step

CPU = torch.device("cpu")


@step("double")
def double(x: int, *, times: int = 1) -> int:
    """Twice x."""
    return 2 * x * times


class Listener:
    def __init__(self) -> None:
        self.heard: list[object] = []

    def stage(self, name):
        self.heard.append(name)
        return Clock(CPU).stage(name)

    def step(self, name, function, args, options):
        self.heard.append((name, args, options, result := function(*args, **options)))
        return result


def test_a_listener_hears_stages_and_steps_and_sees_what_they_are_given():
    listener = Listener()
    with heard_by(listener), stage("outer"):
        assert double(3, times=2) == 12
    assert listener.heard == ["outer", ("double", (3,), {"times": 2}, 12)]


def test_a_marked_function_is_itself_where_nobody_listens():
    with stage("outer"):
        assert double(3) == 6
    assert (double.__name__, double.__doc__) == ("double", "Twice x.")


def test_the_one_who_listened_before_listens_again():
    first, second = Listener(), Listener()
    with heard_by(first):
        with pytest.raises(TypeError), heard_by(second):
            double(double(1), none=True)  # type: ignore[call-arg]
        double(2)
        with heard_by(None):
            double(3)
    double(4)
    assert [args for _, args, *_ in second.heard] == [(1,)]  # of a call that fails there is nothing to hear
    assert [args for _, args, *_ in first.heard] == [(2,)]


def test_another_thread_is_not_heard():
    listener = Listener()
    with heard_by(listener):
        thread = threading.Thread(target=double, args=(1,))
        thread.start()
        thread.join()
    assert listener.heard == []


def test_a_clock_counts_a_stage_within_another_to_itself_alone(monkeypatch):
    ticks = iter([0.0, 1.0, 3.0, 7.0, 20.0, 21.0, 22.0, 30.0])
    monkeypatch.setattr("rapids_slr.marks.time.perf_counter", lambda: next(ticks))
    clock = Clock(CPU)
    with heard_by(clock), stage("training"), stage("targets"):
        double(1)  # a step is not timed
    with clock.stage("targets"):
        pass
    assert clock.row() == {"seconds/targets": 5.0, "seconds/training": 15.0, "seconds/epoch": 30.0}
