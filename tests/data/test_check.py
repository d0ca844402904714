from __future__ import annotations

import pytest

from rapids_slr.data.check import check_domain
from rapids_slr.settings.spec import DomainSpec, SynthSpec
from tests.data.handmade import MARKET, make_files, png, zip_of


@pytest.mark.parametrize("as_zip", [False, True])
def test_every_fault_is_listed(tmp_path, as_zip, capsys):
    folder = make_files(tmp_path / "set", MARKET)
    train, test = folder / "bounding_box_train", folder / "bounding_box_test"
    (train / "0002_c3s1_000001_00.png").write_bytes(png()[:40])  # truncated
    (train / "0002_c3s1_000002_00.jpg").write_bytes(b"no image at all")
    (train / "someone.png").write_bytes(png())
    (train / "0010_c10s1_000001_00.bmp").write_bytes(png())  # twice, but for its ending
    (test / "0002_c4s1_000001_00.png").write_bytes(png())  # an identity of training
    (test / "0002_c1s1_000451_03.png").write_bytes(png())  # a picture of training
    (folder / "query" / "0008_c1s1_000001_00.png").write_bytes(png())  # nobody in the gallery
    spec = DomainSpec(path=str(zip_of(folder) if as_zip else folder))
    faults = [str(fault) for fault in check_domain(spec)]
    expected = [
        "someone.png: the name tells no identity",
        "query/0008_c1s1_000001_00.png: query without a match",
        "1 identities are in training and test alike: 2",
        "the same image name 2 times",
        "bounding_box_test/0002_c1s1_000451_03.png: an image of the same name is in training",
        "0002_c3s1_000001_00.png: cannot be read",
        "0002_c3s1_000002_00.jpg: cannot be read (UnidentifiedImageError",
    ]
    assert len(faults) == len(expected)
    for line, words in zip(faults, expected, strict=True):
        assert words in line
    assert len(check_domain(spec, decode=False)) == len(expected) - 2
    assert capsys.readouterr().out == ""


def test_a_sound_data_set_has_no_fault(tmp_path):
    seen: list[int] = []
    assert check_domain(DomainSpec(path=str(make_files(tmp_path / "set", MARKET))), progress=seen.append) == []
    assert sum(seen) == len(MARKET) - 1  # junk of the training folder is not used
    assert check_domain(DomainSpec(synth=SynthSpec(identities=2, images=4, height=32, width=16))) == []


def test_a_damaged_archive_entry_is_named(tmp_path):
    path = zip_of(make_files(tmp_path / "set", MARKET))
    raw = bytearray(path.read_bytes())
    at = raw.find(png(0)) + 20
    raw[at : at + 4] = b"\0\0\0\0"
    path.write_bytes(raw)
    (fault,) = check_domain(DomainSpec(path=str(path)))
    assert "BadZipFile" in fault.what
    assert fault.where == MARKET[0]
