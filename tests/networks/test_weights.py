"""Weights of other programs: what their files look like, what is taken of them, and what is said of the rest."""

from __future__ import annotations

import argparse
import pathlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import resnet18

from rapids_slr.errors import InputError
from rapids_slr.files import load_tensors
from rapids_slr.networks.backbones import build_backbone
from rapids_slr.networks.checkpoint import load_network, load_trained, new_network, save_network
from rapids_slr.settings.spec import ModelSpec, RunSpec


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return resnet18()


def saved(path: Path, held: Any) -> Path:
    torch.save(held, path)
    return path


def load(path: Path) -> nn.Module:
    return build_backbone(ModelSpec(backbone="resnet18", weights=str(path)), 3).last_stage


def named(state: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {prefix + name: value for name, value in state.items() if not name.startswith("fc.")}


def torchreid(state: dict) -> dict:
    """{state_dict, epoch, rank1, optimizer} with a classifier as wide as Market-1501 has people."""
    optimizer = {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"params": [0]}]}
    state_dict = {**named(state, ""), "classifier.weight": torch.zeros(751, 512), "classifier.bias": torch.zeros(751)}
    return {
        "state_dict": state_dict,
        "epoch": 60,
        "rank1": np.float64(0.87),
        "cmc": np.arange(3),
        "optimizer": optimizer,
    }


def fast_reid(state: dict) -> dict:
    """{model, optimizer, iteration}, the backbone below `backbone.`, heads and pixel statistics beside it."""
    heads = {"heads.bottleneck.0.weight": torch.ones(512), "heads.weight": torch.zeros(751, 512)}
    pixels = {"pixel_mean": torch.zeros(1, 3, 1, 1), "pixel_std": torch.ones(1, 3, 1, 1)}
    return {"model": {**named(state, "backbone."), **heads, **pixels}, "iteration": 3}


def open_unreid(state: dict) -> dict:
    """Student and mean network of DataParallel, one below `module.net.`, the other below `module.mean_net.`."""
    other = {name: value + 1 for name, value in state.items() if value.is_floating_point()}
    both = {**named(state, "module.net.backbone."), **named(other, "module.mean_net.backbone.")}
    return {"state_dict": {**both, "module.net.classifier.weight": torch.zeros(9, 512)}, "epoch": 3}


def timm(state: dict) -> dict:
    """{arch, state_dict, args, metric}, with a classifier of its own width."""
    narrow = {"fc.weight": torch.zeros(7, 512), "fc.bias": torch.zeros(7)}
    args = argparse.Namespace(lr=np.float32(0.1), model="resnet18")
    return {"epoch": 2, "arch": "resnet18", "args": args, "state_dict": {**state, **narrow}, "metric": np.float32(70)}


def odd_keys(state: dict) -> dict:
    return {0: torch.zeros(2), (1, "a"): {"x": torch.zeros(1)}, "net": {**state, 7: torch.zeros(1)}, b"epoch": 3}


@pytest.mark.parametrize(
    ("program", "left_out"),
    [
        (torchreid, "2 tensors are not of the backbone, and left out: state_dict.classifier.weight, state_dict.clas"),
        (fast_reid, "4 tensors are not of the backbone, and left out: model.heads.bottleneck.0.weight, model.heads."),
        (open_unreid, "and left out: state_dict.module.mean_net.backbone.conv1.weight, "),
        (timm, "2 tensors are not of the backbone, and left out: state_dict.fc.weight, state_dict.fc.bias"),
        (odd_keys, "left out: net.fc.weight, net.fc.bias"),
        (
            lambda state: {"state_dict": {"module." + name: x for name, x in state.items()}},
            "state_dict.module.fc.weight",
        ),
        (lambda state: {"model": {"net": named(state, "module.encoder.")}}, None),
    ],
)
def test_weights_of_other_programs_load_and_the_rest_is_named(network, tmp_path, caplog, program: Callable, left_out):
    path = saved(tmp_path / "other.pth.tar", program(network.state_dict()))
    assert torch.equal(load(path)[1].conv2.weight, network.layer4[1].conv2.weight)
    assert (left_out is None) == (caplog.text == "")
    assert left_out is None or (str(path) in caplog.text and left_out in caplog.text)


