"""Files: whole or absent, through links and into devices, never over what a command reads; and the disk that fails."""

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from rapids_slr import disk, run
from rapids_slr.cli import main
from rapids_slr.errors import InputError, RunError
from rapids_slr.files import append_line, check_output, fresh_folder, write_atomically, write_text
from rapids_slr.record.folder import RunFolder
from rapids_slr.settings.specfile import dump_spec

WRITES = ("make_folders", "fill", "settle", "rename", "append")
"""Calls of the disk that a run makes."""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


# Links, devices, pipes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("there", [True, False])
def test_a_link_is_followed(here, there):
    (here / "far").mkdir()
    (here / "link.txt").symlink_to("far/target.txt")
    if there:
        (here / "far/target.txt").write_text("old")
        (here / "far/target.txt").chmod(0o600)
    write_text(here / "link.txt", "new")
    assert (here / "link.txt").is_symlink()
    assert (here / "far/target.txt").read_text() == "new"
    if there:
        assert stat.S_IMODE((here / "far/target.txt").stat().st_mode) == 0o600
    assert [path.name for path in (here / "far").iterdir()] == ["target.txt"]


def test_links_in_a_circle_are_left_alone(here):
    (here / "a.txt").symlink_to("b.txt")
    (here / "b.txt").symlink_to("a.txt")
    with pytest.raises(RunError, match=r"a\.txt could not be written: its link leads in a circle"):
        write_text(here / "a.txt", "new")
    assert (here / "a.txt").is_symlink()


def test_a_pipe_is_written_through(here):
    os.mkfifo(here / "pipe.txt")
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append((here / "pipe.txt").read_text()))
    reader.start()
    write_text(here / "pipe.txt", "all of it")
    reader.join()
    assert read == ["all of it"]
    assert stat.S_ISFIFO((here / "pipe.txt").stat().st_mode)


def test_a_device_stays_a_device():
    write_text(Path("/dev/null"), "gone")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    with pytest.raises(RunError, match="/dev/full could not be written: No space left on device; free some"):
        write_text(Path("/dev/full"), "nowhere")
    assert stat.S_ISCHR(Path("/dev/full").stat().st_mode)


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
def test_standard_output_that_is_a_file_gets_what_is_printed_before_and_after(here, name):
    script = f"""
from pathlib import Path
from rapids_slr.files import write_text
print("before")
write_text(Path({name!r}), "page\\n")
print("after")
"""
    with open(here / "out", "wb") as out:
        subprocess.run([sys.executable, "-c", script], stdout=out, check=True)
    assert (here / "out").read_text() == "before\npage\nafter\n"


def test_a_folder_is_packed_into_a_pipe(here):
    (here / "set").mkdir()
    (here / "set/a.png").write_bytes(b"PNG")
    words = [sys.executable, "-m", "rapids_slr", "data", "pack", "set", "/dev/stdout"]
    done = subprocess.run(words, capture_output=True, check=True)
    assert done.stdout.startswith(b"PK")


# What a command reads is not written over -----------------------------------------------------------------------------


def test_inputs_are_known_by_every_name(here):
    (here / "in.npy").write_text("features")
    (here / "link.npy").symlink_to("in.npy")
    (here / "hard.npy").hardlink_to(here / "in.npy")
    (here / "folder").mkdir()
    for name in ("in.npy", "./in.npy", "folder/../in.npy", "link.npy", "hard.npy"):
        with pytest.raises(InputError, match=r"is read by this command, as .*in\.npy, and would be overwritten"):
            check_output(Path(name), None, Path("absent.npy"), here / "in.npy")
    check_output(Path("other.npy"), here / "in.npy")
    with pytest.raises(InputError, match="folder is a folder; name a file"):
        check_output(Path("folder"))


def test_features_are_not_written_over_by_their_labels(here, capsys):
    np.save("f.npy", np.eye(20, dtype=np.float32))
    before = Path("f.npy").read_bytes()
    assert main(["cluster", "f.npy", "-o", "./f.npy", "--k1", "5"]) == 2
    assert "f.npy is read by this command" in capsys.readouterr().err
    assert Path("f.npy").read_bytes() == before


@pytest.mark.parametrize("out", ["old.csv", "new.csv"])
def test_labels_are_not_written_over_by_refined_ones(here, out):
    for name in ("old.csv", "new.csv"):
        Path(name).write_text("label\n0\n1\n")
    assert main(["refine", "old.csv", "new.csv", "-o", out]) == 2
    assert Path(out).read_text() == "label\n0\n1\n"


def test_a_report_is_written_over_pages_alone(here, capsys):
    (here / "a/checkpoints").mkdir(parents=True)
    names = ("a/spec.yaml", "a/metrics.jsonl", "a/checkpoints/last.pt", "photo.jpg")
    for name in names:
        Path(name).write_text("mine")
    Path("link.html").symlink_to("a/metrics.jsonl")
    for name in (*names, "link.html"):
        assert main(["report", "a", "--out", name]) == 2
        assert f"{name} is there and is no page by its name" in capsys.readouterr().err
        assert Path(name).read_text() == "mine"


