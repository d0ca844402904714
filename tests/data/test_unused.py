"""Files that no split has are counted and named; links, bytes and digits of every kind in names; dark pixels."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rapids_slr.cli import main
from rapids_slr.data.check import check_domain
from rapids_slr.data.collect import collect
from rapids_slr.data.decode import decode
from rapids_slr.data.files import FolderFiles, natural_order
from rapids_slr.data.pack import pack
from rapids_slr.data.read import read_domain, scan_domain
from rapids_slr.data.store import load_images
from rapids_slr.settings.spec import DomainSpec, StoredSpec
from tests.data.handmade import MARKET, make_files, png, zip_of

NOT_UTF8 = "caf\udce9"  # as Python has the bytes of a Latin-1 name


def domain_of(path: Path, **keys):
    return scan_domain(DomainSpec(path=str(path), **keys))


@pytest.mark.parametrize("packed", [False, True])
def test_what_no_split_has_is_said(tmp_path, packed):
    folder = make_files(tmp_path / "set", MARKET)
    for name in ("0011_c1s1_000001_00.HEIC", "0012_c1s1_000001_00.HEIC", "no ending", "Thumbs.db"):
        (folder / "bounding_box_train" / name).write_bytes(b"")
    make_files(folder, ["gt_bbox/0001_c1s1_000001_00.png", "loose.png", ".hidden.png"])
    domain = domain_of(zip_of(folder) if packed else folder)
    assert domain.unused == [
        "4 files in bounding_box_train with names that are not those of images: 2 .HEIC, 1 .db, 1 no ending, "
        "the first bounding_box_train/0011_c1s1_000001_00.HEIC",
        "1 training image is junk (identity -1)",
        "2 images outside of the folders of the splits: 1 gt_bbox, 1 .",
    ]
    assert domain.faults == []


def test_data_check_and_the_first_lines_of_a_run_say_it(tmp_path, capsys, monkeypatch, tiny):
    from rapids_slr.data.images import RunImages

    monkeypatch.setenv("COLUMNS", "200")
    folder = make_files(tmp_path / "set", MARKET)
    (folder / "query/0001_c1s1_000001_00.heic").write_bytes(b"")
    assert main(["data", "check", str(folder)]) == 0
    said = "1 file in query with names that are not those of images: 1 .heic, the first query/0001_c1s1_000001_00.heic"
    assert f"{folder}, not used: {said}\n" in capsys.readouterr().out
    warned: list[str] = []
    data = tiny.data.model_copy(update={"target": DomainSpec(path=str(folder))})
    images = RunImages(tiny.model_copy(update={"data": data}), torch.device("cpu"), None, warned.append)
    assert len(images.target_domain.train) == 3
    assert f"target, not used: {said}" in warned


def test_a_name_of_the_layout_needs_no_ending(tmp_path):
    folder = make_files(tmp_path / "set", [*MARKET, "bounding_box_train/0013_c1s1_000001_00"])
    domain = domain_of(folder)
    assert "bounding_box_train/0013_c1s1_000001_00" in domain.train.names
    assert check_domain(domain) == []


def test_linked_folders_are_read_and_circles_left(tmp_path):
    folder = make_files(tmp_path / "set", MARKET)
    far = make_files(tmp_path / "far", ["0020_c1s1_000001_00.png", "below/0021_c1s1_000001_00.png"])
    (folder / "bounding_box_train/more").symlink_to(far)
    (far / "back").symlink_to(folder / "bounding_box_train")
    (far / "self").symlink_to(".")
    names = domain_of(folder).train.names
    assert {name for name in names if "more" in name} == {
        "bounding_box_train/more/0020_c1s1_000001_00.png",
        "bounding_box_train/more/below/0021_c1s1_000001_00.png",
    }
    assert pack(folder, tmp_path / "a.zip") == len(MARKET) + 2


def test_a_folder_that_cannot_be_read_is_a_fault(tmp_path, monkeypatch):
    folder = make_files(tmp_path / "set", [*MARKET, "bounding_box_train/shut/0020_c1s1_000001_00.png"])
    real = os.scandir

    def refused(path):
        if str(path).endswith("shut"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", refused)
    assert [str(fault) for fault in domain_of(folder).faults] == [
        f"{folder}/bounding_box_train/shut: folder cannot be read (Permission denied)"
    ]


def test_search_says_what_it_passes_over(tmp_path):
    make_files(tmp_path, ["a.png"])
    (tmp_path / "b.heic").write_bytes(b"")
    assert [fault.what for fault in collect(tmp_path, "gallery").faults] == [
        "1 file with names that are not those of images: 1 .heic, the first b.heic"
    ]


# Names ----------------------------------------------------------------------------------------------------------------


def test_names_that_are_no_utf8_work(tmp_path):
    folder = make_files(tmp_path / "set", MARKET)
    name = os.path.join(folder, "bounding_box_train", f"0030_c1s1_000001_00_{NOT_UTF8}.png")
    Path(name).write_bytes(png(7))
    os.mkdir(os.path.join(folder, "bounding_box_train", NOT_UTF8))
    Path(folder, "bounding_box_train", NOT_UTF8, "0031_c1s1_000001_00.png").write_bytes(png(8))
    domain = read_domain(DomainSpec(path=str(folder)))
    strange = [name for name in domain.train.names if "%" in name]
    assert strange == [
        "bounding_box_train/0030_c1s1_000001_00_caf%E9.png",
        "bounding_box_train/caf%E9/0031_c1s1_000001_00.png",
    ]
    store, kept = load_images(domain, domain.train, StoredSpec(height=16, width=16), torch.device("cpu"))
    assert kept.names == domain.train.names
    assert len(store) == 5
    assert check_domain(domain) == []
    pack(folder, tmp_path / "a.zip")
    assert len(domain_of(tmp_path / "a.zip").train) == 5
    assert len(collect(Path(name), "query")) == 1


def test_digits_of_any_kind_and_length_have_an_order():
    long = "9" * 5000
    names = ["b10", "b2", "b٣", "b²", "b02", "b", "2b", "10b", f"b{long}", f"b0{long}", ""]
    assert natural_order(names) == ["", "2b", "10b", "b", "b02", "b2", "b10", f"b0{long}", f"b{long}", "b²", "b٣"]
    assert natural_order(reversed(names)) == natural_order(names)


def test_a_number_of_a_thousand_digits_is_no_identity(tmp_path):
    folder = zip_of(make_files(tmp_path / "set", MARKET))
    import zipfile

    with zipfile.ZipFile(folder, "a") as archive:
        archive.writestr(f"bounding_box_train/{'1' * 5000}_c1s1_000001_00.png", png())
    (fault,) = domain_of(folder).faults
    assert "the name tells no identity and camera" in fault.what


def test_faults_keep_orders_from_the_terminal(tmp_path):
    folder = make_files(tmp_path / "set", [*MARKET, "query/a\x1b[31m\nb.png"])
    (fault,) = domain_of(folder).faults
    assert str(fault).startswith(f"{folder}/query/a\\x1b[31m\\nb.png: the name tells no")


# Lists of MSMT17 ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "written",
    [
        "\ufeff{0} 0\r\n{1} 1\r\n",
        "{0}\t0\n{1}\t1\n",
        "./{0} 0\n  {1}   1  \n",
        "train/{0} 0\ntrain/{1} 1\n",
        "train\\{0} 0\ntrain\\{1} 1\n",
    ],
)
def test_lists_are_read_as_programs_write_them(tmp_path, written):
    images = ("0000/0000_000_01_a.png", "0001/0001_000_02_b.png")
    folder = make_files(tmp_path / "set", [f"train/{name}" for name in (*images, "0002/0002_000_01_c.png")])
    make_files(folder, ["test/0000_000_01_q.png", "test/0000_000_02_g.png"])
    for name, text in {
        "list_train.txt": written.format(*(x.replace("/", "\\") if "\\" in written else x for x in images)),
        "list_val.txt": "",
        "list_query.txt": "0000_000_01_q.png 0\n",
        "list_gallery.txt": "0000_000_02_g.png 0\n",
    }.items():
        (folder / name).write_bytes(text.encode())
    domain = domain_of(folder)
    assert domain.faults == []
    assert domain.train.names == tuple(f"train/{name}" for name in images)
    assert domain.unused == ["1 image of train in no list, the first train/0002/0002_000_01_c.png"]


# 12 bits in 16 --------------------------------------------------------------------------------------------------------

TWELVE = (np.arange(32 * 16) * 8 % 4096).astype(np.uint16).reshape(32, 16)


def stored(pixels: np.ndarray, kind: str, significant: int | None = None, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    data = buffer.getvalue()
    if significant is not None:
        chunk = b"sBIT" + bytes([significant])
        data = data[:33] + struct.pack(">I", 1) + chunk + struct.pack(">I", zlib.crc32(chunk)) + data[33:]
    return data


@pytest.mark.parametrize(
    ("file", "brightest"),
    [
        (stored(TWELVE, "PNG", significant=12), 255),
        (stored(TWELVE, "TIFF", tiffinfo={281: 4095}), 255),
        (b"P5 16 32 4095\n" + TWELVE.byteswap().tobytes(), 255),
        (stored(16 * TWELVE, "PNG"), 255),
        (stored(TWELVE, "PNG"), 15),
    ],
)
def test_bits_are_those_that_the_file_says(file, brightest):
    image = Image.open(io.BytesIO(file))
    assert decode(image, StoredSpec(height=32, width=16, channels=1, mean=[0.5], std=[0.5])).max() == brightest


def test_images_that_come_out_almost_black_are_named(tmp_path, caplog):
    folder = make_files(tmp_path / "set", MARKET)
    dark = sorted((folder / "bounding_box_train").iterdir())[1]
    dark.write_bytes(stored(TWELVE, "PNG"))
    domain = domain_of(folder)
    said = "1 image is almost black: in files of 16 bits, pixels end where those of 12 bits do; save them with 8 bits"
    assert said in str(check_domain(domain)[0])
    load_images(domain, domain.train, StoredSpec(height=16, width=16), torch.device("cpu"))
    assert f"the first bounding_box_train/{dark.name}" in caplog.text


def test_a_folder_of_its_own_name_is_found(tmp_path):
    os.mkdir(os.path.join(tmp_path, NOT_UTF8))
    make_files(Path(tmp_path, NOT_UTF8), MARKET)
    files = FolderFiles(tmp_path)
    assert files.folders() == ["caf%E9"]
    assert len(domain_of(tmp_path).train) == 3