def test_more_within_a_stage_is_another_network(network, tmp_path):
    """Squeeze and excitation, which no block here has."""
    state = {**network.state_dict(), "layer1.0.se.fc1.weight": torch.zeros(4, 64)}
    with pytest.raises(InputError, match=r"does not fit the backbone \(1 unexpected: layer1\.0\.se\.fc1\.weight\)"):
        load(saved(tmp_path / "se.pth", {"model": named(state, "backbone.")}))


@pytest.mark.parametrize(
    ("held", "message"),
    [
        (lambda network: network, "holds a torchvision.models.resnet.ResNet, which is neither a tensor nor a plain"),
        (lambda network: {"state_dict": {}, "cfg": pathlib.PurePosixPath("x")}, "holds a pathlib.PurePosixPath, which"),
        (
            lambda network: {"epoch": 3, 4: [1]},
            r"holds no state dict (tensors by name) but epoch (int), 4 (list); save",
        ),
        (lambda network: torch.zeros(3), "holds no state dict (tensors by name) but a Tensor; save a state dict there"),
        (lambda network: {}, "holds no state dict (tensors by name) but nothing; save a state dict there"),
        (lambda network: {"weight": torch.zeros(3)}, "does not fit the backbone (100 missing: bn1.bias, "),
    ],
)
def test_what_cannot_be_loaded_is_said_in_one_line(network, tmp_path, held, message):
    path = saved(tmp_path / "other.pth", held(network))
    with pytest.raises(InputError) as fault:
        load(path)
    text = str(fault.value)
    assert message in text
    assert text.startswith(f"model.weights: {path} ")
    assert one_line(text)


def one_line(text: str) -> bool:
    return not re.search(r"[\n\x1b]|weights_only|PyTorch 2", text)


def test_a_scripted_network_is_named(network, tmp_path, recwarn):
    torch.jit.script(network).save(tmp_path / "scripted.pt")
    recwarn.clear()
    with pytest.raises(InputError, match=r"is no file of tensors \(it is a TorchScript program\); save a state dict"):
        load(tmp_path / "scripted.pt")
    assert not recwarn.list


@pytest.mark.parametrize(
    "content", [b"<html>404</html>", b"version https://git-lfs.github.com/spec/v1", b"", b"PK\3\4"]
)
def test_no_paragraph_of_torch_reaches_a_user(tmp_path, content):
    (tmp_path / "last.pt").write_bytes(content)
    for read in (load, load_tensors, load_trained):
        with pytest.raises(InputError) as fault:
            read(tmp_path / "last.pt")
        assert one_line(str(fault.value))


@pytest.mark.parametrize("program", [torchreid, fast_reid, open_unreid, timm, odd_keys])
def test_a_foreign_checkpoint_is_led_to_where_it_belongs(network, tmp_path, tiny: RunSpec, program):
    path = saved(tmp_path / "other.pth", program(network.state_dict()))
    with pytest.raises(InputError, match=r"no pre-trained network; .*weights of another program in model\.weights"):
        load_network(path, tiny)
    with pytest.raises(InputError, match="is not a checkpoint of this program: it holds no network"):
        load_trained(path)


def test_a_checkpoint_with_weights_of_another_width_is_refused(tiny: RunSpec, tmp_path):
    save_network(tmp_path / "pretrained.pt", new_network(tiny), tiny)
    state = torch.load(tmp_path / "pretrained.pt", weights_only=True)
    state["network"]["necks.0.weight"] = torch.zeros(3)
    for key in (None, 5):
        state["network"] |= {} if key is None else {key: torch.zeros(1)}
        for read in (load_trained, lambda path: load_network(path, tiny)):
            with pytest.raises(InputError, match="its weights are of another network than it names"):
                read(saved(tmp_path / "other.pt", state))
