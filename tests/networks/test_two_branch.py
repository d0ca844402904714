"""The two-branch network: what its branches share, how they differ, and its classifiers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rapids_slr.engine import backend
from rapids_slr.errors import InputError
from rapids_slr.networks.backbones import build_backbone
from rapids_slr.networks.two_branch import TwoBranch
from rapids_slr.settings.spec import ImageSpec, ModelSpec

NARROW = ModelSpec(backbone="narrow", widths=[4, 6, 8])


@pytest.fixture
def network() -> TwoBranch:
    torch.manual_seed(0)
    return TwoBranch(NARROW)


@pytest.fixture
def images() -> Tensor:
    return torch.randn(6, 3, 32, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("backbone", ["resnet50", "ibn_resnet50_a"])
def test_the_two_branch_resnet50_of_the_paper(backbone):
    network = TwoBranch(ModelSpec(backbone=backbone)).eval()
    assert network.feature_dim == 4096
    stages_1_to_3, stage4, block, necks = 8_543_296, 14_964_736, 4_462_592, 2 * 2048
    assert sum(p.numel() for p in network.parameters()) == stages_1_to_3 + 2 * stage4 + block + necks
    with torch.no_grad():
        x = torch.randn(1, 3, 256, 128)
        assert network.branches[1](network.trunk(x)).shape == (1, 2048, 16, 8)
        assert network.embed(x).shape == (1, 4096)


def test_shapes_and_types(network, images):
    network.set_classifiers(5, torch.Generator().manual_seed(0))
    out = network(images)
    assert [x.shape for x in out.pooled + out.necked] == [(6, 8)] * 4
    assert [x.shape for x in out.logits] == [(6, 5)] * 2
    network.drop_classifiers()
    assert network(images).logits == ()


def test_branches_start_as_copies_that_share_no_weight(network):
    first, (second, _) = network.branches
    for (name, a), b in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert not {id(p) for p in first.parameters()} & {id(p) for p in second.parameters()}


def test_branch_1_averages_and_branch_2_takes_the_maximum(network, images):
    network.eval()
    (average, maximum), (necked, _), _ = network(images)
    maps = network.trunk(images)
    torch.testing.assert_close(average, network.branches[0](maps).flatten(2).mean(2))
    assert torch.equal(maximum, network.branches[1](maps).flatten(2).max(2).values)
    torch.testing.assert_close(necked, average / (1 + 1e-5) ** 0.5)  # untouched statistics: mean 0, variance 1


def test_the_neck_scales_and_does_not_shift(network):
    assert {name for name, _ in network.necks.named_parameters()} == {"0.weight", "1.weight"}
    x = torch.randn(64, 8)
    torch.testing.assert_close(network.necks[0](x).mean(0), torch.zeros(8), atol=1e-6, rtol=0)


def test_every_weight_learns(network, images):
    network.set_classifiers(6, torch.Generator().manual_seed(0))
    sum(F.cross_entropy(logits, torch.arange(6)) for logits in network(images).logits).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_embeddings_are_both_necks_at_unit_length(network, images):
    network.eval()
    rows = network.embed(images)
    necked = torch.cat(network(images).necked, dim=1)
    torch.testing.assert_close(rows, necked / necked.norm(dim=1, keepdim=True))
    assert rows.dtype == torch.float32


def test_outputs_under_bfloat16_leave_in_float32(network, images):
    with torch.autocast("cpu", torch.bfloat16):
        out = network(images)
        assert {x.dtype for x in out.pooled + out.necked} == {torch.float32}
        assert network.embed(images).dtype == torch.float32


def test_one_channel(images):
    network = TwoBranch(NARROW, ImageSpec(channels=1, mean=[0.0], std=[1.0]))
    assert network(images[:, :1]).pooled[1].shape == (6, 8)
    with pytest.raises(RuntimeError, match="channels"):
        network(images)


def test_random_classifiers_are_small_and_depend_on_the_generator_alone(network):
    def drawn(seed):
        network.set_classifiers(400, torch.Generator().manual_seed(seed))
        return [classifier.weight.detach().clone() for classifier in network.classifiers]

    (a, b), again, other = drawn(1), drawn(1), drawn(2)
    assert torch.equal(a, again[0])
    assert torch.equal(b, again[1])
    assert not torch.equal(a, b)
    assert not torch.equal(a, other[0])
    assert a.std().item() == pytest.approx(0.001, rel=0.1)


def test_dynamic_classifiers_start_from_each_half_of_the_centroids(network, images):
    centroids = torch.rand(3, 16) + 0.1
    network.set_classifiers_from(centroids)
    for classifier, half in zip(network.classifiers, (centroids[:, :8], centroids[:, 8:]), strict=True):
        torch.testing.assert_close(classifier.weight.detach(), half / half.norm(dim=1, keepdim=True))
        assert classifier.bias is None
        assert classifier.weight.requires_grad
    network(images).logits[1].sum().backward()  # also from centroids of features made in inference mode
    with torch.inference_mode():
        features = network.embed(images)
    network.set_classifiers_from(features)
    network(images).logits[1].sum().backward()


def test_centroids_of_another_length_are_named(network):
    with pytest.raises(InputError, match=r"centroids: expected \(m, 16\) with m >= 1, got \(3, 8\)"):
        network.set_classifiers_from(torch.ones(3, 8))
    with pytest.raises(InputError, match=r"got \(0, 16\)"):
        network.set_classifiers_from(torch.ones(0, 16))


def test_a_network_without_classifiers_is_restored_from_its_state(network, images):
    network.set_classifiers(5, torch.Generator().manual_seed(0))
    network(images)
    network.drop_classifiers()
    other = TwoBranch(NARROW)
    other.load_state_dict(network.state_dict())
    assert torch.equal(other.eval().embed(images), network.eval().embed(images))


def test_the_extra_block_is_of_the_kind_of_its_backbone():
    assert [type(m) for m in build_backbone(ModelSpec(backbone="resnet18"), 3).extra_block.children()] == [
        nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.Conv2d, nn.BatchNorm2d,
    ]  # fmt: skip


# Precision and place --------------------------------------------------------------------------------------------------


def twin(network: TwoBranch, **settings) -> TwoBranch:
    """A network of the same weights under other settings."""
    other = TwoBranch(NARROW.model_copy(update=settings))
    other.load_state_dict(network.state_dict(), strict=False)
    return other


@pytest.mark.parametrize("backbone", ["narrow", "ibn_resnet50_a"])
def test_bfloat16_computes_the_maps_and_nothing_else(images, backbone):
    network = TwoBranch(ModelSpec(backbone=backbone, widths=[4, 6, 8], precision="bfloat16"))
    network.set_classifiers(5, torch.Generator().manual_seed(0))
    seen: dict[str, set[torch.dtype]] = {}
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(lambda _, __, out, name=name: seen.setdefault(name, set()).add(out.dtype))
    out = network(images)
    assert {next(iter(found)) for name, found in seen.items() if "classifiers" not in name} == {torch.bfloat16}
    assert {x.dtype for part in out for x in part} == {torch.float32}
    assert network.embed(images).dtype == torch.float32
    sum(logits.sum() for logits in out.logits).backward()
    assert {p.grad.dtype for p in network.parameters() if p.grad is not None} == {torch.float32}


def test_bfloat16_gives_nearly_the_same_features(network, images):
    rows, rounded = network.eval().embed(images), twin(network, precision="bfloat16").eval().embed(images)
    assert not torch.equal(rows, rounded)
    assert (rows * rounded).sum(1).min() > 0.999
    torch.testing.assert_close(rounded.norm(dim=1), torch.ones(6))


@pytest.mark.parametrize(("capability", "expected"), [((7, 5), False), ((8, 0), True), ((9, 0), True), ((12, 0), True)])
def test_auto_takes_bfloat16_where_a_gpu_has_it(network, monkeypatch, capability, expected):
    assert not backend.takes_bfloat16(torch.device("cpu"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert backend.takes_bfloat16(torch.device("cuda", 0)) == expected


@pytest.mark.parametrize("precision", ["auto", "float32"])
def test_the_cpu_keeps_float32_unless_told_otherwise(network, images, precision):
    assert torch.equal(twin(network, precision=precision).eval().embed(images), network.eval().embed(images))


def test_channels_last_weights_give_the_same_outputs(network, images):
    other = twin(network).to(memory_format=torch.channels_last)
    torch.testing.assert_close(other(images).necked, network(images).necked, rtol=1e-4, atol=1e-5)


def test_what_is_compiled_keeps_its_names_and_compiles_again_in_a_copy(network, images, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda call, **_: compiled.append(call) or call)
    other = twin(network, compile=True).place("cpu")
    assert len(compiled) == 3  # trunk and branches
    assert other.state_dict().keys() == network.state_dict().keys()
    assert torch.equal(other.eval().embed(images), network.eval().embed(images))
    teacher = other.frozen_copy()
    assert len(compiled) == 6
    assert torch.equal(teacher.embed(images), network.embed(images))
    assert {call.__self__ for call in compiled[3:]} == {teacher.trunk, *teacher.branches}
    network.place("cpu")
    assert len(compiled) == 6
