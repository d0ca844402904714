"""The page in a browser: it loads without a message, every figure has a size, nothing is wider than the screen."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from rapids_slr.reports.charts import FIGURES
from rapids_slr.reports.figures import RUN_FIGURES

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


@pytest.mark.parametrize("width", [1400, 420])
def test_a_browser_shows_every_figure_without_a_message(report, chromium, tmp_path, width):
    file = tmp_path / "report.html"
    file.write_text(report.replace("</body>", MEASURE + "</body>"))
    command = [chromium, *QUIET, f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},2000"]
    done = subprocess.run(
        [*command, "--virtual-time-budget=4000", "--dump-dom", file.as_uri()],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    shown = re.findall(r'<figure id="([^"]*)"', done.stdout)
    assert sorted(shown) == sorted([*FIGURES, *(f"run1-{name}" for name in RUN_FIGURES)])
    assert not re.findall(r".*CONSOLE.*", done.stderr)
    measured = re.search(r'data-measured="(.*?)"', done.stdout)[1].replace("&quot;", '"')
    assert re.fullmatch(r'\{"wide":false,"empty":\[\],"broken":0,"images":[1-9]\d*\}', measured), measured
