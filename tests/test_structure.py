"""The house keeps its order: who imports whom, and how long a function may be."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
LONGEST = 60
"""Lines of a function."""


def modules() -> dict[str, ast.Module]:
    """Every module of the package by its dotted name, parsed."""
    found = {}
    for folder in (REPOSITORY / "rapids_slr", REPOSITORY / "kernels"):
        for file in folder.rglob("*.py"):
            parts = file.relative_to(REPOSITORY).with_suffix("").parts
            parts = ("rapids_slr", *parts) if folder.name == "kernels" else parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found[name] = ast.parse(file.read_text(encoding="utf-8"))
    return found


def imported(statement: ast.stmt) -> Iterator[str]:
    """What an import may name: modules, and names within them."""
    if isinstance(statement, ast.Import):
        yield from (alias.name for alias in statement.names)
    elif isinstance(statement, ast.ImportFrom) and statement.module:
        yield statement.module
        yield from (f"{statement.module}.{alias.name}" for alias in statement.names)


def when_loaded(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements that run when a module is imported; those for type checkers do not."""
    for statement in body:
        if isinstance(statement, ast.If) and "TYPE_CHECKING" in ast.dump(statement.test):
            continue
        yield statement
        for part in ("body", "orelse", "handlers", "finalbody"):
            if not isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
                yield from when_loaded([it for it in getattr(statement, part, []) if isinstance(it, ast.stmt)])


def circle_in(needs: dict[str, set[str]]) -> list[str]:
    """Names that need each other, in order; empty where there are none."""
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return []
        for other in sorted(needs[name]):
            if found := visit(other, [*path, name]):
                return found
        done.add(name)
        return []

    return next((found for name in sorted(needs) if (found := visit(name, []))), [])


def test_no_module_needs_itself():
    trees = modules()
    needs = {
        name: {it for statement in when_loaded(tree.body) for it in imported(statement) if it in trees and it != name}
        for name, tree in trees.items()
    }
    for name, others in needs.items():  # `from room import module` needs the module, and its room as it is by then
        needs[name] = {it for it in others if not any(other.startswith(f"{it}.") for other in others)}
    assert circle_in(needs) == []


@pytest.mark.parametrize(
    ("needs", "circle"),
    [({"a": {"b"}, "b": {"c"}, "c": set()}, []), ({"a": {"b"}, "b": {"c"}, "c": {"b"}}, ["b", "c", "b"])],
)
def test_a_circle_is_found(needs, circle):
    assert circle_in(needs) == circle


def test_only_commands_and_profiles_lead_to_the_run():
    leading = {
        name
        for name, tree in modules().items()
        for statement in ast.walk(tree)
        if isinstance(statement, ast.stmt) and "rapids_slr.run" in set(imported(statement))
    }
    assert leading == {"rapids_slr.cli.runs", "rapids_slr.profiling.stages"}  # a sweep starts the command


def test_rooms_below_know_nothing_of_a_run():
    """Clustering and refinement take arrays, so that any other loop may use them."""
    above = ("rapids_slr.networks", "rapids_slr.hosts", "rapids_slr.session", "rapids_slr.settings.spec")
    for name, tree in modules().items():
        if name.startswith(("rapids_slr.clustering", "rapids_slr.refinement", "rapids_slr.kernels")):
            found = {
                it for statement in ast.walk(tree) if isinstance(statement, ast.stmt) for it in imported(statement)
            }
            assert not {it for it in found if it.startswith(above)}, name


def test_no_function_is_long():
    lengths = {
        f"{name}.{function.name}": (function.end_lineno or 0) - function.lineno + 1
        for name, tree in modules().items()
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert {name: lines for name, lines in lengths.items() if lines > LONGEST} == {}
