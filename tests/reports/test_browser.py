"""The page in a browser: it loads without a message, every figure has a size, nothing is wider than the screen."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from rapids_slr.reports.charts import FIGURES
from rapids_slr.reports.figures import RUN_FIGURES
from rapids_slr.reports.matches import write_sheet
from rapids_slr.search import search
from tests.data.handmade import make_files

QUIET = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--enable-logging=stderr"),
]
MEASURE = """<script>
const wide = document.documentElement.scrollWidth > document.documentElement.clientWidth;
const empty = [...document.querySelectorAll('figure')].filter(f => f.clientHeight < 40 || f.clientWidth < 200);
const broken = [...document.images].filter(i => !i.complete || !i.naturalWidth);
document.documentElement.dataset.measured = JSON.stringify(
    {wide, empty: empty.map(f => f.id), broken: broken.length, images: document.images.length});
</script>"""


@pytest.fixture
def chromium() -> str:
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("no Chromium is installed (apt-get install chromium)")
    return found


def shown(page: str, chromium: str, folder: Path, width: int) -> tuple[list[str], str]:
    """Ids of the figures of a page in a browser, which says nothing, and what MEASURE found."""
    file = folder / "page.html"
    file.write_text(page.replace("</body>", MEASURE + "</body>"))
    command = [chromium, *QUIET, f"--user-data-dir={folder / 'profile'}", f"--window-size={width},2000"]
    done = subprocess.run(
        [*command, "--virtual-time-budget=4000", "--dump-dom", file.as_uri()],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert not re.findall(r".*CONSOLE.*", done.stderr)
    measured = re.search(r'data-measured="(.*?)"', done.stdout)[1].replace("&quot;", '"')
    return re.findall(r'<figure id="([^"]*)"', done.stdout), measured


@pytest.mark.parametrize("width", [1400, 420])
def test_a_browser_shows_every_figure_without_a_message(report, chromium, tmp_path, width):
    figures, measured = shown(report, chromium, tmp_path, width)
    assert sorted(figures) == sorted([*FIGURES, *(f"run1-{name}" for name in (*RUN_FIGURES, "retrieval"))])
    assert re.fullmatch(r'\{"wide":false,"empty":\[\],"broken":0,"images":[1-9]\d*\}', measured), measured


def test_a_browser_shows_the_sheet_of_a_search_on_a_narrow_screen(finished, chromium, tmp_path):
    names = ["a-very-long-name-without-any-space-that-would-be-wider-than-the-screen-of-a-phone.png", "b.png", "c.png"]
    photos = make_files(tmp_path / "photos", names)
    sheet = write_sheet(search(finished, photos, photos, device="cpu"), tmp_path)
    figures, measured = shown(sheet.read_text(), chromium, tmp_path, 420)
    assert figures == ["answers"]
    assert measured == '{"wide":false,"empty":[],"broken":0,"images":9}'
