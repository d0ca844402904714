"""The two-branch networks are those of the sources: names, shapes, counts, strides and values; official files load."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rapids_slr.networks.two_branch import TwoBranch
from rapids_slr.settings.spec import ModelSpec
from tests.reference import two_branch as reference

BACKBONES = pytest.mark.parametrize("backbone", ["resnet50", "ibn_resnet50_a"])


def is_ibn(backbone: str) -> bool:
    return backbone == "ibn_resnet50_a"


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def our_name(name: str, ibn: bool) -> str:
    """The name that a tensor of ABMT has here."""
    for part, place in reference.trunk_names(ibn).items():
        if name.startswith(f"{place}."):
            return f"trunk.{part}{name.removeprefix(place)}"
    for theirs, ours in {
        "global_branch.": "branches.0.",
        "max_branch.": "branches.1.",
        "feat_bn.": "necks.0.",
        "feat_bn_max.": "necks.1.",
    }.items():
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    raise AssertionError(name)


def from_abmt(state: dict[str, Tensor], ibn: bool) -> dict[str, Tensor]:
    """A state of ABMT under our names; the necks have no bias here."""
    return {
        our_name(name, ibn): value for name, value in state.items() if name not in ("feat_bn.bias", "feat_bn_max.bias")
    }


@BACKBONES
def test_names_shapes_and_counts_are_those_of_abmt(backbone):
    ibn = is_ibn(backbone)
    network = TwoBranch(ModelSpec(backbone=backbone))
    shapes = reference.two_branch_shapes(ibn)
    found = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    assert found == {
        name: tuple(value.shape) for name, value in from_abmt(reference.draw(shapes, generator()), ibn).items()
    }
    assert sum(p.numel() for p in network.parameters()) == reference.parameters(shapes) == 42_939_456


@BACKBONES
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_forward_values_are_those_of_abmt_with_the_same_weights(backbone, training):
    ibn = is_ibn(backbone)
    state = reference.draw(reference.two_branch_shapes(ibn), generator())
    network = TwoBranch(ModelSpec(backbone=backbone)).train(training)
    network.load_state_dict(from_abmt(state, ibn), strict=True)
    network.trunk.double()  # necks stay in float32, as pooling leaves it
    network.branches.double()
    plain = reference.Network({name: value.double() for name, value in state.items()}, ibn, training)
    images = torch.randn(4, 3, 64, 32, generator=generator(1), dtype=torch.float64)
    with torch.no_grad():
        (pooled, necked), found = plain.pooled_and_necked(images), network(images)
    for ours, theirs in zip(found.pooled, pooled, strict=True):
        assert theirs.std() > 0.1
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-6, atol=1e-6)
    for ours, theirs in zip(found.necked, necked, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-3, atol=1e-3)


@BACKBONES
def test_maps_of_every_stage_have_the_size_of_abmts(backbone):
    ibn = is_ibn(backbone)
    state = reference.draw(reference.two_branch_shapes(ibn), generator())
    plain = reference.Network(state, ibn, training=False)
    network = TwoBranch(ModelSpec(backbone=backbone)).eval()
    sizes: dict[str, tuple[int, ...]] = {}
    for name, part in network.trunk.named_children():
        part.register_forward_hook(lambda _, __, out, name=name: sizes.update({name: tuple(out.shape[1:])}))
    images = torch.randn(1, 3, 128, 64, generator=generator(1))
    with torch.no_grad():
        maps = network.trunk(images)
        ours = [maps, *(branch(maps) for branch in network.branches)]
        maps = plain.trunk(images)
        theirs = [maps, *plain.branches(maps)]
    assert [x.shape for x in ours] == [x.shape for x in theirs]
    relu = {"relu": (64, 64, 32)} if ibn else {}
    assert sizes == {
        "conv1": (64, 64, 32), "bn1": (64, 64, 32), **relu, "maxpool": (64, 32, 16),
        "layer1": (256, 32, 16), "layer2": (512, 16, 8), "layer3": (1024, 8, 4),
    }  # fmt: skip
    assert list(sizes) == list(reference.trunk_names(ibn))
    assert ours[1].shape[1:] == (2048, 8, 4)


@pytest.mark.parametrize(
    ("backbone", "nested"), [("resnet50", False), ("ibn_resnet50_a", False), ("ibn_resnet50_a", True)]
)
def test_an_official_imagenet_file_loads_tensor_by_tensor(backbone, nested, tmp_path):
    """Files of torchvision and of IBN-Net's release, and the resnet50_ibn_a.pth.tar that MMT and ABMT use."""
    state = reference.draw(reference.imagenet_shapes(is_ibn(backbone)), generator(2))
    named = {f"module.{name}": value for name, value in state.items()}
    torch.save({"epoch": 90, "state_dict": named} if nested else state, tmp_path / "imagenet.pth")
    network = TwoBranch(ModelSpec(backbone=backbone, weights=str(tmp_path / "imagenet.pth")))
    for branch in network.branches[0], network.branches[1][0]:
        found = network.trunk.state_dict() | {f"layer4.{name}": value for name, value in branch.state_dict().items()}
        assert found.keys() == {name for name in state if not name.startswith("fc.")}
        assert all(torch.equal(value, state[name]) for name, value in found.items())
