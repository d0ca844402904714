"""`rapids-slr embed`: features of any images in a file, and clusters of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_array_equal

from rapids_slr import JaccardDBSCAN
from rapids_slr.cli import main
from rapids_slr.data.drawn.synth import synth_domain, write_domain
from rapids_slr.labelfiles import read_features
from rapids_slr.networks.checkpoint import load_trained, new_network, save_network
from rapids_slr.settings.spec import RunSpec
from tests.conftest import TINY
from tests.test_search import by_hand


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A network and a data set of three splits."""
    folder, spec = tmp_path_factory.mktemp("made"), RunSpec.model_validate(TINY)
    save_network(folder / "pretrained.pt", new_network(spec), spec)
    write_domain(synth_domain(spec.data.target.synth), folder / "photos")
    return folder


def embed(made: Path, out: Path, images: str = "photos") -> int:
    return main(["embed", str(made / "pretrained.pt"), str(made / images), "-o", str(out), "--device", "cpu"])


@pytest.mark.parametrize("kind", [".npy", ".safetensors", ".parquet"])
def test_every_kind_of_file_has_the_features_of_all_images(made, tmp_path, kind, capsys):
    out = tmp_path / f"features{kind}"
    assert embed(made, out) == 0
    assert capsys.readouterr().out.endswith(f"{out}\n")
    x_ND, images = read_features(out)
    names = sorted(path.relative_to(made / "photos").as_posix() for path in (made / "photos").rglob("*.png"))
    assert x_ND.dtype == np.float32
    assert len(x_ND) == len(names)  # of all splits
    if kind == ".parquet":
        assert sorted(images["path"]) == names
        some = images["path"][[0, 50]].tolist()
        expected = by_hand(load_trained(made / "pretrained.pt").network, made / "photos", tuple(some))
        torch.testing.assert_close(torch.from_numpy(x_ND[[0, 50]]), expected, rtol=1e-4, atol=1e-5)


def test_cluster_takes_what_embed_wrote(made, tmp_path):
    features, labels = tmp_path / "features.parquet", tmp_path / "labels.parquet"
    assert embed(made, features, "photos/bounding_box_train") == 0
    settings = ["--k1", "6", "--pairs-per-image", "3"]
    assert main(["cluster", str(features), "-o", str(labels), *settings, "--device", "cpu"]) == 0
    x_ND, images = read_features(features)
    table = pd.read_parquet(labels)
    assert table["path"].tolist() == images["path"].tolist()
    assert_array_equal(table["cluster"], JaccardDBSCAN(k1=6, pairs_per_image=3).fit_predict(x_ND))


def test_an_image_that_cannot_be_read_is_named_and_left_out(made, tmp_path, capsys):
    photos = tmp_path / "photos"
    photos.mkdir()
    for number, image in enumerate(sorted((made / "photos/query").iterdir())[:3]):
        (photos / f"{number}.png").write_bytes(image.read_bytes()[: 50 if number == 1 else None])
    out = tmp_path / "features.parquet"
    assert main(["embed", str(made / "pretrained.pt"), str(photos), "-o", str(out), "--device", "cpu"]) == 0
    assert "left out: " in (said := " ".join(capsys.readouterr().err.split()))
    assert "1.png: cannot be read" in said
    assert pd.read_parquet(out)["path"].tolist() == ["0.png", "2.png"]


def test_what_cannot_be_written_or_read_is_said_first(made, tmp_path, capsys):
    assert embed(made, tmp_path / "features.txt") == 2
    assert "expected a name that ends in .npy, .safetensors, .parquet, got .txt" in capsys.readouterr().err
    assert embed(made, tmp_path / "features.npy", "gone") == 2
    assert "gone does not exist; give an image, or a folder or .zip of images" in capsys.readouterr().err
