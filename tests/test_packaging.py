"""What is installed: every package, the kernels under their name, the embedded specs, the same versions for conda."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import rapids_slr

REPOSITORY = Path(__file__).parents[1]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())


def tracked() -> list[str]:
    files = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True)
    if files.returncode:
        pytest.skip("not a git checkout")
    return [name for name in files.stdout.splitlines() if (REPOSITORY / name).is_file()]


def build(what: str, sources: Path, out: Path) -> Path:
    """Call the build backend as pip does: `what` is sdist or wheel."""
    code = f"from setuptools import build_meta; print(build_meta.build_{what}({str(out)!r}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=sources, check=True, capture_output=True, text=True)
    return out / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def sdist(tmp_path_factory) -> Path:
    """An sdist of the sources as they stand, built in a copy, and unpacked."""
    copy, out = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("sdist")
    ignored = shutil.ignore_patterns("__pycache__", "build", "dist", "runs", "*.egg-info", "*_cache", ".venv", ".git")
    shutil.copytree(REPOSITORY, copy, ignore=ignored, dirs_exist_ok=True)
    with tarfile.open(build("sdist", copy, out)) as archive:
        archive.extractall(out, filter="data")
    return next(path for path in out.iterdir() if path.is_dir())


@pytest.fixture(scope="module")
def wheel(sdist, tmp_path_factory) -> zipfile.ZipFile:
    """A wheel built from the sdist."""
    return zipfile.ZipFile(build("wheel", sdist, tmp_path_factory.mktemp("wheel")))


def test_the_sdist_holds_everything_that_is_tracked(sdist):
    assert [name for name in tracked() if not (sdist / name).is_file()] == []


def test_the_wheel_holds_every_module_and_spec(wheel):
    expected = {str(path.relative_to(REPOSITORY)) for path in (REPOSITORY / "rapids_slr").rglob("*.py")}
    expected |= {f"rapids_slr/kernels/{path.name}" for path in (REPOSITORY / "kernels").glob("*.py")}
    configs = REPOSITORY / "configs"
    expected |= {f"rapids_slr/configs/{path.relative_to(configs).as_posix()}" for path in configs.rglob("*.yaml")}
    assert expected <= set(wheel.namelist())


def test_the_wheel_has_what_pip_shows(wheel):
    metadata = wheel.read(next(name for name in wheel.namelist() if name.endswith("/METADATA"))).decode()
    assert f"Version: {PROJECT['project']['version']}\n" in metadata
    scripts = wheel.read(next(name for name in wheel.namelist() if name.endswith("/entry_points.txt"))).decode()
    assert "rapids-slr = rapids_slr.cli:main" in scripts


def test_the_version_is_that_of_the_changelog():
    heading = re.search(r"^## (\S+)", (REPOSITORY / "CHANGELOG.md").read_text(), re.MULTILINE)[1]
    assert heading == PROJECT["project"]["version"] == rapids_slr.__version__


def test_the_wheel_installs_nothing_at_the_top_but_the_package(wheel):
    top = {name.split("/")[0] for name in wheel.namelist()}
    assert {name for name in top if not name.endswith(".dist-info")} == {"rapids_slr"}


def test_the_kernels_of_an_editable_install_are_those_of_the_repository(tmp_path):
    where = "import rapids_slr.kernels, rapids_slr.configs; print(rapids_slr.kernels.__path__[0])"
    found = subprocess.run([sys.executable, "-c", where], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert Path(found.stdout.strip()).name == "kernels"


def test_kernels_are_compiled_where_nothing_can_be_kept(tmp_path):
    """As in a container with a read-only home: neither beside the files nor in the user's cache folder."""
    shutil.copytree(REPOSITORY / "rapids_slr", tmp_path / "rapids_slr", ignore=shutil.ignore_patterns("kernels"))
    kernels = tmp_path / "rapids_slr" / "kernels"
    shutil.copytree(REPOSITORY / "kernels", kernels, ignore=shutil.ignore_patterns("__pycache__"))
    (kernels / "__pycache__").write_text("no folder")
    code = (
        "import numpy; from rapids_slr import kernels; from rapids_slr.kernels.kreciprocal import _place;"
        "print(kernels.__file__, kernels.runtime.FOLDER, _place(7, 0, numpy.array([[0, 7]], numpy.int32)))"
    )
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path), "HOME": "/dev/null"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert not done.returncode, done.stderr
    file, folder, place = done.stdout.split()
    assert int(place) == 1
    assert Path(file).parent == kernels
    assert "rapids_slr-compiled-" in folder
    assert not Path(folder).exists(), "it goes with the process"


