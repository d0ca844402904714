"""Files of a run: whole or absent, and never a step behind their checkpoint."""

from __future__ import annotations

import errno

import pytest
import torch

from rapids_slr.errors import InputError, RunError
from rapids_slr.files import make_folder, write_atomically
from rapids_slr.record.folder import RunFolder, best_row


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def fail(temporary):
        temporary.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(RunError, match="could not be written: No space left on device; free some space"):
        write_atomically(path, fail)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_made_says_what_to_do(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"file/runs could not be made: Not a directory; name another folder with --out"):
        make_folder(tmp_path / "file" / "runs")


def test_lines_cut_off_by_a_kill_are_left_out(tmp_path):
    folder = RunFolder(tmp_path)
    for epoch in (1, 2, 3):
        folder.append(folder.metrics_file, {"epoch": epoch})
    with open(folder.metrics_file, "a") as file:
        file.write('{"epoch": 4, "mA')
    assert [row["epoch"] for row in folder.rows(folder.metrics_file)] == [1, 2, 3]
    folder.forget_after(folder.metrics_file, 2)
    assert folder.metrics_file.read_text() == '{"epoch": 1}\n{"epoch": 2}\n'


def test_the_checkpoint_before_is_kept(tmp_path):
    folder = RunFolder(tmp_path)
    assert folder.load_checkpoint() is None
    for epoch in (1, 2, 3):
        folder.save_checkpoint({"epoch": epoch, "weights": torch.ones(2)})
    assert folder.load_checkpoint()["epoch"] == 3
    folder.last_file.write_bytes(b"")
    assert folder.load_checkpoint()["epoch"] == 2
    folder.previous_file.write_bytes(b"PK")
    with pytest.raises(InputError, match=r"no whole checkpoint is left: .*last\.pt.*previous\.pt"):
        folder.load_checkpoint()


def test_a_kill_between_the_two_renames_loses_nothing(tmp_path):
    folder = RunFolder(tmp_path)
    folder.save_checkpoint({"epoch": 1})
    folder.last_file.rename(folder.previous_file)
    assert folder.load_checkpoint()["epoch"] == 1


def test_the_best_row_is_the_earliest_of_equals():
    rows = [{"epoch": 1, "mAP": 0.1}, {"epoch": 2}, {"epoch": 3, "mAP": 0.5}, {"epoch": 4, "mAP": 0.5}]
    assert best_row(rows)["epoch"] == 3
    assert best_row([]) is None


def test_what_a_kill_has_left_unfinished_goes_and_nothing_else(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.save_checkpoint({"epoch": 1})
    (folder.path / "labels").mkdir()
    left = [
        "checkpoints/.next.pt.7.part",
        "labels/.epoch-001.parquet.7.part",
        ".spec.yaml.7.part",
        ".metrics.jsonl.8.part",
    ]
    kept = ["checkpoints/last.pt", ".report.html.7.part", "labels/epoch-001.parquet", "mine.part"]
    for name in (*left, *kept[1:]):
        (folder.path / name).write_text("half")
    folder.forget_unfinished()
    assert [name for name in left if (folder.path / name).exists()] == []
    assert all((folder.path / name).exists() for name in kept)


def test_a_run_that_was_killed_while_it_wrote_its_spec_starts_again(tmp_path, tiny):
    for name in ("lock", ".spec.yaml.7.part"):
        (tmp_path / name).write_text("")
    RunFolder(tmp_path).check(tiny)
    (tmp_path / ".spec.yaml").write_text("mine")
    with pytest.raises(InputError, match="exists and is not a run folder"):
        RunFolder(tmp_path).check(tiny)


def test_lines_that_are_gone_are_missed(tmp_path):
    folder = RunFolder(tmp_path)
    for epoch in (2, 4):
        folder.append(folder.metrics_file, {"epoch": epoch})
    kept = folder.metrics_file.read_text()
    with pytest.raises(InputError, match=r"metrics\.jsonl: no line of epoch 1, 3, which the checkpoint has"):
        folder.forget_after(folder.metrics_file, 4)
    assert folder.metrics_file.read_text() == kept
    folder.forget_after(folder.pretrain_file, 0)
    assert not folder.pretrain_file.exists()
