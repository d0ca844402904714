"""What results say of where they come from; the same figures must come with the same names."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rapids_slr import doctor, provenance
from rapids_slr.provenance import commit, environment, version_of, versions


@pytest.fixture
def installed(monkeypatch):
    """Pretend what is installed: a version for each distribution."""

    def pretend(**found: str) -> None:
        def version(name: str) -> str:
            if name.replace("-", "_") not in found:
                raise importlib.metadata.PackageNotFoundError(name)
            return found[name.replace("-", "_")]

        monkeypatch.setattr(importlib.metadata, "version", version)

    return pretend


def test_a_library_is_found_under_each_name_it_comes_in(installed):
    installed(cupy_cuda12x="13", numpy="2")
    assert (version_of("cupy"), version_of("numpy"), version_of("cuml")) == ("13", "2", None)


def test_a_summary_names_what_is_installed(installed):
    installed(rapids_slr="0", torch="2", cuml_cu13="26", scipy="1")
    assert list(versions()) == ["python", "rapids-slr", "torch", "cuml-cu13"]
    assert versions()["cuml-cu13"] == "26"


def test_figures_name_what_they_depend_on(installed):
    installed(rapids_slr="0", numpy="2", cuml_cu13="26")
    found = environment("a device")
    assert list(found) == [
        *("device", "threads", "python", "rapids-slr", "torch", "numpy", "numba", "scipy", "scikit-learn", "cuml"),
        *("commit", "date"),
    ]
    assert (found["device"], found["threads"]) == ("a device", torch.get_num_threads())
    assert (found["torch"], found["numpy"], found["cuml"]) == ("not installed", "2", "26")
    assert environment()["device"]


def test_doctor_names_every_library_installed_or_not(installed):
    installed(rmm_cu12="26")
    found = doctor.examine("cpu")["libraries"]
    assert (found["rmm"], found["pandas"]) == ("26", None)


def test_the_commit_is_that_of_this_checkout_alone(tmp_path, monkeypatch):
    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-c", "user.name=a", "-c", "user.email=a@b", *words],
            cwd=tmp_path, check=True, capture_output=True, text=True,
        ).stdout.strip()  # fmt: skip

    package = tmp_path / "rapids_slr"
    package.mkdir()
    monkeypatch.setattr(provenance, "__file__", str(package / "provenance.py"))
    assert commit() == "unknown"
    git("init", "-q")
    assert commit() == "unknown"  # no commit yet
    (package / "run.py").write_text("1")
    git("add", ".")
    git("commit", "-qm", "one")
    assert commit() == git("describe", "--always")
    (package / "run.py").write_text("2")
    assert commit() == git("describe", "--always") + "-dirty"


def test_asking_for_a_commit_needs_no_torch():
    code = "import sys; from rapids_slr.provenance import commit; commit(); print('torch' in sys.modules)"
    folder = Path(provenance.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
