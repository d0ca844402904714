"""JPEG files by torchvision's decoder: which it is given, what is left to Pillow, and how near the pixels are.

torchvision decodes on the CPU here, by the call that goes to nvJPEG on a GPU.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from rapids_slr.data import decode as decode_module
from rapids_slr.data import store as store_module
from rapids_slr.data.decode import decode, decode_jpegs, decode_or_fault, decodes_jpegs
from rapids_slr.data.faults import Fault
from rapids_slr.data.read import read_domain
from rapids_slr.data.store import load_images
from rapids_slr.errors import InputError
from rapids_slr.settings.spec import DomainSpec, StoredSpec
from tests.data.handmade import make_files, png

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:torchvision")

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
GREY = {"channels": 1, "mean": [0.0], "std": [1.0]}
NAMES = [f"000{number}_c1s1_00000{number}_00.jpg" for number in range(1, 8)]


def data(**settings) -> StoredSpec:
    return StoredSpec.model_validate({"height": 32, "width": 16, **settings})


def picture(mode: str = "RGB", size: tuple[int, int] = (24, 48), seed: int = 0) -> Image.Image:
    """A smooth picture, as JPEG likes it."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).convert(mode)


def jpeg(image: Image.Image, **settings) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=95, **settings)
    return file.getvalue()


def upside_down() -> Image.Exif:
    exif = Image.Exif()
    exif[274] = 3
    return exif


@pytest.fixture
def market(tmp_path) -> Path:
    """Seven training images: three JPEG files that a GPU takes, and one each that only Pillow can read or judge."""
    folder = make_files(
        tmp_path / "set", ["query/0001_c1s1_000001_00.png", "bounding_box_test/0001_c2s1_000001_00.png"]
    )
    train = folder / "bounding_box_train"
    train.mkdir()
    contents = [
        *(jpeg(picture(size=size, seed=seed)) for seed, size in enumerate([(24, 48), (16, 32), (40, 40)])),
        jpeg(picture(seed=3), exif=upside_down()),
        jpeg(picture("CMYK", seed=4)),
        jpeg(picture("L", seed=5)),
        png(90, (24, 48)),
    ]
    for name, content in zip(NAMES, contents, strict=True):
        (train / name).write_bytes(content)
    return folder


@pytest.fixture
def on_gpu(monkeypatch) -> list[int]:
    """Let the loader take its device for a GPU; gives the sizes of the batches that were decoded there."""
    batches: list[int] = []
    real = decode_module._decoder()

    def counting(files: list[Tensor], mode: str, device: torch.device) -> list[Tensor]:
        batches.append(len(files))
        return real(files, mode, device)

    monkeypatch.setattr(decode_module, "_decoder", lambda: counting)
    monkeypatch.setattr(store_module, "decodes_jpegs", lambda *_: True)
    return batches


@pytest.mark.parametrize(("block", "batches"), [(512, [3]), (2, [2, 1])])
def test_whole_upright_files_in_the_right_colours_are_decoded_in_a_batch(market, on_gpu, monkeypatch, block, batches):
    monkeypatch.setattr(store_module, "BLOCK", block)
    domain = read_domain(DomainSpec(path=str(market)))
    plain = torch.from_numpy(np.stack([decode(domain.open(name), data()) for name in domain.train.names]))
    store, kept = load_images(domain, domain.train, data(), CPU)
    assert on_gpu == batches
    assert kept.names == domain.train.names
    assert torch.equal(store.pixels[3:], plain[3:])
    assert (store.pixels[:3].int() - plain[:3].int()).abs().max() <= 3  # resizing rounds in its own way
    assert (store.pixels[:3].float() - plain[:3].float()).abs().mean() < 0.5


@pytest.mark.parametrize("invert", [False, True])
def test_grey_files_where_grey_is_wanted(market, on_gpu, invert):
    domain, settings = read_domain(DomainSpec(path=str(market))), data(**GREY, invert=invert)
    store, _ = load_images(domain, domain.train, settings, CPU)
    assert on_gpu == [1]
    expected = decode(domain.open(domain.train.names[5]), settings)
    assert (store.pixels[5].int() - torch.tensor(expected).int()).abs().max() <= 3


