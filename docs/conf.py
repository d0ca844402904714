"""The site as Sphinx builds it: `make docs`. Its pages are plain Markdown, readable without it.

A page belongs into NAVIGATION, or the build fails.
"""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

NAVIGATION = {
    "Start": ["README </README>", "first-steps", "choosing", "commands", "run-spec", "datasets", "classification"],
    "Guides": ["library", "peers", "reports", "search", "profiling", "gpu", "gpu-runs", "container", "processes"],
    "The method": ["method", "hosts", "rivals", "paper", "results", "adaptation", "questions", "performance", "faults"],
    "Contributing": ["architecture", "adding", "add-a-kernel", "/CONTRIBUTING", "/CHANGELOG"],
}

project = "rapids_slr"
release = importlib.metadata.version("rapids-slr")
extensions = ["myst_parser"]
root_doc = "docs/index"
include_patterns = ["docs/*.md", "README.md", "CONTRIBUTING.md", "CHANGELOG.md"]
exclude_patterns = [".*", "build", "runs", "rapids_slr", "tests"]
myst_heading_anchors = 3
highlight_language = "text"
html_theme = "furo"
html_title = "rapids_slr"
html_copy_source = False
html_show_copyright = False


def add_navigation(app, page: str, source: list[str]) -> None:
    """The contents beside every page; on the forge, where nobody builds them, the index has plain links."""
    if page == root_doc:
        for caption, pages in NAVIGATION.items():
            source[0] += "\n".join(["", "```{toctree}", ":hidden:", f":caption: {caption}", *pages, "```", ""])


def lead_to_the_index(app, fault: Exception | None) -> None:
    """Pages keep their folder, so that links between them are those of the repository; the site starts at its top."""
    if fault is None:
        Path(app.outdir, "index.html").write_text(f'<meta http-equiv="refresh" content="0; url={root_doc}.html">\n')


def setup(app) -> None:
    app.connect("source-read", add_navigation)
    app.connect("build-finished", lead_to_the_index)
