"""Networks for other programs: what the files give for pixels, against the network taken apart by hand."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.testing import assert_allclose
from PIL import Image

from rapids_slr import export as export_module
from rapids_slr.cli import main
from rapids_slr.data.decode import decode
from rapids_slr.errors import InputError, RunError
from rapids_slr.export import META, Export, export
from rapids_slr.networks.checkpoint import new_network, save_network
from rapids_slr.networks.network import Network
from rapids_slr.settings.spec import RunSpec
from tests.conftest import TINY
from tests.data.handmade import noise

GREY = {"channels": 1, "invert": True, "mean": [0.2], "std": [0.4]}


def make_network(path: Path, backbone: str = "narrow", **data) -> tuple[Network, RunSpec]:
    spec = RunSpec.model_validate(
        {**TINY, "model": {"backbone": backbone, "widths": [4, 8, 8]}, "data": {**TINY["data"], **data}}
    )
    torch.manual_seed(5)
    network = new_network(spec)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d | torch.nn.BatchNorm1d):
            torch.nn.init.uniform_(module.running_mean, -0.2, 0.2)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
    save_network(path, network, spec)
    return network.eval(), spec


@torch.no_grad()
def features_by_hand(network: Network, spec: RunSpec, pixels: np.ndarray) -> np.ndarray:
    """Pixels as stored (N, C, H, W) to unit rows: normalised, both branches, one after the other."""
    x = pixels.astype(np.float64) / 255
    x = 1 - x if spec.data.invert else x
    mean, std = (np.array(values)[:, None, None] for values in (spec.data.mean, spec.data.std))
    maps = network.trunk(torch.from_numpy(((x - mean) / std).astype(np.float32)))
    average = network.necks[0](network.branches[0](maps).mean((2, 3)))
    maximum = network.necks[1](network.branches[1](maps).amax((2, 3)))
    rows = np.concatenate([average.numpy(), maximum.numpy()], axis=1)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def features_of_file(path: Path, pixels: np.ndarray) -> np.ndarray:
    if path.suffix == ".pt2":
        return torch.export.load(path).module()(torch.from_numpy(pixels)).detach().numpy()
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: pixels})[0]


@pytest.fixture(scope="module")
def grey(tmp_path_factory) -> tuple[Network, RunSpec, Path]:
    """A network for grey, inverted images, its run, and a folder with its checkpoint and some photos."""
    folder = tmp_path_factory.mktemp("grey")
    network, spec = make_network(folder / "pretrained.pt", **GREY)
    (folder / "photos").mkdir()
    for seed in range(3):
        Image.fromarray(noise(40, 30, 3, seed=seed)).save(folder / "photos" / f"{seed}.png")
    return network, spec, folder


@pytest.fixture(scope="module", params=[".onnx", ".pt2"])
def made(grey, request) -> Export:
    """That network in both formats."""
    return export(grey[2] / "pretrained.pt", grey[2] / f"network{request.param}", grey[2] / "photos")


def assert_features(path: Path, network: Network, spec: RunSpec) -> None:
    for images in (1, 3, 8):
        pixels = noise(images, spec.data.channels, spec.data.height, spec.data.width, seed=images)
        features = features_of_file(path, pixels)
        assert features.dtype == np.float32
        assert_allclose(features, features_by_hand(network, spec, pixels), atol=1e-5)
        assert_allclose(np.linalg.norm(features, axis=1), 1, atol=1e-5)


def test_a_file_gives_the_features_of_the_network(grey, made):
    assert made.difference < 1e-5
    assert_features(made.path, *grey[:2])


@pytest.mark.slow
@pytest.mark.parametrize(("backbone", "suffix"), [("resnet18", ".pt2"), ("ibn_resnet50_a", ".onnx")])
def test_so_it_does_of_other_backbones(tmp_path, backbone, suffix):
    """Of 64 x 32 pixels: InstanceNorm over the two pixels that 32 x 16 leave would blow up their rounding."""
    network, spec = make_network(tmp_path / "pretrained.pt", backbone, height=64, width=32)
    made = export(tmp_path / "pretrained.pt", tmp_path / f"network{suffix}")
    assert_features(made.path, network, spec)


def facts_of_file(path: Path) -> dict[str, str]:
    if path.suffix == ".onnx":
        return {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    extra = {META: ""}
    torch.export.load(path, extra_files=extra)
    return json.loads(extra[META])


def test_a_file_says_what_it_takes_and_how_it_was_compared(made):
    facts = facts_of_file(made.path)
    assert facts == made.facts
    assert (facts["height"], facts["width"], facts["channels"], facts["dimensions"]) == ("32", "16", "1", "16")
    assert [json.loads(facts[name]) for name in ("mean", "std", "invert")] == [[0.2], [0.4], True]
    assert facts["producer"].startswith("rapids_slr ")
    assert facts["images_compared"] == str(made.images) == str(1 + 2 + 5 + 3)
    assert float(facts["largest_difference"]) == pytest.approx(made.difference, rel=0.01)
    assert str(Path(export_module.__file__).parent).encode() not in made.path.read_bytes()


def test_a_file_is_read_without_this_program(grey, made, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "rapids_slr"]:
        monkeypatch.setitem(sys.modules, name, None)
    assert_features(made.path, *grey[:2])


def test_the_pixels_are_those_of_an_image_library(grey, made):
    """Resized and not inverted: the run's own decoding inverts them, the file does so itself."""
    network, spec, folder = grey
    with Image.open(folder / "photos" / "0.png") as image:
        stored = np.asarray(image.convert("L").resize((16, 32), Image.Resampling.BILINEAR))[None, None].copy()
        decoded = torch.from_numpy(decode(image, spec.data).copy())[None]
    with torch.no_grad():
        expected = network.embed((decoded.float() / 255 - 0.2) / 0.4).numpy()
    assert_allclose(features_of_file(made.path, stored), expected, atol=1e-5)


