"""The ordered run on a GPU, rehearsed on the CPU: every step, and every way in which one can end."""

from __future__ import annotations

import json
import time
from itertools import pairwise
from pathlib import Path

import pytest

from rapids_slr.settings.specfile import load_spec
from tests.scripts import loaded

ROOT = Path(__file__).parents[1]
FOREVER = "import time\nwhile True: time.sleep(0.01)\n"
DEAF = f"import signal\nsignal.signal(signal.SIGABRT, signal.SIG_IGN)\nprint('deaf', flush=True)\n{FOREVER}"
HANGING_KERNEL = """
import numpy as np
from rapids_slr.kernels import renumber

def test_returns():
    pass

def test_hangs(monkeypatch):
    def never(*_):
        while True:
            pass

    monkeypatch.setattr(renumber._first_image_cuda, "_launch", never)
    renumber.renumber_cuda(np.zeros(3, np.int32), np.zeros(2, np.int32))
"""


gpu_day, gpu = (loaded(ROOT / "benchmarks" / f"{name}.py") for name in ("gpu_day", "gpu"))
REHEARSAL = {step.name: step for step in gpu_day.steps(Path("out"), True)}


def different() -> list[str]:
    """Steps of a rehearsal that do something else than those before."""
    seen: dict[str, str] = {}
    for step in REHEARSAL.values():
        seen.setdefault(str([step.commands, step.environment]).replace(step.name, ""), step.name)
    return list(seen.values())


@pytest.fixture
def day(tmp_path, monkeypatch):
    """Runs a day of the steps given, each a name and the Python that it runs; its exit code and its results."""
    monkeypatch.setattr(gpu_day, "GRACE", 2)

    def run(codes: dict[str, str], *words: str, **step) -> tuple[int, dict[str, dict]]:
        made = [
            gpu_day.Step(name, f"does {name}", [[*gpu_day.PYTHON, "-c", code]], **({"limit": 60} | step))
            for name, code in codes.items()
        ]
        monkeypatch.setattr(gpu_day, "steps", lambda out, rehearse: made)
        code = gpu_day.main(["--out", str(tmp_path / "day"), *words])
        file = tmp_path / "day" / "day.json"
        return code, json.loads(file.read_text())["steps"] if file.exists() else {}

    return run


# The steps ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", different())
def test_rehearsal_of(name, tmp_path, monkeypatch):
    step = next(step for step in gpu_day.steps(tmp_path, True) if step.name == name)
    monkeypatch.setattr(gpu_day, "steps", lambda out, rehearse: [step])
    assert gpu_day.main(["--rehearse", "--out", str(tmp_path)]) == 0, (tmp_path / f"{name}.log").read_text()[-3000:]
    assert step.only_gpu in (tmp_path / "report.md").read_text()


def test_the_day_and_its_rehearsal_have_the_same_steps():
    on_gpu = {step.name: step for step in gpu_day.steps(Path("out"), False)}
    assert list(on_gpu) == list(REHEARSAL)
    assert all(step.limit <= 540 and step.only_gpu for step in [*on_gpu.values(), *REHEARSAL.values()])
    assert len(different()) > 10


@pytest.mark.parametrize("rehearse", [False, True])
def test_commands_name_what_there_is(rehearse):
    """Files of tests, options of the benchmarks, specs of the runs."""
    for step in gpu_day.steps(Path("out"), rehearse):
        for command in step.commands:
            for word in command:
                if word.startswith("tests/"):
                    assert (ROOT / word.split("::")[0]).exists(), word
            if "benchmarks/gpu.py" in command:
                gpu.options_of(command[command.index("benchmarks/gpu.py") + 1 :])
            if "--set" in command:
                sets = [value for word, value in pairwise(command) if word == "--set"]
                load_spec(None, sets)


# How a step ends ------------------------------------------------------------------------------------------------------


def test_what_fails_is_told_and_the_rest_runs(day, tmp_path, capsys):
    code, results = day({"one": "print('a | b')", "two": "print('so'); raise SystemExit(3)", "three": ""})
    assert code == 1
    assert {name: result["outcome"] for name, result in results.items()} == {
        "one": "passed",
        "two": "failed",
        "three": "passed",
    }
    assert results["two"]["why"] == "exit code 3: so"
    assert results["three"]["why"] == "it printed nothing"
    assert all(result["commit"] and result["begun"] for result in results.values())
    report = (tmp_path / "day" / "report.md").read_text()
    assert report in capsys.readouterr().out
    assert [line.count("|") for line in report.splitlines() if line.startswith("|")] == [4] * 5


