"""Search with a trained network: the ranking against plain NumPy, what is left out, the files and the sheet."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from rapids_slr import search as search_module
from rapids_slr.cli import main
from rapids_slr.data.decode import decode
from rapids_slr.engine import blocks
from rapids_slr.errors import InputError, RunError
from rapids_slr.evaluation import rerank, reranking
from rapids_slr.files import save_tensors
from rapids_slr.networks.checkpoint import description, load_trained, new_network, save_network
from rapids_slr.networks.network import Network
from rapids_slr.reports import matches as sheet_module
from rapids_slr.search import search, top_matches, write_matches
from rapids_slr.settings.spec import RunSpec
from rapids_slr.settings.specfile import dump_spec
from tests.conftest import TINY
from tests.data.handmade import MARKET, make_files, noise, zip_of
from tests.reports.conftest import Page

SPEC = RunSpec.model_validate(TINY)


def unit(rows: int, D: int = 24, seed: int = 0) -> torch.Tensor:
    x = np.random.default_rng(seed).standard_normal((rows, D))
    return torch.from_numpy((x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32))


def ranked_by_numpy(query, gallery, top: int) -> tuple[np.ndarray, np.ndarray]:
    """The whole matrix, sorted."""
    cosine = query.numpy().astype(np.float64) @ gallery.numpy().astype(np.float64).T
    order = np.argsort(-cosine, axis=1, kind="stable")[:, :top]
    return order, np.take_along_axis(cosine, order, axis=1)


@pytest.fixture(scope="module")
def network() -> Network:
    torch.manual_seed(7)
    network = new_network(SPEC)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
    return network.eval()


@pytest.fixture(scope="module")
def checkpoint(network, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "pretrained.pt"
    save_network(path, network, SPEC)
    return path


def draw(folder: Path, names: list[str]) -> Path:
    """Different images under these names."""
    for seed, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise(5, 3, 3, seed=seed)).resize((20, 40)).save(folder / name)
    return folder


@pytest.fixture
def photos(tmp_path) -> Path:
    return draw(tmp_path / "photos", [f"{'deep/er/' if i % 3 else ''}photo {i}.png" for i in range(17)])


@pytest.fixture
def wanted(tmp_path) -> Path:
    for seed in range(4):
        (tmp_path / "wanted").mkdir(exist_ok=True)
        Image.fromarray(noise(5, 3, 3, seed=100 + seed)).resize((30, 30)).save(tmp_path / "wanted" / f"{seed}.jpg")
    return tmp_path / "wanted"


# Ranking --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("Q", "G", "top"), [(5, 300, 10), (1, 1, 1), (40, 7, 7), (3, 500, 200)])
def test_the_ranking_is_that_of_the_whole_matrix(Q, G, top):
    query, gallery = unit(Q, seed=1), unit(G, seed=2)
    index, similarity = top_matches(query, gallery, top)
    expected, cosine = ranked_by_numpy(query, gallery, top)
    assert_array_equal(index.numpy(), expected)
    assert_allclose(similarity.numpy(), cosine, atol=1e-6)
    assert (np.diff(similarity.numpy(), axis=1) <= 0).all()


@pytest.mark.parametrize(("rows", "columns", "space"), [(1, 1, 1), (3, 5, 1 << 14), (7, 64, 1 << 28)])
def test_blocks_do_not_change_the_answer(monkeypatch, rows, columns, space):
    query, gallery = unit(20, seed=1), unit(150, seed=2)
    gallery[50:100] = gallery[:50]  # twins
    whole = top_matches(query, gallery, 9)
    monkeypatch.setattr(blocks, "BLOCK", rows)
    monkeypatch.setattr(blocks, "STRIP", columns)
    monkeypatch.setattr(search_module, "SETTLED", space)
    for one, other in zip(whole, top_matches(query, gallery, 9), strict=True):
        assert torch.equal(one, other)


def test_another_order_of_the_gallery_gives_the_same_images():
    query, gallery = unit(12, seed=1), unit(90, seed=2)
    order = torch.randperm(90, generator=torch.Generator().manual_seed(3))
    index, similarity = top_matches(query, gallery, 6)
    moved, again = top_matches(query, gallery[order], 6)
    assert torch.equal(order[moved], index)
    assert torch.equal(again, similarity)


def test_equal_images_rank_by_their_place():
    gallery = unit(1).repeat(30, 1)
    index, similarity = top_matches(unit(1), gallery, 8)
    assert index.tolist() == [list(range(8))]
    assert_allclose(similarity, 1, atol=1e-6)


def test_an_own_row_is_no_answer():
    rows = unit(6)
    index, similarity = top_matches(rows, rows, 6, own_Q=np.array([0, 1, 2, -1, 4, 5]))
    assert (index[:, 0] != torch.arange(6)).tolist() == [True, True, True, False, True, True]
    assert [sorted(row) for row in index[[0, 3]].tolist()] == [[-1, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5]]
    assert torch.equal(index[:, -1] == -1, torch.isnan(similarity[:, -1]))
    alone, none = top_matches(rows[:1], rows[:1], 3, own_Q=np.array([0]))
    assert alone.tolist() == [[-1]]
    assert none.isnan().all()


def test_features_that_cannot_be_ranked_are_refused():
    good = unit(4)
    with pytest.raises(InputError, match=r"expected \(Q, D\) and \(G, D\), got \(4, 24\) and \(4, 20\)"):
        top_matches(good, good[:, :20], 2)
    with pytest.raises(InputError, match="top: expected 1 or more answers, got 0"):
        top_matches(good, good, 0)
    broken = good.clone()
    broken[2, 0] = torch.nan
    with pytest.raises(InputError, match="gallery: NaN or infinite values in 1 of 4 rows: 2"):
        top_matches(good, broken, 2)


# Networks -------------------------------------------------------------------------------------------------------------


def test_of_an_adaptation_the_teacher_is_taken(network, tmp_path):
    other = network.frozen_copy()
    torch.nn.init.ones_(other.necks[0].weight.mul_(2))
    state = {"stage": "adapt", "epoch": 3, "student": network.state_dict(), "teacher": other.state_dict()}
    save_tensors(tmp_path / "last.pt", state | description(SPEC))
    found = load_trained(tmp_path / "last.pt")
    assert found.which == "the teacher after epoch 3"
    assert (found.data.height, found.data.width, found.data.channels) == (32, 16, 3)
    for name, weights in other.state_dict().items():
        assert torch.equal(weights, found.network.state_dict()[name]), name
    assert not found.network.training
    assert not any(parameter.requires_grad for parameter in found.network.parameters())


def test_a_run_folder_gives_its_last_whole_checkpoint(network, checkpoint, tmp_path):
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    with pytest.raises(InputError, match="run holds no checkpoint; name the folder of a run"):
        load_trained(folder)
    pretraining = {"stage": "pretrain", "epoch": 1, "network": network.state_dict()} | description(SPEC)
    save_tensors(folder / "checkpoints/last.pt", pretraining)
    assert load_trained(folder).which == "the network in pre-training, epoch 1"
    shutil.copy(checkpoint, folder / "checkpoints/pretrained.pt")
    assert load_trained(folder).which == "the pre-trained network"
    adapted = {"stage": "adapt", "epoch": 2, "teacher": network.state_dict()} | description(SPEC)
    save_tensors(folder / "checkpoints/previous.pt", adapted)
    (folder / "checkpoints/last.pt").write_bytes(b"cut off")
    assert load_trained(folder).which == "the teacher after epoch 2"


def test_a_checkpoint_of_before_needs_the_spec_of_its_run(network, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    path = tmp_path / "checkpoints" / "last.pt"
    save_tensors(path, {"stage": "adapt", "epoch": 3, "teacher": network.state_dict()})
    with pytest.raises(InputError, match=r"does not say how its images are resized .* put the spec\.yaml of its run"):
        load_trained(path)
    (tmp_path / "spec.yaml").write_text(dump_spec(SPEC))
    found = load_trained(path)
    assert (found.data.height, found.data.mean) == (32, SPEC.data.mean)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"network": None}, "is not a checkpoint of this program: it holds no network"),
        ({"network": {}}, r"its weights are of another network than it names \(narrow\)"),
        ({"model": {"backbone": "wide"}}, "describes its network in a way this version does not know: backbone"),
        ({"images": {"height": 32}}, r"describes its network in a way this version does not know \('width'\)"),
    ],
)
def test_a_checkpoint_of_something_else_is_refused(checkpoint, tmp_path, change, message):
    save_tensors(tmp_path / "other.pt", torch.load(checkpoint, weights_only=True) | change)
    with pytest.raises(InputError, match=message):
        load_trained(tmp_path / "other.pt")


# Searching ------------------------------------------------------------------------------------------------------------


def by_hand(network: Network, folder: Path, names: tuple[str, ...]) -> torch.Tensor:
    """Features of images, opened and embedded one by one."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (SPEC.data.mean, SPEC.data.std))
    rows = []
    for name in names:
        with Image.open(folder / name) as image:
            pixels = torch.from_numpy(decode(image, SPEC.data).copy()).float()
        with torch.no_grad():
            necked = torch.cat(network(((pixels / 255 - mean) / std)[None]).necked, dim=1)[0]
        rows.append(necked / necked.norm())
    return torch.stack(rows)