def test_a_file_that_gives_something_else_is_not_left(tmp_path, monkeypatch):
    make_network(tmp_path / "pretrained.pt")
    right = export_module.scale_and_shift
    monkeypatch.setattr(export_module, "scale_and_shift", lambda *words: [part * 1.1 for part in right(*words)])
    before = set(tmp_path.iterdir())
    with pytest.raises(RunError, match=r"was not written: its features differ .* by up to 0\.\d+, more than 0\.0001"):
        export(tmp_path / "pretrained.pt", tmp_path / "network.pt2")
    assert set(tmp_path.iterdir()) == before


def test_missing_packages_are_named_with_the_extra(tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name.startswith("onnx") else find(name, *rest)
    )
    with pytest.raises(
        InputError, match=r"needs onnx, onnxscript, onnxruntime, .*\(pip install 'rapids-slr\[export\]'\)"
    ):
        export(tmp_path / "absent.pt", tmp_path / "network.onnx")
    with pytest.raises(InputError, match=r"absent\.pt: no such checkpoint"):
        export(tmp_path / "absent.pt", tmp_path / "network.pt2")


@pytest.mark.parametrize(
    ("out", "message"),
    [("network.pb", r"ends in .onnx or .pt2, got .pb"), ("network", "ends in .onnx or .pt2, got no suffix")],
)
def test_an_unknown_suffix_is_refused(tmp_path, capsys, out, message):
    make_network(tmp_path / "pretrained.pt")
    assert main(["export", str(tmp_path / "pretrained.pt"), "--out", str(tmp_path / out)]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / out).exists()


def test_the_command_prints_what_it_made(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    make_network(tmp_path / "pretrained.pt")
    out = tmp_path / "network.onnx"
    assert main(["export", str(tmp_path / "pretrained.pt"), "-o", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "N x 3 x 32 x 16 uint8" in printed
    assert "N x 16 float32" in printed
    assert printed.endswith(f"{out}\n")
    graph = onnx.load(out).graph
    shapes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    }
    assert shapes == {"pixels": ["N", 3, 32, 16], "features": ["N", 16]}
