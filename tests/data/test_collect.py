"""Images from anywhere: what is taken, what names tell, and what is the same file."""

from __future__ import annotations

import os

import pytest
from numpy.testing import assert_array_equal

from rapids_slr.data.collect import collect
from rapids_slr.errors import InputError
from tests.data.handmade import MARKET, make_files, png, zip_of

FREE = ("holiday.png", "a b/c & d.png", "a b/deep/10.png", "a b/deep/9.png")


def test_a_folder_of_any_names_is_taken_as_it_is(tmp_path):
    folder = make_files(tmp_path / "photos", FREE, **{"notes.txt": "no image", ".hidden.png": png()})
    found = collect(folder, "gallery")
    assert found.split.names == ("a b/c & d.png", "a b/deep/9.png", "a b/deep/10.png", "holiday.png")
    assert_array_equal(found.split.identities, -1)
    assert found.numbering is None
    assert collect(zip_of(folder), "query").split.names == found.split.names
    assert found.open("holiday.png").size == (8, 16)


def test_one_image_is_a_collection_of_one(tmp_path):
    make_files(tmp_path, FREE)
    found = collect(tmp_path / "a b/c & d.png", "query")
    assert found.split.names == ("c & d.png",)
    assert found.file("c & d.png") == collect(tmp_path, "query").file("a b/c & d.png")


@pytest.mark.parametrize(
    ("role", "expected"),
    [("query", [1, 3]), ("gallery", [-1, 0, 1, 3])],
)
@pytest.mark.parametrize("kind", ["folder", "zip", "one folder deeper"])
def test_of_a_data_set_the_split_of_the_role_is_taken(tmp_path, role, expected, kind):
    folder = make_files(tmp_path / "market", MARKET)
    path = {"folder": folder, "zip": zip_of(folder), "one folder deeper": tmp_path}[kind]
    if kind == "one folder deeper":
        (tmp_path / "market.zip").unlink()
    found = collect(path, role)
    assert sorted(found.split.identities.tolist()) == expected


def test_the_folder_of_a_split_is_a_plain_folder_of_the_same_numbers(tmp_path):
    folder = make_files(tmp_path / "market", MARKET)
    whole, part = collect(folder, "gallery"), collect(folder / "query", "query")
    assert part.split.identities.tolist() == [1, 3]
    assert part.split.cameras.tolist() == [1, 2]
    assert part.numbering == whole.numbering == folder.resolve()
    one = collect(folder / "query" / "0001_c1s1_001051_00.png", "query")
    assert one.numbering == whole.numbering


def test_folders_side_by_side_count_the_same_people_and_data_sets_do_not(tmp_path):
    for name in ("mine/probe", "mine/all", "other/all"):
        make_files(tmp_path / name, ["0001_c1s1_000001_00.png", "0002_c1s1_000001_00.png"])
    probe, mine, other = (collect(tmp_path / name, "query") for name in ("mine/probe", "mine/all", "other/all"))
    assert probe.numbering == mine.numbering != other.numbering
    for name in ("one", "two"):
        make_files(tmp_path / name, MARKET)
    assert collect(tmp_path / "one", "query").numbering != collect(tmp_path / "two", "gallery").numbering


def test_names_count_only_where_most_of_them_tell_an_identity(tmp_path):
    telling = ["0001_c1s1_000001_00.png", "0002_c2s1_000001_00.png"]
    most = collect(make_files(tmp_path / "most", [*telling, "stray.png"]), "gallery")
    assert most.split.identities.tolist() == [1, 2, -1]
    few = collect(make_files(tmp_path / "few", [telling[0], "x.png", "y.png"]), "gallery")
    assert (few.split.identities == -1).all()
    assert few.numbering is None
    dates = collect(make_files(tmp_path / "dates", ["20240131_120000_1_a.png", "2024_10_05_b.png"]), "gallery")
    assert dates.numbering is None


def test_a_link_is_the_file_that_it_leads_to(tmp_path):
    folder = make_files(tmp_path / "photos", FREE)
    (tmp_path / "links").mkdir()
    os.symlink(folder / "holiday.png", tmp_path / "links" / "other name.png")
    link = collect(tmp_path / "links", "query")
    assert link.file("other name.png") == collect(folder, "gallery").file("holiday.png")


def test_misnamed_images_of_a_data_set_are_named(tmp_path):
    folder = make_files(tmp_path / "market", [*MARKET, "query/someone.png"])
    found = collect(folder, "query")
    assert len(found) == 2
    assert [str(fault).split(": ")[0] for fault in found.faults] == [f"{folder}/query/someone.png"]


def test_nothing_there_is_said(tmp_path):
    with pytest.raises(InputError, match=r"absent does not exist; give an image, or a folder or \.zip of images"):
        collect(tmp_path / "absent", "query")
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(InputError, match=r"notes\.txt is neither a folder nor a whole \.zip"):
        collect(tmp_path / "notes.txt", "query")


def test_a_folder_without_images_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(InputError, match=r"holds no image; give an image, or a folder or \.zip of images"):
        collect(tmp_path, "gallery")
