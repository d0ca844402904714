"""The report of a tiny run: what is in it, what it needs, and what it says where something is missing."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from rapids_slr import disk
from rapids_slr.cli import main
from rapids_slr.data.domain import Split
from rapids_slr.data.store import ImageStore
from rapids_slr.errors import InputError, RunError
from rapids_slr.record.columns import Column, column_of
from rapids_slr.reports import try_report, write_report
from rapids_slr.reports.charts import FIGURES
from rapids_slr.reports.clusters import EpochLabels
from rapids_slr.reports.figures import RUN_FIGURES
from rapids_slr.reports.gather import gather_run
from rapids_slr.reports.page import page_of
from rapids_slr.reports.pictures import OF_CLUSTER, Map, Thumbs, cluster_sheet, hues, picture
from rapids_slr.reports.retrieval import QUERIES, TOP
from rapids_slr.settings.specfile import dump_spec, load_spec
from tests.conftest import TINY
from tests.reports.conftest import Page
from tests.test_run import changed

OUTSIDE = re.compile(r'(?:src|href|action|data)="(?!#|data:image/)|url\(|@import|<(?:script|link|iframe|base)\b')
"""What would make a page need something else than itself."""


def without_spec(text: str) -> str:
    """The page without the YAML that it quotes, whose words are text."""
    return re.sub(r"<pre.*?</pre>", "", text, flags=re.DOTALL)


def all_figures(runs: int = 1) -> list[str]:
    return [*FIGURES, "guard", *(f"run{i}-{name}" for i in range(1, runs + 1) for name in (*RUN_FIGURES, "retrieval"))]


def absent(text: str) -> dict[str, str]:
    """Figures that are not there, and the reason they give."""
    found = re.findall(r'<figure id="([^"]*)".*?</figure>', text, re.DOTALL)
    parts = re.split(r'<figure id="', text)[1:]
    reasons = (re.search(r'<p class="absent">(.*?)</p>', part) for part in parts)
    return {name: reason[1] for name, reason in zip(found, reasons, strict=True) if reason}


# A finished run -------------------------------------------------------------------------------------------------------


def test_every_figure_is_there_once(report):
    page = Page(report)
    assert sorted(page.ids("figure")) == sorted(all_figures())
    assert len(page.ids()) == len(set(page.ids()))
    assert absent(report).keys() <= {"run1-apart", "run1-rescued", "run1-moved"}  # there may be none of a kind


def test_the_page_needs_nothing_else(report):
    assert not OUTSIDE.search(without_spec(report))
    assert all(source.startswith("data:image/") for source in Page(report).attributes("src"))
    assert all(target.startswith("#") for target in Page(report).attributes("href"))


def test_links_lead_to_sections(report):
    page = Page(report)
    assert {target.removeprefix("#") for target in page.attributes("href")} <= set(page.ids("section"))


def test_headings_are_in_order(report):
    levels = [int(tag[1]) for tag, _ in Page(report).tags if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


def test_every_picture_can_be_read_out(report):
    for tag, found in Page(report).tags:
        if tag == "img":
            assert found["alt"]
        if tag == "svg" and found.get("aria-hidden") != "true":
            assert found["role"] == "img"
            assert found["aria-label"]
        if tag == "table":
            assert "scroll" in report  # it scrolls by itself on a narrow screen


def test_axes_have_names(report):
    for drawing in re.findall(r'<svg[^>]*class="(?:chart|square)".*?</svg>', report, re.DOTALL):
        assert drawing.count('class="name"') == 2, drawing[:200]


def test_figures_show_the_numbers_of_the_run(report, finished):
    summary = json.loads((finished / "summary.json").read_text())
    rows = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    page = Page(report)
    for name in ("direct", "direct_bn", "last"):
        assert f"{100 * summary[name]['mAP']:.1f}" in page.text["results"]
    for row in rows:
        assert f"mAP, epoch {row['epoch']}: {100 * row['mAP']:.1f} %" in page.text["scores"]
        assert f"refined clusters, epoch {row['epoch']}: {row['refined_clusters']}" in page.text["clusters"]
        assert f"raw, epoch {row['epoch']}: {row['raw_ari']:.3g}" in page.text["ari"]
    assert f"mAP, epoch 0: {100 * summary['direct_bn']['mAP']:.1f} %" in page.text["scores"]
    assert "pairs_per_image: 3" in page.text["run1-settings"]
    assert "training" in page.text["time"]


def test_every_column_of_a_run_has_a_name(finished):
    for name in ("metrics.jsonl", "pretrain.jsonl"):
        rows = [json.loads(line) for line in (finished / name).read_text().splitlines()]
        assert [key for row in rows for key in row if column_of(key) == Column(key, key) and key != "epoch"] == []


def test_every_loss_term_has_its_curve(copied):
    """Those of the host, whether or not this program knows them."""
    rows = [json.loads(line) for line in (copied / "metrics.jsonl").read_text().splitlines()]
    extra = {"loss/teacher_ce": 0.625, "loss/foreign": 3.5}
    (copied / "metrics.jsonl").write_text("".join(json.dumps(row | extra) + "\n" for row in rows))
    losses = Page(write_report([copied]).read_text()).text["losses"]
    for term in ("ce", "soft", "triplet"):
        assert f"{term}, epoch 3: {rows[-1][f'loss/{term}']:.3g}" in losses
    assert "teacher_ce, epoch 3: 0.625" in losses
    assert "teacher_ce: cross entropy of the teacher with the labels" in losses
    assert "foreign, epoch 3: 3.5" in losses
    assert losses.count("Less is better.") == 1


def test_the_report_opens_no_session(copied, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a session was opened to read a folder")

    monkeypatch.setattr("rapids_slr.session.Session.__init__", refuse)
    assert not gather_run(copied).faults


def test_a_contact_sheet_has_every_cluster(report, finished):
    table = pd.read_parquet(finished / "labels" / "epoch-003.parquet")
    sheet = re.search(r'<figure id="run1-contact".*?</figure>', report, re.DOTALL)[0]
    shown = {int(re.match(r"<h4>cluster (\d+)", strip)[1]): strip for strip in re.split("(?=<h4>)", sheet)[1:]}
    assert sorted(shown) == sorted(table.refined[table.refined >= 0].unique())
    for label, strip in shown.items():
        names, members = re.findall('alt="([^,]*), camera', strip), set(table.path[table.refined == label])
        assert set(names) <= members
        assert len(names) == min(len(members), OF_CLUSTER)


def test_a_retrieval_sheet_shows_the_worst_queries_first(report):
    sheet = re.search(r'<figure id="run1-retrieval".*?</figure>', report, re.DOTALL)[0]
    precision = [float(value) for value in re.findall(r"<h4>AP ([\d.]+) %", sheet)]
    assert precision == sorted(precision)
    for strip in re.split("(?=<h4>)", sheet)[1:]:
        query, *found = re.findall(r'alt="(?:rank (\d+), (right|wrong): )?[^"]*/(\d{4})_c(\d)[^"]*"', strip)
        assert [int(rank) for rank, *_ in found] == list(range(1, len(found) + 1))
        for _, mark, identity, camera in found:
            assert (mark == "right") == (identity == query[2])
            assert mark == "wrong" or camera != query[3]
        first = int(re.search(r"first match at rank (\d+)", strip)[1])
        assert first == next((int(rank) for rank, mark, *_ in found if mark == "right"), first)


def test_the_report_is_written_into_the_run_whole_or_not_at_all(copied, monkeypatch):
    assert write_report([copied]) == copied / "report.html"
    before = {path for path in copied.rglob("*")}
    (copied / "report.html").write_text("the report before")

    def full(path, write):
        path.touch()
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(disk, "fill", full)
        with pytest.raises(RunError, match=r"report\.html could not be written: No space left on device"):
            write_report([copied])
    assert (copied / "report.html").read_text() == "the report before"
    assert {path for path in copied.rglob("*")} == before


def test_nothing_else_in_the_run_is_touched(copied):
    def state() -> dict[Path, tuple[int, int]]:
        return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in copied.rglob("*") if path.is_file()}

    before = state()
    write_report([copied], copied.parent / "elsewhere.html")
    assert state() == before


# What is missing ------------------------------------------------------------------------------------------------------


def test_a_run_that_has_just_begun(copied):
    for name in ("metrics.jsonl", "pretrain.jsonl", "summary.json"):
        (copied / name).unlink()
    for name in ("labels", "checkpoints"):
        shutil.rmtree(copied / name)
    text = write_report([copied]).read_text()
    assert set(absent(text)) == set(all_figures())
    assert "just begun: no epoch is done yet" in text
    assert sorted(Page(text).ids("figure")) == sorted(all_figures())


def test_a_run_in_pretraining(copied):
    for name in ("metrics.jsonl", "summary.json"):
        (copied / name).unlink()
    shutil.rmtree(copied / "labels")
    (copied / "checkpoints/pretrained.pt").unlink()
    text = write_report([copied]).read_text()
    assert "pre-training: 2 of 2 epochs are done" in text
    assert not {"pretraining", "pretraining-rate"} & set(absent(text))
    assert {"scores", "time", "run1-map", "run1-retrieval"} <= set(absent(text))


def test_a_run_after_its_first_epoch(copied):
    """The lines and tables of one epoch, the second one cut off in the middle of a line."""
    first, second, _ = (copied / "metrics.jsonl").read_text().splitlines(keepends=True)
    (copied / "metrics.jsonl").write_text(first + second[: len(second) // 2])
    for name in ("summary.json", "labels/epoch-002.parquet", "labels/epoch-003.parquet"):
        (copied / name).unlink()
    text = write_report([copied]).read_text()
    missing = absent(text)
    assert missing["agreement"] == "It takes two finished epochs."
    assert missing["run1-projection"].startswith("The first epoch has none before it")
    assert not {"scores", "clusters", "run1-sizes", "run1-contact", "run1-retrieval", "run1-map"} & set(missing)
    assert "adapting: 1 of 3 epochs are done" in text
    assert "mAP, epoch 0: " in Page(text).text["scores"]  # from the checkpoint, where there is no summary


def test_a_network_without_an_epoch_answers_queries(copied):
    for name in (
        "metrics.jsonl",
        "summary.json",
        "checkpoints/last.pt",
        "checkpoints/previous.pt",
        "checkpoints/picked.pt",
    ):
        (copied / name).unlink()
    shutil.rmtree(copied / "labels")
    text = write_report([copied]).read_text()
    assert "run1-retrieval" not in absent(text)
    assert "the pre-trained network" in Page(text).text["run1-retrieval"]
    assert absent(text)["run1-map"] == "Not there: no epoch has left a label table yet."


def test_damaged_files_are_named_and_left_out(copied, caplog):
    (copied / "summary.json").write_text("{")
    last = copied / "labels/epoch-003.parquet"
    os.truncate(last, last.stat().st_size // 2)
    for name in ("last.pt", "previous.pt"):
        (copied / "checkpoints" / name).write_bytes(b"no checkpoint")
    text = write_report([copied]).read_text()
    noted = re.search(r'<div class="missing".*?</div>', text, re.DOTALL)[0]
    assert "summary.json cannot be read" in noted
    assert "epoch-003.parquet is damaged" in noted
    assert "no whole checkpoint is left" in noted
    assert "Labels of epoch 2" in text
    assert "no whole checkpoint is left" in absent(text)["run1-map"]
    assert "the report is made without pictures" in caplog.text


def test_images_that_are_gone_leave_curves_and_labels(copied):
    spec = load_spec(copied / "spec.yaml")
    (copied / "spec.yaml").write_text(dump_spec(changed(spec, data={"target": {"path": "gone.zip"}})))
    text = write_report([copied]).read_text()
    missing = absent(text)
    assert set(missing) == {f"run1-{name}" for name in ("map", "contact", "apart", "rescued", "moved", "retrieval")}
    assert all("gone.zip does not exist" in reason for reason in missing.values())
    assert "<img" not in text


def test_other_images_than_those_of_the_run_are_said(copied):
    spec = load_spec(copied / "spec.yaml")
    synth = spec.data.target.synth.model_dump() | {"images": 4, "identities": 4}
    (copied / "spec.yaml").write_text(dump_spec(changed(spec, data={"target": {"synth": synth}})))
    (fault,) = gather_run(copied).faults
    assert "images of the label table are not in data.target" in fault


def test_unknown_identities_leave_out_what_needs_them(copied):
    rows = [json.loads(line) for line in (copied / "metrics.jsonl").read_text().splitlines()]
    known = ("ari", "nmi", "pairs", "repeated", "purity", "identities")
    for row in rows:
        for key in [key for key in row if any(word in key for word in known) and not key.endswith("ari_prev")]:
            del row[key]
    (copied / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = write_report([copied]).read_text()
    assert {"ari", "nmi", "errors", "repeated"} <= set(absent(text))
    assert {"agreement", "clusters"}.isdisjoint(absent(text))
    assert "identities unknown" in text


def test_a_run_without_refinement_says_so(copied):
    spec = load_spec(copied / "spec.yaml")
    (copied / "spec.yaml").write_text(dump_spec(changed(spec, refine="none")))
    missing = absent(write_report([copied]).read_text())
    assert "refine: none" in missing["run1-soft"]
    assert "run1-projection" not in missing


def test_soft_labels_of_several_clusterings_are_left_out(copied):
    spec = load_spec(copied / "spec.yaml")
    (copied / "spec.yaml").write_text(dump_spec(changed(spec, clusters={"also": [{"pairs_per_image": 2}]})))
    missing = absent(write_report([copied]).read_text())
    assert "clusters.also" in missing["run1-soft"]
    assert "clusters.also" in missing["entropy"]
    assert "run1-projection" not in missing


def test_no_folder_of_a_run_is_bad_input(tmp_path):
    with pytest.raises(InputError, match=r"holds no run \(no spec.yaml\)"):
        write_report([tmp_path])


# What others wrote ----------------------------------------------------------------------------------------------------

HOSTILE = """"><img src=x onerror=alert(1)><script>alert('1')</script>&'"""