def test_what_the_decoder_refuses_is_left_to_pillow(market, monkeypatch):
    """Its second file fails, alone and with any other; the halves of a batch find out which."""
    domain = read_domain(DomainSpec(path=str(market)))
    refused = decode_or_fault(domain, domain.train.names[1], data(), jpegs=True)
    real, asked = decode_module._decoder(), []

    def fails(files: list[Tensor], mode: str, device: torch.device) -> list[Tensor]:
        asked.append(len(files))
        if any(torch.equal(file, refused) for file in files):
            raise RuntimeError("nvjpegDecode failed: 2")
        return real(files, mode, device)

    monkeypatch.setattr(decode_module, "_decoder", lambda: fails)
    monkeypatch.setattr(store_module, "decodes_jpegs", lambda *_: True)
    store, kept = load_images(domain, domain.train, data(), CPU)
    assert asked == [3, 1, 2, 1, 1]
    assert kept.names == domain.train.names
    assert torch.equal(store.pixels[1], torch.from_numpy(decode(domain.open(domain.train.names[1]), data())))


def test_cut_off_files_are_judged_by_pillow(market, on_gpu):
    name = market / "bounding_box_train" / NAMES[0]
    name.write_bytes(name.read_bytes()[:-40])
    domain = read_domain(DomainSpec(path=str(market)))
    with pytest.raises(InputError, match=f"unreadable images(.|\n)*{NAMES[0]}.*truncated"):
        load_images(domain, domain.train, data(), CPU)
    store, kept = load_images(domain, domain.train, data(on_error="skip"), CPU)
    assert on_gpu == [2, 2]  # it was given to no decoder that might fill it with grey
    assert kept.names == domain.train.names[1:]
    assert (store.pixels[0].int() - torch.from_numpy(decode(domain.open(kept.names[0]), data())).int()).abs().max() <= 3


def test_no_file_is_given_away_unless_asked(market):
    domain = read_domain(DomainSpec(path=str(market)))
    assert isinstance(decode_or_fault(domain, domain.train.names[0], data()), np.ndarray)
    assert isinstance(decode_or_fault(domain, "none.jpg", data(), jpegs=True), Fault)


def test_large_batches_are_cut(monkeypatch):
    sizes = []
    fake = lambda files, *_: sizes.append(len(files)) or [torch.zeros(3, 32, 16, dtype=torch.uint8) for _ in files]  # noqa: E731
    monkeypatch.setattr(decode_module, "_decoder", lambda: fake)
    monkeypatch.setattr(decode_module, "JPEG_BATCH", 4)
    assert len(decode_jpegs([torch.zeros(1, dtype=torch.uint8)] * 10, data(), CPU)) == 10
    assert sizes == [4, 4, 2]


def test_auto_is_pillow_without_cuda():
    assert not decodes_jpegs(data(), CPU)
    assert not decodes_jpegs(data(decode="pillow"), CUDA)
    with pytest.raises(
        InputError, match=r"data\.decode: JPEG files cannot be decoded on cpu \(it is no GPU\); set it to"
    ):
        decodes_jpegs(data(decode="gpu"), CPU)


@pytest.mark.parametrize(
    "fault", [ImportError("cannot import name 'decode_jpeg'"), RuntimeError("not compiled with nvJPEG support\nat ...")]
)
def test_a_torchvision_that_cannot_is_named_or_done_without(monkeypatch, fault):
    def decoder():
        raise fault

    monkeypatch.setattr(decode_module, "_decoder", decoder)
    assert not decodes_jpegs(data(), CUDA)
    with pytest.raises(InputError, match=f"cannot be decoded on cuda:0 .*{str(fault).splitlines()[0]}"):
        decodes_jpegs(data(decode="gpu"), CUDA)


def test_auto_takes_a_gpu_that_can(monkeypatch):
    monkeypatch.setattr(decode_module, "_decoder", lambda: lambda files, mode, device: [torch.zeros(3, 16, 16)])
    assert decodes_jpegs(data(), CUDA)
    assert decodes_jpegs(data(decode="gpu"), CUDA)
