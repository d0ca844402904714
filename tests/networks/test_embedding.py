"""The embedding of a store: order, batches, modes and views."""

from __future__ import annotations

import pytest
import torch

from rapids_slr.data.augment import augment, normalise
from rapids_slr.data.store import ImageStore
from rapids_slr.errors import RunError
from rapids_slr.networks.embed import embed
from rapids_slr.networks.two_branch import TwoBranch
from rapids_slr.settings.spec import AugmentSpec, FeatureSpec, ModelSpec, StoredSpec

DATA = StoredSpec.model_validate({"height": 16, "width": 16})
AUGMENT = AugmentSpec(pad=3)
N = 10


@pytest.fixture
def network() -> TwoBranch:
    torch.manual_seed(0)
    return TwoBranch(ModelSpec(backbone="narrow", widths=[4, 6, 8])).train()


@pytest.fixture
def store() -> ImageStore:
    rng = torch.Generator().manual_seed(0)
    return ImageStore(torch.randint(0, 256, (N, 3, 16, 16), dtype=torch.uint8, generator=rng), torch.device("cpu"))


def plain_features(network: TwoBranch, store: ImageStore) -> torch.Tensor:
    with torch.no_grad():
        rows = network.eval().embed(normalise(store.pixels, DATA))
    network.train()
    return rows


@pytest.mark.parametrize("batch", [1, 3, 5, 100])
def test_features_do_not_depend_on_the_batches(network, store, batch):
    rows = embed(network, store, DATA, FeatureSpec(batch=batch))
    torch.testing.assert_close(rows, plain_features(network, store), rtol=1e-4, atol=1e-6)
    assert rows.shape == (N, network.feature_dim)
    assert rows.dtype == torch.float32
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(N))


def test_the_network_and_its_mode_stay_as_they_were(network, store):
    before = {name: value.clone() for name, value in network.state_dict().items()}
    embed(network, store, DATA, FeatureSpec(batch=4))
    assert all(module.training for module in network.modules())
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_features_can_be_trained_on(network, store):
    rows = embed(network, store, DATA, FeatureSpec())
    assert not rows.is_inference()
    (rows @ torch.zeros(network.feature_dim, 1, requires_grad=True)).sum().backward()


def test_views_are_the_mean_of_the_plain_image_and_drawn_ones(network, store):
    rows = embed(network, store, DATA, FeatureSpec(views=3), AUGMENT, torch.Generator().manual_seed(5))
    rng, mean = torch.Generator().manual_seed(5), plain_features(network, store)
    with torch.no_grad():
        network.eval()
        for _ in range(2):
            mean = mean + network.embed(augment(store.pixels, AUGMENT, DATA, rng))
    mean /= 3
    torch.testing.assert_close(rows, mean / mean.norm(dim=1, keepdim=True), rtol=1e-4, atol=1e-6)


def test_one_view_ignores_the_augmentation(network, store):
    rows = embed(network, store, DATA, FeatureSpec(), AUGMENT, torch.Generator())
    assert torch.equal(rows, embed(network, store, DATA, FeatureSpec()))


def test_views_without_a_generator_are_refused(network, store):
    with pytest.raises(ValueError, match="2 views need augment and a generator"):
        embed(network, store, DATA, FeatureSpec(views=2), AUGMENT)


def test_progress_counts_images(network, store):
    done = []
    embed(network, store, DATA, FeatureSpec(batch=4), progress=done.append)
    assert done == [4, 4, 2]


# Memory ---------------------------------------------------------------------------------------------------------------


class Small(TwoBranch):
    """A network that has no memory for more than `room` images."""

    room = 3
    fault: Exception = torch.OutOfMemoryError("CUDA out of memory")

    def forward(self, images):
        if len(images) > self.room:
            raise self.fault
        return super().forward(images)


@pytest.fixture
def small(network) -> Small:
    network.__class__ = Small
    return network


@pytest.mark.parametrize("fault", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("std::bad_alloc: rmm")])
@pytest.mark.parametrize("views", [1, 3])
@pytest.mark.parametrize("batch", [4, 7, 100])
def test_batches_are_halved_where_memory_runs_out_and_views_stay_the_same(network, store, views, batch, fault, caplog):
    settings, done = FeatureSpec(batch=batch, views=views), []
    expected = embed(network, store, DATA, settings, AUGMENT, torch.Generator().manual_seed(5))
    network.__class__, Small.fault = Small, fault
    rows = embed(network, store, DATA, settings, AUGMENT, torch.Generator().manual_seed(5), done.append)
    torch.testing.assert_close(rows, expected, rtol=1e-4, atol=1e-6)
    assert sum(done) == N
    assert max(done) <= 3
    assert "memory has run out; going on with batches of" in caplog.text


def test_no_room_for_one_image_is_an_error(small, store):
    small.room = 0
    with pytest.raises(RunError, match=r"embedding: memory has run out; one image.*lower data\.height and data\.width"):
        embed(small, store, DATA, FeatureSpec(batch=4))
    assert small.training


def test_another_fault_is_no_lack_of_memory(small, store):
    small.room, small.fault = 0, RuntimeError("CUDA error: an illegal memory access was encountered")
    with pytest.raises(RuntimeError, match="illegal memory access"):
        embed(small, store, DATA, FeatureSpec(batch=4))
