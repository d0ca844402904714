"""rapids-slr profile: what it measures, what it writes, and how two profiles are compared."""

from __future__ import annotations

import ast
import copy
import json
import re
import subprocess
from pathlib import Path
from shutil import which

import numpy as np
import pytest
import torch
from rich.console import Console

from rapids_slr import marks, run
from rapids_slr.cli import main
from rapids_slr.clustering import JaccardDBSCAN
from rapids_slr.clustering.neighbours import Neighbours, nearest_neighbours
from rapids_slr.clustering.tiles import TILE
from rapids_slr.data.drawn.synth import synth_domain
from rapids_slr.errors import InputError
from rapids_slr.profiling.compare import changes, verdict
from rapids_slr.profiling.measure import Memory, Meter, Roofline, Work, arrays_of, measured, overhead
from rapids_slr.profiling.page import page_of
from rapids_slr.profiling.profile import FORMAT, profile_run, read_profile
from rapids_slr.profiling.report import amount, show
from rapids_slr.profiling.stages import STAGE_OF_MARK, STAGES, Workload, marked, short
from rapids_slr.session import Session
from rapids_slr.settings.spec import RunSpec, SynthSpec
from tests.clustering.cases import groups
from tests.conftest import TINY

CPU = torch.device("cpu")
DOCS = Path(__file__).parents[2] / "docs" / "profiling.md"


@pytest.fixture(scope="module")
def profiled(tmp_path_factory) -> tuple[Path, dict]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rapids_slr.profiling.measure.SIDE", {"cpu": 64})
        patch.setattr("rapids_slr.profiling.measure.TRIAD", {"cpu": 2**16})
        return profile_run(RunSpec.model_validate(TINY), tmp_path_factory.mktemp("profile") / "tiny", repetitions=2)


@pytest.fixture
def result(profiled) -> dict:
    return copy.deepcopy(profiled[1])


# The profile ----------------------------------------------------------------------------------------------------------


def test_every_stage_of_a_run_is_measured(result):
    unused = {"reliability", "HDBSCAN", "memory update"}
    assert list(result["stages"]) == [name for name in STAGES if name not in unused]
    for name, stage in result["stages"].items():
        seconds = stage["seconds"]
        assert len(seconds["runs"]) == 2, name
        assert 0 < seconds["low"] <= seconds["median"] <= seconds["high"], name
        assert stage["traced_seconds"] > 0, name
        assert stage["per_second"] == pytest.approx(stage["units"] / seconds["median"]), name
        assert stage["device"] is None, "there is no device to count for"
    calls = {name: stage["calls"] for name, stage in result["stages"].items()}
    assert calls["EMA"] == TINY["training"]["iterations"]
    assert calls["contingency"] == calls["projection"] == calls["embed"] == 1
    assert result["stages"]["embed"]["units"] == 48
    assert result["stages"]["training step"]["units"] == 4 * 4 * 4


def test_the_stages_are_the_measured_part(result):
    assert sum(sum(stage["seconds"]["runs"]) for stage in result["stages"].values()) == pytest.approx(
        result["accounted"] * sum(result["wall_seconds"])
    )
    assert 0.5 < result["accounted"] <= 1.0


def test_the_time_line_holds_each_stage_within_its_repetition(result):
    spans = result["timeline"]
    assert {span["stage"] for span in spans} == set(result["stages"])
    assert max(span["start"] + span["seconds"] for span in spans) <= 1.01 * max(result["wall_seconds"])
    (training,) = (span for span in spans if span["stage"] == "training step")
    averaging = [span for span in spans if span["stage"] == "EMA"]
    assert all(
        training["start"] <= span["start"]
        and span["start"] + span["seconds"] <= training["start"] + training["seconds"]
        for span in averaging
    )


def test_work_is_counted_where_it_can_be(result):
    stages = result["stages"]
    D, N = result["dim"], result["images"]
    assert stages["neighbours"]["flop"] == 2 * N * N * D  # a single block
    assert stages["neighbours"]["bytes"] >= 4 * N * D
    with_flop = {name for name, stage in stages.items() if stage["flop"]}
    assert {"embed", "neighbours", "training step", "EMA", "evaluation"} <= with_flop
    assert not with_flop & {"decode", "Jaccard graph", "DBSCAN", "contingency", "hard labels"}
    assert (stages["decode"]["bytes"], stages["decode"]["roofline_share"]) == (None, None)
    assert all(stage["roofline_share"] > 0 for name, stage in stages.items() if name != "decode")
    assert stages["training step"]["flop"] > stages["embed"]["flop"]


