"""Shared by all tests: a run small enough to train in seconds."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from rapids_slr.settings.spec import RunSpec

pytest_plugins = "tests.engine.machines"
settings.register_profile("default", deadline=None, derandomize=True)  # shared machines; the same cases every time
settings.register_profile("thorough", deadline=None, max_examples=2_000)  # other cases every time: before a release
settings.load_profile("default")

TINY = {
    "name": "tiny",
    "seed": 3,
    "device": "cpu",
    "data": {
        "source": {"synth": {"style": "source", "identities": 6, "images": 8, "height": 32, "width": 16}},
        "target": {"synth": {"style": "target", "identities": 6, "images": 8, "height": 32, "width": 16}},
        "height": 32,
        "width": 16,
    },
    "augment": {"pad": 2},
    "model": {"backbone": "narrow", "widths": [4, 8, 8]},
    "pretrain": {
        "epochs": 2,
        "iterations": 4,
        "identities": 4,
        "lr": 1e-3,
        "milestones": [1],
        "warmup_epochs": 0,
    },
    "clusters": {"k1": 6, "k2": 3, "pairs_per_image": 3},
    "refine": {"min_cluster_size": 3},
    "training": {"epochs": 3, "iterations": 4, "identities": 4, "ema": 0.9},
}


@pytest.fixture
def tiny() -> RunSpec:
    return RunSpec.model_validate(TINY)


@pytest.fixture
def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def shared_data(name: str) -> Path:
    """A data set that is kept beside the repository, or a skip that says where it was looked for."""
    folder = Path(os.environ.get("RAPIDS_SLR_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not (folder / name).exists():
        pytest.skip(f"{name} is not in {folder}; set RAPIDS_SLR_DATA to the folder that holds it")
    return folder / name


@pytest.fixture
def torch_settings():
    """Puts back torch's precision of matrix products."""
    yield
    torch.set_float32_matmul_precision("highest")
    torch.backends.fp32_precision = "none"
    torch.backends.cuda.matmul.fp32_precision = torch.backends.mkldnn.matmul.fp32_precision = "none"
