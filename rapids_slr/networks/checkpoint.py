"""Networks on disk: written with what is needed to build and feed them, and read by one function.

A checkpoint of a run holds all that training goes on from; one network in it is the one that embeds. A pretrained.pt
and a picked.pt hold that network alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import Tensor

from rapids_slr.errors import InputError
from rapids_slr.files import load_tensors, save_tensors
from rapids_slr.group import by_first
from rapids_slr.networks.base import NETWORKS, build_network
from rapids_slr.networks.network import Network
from rapids_slr.record.folder import RunFolder
from rapids_slr.settings.spec import ArchitectureSpec, ImageSpec, ModelSpec, RunSpec, StoredSpec
from rapids_slr.settings.specfile import explain_values, load_spec

FORMAT = 1
"""Version of a checkpoint; those of 0.1.0 name neither the kind of network nor the entry that embeds."""


CLASSIFIERS = "classifiers."
"""What the names of weights begin with that come and go with the classes."""


@dataclass(frozen=True)
class Trained:
    network: Network
    """On the CPU, in evaluation mode, without classifiers; takes no gradient."""
    data: StoredSpec
    """How images are resized and normalised; unreadable ones are left out."""
    which: str
    """Which network it is: "the teacher after epoch 12"."""
    path: Path


def description(spec: RunSpec) -> dict[str, object]:
    """What a checkpoint says of its networks, so that it can be used without a spec: how to build and feed them."""
    return {
        "kind": spec.host.network,
        "embeds": spec.host.embeds,
        "model": _architecture(spec),
        "precision": spec.model.precision,
        "images": spec.data.model_dump(include=set(ImageSpec.model_fields)),
    }


def _architecture(spec: RunSpec) -> dict[str, object]:
    """What two networks must have in common to share weights."""
    return spec.model.model_dump(include=set(ArchitectureSpec.model_fields)) | {"channels": spec.data.channels}


@by_first
def save_network(path: Path, network: Network, spec: RunSpec) -> None:
    """Write a network without classifiers.

    Raises: RunError if it cannot be written; what stood at `path` is untouched.
    """
    save_tensors(path, {"format": FORMAT, **description(spec), "network": network.state_dict()})


@by_first
def save_picked(path: Path, host: Mapping[str, Any], spec: RunSpec, epoch: int) -> None:
    """Write the network that embeds alone, without classifiers.

    Args:
        host: the state of the host after that epoch; 0 is before the first.
    Raises: RunError as `save_network` does.
    """
    weights = {name: x for name, x in host[spec.host.embeds].items() if not name.startswith(CLASSIFIERS)}
    save_tensors(path, {"format": FORMAT, "stage": "picked", "epoch": epoch, **description(spec), "network": weights})


def new_network(spec: RunSpec) -> Network:
    """The network that the spec's host trains, with weights drawn or loaded as `model.weights` says, on the CPU."""
    return build_network(spec.host.network, spec.model, spec.data)


def load_network(path: Path, spec: RunSpec) -> Network:
    """The network of a pretrained.pt, without classifiers, on the CPU, computed as the spec says.

    Raises: InputError if the file is absent, damaged, or of another architecture than the spec's.
    """
    state, expected = load_tensors(path), _architecture(spec) | {"kind": spec.host.network}
    found = state.get("model")
    if not isinstance(found, dict) or "network" not in state:
        raise InputError(
            f"{path} holds no pre-trained network; give a pretrained.pt of `rapids-slr pretrain`, "
            "or weights of another program in model.weights"
        )
    found = {"kind": _kind(state), **found}
    differing = [name for name in expected if found.get(name) != expected[name]]
    if differing:
        raise InputError(
            f"{path} was trained with "
            + ", ".join(f"{name} {found.get(name)} (the spec says {expected[name]})" for name in differing)
            + "; change model.* and data.channels of the spec, or pre-train anew"
        )
    # The file brings its weights: those that a new network would start from need not be there.
    network = build_network(spec.host.network, spec.model.model_copy(update={"weights": None}), spec.data)
    _fill(network, state["network"], path, spec.model.backbone)
    return network


