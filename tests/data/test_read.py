from __future__ import annotations

import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from rapids_slr.data.domain import answerable, make_split, summarise
from rapids_slr.data.files import natural_order
from rapids_slr.data.read import read_domain, scan_domain
from rapids_slr.errors import InputError
from rapids_slr.settings.spec import DomainSpec
from tests.conftest import shared_data
from tests.data.handmade import MARKET, make_files, png, zip_of

DUKE = (
    *("bounding_box_train/0001_c2_f0046182.jpg", "bounding_box_train/0001_c8_f0046302.jpg"),
    *("query/0005_c2_f0046985.jpg", "bounding_box_test/0005_c5_f0051341.jpg"),
)
PERSONX = (
    *("bounding_box_train/0001_c3_1.jpg", "bounding_box_train/0001_c12_36.jpg"),
    *("query/0900_c4_7.jpg", "bounding_box_test/0900_c8_2.jpg"),
)
VERI = (
    *("image_train/0001_c001_00016450_0.jpg", "image_train/0001_c016_00016460_0.jpg"),
    *("image_query/0002_c002_00030600_0.jpg", "image_test/0002_c004_00084250_0.jpg"),
    "image_test/0002_c002_00030600_0.jpg",
)
MSMT = (
    *("train/0000/0000_000_01_0303morning_0008_0.jpg", "train/0001/0001_000_15_0303noon_0008_0.jpg"),
    *("test/0000/0000_001_02_0303morning_0008_0.jpg", "test/0000/0000_002_03_0303morning_0008_0.jpg"),
    "test/0000/0000_009_03_0303morning_0009_0.jpg",
)
MSMT_LISTS = {
    "list_train.txt": "0000/0000_000_01_0303morning_0008_0.jpg 0\n",
    "list_val.txt": "0001/0001_000_15_0303noon_0008_0.jpg 1\n\n",
    "list_query.txt": "0000/0000_001_02_0303morning_0008_0.jpg 0\n",
    "list_gallery.txt": "0000/0000_002_03_0303morning_0008_0.jpg 0\n",
}


@pytest.fixture(params=["folder", "zip", "zip, one folder deep"])
def stored(request):
    """A data set as a folder or as an archive."""

    def store(folder: Path) -> str:
        if request.param == "folder":
            return str(folder)
        return str(zip_of(folder, "Some-Set/" if "deep" in request.param else ""))

    return store


@pytest.mark.parametrize(
    ("layout", "names", "lists", "identities", "cameras"),
    [
        ("market1501", MARKET, {}, [2, 2, 10], [1, 2, 10]),
        ("dukemtmc", DUKE, {}, [1, 1], [2, 8]),
        ("personx", PERSONX, {}, [1, 1], [3, 12]),
        ("veri", VERI, {}, [1, 1], [1, 16]),
        ("msmt17", MSMT, MSMT_LISTS, [1, 2], [1, 15]),
    ],
)
def test_every_layout_is_recognised(tmp_path, stored, layout, names, lists, identities, cameras):
    path = stored(make_files(tmp_path / "set", names, **lists))
    for wanted in ("auto", layout):
        domain = read_domain(DomainSpec(path=path, layout=wanted))
        assert domain.layout == layout
        assert domain.train.identities.dtype == domain.train.cameras.dtype == np.int32
        assert_array_equal(domain.train.identities, identities)
        assert_array_equal(domain.train.cameras, cameras)
        assert min(len(domain.query), len(domain.gallery)) > 0
        assert domain.open(domain.train.names[0]).size == (8, 16)


def test_msmt17_version_2_has_other_folders(tmp_path):
    names = [n.replace("train/", "mask_train_v2/").replace("test/", "mask_test_v2/") for n in MSMT]
    domain = read_domain(DomainSpec(path=str(make_files(tmp_path / "set", names, **MSMT_LISTS))))
    assert (domain.layout, len(domain.train), len(domain.gallery)) == ("msmt17", 2, 1)


