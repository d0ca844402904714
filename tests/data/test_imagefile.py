"""Images in a file that processes share: the same pixels as in memory, held once, and never those of other data."""

from __future__ import annotations

import errno
import fcntl
import os
import tempfile
import zipfile
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from rapids_slr import disk
from rapids_slr import group as group_module
from rapids_slr.data import imagefile
from rapids_slr.data import store as store_module
from rapids_slr.data.domain import Split, joined
from rapids_slr.data.faults import Fault
from rapids_slr.data.imagefile import folder, read_images
from rapids_slr.data.images import RunImages
from rapids_slr.data.read import read_domain
from rapids_slr.data.store import load_images
from rapids_slr.errors import InputError, RunError
from rapids_slr.group import Group
from rapids_slr.hosts.loop import Batches
from rapids_slr.networks.checkpoint import new_network
from rapids_slr.networks.embed import embed
from rapids_slr.seeds import generator
from rapids_slr.settings.spec import DomainSpec, RunSpec, StoredSpec
from tests.conftest import TINY
from tests.data.handmade import MARKET, make_files, png
from tests.processes import together

CPU = torch.device("cpu")


def no_bar(*_):
    return nullcontext(lambda *_: None)


def data(**settings) -> StoredSpec:
    return StoredSpec.model_validate({"height": 16, "width": 16, "store": "file", **settings})


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return folder()


@pytest.fixture
def market(tmp_path) -> Path:
    return make_files(tmp_path / "set", MARKET)


def gallery(path: Path, settings: StoredSpec, **spec) -> torch.Tensor:
    domain = read_domain(DomainSpec(path=str(path), **spec))
    return read_images(domain, domain.gallery, settings, CPU)[0].pixels


@pytest.fixture
def decoded(monkeypatch) -> list[str]:
    """The names of all images that are decoded."""
    names: list[str] = []
    real = store_module.decode_or_fault

    def counting(domain, name, *args):
        names.append(name)
        return real(domain, name, *args)

    monkeypatch.setattr(store_module, "decode_or_fault", counting)
    return names


def test_pixels_are_those_in_memory_and_later_runs_take_them_again(market, place, monkeypatch, decoded):
    for module in (store_module, imagefile):
        monkeypatch.setattr(module, "BLOCK", 3)
    domain = read_domain(DomainSpec(path=str(market)))
    expected, names = load_images(domain, domain.gallery, data(), CPU)
    decoded.clear()
    for times in (1, 2):
        seen: list[int] = []
        store, kept = read_images(domain, domain.gallery, data(), CPU, seen.append)
        assert torch.equal(store.pixels, expected.pixels)
        assert torch.equal(store.batch(torch.tensor([2, 0, 2])), expected.batch(torch.tensor([2, 0, 2])))
        assert kept.names == names.names
        assert seen == [3, 1]
        assert len(decoded) == 4, f"time {times}"
    assert [file.suffix for file in place.iterdir()] == [".images"]
    assert place.stat().st_mode & 0o777 == 0o700  # nobody else looks at them
    held = np.load(next(place.iterdir()))
    assert np.array_equal(held, expected.pixels)  # an array of NumPy to whoever wants one


def test_a_network_is_shown_the_same_bits(tiny, place):
    """Batches, augmented, and features of plain and augmented images, whatever holds them."""
    found = []
    for store in ("host", "file"):
        spec = tiny.model_copy(update={"data": tiny.data.model_copy(update={"store": store})})
        images = RunImages(spec, CPU, no_bar, print).target
        torch.manual_seed(0)
        network = new_network(spec)
        features = spec.features.model_copy(update={"views": 2, "batch": 20})
        with_views = embed(network, images.store, spec.data, features, spec.augment, generator(0, "views"))
        labels_N = torch.arange(len(images.store)) % 7
        batches = [batch.images for batch in Batches(images.store, labels_N, spec, spec.training, 1)]
        found.append([images.store.pixels, with_views, *batches])
    assert all(map(torch.equal, *found))
    assert len(list(place.iterdir())) == 1


# Which file -----------------------------------------------------------------------------------------------------------


def test_other_sizes_and_other_images_are_other_files(market, tmp_path, place):
    def files_after(path: Path = market, spec: dict | None = None, **settings) -> int:
        gallery(path, data(**settings), **(spec or {}))
        return len(list(place.iterdir()))

    assert files_after() == 1
    assert files_after(on_error="skip") == 1
    assert files_after(height=20) == 2
    assert files_after(invert=True) == 3
    assert files_after(channels=1, mean=[0.5], std=[0.5]) == 4
    assert files_after(spec={"appearance": "mid"}) == 5
    assert files_after(spec={"appearance": "hard"}) == 6
    other = make_files(tmp_path / "other", MARKET)  # the same names
    for name in MARKET:
        os.utime(other / name, ns=((market / name).stat().st_mtime_ns,) * 2)
    assert files_after(other) == 7
    archive = tmp_path / "set.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for name in MARKET:
            packed.write(market / name, name)
    assert files_after(archive) == 8
    assert files_after(archive) == 8


