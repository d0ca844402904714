"""Weights under another program's names: taken in their order, and refused where they are not the same ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.scripts import loaded

timm = pytest.importorskip("timm", reason="timm is not installed: pip install 'rapids-slr[timm]'")
FILE = Path(__file__).parents[1] / "benchmarks" / "imagenet.py"


@pytest.fixture(scope="module")
def imagenet():
    return loaded(FILE)


@pytest.fixture(scope="module")
def network(imagenet):
    torch.manual_seed(0)
    return timm.create_model(imagenet.NETWORK, num_classes=0).eval()


def under_other_names(network):
    return {f"features.{at}.{name.rpartition('.')[2]}": x for at, (name, x) in enumerate(network.state_dict().items())}


def test_the_network_with_weights_by_its_names_is_the_one_they_were_of(imagenet, network):
    other = timm.create_model(imagenet.NETWORK, num_classes=0).eval()
    other.load_state_dict(imagenet.renamed(under_other_names(network), other.state_dict()))
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(other(images), network(images))


def swapped(tensors, one, other):
    names = list(tensors)
    names[one], names[other] = names[other], names[one]
    return {name: tensors[name] for name in names}


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda tensors: dict(list(tensors.items())[:-1]), "tensors for a network of"),
        (
            lambda tensors: swapped(tensors, 1, 2),
            "features.2.bias .* stands where the network has bn1.weight",
        ),  # one shape
        (lambda tensors: swapped(tensors, 0, 6), r"features.6.weight \(32, 1, 3, 3\) stands where .* conv_stem.weight"),
    ],
)
def test_other_tensors_and_another_order_are_refused(imagenet, network, change, fault):
    with pytest.raises(ValueError, match=fault):
        imagenet.renamed(change(under_other_names(network)), network.state_dict())
