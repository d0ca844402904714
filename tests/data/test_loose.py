"""Data sets whose names follow no rule: crops without labels, any images, tables."""

from __future__ import annotations

import pandas as pd
import pytest
from numpy.testing import assert_array_equal

from rapids_slr.data.check import check_domain
from rapids_slr.data.domain import summarise
from rapids_slr.data.layouts import JUNK, UNKNOWN
from rapids_slr.data.read import read_domain, scan_domain
from rapids_slr.errors import InputError
from rapids_slr.settings.spec import DomainSpec
from tests.data.handmade import MARKET, make_files, zip_of

CROPS = tuple(f"bounding_box_train/crop {number}.png" for number in (2, 10, 1))
PHOTOS = ("cam 2/tuesday/b.png", "cam 10/a.jpeg", "cam 2/tuesday/a.png")


@pytest.fixture(params=["folder", "zip"])
def stored(request):
    """A data set as a folder or as an archive."""
    return lambda folder: str(folder if request.param == "folder" else zip_of(folder))


# Crops without labels -------------------------------------------------------------------------------------------------


def test_crops_alone_are_a_target_without_labels(tmp_path, stored):
    domain = read_domain(DomainSpec(path=stored(make_files(tmp_path / "set", CROPS))))
    assert [name.rpartition(" ")[2] for name in domain.train.names] == ["1.png", "2.png", "10.png"]
    assert set(domain.train.identities) == {UNKNOWN}
    assert set(domain.train.cameras) == {1}
    assert not domain.is_tested
    assert not domain.is_labelled
    assert check_domain(domain) == []
    assert summarise(domain)[0] == {"split": "train", "images": 3, "identities": 0, "cameras": 1, "distractors": 0,
                                    "junk": 0}  # fmt: skip


def test_names_that_tell_identities_still_do_without_query_and_gallery(tmp_path):
    names = [name for name in MARKET if "train" in name]
    domain = read_domain(DomainSpec(path=str(make_files(tmp_path / "set", names))))
    assert_array_equal(domain.train.identities, [2, 2, 10])
    assert domain.is_labelled
    assert not domain.is_tested


def test_junk_alone_is_nobody_that_is_known(tmp_path):
    names = [f"bounding_box_train/-1_c{camera}s1_000009_00.png" for camera in (1, 3)]
    domain = read_domain(DomainSpec(path=str(make_files(tmp_path / "set", names))))
    assert_array_equal(domain.train.identities, [UNKNOWN, UNKNOWN])
    assert_array_equal(domain.train.cameras, [1, 3])


def test_a_labelled_test_set_goes_with_crops_without_labels(tmp_path):
    names = [*CROPS, *(name for name in MARKET if "train" not in name)]
    domain = read_domain(DomainSpec(path=str(make_files(tmp_path / "set", names))))
    assert set(domain.train.identities) == {UNKNOWN}
    assert domain.is_tested


def test_some_names_without_identity_stay_faults_and_so_do_those_of_a_layout_that_is_named(tmp_path):
    mixed = str(make_files(tmp_path / "mixed", [*CROPS, *MARKET]))
    assert len(scan_domain(DomainSpec(path=mixed)).faults) == len(CROPS)
    alone = str(make_files(tmp_path / "alone", CROPS))
    assert len(scan_domain(DomainSpec(path=alone, layout="market1501")).faults) == len(CROPS)


# Any images -----------------------------------------------------------------------------------------------------------


def test_any_images_are_a_target(tmp_path, stored):
    path = stored(make_files(tmp_path / "set", PHOTOS, **{"notes.txt": "no image"}))
    domain = read_domain(DomainSpec(path=path, layout="images"))
    assert domain.train.names == ("cam 2/tuesday/a.png", "cam 2/tuesday/b.png", "cam 10/a.jpeg")
    assert set(domain.train.identities) == {UNKNOWN}
    assert set(domain.train.cameras) == {1}
    assert domain.open(domain.train.names[2]).size == (8, 16)
    assert not domain.is_tested