def test_the_folder_holds_the_profile_its_trace_and_its_page(profiled):
    folder, result = profiled
    assert read_profile(folder) == read_profile(folder / "profile.json") == result
    trace = json.loads((folder / "trace.json").read_text())
    names = {event.get("name") for event in trace["traceEvents"]}
    assert {f"stage: {name}" for name in result["stages"]} <= names
    assert (folder / "profile.html").read_text() == page_of(result)


def test_another_profile_goes_into_the_same_folder_but_none_into_that_of_a_run(profiled, monkeypatch):
    folder, result = profiled
    monkeypatch.setattr("rapids_slr.profiling.profile._measure", lambda *_: result)
    assert profile_run(RunSpec.model_validate(TINY), folder)[0] == folder
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "pretrained.pt").touch()
    try:
        with pytest.raises(InputError, match="already holds a run"):
            profile_run(RunSpec.model_validate(TINY), folder)
    finally:
        (folder / "checkpoints" / "pretrained.pt").unlink()


@pytest.mark.parametrize(
    ("changed", "stages"),
    [
        ({"refine": None}, {"cameras", "neighbours", "Jaccard graph", "DBSCAN", "guard"}),
        (
            {"refine": None, "evaluation": {"guard": False, "pick": "last"}},
            {"cameras", "neighbours", "Jaccard graph", "DBSCAN"},
        ),
        ({"clusters": {"method": "hdbscan", "min_cluster_size": 3}, "refine": None}, {"HDBSCAN", "guard"}),
        (
            {"clusters": TINY["clusters"] | {"cameras": "ignore"}, "refine": None},
            {"neighbours", "Jaccard graph", "DBSCAN", "guard"},
        ),
        (
            {"clusters": TINY["clusters"] | {"source_weight": 0.1, "also": [{"branch": "average"}]}},
            set(STAGES) - {"reliability", "HDBSCAN", "memory update"},
        ),
    ],
)
def test_a_spec_has_the_stages_that_it_needs(tmp_path, changed, stages):
    with Session(short(RunSpec.model_validate(TINY | changed)), tmp_path / "x") as session:
        work = Workload(session)
        meter, _ = measured(work)
        overhead(work, 1)
    others = {"decode", "embed", "targets", "training step", "EMA", "evaluation"}
    assert set(meter.seconds()) == stages | others
    assert work.units["embed"] == (96 if stages >= {"contingency"} else 48)
    source = synth_domain(SynthSpec.model_validate(TINY["data"]["source"]["synth"]))
    looks = 3 * 48 + len(source.query) + len(source.gallery)
    assert work.units["guard"] == (looks if "guard" in stages else 0)


def test_every_key_is_documented(result):
    page = DOCS.read_text()
    keys = set(result) | set(result["stages"]["embed"]) | set(result["overhead"]) | set(result["roofline"])
    keys |= set(result["stages"]["embed"]["seconds"]) | set(result["timeline"][0])
    keys |= set(result["stages"]["embed"]["host_peak_mb"])
    keys |= {"kernels", "to_device", "to_host", "count", "largest", "peak_mb"}
    assert [key for key in sorted(keys) if f"`{key}`" not in page] == []
    assert f"`format` is {FORMAT}" in page


# Marks ----------------------------------------------------------------------------------------------------------------


def test_every_stage_is_marked_somewhere():
    """A mark that is renamed in its room would leave an empty stage here."""
    found: set[str] = set()
    for file in Path(run.__file__).parent.rglob("*.py"):
        for call in ast.walk(ast.parse(file.read_text())):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in ("stage", "step"):
                found |= {word.value for word in call.args if isinstance(word, ast.Constant)}
    assert set(STAGE_OF_MARK) <= found
    assert found - set(STAGE_OF_MARK) == {"clusters", "refinement"}  # which hold nothing but steps


def test_nobody_hears_once_the_block_is_left():
    meter = Meter(CPU)
    with pytest.raises(RuntimeError, match="in between"), marked(meter.stage), marks.stage("features"):
        raise RuntimeError("in between")
    with marks.stage("features"):
        pass
    assert [span.stage for span in meter.spans] == ["embed"]