def test_hostile_names_stay_text(finished, monkeypatch):
    run = gather_run(finished)
    run.name = HOSTILE
    run.faults.append(HOSTILE)
    run.path = Path(HOSTILE)
    run.summary["device"] = run.summary["versions"]["torch"] = HOSTILE
    run.pictures.network = HOSTILE
    for sheet in (run.pictures.clusters, run.pictures.of_task["retrieval"]):
        for strip in sheet.strips:
            object.__setattr__(strip, "title", HOSTILE)
            for part in strip.parts:
                object.__setattr__(part, "name", HOSTILE)
                for thumb in part.thumbs:
                    object.__setattr__(thumb, "description", HOSTILE)
    run.pictures.map.tips[:] = [HOSTILE] * len(run.pictures.map.tips)
    other = gather_run(finished)
    other.name = HOSTILE + "2"
    for runs in ([run], [run, other]):
        text = page_of(runs)
        assert HOSTILE not in text
        found = Page(text)
        assert all(tag != "script" for tag, _ in found.tags)
        assert not [name for _, attributes in found.tags for name in attributes if name.startswith("on")]
        assert all(source.startswith("data:image/") for source in found.attributes("src"))


# Several runs ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def baseline(copied) -> Path:
    """The run again, as if it had been without refinement and broken off."""
    spec = load_spec(copied / "spec.yaml")
    (copied / "spec.yaml").write_text(dump_spec(changed(spec, refine="none", training={"lr": 1e-3})))
    (copied / "summary.json").unlink()
    return copied


