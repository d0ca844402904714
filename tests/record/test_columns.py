"""The table of columns: names and units are told once, families know theirs, hosts and tasks add their own."""

from __future__ import annotations

import subprocess
import sys

import pytest

from rapids_slr.record import columns
from rapids_slr.record.columns import Column, add_columns, column_of, columns_in, loss_column
from rapids_slr.settings.tables import TASKS


@pytest.fixture(autouse=True)
def own_table(monkeypatch):
    """What a test registers goes with it."""
    monkeypatch.setattr(columns, "COLUMNS", dict(columns.COLUMNS))


def test_columns_of_a_group_have_one_unit():
    units: dict[str, set[str]] = {}
    for column in columns.COLUMNS.values():
        units.setdefault(column.group, set()).add(column.unit)
    assert {group: len(found) for group, found in units.items() if group and len(found) > 1} == {}


def test_no_two_columns_have_one_name():
    names = [column.name for column in columns.COLUMNS.values()]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("key", "value", "head", "text"),
    [
        ("mAP", 0.7346, "mAP, %", "73.5"),
        ("mAP", 1, "mAP, %", "100.0"),
        ("clusters", 1612, "raw clusters", "1612"),
        ("outliers", 7, "outliers, images", "7"),
        ("cluster_images", 12.0, "mean size of a cluster, images", "12.0"),
        ("ari", 0.5, "ARI", "0.500"),
        ("entropy", 1.0, "mean entropy, bits", "1.000"),
        ("seconds/training", 3.14159, "training, s", "3.1"),
        ("raw_false_pairs", 0.25, "false pairs, raw, %", "25.0"),
        ("loss/ce", 1.23456, "ce", "1.235"),
        ("unheard", 2.0, "unheard", "2.000"),
    ],
)
def test_a_column_says_how_it_is_written(key, value, head, text):
    assert (column_of(key).head, column_of(key).text(value)) == (head, text)


def test_figures_of_raw_clusters_lie_beside_those_of_refined_labels():
    raw, refined = column_of("raw_ari"), column_of("ari")
    assert raw.beside == "ari"
    assert (raw.unit, raw.group, raw.better) == (refined.unit, refined.group, refined.better)
    assert column_of("raw_unheard").group == ""


def test_a_registered_loss_term_is_in_the_group_of_losses_after_those_before_it():
    column = loss_column("memory", "cross entropy with a memory of clusters")
    rows = [{"epoch": 1, "loss/memory": 1.0, "loss/ce": 1.0}, {"epoch": 2, "loss/foreign": 1.0, "loss/ce": 1.0}]
    assert columns_in(rows, "loss") == [column_of("loss/ce"), column, column_of("loss/foreign")]
    assert column.better == "less"
    assert loss_column("memory", "cross entropy with a memory of clusters") is not None  # two hosts, one meaning
    with pytest.raises(ValueError, match=r"column loss/memory: .*something else.* there is .*a memory of clusters"):
        loss_column("memory", "something else")


def test_a_task_adds_its_columns():
    accuracy = Column("accuracy", "accuracy", "%", "scores", "more")
    assert add_columns(accuracy) == (accuracy,)
    assert columns_in([{"epoch": 1, "accuracy": 0.5}], "scores") == [accuracy]
    for task in TASKS.values():
        assert {task.headline, *task.on_screen} <= {column.key for column in task.scores}


def test_the_table_needs_no_torch():
    """`--help` and the screen read it, and neither waits for torch."""
    code = "import sys, rapids_slr.record.columns; print([name for name in ('torch', 'numpy') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