def test_marks_change_no_label():
    features_ND = groups(np.random.default_rng(0), 60, 8)
    plain = JaccardDBSCAN(k1=6, k2=3, pairs_per_image=3).fit_predict(features_ND)
    meter = Meter(CPU)
    with marked(meter.stage):
        again = JaccardDBSCAN(k1=6, k2=3, pairs_per_image=3).fit_predict(features_ND)
    assert np.array_equal(plain, again)
    assert list(meter.seconds()) == ["neighbours", "Jaccard graph", "DBSCAN"]


def test_time_within_a_stage_belongs_to_the_inner_one(monkeypatch):
    ticks = iter([0.0, 1.0, 3.0, 7.0, 20.0])  # made; outer begins; inner begins, ends; outer ends
    monkeypatch.setattr("rapids_slr.profiling.measure.time.perf_counter", lambda: next(ticks))
    meter = Meter(CPU)
    with meter.stage("outer"), meter.stage("inner"):
        pass
    assert meter.seconds() == {"inner": 4.0, "outer": 15.0}
    assert [(span.stage, span.start, span.seconds) for span in meter.spans] == [
        ("inner", 3.0, 4.0),
        ("outer", 1.0, 19.0),
    ]


def test_cuda_gets_ranges_of_the_same_names(monkeypatch):
    told: list[str] = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: told.append("wait"))
    monkeypatch.setattr(torch.cuda.nvtx, "range_push", told.append)
    monkeypatch.setattr(torch.cuda.nvtx, "range_pop", lambda: told.append("end"))
    meter = Meter(torch.device("cuda"))
    del told[:]
    with meter.stage("embed"):
        told.append("work")
    assert told == ["stage: embed", "wait", "work", "wait", "end"]


# Work and memory ------------------------------------------------------------------------------------------------------


def test_a_product_is_counted_as_by_hand():
    n, k, m = 7, 5, 3
    x, y = torch.ones(n, k), torch.ones(k, m)
    work = Work()
    with work.counting():
        with work("one"):
            x @ y
        with work("in place"):
            torch.mm(x, y, out=torch.empty(n, m))
        with work("outer"):
            x + 1
            with work("inner"):
                x @ y
    assert dict(work.flop) == {"one": 2 * n * k * m, "in place": 2 * n * k * m, "inner": 2 * n * k * m, "outer": 0}
    product = 4 * (n * k + k * m + n * m)
    assert dict(work.traffic) == {"one": product, "in place": product, "inner": product, "outer": 4 * 2 * n * k}


def test_an_average_of_parameters_is_counted_as_by_hand():
    teacher, student = ([torch.ones(4, 3), torch.ones(5)] for _ in range(2))
    work = Work()
    with work.counting(), work("EMA"):
        torch._foreach_lerp_(teacher, student, 0.5)
    assert (work.flop["EMA"], work.traffic["EMA"]) == (3 * 17, 3 * 4 * 17)


def test_views_and_what_is_expanded_move_nothing_more():
    work = Work()
    x = torch.ones(6, 1)
    with work.counting(), work("views"):
        torch.empty(100).view(10, 10).t()
    with work.counting(), work("expanded"):
        x.expand(6, 50).clone()
    with work.counting(), work("kept"):
        x.float()
    with work.counting(), work("converted"), torch.inference_mode():
        x.double()
    with work.counting(), work("picked"):
        torch.ones(1000, 4).index_select(0, torch.tensor([5, 7]))
    assert work.traffic["views"] == work.traffic["kept"] == 0
    assert work.traffic["converted"] == 6 * (4 + 8)
    assert work.traffic["picked"] == 4 * 4000 + 8 * 2 + 2 * 4 * 8  # the ones, the numbers, read and written rows
    assert work.traffic["expanded"] == 4 * (6 + 300)


@pytest.mark.parametrize("N", [30, 2 * TILE + 6])
def test_neighbours_are_counted_as_the_tiles_that_are_computed(N):
    D = 4
    features_ND = np.eye(D, dtype=np.float32)[np.arange(N) % D]
    work = Work()
    with work.counting(), work("neighbours"):
        neighbours = nearest_neighbours(features_ND, 3)
    entries = sum(min(TILE, N - row) * (N - row) for row in range(0, N, TILE))  # none below the diagonal
    assert work.flop["neighbours"] == 2 * D * entries
    work.seen("neighbours", ((features_ND, 3), {}, neighbours))
    work.seen("neighbours", features_ND)  # known already
    assert work.array_bytes("neighbours") == 4 * N * D + 2 * 4 * N * 3 + 4 * N


