"""Folders a class, with and without train and test, and all that can be wrong with them."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from rapids_slr.data.check import check_domain
from rapids_slr.data.domain import joined, summarise
from rapids_slr.data.read import read_domain, scan_domain
from rapids_slr.errors import InputError
from rapids_slr.settings.spec import DomainSpec
from tests.data.handmade import make_files, zip_of
from tests.data.test_read import MSMT, MSMT_LISTS

FLAT = ("owl/1.png", "owl/young/2.png", "ant 2/1.png", "ant 10/1.png")
SPLIT = ("train/owl/1.png", "train/owl/2.png", "train/ant/1.png", "test/owl/1.png", "test/bee/1.png")


def domain_of(path, layout="classes"):
    return read_domain(DomainSpec(path=str(path), layout=layout))


@pytest.fixture(params=["folder", "zip", "zip, one folder deep"])
def stored(request):
    def store(folder):
        if request.param == "folder":
            return folder
        return zip_of(folder, "Some-Set/" if "deep" in request.param else "")

    return store


def test_a_class_is_a_folder_of_any_depth_in_natural_order(tmp_path, stored):
    domain = domain_of(stored(make_files(tmp_path / "set", FLAT)))
    assert domain.classes == ("ant 2", "ant 10", "owl")
    assert_array_equal(domain.train.identities, [1, 2, 3, 3])
    assert domain.train.identities.dtype == np.int32
    assert set(domain.train.cameras) == {1}
    assert [domain.name_of(k) for k in (1, 3)] == ["ant 2", "owl"]
    assert domain.open(domain.train.names[-1]).size == (8, 16)
    assert not domain.is_tested
    assert check_domain(domain) == domain.unused == []
    assert [row["split"] for row in summarise(domain)] == ["train", "test"]


@pytest.mark.parametrize("layout", ["auto", "classes"])
@pytest.mark.parametrize("test", ["test", "val"])
def test_training_and_test_number_their_classes_together(tmp_path, stored, layout, test):
    names = [name.replace("test/", f"{test}/") for name in SPLIT]
    domain = domain_of(stored(make_files(tmp_path / "set", names)), layout)
    assert domain.layout == "classes"
    assert domain.classes == ("ant", "bee", "owl")
    assert_array_equal(domain.train.identities, [1, 3, 3])
    assert_array_equal(domain.gallery.identities, [2, 3])
    # The same name in two folders is another image, and the classes of training are those of the test.
    assert check_domain(domain) == []


def test_val_beside_test_and_files_outside_of_classes_are_said(tmp_path):
    folder = make_files(
        tmp_path / "set", (*SPLIT, "val/owl/1.png", "train/loose.png"), **{"readme.md": "x", "train/owl/notes.md": "x"}
    )
    assert domain_of(folder).unused == [
        "1 file in folders of classes with names that are not those of images: 1 .md, the first train/owl/notes.md",
        "2 images outside of the folders of the classes: 1 train, 1 val/owl",
    ]


def test_a_class_may_be_called_train(tmp_path):
    domain = domain_of(make_files(tmp_path / "set", ("train/1.png", "plane/1.png")))
    assert domain.classes == ("plane", "train")


def test_auto_takes_no_other_data_set_for_classes(tmp_path):
    assert domain_of(make_files(tmp_path / "msmt", MSMT, **MSMT_LISTS), "auto").layout == "msmt17"
    lost = scan_domain(DomainSpec(path=str(make_files(tmp_path / "lost", MSMT))))
    assert lost.layout == "msmt17"
    assert any("list is missing" in fault.what for fault in lost.faults)
    with pytest.raises(InputError, match="`layout: classes` a folder a class"):
        domain_of(make_files(tmp_path / "flat", FLAT), "auto")


@pytest.mark.parametrize(
    ("names", "empty", "message"),
    [
        (FLAT, "bat", r"set/bat: this folder of a class holds no image; add some, or remove it"),
        (SPLIT, "test/ant", r"set/test/ant: this folder of a class holds no image"),
        (("owl/1.png", "owl/2.png"), None, r"set: holds one class only, owl; expected a folder for each of two"),
        (("1.png", "2.png"), None, r"set: holds no folder of images; .*`layout: images` takes images without classes"),
        (("train/owl/1.png", "test/owl/1.png"), None, r"set/train: holds one class only, owl"),
    ],
)
def test_faults_are_named(tmp_path, names, empty, message):
    folder = make_files(tmp_path / "set", names)
    if empty:
        (folder / empty).mkdir()
    with pytest.raises(InputError, match=message):
        domain_of(folder)


def test_several_sources_share_classes_by_name_where_a_task_says_so(tmp_path):
    one = domain_of(make_files(tmp_path / "one", ("owl/1.png", "ant/1.png")))
    other = domain_of(make_files(tmp_path / "other", ("bee/1.png", "owl/2.png")))
    both = joined([one, other], by_name=True)
    assert both.classes == ("ant", "bee", "owl")
    assert_array_equal(both.train.identities, [1, 3, 2, 3])
    apart = joined([one, other])
    assert apart.classes == ("1/ant", "1/owl", "2/bee", "2/owl")
    assert_array_equal(apart.train.identities, [1, 2, 3, 4])
    assert set(apart.train.cameras[:2]).isdisjoint(apart.train.cameras[2:])


def test_a_table_names_its_classes(tmp_path):
    table = "path,identity,split\n1.png,owl,train\n2.png,ant,train\n3.png,unknown,train\n4.png,bee,test\n"
    folder = make_files(tmp_path / "set", ("1.png", "2.png", "3.png", "4.png"), **{"table.csv": table})
    domain = domain_of(folder, "table")
    assert domain.classes == ("ant", "bee", "owl")
    assert [domain.name_of(int(k)) for k in domain.train.identities if k > 0] == ["owl", "ant"]