def test_a_search_finds_what_features_by_hand_find(network, checkpoint, photos, wanted, monkeypatch):
    monkeypatch.setattr(search_module, "CHUNK", 5)
    found = search(checkpoint, wanted, photos, top=6, device="cpu")
    names = found.gallery.split.names
    assert len(names) == 17
    index, cosine = ranked_by_numpy(
        by_hand(network, wanted, found.query.split.names), by_hand(network, photos, names), 6
    )
    assert_allclose(found.similarity_QK, cosine, atol=1e-5)
    assert_array_equal(found.index_QK, index)
    assert not found.itself_Q.any()
    assert found.faults == []
    zipped = search(checkpoint, wanted, zip_of(photos), top=6, device="cpu")
    assert zipped.gallery.split.names == names
    assert_array_equal(zipped.index_QK, index)


def test_a_file_is_not_its_own_answer(checkpoint, photos, tmp_path):
    every = search(checkpoint, photos, photos, top=17, device="cpu")
    assert every.itself_Q.all()
    for row in range(17):
        assert {i for _, i, _, _ in every.answers(row)} == set(range(17)) - {row}
    name = every.query.split.names[0]
    one = search(checkpoint, photos / name, photos, top=4, device="cpu")
    assert_array_equal(one.index_QK[0], every.index_QK[0, :4])
    shutil.copy(photos / name, tmp_path / "copy.png")
    copied = search(checkpoint, tmp_path / "copy.png", photos, top=4, device="cpu")
    assert not copied.itself_Q.any()
    assert copied.index_QK[0, 0] == 0
    assert copied.similarity_QK[0, 0] == pytest.approx(1, abs=1e-5)