def test_two_runs_stand_side_by_side(finished, baseline, tmp_path):
    text = write_report([finished, baseline], tmp_path / "both.html").read_text()
    found = Page(text)
    assert sorted(found.ids("figure")) == sorted(all_figures(2))
    assert len(found.ids()) == len(set(found.ids()))
    assert not OUTSIDE.search(without_spec(text))
    for name in ("finished", "copied"):  # both specs have one name, so the folders tell the runs apart
        assert f"{name}, mAP, epoch 3: " in found.text["scores"]
        assert name in found.text["clusters"]
        assert name in found.text["time"]
    differing = re.search(r"Settings that differ</caption>.*?</table>", text, re.DOTALL)[0]
    assert re.findall(r'scope="row" class="text">(.*?)</th>', differing) == [
        key for key in differing_keys(finished, baseline)
    ]
    assert "copied: The run is not finished" in text


def differing_keys(one: Path, other: Path) -> list[str]:
    """Keys of two specs whose values differ, by comparing every leaf of the YAML."""

    def leaves(values, prefix=""):
        for key, value in values.items():
            if isinstance(value, dict):
                yield from leaves(value, f"{prefix}{key}.")
            else:
                yield prefix + key, value

    first, second = (dict(leaves(load_spec(path / "spec.yaml").model_dump())) for path in (one, other))
    return [key for key in {**first, **second} if first.get(key, "absent") != second.get(key, "absent")]