def test_an_image_that_has_changed_is_seen(market, place):
    domain = read_domain(DomainSpec(path=str(market)))
    name = market / domain.gallery.names[1]
    before = gallery(market, data())
    stamp, content = name.stat(), name.read_bytes()
    Image.fromarray(255 - np.asarray(Image.open(name))).save(name)
    name.write_bytes(name.read_bytes()[: len(content)].ljust(len(content), b"\0"))
    os.utime(name, ns=(stamp.st_mtime_ns, stamp.st_mtime_ns))  # as some programs that copy do
    assert name.stat().st_size == len(content)
    changed = gallery(market, data())
    assert [torch.equal(*pair) for pair in zip(before, changed, strict=True)] == [True, False, True, True]


def test_drawn_and_joined_domains_tell_theirs(market):
    drawn = [read_domain(DomainSpec.model_validate({"synth": {"seed": seed}})) for seed in (1, 1, 2)]
    stamps = [domain.stamp(domain.train.names[0]) for domain in drawn]
    assert stamps[0] == stamps[1] != stamps[2]
    folder_ = read_domain(DomainSpec(path=str(market)))
    both = joined([drawn[0], folder_])
    assert both.stamp(f"1/{drawn[0].train.names[0]}") == stamps[0]
    assert both.stamp(f"2/{folder_.train.names[0]}") == folder_.stamp(folder_.train.names[0])
    assert folder_.stamp("not/there.png") == "none"


# Files that are no good -----------------------------------------------------------------------------------------------


def test_damaged_and_short_files_are_made_anew(market, place, caplog):
    expected = gallery(market, data()).clone()
    file = next(place.iterdir())
    whole = file.read_bytes()
    flipped = [0, 7, 30, 200, 128 + 4 * 768 - 1, len(whole) - 1]
    spoilt = [whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :] for place in flipped]
    spoilt += [whole[:length] for length in (0, 5, 127, 128, 1000, 128 + 4 * 768, len(whole) - 1)]
    for content in spoilt:
        file.write_bytes(content)
        assert torch.equal(gallery(market, data()), expected)
        assert file.read_bytes() == whole
    assert caplog.text.count(f"{file} is damaged, and is made anew") == len(spoilt)


def test_images_that_cannot_be_read_stop_a_run_or_are_left_out(market, place, decoded):
    domain = read_domain(DomainSpec(path=str(market)))
    broken = domain.gallery.names[1]
    (market / broken).write_bytes(png()[:50])
    with pytest.raises(InputError, match=f"(?s)1 fault.*{broken}"):
        read_images(domain, domain.gallery, data(), CPU)
    assert list(place.iterdir()) == []
    for _ in range(2):
        decoded.clear()
        store, kept = read_images(domain, domain.gallery, data(on_error="skip"), CPU)
        expected, names = load_images(domain, domain.gallery, data(on_error="skip", store="host"), CPU)
        assert torch.equal(store.pixels, expected.pixels)
        assert kept.names == names.names
        assert len(decoded) == 8, "what was left out once is looked at again"
    with pytest.raises(InputError, match="1 fault"):
        read_images(domain, domain.gallery, data(), CPU)
    with pytest.raises(InputError, match="without images"):
        read_images(domain, domain.gallery.take(np.array([], int)), data(), CPU)


def full(descriptor: int, size: int) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_disk_without_room_is_told_before_anything_is_decoded(market, place, monkeypatch, decoded, caplog):
    monkeypatch.setattr(disk, "reserve", full)
    with pytest.raises(RunError, match=r"images could not be written: No space left .* set TMPDIR to a folder that"):
        gallery(market, data())
    assert decoded == []
    assert list(place.iterdir()) == []
    monkeypatch.setattr(group_module, "_current", AsIfTwo())
    assert len(gallery(market, data(store="auto"))) == 4
    assert "every process holds all images in its memory" in caplog.text


def test_a_folder_of_somebody_else_is_refused(market, place, monkeypatch):
    monkeypatch.setattr(Path, "chmod", lambda *_: full(0, 0))
    with pytest.raises(RunError, match=f"{place} could not be made"):
        gallery(market, data())