def test_broken_images_are_named_and_the_others_searched(checkpoint, photos, wanted):
    whole = search(checkpoint, wanted, photos, top=5, device="cpu")
    (photos / "broken.jpg").write_bytes(b"\xff\xd8 no picture")
    (photos / "cut.png").write_bytes((photos / "photo 0.png").read_bytes()[:60])
    found = search(checkpoint, wanted, photos, top=5, device="cpu")
    assert [fault.where for fault in found.faults] == [f"{photos}/broken.jpg", f"{photos}/cut.png"]
    assert "no kind of image that Pillow knows" in found.faults[0].what
    names = [[matches.gallery.split.names[i] for i in matches.index_QK.ravel()] for matches in (whole, found)]
    assert names[0] == names[1]


def test_nothing_but_broken_images_is_an_error(checkpoint, wanted, tmp_path):
    make_files(tmp_path / "bad", [], **{})
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "x.png").write_bytes(b"no")
    with pytest.raises(InputError, match=r"bad: no image can be read: 1 fault\n.*x\.png"):
        search(checkpoint, wanted, tmp_path / "bad", device="cpu")


def test_more_answers_than_images_are_refused(checkpoint, photos, wanted):
    with pytest.raises(InputError, match=r"--top 18: .*photos holds 17 images; ask for 1 to 17"):
        search(checkpoint, wanted, photos, top=18, device="cpu")
    assert search(checkpoint, photos, wanted, device="cpu").top == 4  # none asked for: all of a small gallery


