"""Networks of timm: features are its own, at any size, on images as it was trained to see them; runs train them."""

from __future__ import annotations

import json
from functools import partial

import pytest
import torch
from torch.nn import functional as F

from rapids_slr import run
from rapids_slr.cli import main
from rapids_slr.errors import InputError
from rapids_slr.networks.checkpoint import load_trained
from rapids_slr.networks.single import Single
from rapids_slr.settings.spec import ImageSpec, ModelSpec
from rapids_slr.settings.specfile import SpecError, dump_spec, load_spec
from tests.reference.clip import ImageTower
from tests.test_run import changed

timm = pytest.importorskip("timm", reason="timm is not installed: pip install 'rapids-slr[timm]'")
IMAGES = ImageSpec(height=48, width=32, mean=[0.1, 0.2, 0.3], std=[0.5, 0.25, 1.0])
GREY = ImageSpec(height=48, width=32, channels=1, mean=[0.1], std=[0.5])


def network(name: str, images: ImageSpec = IMAGES, **model) -> Single:
    torch.manual_seed(0)
    return Single(ModelSpec(backbone=f"timm:{name}", **model), images).eval()


@pytest.mark.parametrize("name", ["test_vit", "test_convnext", "test_resnet", "mobilenetv3_small_050"])
def test_features_are_those_of_timm_on_images_as_it_was_trained_to_see_them(name):
    found = network(name)
    pixels = torch.rand(4, 3, 48, 32)  # 0 to 1
    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGES.mean, IMAGES.std))
    torch.manual_seed(0)
    theirs = timm.create_model(name, num_classes=0).eval()
    if hasattr(theirs, "set_input_size"):
        theirs.set_input_size(img_size=(48, 32))
    own_mean, own_std = (torch.tensor(theirs.pretrained_cfg[key])[:, None, None] for key in ("mean", "std"))
    expected = theirs((pixels - own_mean) / own_std)
    pooled = found((pixels - mean) / std).pooled[0]
    torch.testing.assert_close(pooled, expected, rtol=1e-4, atol=1e-4)
    assert found.feature_dim == expected.shape[1]
    torch.testing.assert_close(found.embed(pixels).norm(dim=1), torch.ones(4))


def saved(tmp_path, name: str, size: tuple[int, int] | None, **more) -> tuple[str, dict]:
    """A file as other programs write it, with a classifier, in a dictionary within the file."""
    torch.manual_seed(1)
    model = timm.create_model(name, num_classes=7, **more)
    if size is not None:
        model.set_input_size(img_size=size)
    state = model.state_dict()
    if "pos_embed" in state:
        state["pos_embed"] = torch.randn_like(state["pos_embed"])
    torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}}, tmp_path / "theirs.pth")
    return str(tmp_path / "theirs.pth"), state


@pytest.mark.parametrize("name", ["test_vit", "test_convnext", "test_resnet"])
def test_a_file_is_taken_by_its_names_without_its_classifier(tmp_path, name, caplog):
    path, state = saved(tmp_path, name, None)
    weights = network(name, weights=path).body.model.state_dict()
    head = timm.create_model(name).pretrained_cfg["classifier"]
    for key, value in weights.items():
        if key != "pos_embed":
            assert torch.equal(value, state[key]), key
    assert f"left out: state_dict.module.{head}" in caplog.text


@pytest.mark.parametrize("size", [(48, 32), (64, 64), (160, 160)])
def test_learnt_places_are_resampled_to_the_images(tmp_path, size):
    """Of a file for images of the same size they are taken as they are; else a square of places is made this one."""
    path, state = saved(tmp_path, "test_vit", size)
    found, held = network("test_vit", weights=path).body.model.pos_embed, state["pos_embed"]
    assert found.shape == (1, 1 + 3 * 2, 64)
    assert torch.equal(found[:, 0], held[:, 0])  # that of the class token
    if size == (48, 32):
        assert torch.equal(found, held)
        return
    places = held[:, 1:].transpose(1, 2).reshape(1, 64, size[0] // 16, size[1] // 16)
    expected = F.interpolate(places, size=(3, 2), mode="bicubic", antialias=True).flatten(2).transpose(1, 2)
    torch.testing.assert_close(found[:, 1:], expected, rtol=1e-4, atol=1e-5)


def test_places_as_high_for_their_width_as_the_images_are_resampled_too(tmp_path):
    path, state = saved(tmp_path, "test_vit", (96, 64))
    found, held = network("test_vit", weights=path).body.model.pos_embed, state["pos_embed"]
    places = held[:, 1:].transpose(1, 2).reshape(1, 64, 6, 4)
    expected = F.interpolate(places, size=(3, 2), mode="bicubic", antialias=True).flatten(2).transpose(1, 2)
    torch.testing.assert_close(found[:, 1:], expected, rtol=1e-4, atol=1e-5)


def test_places_of_an_unknown_grid_are_refused_with_their_shape(tmp_path):
    path, _ = saved(tmp_path, "test_vit", (64, 48))
    with pytest.raises(InputError, match=r"1 of another shape: pos_embed \(1, 13, 64\) instead of \(1, 7, 64\)"):
        network("test_vit", weights=path)


def test_a_file_of_transreid_is_taken(tmp_path, caplog):
    """The network is its `base`; embeddings of cameras, parts and classifiers are not of it."""
    _, state = saved(tmp_path, "test_vit", (48, 32))
    held = {f"base.{name}": value for name, value in state.items() if not name.startswith("head.")}
    more = ("base.sie_embed", "b1.0.norm1.weight", "bottleneck.weight", "classifier.weight")
    torch.save(held | dict.fromkeys(more, torch.zeros(3)), tmp_path / "transreid.pth")
    weights = network("test_vit", weights=str(tmp_path / "transreid.pth")).body.model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in weights.items())
    assert f"4 tensors are not of the backbone, and left out: {', '.join(more)}" in caplog.text