def test_several_runs_need_a_file(finished, baseline):
    with pytest.raises(InputError, match="2 runs go into one report; say where with --out FILE"):
        write_report([finished, baseline])


def test_the_same_run_twice_has_two_names(finished, tmp_path):
    found = Page(write_report([finished, finished], tmp_path / "both.html").read_text())
    assert "finished (2)" in found.text["results"]


# Pieces ---------------------------------------------------------------------------------------------------------------


def test_wrong_images_of_a_cluster_are_marked_and_shown_beside_right_ones():
    """Cluster 0 holds 3 images of one identity and 20 of another, cluster 1 one identity, cluster 2 two and one."""
    refined = np.repeat([0, 0, 1, 2, 2, -1], [3, 20, 5, 2, 1, 4]).astype(np.int32)
    identity = np.repeat([1, 2, 3, 4, 5, 6], [3, 20, 5, 2, 1, 4]).astype(np.int32)
    N = len(refined)
    names = tuple(f"{i}.png" for i in range(N))
    cameras = np.arange(N, dtype=np.int32) % 2
    labels = EpochLabels(1, list(names), cameras, refined, refined, refined, np.ones(N, np.float32))
    store = ImageStore(torch.zeros(N, 1, 8, 8, dtype=torch.uint8), torch.device("cpu"))
    split = Split(names, identity, cameras)

    sheet = cluster_sheet(labels, np.arange(N), Thumbs(split, store, identity))
    assert [(strip.title, strip.facts) for strip in sheet.strips] == [
        ("cluster 0", "23 images · 3 wrong · 2 cameras"),
        ("cluster 2", "3 images · 1 wrong · 2 cameras"),
        ("cluster 1", "5 images · one identity · 2 cameras"),
    ]
    wrong = [{t.description.split(".")[0] for t in s.parts[0].thumbs if t.right is False} for s in sheet.strips]
    assert wrong == [{"0", "1", "2"}, {"30"}, set()]
    assert [len(strip.parts[0].thumbs) for strip in sheet.strips] == [OF_CLUSTER, 3, 5]
    unknown = cluster_sheet(labels, np.arange(N), Thumbs(split, store, None))
    assert [strip.title for strip in unknown.strips] == ["cluster 0", "cluster 1", "cluster 2"]
    assert all(thumb.right is None for strip in unknown.strips for thumb in strip.parts[0].thumbs)