def test_identities_are_compared_within_one_data_set_alone(checkpoint, tmp_path):
    folder = draw(tmp_path / "market", list(MARKET))
    found = search(checkpoint, folder, folder, device="cpu")
    assert found.identified
    for row, person in enumerate((1, 3)):
        people = found.gallery.split.identities
        assert found.query.split.identities[row] == person
        judged = {int(people[i]): right for _, i, _, right in found.answers(row)}
        assert judged == {1: person == 1, 3: person == 3, 0: False, -1: None}
    first = [next(found.answers(row))[3] for row in range(2)]
    assert found.right_first() == (first.count(True), 2 - first.count(None))
    draw(tmp_path / "other", list(MARKET))
    apart = search(checkpoint, tmp_path / "other", folder, device="cpu")
    assert not apart.identified
    assert {right for _, _, _, right in apart.answers(0)} == {None}
    assert apart.right_first() == (0, 0)


# Files ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["free", "market"])
def test_the_files_hold_every_answer(checkpoint, tmp_path, photos, wanted, layout):
    asked, offered = (wanted, photos) if layout == "free" else (draw(tmp_path / "market", list(MARKET)),) * 2
    found = search(checkpoint, asked, offered, top=3, device="cpu")
    table, document = write_matches(found, tmp_path / "out")
    with open(table, newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * len(found.query)
    assert ("right" in rows[0]) == (layout == "market")
    held = json.loads(document.read_text())
    assert (held["queries"], held["images"], held["top"]) == (len(found.query), len(found.gallery), 3)
    assert ("mAP" in held, "identity" in held["matches"][0]) == (False, layout == "market")
    answers = [(entry["name"], answer) for entry in held["matches"] for answer in entry["answers"]]
    for row, (name, answer) in zip(rows, answers, strict=True):
        assert (row["query"], int(row["rank"]), row["gallery"]) == (name, answer["rank"], answer["name"])
        assert float(row["similarity"]) == answer["similarity"]
    assert [row["gallery"] for row in rows[:3]] == [found.gallery.split.names[i] for i in found.index_QK[0]]


def test_a_place_that_cannot_be_written_is_said(checkpoint, photos, wanted, tmp_path):
    found = search(checkpoint, wanted, photos, device="cpu")
    (tmp_path / "file").write_text("")
    with pytest.raises(
        RunError, match=r"matches\.csv could not be written: .*; free some space, or name another --out"
    ):
        write_matches(found, tmp_path / "file")


def test_the_command_writes_a_sheet_that_needs_nothing_else(checkpoint, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sheet_module, "ANSWERS", 4)
    odd = 'a & <b> "c".png'
    draw(tmp_path / "all", [odd, *(f"{i}.png" for i in range(8))])
    (tmp_path / "all" / "broken.png").write_bytes(b"no")
    words = ["search", str(checkpoint), "all", "all", "--top", "6", "--out", "found", "--device", "cpu"]
    assert main(words) == 0
    printed = capsys.readouterr()
    assert printed.out.endswith("found/search.html\n")
    assert "9 queries in 9 images" in printed.out
    assert printed.err.count("broken.png: cannot be read") == 1
    assert "9 of 9 queries are in the gallery; a file is not its own answer" in printed.err
    text = (tmp_path / "found/search.html").read_text()
    page = Page(text)
    assert page.ids("figure") == ["answers"]
    assert odd in page.text["answers"]
    assert "+ 2" in page.text["answers"]
    images = [found for tag, found in page.tags if tag == "img"]
    assert len(images) == 9 * (1 + 4)
    assert all(image["src"].startswith("data:image/") and image["alt"] for image in images)
    assert not [tag for tag, _ in page.tags if tag in ("script", "link", "iframe")]
    assert "http" not in text
    assert "right" not in page.text["answers"].replace("Copyright", "")
    assert {path.name for path in (tmp_path / "found").iterdir()} == {"search.html", "matches.csv", "matches.json"}


def test_the_sheet_shows_the_first_queries_and_says_so(checkpoint, photos, wanted, tmp_path, monkeypatch):
    monkeypatch.setattr(sheet_module, "QUERIES", 2)
    drawn: list[int] = []
    found = search(checkpoint, wanted, photos, top=2, device="cpu")
    page = Page(sheet_module.write_sheet(found, tmp_path, drawn.append).read_text())
    assert drawn == [1, 1]
    assert "queries: 2 of 4; all are in matches.csv" in page.text["answers"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["absent.pt", "photos", "photos"], "absent.pt: no such checkpoint"),
        (["photos/photo 0.png", "photos", "photos"], "is damaged or not a checkpoint of this program"),
        (["photos", "photos", "photos"], "holds no checkpoint"),
        (["CHECKPOINT", "nowhere", "photos"], "nowhere does not exist"),
        (["CHECKPOINT", "photos", "photos", "--top", "0"], "--top 0: photos holds 17 images; ask for 1 to 17"),
    ],
)
def test_bad_words_end_with_what_to_do(checkpoint, photos, monkeypatch, capsys, words, message):
    monkeypatch.chdir(photos.parent)
    words = [str(checkpoint) if word == "CHECKPOINT" else word for word in words]
    assert main(["search", *words]) == 2
    assert message in capsys.readouterr().err
    assert not Path("search").exists()


