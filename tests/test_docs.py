"""The pages of docs/ say what the code does: their examples run, their tables are those of the results."""

from __future__ import annotations

import importlib.util
import itertools
import json
import re
import shlex
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from rapids_slr.bench import FEATURES
from rapids_slr.cli import main
from rapids_slr.export import export
from rapids_slr.models import TwoBranch, save_network
from rapids_slr.spec import RunSpec
from tests.conftest import TINY
from tests.data.handmade import make_files

REPOSITORY = Path(__file__).parents[1]
DOCS = REPOSITORY / "docs"


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (DOCS / page).read_text(), re.DOTALL | re.MULTILINE)


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("convert", [np.asarray, torch.from_numpy], ids=["numpy", "torch"])
def test_the_examples_of_the_library_run(here, capsys, convert):
    """One after another, as a reader would; `images`, `embed` and `train` are the reader's own."""
    trained: list[np.ndarray] = []
    epochs = itertools.count()
    names = {
        "epochs": 3,
        "images": None,
        "embed": lambda images: convert(FEATURES["clustered"](400, 32, epoch=next(epochs))),
        "train": lambda images, labels: trained.append(labels),
    }
    for code in blocks("library.md", "python"):
        exec(compile(code, "docs/library.md", "exec"), names)
    assert len(trained) == 3
    assert all(type(labels) is type(convert(np.empty(0))) and labels.max() > 10 for labels in trained)
    assert re.match(r"epoch 2: radius 0\.\d+, \d+ outliers, \d+ of them rescued\n", capsys.readouterr().out)
    assert torch.isfinite(names["loss"])
    assert (names["resumed"].state_dict()["previous"] == names["slr"].state_dict()["previous"]).all()
    assert names["labels"].max() > 10  # of the pipeline


def test_the_commands_of_the_library_run(here):
    for epoch in (1, 2):
        np.save(here / f"epoch-{epoch}.npy", FEATURES["clustered"](400, 32, epoch=epoch))
    (commands,) = blocks("library.md", "console")
    for command in commands.splitlines():
        program, *words = shlex.split(command)
        assert program == "rapids-slr"
        assert main(words) == 0, command
    assert {path.name for path in here.iterdir()} >= {"refined.csv", "soft.npz"}


def test_the_examples_of_the_search_page_run(here, capsys):
    network = TwoBranch(RunSpec.model_validate(TINY).model)
    (here / "runs/omniglot/checkpoints").mkdir(parents=True)
    save_network(here / "runs/omniglot/checkpoints/pretrained.pt", network, RunSpec.model_validate(TINY))
    make_files(here, ["photo.png", *(f"photos/{i}.png" for i in range(5))])
    for name in ("network.onnx", "network.pt2"):
        export(here / "runs/omniglot", here / name)
    names: dict = {}
    for code in blocks("search.md", "python"):
        exec(compile(code, "docs/search.md", "exec"), names)
    assert re.match(r"(\d \d\.png -?\d\.\d{3}\n){3}$", capsys.readouterr().out)
    np.testing.assert_allclose(names["features"], names["same"].detach(), atol=1e-5)


@pytest.fixture(scope="module")
def performance() -> ModuleType:
    spec = importlib.util.spec_from_file_location("performance", DOCS / "performance.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_tables_of_the_performance_page_are_those_of_the_results(performance):
    page = (DOCS / "performance.md").read_text()
    expected = performance.insert(page, performance.tables(json.loads(performance.RESULTS.read_text())))
    assert page == expected, "run python docs/performance.py"


def test_the_plot_is_drawn_again_alike(performance, tmp_path):
    results = json.loads(performance.RESULTS.read_text())
    for name in ("one.svg", "two.svg"):
        performance.draw(results, tmp_path / name)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
    assert "features to raw labels" in (tmp_path / "one.svg").read_text()


def test_links_between_pages_lead_somewhere():
    for page in [*DOCS.glob("*.md"), *REPOSITORY.glob("*.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
