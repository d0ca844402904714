"""The pages say what the code does: their examples run, their tables are those of the program and of the results, and
every link of the site that is built of them leads somewhere.

Their command lines and specs are run by test_documented_commands.py.
"""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from textwrap import dedent
from types import ModuleType
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
import torch

from rapids_slr.bench import FEATURES
from rapids_slr.export import export
from rapids_slr.kernels import runtime
from rapids_slr.networks.checkpoint import new_network, save_network
from rapids_slr.settings.spec import RunSpec
from tests.conftest import TINY
from tests.data.handmade import make_files
from tests.scripts import loaded

REPOSITORY = Path(__file__).parents[1]
DOCS = REPOSITORY / "docs"
PAGES = sorted([*REPOSITORY.glob("*.md"), *DOCS.glob("*.md")])


def blocks(page: Path, language: str) -> list[str]:
    """The blocks of code of a page, those within lists included."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^\1```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return [dedent(text) for _, text in found]


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


# Python ---------------------------------------------------------------------------------------------------------------


def run_blocks(page: Path, convert) -> tuple[dict, list]:
    """Run the blocks of a page one after another, as a reader would; gives its names, and the labels trained on.

    `images`, `embed`, `train` and `epochs` are the reader's own.
    """
    trained: list[np.ndarray] = []
    epochs = itertools.count()
    names = {
        "epochs": 3,
        "images": None,
        "embed": lambda images: convert(FEATURES["clustered"](400, 32, epoch=next(epochs))),
        "train": lambda images, labels: trained.append(labels),
    }
    for code in blocks(page, "python"):
        exec(compile(code, str(page), "exec"), names)
    return names, trained


def test_every_block_of_python_is_run_by_a_test():
    with_python = {page.name for page in PAGES if blocks(page, "python")}
    assert with_python == {"README.md", "library.md", "add-a-kernel.md", "adding.md", "search.md", "peers.md"}, (
        "add what is missing to the tests below, or to a file of its own"
    )


def test_the_example_of_the_readme_runs(here):
    names, trained = run_blocks(REPOSITORY / "README.md", np.asarray)
    assert len(trained) == 50
    assert names["refined"].hard.max() > 10


@pytest.mark.parametrize("convert", [np.asarray, torch.from_numpy], ids=["numpy", "torch"])
def test_the_examples_of_the_library_run(here, capsys, convert):
    names, trained = run_blocks(DOCS / "library.md", convert)
    assert len(trained) == 3
    assert all(type(labels) is type(convert(np.empty(0))) and labels.max() > 10 for labels in trained)
    assert re.match(r"epoch 2: radius 0\.\d+, \d+ outliers, \d+ of them rescued\n", capsys.readouterr().out)
    assert torch.isfinite(names["loss"])
    assert (names["resumed"].state_dict()["previous"] == names["slr"].state_dict()["previous"]).all()
    assert names["labels"].max() > 10  # of the pipeline


def load_kernel_of_the_page(folder: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The file of add-a-kernel.md, as rapids_slr.kernels.sizes; what it registers is forgotten after the test."""
    monkeypatch.setattr(runtime, "_cpu_kernels", [])
    monkeypatch.setattr(runtime, "_cuda_kernels", [])
    (folder / "sizes.py").write_text(blocks(DOCS / "add-a-kernel.md", "python")[0])
    name = "rapids_slr.kernels.sizes"
    monkeypatch.setitem(sys.modules, name, ModuleType(name))  # so that its name is taken out again
    return loaded(folder / "sizes.py", name)


def test_the_examples_of_the_search_page_run(here, capsys):
    network = new_network(RunSpec.model_validate(TINY))
    (here / "runs/omniglot/checkpoints").mkdir(parents=True)
    save_network(here / "runs/omniglot/checkpoints/pretrained.pt", network, RunSpec.model_validate(TINY))
    make_files(here, ["photo.png", *(f"photos/{i}.png" for i in range(5))])
    for name in ("network.onnx", "network.pt2"):
        export(here / "runs/omniglot", here / name)
    names: dict = {}
    for code in blocks(DOCS / "search.md", "python"):
        exec(compile(code, "docs/search.md", "exec"), names)
    assert re.match(r"(\d \d\.png -?\d\.\d{3}\n){3}$", capsys.readouterr().out)
    np.testing.assert_allclose(names["features"], names["same"].detach(), atol=1e-5)