def test_reranked_answers_are_in_the_order_of_reranked_distances(monkeypatch):
    query, gallery = unit(20, seed=1), unit(60, seed=2)
    own_Q = np.full(20, -1)
    own_Q[3] = 11
    distances = rerank(query, gallery)
    distances[3, 11] = np.inf
    monkeypatch.setattr(reranking, "BLOCK", 7)
    index_QK, similarity_QK = search_module.reranked_matches(query, gallery, 5, own_Q)
    cosine = (query @ gallery.T).gather(1, index_QK)
    assert_allclose(similarity_QK.numpy(), cosine.numpy(), atol=1e-6)
    assert_allclose(distances.gather(1, index_QK), distances.sort(dim=1).values[:, :5], atol=1e-6)
    everything = search_module.reranked_matches(query, gallery, 60, own_Q)
    assert everything[0][3, -1] == -1
    assert everything[1][3, -1].isnan()
    assert (top_matches(query, gallery, 5, own_Q)[0] != index_QK).any()


def test_search_reranks_when_asked_to(checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    make_files(tmp_path / "query", [f"q{n}.png" for n in range(4)])
    make_files(tmp_path / "gallery", [f"g{n}.png" for n in range(20)])
    assert main(["search", str(checkpoint), "query", "gallery", "--rerank", "--device", "cpu"]) == 0
    assert json.loads(Path("search/matches.json").read_text())["reranked"] is True
    found = search(checkpoint, tmp_path / "query", tmp_path / "gallery", device="cpu", rerank=True)
    assert found.index_QK.shape == (4, 10)
    make_files(tmp_path / "few", [f"g{n}.png" for n in range(10)])
    assert main(["search", str(checkpoint), "query", "few", "--rerank", "--device", "cpu"]) == 2
    assert "4 queries and 10 gallery images, but k1=20 and k2=6 need 21 together" in capsys.readouterr().err
