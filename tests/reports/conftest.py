"""One tiny run and its report, shared by all tests of reports."""

from __future__ import annotations

import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from rapids_slr import run
from rapids_slr.reports import maps, write_report
from rapids_slr.settings.spec import RunSpec
from tests.conftest import TINY

VOID = {"meta", "img", "br"}


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Path:
    """A finished run. Nothing may be written into it: `copied` is for that."""
    return run.train(RunSpec.model_validate(TINY), tmp_path_factory.mktemp("reports") / "finished")


@pytest.fixture
def copied(finished, tmp_path) -> Path:
    """The finished run in a folder of its own."""
    return Path(shutil.copytree(finished, tmp_path / "copied"))


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """PCA in the place of UMAP, which compiles for many seconds."""
    monkeypatch.setattr(maps, "FEWEST", 10**9)


@pytest.fixture(scope="session")
def report(finished, tmp_path_factory) -> str:
    """The report of the finished run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(maps, "FEWEST", 10**9)
        return write_report([finished], tmp_path_factory.mktemp("report") / "report.html").read_text()


class Page(HTMLParser):
    """A page taken apart; fails on tags that do not close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: dict[str, str] = {}
        """Id of a figure or section -> the text within."""
        self._inside: list[tuple[int, str]] = []
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        assert len(found) == len(attrs), (tag, attrs)
        self.tags.append((tag, found))
        if tag not in VOID:
            self.open.append(tag)
            if found.get("id"):
                self._inside.append((len(self.open), found["id"]))

    def handle_endtag(self, tag):
        assert self.open, tag
        assert self.open[-1] == tag, (self.open, tag)
        if self._inside and self._inside[-1][0] == len(self.open):
            self._inside.pop()
        self.open.pop()

    def handle_data(self, data):
        for _, id in self._inside:
            self.text[id] = self.text.get(id, "") + data

    def ids(self, tag: str | None = None) -> list[str]:
        return [found["id"] for name, found in self.tags if found.get("id") and tag in (None, name)]

    def attributes(self, *names: str) -> list[str]:
        return [found[name] or "" for _, found in self.tags for name in names if name in found]