def test_what_killed_processes_have_left_goes_and_what_is_written_stays(market, place):
    place.mkdir()
    left, written = place / ".a.images.7.part", place / ".b.images.8.part"
    left.write_bytes(b"x")
    with open(written, "wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        gallery(market, data())
        assert not left.exists()
        assert written.exists()


# Which store ----------------------------------------------------------------------------------------------------------


class AsIfTwo(Group):
    """The first of two processes on a machine, whose other one does nothing."""

    def __init__(self) -> None:
        super().__init__(0, 1, 0, 2)

    def from_first_here(self, make):
        return make()


@pytest.mark.parametrize(
    ("store", "processes", "cuda", "fits", "in_file"),
    [
        ("auto", 1, False, True, False),
        ("auto", 2, False, True, True),
        ("auto", 2, True, True, False),
        ("auto", 2, True, False, True),
        ("host", 2, False, True, False),
        ("file", 1, False, True, True),
        ("file", 1, True, True, True),
    ],
)
def test_who_takes_a_file(market, place, monkeypatch, store, processes, cuda, fits, in_file):
    if processes == 2:
        monkeypatch.setattr(group_module, "_current", AsIfTwo())
    monkeypatch.setattr(imagefile, "device_memory", lambda device: None)
    monkeypatch.setattr(imagefile, "leaves_half", lambda *_: fits)
    monkeypatch.setattr(imagefile, "decodes_jpegs", lambda *_: False)
    monkeypatch.setattr(store_module, "decodes_jpegs", lambda *_: False)
    monkeypatch.setattr(imagefile, "load_images", lambda *_: ("in memory", None))
    domain, device = read_domain(DomainSpec(path=str(market))), torch.device("cuda", 0) if cuda else CPU
    found, _ = read_images(domain, domain.gallery, data(store=store), device)
    assert (found != "in memory") == in_file == place.exists()
    if in_file:
        assert found.device == device
        assert found.pixels.device == CPU


# Several processes ----------------------------------------------------------------------------------------------------

N, SIDE = 1500, 96


@pytest.fixture
def many(tmp_path) -> Path:
    """Small files that become 41 MB of pixels."""
    top = tmp_path / "many"
    top.mkdir()
    for number in range(N):
        Image.new("RGB", (4, 4), (number % 256, number // 256, 7)).save(top / f"{number}.png")
    return top


def loaded(group: Group, path: Path) -> dict[str, tuple[float, int, int]]:
    """By store: memory that this process alone has for the images, in their size; images decoded; a sum of all."""
    group_module._current = group
    decoded: list[str] = []
    real = store_module.decode_or_fault
    store_module.decode_or_fault = lambda domain, name, *args: decoded.append(name) or real(domain, name, *args)
    domain, found = read_domain(DomainSpec(path=str(path), layout="images")), {}

    def look(split: Split, store: str) -> tuple[torch.Tensor, int]:
        pixels = read_images(domain, split, data(height=SIDE, width=SIDE, store=store), CPU)[0].pixels
        total = sum(int(image.sum()) for image in pixels)
        group.wait()  # a page that one process alone has looked at would count as its own
        return pixels, total

    look(domain.train.take(np.arange(20)), "auto")  # what is loaded for that is none of the images
    for store in ("auto", "host"):
        decoded.clear()
        before = psutil.Process().memory_full_info().uss
        pixels, total = look(domain.train, store)
        taken = psutil.Process().memory_full_info().uss - before
        found[store] = taken / pixels.nbytes, len(decoded), total
        group.wait()
    group_module._current = group_module.ALONE
    return found


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="Linux alone tells what a process shares")
@pytest.mark.slow
def test_two_processes_do_not_hold_the_images_twice(many):
    found = together(2, loaded, many)
    for memory, _, _ in (of_process["host"] for of_process in found):
        assert memory > 0.8
    for memory, _, _ in (of_process["auto"] for of_process in found):
        assert memory < 0.4
    assert [of_process["auto"][1] for of_process in found] == [N, 0]
    assert len({total for of_process in found for *_, total in of_process.values()}) == 1


def words_of_faults(group: Group, path: Path) -> dict[tuple, str]:
    """What a process says of images of which some processes cannot read one."""
    group_module._current, found = group, {}
    for case in CASES:
        store, broken_for, on_error = case
        keys = {"target": {"path": str(path)}, "store": store, "on_error": on_error, "height": 16, "width": 16}
        spec = RunSpec.model_validate(TINY | {"data": keys, "pretrain": None, "training": {"source": None}})
        with pytest.MonkeyPatch.context() as patched:
            if group.rank == broken_for:
                patched.setattr(store_module, "decode_or_fault", cannot_read("c1s1_000451_03.png"))
            try:
                found[case] = f"read {len(RunImages(spec, CPU, no_bar, lambda _: None).target.split)}"
            except (InputError, RunError) as fault:
                found[case] = f"{type(fault).__name__}: {fault}"
        group.wait()
    group_module._current = group_module.ALONE
    return found


def cannot_read(broken: str):
    real = store_module.decode_or_fault
    return lambda domain, name, *args: (
        Fault(name, "cannot be read") if name.endswith(broken) else real(domain, name, *args)
    )


CASES = [("file", 0, "stop"), ("auto", 0, "skip"), ("auto", 1, "stop"), ("host", 1, "skip")]


@pytest.mark.slow
def test_a_fault_of_one_process_is_told_to_the_others(market):
    one, other = together(2, words_of_faults, market)
    of_reader, left_out, of_who_does_not_read, unlike = CASES
    assert one[of_reader] == other[of_reader]
    assert one[of_reader].startswith("InputError")
    assert "c1s1_000451_03.png" in one[of_reader]
    assert one[left_out] == other[left_out] == "read 2"
    assert one[of_who_does_not_read] == other[of_who_does_not_read] == "read 3"
    assert one[unlike] == "read 3"
    why = "target train: process 1 can read 2 images, and the first process other ones (3)"
    assert other[unlike].startswith(f"InputError: {why}")
