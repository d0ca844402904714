from __future__ import annotations

import zipfile

import pytest

from rapids_slr.data.pack import pack
from rapids_slr.data.read import read_domain
from rapids_slr.errors import InputError
from rapids_slr.settings.spec import DomainSpec
from tests.data.handmade import MARKET, make_files


def test_a_packed_folder_reads_like_the_folder(tmp_path):
    folder = make_files(tmp_path / "set", MARKET, **{"readme.txt": "words " * 100, ".hidden": "x"})
    seen: list[int] = []
    assert pack(folder, tmp_path / "set.zip", seen.append) == sum(seen) == len(MARKET) + 1
    with zipfile.ZipFile(tmp_path / "set.zip") as archive:
        kinds = {entry.filename: entry.compress_type for entry in archive.infolist()}
    assert kinds.pop("readme.txt") == zipfile.ZIP_DEFLATED
    assert set(kinds) == set(MARKET)
    assert set(kinds.values()) == {zipfile.ZIP_STORED}
    loose, packed = (read_domain(DomainSpec(path=str(tmp_path / name))) for name in ("set", "set.zip"))
    for split in ("train", "query", "gallery"):
        assert loose.split(split).names == packed.split(split).names
        for name in loose.split(split).names:
            assert loose.open(name).tobytes() == packed.open(name).tobytes()


def test_the_same_files_give_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        pack(make_files(tmp_path / name, MARKET), tmp_path / f"{name}.zip")
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()


def test_a_broken_off_pack_leaves_nothing(tmp_path):
    folder = make_files(tmp_path / "set", MARKET)

    def stop(done: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(folder, tmp_path / "set.zip", stop)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_what_cannot_be_packed(tmp_path):
    folder = make_files(tmp_path / "set", MARKET)
    (tmp_path / "there.zip").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    for source, target, words in (
        (tmp_path / "nowhere", tmp_path / "a.zip", "is not a folder"),
        (tmp_path / "empty", tmp_path / "a.zip", "holds no image"),
        (folder, tmp_path / "there.zip", "exists"),
        (folder, folder / "a.zip", "lies in the folder"),
        (folder, tmp_path / "nowhere" / "a.zip", "is not a folder"),
    ):
        with pytest.raises(InputError, match=words):
            pack(source, target)
