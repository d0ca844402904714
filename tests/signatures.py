"""Binds calls in source code to the signatures of the libraries they go to, without running them.

What runs only on a GPU is otherwise first tried by its users. A name that a library lacks, an argument that it does not
take, and calls that CuPy understands otherwise than NumPy are faults, found in the syntax tree.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

LIBRARIES = ("cupy", "cupyx", "cuml", "cudf", "rmm", "numba.cuda")
OPTIONAL = ("cuvs",)
"""Libraries that the package does without; their calls are bound where they are installed."""
KERNEL = ("cpu", "cpu_part", "gpu", "shared", "cuda.jit", "numba.njit")
"""Decorators of functions that Numba compiles; what they call is tried by compiling them."""
TWIN_ROOMS = ("kernels", "clustering", "refinement")
"""Rooms in which a function works on arrays of either library, unless its name ends in _cpu or Reader.host has it."""
IMPORTING = ("pytest.importorskip", "import_rapids")
"""Functions that give the module they are told the name of."""
UNDOCUMENTED = {"cuvs.common.resources.Resources": "Resources(stream=None, memory_tracking_csv_path=None)"}
"""Signatures that neither Python nor the documentation tells, read in the source."""
NUMPY_ALLOWED = {"dtype", "finfo", "iinfo", "errstate"}


@dataclass(frozen=True)
class Instance:
    """A name that holds an object of a class."""

    of: Any


@dataclass
class Reader:
    """Reads one file."""

    file: str
    host: frozenset[str] = frozenset()
    """Functions that only ever see NumPy arrays."""
    tables: bool = False
    """Whether method calls are those of data frames."""
    twins: bool = False
    """Whether every function may see arrays of either library."""
    faults: list[str] = field(default_factory=list)
    bound: list[str] = field(default_factory=list)
    """Names of what calls were bound to."""

    def read(self, source: str) -> list[str]:
        tree = ast.parse(source)
        self._walk(tree.body, self._imports(tree.body, {}), device=False)
        return self.faults

    # Scopes -----------------------------------------------------------------------------------------------------------

    def _imports(self, body: list[ast.stmt], names: dict[str, Any]) -> dict[str, Any]:
        """`names` and what these statements import from the libraries."""
        names = dict(names)
        for node in (node for statement in body for node in _own_nodes(statement)):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    if _of_library(alias.name):
                        module = self._import(alias.name, node)
                        top = alias.name.partition(".")[0]
                        names[alias.asname or top] = module if alias.asname else importlib.import_module(top)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                for alias in node.names:
                    full = f"{node.module}.{alias.name}"
                    if _of_library(full):
                        found = self._member(self._import(node.module, node), alias.name, node)
                        if found is not None:
                            names[alias.asname or alias.name] = found
        return names

    def _import(self, name: str, node: ast.AST) -> Any:
        try:
            return importlib.import_module(name)
        except ImportError as fault:
            self._fault(node, str(fault))
            return None

    def _walk(self, body: list[ast.stmt], names: dict[str, Any], device: bool) -> None:
        """Check statements; `device`: whether arrays in them may be CuPy's."""
        for number, statement in enumerate(body):
            if isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
                self._enter(statement, names, device)
                continue
            branch = _host_branch(statement.test) if isinstance(statement, ast.If) else None
            if isinstance(statement, ast.If) and branch is not None:
                self._walk(statement.body, names, device and not branch)
                self._walk(statement.orelse, names, device and branch)
                if not branch and isinstance(statement.body[-1], (ast.Return, ast.Raise)):
                    self._walk(body[number + 1 :], names, device=False)  # arrays of a GPU have left
                    return
                continue
            for part in _blocks(statement):
                self._walk(part, names, device)
            for node in _expressions(statement):
                self._expression(node, names, device)
            if isinstance(statement, ast.Assign):
                self._remember(statement, names)

    def _enter(self, node: ast.FunctionDef | ast.ClassDef, names: dict[str, Any], device: bool) -> None:
        decorators = [ast.unparse(decorator).partition("(")[0] for decorator in node.decorator_list]
        for decorator in node.decorator_list:
            self._expression(decorator, names, device=False)
        names = self._imports(node.body, names)
        if isinstance(node, ast.FunctionDef):
            compiled = any(decorator in KERNEL for decorator in decorators)
            uses_xp = any(isinstance(part, ast.Name) and part.id == "xp" for part in ast.walk(node))
            device = not compiled and (device or uses_xp or self.twins or node.name.endswith("_cuda"))
            device = device and not node.name.endswith("_cpu") and node.name not in self.host
        self._walk(node.body, names, device)

    def _remember(self, statement: ast.Assign, names: dict[str, Any]) -> None:
        """Objects of library classes, and libraries, that get a name."""
        target, value = statement.targets[0], statement.value
        if isinstance(target, ast.Name) and isinstance(value, ast.Call):
            if ast.unparse(value.func) in IMPORTING and _of_library(name := ast.literal_eval(value.args[0])):
                names[target.id] = self._import(name, statement)
                return
            made = self._resolve(value.func, names, report=False)
            if made and inspect.isclass(made[0][1]):
                names[target.id] = Instance(made[0][1])

    # Expressions ------------------------------------------------------------------------------------------------------

    def _expression(self, node: ast.AST, names: dict[str, Any], device: bool) -> None:
        if isinstance(node, ast.IfExp) and (branch := _host_branch(node.test)) is not None:
            self._expression(node.body, names, device and not branch)
            self._expression(node.orelse, names, device and branch)
            return
        if isinstance(node, ast.Attribute):
            self._resolve(node, names)
        if isinstance(node, ast.Call):
            self._call(node, names, device)
            for part in [*node.args, *(keyword.value for keyword in node.keywords)]:
                self._expression(part, names, device)
            if isinstance(node.func, ast.Attribute):
                self._expression(node.func.value, names, device)
            return
        for child in ast.iter_child_nodes(node):
            self._expression(child, names, device)

    def _call(self, node: ast.Call, names: dict[str, Any], device: bool) -> None:
        found = self._resolve(node.func, names)
        if found:
            for label, target in found:
                if not label.startswith("numpy"):  # it is tried by running
                    self._bind(node, label, target)
            if any(library == "cupy" for library, _ in (label.split(".", 1) for label, _ in found if "." in label)):
                self._differs(node, found[0][0].split(".", 1)[1])
            return
        if found is None and isinstance(node.func, ast.Attribute):
            if self.tables:
                self._table_method(node)
            elif device:
                if ast.unparse(node.func.value) == "np":
                    self._numpy_function(node)
                else:
                    self._array_method(node)

    def _resolve(self, node: ast.AST, names: dict[str, Any], report: bool = True) -> list[tuple[str, Any]] | None:
        """What a dotted name stands for, in every library that it may come from; None if it is of no library, and
        nothing if it is of one that does not have it."""
        if isinstance(node, ast.Name):
            if node.id == "xp":
                return [("cupy", importlib.import_module("cupy")), ("numpy", np)]
            if node.id == "frames" and self.tables:
                return [(name, importlib.import_module(name)) for name in ("cudf", "pandas")]
            found = names.get(node.id)
            named = found.of if isinstance(found, Instance) else found
            return None if found is None else [(getattr(named, "__name__", node.id), found)]
        if isinstance(node, ast.Call):
            made = self._resolve(node.func, names, report=False)
            return [(made[0][0], Instance(made[0][1]))] if made and inspect.isclass(made[0][1]) else None
        if isinstance(node, ast.Attribute):
            owners = self._resolve(node.value, names, report=False)
            if owners is None:
                return None
            members = []
            for label, owner in owners:
                if isinstance(owner, Instance):
                    if not hasattr(owner.of, node.attr):
                        return None if node.attr.endswith("_") else []  # what `fit` sets is not there before
                    members.append((f"{label}.{node.attr}", Instance(getattr(owner.of, node.attr))))
                    continue
                member = self._member(owner, node.attr, node if report else None, label)
                if member is None:
                    return []
                members.append((f"{label}.{node.attr}", member))
            return members
        return None

    def _member(self, owner: Any, name: str, node: ast.AST | None, label: str | None = None) -> Any:
        if owner is None:
            return None
        if hasattr(owner, name):
            return getattr(owner, name)
        label = label or getattr(owner, "__name__", str(owner))
        if inspect.ismodule(owner):
            try:
                return importlib.import_module(f"{owner.__name__}.{name}")
            except ImportError:
                pass
        if node is not None:
            self._fault(node, f"{label} has no {name}")
        return None

    # Calls ------------------------------------------------------------------------------------------------------------

    def _bind(self, node: ast.Call, label: str, target: Any) -> None:
        method = isinstance(target, Instance)
        if method:
            target = target.of
        if type(target).__name__ == "ufunc":
            self._bind_ufunc(node, label, target)
            self.bound.append(label)
            return
        signature = signature_of(target)
        if signature is None:
            self._fault(node, f"{label}: no signature is known")
            return
        if method:
            signature = without_first(signature)
        if fault := misfit(signature, node):
            self._fault(node, f"{label}{signature}: {fault}")
        elif inspect.isclass(target) and hasattr(target, "get_params"):
            self._construct(node, label, target)
        self.bound.append(label)

    def _construct(self, node: ast.Call, label: str, target: Any) -> None:
        """An estimator made for real has the settings that it was given."""
        given = {keyword.arg: object() for keyword in node.keywords if keyword.arg}
        settings = target(**given).get_params()
        if wrong := [name for name, value in given.items() if settings.get(name) is not value]:
            self._fault(node, f"{label} does not keep {', '.join(wrong)}")

    def _bind_ufunc(self, node: ast.Call, label: str, ufunc: Any) -> None:
        count, names = len(node.args), {keyword.arg for keyword in node.keywords}
        if not any(isinstance(part, ast.Starred) for part in node.args) and not ufunc.nin <= count <= ufunc.nargs:
            self._fault(node, f"{label} takes {ufunc.nin} arrays, got {count}")
        if wrong := names - {"out", "dtype"}:
            self._fault(node, f"{label} does not take {', '.join(map(str, wrong))}")

    def _differs(self, node: ast.Call, name: str) -> None:
        """What CuPy has, but does otherwise than NumPy or not the same twice."""
        keywords = {keyword.arg for keyword in node.keywords}
        if name == "repeat" and not isinstance(node.args[1], ast.Constant):
            self._fault(node, "cupy.repeat takes no array of counts; use arrays.row_of_entry")
        if name == "lexsort" and isinstance(node.args[0], (ast.Tuple, ast.List)):
            self._fault(node, "cupy.lexsort takes one stacked array")
        if name == "bincount" and ("weights" in keywords or len(node.args) > 1):
            self._fault(node, "cupy.bincount adds weights in any order")
        if name.rpartition(".")[2] in ("at", "reduceat", "accumulate", "outer") and "." in name:
            self._fault(node, f"cupy.{name} is not what NumPy's is; write a kernel")

    def _numpy_function(self, node: ast.Call) -> None:
        assert isinstance(node.func, ast.Attribute)
        name = node.func.attr
        scalar_type = isinstance(getattr(np, name, None), type) and issubclass(getattr(np, name), np.generic)
        if not scalar_type and name not in NUMPY_ALLOWED:
            self._fault(node, f"np.{name} on what may be an array of CuPy; write xp.{name}")

    def _array_method(self, node: ast.Call) -> None:
        """A method that NumPy's arrays have is called as CuPy's take it."""
        import cupy

        assert isinstance(node.func, ast.Attribute)
        name = node.func.attr
        if not callable(getattr(np.ndarray, name, None)):
            return
        if not hasattr(cupy.ndarray, name):
            self._fault(node, f"cupy.ndarray has no {name}")
            return
        signature = signature_of(getattr(cupy.ndarray, name))
        assert signature is not None, name
        if fault := misfit(without_first(signature), node):
            self._fault(node, f"cupy.ndarray.{name}{signature}: {fault}")
        if name == "repeat" and not isinstance(node.args[0], ast.Constant):
            self._fault(node, "cupy.ndarray.repeat takes no array of counts; use arrays.row_of_entry")
        self.bound.append(f"cupy.ndarray.{name}")

    def _table_method(self, node: ast.Call) -> None:
        """A method of data frames is called as both libraries take it."""
        import cudf
        import pandas
        from cudf.core.groupby.groupby import DataFrameGroupBy
        from pandas.core.groupby import DataFrameGroupBy as PandasGroupBy

        assert isinstance(node.func, ast.Attribute)
        name = node.func.attr
        if any(hasattr(kind, name) for kind in (dict, str, np, importlib.util)):
            return
        for classes in ((cudf.DataFrame, DataFrameGroupBy, cudf.Series), (pandas.DataFrame, PandasGroupBy)):
            signatures = [without_first(signature_of(getattr(kind, name))) for kind in classes if hasattr(kind, name)]
            faults = [misfit(signature, node) for signature in signatures]
            if signatures and all(faults):
                self._fault(node, f"{classes[0].__module__}: {name}{signatures[0]}: {faults[0]}")
            self.bound.append(f"{classes[0].__module__.partition('.')[0]}.DataFrame.{name}")
            if not signatures:
                self._fault(node, f"{classes[0].__module__.partition('.')[0]} has no method {name} of tables")

    def _fault(self, node: ast.AST, text: str) -> None:
        fault = f"{self.file}:{getattr(node, 'lineno', 0)}: {text}"
        if fault not in self.faults:
            self.faults.append(fault)


