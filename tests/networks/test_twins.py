"""Twins are two networks that share nothing but the place where their features meet."""

from __future__ import annotations

import copy

import torch
from torch.nn import functional as F

from rapids_slr.networks.single import Single
from rapids_slr.networks.twins import Twins
from rapids_slr.settings.spec import ModelSpec

SPEC = ModelSpec(backbone="narrow", widths=[4, 6, 8])


def alone(twins: Twins, which: int) -> Single:
    """One of the two as a network by itself."""
    single = Single(SPEC)
    single.body, single.necks[0] = copy.deepcopy(twins.bodies[which]), copy.deepcopy(twins.necks[which])
    if twins.classifiers:
        single.classifiers.append(copy.deepcopy(twins.classifiers[which]))
    return single


def test_each_computes_what_it_would_alone_of_one_image_or_of_its_own_view():
    torch.manual_seed(0)
    twins = Twins(SPEC)
    twins.set_classifiers(5, torch.Generator().manual_seed(0))
    views = torch.randn(2, 6, 3, 32, 16)
    for images in (views[0], views):
        singles = [alone(twins, which)(images if images.ndim == 4 else images[which]) for which in (0, 1)]
        found = copy.deepcopy(twins)(images)
        for part, name in enumerate(found._fields):
            torch.testing.assert_close(found[part], tuple(single[part][0] for single in singles), msg=name)
    twins.eval()
    both = torch.cat([alone(twins, which).eval()(views[0]).necked[0] for which in (0, 1)], dim=1)
    torch.testing.assert_close(twins.embed(views[0]), F.normalize(both, dim=1))
    assert twins.feature_dim == 16


def test_they_begin_from_different_weights_and_no_gradient_passes_between_them():
    torch.manual_seed(0)
    twins = Twins(SPEC)
    first, second = (body.trunk.conv1.weight for body in twins.bodies)
    assert not torch.equal(first, second)
    twins(torch.randn(4, 3, 32, 16)).pooled[0].sum().backward()
    assert all(parameter.grad is not None for parameter in twins.bodies[0].parameters())
    assert all(parameter.grad is None for parameter in twins.bodies[1].parameters())
