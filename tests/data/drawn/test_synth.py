from __future__ import annotations

import errno

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image

from rapids_slr import disk
from rapids_slr.data.check import check_domain
from rapids_slr.data.domain import Domain
from rapids_slr.data.drawn.pedestrian import style_at
from rapids_slr.data.drawn.synth import Studio, synth_domain, write_domain
from rapids_slr.data.read import read_domain
from rapids_slr.errors import InputError, RunError
from rapids_slr.settings.spec import DomainSpec, SynthSpec

SMALL = SynthSpec(identities=4, images=6, cameras=3, distractors=5, height=64, width=32)


def pictures(domain: Domain) -> np.ndarray:
    return np.stack([np.asarray(domain.open(name)) for name in domain.train.names]).astype(np.float64)


@pytest.mark.parametrize("images", [2, 3, 4, 9])
@pytest.mark.parametrize("cameras", [2, 5])
def test_counts_and_matches(images, cameras):
    spec = SMALL.model_copy(update={"images": images, "cameras": cameras})
    domain = synth_domain(spec)
    queries = 1 if images < 4 else 2
    assert len(domain.train) == 4 * images
    assert len(domain.query) == 4 * queries
    assert len(domain.gallery) == 4 * (images - queries) + 5
    assert sorted(set(domain.train.identities)) == [1, 2, 3, 4]
    assert sorted(set(domain.gallery.identities)) == [0, 5, 6, 7, 8]
    assert domain.train.cameras.max() <= cameras
    for identity in range(1, 5):
        assert len(set(domain.train.cameras[domain.train.identities == identity])) >= 2
    assert check_domain(domain, decode=False) == []
    assert not read_domain(DomainSpec(synth=spec)).faults


def test_the_same_settings_give_the_same_pictures_in_any_order():
    first, again = synth_domain(SMALL), synth_domain(SMALL)
    names = (*first.train.names, *first.query.names, *first.gallery.names)
    drawn = {name: np.asarray(first.open(name)) for name in names}
    for name in reversed(names):
        assert_array_equal(np.asarray(again.open(name)), drawn[name])
    assert len({picture.tobytes() for picture in drawn.values()}) == len(names)


@pytest.mark.parametrize("change", [{"seed": 1}, {"style": "target"}, {"gap": 0.0}])
def test_other_settings_give_other_pictures(change):
    name = synth_domain(SMALL).train.names[0]
    other = synth_domain(SMALL.model_copy(update=change))
    assert not np.array_equal(np.asarray(synth_domain(SMALL).open(name)), np.asarray(other.open(name)))


def test_a_picture_does_not_depend_on_how_many_there_are():
    more = SMALL.model_copy(update={"identities": 9, "images": 12, "distractors": 0})
    assert_array_equal(Studio(SMALL).pixels(2, 1, 3), Studio(more).pixels(2, 1, 3))


def look(style: str, gap: float) -> tuple[float, float]:
    """Mean red and mean saturation of a domain, 0..255."""
    spec = SynthSpec(style=style, gap=gap, identities=40, images=4, cameras=40, height=64, width=32)
    images = pictures(synth_domain(spec))
    return images[..., 0].mean(), (images.max(3) - images.min(3)).mean()


def test_the_gap_parts_the_two_styles_and_without_it_they_are_one():
    assert style_at("source", 0) == style_at("target", 0) != style_at("target", 0.5)
    (red, saturation), (other_red, other_saturation) = look("source", 1), look("target", 1)
    assert red > other_red + 10
    assert saturation > other_saturation + 5


def test_pictures_of_a_person_vary_more_than_noise_but_resemble_each_other_most():
    domain = synth_domain(SMALL.model_copy(update={"identities": 12, "images": 8}))
    images = pictures(domain)[:, 10:54, 8:24].reshape(len(domain.train), 4, 11, 4, 4, 3).mean((2, 4))
    flat = images.reshape(len(images), -1)
    apart = np.linalg.norm(flat[:, None] - flat[None], axis=2)
    same = domain.train.identities[:, None] == domain.train.identities
    np.fill_diagonal(apart, np.nan)
    assert np.nanmean(apart[same]) < 0.9 * np.nanmean(apart[~same])
    assert np.nanmin(apart[same]) > 20


@pytest.mark.parametrize(("height", "width"), [(16, 8), (128, 64), (96, 96), (64, 200)])
@pytest.mark.parametrize("gap", [0, 3])
def test_any_size_and_gap_can_be_drawn(height, width, gap):
    studio = Studio(SMALL.model_copy(update={"height": height, "width": width, "gap": gap, "style": "target"}))
    for index in range(12):
        picture = studio.pixels(index % 4, 1 + index % 3, index)
        assert picture.shape == (height, width, 3)
        assert picture.dtype == np.uint8
        assert picture.std() > 1


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_written_domain_reads_back_as_market1501(tmp_path, suffix):
    domain, seen = synth_domain(SMALL), []
    write_domain(domain, tmp_path / "set", suffix, seen.append)
    back = read_domain(DomainSpec(path=str(tmp_path / "set")))
    assert back.layout == "market1501"
    assert sum(seen) == sum(len(domain.split(split)) for split in ("train", "query", "gallery"))
    for split in ("train", "query", "gallery"):
        ours, theirs = domain.split(split), back.split(split)
        assert tuple(name.replace(".png", suffix) for name in ours.names) == theirs.names
        assert_array_equal(ours.identities, theirs.identities)
        assert_array_equal(ours.cameras, theirs.cameras)
    if suffix == ".png":
        assert_array_equal(pictures(domain), pictures(back))
    with pytest.raises(InputError, match="not an empty folder"):
        write_domain(domain, tmp_path / "set")
    with pytest.raises(InputError, match="suffix"):
        write_domain(domain, tmp_path / "other", ".tif")


def test_only_drawn_domains_are_written(tmp_path):
    write_domain(synth_domain(SMALL), tmp_path / "set")
    with pytest.raises(InputError, match="is not a drawn domain"):
        write_domain(read_domain(DomainSpec(path=str(tmp_path / "set"))), tmp_path / "other")


def test_a_name_of_another_domain_is_refused():
    with pytest.raises(InputError, match="is no picture of a drawn domain"):
        synth_domain(SMALL).open("query/0001_c1_f01.png")


def test_pictures_are_what_pillow_expects():
    image = synth_domain(SMALL).open(synth_domain(SMALL).train.names[0])
    assert isinstance(image, Image.Image)
    assert (image.mode, image.size) == ("RGB", (32, 64))


def test_a_disk_that_fails_while_images_are_written_is_said(tmp_path, monkeypatch):
    fill, calls = disk.fill, []

    def full(path, write):
        calls.append(path)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        fill(path, write)

    monkeypatch.setattr(disk, "fill", full)
    with pytest.raises(RunError, match="set could not be written: No space left on device; free some space, remove"):
        write_domain(synth_domain(SMALL), tmp_path / "set")


def test_of_two_that_write_to_one_folder_one_is_refused(tmp_path, monkeypatch):
    def other_is_first(path):
        path.mkdir()
        raise FileExistsError(errno.EEXIST, "File exists")

    monkeypatch.setattr(disk, "make_new_folder", other_is_first)
    with pytest.raises(InputError, match="set is not an empty folder; name a new one"):
        write_domain(synth_domain(SMALL), tmp_path / "set")
