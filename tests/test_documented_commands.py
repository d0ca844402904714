"""Every command line of the documentation runs, as it stands, on small data that lie under the names it uses.

What a command would do for minutes or hours is made small by options that are put behind its own.
"""

from __future__ import annotations

import itertools
import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from rapids_slr.bench import FEATURES
from rapids_slr.cli import COMMANDS, GROUPS, main
from rapids_slr.data.drawn.synth import synth_domain, write_domain
from rapids_slr.data.pack import pack
from rapids_slr.labelfiles import write_features
from rapids_slr.reports import maps
from rapids_slr.settings.spec import RunSpec
from rapids_slr.settings.specfile import load_spec, spec_differences
from rapids_slr.sweep import processes, work
from tests.conftest import TINY
from tests.test_docs import PAGES, REPOSITORY, blocks
from tests.test_sweep import AtOnce


def documented_lines() -> list[list[str]]:
    """The words of every line of the ```console blocks, without comments, and of the examples in the help."""
    texts = [block for page in PAGES for block in blocks(page, "console")]
    texts += [command.example for command in COMMANDS.values()]
    lines = [line for text in texts for line in text.replace("\\\n", " ").splitlines()]
    found = [tuple(shlex.split(line, comments=True)) for line in lines]
    return [list(words) for words in dict.fromkeys(found) if words]


LINES = documented_lines()
IN_CONTAINER = [words[words.index("rapids-slr") :] for words in LINES if words[:2] == ["docker", "run"]]
OURS = [words[1:] for words in [*LINES, *IN_CONTAINER] if words[0] == "rapids-slr"]
OTHERS = [words for words in LINES if words[0] != "rapids-slr"]

# Small data under any name -------------------------------------------------------------------------------------------