def test_names_come_in_natural_order():
    assert natural_order(["c10", "c9/b", "c1", "C2", "c9/a10", "c9/a9"]) == [
        "C2",
        "c1",
        "c9/a9",
        "c9/a10",
        "c9/b",
        "c10",
    ]


def test_junk_and_distractors_stay_in_the_gallery_and_junk_leaves_training(tmp_path):
    domain = read_domain(DomainSpec(path=str(make_files(tmp_path / "set", MARKET))))
    assert sorted(domain.gallery.identities) == [-1, 0, 1, 3]
    assert -1 not in domain.train.identities
    assert summarise(domain)[2] == {
        "split": "gallery",
        "images": 4,
        "identities": 2,
        "cameras": 3,
        "distractors": 1,
        "junk": 1,
    }


def test_what_file_managers_leave_behind_is_ignored(tmp_path):
    folder = make_files(tmp_path / "set", MARKET)
    (folder / "bounding_box_train" / "Thumbs.db").write_bytes(b"x")
    (folder / "bounding_box_train" / "._0002_c1s1_000451_03.png").write_bytes(b"x")
    assert len(read_domain(DomainSpec(path=str(folder))).train) == 3


def test_all_faults_are_raised_at_once_and_can_be_skipped(tmp_path, caplog):
    wrong = ["bounding_box_train/nobody.png", "bounding_box_train/0002_k1.png", "query/0007_c1s1_000001_00.png"]
    spec = DomainSpec(path=str(make_files(tmp_path / "set", [*MARKET, *wrong])))
    with pytest.raises(InputError, match=r"3 faults") as raised:
        read_domain(spec)
    for name in (*wrong[:2], "no image of identity 7 from another camera", "0002_c1s1_000451_03.jpg", "on_error: skip"):
        assert name in str(raised.value)
    domain = read_domain(spec, on_error="skip")
    assert (len(domain.train), len(domain.query), len(domain.faults)) == (3, 2, 3)
    assert "3 faults" in caplog.text


def test_a_long_list_of_faults_is_cut_and_counted(tmp_path):
    wrong = [f"bounding_box_train/wrong{n}.png" for n in range(30)]
    with pytest.raises(InputError, match=r"30 faults(.|\n)*and 10 more"):
        read_domain(DomainSpec(path=str(make_files(tmp_path / "set", [*MARKET, *wrong]))))


def test_a_missing_folder_and_an_empty_one_are_named(tmp_path):
    folder = make_files(
        tmp_path / "set", [name for name in MARKET if not name.startswith(("query", "bounding_box_te"))]
    )
    (folder / "query").mkdir()
    faults = {fault.where.rpartition("/")[2]: fault.what for fault in scan_domain(DomainSpec(path=str(folder))).faults}
    assert faults == {"query": "holds no image of this split", "bounding_box_test": "folder is missing"}


def test_a_split_without_training_images_cannot_be_skipped(tmp_path):
    folder = make_files(tmp_path / "set", [name for name in MARKET if "train" not in name])
    with pytest.raises(InputError, match="bounding_box_train: folder is missing"):
        read_domain(DomainSpec(path=str(folder)), on_error="skip")


def test_a_folder_of_something_else_says_what_was_expected(tmp_path):
    with pytest.raises(InputError, match=r"expected folders such as .*bounding_box_train.*found: holiday"):
        read_domain(DomainSpec(path=str(make_files(tmp_path / "set", ["holiday/beach.jpg"]))))


def test_two_data_sets_in_one_folder_are_ambiguous(tmp_path):
    folder = make_files(tmp_path / "set", [f"{top}/{name}" for top in ("one", "two") for name in MARKET])
    with pytest.raises(InputError, match=r"several data sets \(one/, two/\)"):
        read_domain(DomainSpec(path=str(folder)))