@pytest.mark.parametrize(
    ("cameras", "numbers"),
    [
        ({"camera_level": 1}, [1, 1, 2]),  # words are numbered in natural order
        ({"camera_pattern": "cam ([0-9]+)"}, [2, 2, 10]),  # digits are their own number
        ({"camera_pattern": "(?:tues)|a(?=[.])"}, [2, 2, 1]),  # without a group all that matches
    ],
)
def test_cameras_are_told_by_a_folder_or_a_pattern(tmp_path, cameras, numbers):
    path = str(make_files(tmp_path / "set", PHOTOS))
    domain = read_domain(DomainSpec(path=path, layout="images", **cameras))
    assert_array_equal(domain.train.cameras, numbers)


@pytest.mark.parametrize(
    ("cameras", "fault"),
    [
        ({"camera_level": 2}, "cam 10/a.jpeg: camera_level is 2, and the image lies in fewer folders than that"),
        ({"camera_pattern": "tues(day)"}, "cam 10/a.jpeg: camera_pattern tues(day) finds no camera in it"),
    ],
)
def test_an_image_without_its_camera_is_a_fault(tmp_path, cameras, fault):
    spec = DomainSpec(path=str(make_files(tmp_path / "set", PHOTOS)), layout="images", **cameras)
    (found,) = scan_domain(spec).faults
    assert str(found).endswith(fault)
    assert len(read_domain(spec, on_error="skip").train) == 2


def test_a_folder_without_images_is_named(tmp_path):
    with pytest.raises(InputError, match="holds no image"):
        read_domain(DomainSpec(path=str(tmp_path), layout="images"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"camera_level": 1}, "camera_level needs layout: images"),
        ({"layout": "images", "camera_level": 1, "camera_pattern": "c"}, "either camera_level or camera_pattern"),
        ({"layout": "images", "camera_pattern": "c("}, "is no regular expression: missing "),
        ({"layout": "images", "camera_level": 0}, "greater than or equal to 1"),
    ],
)
def test_cameras_that_cannot_be_told_so(settings, message):
    with pytest.raises(ValueError, match=message):
        DomainSpec(path="somewhere", **settings)


def test_a_flat_folder_says_which_layout_takes_it(tmp_path):
    with pytest.raises(InputError, match=r"`layout: images` takes any images"):
        read_domain(DomainSpec(path=str(make_files(tmp_path / "set", ["a.png"]))))


# Tables ---------------------------------------------------------------------------------------------------------------

COWS = pd.DataFrame(
    {
        "image_id": range(8),
        "path": [f"photos/{name}.png" for name in ("10", "2", "c", "d", "e", "f", "g", "h")],
        "identity": ["Berta", "Anna", "Anna", "unknown", "Clara", "Clara", None, "Clara"],
        "camera": ["barn", "barn", "field", "field", "barn", "field", "field", "barn"],
        "split": ["train", "train", "train", "train", "query", "gallery", "gallery", "gallery"],
    }
)


def written(folder, table: pd.DataFrame, kind: str = ".csv"):
    """A folder of images with the table beside them."""
    make_files(folder, table["path"].drop_duplicates())
    name = folder / f"metadata{kind}"
    table.to_csv(name, index=False) if kind == ".csv" else table.to_parquet(name)
    return folder


@pytest.mark.parametrize("kind", [".csv", ".parquet"])
@pytest.mark.parametrize("given", ["table", "folder", "zip", "zip, one folder deep"])
def test_a_table_tells_identity_camera_and_split(tmp_path, kind, given):
    path = written(tmp_path / "cows", COWS, kind)
    if given == "table":
        path = path / f"metadata{kind}"
    elif given != "folder":
        path = zip_of(path, "cows/" if "deep" in given else "")
    domain = read_domain(DomainSpec(path=str(path), layout="auto" if given == "table" else "table"))
    assert [name.rpartition("/")[2] for name in domain.train.names] == ["2.png", "10.png", "c.png", "d.png"]
    assert_array_equal(domain.train.identities, [1, 2, 1, UNKNOWN])  # Anna, Berta, Clara
    assert_array_equal(domain.train.cameras, [1, 1, 2, 2])
    assert_array_equal(domain.query.identities, [3])
    assert_array_equal(domain.gallery.identities, [3, JUNK, 3])
    assert_array_equal(domain.gallery.cameras, [2, 2, 1])
    assert domain.open(domain.query.names[0]).size == (8, 16)
    assert check_domain(domain) == []


