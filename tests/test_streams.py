"""Standard streams that are closed, broken, full, or of a terminal that goes: the exit code is that of the work."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from rapids_slr.cli import main
from rapids_slr.cli.streams import open_descriptors

PROGRAM = f"{sys.executable} -m rapids_slr"


def shell(line: str) -> int:
    return subprocess.run(["bash", "-c", line], capture_output=True, check=False).returncode


@pytest.mark.parametrize(("words", "code"), [("spec show", 0), ("spec show nothing", 2)])
@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-", "2>/dev/full"])
def test_closed_streams_cost_nothing(words, code, closed):
    assert shell(f"{PROGRAM} {words} {closed}") == code


@pytest.mark.parametrize(("words", "code"), [("spec schema", 0), ("--help", 0), ("spec check nothing.yaml", 2)])
def test_a_reader_that_leaves_early_costs_nothing(words, code):
    assert shell(f"{PROGRAM} {words} 2>&1 | true; exit ${{PIPESTATUS[0]}}") == code


def test_a_result_that_finds_no_room_is_a_failure():
    done = subprocess.run(
        ["bash", "-c", f"{PROGRAM} spec show > /dev/full"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (1, "error: [Errno 28] No space left on device\n")


def test_a_file_does_not_become_standard_output(tmp_path):
    """Without a standard output the next file that is opened would get its number, and what is printed."""
    script = "import os; from rapids_slr.cli.streams import open_descriptors; open_descriptors()\n"
    script += f"number = os.open({str(tmp_path / 'data')!r}, os.O_CREAT | os.O_WRONLY); os.write(1, b'x')\n"
    script += "raise SystemExit(number)"
    assert shell(f'{sys.executable} -c "$(cat <<END\n{script}\nEND\n)" <&- >&- 2>&-') == 3
    assert (tmp_path / "data").read_bytes() == b""


def test_no_descriptor_is_left_open():
    before = len(os.listdir("/proc/self/fd"))
    open_descriptors()
    assert len(os.listdir("/proc/self/fd")) == before


def test_streams_are_put_back(capsys):
    streams = sys.stdout, sys.stderr
    assert main(["--version"]) == 0
    assert (sys.stdout, sys.stderr) == streams


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "ascii"])
def test_names_are_printed_in_any_encoding(tmp_path, encoding):
    (tmp_path / "é→.yaml").write_text("data: {target: {synth: {}}, source: {synth: {}}}\n")
    stored = os.fsencode(tmp_path) + b"/\xff.yaml"
    Path(os.fsdecode(stored)).write_text((tmp_path / "é→.yaml").read_text())
    words = [*PROGRAM.split(), "spec", "check", str(tmp_path / "é→.yaml"), stored]
    done = subprocess.run(words, capture_output=True, env={**os.environ, "PYTHONIOENCODING": encoding}, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert stored + b": ok" in done.stdout


# Terminals ------------------------------------------------------------------------------------------------------------

WORK = """
import sys, time
from rapids_slr.cli.options import print_table
from rapids_slr.cli.streams import lasting_streams
from rapids_slr.progress import Progress
with lasting_streams():
    with Progress() as progress, progress.task("work of some length", 100, "images") as task:
        for i in range(20):
            task.advance(1, ce=0.5)
            time.sleep(0.05)
            progress.say("a line that is longer than the terminal will be")
    print_table("title", [{"name": "x" * 30, "number": 3}])
sys.exit(7)
"""


@pytest.mark.parametrize("sizes", [[(0, 0)], [(24, 80), (1, 1), (0, 0)], [(24, 80), None]])
def test_a_terminal_may_shrink_or_go(sizes):
    """None: it is closed."""
    ours, theirs = pty.openpty()

    def resize(rows: int, columns: int) -> None:
        fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    resize(*sizes[0])
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    with subprocess.Popen(
        [sys.executable, "-c", WORK],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**environment, "TERM": "xterm"},
        start_new_session=True,
    ) as process:
        os.close(theirs)
        left, seen = sizes[1:], 0
        while process.poll() is None:
            if select.select([ours], [], [], 0.1)[0]:
                try:
                    seen += len(os.read(ours, 4096))
                except OSError:
                    break  # it has ended
            if seen > 200 and left:
                size, *left = left
                if size is None:
                    os.close(ours)
                    break
                resize(*size)
                time.sleep(0.2)
        assert process.wait() == 7
    if None not in sizes:
        os.close(ours)