def test_a_path_that_is_no_data_set(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        read_domain(DomainSpec(path=str(tmp_path / "nowhere")))
    (tmp_path / "broken.zip").write_bytes(zip_of(make_files(tmp_path / "set", MARKET)).read_bytes()[:500])
    with pytest.raises(InputError, match=r"neither a folder nor a whole \.zip"):
        read_domain(DomainSpec(path=str(tmp_path / "broken.zip")))


def test_archive_entries_that_lead_outside_are_faults_and_never_read(tmp_path):
    path = zip_of(make_files(tmp_path / "set", MARKET))
    outside = ("../bounding_box_train/0001_c1s1_000001_00.png", "/query/0001_c1s1_000001_00.png", "a\\..\\..\\b.png")
    with zipfile.ZipFile(path, "a") as archive:
        for name in outside:
            archive.writestr(name, png())
    domain = scan_domain(DomainSpec(path=str(path)))
    assert [fault.what for fault in domain.faults] == ["leads outside of the archive"] * 3
    assert len(domain.train) == 3


def test_odd_but_harmless_entry_names_are_read(tmp_path):
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for number, name in enumerate(MARKET):
            archive.writestr(("./" + name) if number % 2 else name.replace("/", "\\"), png())
    assert len(read_domain(DomainSpec(path=str(tmp_path / "set.zip"))).train) == 3


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_entry_that_comes_twice_is_a_fault(tmp_path):
    path = zip_of(make_files(tmp_path / "set", MARKET))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(MARKET[0], png())
    (fault,) = scan_domain(DomainSpec(path=str(path))).faults
    assert fault.what == "is in the archive more than once"


def test_list_entries_that_lead_outside_repeat_or_do_not_exist_are_faults(tmp_path):
    lists = MSMT_LISTS | {
        "list_train.txt": "../../etc/0000_000_01_x.jpg 0\n0000/0000_000_01_0303morning_0008_0.jpg 0\nonly-a-name\n"
        "0000/0000_000_01_0303morning_0008_0.jpg 0\n0000/0000_000_09_gone.jpg 0\n"
    }
    domain = scan_domain(DomainSpec(path=str(make_files(tmp_path / "set", MSMT, **lists))))
    faults = [(fault.where.rpartition(":")[2], fault.what) for fault in domain.faults]
    assert [line for line, _ in faults] == ["1", "3", "4", "5"]
    words = ("leads outside", "expected `path identity`", "a second time", "listed but not in")
    for (_, what), word in zip(faults, words, strict=True):
        assert word in what


def test_a_number_too_large_for_an_identity_is_a_wrong_name(tmp_path):
    folder = make_files(tmp_path / "set", [*MARKET, "bounding_box_train/99999999999_c1s1_000001_00.png"])
    assert len(scan_domain(DomainSpec(path=str(folder))).faults) == 1


def test_an_archive_may_be_read_from_many_threads(tmp_path):
    path = zip_of(make_files(tmp_path / "set", MARKET))
    domain = read_domain(DomainSpec(path=str(path)))
    with ThreadPoolExecutor(8) as pool:
        shades = list(pool.map(lambda name: domain.open(name).getpixel((0, 0))[0], domain.train.names * 50))
    assert shades == shades[:3] * 50


def test_answerable_counts_other_cameras_only():
    gallery = make_split([("a", 1, 1), ("b", 1, 2), ("c", 2, 1), ("d", 0, 2), ("e", -1, 2), ("f", 4, 3)])
    query = make_split([("q", 1, 1), ("r", 2, 1), ("s", 2, 2), ("t", 3, 1), ("u", 0, 1), ("v", -1, 1), ("w", 9, 9)])
    assert answerable(query, gallery).tolist() == [True, False, True, False, False, False, False]
    assert not answerable(query, make_split([])).any()


@pytest.mark.parametrize("name", ["source", "target"])
def test_the_omniglot_archives_have_the_counts_of_their_readme(name):
    domain = read_domain(DomainSpec(path=str(shared_data(f"omniglot-small/{name}.zip"))))
    ids = {"source": 68, "target": 53}[name]
    counts = [(row["images"], row["identities"], row["cameras"]) for row in summarise(domain)]
    assert counts == [(20 * ids, ids, 6), (2 * ids, ids, 6), (18 * ids, ids, 6)]
    assert domain.open(domain.train.names[0]).mode == "1"
