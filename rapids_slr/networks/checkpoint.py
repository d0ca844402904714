"""Networks on disk: a pre-trained network with what is needed to build it again."""

from __future__ import annotations

from pathlib import Path

from rapids_slr.errors import InputError
from rapids_slr.files import load_tensors, save_tensors
from rapids_slr.networks.two_branch import TwoBranch
from rapids_slr.settings.spec import RunSpec

IMAGE_KEYS = ("height", "width", "channels", "invert", "mean", "std")
"""Keys of `data` that say how an image becomes what a network takes."""


def architecture(spec: RunSpec) -> dict[str, object]:
    """What two networks must have in common to share weights."""
    return spec.model.model_dump(exclude={"weights", "precision", "compile"}) | {"channels": spec.data.channels}


def description(spec: RunSpec) -> dict[str, object]:
    """What a checkpoint says of its networks, so that it can be used without a spec: how to build and feed them."""
    return {
        "model": architecture(spec),
        "precision": spec.model.precision,
        "images": spec.data.model_dump(include=set(IMAGE_KEYS)),
    }


def save_network(path: Path, network: TwoBranch, spec: RunSpec) -> None:
    """Write a network without classifiers.

    Raises: RunError if it cannot be written; what stood at `path` is untouched.
    """
    save_tensors(path, {"format": 1, **description(spec), "network": network.state_dict()})


def load_network(path: Path, spec: RunSpec) -> TwoBranch:
    """The network of a pretrained.pt, without classifiers, on the CPU.

    Raises: InputError if the file is absent, damaged, or of another architecture than the spec's.
    """
    state, expected = load_tensors(path), architecture(spec)
    found = state.get("model")
    if not isinstance(found, dict) or "network" not in state:
        raise InputError(f"{path} holds no pre-trained network; give a pretrained.pt of `rapids-slr pretrain`")
    differing = [name for name in expected if found.get(name) != expected[name]]
    if differing:
        raise InputError(
            f"{path} was trained with "
            + ", ".join(f"{name} {found.get(name)} (the spec says {expected[name]})" for name in differing)
            + "; change model.* and data.channels of the spec, or pre-train anew"
        )
    network = TwoBranch(spec.model.model_copy(update={"weights": None}), spec.data.channels)
    network.load_state_dict(state["network"])
    return network