def test_the_kernel_of_the_page_counts_on_the_cpu(tmp_path, monkeypatch):
    """Its own tests, and its CUDA kernel, run in tests/cuda/test_page.py."""
    module = load_kernel_of_the_page(tmp_path, monkeypatch)
    label_N = np.array([0, 2, 2, -1, 5, 2], np.int32)
    assert module.sizes_cpu(label_N, 3).tolist() == [1, 0, 3]
    assert [len(found) for found in (runtime._cpu_kernels, runtime._cuda_kernels)] == [1, 1]


# Tables and drawings --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def performance() -> ModuleType:
    return loaded(DOCS / "performance.py")


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


@pytest.mark.parametrize("name", ["run-spec.md", "commands.md"])
def test_the_reference_is_that_of_the_program(name):
    reference = loaded(DOCS / "reference.py")
    assert (DOCS / name).read_text(encoding="utf-8") == reference.build(name), "run python docs/reference.py"


def test_the_drawings_of_the_method_are_drawn_again_alike(tmp_path):
    """Twice the same; and what they say is what the pages show. Paths may differ with the version of matplotlib."""
    method = loaded(DOCS / "method.py")
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        method.main(tmp_path / folder)
    for name in method.DRAWINGS:
        one, two = ((tmp_path / folder / name).read_text() for folder in ("one", "two"))
        assert one == two, name
        says = [re.findall("<!-- (.*) -->", text) for text in (one, (DOCS / name).read_text())]
        assert says[0] == says[1], "run python docs/method.py"
        assert says[0]


# The site -------------------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """What a page of the site leads to, what it loads, and the places in it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.anchors = {""}
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.anchors |= {found["id"]} if found.get("id") else set()
        if found.get("href"):
            (self.links if tag == "a" else self.loaded).append(found["href"] or "")
        if found.get("src"):
            self.loaded.append(found["src"] or "")


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> dict[Path, Page]:
    """The site as `make docs` builds it: a warning is an error."""
    for name in ("sphinx", "myst_parser", "furo"):
        pytest.importorskip(name, reason=f"{name} is not installed (pip install 'rapids-slr[docs]')")
    folder = tmp_path_factory.mktemp("site")
    recipe = re.search(r"-m (sphinx .*) build/site", (REPOSITORY / "Makefile").read_text())
    assert recipe is not None
    words = [sys.executable, "-m", *recipe[1].split(), "-d", str(folder / "trees"), str(folder / "site")]
    done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {path: Page(path) for path in (folder / "site").rglob("*.html")}


def local(found: list[str], path: Path) -> Iterator[tuple[Path, str, str]]:
    """The files and places within them that links of a page name, with the link itself."""
    for link in found:
        parts = urlsplit(link)
        if not parts.scheme and not parts.netloc:
            file = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            yield file, unquote(parts.fragment), link


def test_every_link_of_the_site_leads_somewhere(site):
    pages = {path.resolve(): page for path, page in site.items()}
    for path, page in site.items():
        for file, anchor, link in local([*page.links, *page.loaded], path.resolve()):
            assert file.is_file(), f"{path.name}: {link}"
            if file in pages and path.name not in ("search.html", "genindex.html"):
                assert anchor in pages[file].anchors, f"{path.name}: {link}"


def test_the_site_is_read_without_a_network(site):
    for path, page in site.items():
        assert [name for name in page.loaded if urlsplit(name).netloc] == [], path.name
    top = next(path.parent for path in site if path.name == "README.html")
    for style in top.rglob("*.css"):
        assert not re.search(r"(@import|url\()[\s'\"(]*https?:", style.read_text(encoding="utf-8")), style.name


def test_every_page_is_part_of_the_site(site):
    names = {path.stem for path in site}
    assert {page.stem for page in PAGES} <= names
    assert "reference" not in names  # programs are no pages


# Plain Markdown, as a forge shows it ----------------------------------------------------------------------------------


def test_links_between_pages_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
