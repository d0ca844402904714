"""Scripts of benchmarks/ and docs/, and files that tests write, as modules."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType


def loaded(path: Path, name: str | None = None) -> ModuleType:
    """A file of Python, run as a module of its folder's and its own name, or of another one."""
    name = name or f"{path.parent.name}_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses look up their module
    spec.loader.exec_module(module)
    return module
