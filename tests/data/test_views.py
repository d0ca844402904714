"""Views stay as they are, and are what training augments; a part of the images keeps their order."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rapids_slr.data.augment import augment, normalise, random_draws
from rapids_slr.data.domain import make_split
from rapids_slr.data.images import Images
from rapids_slr.data.store import ImageStore
from rapids_slr.data.views import ViewStore, some_of, view_of
from rapids_slr.settings.spec import AugmentSpec, StoredSpec

DATA = StoredSpec.model_validate({"height": 16, "width": 16, "mean": [0.4, 0.5, 0.6], "std": [0.2]})
AUGMENT = AugmentSpec(pad=3, jitter=0.3, erase=0.8)
N = 9


@pytest.fixture
def images(rng) -> Images:
    pixels = torch.randint(0, 256, (N, 3, 16, 16), dtype=torch.uint8, generator=rng)
    split = make_split([(f"{i}.jpg", i // 3, i % 3) for i in range(N)])
    return Images(split, ImageStore(pixels, torch.device("cpu")))


def test_a_view_is_the_image_as_training_augments_it(images):
    view = view_of(images, AUGMENT, DATA, torch.Generator().manual_seed(1))
    draws = random_draws(N, torch.Generator().manual_seed(1))
    expected = augment(images.store.pixels, AUGMENT, DATA, draws)
    torch.testing.assert_close(normalise(view.store.batch(torch.arange(N)), DATA), expected, rtol=0, atol=1e-5)
    assert view.split is images.split
    assert len(view.store) == N


def test_a_view_is_the_same_in_any_batch_and_however_often(images):
    store = ViewStore(images.store, AUGMENT, DATA, torch.Generator().manual_seed(1))
    whole = store.batch(torch.arange(N))
    for indices in ([4], [8, 0, 3], list(range(N))):
        assert torch.equal(store.batch(torch.tensor(indices)), whole[indices])
    other = ViewStore(images.store, AUGMENT, DATA, torch.Generator().manual_seed(2))
    assert not torch.equal(other.batch(torch.arange(N)), whole)


def test_some_images_are_drawn_in_order(images):
    some = some_of(images, 5, torch.Generator().manual_seed(0))
    rows = [images.split.names.index(name) for name in some.split.names]
    assert rows == sorted(set(rows))
    assert len(rows) == len(some.store) == 5
    assert torch.equal(some.store.pixels, images.store.pixels[rows])
    assert np.array_equal(some.split.identities, images.split.identities[rows])
    assert some_of(images, N, torch.Generator()) is images
    assert some_of(images, 5, torch.Generator().manual_seed(1)).split.names != some.split.names
