"""What the Dockerfile promises, read from the file; and that the reader of it skips nothing."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.container.dockerfile import Ignore, Instruction, context_files, parse
from tests.container.run_steps import Image, copy, settled

REPOSITORY = Path(__file__).parents[2]
STEPS = parse((REPOSITORY / "Dockerfile").read_text())
FINAL = STEPS[max(number for number, step in enumerate(STEPS) if step.name == "FROM") :]


def settings(steps: list[Instruction], root: Path) -> Image:
    image = Image(str(root))
    for step in steps:
        if step.name not in ("FROM", "RUN", "COPY"):
            image = settled(step, image)
    return image


def where(name: str, word: str) -> int:
    """Number of the only such step of the final stage that holds a word."""
    (number,) = (number for number, step in enumerate(FINAL) if step.name == name and word in str(step))
    return number


# The Dockerfile --------------------------------------------------------------------------------------------------


def test_the_image_runs_the_command_as_a_user_of_its_own(tmp_path):
    image = settings(FINAL, tmp_path)
    assert (image.entrypoint, image.cmd) == (("rapids-slr",), ("--help",))
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", image.user), "a number, so that an orchestrator sees that it is not root"
    assert f"useradd --uid {image.user.split(':')[0]} " in " ".join(str(step) for step in FINAL)


def test_runs_and_data_are_volumes_that_this_user_may_write(tmp_path):
    image = settings(FINAL, tmp_path)
    assert image.volumes == ("/data", "/runs")
    assert image.workdir == "/", "runs/<name>-<time> is then in /runs"
    assert where("RUN", "chown slr:slr /data /runs") < where("USER", "1000") < where("VOLUME", "/runs")


def test_every_gpu_is_asked_for_with_no_more_than_is_needed(tmp_path):
    env = settings(FINAL, tmp_path).env
    assert (env["NVIDIA_VISIBLE_DEVICES"], env["NVIDIA_DRIVER_CAPABILITIES"]) == ("all", "compute,utility")


def test_the_stack_is_installed_before_the_sources_arrive():
    stack, sources = where("RUN", "--requirement requirements.txt"), where("RUN", "source=/dist")
    assert stack < sources
    before = [str(step) for step in FINAL[: stack + 1] if step.name == "COPY" or "--mount=type=bind" in str(step)]
    assert before == ["COPY constraints.txt ./", "COPY --from=build /src/requirements.txt ./"]


def test_the_stack_is_what_pyproject_asks_for_in_tested_versions(tmp_path):
    (step,) = (step for step in STEPS if "> requirements.txt" in step.text)
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    command = step.text.replace("python3", sys.executable)
    subprocess.run(["/bin/sh", "-c", command], cwd=tmp_path, check=True)
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    asked = (tmp_path / "requirements.txt").read_text().splitlines()
    assert asked == [*project["dependencies"], *project["optional-dependencies"]["cuda13"]]
    assert "--constraint constraints.txt --requirement" in FINAL[where("RUN", "--requirement")].text
    assert all("--constraint" in step.text or "--no-deps" in step.text for step in STEPS if "pip install" in step.text)


def test_every_stage_starts_from_the_python_of_the_constraints():
    (made,) = re.findall(r"--python-version (3\.\d+)", (REPOSITORY / "Makefile").read_text())
    images = {step.words({})[0] for step in STEPS if step.name == "FROM"}
    assert images == {f"python:{made}-slim-bookworm"}


def test_what_is_copied_reaches_the_context_and_nothing_else_does():
    sources = {name for step in STEPS if step.name == "COPY" and not step.flags for name in step.words({})[:-1]}
    sent = context_files(REPOSITORY)
    assert {name.split("/")[0] for name in sent} == sources
    assert not [name for name in sent if "__pycache__" in name]
    tracked = subprocess.run(["git", "ls-files", *sources], cwd=REPOSITORY, capture_output=True, text=True)
    if tracked.returncode == 0:
        assert set(tracked.stdout.split()) <= set(sent)


def test_the_linter_has_nothing_to_say():
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if hadolint is None and sys.platform == "win32":
        pytest.skip("hadolint has no wheel for Windows")
    assert hadolint is not None, "hadolint comes with the extra dev: make venv"
    found = subprocess.run([hadolint, "Dockerfile"], cwd=REPOSITORY, capture_output=True, text=True)
    assert (found.returncode, found.stdout + found.stderr) == (0, "")


# Its reader -------------------------------------------------------------------------------------------------------


def test_lines_are_joined_and_comments_left_out():
    text = "# first\nfrom a AS b\n\nRUN --mount=type=cache,target=/c \\\n    one \\\n# between\n    && two\nCMD []\n"
    assert parse(text) == [
        Instruction("FROM", (), "a AS b", 2),
        Instruction("RUN", (("mount", "type=cache,target=/c"),), "one && two", 4),
        Instruction("CMD", (), "[]", 8),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("FROM a\nADD b c", "line 2: ADD is not understood"),
        ("COPY --chown=1:1 a b", "line 1: --chown of COPY is not understood"),
        ("COPY --link a b", "line 1: --link of COPY is not understood"),
        ("RUN --mount=type=secret,id=a true", "line 1: this mount is not understood"),
        ("RUN <<EOF\ntrue\nEOF", "line 1: here-documents"),
        ('RUN ["true"]', "line 1: RUN is understood as a shell command only"),
        ("COPY *.md /", "line 1: patterns in COPY"),
        ("ENTRYPOINT rapids-slr", r'line 1: expected ENTRYPOINT \["\.\.\.", "\.\.\."\], got rapids-slr'),
        ("# escape=`\nFROM a", "line 1: directives are not understood"),
        ("FROM a\nRUN true \\\n", "line 2: the instruction does not end"),
    ],
)
def test_what_it_could_not_carry_out_is_an_error(text, message):
    with pytest.raises(ValueError, match=message):
        parse(text)


def test_settings_follow_one_another(tmp_path):
    steps = parse('ENV A=/a B="two words"\nENV A=$A/b C=$A\nWORKDIR /x\nWORKDIR y\nUSER 7:8\nLABEL n=${B}')
    image = settings(steps, tmp_path)
    assert {name: image.env[name] for name in "ABC"} == {"A": "/a/b", "B": "two words", "C": "/a"}
    assert (image.workdir, image.user, image.labels) == ("/x/y", "7:8", {"n": "two words"})
    assert (tmp_path / "x" / "y").is_dir()
    json.dumps(image.env)


@pytest.mark.parametrize(
    ("text", "message"), [("ENV A=$NONE", "line 1: 'NONE' is not set"), ("ENV A b", "line 1: expected NAME=value")]
)
def test_a_setting_in_another_form_is_an_error(text, message):
    with pytest.raises(ValueError, match=message):
        settled(parse(text)[0], Image("/"))


@pytest.mark.parametrize(
    ("line", "copied"),
    [
        ("COPY a.txt /to", {"to"}),
        ("COPY a.txt ./", {"w/a.txt"}),
        ("COPY a.txt folder to/", {"w/to/a.txt", "w/to/b.txt", "w/to/deep/c.txt"}),
        ("COPY folder /to", {"to/b.txt", "to/deep/c.txt"}),
    ],
)
def test_files_are_copied_by_name_and_folders_by_content(tmp_path, monkeypatch, line, copied):
    origin, root = tmp_path / "origin", tmp_path / "root"
    (origin / "folder" / "deep").mkdir(parents=True)
    for name in ("a.txt", "folder/b.txt", "folder/deep/c.txt"):
        (origin / name).write_text(name)
    root.mkdir()
    monkeypatch.setattr("os.chown", lambda *_, **__: None)
    copy(parse(line)[0], origin, Image(str(root), workdir="/w"))
    assert {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()} == copied


@pytest.mark.parametrize(
    ("patterns", "path", "ignored"),
    [
        ("*", "a/b.txt", True),
        ("*\n!a", "a/b.txt", False),
        ("*\n!a\n**/c", "a/b/c/d.txt", True),
        ("*\n!a\n**/c", "a/bc", False),
        ("!a\n*", "a", True),
        ("*.txt", "a/b.txt", False),
        ("**/*.txt", "b.txt", True),
        ("/a?", "ab/c", True),
        ("a.c", "abc", False),
        ("# a\n\n", "a", False),
    ],
)
def test_the_last_pattern_that_matches_decides(patterns, path, ignored):
    assert Ignore(patterns)(path) is ignored


def test_the_context_is_what_the_patterns_leave(tmp_path):
    (tmp_path / ".dockerignore").write_text("*\n!kept\n!other/one\n**/cache")
    for name in ("kept/a", "kept/cache/b", "kept/deep/c", "other/one", "other/two", "top"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert context_files(tmp_path) == ["kept/a", "kept/deep/c", "other/one"]
