from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from rapids_slr.data.augment import (
    ERASE_TRIES,
    ERASED_AREA,
    augment,
    erasing_mask,
    flip_and_shift,
    jitter,
    normalise,
    random_draws,
    warp,
)
from rapids_slr.settings.spec import AugmentSpec, StoredSpec
from tests.data.handmade import needs_gpu, noise

DATA = StoredSpec(height=24, width=16)
RAW = DATA.model_copy(update={"mean": [0.0], "std": [1 / 255]})  # normalised pixels are the pixels
STILL = AugmentSpec(flip=0, pad=0, erase=0)
PIXELS = torch.from_numpy(noise(12, 3, 24, 16))


def drawn(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_normalise_follows_its_formula():
    mean, std = np.array(DATA.mean)[:, None, None], np.array(DATA.std)[:, None, None]
    assert_allclose(normalise(PIXELS, DATA), (PIXELS.numpy() / 255 - mean) / std, rtol=1e-5, atol=1e-5)
    assert normalise(PIXELS, DATA).dtype == torch.float32


def test_nothing_asked_for_changes_nothing():
    assert torch.equal(augment(PIXELS, STILL, DATA, drawn()), normalise(PIXELS, DATA))


def test_a_flip_twice_is_no_flip():
    always = AugmentSpec(flip=1, pad=0, erase=0)
    once = augment(PIXELS, always, RAW, drawn()).round().byte()
    assert torch.equal(once, PIXELS.flip(3))
    assert torch.equal(augment(once, always, RAW, drawn()).round().byte(), PIXELS)


def test_half_of_the_images_are_flipped_each_on_its_own():
    many = PIXELS[:1].expand(4000, -1, -1, -1)
    flipped = (augment(many, AugmentSpec(pad=0, erase=0), RAW, drawn()).round() == PIXELS[0].flip(2)).all((1, 2, 3))
    assert 0.46 < flipped.float().mean() < 0.54


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_a_crop_is_an_exact_shift_with_black_beyond(dtype):
    shifts = torch.tensor([[0, 0], [3, -2], [-5, 5], [5, 5], [-1, 0]])
    flips = torch.tensor([False, True, False, True, True])
    images = PIXELS[:5].to(dtype)
    moved = flip_and_shift(images, flips, shifts, 5)
    assert moved.dtype == dtype
    for image, flip, (rows, columns), result in zip(images, flips, shifts.tolist(), moved, strict=True):
        source = image.flip(2) if flip else image
        for y in range(24):
            for x in range(16):
                inside = 0 <= y + rows < 24 and 0 <= x + columns < 16
                expected = source[:, y + rows, x + columns] if inside else torch.zeros(3, dtype=dtype)
                assert torch.equal(result[:, y, x], expected)


def test_padding_is_black_before_normalisation_and_every_shift_occurs():
    white = torch.full((2000, 3, 24, 16), 255, dtype=torch.uint8)
    images = augment(white, AugmentSpec(flip=0, pad=3, erase=0), RAW, drawn())
    assert set(images.round().unique().tolist()) == {0.0, 255.0}
    left = (images[:, 0, 12, :3] == 0).sum(1)
    right = (images[:, 0, 12, -3:] == 0).sum(1)
    shifts, counts = (right - left).unique(return_counts=True)
    assert shifts.tolist() == [-3, -2, -1, 0, 1, 2, 3]
    assert counts.min() > 2000 / 7 * 0.75


def test_a_warp_that_does_not_turn_is_the_exact_shift():
    shifts, flips = torch.randint(-4, 5, (12, 2), generator=drawn()), torch.arange(12) % 2 == 0
    warped = warp(PIXELS, flips, shifts, torch.zeros(12), torch.ones(12))
    assert_allclose(warped, flip_and_shift(PIXELS, flips, shifts, 4), atol=1e-2)


def test_a_warp_turns_and_scales_about_the_centre():
    square = torch.from_numpy(noise(1, 1, 16, 16))
    none, no_shift = torch.tensor([False]), torch.zeros(1, 2, dtype=torch.long)
    turned = warp(square, none, no_shift, torch.tensor([torch.pi / 2]), torch.ones(1))
    assert_allclose(turned, torch.rot90(square, -1, (2, 3)), atol=2e-2)
    dot = torch.zeros(1, 1, 40, 20)
    dot[0, 0, 10:30, 5:15] = 200
    smaller = warp(dot, none, no_shift, torch.zeros(1), torch.tensor([0.5]))
    assert_allclose(smaller.sum(), dot.sum() / 4, rtol=0.02)
    assert_allclose(smaller[0, 0, 15:25, 7:13][1:-1, 1:-1], 200, atol=1e-3)


def test_turning_does_not_shear_an_oblong_image():
    y, x = np.mgrid[:65, :33]
    disc = torch.from_numpy(((y - 32) ** 2 + (x - 16) ** 2 < 100).astype(np.float32))[None, None]
    none, no_shift = torch.tensor([False]), torch.zeros(1, 2, dtype=torch.long)
    turned = warp(disc, none, no_shift, torch.tensor([0.7]), torch.ones(1))
    assert (turned - disc).abs().mean() < 0.01


def test_jitter_follows_its_formula_and_leaves_padding_black():
    brightness, contrast = torch.linspace(0.7, 1.3, 12), torch.linspace(1.3, 0.7, 12)
    for image, result, b, c in zip(PIXELS, jitter(PIXELS, brightness, contrast), brightness, contrast, strict=True):
        lit = image.float() * b
        assert_allclose(result, ((lit - lit.mean()) * c + lit.mean()).clip(0, 255), atol=1e-2)
    padded = augment(PIXELS, AugmentSpec(flip=0, pad=20, jitter=0.5, erase=0), RAW, drawn(1))
    assert (padded == 0).all((1,)).any()


@pytest.mark.parametrize(("height", "width"), [(256, 128), (32, 32), (24, 96)])
def test_erased_areas_are_rectangles_within_bounds(height, width):
    draws = torch.rand(1000, 3 + 2 * ERASE_TRIES, generator=drawn())
    masks = erasing_mask(draws, 0.5, height, width)
    areas = masks.sum((1, 2)).float()
    erased = areas > 0
    assert 0.45 < erased.float().mean() < 0.55
    share = areas[erased] / (height * width)
    assert ERASED_AREA[0] <= share.min() < 0.05
    assert 0.25 < share.max() <= ERASED_AREA[1]
    rows, columns = masks.any(2).sum(1), masks.any(1).sum(1)
    assert torch.equal(areas, (rows * columns).float())
    assert masks.any(0).float().mean() > 0.98  # wherever it lies
    assert not erasing_mask(draws, 0.0, height, width).any()


def test_erased_pixels_are_zero_after_normalisation_and_others_untouched():
    images = augment(PIXELS, AugmentSpec(flip=0, pad=0, erase=1), DATA, drawn())
    plain, erased = normalise(PIXELS, DATA), (images == 0).all(1, keepdim=True)
    assert erased.any((1, 2, 3)).all()
    assert torch.equal(torch.where(erased, 0, plain), images)


EVERYTHING = AugmentSpec(flip=0.5, pad=4, rotate=10, scale=0.2, jitter=0.3, erase=0.5)


@pytest.mark.parametrize("kind", [AugmentSpec(pad=4), EVERYTHING])
def test_the_generator_alone_decides(kind):
    first, again = (augment(PIXELS, kind, DATA, drawn(5)) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, augment(PIXELS, kind, DATA, drawn(6)))
    generator = drawn(5)
    augment(PIXELS, kind, DATA, generator)
    assert not torch.equal(first, augment(PIXELS, kind, DATA, generator))


@pytest.mark.parametrize("kind", [AugmentSpec(pad=4), EVERYTHING])
def test_an_image_is_changed_regardless_of_its_neighbours(kind):
    others = PIXELS.clone()
    others[[0, 2, 3]] = 255 - others[[0, 2, 3]]
    before, after = (augment(images, kind, DATA, drawn(2)) for images in (PIXELS, others))
    assert torch.equal(before[1], after[1])
    assert torch.equal(before[4:], after[4:])


def test_images_of_a_batch_draw_their_own_parameters():
    same = PIXELS[:1].expand(12, -1, -1, -1)
    images = augment(same, AugmentSpec(pad=4), DATA, drawn())
    assert len(images.flatten(1).unique(dim=0)) > 8


def test_switching_one_kind_off_leaves_the_others():
    with_flip = augment(PIXELS, AugmentSpec(flip=1, pad=0, erase=0.5), DATA, drawn(3))
    without = augment(PIXELS, AugmentSpec(flip=0, pad=0, erase=0.5), DATA, drawn(3))
    assert torch.equal((with_flip == 0).all(1), (without == 0).all(1))


@needs_gpu
@pytest.mark.parametrize("kind", [AugmentSpec(pad=4), EVERYTHING])
def test_the_device_of_the_batch_does_not_matter(kind):
    here, there = (augment(images, kind, DATA, drawn(4)) for images in (PIXELS, PIXELS.cuda()))
    assert there.is_cuda
    assert_allclose(here, there.cpu(), atol=1e-3)


@pytest.mark.parametrize("kind", [AugmentSpec(), AugmentSpec(rotate=20, scale=0.2, jitter=0.3)])
def test_numbers_drawn_at_once_are_those_drawn_batch_by_batch(kind):
    generator = drawn(7)
    expected = torch.cat([augment(images, kind, DATA, generator) for images in PIXELS.split(5)])
    assert torch.equal(augment(PIXELS, kind, DATA, random_draws(len(PIXELS), drawn(7))), expected)