def test_a_command_after_one_that_failed_is_not_run(tmp_path):
    step = gpu_day.Step("two", "", [[*gpu_day.PYTHON, "-c", "1 / 0"], [*gpu_day.PYTHON, "-c", "print('ran')"]])
    assert not gpu_day.Day(tmp_path, False, [step]).run(None, float("inf"))
    log = (tmp_path / "two.log").read_text()
    assert "ZeroDivisionError" in log
    assert "ran\n" not in log


def test_a_kernel_that_hangs_is_stopped_and_named(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_day, "GRACE", 5)
    file = tmp_path / "test_of_hanging.py"
    file.write_text(HANGING_KERNEL)
    step = gpu_day.Step("hangs", "", [gpu_day._pytest(str(file))], limit=25, environment={"NUMBA_ENABLE_CUDASIM": "1"})
    day = gpu_day.Day(tmp_path, False, [step])
    assert not day.run(None, float("inf"))
    result = day.results["hangs"]
    assert result["outcome"] == "stopped", result
    assert result["seconds"] < 40
    assert "test_of_hanging.py::test_hangs, renumber_cuda (kernels/renumber.py:" in result["why"]


def test_what_does_not_heed_its_end_is_killed_with_its_children(day, tmp_path, monkeypatch):
    beats = tmp_path / "beats"
    child = f"import time\nwhile True:\n    open({str(beats)!r}, 'a').write('x')\n    time.sleep(0.05)"
    parent = f"import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', {child!r}])\n{DEAF}"
    _, results = day({"deaf": parent, "next": ""}, limit=4)
    assert results["deaf"]["outcome"] == "stopped"
    assert results["deaf"]["why"].startswith("after 4 s in deaf")
    assert results["next"]["outcome"] == "passed"
    size = beats.stat().st_size
    assert size
    time.sleep(0.3)
    assert beats.stat().st_size == size


def test_a_program_that_is_not_there_is_named(day):
    code, results = day({"check": "1 / 0"}, needs="no-such-program")
    assert code == 0
    assert results["check"]["outcome"] == "skipped"
    assert results["check"]["why"] == "no-such-program is not installed"


def test_nothing_runs_where_the_first_step_fails(day, capsys):
    code, results = day({"environment": "1 / 0", "kernels": ""}, first=True)
    assert code == 1
    assert list(results) == ["environment"]
    assert "nothing else can run without it" in capsys.readouterr().out


# Going on -------------------------------------------------------------------------------------------------------------


def test_a_day_goes_on_with_what_has_not_passed(day, tmp_path):
    trace = tmp_path / "trace"
    note = "open({!r}, 'a').write('{} '){}".format
    steps = {name: note(str(trace), name, "") for name in ("one", "two", "three")}
    assert day(steps | {"two": note(str(trace), "two", "; 1 / 0")})[0] == 1
    assert trace.read_text() == "one two three "
    assert day(steps)[0] == 0
    assert trace.read_text() == "one two three two "
    assert day(steps)[0] == 0
    assert day(steps, "--from", "two")[0] == 0
    assert trace.read_text() == "one two three two two three "


def test_results_are_kept_after_every_step(day, tmp_path):
    """A machine that goes away takes no more than the step it was at."""
    look = f"print(list(__import__('json').load(open({str(tmp_path / 'day' / 'day.json')!r}))['steps']))"
    assert day({"one": "", "two": look})[1]["two"]["why"] == "['one']"


def test_no_step_begins_when_time_is_over(day, capsys):
    code, results = day({"one": ""}, "--minutes", "0.2")
    assert (code, results) == (1, {})
    assert "no time is left" in capsys.readouterr().out


def test_a_step_ends_with_the_time_of_the_day(day, monkeypatch):
    monkeypatch.setattr(gpu_day, "LEAST", 0)
    code, results = day({"one": FOREVER}, "--minutes", "0.05")
    assert code == 1
    assert results["one"]["outcome"] == "stopped"


def test_the_list_runs_nothing(day, capsys):
    assert day({"one": "1 / 0"}, "--list") == (0, {})
    assert "one                60 s  does one: not yet" in capsys.readouterr().out


def test_a_step_that_is_not_there(day, capsys):
    with pytest.raises(SystemExit):
        day({"one": "", "two": ""}, "--from", "three")
    assert "three: no such step; there are one, two" in capsys.readouterr().err
