"""cuML and cuDF come in by one door, which leaves CuPy's allocator as it was."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from rapids_slr.engine import rapids
from rapids_slr.engine.rapids import import_rapids
from rapids_slr.errors import InputError

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def cupy(monkeypatch):
    """A CuPy that knows its allocator."""
    cuda = SimpleNamespace(allocator="its pool", told=[])
    cuda.get_allocator = lambda: cuda.allocator

    def set_allocator(allocator: str) -> None:
        cuda.told.append(allocator)
        cuda.allocator = allocator

    cuda.set_allocator = set_allocator
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(cuda=cuda))
    return cuda


@pytest.mark.parametrize("before", ["its pool", "RMM"])  # the latter with the shared pool
def test_an_import_leaves_the_allocator(cupy, monkeypatch, before):
    cupy.allocator = before
    monkeypatch.setattr(rapids, "import_module", lambda name: cupy.set_allocator("RMM") or name)
    assert import_rapids("cuml.cluster", "") == "cuml.cluster"
    assert cupy.allocator == before
    cupy.told.clear()
    monkeypatch.setattr(rapids, "import_module", lambda name: name)  # it is there already
    import_rapids("cuml.cluster", "")
    assert not cupy.told, "CuPy refuses to be told within its `using_allocator`"


def test_a_library_that_is_not_there_is_named(cupy, monkeypatch):
    def fail(name):
        cupy.set_allocator("RMM")
        raise ImportError("No module named 'cuml'")

    monkeypatch.setattr(rapids, "import_module", fail)
    with pytest.raises(
        InputError, match=r"needs cuML: No module named 'cuml' \(pip install 'rapids-slr\[cuda1.\]'\); or"
    ):
        import_rapids("cuml.cluster", "set clusters.solver: graph")
    assert cupy.allocator == "its pool"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cuml.cluster", "cudf"])
def test_the_libraries_themselves_leave_the_allocator(name):
    pytest.importorskip("cupy")
    if not rapids.installed(name.partition(".")[0]):
        pytest.skip(f"{name} is not installed")
    code = (
        "import sys, cupy; from rapids_slr.engine.rapids import import_rapids; before = cupy.cuda.get_allocator();"
        "import_rapids(sys.argv[1], ''); assert cupy.cuda.get_allocator() == before;"
        "assert 'cudf' in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code, name], capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr[-2000:]


def test_nobody_else_imports_them():
    """RMM, which sets nothing by itself, is imported where the pool is made."""
    found: dict[str, set[str]] = {}
    folders = ("rapids_slr/**/*.py", "kernels/*.py", "benchmarks/*.py")
    for path in (path for folder in folders for path in REPOSITORY.glob(folder)):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if called in ("import_module", "importlib.import_module", "__import__"):
                names += [str(part.value) for part in ast.walk(node) if isinstance(part, ast.Constant)]
            tops = {name.partition(".")[0] for name in names} & {"cuml", "cudf", "rmm"}
            if tops:
                found.setdefault(path.relative_to(REPOSITORY).as_posix(), set()).update(tops)
    assert found == {"rapids_slr/engine/memory.py": {"rmm"}}
