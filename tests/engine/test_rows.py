"""Room for features lies in memory, or in a file without a name where memory is short."""

import os
from pathlib import Path

import numpy as np
import pytest

from rapids_slr.engine import rows
from rapids_slr.engine.rows import room_for_cpu
from rapids_slr.errors import RunError


def test_room_in_memory():
    room = room_for_cpu(5, 3)
    assert not isinstance(room, np.memmap)
    assert (room.shape, room.dtype) == ((5, 3), np.float32)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="open files are listed by Linux alone")
def test_room_in_a_file_that_goes_with_it(monkeypatch, tmp_path):
    monkeypatch.setattr(rows, "SHARE", 0)
    monkeypatch.setattr(rows.tempfile, "tempdir", str(tmp_path))
    room = room_for_cpu(500, 30)
    room[:] = np.arange(30)
    assert isinstance(room, np.memmap)
    assert os.listdir(tmp_path) == []  # none that a process that is killed would leave behind
    assert str(tmp_path) in Path("/proc/self/maps").read_text()
    assert room.sum() == 500 * 435
    del room
    assert str(tmp_path) not in Path("/proc/self/maps").read_text()


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="room in a file is reserved on POSIX alone")
def test_no_room_in_a_file_is_said_before_anything_is_written(monkeypatch, tmp_path):
    monkeypatch.setattr(rows, "SHARE", 0)
    monkeypatch.setattr(rows.tempfile, "tempdir", str(tmp_path))
    with pytest.raises(RunError, match=r"features of 1,000,000,000 images x 100,000, .* set TMPDIR"):
        room_for_cpu(1_000_000_000, 100_000)
