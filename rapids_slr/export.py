"""A trained network as one file for other programs: ONNX, or torch.export's .pt2. It takes pixels and gives features.

What is written has been compared with the network itself on the same pixels.
"""

from __future__ import annotations

import importlib.util
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from rapids_slr import __version__
from rapids_slr.data.augment import scale_and_shift
from rapids_slr.data.collect import collect
from rapids_slr.data.store import ImageStore, load_images
from rapids_slr.errors import InputError, RunError
from rapids_slr.files import check_output, write_atomically
from rapids_slr.networks.checkpoint import Trained, load_trained
from rapids_slr.networks.embed import embed
from rapids_slr.networks.network import Network
from rapids_slr.provenance import commit
from rapids_slr.seeds import generator
from rapids_slr.settings.spec import FeatureSpec, StoredSpec

TOLERANCE = 1e-4
"""Largest difference of a number in a feature, whose rows have length 1, before a file is refused."""
BATCHES = 1, 2, 5
"""Random images in a batch, when a file is compared."""
IMAGES = 64
"""Real images that are compared, at most."""
PACKAGES = {".onnx": ("onnx", "onnxscript", "onnxruntime"), ".pt2": ()}
"""What writing and checking each kind of file needs beside torch."""
META = "rapids_slr.json"
"""Name of the facts about a network in a .pt2 file; in ONNX they are its metadata, a property each."""

SHAPES = {"pixels": {0: torch.export.Dim("N")}}
"""Any number of images."""

Run = Callable[[Tensor], Tensor]
"""Pixels to features, by a written file."""