def requirements(names: list[str]) -> dict[str, str]:
    """Name -> bounds, in the names of conda."""
    renamed = {"torch": "pytorch", "cupy-cuda13x": "cupy", "cuml-cu13": "cuml", "cudf-cu13": "cudf"}
    parts = [re.fullmatch(r"([\w-]+)\s*(.*)", name) for name in names]
    return {renamed.get(part[1], part[1]): part[2].replace("==", "=") for part in parts if part}


def test_conda_gets_the_versions_of_pyproject():
    conda = yaml.safe_load((REPOSITORY / "environment.yml").read_text())["dependencies"]
    stated = requirements([name for name in conda if isinstance(name, str)])
    project = PROJECT["project"]
    assert stated.pop("python") == project["requires-python"]
    assert stated.pop("cuda-version") == "=13.*"
    del stated["pip"]
    assert stated == {
        name: bounds.lstrip("=") if bounds.startswith("==") else bounds
        for name, bounds in requirements(project["dependencies"] + project["optional-dependencies"]["cuda13"]).items()
    }


def test_both_cuda_extras_ask_for_the_same_versions():
    extras = PROJECT["project"]["optional-dependencies"]
    assert [name.replace("cuda12x", "cuda13x").replace("cu12", "cu13") for name in extras["cuda12"]] == extras["cuda13"]


def test_the_constraints_hold_a_fitting_version_of_all_that_pyproject_asks_for():
    """`make constraints` after a change of pyproject.toml; the extras are listed in the Makefile."""
    pinned: dict[str, list[str]] = {}  # several for a package whose version depends on Python or platform
    for line in (REPOSITORY / "constraints.txt").read_text().splitlines():
        if not line.lstrip().startswith("#"):
            pin = Requirement(line)
            (bound,) = pin.specifier
            assert bound.operator == "=="
            pinned.setdefault(canonicalize_name(pin.name), []).append(bound.version)
    extras = PROJECT["project"]["optional-dependencies"]
    asked = [
        *PROJECT["project"]["dependencies"],
        *(line for name in extras if name != "cuda12" for line in extras[name] if "rapids-slr" not in line),
    ]
    for requirement in map(Requirement, asked):
        versions = pinned.get(canonicalize_name(requirement.name), [])
        assert versions, f"{requirement} is not in constraints.txt"
        assert all(map(requirement.specifier.contains, versions)), f"{requirement}: constraints.txt has {versions}"


def test_what_is_tested_is_installed_by_the_constraints():
    lines = (REPOSITORY / "Makefile").read_text().splitlines()
    installs = [line for line in lines if "pip install" in line]
    assert len(installs) == 2
    assert all("--constraint constraints.txt" in line for line in installs)


def test_the_readme_starts_with_the_two_commands():
    code = re.search(r"```console\n(.*?)```", (REPOSITORY / "README.md").read_text(), re.DOTALL)[1]
    assert [line.split("#")[0].strip() for line in code.strip().splitlines()] == ["make train", "make test"]
    assert "make test" in (REPOSITORY / ".ci" / "run").read_text()


def test_the_project_speaks_only_of_itself():
    """No tracked text names the machine it was written on."""
    for name in tracked():
        if Path(name).suffix in (".py", ".md", ".toml", ".yaml", ".yml", ".json"):
            assert "/work" + "/main" not in (REPOSITORY / name).read_text(), name
