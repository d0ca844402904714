"""Backbones keep the names, strides and counts of the networks they are cut from, and load their files by name."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models import resnet18, resnet50

from rapids_slr.errors import InputError
from rapids_slr.networks import backbones
from rapids_slr.networks.backbones import Backbone, InstanceBatchNorm, Picked, build_backbone
from rapids_slr.settings.spec import ModelSpec


def build(name: str, channels: int = 3, **settings) -> Backbone:
    return build_backbone(ModelSpec(backbone=name, **settings), channels)


def images(batch: int, channels: int, height: int, width: int) -> Tensor:
    return torch.randn(batch, channels, height, width, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def weights_of_resnet18(tmp_path) -> tuple[Path, nn.Module]:
    """A file as torchvision writes it, and the network it is of, with statistics that are not the defaults."""
    network = resnet18()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
    torch.save(network.state_dict(), tmp_path / "resnet18.pth")
    return tmp_path / "resnet18.pth", network


def official_ibn_names() -> set[str]:
    """Tensors of resnet50_ibn_a-d9d0bb7b.pth: ResNet-50, bn1 of the blocks of layers 1-3 split into IN and BN."""
    names = set()
    for name in resnet50().state_dict():
        stage, *middle, _ = name.split(".")
        if stage in {"layer1", "layer2", "layer3"} and middle[1:] == ["bn1"]:
            prefix = ".".join([stage, *middle])
            names |= {f"{prefix}.IN.weight", f"{prefix}.IN.bias"}
            names |= {f"{prefix}.BN.{x}" for x in ("weight", "bias", "running_mean", "running_var")}
            names.add(f"{prefix}.BN.num_batches_tracked")
        else:
            names.add(name)
    return names


@pytest.mark.parametrize(("name", "width"), [("resnet18", 512), ("resnet50", 2048), ("ibn_resnet50_a", 2048)])
def test_the_last_stage_keeps_the_resolution(name, width):
    backbone = build(name)
    with torch.no_grad():
        maps = backbone.trunk(images(2, 3, 64, 32))
        last = backbone.last_stage(maps)
        extra = backbone.extra_block(last)
    assert maps.shape == (2, width // 2, 4, 2)  # a sixteenth
    assert last.shape == extra.shape == (2, width, 4, 2)
    assert backbone.width == width


def test_narrow_goes_from_32_to_4():
    backbone = build("narrow", channels=1, widths=[6, 10, 14])
    x, sizes = images(2, 1, 32, 32), []
    for layer in (*backbone.trunk, backbone.last_stage, backbone.extra_block):
        x = layer(x)
        sizes.append(tuple(x.shape[1:]))
    assert sizes == [(6, 16, 16), (6, 16, 16), (6, 16, 16), (10, 8, 8), (14, 4, 4), (14, 4, 4)]
    assert backbone.trunk.conv1.kernel_size == (5, 5)


@pytest.mark.parametrize(("inputs", "picks"), [(1, True), (7, True), (8, False), (24, False)])
def test_narrow_leaves_no_stride_to_an_unsafe_convolution(inputs, picks):
    shortcut = build("narrow", widths=[inputs, 8, 8]).trunk.layer2[0].downsample[0]
    assert isinstance(shortcut, Picked) == picks
    plain = nn.Conv2d(inputs, 8, 1, 2, bias=False)
    plain.load_state_dict(shortcut.state_dict())
    found = []
    for conv in (shortcut.double(), plain.double()):
        x = images(2, inputs, 9, 6).double().requires_grad_()
        y = conv(x)
        y.square().sum().backward()
        found.append((y, x.grad, conv.weight.grad))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_ibn_has_a_relu_behind_the_stem():
    backbone = build("ibn_resnet50_a")
    assert [type(layer) for layer in backbone.trunk[:4]] == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.MaxPool2d]


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "narrow"])
def test_the_others_have_no_relu_behind_the_stem(name):
    backbone = build(name)
    assert [type(layer) for layer in backbone.trunk[:2]] == [nn.Conv2d, nn.BatchNorm2d]
    assert not any(isinstance(layer, nn.ReLU) for layer in backbone.trunk)
    assert (backbone.trunk[:2](images(2, 3, 32, 32)) < 0).any()


def test_parameters_of_resnet50_are_counted_by_hand():
    backbone = build("resnet50")
    counts = [sum(p.numel() for p in part.parameters()) for part in backbone[:3]]
    without_classifier = 25_557_032 - (2048 * 1000 + 1000)
    stage4 = sum(p.numel() for p in resnet50().layer4.parameters())
    block = 2048 * 512 + 9 * 512 * 512 + 512 * 2048 + 2 * (512 + 512 + 2048)
    assert counts == [without_classifier - stage4, stage4, block]


def test_forward_values_are_those_of_torchvision_without_the_relu(weights_of_resnet18):
    path, network = weights_of_resnet18
    backbone = build("resnet18", weights=str(path))
    network.eval()
    network.layer4[0].conv1.stride = network.layer4[0].downsample[0].stride = (1, 1)
    x = images(2, 3, 64, 32)
    with torch.no_grad():
        expected = network.maxpool(network.bn1(network.conv1(x)))
        expected = network.layer3(network.layer2(network.layer1(expected)))
        maps = backbone.trunk.eval()(x)
        assert torch.equal(maps, expected)
        assert torch.equal(backbone.last_stage.eval()(maps), network.layer4(expected))


def test_ibn_has_the_names_and_shapes_of_the_official_file():
    network = backbones.ibn_resnet50_a(ModelSpec())
    assert set(network.state_dict()) == official_ibn_names()
    assert network.layer3[5].bn1.IN.num_features == network.layer3[5].bn1.BN.num_features == 128
    assert isinstance(network.layer4[0].bn1, nn.BatchNorm2d)
    assert isinstance(network.bn1, nn.BatchNorm2d)
    assert sum(p.numel() for p in network.parameters()) == 25_557_032  # no more than ResNet-50


def test_ibn_normalises_the_first_half_by_image_and_the_rest_by_batch():
    norm, maps = InstanceBatchNorm(6), images(4, 6, 5, 5) * 3 + 2
    normed = norm(maps)

    def standard(x: Tensor, axes: tuple[int, ...]) -> Tensor:
        return (x - x.mean(axes, keepdim=True)) / (x.var(axes, correction=0, keepdim=True) + 1e-5).sqrt()

    torch.testing.assert_close(normed[:, :3], standard(maps[:, :3], (2, 3)))
    torch.testing.assert_close(normed[:, 3:], standard(maps[:, 3:], (0, 2, 3)))


def test_one_channel_sums_the_stem_over_rgb(weights_of_resnet18):
    path, network = weights_of_resnet18
    grey = build("resnet18", channels=1, weights=str(path))
    x = images(2, 1, 32, 32)
    torch.testing.assert_close(grey.trunk.conv1(x), network.conv1(x.expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["safetensors", "nested", "without counters"])
def test_other_files_of_the_same_weights_load(weights_of_resnet18, tmp_path, kind):
    path, network = weights_of_resnet18
    state = network.state_dict()
    if kind == "safetensors":
        path = tmp_path / "resnet18.safetensors"
        save_file(state, path)
    elif kind == "nested":  # as trainers on several GPUs leave it
        torch.save({"state_dict": {f"module.{name}": value for name, value in state.items()}, "epoch": 3}, path)
    else:
        torch.save({name: value for name, value in state.items() if "num_batches" not in name}, path)
    assert torch.equal(build("resnet18", weights=str(path)).last_stage[1].conv2.weight, network.layer4[1].conv2.weight)


def test_all_names_that_do_not_fit_are_named(weights_of_resnet18):
    path, network = weights_of_resnet18
    state = network.state_dict()
    del state["layer1.0.conv1.weight"]
    state["layer9.weight"] = torch.zeros(1)
    state["bn1.weight"] = torch.zeros(7)
    torch.save(state, path)
    with pytest.raises(InputError) as fault:
        build("resnet18", weights=str(path))
    assert str(fault.value) == (
        f"model.weights: {path} does not fit the backbone (1 missing: layer1.0.conv1.weight; 1 unexpected: "
        "layer9.weight; 1 of another shape: bn1.weight (7,) instead of (64,)); give weights of this backbone"
    )


def test_a_file_of_another_backbone_is_refused(weights_of_resnet18):
    with pytest.raises(InputError, match=r"does not fit the backbone \(\d+ missing: .* and \d+ more; "):
        build("resnet50", weights=str(weights_of_resnet18[0]))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"model\.weights: there is no file .*absent\.pth; give a \.pth"):
        build("resnet18", weights=str(tmp_path / "absent.pth"))


class Hostile:
    def __reduce__(self):
        return Path.touch, (Path("ran-code"),)


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
@pytest.mark.parametrize(
    "content", [b"", b"no tensors here", pickle.dumps(Hostile(), protocol=2), b"PK\x03\x04 cut short"]
)
def test_a_file_of_something_else_is_refused_and_never_run(tmp_path, monkeypatch, name, content):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=rf"model\.weights: .*{name} is no file of tensors \("):
        build("resnet18", weights=name)
    assert not (tmp_path / "ran-code").exists()


def test_a_truncated_file_is_refused(weights_of_resnet18):
    path, _ = weights_of_resnet18
    path.write_bytes(path.read_bytes()[: 10**6])
    with pytest.raises(InputError, match="is no file of tensors"):
        build("resnet18", weights=str(path))


def test_a_file_without_tensors_by_name_is_refused(tmp_path):
    torch.save([torch.zeros(1)], tmp_path / "list.pt")
    with pytest.raises(InputError, match=r"list\.pt holds no state dict"):
        build("resnet18", weights=str(tmp_path / "list.pt"))


def test_imagenet_loads_the_official_file_by_its_url(monkeypatch):
    network = backbones.ibn_resnet50_a(ModelSpec())
    asked = []

    def download(url, **settings):
        asked.append((url, settings["weights_only"], settings["check_hash"]))
        return network.state_dict()

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", download)
    backbone = build("ibn_resnet50_a", weights="imagenet")
    assert asked == [(backbones.IBN_RESNET50_A_URL, True, True)]
    assert torch.equal(backbone.trunk.layer1[0].bn1.IN.weight, network.layer1[0].bn1.IN.weight)
    assert torch.equal(backbone.last_stage[2].conv3.weight, network.layer4[2].conv3.weight)


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "ibn_resnet50_a"])
def test_imagenet_without_a_network_connection_says_what_to_do(monkeypatch, name):
    def refuse(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", refuse)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    with pytest.raises(InputError, match=rf"weights of {name} could not be downloaded \(no route.*give its path"):
        build(name, weights="imagenet")


def test_narrow_has_no_imagenet_weights_and_three_widths():
    with pytest.raises(InputError, match="there are no ImageNet weights for narrow"):
        build("narrow", weights="imagenet")
    with pytest.raises(InputError, match=r"narrow has three stages, got 2 widths \[8, 16\]"):
        build("narrow", widths=[8, 16])
