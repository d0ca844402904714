from __future__ import annotations

import dataclasses
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from rapids_slr.data import store as store_module
from rapids_slr.data.decode import decode
from rapids_slr.data.read import read_domain
from rapids_slr.data.store import ImageStore, load_images
from rapids_slr.errors import InputError
from rapids_slr.settings.spec import DomainSpec, StoredSpec
from tests.data.handmade import MARKET, make_files, needs_gpu, noise, png

CPU = torch.device("cpu")


def data(**settings) -> StoredSpec:
    return StoredSpec.model_validate({"height": 16, "width": 16, **settings})


GREY = noise(20, 16)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.fromarray(GREY), GREY),
        (Image.fromarray(GREY).convert("1", dither=Image.Dither.NONE), np.where(GREY > 127, 255, 0)),
        (Image.fromarray(GREY.astype(np.uint16) * 257), GREY),  # I;16
        (Image.fromarray(GREY.astype(np.int32) * 257), GREY),  # I
        (Image.fromarray(np.dstack([GREY, np.full_like(GREY, 255)]), "LA"), GREY),
        (Image.fromarray(np.dstack([GREY, np.zeros_like(GREY)]), "LA"), np.full_like(GREY, 255)),  # transparent
        (Image.fromarray(GREY).convert("P"), GREY),
        (Image.fromarray(np.dstack([GREY] * 3)), GREY),
    ],
    ids=["L", "1", "I;16", "I", "LA", "transparent", "P", "RGB"],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_grey_mode_gives_the_same_bytes(image, expected, channels):
    pixels = decode(image, data(height=20, channels=channels, mean=[0.0], std=[1.0]))
    assert pixels.shape == (channels, 20, 16)
    assert pixels.dtype == np.uint8
    for plane in pixels:
        assert_array_equal(plane, expected)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "CMYK", "YCbCr", "P", "PA", "HSV", "LAB"])
def test_every_colour_mode_is_read_as_colour(mode):
    red = Image.new("RGB", (16, 16), (250, 10, 10))
    if mode == "LAB":
        image = Image.new("LAB", (16, 16), (138, 200, 190))
    elif mode == "PA":
        image = red.convert("P", palette=Image.Palette.ADAPTIVE).convert("PA")
    else:
        image = red.convert(mode, palette=Image.Palette.ADAPTIVE) if mode == "P" else red.convert(mode)
    pixels = decode(image, data())
    assert pixels.shape == (3, 16, 16)
    assert pixels[0].min() > 200
    assert pixels[1:].max() < 90


def test_a_transparent_palette_shows_white():
    image = Image.new("P", (16, 16), 0)
    image.putpalette([0, 0, 0, 255, 0, 0])
    image.info["transparency"] = 0
    assert (decode(image, data()) == 255).all()


def test_strokes_become_light_when_inverted():
    image = Image.new("1", (16, 16), 1)
    image.paste(0, (0, 0, 8, 16))
    pixels = decode(image, data(channels=1, mean=[0.0], std=[1.0], invert=True))
    assert (pixels[0, :, :8] == 255).all()
    assert (pixels[0, :, 8:] == 0).all()


def test_resizing_averages_over_the_area():
    checks = np.indices((64, 64)).sum(0) % 2 * 255
    pixels = decode(Image.fromarray(checks.astype(np.uint8)), data())
    assert_allclose(pixels, 127.5, atol=1)  # without antialiasing it would be black and white


def test_a_rotated_camera_picture_is_turned_upright(tmp_path):
    image = Image.fromarray(noise(16, 32, 3))
    exif = Image.Exif()
    exif[274] = 6
    image.save(tmp_path / "x.png", exif=exif)
    pixels = decode(Image.open(tmp_path / "x.png"), data(height=32))
    assert_array_equal(pixels, np.rot90(np.asarray(image), -1).transpose(2, 0, 1))


def test_pixels_of_unknown_range_are_refused():
    with pytest.raises(ValueError, match="no known range"):
        decode(Image.fromarray(GREY.astype(np.float32)), data())


@pytest.fixture
def market(tmp_path) -> Path:
    return make_files(tmp_path / "set", MARKET)


def test_rows_follow_the_names(market, monkeypatch):
    monkeypatch.setattr(store_module, "BLOCK", 2)
    domain, seen = read_domain(DomainSpec(path=str(market))), []
    store, kept = load_images(domain, domain.gallery, data(), CPU, seen.append)
    assert store.shape == (len(store), 3, 16, 16) == (4, 3, 16, 16)
    assert store.device == CPU
    assert kept.names == domain.gallery.names
    assert seen == [2, 2]
    expected = [domain.open(name).getpixel((0, 0))[0] for name in domain.gallery.names]
    assert store.pixels[:, 0, 0, 0].tolist() == expected
    assert store.batch(torch.tensor([3, 0, 3]))[:, 0, 5, 5].tolist() == [expected[3], expected[0], expected[3]]