class Exported(nn.Module):
    """(N, C, H, W) uint8 pixels 0..255, as stored, resized -> (N, D) float32 features of unit length.

    Inversion and normalisation of the run are inside.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, network: Network, data: StoredSpec) -> None:
        super().__init__()
        network.precision = "float32"  # bfloat16 is for training and for this program's own inference on a GPU
        self.network = network
        scale, shift = scale_and_shift(tuple(data.mean), tuple(data.std), torch.device("cpu"))
        if data.invert:
            scale, shift = -scale, shift + 255 * scale  # of 255 - pixels
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.network.embed(torch.addcmul(self.shift, pixels.float(), self.scale))


@dataclass(frozen=True)
class Export:
    path: Path
    facts: dict[str, str]
    """What the file says of itself."""
    images: int
    """Images that were compared."""
    difference: float
    """Largest absolute difference of a number in their features."""


def export(checkpoint: Path, out: Path, images: Path | None = None) -> Export:
    """Write a network as ONNX or as a torch.export program, by the suffix of the file, after it has been compared.

    Args:
        checkpoint: a run folder or one of its checkpoints, as `load_trained` takes it.
        out: a .onnx or .pt2 file.
        images: an image, a folder or a .zip of images to compare on, beside random ones; IMAGES of them.
    Raises: InputError if the suffix is another one, packages are missing, or there is no network or image; RunError if
        the file's features differ from the network's by more than TOLERANCE, or it cannot be written. No file is left.
    """
    check_format(out)
    check_output(out, checkpoint, images)
    trained = load_trained(Path(checkpoint))
    batches = list(_batches(trained.data, images))
    facts = facts_of(trained)
    program = export_program(trained)
    write, run = (_onnx if out.suffix.lower() == ".onnx" else _pt2)(program, facts)
    found = difference(run, trained, batches)
    # Not >, which would let NaN pass.
    if not found <= TOLERANCE:
        raise RunError(
            f"{out} was not written: its features differ from the network's by up to {found:.2g}, more than "
            f"{TOLERANCE:g}; try the other format (.onnx, .pt2), or other versions of torch and onnxruntime"
        )
    # write() reads the facts when it is called.
    facts |= {"images_compared": str(sum(map(len, batches))), "largest_difference": f"{found:.3g}"}
    write_atomically(out, lambda temporary: temporary.write_bytes(write()), "free some space, or name another --out")
    return Export(out, facts, sum(map(len, batches)), found)


def check_format(out: Path) -> None:
    """Raises: InputError if the file's suffix is none of ours, or what it needs is not installed."""
    if out.suffix.lower() not in PACKAGES:
        raise InputError(f"{out}: expected a name that ends in .onnx or .pt2, got {out.suffix or 'no suffix'}")
    missing = [name for name in PACKAGES[out.suffix.lower()] if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(
            f"{out}: ONNX needs {', '.join(missing)}, not installed here (pip install 'rapids-slr[export]'); "
            "a .pt2 file needs nothing more"
        )


def facts_of(trained: Trained) -> dict[str, str]:
    """What a file says of itself, as text."""
    data, network = trained.data, trained.network
    return {
        "producer": f"rapids_slr {__version__}",
        "commit": commit(),
        "network": f"{trained.which} of {trained.path}",
        "input": "pixels: (N, channels, height, width) uint8 0..255, RGB or grey, resized bilinearly with antialiasing",
        "output": f"features: (N, {network.feature_dim}) float32 rows of unit length; their product is the similarity",
        "dimensions": str(network.feature_dim),
        "height": str(data.height),
        "width": str(data.width),
        "channels": str(data.channels),
        "mean": json.dumps(data.mean),
        "std": json.dumps(data.std),
        "invert": json.dumps(data.invert),
        "normalisation": "inside the network",
    }


def export_program(trained: Trained) -> torch.export.ExportedProgram:
    """The network with its normalisation, for any number of images.

    The network computes in float32 from then on.
    """
    data = trained.data
    # Two images: torch.export takes a size of 1 for a constant.
    pixels = torch.zeros((2, data.channels, data.height, data.width), dtype=torch.uint8)
    with _quiet():
        program = torch.export.export(Exported(trained.network, data).eval(), (pixels,), dynamic_shapes=SHAPES)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths of this machine
    return program


def difference(run: Run, trained: Trained, batches: list[Tensor]) -> float:
    """Largest absolute difference between the features of a file and those that evaluation uses.

    Args:
        batches: (N, C, H, W) uint8 pixels as stored.
    """
    found = []
    for pixels in batches:
        # A store holds inverted pixels; the file inverts them itself.
        decoded = 255 - pixels if trained.data.invert else pixels
        expected = embed(trained.network, ImageStore(decoded, decoded.device), trained.data, FeatureSpec())
        found.append(float((run(pixels) - expected).abs().max()))
    return float(np.max(found))  # NaN stays


def _batches(data: StoredSpec, images: Path | None) -> Iterator[Tensor]:
    """Pixels to compare on, as stored: random ones in batches of several sizes, and real ones."""
    draw = generator(0, "export")
    for size in BATCHES:
        shape = (size, data.channels, data.height, data.width)
        yield torch.randint(0, 256, shape, generator=draw, dtype=torch.uint8)
    if images is not None:
        found = collect(images, "gallery")
        found = found.take(np.arange(min(IMAGES, len(found))))
        stored = data.model_copy(update={"invert": False})
        yield load_images(found.domain, found.split, stored, torch.device("cpu"))[0].pixels


# Formats --------------------------------------------------------------------------------------------------------------


def _pt2(program: torch.export.ExportedProgram, facts: dict[str, str]) -> tuple[Callable[[], bytes], Run]:
    """How to write the file, with the facts as they are then, and its network read back."""

    def write() -> bytes:
        file = io.BytesIO()
        torch.export.save(program, file, extra_files={META: json.dumps(facts, indent=1)})
        return file.getvalue()

    network = torch.export.load(io.BytesIO(write())).module()

    def run(pixels: Tensor) -> Tensor:
        with torch.inference_mode():
            return network(pixels)

    return write, run


def _onnx(program: torch.export.ExportedProgram, facts: dict[str, str]) -> tuple[Callable[[], bytes], Run]:
    """The same for ONNX; it is run by onnxruntime on the CPU."""
    import onnxruntime

    with _quiet():
        made = torch.onnx.export(
            program,
            dynamo=True,
            verbose=False,
            input_names=["pixels"],
            output_names=["features"],
            dynamic_shapes=SHAPES,
        )
    assert made is not None

    def write() -> bytes:
        made.model.metadata_props.update(facts)
        return made.model_proto.SerializeToString()

    session = onnxruntime.InferenceSession(write(), providers=["CPUExecutionProvider"])

    def run(pixels: Tensor) -> Tensor:
        (features,) = session.run(["features"], {"pixels": pixels.numpy()})
        return torch.from_numpy(features)

    return write, run


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out what torch says of its own workings while it exports."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