# Signatures -----------------------------------------------------------------------------------------------------------


def misfit(signature: inspect.Signature, node: ast.Call) -> str | None:
    """Why a call does not fit a signature; with *args or **settings only the rest of it is looked at."""
    starred = any(isinstance(part, ast.Starred) for part in node.args)
    unnamed = any(keyword.arg is None for keyword in node.keywords)
    args = [] if starred else [object()] * len(node.args)
    keywords = {keyword.arg: object() for keyword in node.keywords if keyword.arg}
    try:
        (signature.bind_partial if starred or unnamed else signature.bind)(*args, **keywords)
    except TypeError as fault:
        return str(fault)
    return None


def signature_of(target: Any) -> inspect.Signature | None:
    """The signature of a function or class, from Python or from the first line of its documentation."""
    if type(target).__name__ == "_Intrinsic":  # of Numba: its first argument is the compiler's
        return without_first(inspect.signature(target))
    stub = inspect.isclass(target) and any(base.__name__ == "Stub" for base in target.__mro__)  # of Numba
    if stub and (signature := _documented(target)) is not None:
        return signature
    try:
        return inspect.signature(target)
    except (TypeError, ValueError):
        return _documented(target)


def _documented(target: Any) -> inspect.Signature | None:
    """'name(self, int axis=-1, kind=None)' as a signature."""
    name = f"{getattr(target, '__module__', '')}.{getattr(target, '__name__', '')}"
    lines = (UNDOCUMENTED.get(name) or getattr(target, "__doc__", None) or "").strip().splitlines()
    found = re.match(r"[\w.]*?(\w+)\((.*)\)", lines[0]) if lines else None
    if found is None or found[1] != getattr(target, "__name__", found[1]):
        return None
    parameters, kind = [], inspect.Parameter.POSITIONAL_OR_KEYWORD
    for part in filter(None, (part.strip() for part in found[2].split(","))):
        if part == "*":
            kind = inspect.Parameter.KEYWORD_ONLY
            continue
        if part == "/":
            parameters = [p.replace(kind=inspect.Parameter.POSITIONAL_ONLY) for p in parameters]
            continue
        name, _, default = part.partition("=")
        name = name.split(":")[0].split()[-1]
        if name.startswith("*"):
            several = inspect.Parameter.VAR_KEYWORD if name.startswith("**") else inspect.Parameter.VAR_POSITIONAL
            parameters.append(inspect.Parameter(name.lstrip("*"), several))
            kind = inspect.Parameter.KEYWORD_ONLY
        else:
            parameters.append(inspect.Parameter(name, kind, default=default if default else inspect.Parameter.empty))
    bound = parameters and parameters[0].name == "self" and not inspect.ismodule(getattr(target, "__self__", np))
    return inspect.Signature(parameters[bool(bound) :])


