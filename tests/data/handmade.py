"""Data sets made by hand."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

MARKET = (
    *("bounding_box_train/0002_c1s1_000451_03.png", "bounding_box_train/0002_c2s1_000301_01.png"),
    *("bounding_box_train/0010_c10s1_000001_00.png", "bounding_box_train/-1_c1s1_000009_00.png"),
    *("query/0001_c1s1_001051_00.png", "query/0003_c2s1_000076_00.png"),
    *("bounding_box_test/0001_c2s1_000007_00.png", "bounding_box_test/0003_c1s1_000010_00.png"),
    *("bounding_box_test/0000_c1s1_000001_00.png", "bounding_box_test/-1_c3s1_000002_00.png"),
)


def png(shade: int = 90, size: tuple[int, int] = (8, 16)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (shade, 2 * shade % 256, 30)).save(buffer, "PNG")
    return buffer.getvalue()


def make_files(folder: Path, names: Iterable[str], **others: bytes | str) -> Path:
    """Images under these names, and other files by name and content."""
    for shade, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(png(shade))
    for name, content in others.items():
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def zip_of(folder: Path, top: str = "") -> Path:
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, top + file.relative_to(folder).as_posix())
    return path


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def needs_gpu(test):
    return pytest.mark.gpu(pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")(test))