@pytest.mark.parametrize("prefix", ["visual.", "module.visual.", "image_encoder."])
def test_files_of_clip_and_clip_reid_are_taken_by_their_names(tmp_path, monkeypatch, prefix):
    torch.manual_seed(2)
    tower = ImageTower(height=48, width=32, patch=16, features=64, depth=2, heads=2, projected=8).eval()
    held = {f"{prefix}{name}": value for name, value in tower.state_dict().items()}
    torch.save(held | {"text_encoder.ln_final.weight": torch.zeros(3)}, tmp_path / "clip.pth")
    small = partial(timm.create_model, embed_dim=64, depth=2, num_heads=2)
    monkeypatch.setattr(timm, "create_model", small)
    found = network("vit_base_patch16_clip_quickgelu_224", weights=str(tmp_path / "clip.pth"))
    own_mean, own_std = (found.body.model.pretrained_cfg[key] for key in ("mean", "std"))
    images = torch.rand(4, 3, 48, 32)
    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGES.mean, IMAGES.std))
    expected = tower((images - torch.tensor(own_mean)[:, None, None]) / torch.tensor(own_std)[:, None, None])
    torch.testing.assert_close(found((images - mean) / std).pooled[0], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["test_vit", "test_convnext"])
def test_a_stem_for_colours_is_summed_for_grey_images(tmp_path, name):
    path, state = saved(tmp_path, name, None)
    model = network(name, GREY, weights=path).body.model
    stem = model.pretrained_cfg["first_conv"]
    torch.testing.assert_close(model.get_parameter(f"{stem}.weight"), state[f"{stem}.weight"].sum(1, keepdim=True))


@pytest.mark.parametrize(
    ("name", "images", "message"),
    [
        ("test_vid", IMAGES, r"model\.backbone: timm .* knows no network test_vid; did you mean test_vit"),
        ("test_convnext", ImageSpec(height=32, width=16), r"takes no images of 32 x 16 \(.*\); take larger ones"),
        ("test_vit", ImageSpec(height=50, width=32), r"takes patches of 16 x 16 pixels; 50 x 32 is no multiple"),
    ],
)
def test_what_timm_does_not_have_or_take_is_named(name, images, message):
    with pytest.raises(InputError, match=message):
        network(name, images)


def test_a_host_that_cuts_its_network_refuses_it_when_the_spec_is_read(tiny, tmp_path):
    (tmp_path / "spec.yaml").write_text(dump_spec(tiny))
    with pytest.raises(
        SpecError, match=r"timm:test_vit has no stages to cut .* host abmt; hosts that take it are clus"
    ):
        load_spec(tmp_path / "spec.yaml", ["model.backbone=timm:test_vit"])
    assert load_spec(tmp_path / "spec.yaml", ["model.backbone=timm:test_vit", "host=mmt"]).host.choice() == "mmt"


@pytest.mark.parametrize(
    ("name", "host"), [("test_vit", "cluster_contrast"), ("test_convnext", "spcl"), ("test_convnext", "mmt")]
)
def test_a_run_trains_it_and_search_and_export_take_it(tiny, tmp_path, name, host, capsys):
    sections = {
        "training": {"epochs": 1, "iterations": 2},
        "pretrain": {"epochs": 1},
        "data": {"height": 64, "width": 32},
    }
    spec = changed(tiny, model={"backbone": f"timm:{name}"}, host=host, **sections)
    out = run.train(spec, tmp_path / "run")
    (row,) = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert 0 <= row["mAP"] <= 1
    trained = load_trained(out / "checkpoints/last.pt").network
    pixels = torch.rand(2, 3, 64, 32)
    again = load_trained(out / "checkpoints/last.pt").network
    assert torch.equal(trained.embed(pixels), again.embed(pixels))
    assert main(["data", "synth", str(tmp_path / "images"), "--identities", "2", "--images", "2"]) == 0
    assert main(["embed", str(out), str(tmp_path / "images"), "-o", str(tmp_path / "rows.npy")]) == 0
    assert main(["export", str(out), "--out", str(tmp_path / "network.pt2")]) == 0, capsys.readouterr().err