def test_a_table_of_paths_alone_is_a_target_without_labels(tmp_path):
    domain = read_domain(DomainSpec(path=str(written(tmp_path / "cows", COWS[["path"]])), layout="table"))
    assert len(domain.train) == len(COWS)
    assert set(domain.train.identities) == {UNKNOWN}
    assert not domain.is_tested


def test_without_cameras_every_gallery_image_counts(tmp_path):
    path = written(tmp_path / "cows", COWS.drop(columns="camera"))
    domain = read_domain(DomainSpec(path=str(path), layout="table"))
    assert len(domain.query) == 1
    assert not set(domain.query.cameras) & set(domain.gallery.cameras)


@pytest.mark.parametrize("cameras", [True, False])
def test_test_images_are_divided_into_a_query_and_a_gallery_each(tmp_path, cameras):
    table = COWS.assign(split="test")[["path", "identity", "split", *(["camera"] if cameras else [])]]
    table.loc[8] = ["photos/i.png", "Dora", "train", *(["barn"] if cameras else [])]
    domain = read_domain(DomainSpec(path=str(written(tmp_path / "cows", table)), layout="table"))
    assert domain.query.names == ("photos/2.png", "photos/e.png")  # Anna, Clara; Berta has one image
    assert len(domain.gallery) == 6
    assert sorted(set(domain.gallery.identities)) == [JUNK, 1, 2, 3]


def test_identities_of_training_may_be_tested_where_a_table_says_so(tmp_path):
    table = COWS.assign(identity="Anna", split=["train"] * 4 + ["query"] + ["gallery"] * 3)
    assert check_domain(DomainSpec(path=str(written(tmp_path / "cows", table)), layout="table")) == []


def test_paths_of_windows_and_a_mark_of_excel_are_read(tmp_path):
    folder = make_files(tmp_path / "cows", ["photos/a.png"])
    (folder / "metadata.csv").write_bytes("﻿path,identity\r\nphotos\\a.png,007\r\n".encode())
    assert read_domain(DomainSpec(path=str(folder), layout="table")).train.names == ("photos/a.png",)


def test_all_faults_of_a_table_come_at_once(tmp_path):
    folder = make_files(tmp_path / "cows", ["a.png", "b.png", "c.png"])
    lines = ["path,camera,split", "a.png,x,train", "../b.png,x,train", "gone.png,x,train", "a.png,x,query",
             "b.png,,train", "c.png,x,validation", "b.png", ",x,train"]  # fmt: skip
    (folder / "metadata.csv").write_text("\n".join(lines))
    faults = scan_domain(DomainSpec(path=str(folder), layout="table")).faults
    found = {str(fault).rpartition("metadata.csv:")[2] for fault in faults}
    assert found == {
        "3: ../b.png leads outside; paths count from the folder of the table",
        "4: gone.png is listed but not there",
        "5: a.png is listed a second time",
        "6: has no camera, and others have; leave the column out where none is known",
        "7: split: expected train, query, gallery or test, found validation",
        "8: has 1 values for 3 columns",
        "9: an empty path is listed but not there",
    }


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, r"expected a table, \.csv or \.parquet"),
        ({"one.csv": "path\na.png", "two.csv": ""}, r"several tables \(one.csv, two.csv\); give the path of one"),
        ({"one.csv": "path;identity\na.png;1"}, r"no column `path` \(columns, between commas: path;identity\)"),
        ({"one.csv": ""}, r"no column `path` \(columns, between commas: none\)"),
        ({"one.csv": "path\n"}, "names no image"),
        ({"one.csv": b"path\n\xff.png\n"}, r"damaged or no \.csv file"),
        ({"one.parquet": b"PAR1 cut"}, r"damaged or no \.parquet file"),
    ],
)
def test_a_table_that_cannot_be_used(tmp_path, files, message):
    with pytest.raises(InputError, match=message):
        read_domain(DomainSpec(path=str(make_files(tmp_path / "cows", ["a.png"], **files)), layout="table"))