def test_arrays_are_found_in_containers_of_any_kind():
    x, y = np.ones(3), torch.ones(4)
    found = [array for _, array in arrays_of(({"a": [x]}, Neighbours(x, y, None), 5, None, "word", np.float32(1)))]
    assert [id(array) for array in found] == [id(x), id(x), id(y)]


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks start anew on Linux alone")
def test_memory_of_a_stage_is_its_own_and_that_of_the_stages_within():
    """The middle of three: a system short of memory takes pages from a process while it is looked at."""

    def fill(mb: int) -> None:
        np.ones(mb * 2**17).sum()

    found = []
    for _ in range(3):
        memory = Memory(CPU)
        with memory("outer"), memory("inner"):
            fill(120)
        with memory("small"):
            fill(30)
        assert memory.host["inner"].most > memory.host["inner"].added
        found.append(memory.host)
    added = {name: sorted(host[name].added for host in found)[1] for name in ("inner", "outer", "small")}
    assert added["inner"] == pytest.approx(120, abs=20)
    assert added["outer"] == pytest.approx(120, abs=20)
    assert added["small"] < 60


def test_the_roofline_names_what_bounds():
    roof = Roofline({"float32": 100.0, "bfloat16": 400.0}, 10.0)
    assert roof.least_seconds(200, 10, "float32") == (2.0, "compute")
    assert roof.least_seconds(200, 10, "bfloat16") == (1.0, "memory")
    assert roof.least_seconds(None, 30, "float32") == (3.0, "memory")
    assert roof.least_seconds(None, None, "float32") is None
    assert roof.best_of(Roofline({"float32": 90.0, "bfloat16": 500.0}, 11.0)) == Roofline(
        {"float32": 100.0, "bfloat16": 500.0}, 11.0
    )


# Comparing ------------------------------------------------------------------------------------------------------------


def test_a_profile_is_equal_to_itself(result):
    assert verdict(result, result) == ["nothing changed beyond the spreads"]
    rows = changes(result, result)
    assert set(rows) == set(result["stages"])
    assert all(row["seconds"] == 1 and not row["change"] for row in rows.values())


def test_what_changed_is_named(result):
    other = copy.deepcopy(result)
    seconds = other["stages"]["DBSCAN"]["seconds"]
    for name in ("low", "median", "high"):
        seconds[name] *= 100
    other["stages"]["projection"]["seconds"]["high"] *= 100  # a wide spread is no change
    other["spec"]["clusters"]["k1"] = 30
    other["stages"]["HDBSCAN"] = other["stages"].pop("contingency")
    rows = changes(result, other)
    assert {name: row["change"] for name, row in rows.items() if row["change"]} == {
        "DBSCAN": "faster",
        "contingency": "new",
        "HDBSCAN": "gone",
    }
    assert rows["DBSCAN"]["seconds"] == pytest.approx(0.01)
    assert changes(other, result)["DBSCAN"]["change"] == "slower"
    assert verdict(result, other) == [
        "the specs differ in clusters.k1",
        "changed beyond the spreads: DBSCAN faster (0.01 x), contingency new, HDBSCAN gone",
    ]
    assert "DBSCAN faster (0.01 x)" in page_of(result, other)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "No such file or directory; name a profile.json"),
        ("{", "is no profile.json"),
        ("[]", "it has no stages"),
        ('{"stages": {}, "format": 99}', "has format 99, this version reads 1"),
    ],
)
def test_what_is_no_profile_is_refused(tmp_path, text, message):
    path = tmp_path / "other.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_profile(path)


# The screen and the page ----------------------------------------------------------------------------------------------


def shown(result: dict, other: dict | None = None) -> str:
    console = Console(width=200, markup=False, highlight=False)
    with console.capture() as captured:
        show(result, other, console)
    return captured.get()


def test_the_table_has_a_row_a_stage_and_says_what_is_missing(result):
    text = shown(result)
    assert all(re.search(rf"│ {re.escape(name)} +│", text) for name in result["stages"])
    assert "no device columns: the engine is cpu (device: cpu was asked for)" in text
    assert "the weights are random" in text
    assert "what the device did" not in text
    assert "nothing changed beyond the spreads" in shown(result, result)


def test_on_cuda_there_are_device_columns(result):
    copies = {"count": 2, "bytes": 5000, "largest": 4000}
    for stage in result["stages"].values():
        stage["device"] = {
            "seconds": 0.25,
            "kernels": 17,
            "to_device": copies,
            "to_host": copies,
            "peak_mb": {"most": 300.0, "added": 20.0},
        }
    text = shown(result)
    assert "what the device did" in text
    assert re.search(r"embed +│ 250 │ +17 │ +2 │ +5 k │ +4 k │ +2 │ +5 k │ +4 k │ +300 │ +20", text)
    assert "no device columns" not in text
    assert "what the device did" in page_of(result)


