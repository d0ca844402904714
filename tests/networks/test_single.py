"""The network of one head is the backbone, a mean over its maps, and a neck."""

from __future__ import annotations

import pytest
import torch

from rapids_slr.networks.backbones import build_backbone
from rapids_slr.networks.single import Single
from rapids_slr.settings.spec import ImageSpec, ModelSpec


@pytest.mark.parametrize("channels", [1, 3])
def test_it_pools_the_mean_and_normalises_it(channels):
    spec = ModelSpec(backbone="narrow", widths=[4, 6, 8])
    torch.manual_seed(0)
    network = Single(spec, ImageSpec(channels=channels, mean=[0.5], std=[0.5]))
    torch.manual_seed(0)
    backbone = build_backbone(spec, channels)
    network.set_classifiers(5, torch.Generator().manual_seed(0))
    images = torch.randn(6, channels, 32, 16)
    found = network(images)
    maps = backbone.last_stage(backbone.trunk(images))
    pooled = maps.flatten(2).sum(2) / maps[0, 0].numel()
    necked = (pooled - pooled.mean(0)) / (pooled.var(0, correction=0) + 1e-5).sqrt()
    assert [len(part) for part in found] == [1, 1, 1]
    torch.testing.assert_close(found.pooled[0], pooled)
    torch.testing.assert_close(found.necked[0], necked, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.logits[0], necked @ network.classifiers[0].weight.T, rtol=1e-4, atol=1e-5)
    rows = network.embed(images)
    assert rows.shape == (6, network.feature_dim) == (6, 8)
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(6))


def test_the_block_that_only_two_branches_have_is_not_its_own():
    spec = ModelSpec(backbone="narrow", widths=[4, 6, 8])
    parts = {name.partition(".")[0] for name, _ in Single(spec).body.named_parameters()}
    assert parts == {"trunk", "last_stage"}
