"""A folder for one process at a time: on one machine, between machines, and where a file system has no locks."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import platform
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from rapids_slr import lock, run
from rapids_slr.errors import InputError
from rapids_slr.lock import held, in_turn
from rapids_slr.record.folder import RunFolder
from rapids_slr.session import RunSession, Session

IN_USE = (
    rf"is in use by process {os.getpid()} on {platform.node()}, or by one that it started; wait for it, stop it, or"
)


@pytest.fixture(autouse=True)
def quick(monkeypatch) -> None:
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(lock, "PATIENCE_SECONDS", 1.0)


def left_by_another_machine(folder: Path) -> Path:
    file = folder / "lock"
    file.write_text(json.dumps({"pid": 77, "host": "far", "machine": "another"}))
    return file


def test_a_folder_is_held_once_and_free_again(tmp_path):
    for _ in range(2):
        with held(tmp_path):
            with pytest.raises(InputError, match=IN_USE), held(tmp_path):
                pass
            assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()
        assert (tmp_path / "lock").read_text() == ""


def test_who_waits_for_a_turn_gets_it_or_says_who_has_it(tmp_path, monkeypatch):
    over = threading.Event()

    def hold() -> None:
        with held(tmp_path):
            holding.set()
            over.wait()

    holding = threading.Event()
    other = threading.Thread(target=hold)
    other.start()
    holding.wait()
    monkeypatch.setattr(lock, "TURN_SECONDS", 0.2)
    with pytest.raises(InputError, match=IN_USE), in_turn(tmp_path):
        pass
    monkeypatch.setattr(lock, "TURN_SECONDS", 60.0)
    threading.Timer(0.2, over.set).start()
    with in_turn(tmp_path):
        assert over.is_set()
        with pytest.raises(InputError, match=IN_USE), held(tmp_path):
            pass
    other.join()


def test_it_is_free_after_an_error(tmp_path):
    with pytest.raises(KeyboardInterrupt), held(tmp_path):
        raise KeyboardInterrupt
    assert (tmp_path / "lock").read_text() == ""


def test_a_kill_leaves_it_free_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "PATIENCE_SECONDS", 600.0)
    script = "import os; from pathlib import Path; from rapids_slr.lock import held\n"
    script += f"with held(Path({str(tmp_path)!r})): os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", script], check=False)
    assert (tmp_path / "lock").read_text()
    start = time.monotonic()
    with held(tmp_path):
        assert time.monotonic() - start < 60


def test_a_living_process_of_another_machine_keeps_it(tmp_path, caplog):
    """Its lock is not seen here, but its signs of life are."""
    file, over = left_by_another_machine(tmp_path), threading.Event()

    def beat() -> None:
        while not over.wait(0.1):
            os.utime(file)

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(InputError, match="is in use by process 77 on far, "), held(tmp_path):
            pass
    finally:
        over.set()
        thread.join()
    assert "names process 77 on far; waiting up to 1 s for a sign of life" in caplog.text
    assert json.loads(file.read_text())["pid"] == 77


@pytest.mark.parametrize("seconds", [0, 5000])
def test_a_dead_process_of_another_machine_does_not(tmp_path, caplog, seconds):
    file = left_by_another_machine(tmp_path)
    os.utime(file, (time.time() - seconds,) * 2)
    with held(tmp_path):
        assert json.loads(file.read_text())["pid"] == os.getpid()
    assert ("waiting" in caplog.text) == (seconds == 0)  # what is old needs no waiting


def test_half_a_line_of_a_killed_process_is_nobody(tmp_path):
    for text in ('{"pid": 7', "[1]", '{"pid": 7}', "null"):
        (tmp_path / "lock").write_text(text)
        with held(tmp_path):
            pass


def test_a_file_system_without_locks_goes_by_signs_of_life(tmp_path, monkeypatch):
    def unknown(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unknown)
    with held(tmp_path), pytest.raises(InputError, match=IN_USE), held(tmp_path):
        pass
    with held(tmp_path):
        pass


def test_a_folder_that_cannot_be_written_says_what_to_do(tmp_path):
    (tmp_path / "lock").mkdir()
    with (
        pytest.raises(Exception, match="lock could not be written: Is a directory; name another folder"),
        held(tmp_path),
    ):
        pass


# Runs -----------------------------------------------------------------------------------------------------------------


def test_no_command_enters_the_folder_of_a_run_that_goes_on(tiny, tmp_path):
    out = tmp_path / "run"
    with RunSession(tiny, out):
        commands = (
            lambda: run.train(tiny, out),
            lambda: run.train(tiny, out, resume=True),
            lambda: run.pretrain(tiny, out, resume=True),
            lambda: run.adapt(tiny, out, resume=True),
            lambda: run.evaluate(tiny, out),
            lambda: Session(tiny, out).__enter__(),
        )
        for command in commands:
            with pytest.raises(InputError, match=IN_USE):
                command()
    RunFolder(out).check(tiny)  # nothing was begun


def test_two_runs_of_one_second_get_a_folder_each(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rapids_slr.files.time.strftime", lambda _: "now")
    with RunSession(tiny) as first, RunSession(tiny) as second:
        assert [session.folder.path for session in (first, second)] == [Path("runs/tiny-now"), Path("runs/tiny-now-2")]
        assert (second.folder.path / "spec.yaml").exists()


def test_what_another_command_began_in_between_is_seen(tiny, tmp_path):
    waiting = RunSession(tiny, tmp_path / "run")  # found the folder free
    with RunSession(tiny, tmp_path / "run") as other:
        other.folder.save_checkpoint({"epoch": 1})
    with pytest.raises(InputError, match="already holds a run; go on with --resume"):
        waiting.__enter__()


def test_a_folder_with_a_lock_alone_may_be_used(tiny, tmp_path):
    (tmp_path / "lock").touch()
    RunFolder(tmp_path).check(tiny)
    (tmp_path / "letter.txt").touch()
    with pytest.raises(InputError, match="exists and is not a run folder"):
        RunFolder(tmp_path).check(tiny)