SMALLER = {
    "data.height": 32,
    "data.width": 16,
    "data.channels": 3,
    "augment.pad": 2,
    "model": "{backbone: narrow, widths: [4, 8, 8], weights: none}",
    **{f"pretrain.{key}": value for key, value in TINY["pretrain"].items()},
    "pretrain.epochs": 1,
    **{f"clusters.{key}": value for key, value in TINY["clusters"].items()},
    "clusters.rho": "none",
    "clusters.source_weight": 0,
    **{f"training.{key}": value for key, value in TINY["training"].items()},
    "training.epochs": 1,
}
"""What makes any spec small, but for its data."""
SPECS = {
    "mine.yaml": ("docs/run-spec.md", 0),
    "my-run.yaml": ("README.md", 0),
    "alphas.yaml": ("README.md", 1),
    "mine-sweep.yaml": ("docs/first-steps.md", 0),
}
"""Files that commands name, and the block of a page that shows them."""


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Small domains as folders and archives, a run of two epochs on them, a profile and a sweep."""
    folder, tiny = tmp_path_factory.mktemp("made"), RunSpec.model_validate(TINY)
    with pytest.MonkeyPatch.context() as patch:
        make_it_quick(patch)
        patch.chdir(folder)
        for name in ("source", "target"):
            write_domain(synth_domain(getattr(tiny.data, name).synth), folder / name)
            pack(folder / name, folder / f"{name}.zip")
        paths = {"source": {"path": "source.zip"}, "target": {"path": "target.zip"}}
        spec = {**TINY, "data": {**TINY["data"], **paths}, "training": {**TINY["training"], "epochs": 2}}
        (folder / "spec.yaml").write_text(yaml.safe_dump(spec))
        (folder / "sweep.yaml").write_text(
            "spec: spec.yaml\nseeds: [0]\nset: {training.epochs: 1}\nmethods: {abmt: {refine: none}, slr: {}}\n"
        )
        assert main(["train", "spec.yaml", "--out", "run", "--no-report"]) == 0
        assert main(["profile", "spec.yaml", "--out", "profile", "--repetitions", "1"]) == 0
        assert main(["sweep", "sweep.yaml", "--out", "sweep"]) == 0
    return folder


def make_it_quick(patch: pytest.MonkeyPatch) -> None:
    """Leave out what takes long and is tested elsewhere: UMAP, the probe of a profile, the processes of a sweep."""
    patch.setattr(maps, "FEWEST", 10**9)
    patch.setattr("rapids_slr.profiling.measure.SIDE", {"cpu": 64})
    patch.setattr("rapids_slr.profiling.measure.TRIAD", {"cpu": 2**16})
    patch.setattr(work, "POLL_SECONDS", 0.02)
    patch.setattr(processes, "subprocess", SimpleNamespace(**{**vars(subprocess), "Popen": AtOnce}))


@pytest.fixture
def here(tmp_path, monkeypatch, made) -> Path:
    """A folder with data where the embedded specs look for none."""
    make_it_quick(monkeypatch)
    monkeypatch.chdir(tmp_path)
    for name in ("source.zip", "target.zip", "spec.yaml"):
        shutil.copy(made / name, tmp_path)
    return tmp_path


def put(made: Path, what: str, name: str) -> Path:
    """Lay a copy of something made under a name that a command uses."""
    path = Path(name)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (made / what).is_dir() else shutil.copy
        copy(made / what, path)
    return path


def after(words: list[str], option: str) -> str | None:
    return words[words.index(option) + 1] if option in words else None


def changes_in(words: list[str]) -> dict[str, str]:
    return dict(word.split("=", 1) for option, word in itertools.pairwise(words) if option == "--set")


def put_data(words: list[str], made: Path) -> list[str]:
    """Lay data under the paths that --set names; gives options that name the data of the spec where it does not."""
    changes = changes_in(words)
    added: dict[str, object] = {}
    for role in ("source", "target"):
        path = changes.get(f"data.{role}.path")
        if f"data.{role}" in changes:  # none
            continue
        if path is None:
            added[f"data.{role}.path"] = f"{role}.zip"
        else:
            put(made, f"{role}.zip", path)
    if checkpoint := changes.get("pretrain.checkpoint"):
        put(made, "run/checkpoints/pretrained.pt", checkpoint)
    return sets(added)


def sets(changes: dict[str, object]) -> list[str]:
    return [word for key, value in changes.items() for word in ("--set", f"{key}={value}")]


def put_spec(name: str | None, made: Path) -> None:
    """Lay the file of a spec or sweep: of a run, or the block of the page that shows it."""
    if name in SPECS:
        page, place = SPECS[name]
        Path(name).write_text(blocks(REPOSITORY / page, "yaml")[place])
    elif name is not None and name.endswith("/spec.yaml"):
        put(made, "run", str(Path(name).parent))


def argument(words: list[str]) -> str | None:
    """The first argument that is no option."""
    return words[1] if len(words) > 1 and not words[1].startswith("-") else None


# How to run each command ---------------------------------------------------------------------------------------------
# Lays what it needs, and gives the options to put behind its own.


def to_run(words: list[str], made: Path) -> list[str]:
    """train and pretrain."""
    if "--resume" in words:  # as if it had been stopped after its first epoch
        checkpoints = put(made, "run", after(words, "--out") or "") / "checkpoints"
        (checkpoints / "previous.pt").replace(checkpoints / "last.pt")
        return []
    put_spec(argument(words), made)
    out = [] if "--out" in words else ["--out", "out"]
    # A section that the line leaves out stays out.
    smaller = {key: value for key, value in SMALLER.items() if key.partition(".")[0] not in changes_in(words)}
    return [*put_data(words, made), *sets(smaller), "--device", "cpu", *out]


def to_adapt(words: list[str], made: Path) -> list[str]:
    if argument(words):
        return to_run(words, made)
    folder = after(words, "--out") or ""
    put(made, "run/spec.yaml", f"{folder}/spec.yaml")
    put(made, "run/checkpoints/pretrained.pt", f"{folder}/checkpoints/pretrained.pt")
    return []


def to_evaluate(words: list[str], made: Path) -> list[str]:
    put(made, "run", after(words, "--out") or "")
    return []


def to_report(words: list[str], made: Path) -> list[str]:
    for folder in itertools.takewhile(lambda word: not word.startswith("-"), words[1:]):
        put(made, "run", folder)
    return []


def to_profile(words: list[str], made: Path) -> list[str]:
    if other := after(words, "--compare"):
        put(made, "profile/profile.json", other)
    return [*to_run(words, made), "--repetitions", "1"]


def put_images(name: str, made: Path) -> None:
    """Lay an image, a folder of images or an archive under a name."""
    image = next((made / "target/bounding_box_train").iterdir()).relative_to(made)
    put(made, {"": "target/bounding_box_train", ".zip": "target.zip"}.get(Path(name).suffix, str(image)), name)


def to_search(words: list[str], made: Path) -> list[str]:
    put(made, "run", words[1])
    for name in reversed(words[2:4]):
        put_images(name, made)
    return []


def to_embed(words: list[str], made: Path) -> list[str]:
    put(made, "run", words[1])
    put_images(words[2], made)
    return []


def to_export(words: list[str], made: Path) -> list[str]:
    put(made, "run", words[1])
    if images := after(words, "--images"):
        put_images(images, made)
    return []


def to_sweep(words: list[str], made: Path) -> list[str]:
    """Sweeps that pages show run; of those that are embedded, which have up to 120 runs, the plan is checked."""
    if argument(words) is None:
        put(made, "sweep", after(words, "--out") or "")
        return []
    put_spec(argument(words), made)
    quick = sets(SMALLER | {"seeds": "[0]"}) if argument(words) in SPECS else ["--dry-run"]
    return [*put_data(words, made), *quick, "--device", "cpu"]


def to_refine(words: list[str], made: Path) -> list[str]:
    for epoch, name in enumerate(words[1:3], 1):
        put(made, f"run/labels/epoch-{epoch:03}.parquet", name)
    return []


def to_cluster(words: list[str], made: Path) -> list[str]:
    write_features(Path(words[1]), FEATURES["clustered"](400, 32), [f"{number}.png" for number in range(400)])
    return []


def to_check_data(words: list[str], made: Path) -> list[str]:
    put(made, "target.zip" if words[2].endswith(".zip") else "target", words[2])
    return []


def to_look_at_specs(words: list[str], made: Path) -> list[str]:
    for name in words[2:]:
        put_spec(name, made)
    return []


def nothing(words: list[str], made: Path) -> list[str]:
    return []


PREPARE: dict[str, Callable[[list[str], Path], list[str]]] = {
    "train": to_run,
    "pretrain": to_run,
    "adapt": to_adapt,
    "evaluate": to_evaluate,
    "report": to_report,
    "search": to_search,
    "embed": to_embed,
    "export": to_export,
    "sweep": to_sweep,
    "refine": to_refine,
    "cluster": to_cluster,
    "profile": to_profile,
    "data synth": lambda words, made: ["--identities", "3", "--images", "4", "--height", "32", "--width", "16"],
    "data check": to_check_data,
    "data pack": to_check_data,
    "spec schema": nothing,
    "spec show": to_look_at_specs,
    "spec check": to_look_at_specs,
    "bench labels": lambda words, made: ["--samples", "150", "--dim", "16", "--k1", "10", "--repeats", "1"],
    "doctor": nothing,
}


def command_of(words: list[str]) -> str:
    return " ".join(words[:2] if words[0] in GROUPS else words[:1])


@pytest.mark.parametrize("words", OURS, ids=" ".join)
def test_a_documented_command_runs(words, here, made):
    words = words[: words.index(">")] if ">" in words else words
    name = command_of(words)
    assert name in PREPARE, f"{name}: say in PREPARE what it needs, so that it can be run here"
    assert main([*words, *PREPARE[name](words, made)]) == 0


def test_every_command_is_documented():
    assert {command_of(words) for words in OURS} == set(COMMANDS)


# Other programs -------------------------------------------------------------------------------------------------------

LEFT_OUT = {
    "docker": "needs a daemon and several GB; what it runs inside is run",
    "debootstrap": "fetches several hundred MB",
    "mkdir": "makes a folder",
    "ls": "lists what is there",
    "compute-sanitizer": "needs a GPU",
    "cp": "copies what a sweep of hours leaves",
}
"""Programs whose lines are not looked at, and why."""


@pytest.mark.parametrize("words", OTHERS, ids=" ".join)
def test_a_documented_line_of_another_program_names_what_is_there(words):
    program, *rest = words
    if program in LEFT_OUT:
        pytest.skip(LEFT_OUT[program])
    if program == "make":
        targets = re.findall(r"^([\w-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
        assert [word for word in rest if "=" not in word and word not in targets] == []
    elif program == "python":
        assert rest[0] == "-m" or (REPOSITORY / rest[0]).is_file()
    elif program in ("pip", "uv"):
        extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        assert set(re.findall(r"\[([\w-]+)\]", " ".join(rest))) <= set(extras)
    else:
        assert program == "git", f"{program}: say here how its lines are looked at, or in LEFT_OUT why not"


# YAML -----------------------------------------------------------------------------------------------------------------

YAMLS = [(page, text) for page in PAGES if page.name != "adding.md" for text in blocks(page, "yaml")]
"""The spec of adding.md needs the pieces that it adds: tests/test_adding.py runs it."""


@pytest.mark.parametrize(("page", "text"), YAMLS, ids=[page.name for page, _ in YAMLS])
def test_a_documented_spec_is_read(page, text, here, capsys):
    """Sweeps name their methods; what is no whole spec, as it lacks data, changes the quick-start."""
    if "\nmethods:" in text:
        Path("sweep.yaml").write_text(text)
        changes = sets({"data.source.path": "source.zip", "data.target.path": "target.zip"})
        assert main(["sweep", "sweep.yaml", "--dry-run", *changes]) == 0
        assert " runs, 0 of them done" in capsys.readouterr().out
        return
    Path("spec.yaml").write_text(text)
    assert main(["spec", "check", "spec.yaml"]) == 0


def test_the_readme_shows_the_spec_that_it_names(here):
    """configs/omniglot.yaml in short: what is left out may differ, what is shown may not."""
    text = blocks(REPOSITORY / "README.md", "yaml")[0]
    Path("shown.yaml").write_text(text)
    differing = spec_differences(load_spec("shown.yaml"), load_spec("omniglot"))
    shown = [f"{section}.{key}" for section, keys in yaml.safe_load(text).items() if section != "name" for key in keys]
    assert differing
    assert [key for key in differing if key.startswith(tuple(shown))] == []