def without_first(signature: inspect.Signature | None) -> inspect.Signature:
    assert signature is not None
    return signature.replace(parameters=list(signature.parameters.values())[1:])


# Syntax ---------------------------------------------------------------------------------------------------------------


def _of_library(name: str) -> bool:
    libraries = [*LIBRARIES, *(library for library in OPTIONAL if importlib.util.find_spec(library))]
    return any(name == library or name.startswith(library + ".") for library in libraries)


def _host_branch(test: ast.expr) -> bool | None:
    """Whether a condition holds for NumPy's arrays alone (True), for CuPy's alone (False), or is about neither."""
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        inner = _host_branch(test.operand)
        return None if inner is None else not inner
    if isinstance(test, ast.Compare) and ast.unparse(test.comparators[0]) == "np":
        return isinstance(test.ops[0], ast.Is)
    if isinstance(test, ast.Call) and ast.unparse(test.func) == "on_gpu":
        return False
    return None


def _blocks(statement: ast.stmt) -> Iterator[list[ast.stmt]]:
    """The statements within a statement."""
    for name in ("body", "orelse", "finalbody"):
        if isinstance(part := getattr(statement, name, None), list):
            yield part
    for handler in getattr(statement, "handlers", []):
        yield handler.body


def _expressions(statement: ast.stmt) -> Iterator[ast.AST]:
    """The expressions of a statement itself."""
    for child in ast.iter_child_nodes(statement):
        if isinstance(child, ast.withitem):
            yield from ast.iter_child_nodes(child)
        elif not isinstance(child, (ast.stmt, ast.excepthandler)):
            yield child


def _own_nodes(statement: ast.AST) -> Iterator[ast.AST]:
    """A statement and all within it that is of the same scope."""
    yield statement
    if not isinstance(statement, (ast.FunctionDef, ast.ClassDef, ast.Lambda)):
        for child in ast.iter_child_nodes(statement):
            yield from _own_nodes(child)


# Files ----------------------------------------------------------------------------------------------------------------


def read_files(root: Path, host: dict[str, frozenset[str]]) -> list[Reader]:
    """All files of the package, of its kernels and of the tests that only a GPU can run, read."""
    readers = []
    for path in sorted(
        path for folder in ("rapids_slr", "kernels", "tests/gpu") for path in (root / folder).rglob("*.py")
    ):
        name = path.relative_to(root).as_posix()
        reader = Reader(
            name,
            host=host.get(name, frozenset()),
            tables=name == "rapids_slr/record/tables.py",
            twins=path.parent.name in TWIN_ROOMS and not name.startswith("tests"),
        )
        reader.read(path.read_text(encoding="utf-8"))
        readers.append(reader)
    return readers