def test_unreadable_images_stop_or_are_left_out(market, monkeypatch, caplog):
    monkeypatch.setattr(store_module, "BLOCK", 2)
    train = market / "bounding_box_train"
    (train / "0002_c1s1_000451_03.png").write_bytes(png()[:50])
    (train / "0010_c10s1_000001_00.png").write_bytes(b"nothing")
    domain = read_domain(DomainSpec(path=str(market)))
    with pytest.raises(InputError, match=r"2 faults(.|\n)*0002_c1s1_000451_03(.|\n)*0010_c10s1_000001_00"):
        load_images(domain, domain.train, data(), CPU)
    store, kept = load_images(domain, domain.train, data(on_error="skip"), CPU)
    assert kept.names == ("bounding_box_train/0002_c2s1_000301_01.png",)
    assert kept.identities.tolist() == [2]
    assert kept.cameras.tolist() == [2]
    assert store.pixels[0, 0, 0, 0] == domain.open(kept.names[0]).getpixel((0, 0))[0]
    assert "2 of 3 images left out" in caplog.text


def test_a_split_with_nothing_to_load_is_an_error(market):
    domain = read_domain(DomainSpec(path=str(market)))
    with pytest.raises(InputError, match="without images"):
        load_images(domain, domain.train.take(np.array([], int)), data(), CPU)
    for name in domain.query.names:
        (market / name).write_bytes(b"")
    with pytest.raises(InputError, match="unreadable"):
        load_images(domain, domain.query, data(on_error="skip"), CPU)


def test_images_that_do_not_fit_are_an_error_before_decoding(market, monkeypatch):
    monkeypatch.setattr(store_module.psutil, "virtual_memory", lambda: namedtuple("Memory", "available")(100))
    domain = read_domain(DomainSpec(path=str(market)))
    with pytest.raises(InputError, match=r"lower data\.height"):
        load_images(domain, domain.train, data(), CPU)


@pytest.mark.parametrize(
    ("used", "free", "where"),
    [(0, 3072, "cuda"), (0, 3071, "cpu"), (1000, 4072, "cuda"), (1000, 4071, "cpu"), (3000, 6071, "cpu")],
)
def test_all_images_together_leave_half_of_the_device_to_training(monkeypatch, caplog, used, free, where):
    """1,536 bytes of images; what other splits hold counts with them."""
    memory = SimpleNamespace(used=used, free=free)
    monkeypatch.setattr(store_module, "device_memory", lambda device: memory)
    monkeypatch.setattr(store_module.torch, "empty", lambda *_, device="cpu", **__: SimpleNamespace(device=device))
    pixels = store_module._allocate((2, 3, 16, 16), data(), torch.device("cuda", 0))
    assert torch.device(pixels.device).type == where
    assert ("they stay in host memory" in caplog.text) == (where == "cpu")


@pytest.mark.parametrize("fault", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("std::bad_alloc: rmm")])
def test_a_device_that_is_full_after_all(monkeypatch, caplog, fault):
    def empty(*_, device="cpu", **__):
        if torch.device(device).type == "cuda":
            raise fault
        return SimpleNamespace(device=device)

    monkeypatch.setattr(store_module, "device_memory", lambda device: SimpleNamespace(used=0, free=2**31))
    monkeypatch.setattr(store_module.torch, "empty", empty)
    shape, cuda = (2, 3, 16, 16), torch.device("cuda", 0)
    assert store_module._allocate(shape, data(), cuda).device == "cpu"
    assert "they stay in host memory" in caplog.text
    with pytest.raises(InputError, match=r"data\.store: 2 images .* 2\.0 GiB are free .*set data\.store: auto"):
        store_module._allocate(shape, data(store="device"), cuda)


@needs_gpu
@pytest.mark.parametrize("where", ["device", "host"])
def test_batches_arrive_on_the_device_from_either_store(market, where):
    domain, cuda = read_domain(DomainSpec(path=str(market))), torch.device("cuda")
    store, _ = load_images(domain, domain.gallery, data(store=where), cuda)
    assert store.pixels.is_cuda == (where == "device")
    plain, _ = load_images(domain, domain.gallery, data(), CPU)
    indices = torch.tensor([2, 0, 2])
    for index in (indices, indices.cuda()):
        batch = store.batch(index)
        assert batch.is_cuda
        assert torch.equal(batch.cpu(), plain.batch(indices))


def test_a_store_is_plain_tensors():
    store = ImageStore(torch.arange(12, dtype=torch.uint8).view(3, 1, 2, 2), CPU)
    assert store.batch(torch.tensor([1]))[0, 0, 0, 0] == 4


def test_a_split_cannot_be_changed(market):
    with pytest.raises(dataclasses.FrozenInstanceError):
        read_domain(DomainSpec(path=str(market))).train.names = ()
