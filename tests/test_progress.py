"""Progress where there is no terminal, and the little that can be said of one."""

from __future__ import annotations

import io
import time

import pytest

from rapids_slr.progress import LINE_SECONDS, Progress, _duration, _short


class Watch:
    """A clock that moves when it is told to."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return Terminal()


def test_a_line_now_and_then_and_one_at_the_end():
    stream, watch = io.StringIO(), Watch()
    with Progress(stream, watch) as progress, progress.task("epoch 3/50", 400) as task:
        for step in range(400):
            watch.seconds += LINE_SECONDS / 160
            task.advance(images=64, ce=1 / (step + 1), triplet=0.25)
        progress.say("[mAP] 70.1")
    assert stream.getvalue().splitlines() == [
        "epoch 3/50  160/400  1,024 images/s  ce 0.00625  triplet 0.25  15 s left",
        "epoch 3/50  320/400  1,024 images/s  ce 0.00313  triplet 0.25  5.0 s left",
        "[mAP] 70.1",
        "epoch 3/50  400/400  1,024 images/s  ce 0.0025  triplet 0.25  in 25 s",
    ]


def test_a_task_without_images_counts_its_unit():
    stream, watch = io.StringIO(), Watch()
    with Progress(stream, watch).task("reading", 1000, unit="files") as task:
        watch.seconds = 2.0
        task.advance(500)
    assert stream.getvalue() == "reading  500/1000  250 files/s  in 2.0 s\n"


def test_a_task_of_unknown_length_counts_up():
    stream, watch = io.StringIO(), Watch()
    with Progress(stream, watch).task("packing", None, unit="files") as task:
        watch.seconds = LINE_SECONDS
        task.advance(50)
    assert stream.getvalue() == "packing  50  5 files/s\npacking  50  5 files/s  in 10 s\n"


def test_a_task_is_closed_once_and_with_no_step_done():
    stream, watch = io.StringIO(), Watch()
    task = Progress(stream, watch).task("reading", 0)
    watch.seconds = 1.0
    task.close()
    task.close()
    assert stream.getvalue() == "reading  0/0  in 1.0 s\n"


def test_a_brief_task_gets_no_line():
    stream, watch = io.StringIO(), Watch()
    with Progress(stream, watch).task("reading", 5) as task:
        watch.seconds = 0.9
        task.advance(5)
    assert stream.getvalue() == ""


def test_an_error_passes_through_and_leaves_the_state():
    stream, watch = io.StringIO(), Watch()

    def work() -> None:
        with Progress(stream, watch) as progress, progress.task("epoch 1/2", 9) as task:
            watch.seconds = 2.0
            task.advance(3)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert stream.getvalue().startswith("epoch 1/2  3/9")


def test_nothing_goes_to_stdout(capsys):
    with Progress() as progress, progress.task("reading", 1) as task:
        task.advance()
        progress.say("a message")
    written = capsys.readouterr()
    assert written.out == ""
    assert "a message\n" in written.err


def test_a_terminal_gets_a_bar_that_goes_when_it_is_done(terminal):
    with Progress(terminal) as progress:
        with progress.task("epoch 1/2", 4) as task:
            task.advance(2, ce=0.5)
            task._show(progress.now())
            progress._live.refresh()
            progress.say("epoch 1: [mAP] 70.1")
        assert progress._live.tasks == []
    text = terminal.getvalue()
    assert "epoch 1/2" in text
    assert "2/4" in text
    assert "ce 0.5" in text
    assert "epoch 1: [mAP] 70.1" in text
    assert text.count("\n") < 20


def test_results_go_to_stdout_while_bars_are_live(terminal, capsys):
    with Progress(terminal) as progress, progress.task("epoch 1/2", 4):
        print("a result")
    assert capsys.readouterr().out == "a result\n"
    assert "a result" not in terminal.getvalue()


def test_advancing_is_cheap(terminal):
    """Some thousand steps a second must not be felt; a redraw at every step would take a hundred times as long."""
    with Progress(terminal) as progress, progress.task("steps", 20_000) as task:
        started = time.process_time()
        for _ in range(20_000):
            task.advance(1, images=64, ce=0.5)
        assert (time.process_time() - started) / 20_000 < 2e-5


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (0.71234, "0.712"), (123.4, "123"), (1234.5, "1,234"), (1e-5, "1e-05"), (3.2e8, "3.2e+08")],
)
def test_numbers_are_short(value, text):
    assert _short(value) == text


@pytest.mark.parametrize(("seconds", "text"), [(0.04, "0.0 s"), (59, "59 s"), (61, "1:01 min"), (3723, "1:02:03 h")])
def test_durations_are_short(seconds, text):
    assert _duration(seconds) == text