def test_clusters_that_lie_close_have_different_hues():
    places = np.array([[0.0, 0], [1, 0], [0, 1], [50, 50], [51, 50], [50, 51]])
    label = np.repeat(np.arange(6), 3)
    xy = places[label] + 0.01 * np.random.default_rng(0).normal(size=(18, 2))
    found = hues(Map("UMAP", np.vstack([xy, [[9, 9]]]), np.append(label, -1), [""] * 19, 19), 3)
    assert found[-1] == -1
    by_cluster = found[:-1].reshape(6, 3)
    assert (by_cluster == by_cluster[:, :1]).all()
    assert len(set(by_cluster[:3, 0])) == len(set(by_cluster[3:, 0])) == 3


@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_is_small_and_whole(channels):
    import base64
    import io

    pixels = np.random.default_rng(0).integers(0, 256, (channels, 256, 128), np.uint8)
    kind, data = picture(pixels).removeprefix("data:image/").split(";base64,")
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    assert image.format.lower() == kind
    assert image.size == (40, 80)
    assert image.convert("L").resize((1, 1)).getpixel((0, 0)) == pytest.approx(128, abs=12)


def test_a_thousand_images_stay_below_15_megabytes(tmp_path, finished):
    """The most pictures a report can hold, of noise, which no codec makes small."""
    from rapids_slr.reports import pictures

    largest = len(picture(np.random.default_rng(0).integers(0, 256, (3, 256, 128), np.uint8)))
    most = pictures.CLUSTERS * pictures.OF_CLUSTER + 3 * 3 * pictures.CHANGED * pictures.OF_CHANGE + QUERIES * (1 + TOP)
    assert most * (largest + 300) < 13_000_000
    assert (write_report([finished], tmp_path / "report.html")).stat().st_size < 1_000_000


# The command ----------------------------------------------------------------------------------------------------------


def test_the_command_prints_the_file(copied, capsys, tmp_path):
    assert main(["report", str(copied), "--out", str(tmp_path / "r.html"), "--device", "cpu"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'r.html'}\n"
    assert Page((tmp_path / "r.html").read_text()).ids("figure")


def test_the_command_refuses_what_is_no_run(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 2
    assert "holds no run" in capsys.readouterr().err


def test_a_report_that_fails_loses_no_run(copied, monkeypatch, caplog):
    def fails(*_):
        raise ZeroDivisionError("no report today")

    monkeypatch.setattr("rapids_slr.reports.page_of", fails)
    try_report(copied, "cpu")
    assert f"the run is whole, try `rapids-slr report {copied}`" in caplog.text


@pytest.mark.parametrize("words", [[], ["--no-report"]])
def test_train_ends_with_the_report(tmp_path, monkeypatch, capsys, words):
    asked = []
    monkeypatch.setattr("rapids_slr.run.train", lambda spec, out, resume: tmp_path / "run")
    monkeypatch.setattr("rapids_slr.reports.try_report", lambda *arguments: asked.append(arguments))
    (tmp_path / "spec.yaml").write_text(json.dumps(TINY))
    assert main(["train", str(tmp_path / "spec.yaml"), *words]) == 0
    assert asked == ([] if words else [(tmp_path / "run", "cpu")])
    assert capsys.readouterr().out == f"{tmp_path / 'run'}\n"