# Specs ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["# mine\n", "name: other\n"])
def test_a_users_spec_in_the_folder_is_never_overwritten(here, tiny, text):
    (here / "exp").mkdir()
    file = here / "exp/spec.yaml"
    file.write_text(text + dump_spec(tiny).partition("\n")[2])
    before = file.read_bytes()
    with pytest.raises(InputError, match=r"exp/spec\.yaml is there and would be overwritten; remove it, or name"):
        run.pretrain(tiny, here / "exp")
    assert file.read_bytes() == before
    assert [path.name for path in (here / "exp").iterdir()] == ["spec.yaml"]


def test_the_spec_that_a_command_is_given_is_never_overwritten(here, capsys, monkeypatch, tiny):
    monkeypatch.setattr(run, "train", lambda spec, out, resume: out)
    RunFolder(here / "exp").write_spec(tiny)
    (here / "exp/lock").touch()  # as a run leaves it that stopped before its first checkpoint
    assert main(["train", "exp/spec.yaml", "--set", "seed=8", "--out", "exp"]) == 2
    assert "exp/spec.yaml would be overwritten with the spec of this run" in capsys.readouterr().err
    assert main(["train", "exp/spec.yaml", "--out", "exp", "--no-report"]) == 0  # the same again loses nothing


def test_a_default_folder_that_is_taken_gets_a_number(here, monkeypatch):
    monkeypatch.setattr("rapids_slr.files.time.strftime", lambda _: "now")
    assert [fresh_folder("a") for _ in range(3)] == [Path("runs/a-now"), Path("runs/a-now-2"), Path("runs/a-now-3")]
    assert all(Path(name).is_dir() for name in ("runs/a-now", "runs/a-now-3"))


# A disk that fails ----------------------------------------------------------------------------------------------------


class FailingDisk:
    """Lets call number `last` of the disk fail; counts them all."""

    def __init__(self, monkeypatch, last: int | None, fault: int) -> None:
        self.calls, self.last, self.fault = 0, last, fault
        for name in WRITES:
            monkeypatch.setattr(disk, name, self._failing(name, getattr(disk, name)))

    def _failing(self, name: str, real):
        def call(*words):
            self.calls += 1
            if self.calls == self.last:
                if name == "append":
                    with open(words[0], "ab") as file:
                        file.write(words[1][: len(words[1]) // 2])  # the first half goes in
                raise OSError(self.fault, os.strerror(self.fault))
            real(*words)

        return call


@pytest.mark.parametrize("fault", [errno.ENOSPC, errno.EIO, errno.EROFS])
@pytest.mark.parametrize("name", ["make_folders", "fill", "settle", "rename"])
def test_a_failed_step_leaves_the_old_file_and_no_litter(here, monkeypatch, name, fault):
    (here / "file").write_text("old")

    def fail(*_):
        raise OSError(fault, os.strerror(fault))

    monkeypatch.setattr(disk, name, fail)
    with pytest.raises(RunError, match=f"file could not be written: {os.strerror(fault)}; free some space"):
        write_atomically(here / "file", lambda temporary: temporary.write_text("new"))
    assert (here / "file").read_text() == "old"
    assert [path.name for path in here.iterdir()] == ["file"]


def test_half_a_line_is_taken_back(here, monkeypatch):
    append_line(here / "rows.jsonl", "1")
    FailingDisk(monkeypatch, 1, errno.ENOSPC)
    with pytest.raises(RunError, match=r"rows\.jsonl could not be written: No space left on device"):
        append_line(here / "rows.jsonl", "12345")
    assert (here / "rows.jsonl").read_text() == "1\n"


def test_a_run_resumes_after_a_failure_of_any_write(here, tiny, monkeypatch):
    """An epoch of pre-training and one of adaptation, with calls of the disk failing from the first to the last."""
    once = {"epochs": 1, "iterations": 1}
    small = tiny.model_copy(
        update={
            "pretrain": tiny.pretrain.model_copy(update={**once, "milestones": []}),
            "training": tiny.training.model_copy(update=once),
        }
    )
    with monkeypatch.context() as patch:
        counter = FailingDisk(patch, None, 0)
        whole = run.train(small, here / "whole")

    def rows(folder: Path) -> list[dict]:
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        return [{k: v for k, v in json.loads(line).items() if not k.startswith("seconds/")} for line in lines]

    # A few of them, which keeps the test short.
    for last in range(2, counter.calls + 1, counter.calls // 4):
        folder = here / f"failed-{last}"
        with monkeypatch.context() as patch:
            FailingDisk(patch, last, errno.EIO)
            with pytest.raises(RunError, match=r"could not be (written|made): Input/output error"):
                run.train(small, folder)
        run.train(small, folder, resume=(folder / "spec.yaml").exists())
        assert rows(folder) == rows(whole), last