def load_trained(path: Path) -> Trained:
    """The network that a run has: the one that its guard has picked, else the host's that embeds, or before an
    adaptation the pre-trained network.

    Args:
        path: a run folder, finished, going on or broken off; or one of its checkpoints (last.pt, previous.pt,
            pretrained.pt, picked.pt). A checkpoint that does not say how images are resized and normalised, as those
            of runs before there was this function, needs the spec.yaml of its run beside it or in the folder above.
    Raises: InputError if there is no network, or what is needed to build and to feed it cannot be told.
    """
    state = _state_of_folder(path) if path.is_dir() else load_tensors(path)
    weights, which = _weights(state, path)
    model, data = _described(state, path)
    network = build_network(_kind(state), model, data)
    _fill(network, weights, path, model.backbone)
    return Trained(network.eval().requires_grad_(False), data, which, path)


def _fill(network: Network, weights: Mapping[str, Tensor], path: Path, backbone: str) -> None:
    try:
        # A checkpoint in the middle of pre-training holds classifiers.
        network.load_state_dict({name: x for name, x in weights.items() if not name.startswith(CLASSIFIERS)})
    except (RuntimeError, AttributeError, TypeError) as fault:
        raise InputError(f"{path}: its weights are of another network than it names ({backbone})") from fault


def _kind(state: Mapping[str, Any]) -> str:
    kind = state.get("kind", next(iter(NETWORKS)))
    if kind not in NETWORKS:
        raise InputError(f"a network of kind {kind} is not known here; known are {', '.join(NETWORKS)}")
    return kind


def _state_of_folder(path: Path) -> dict[str, Any]:
    folder = RunFolder(path)
    if folder.picked_file.exists():
        return load_tensors(folder.picked_file)
    state = folder.load_checkpoint()
    # Between the end of pre-training and the first epoch of the adaptation last.pt is still that of pre-training.
    if (state is None or state.get("stage") == "pretrain") and folder.pretrained_file.exists():
        return load_tensors(folder.pretrained_file)
    if state is None:
        raise InputError(f"{path} holds no checkpoint; name the folder of a run, or one of its checkpoints")
    return state


def _weights(state: Mapping[str, Any], path: Path) -> tuple[Mapping[str, Tensor], str]:
    """The weights of the network that embeds, and which it is, in words."""
    embeds = state.get("embeds", "teacher")  # the only such entry of 0.1.0
    alone = "the picked network, epoch" if state.get("stage") == "picked" else "the network in pre-training, epoch"
    for entry, which in ((embeds, f"the {embeds} after epoch"), ("network", alone)):
        if isinstance(weights := state.get(entry), dict):
            return weights, f"{which} {state['epoch']}" if "epoch" in state else "the pre-trained network"
    raise InputError(
        f"{path} is not a checkpoint of this program: it holds no network; "
        "give a run folder, or its checkpoints/last.pt or checkpoints/pretrained.pt"
    )


def _described(state: Mapping[str, Any], path: Path) -> tuple[ModelSpec, StoredSpec]:
    """The network to build, without weights to start from, and the images that it takes."""
    if not {"model", "precision", "images"} <= state.keys():
        state = description(load_spec(_spec_beside(path), of_run=True))
    try:
        model = {name: value for name, value in state["model"].items() if name != "channels"}
        images = {name: state["images"][name] for name in ImageSpec.model_fields}
        data = StoredSpec.model_validate(images | {"on_error": "skip"})
        return ModelSpec.model_validate(model | {"precision": state["precision"]}), data
    except ValidationError as fault:
        why = "; ".join(explain_values(fault))
        raise InputError(f"{path} describes its network in a way this version does not know: {why}") from fault
    except (KeyError, AttributeError, TypeError) as fault:
        raise InputError(f"{path} describes its network in a way this version does not know ({fault})") from fault


def _spec_beside(path: Path) -> Path:
    folders = [path] if path.is_dir() else [path.parent, path.parent.parent]
    found = next((folder / "spec.yaml" for folder in folders if (folder / "spec.yaml").is_file()), None)
    if found is None:
        raise InputError(
            f"{path} does not say how its images are resized and normalised; "
            "put the spec.yaml of its run beside it, or give the folder of the run"
        )
    return found