def test_amounts_are_short():
    assert [amount(value) for value in (None, 12, 0.5, 1234, 999_600, 2.5e9)] == [
        "–",
        "12 ",
        "0.5 ",
        "1.23 k",
        "1 M",
        "2.5 G",
    ]


def test_the_page_needs_nothing_else_and_shows_every_stage(result):
    result["environment"]["device"] = "<script>alert(1)</script>"
    page = page_of(result)
    assert "<script" not in page
    assert not re.search(r"(src|href)=|url\(|@import|https?://", page)
    assert "prefers-color-scheme:dark" in page
    timeline, roofline = re.findall(r"<figure .*?</figure>", page, re.DOTALL)
    assert all(f">{name}</text>" in timeline for name in result["stages"])
    drawings = re.findall(r"<svg .*?</svg>", timeline, re.DOTALL)
    assert len(drawings) == 1 + (">The label stages alone</h4>" in timeline)
    assert all(">projection</text>" in drawing for drawing in drawings)
    assert all(f">{name}</text>" in roofline for name, stage in result["stages"].items() if stage["flop"])
    assert "Not in it, for want of a count of FLOP: decode, cameras, Jaccard graph" in roofline


def test_short_label_stages_are_drawn_again_larger(result):
    spans = [
        {"stage": "embed", "start": 0.0, "seconds": 9.0},
        {"stage": "neighbours", "start": 9.0, "seconds": 0.006},
        {"stage": "DBSCAN", "start": 9.006, "seconds": 0.002},
    ]
    whole, labels = re.findall(r"<svg .*?</svg>", page_of(result | {"timeline": spans}), re.DOTALL)[:2]
    assert ">embed</text>" in whole
    assert ">embed</text>" not in labels
    widths = re.findall(r'width="([\d.]+)" height="16"', labels)
    assert float(widths[0]) == pytest.approx(3 * float(widths[1]))
    assert ">milliseconds</text>" in labels
    spans[0]["seconds"] = 0.03  # the label stages are wide enough
    spans[1]["start"], spans[2]["start"] = 0.03, 0.036
    assert "The label stages alone" not in page_of(result | {"timeline": spans})


@pytest.mark.parametrize("width", [420, 1400])
def test_a_browser_draws_the_page(profiled, tmp_path, width):
    if (chromium := which("chromium")) is None:
        pytest.skip("no Chromium is installed (apt-get install chromium)")
    quiet = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    subprocess.run(
        [chromium, *quiet.split(), "--disable-component-update", "--disable-sync", f"--window-size={width},900",
         f"--user-data-dir={tmp_path / 'user'}", f"--screenshot={tmp_path / 'shot.png'}",
         (profiled[0] / "profile.html").as_uri()],
        check=True, capture_output=True, timeout=300,
    )  # fmt: skip
    from PIL import Image

    with Image.open(tmp_path / "shot.png") as shot:
        assert shot.size == (width, 900)
        assert len(shot.getcolors(2**24) or []) > 50


# The command ----------------------------------------------------------------------------------------------------------


def test_the_command_passes_on_what_it_is_told(profiled, tmp_path, monkeypatch, capsys):
    folder, result = profiled
    asked = []
    monkeypatch.setattr(
        "rapids_slr.profiling.profile.profile_run", lambda *args: asked.append(args) or (tmp_path / "x", result)
    )
    words = ["profile", "--set", "clusters.k1=7", "--device", "cpu", "--out", "x", "--repetitions", "3"]
    assert main([*words, "--compare", str(folder)]) == 0
    ((spec, out, repetitions, other),) = asked
    assert (spec.name, spec.clusters.k1, spec.device, out, repetitions) == ("quickstart", 7, "cpu", Path("x"), 3)
    assert other == result
    assert capsys.readouterr().out.endswith(f"nothing changed beyond the spreads\n{tmp_path / 'x'}\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["gone.yaml"], "gone.yaml: no such spec file"),
        (["--set", "seed"], "expected key=value"),
        (["--compare", "gone.json"], "gone.json: No such file"),
        (["--repetitions", "0"], "--repetitions"),
    ],
)
def test_bad_arguments_end_with_2(capsys, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    assert main(["profile", *words]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
