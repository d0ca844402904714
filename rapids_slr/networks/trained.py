"""A trained network, taken from a run folder or from one of its checkpoints, ready to embed images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import Tensor

from rapids_slr.errors import InputError
from rapids_slr.files import load_tensors
from rapids_slr.networks import TwoBranch, description
from rapids_slr.networks.checkpoint import IMAGE_KEYS
from rapids_slr.record.folder import RunFolder
from rapids_slr.settings.spec import DataSpec, DomainSpec, ModelSpec
from rapids_slr.settings.specfile import explain_values, load_spec


@dataclass(frozen=True)
class Trained:
    network: TwoBranch
    """On the CPU, in evaluation mode, without classifiers; takes no gradient."""
    data: DataSpec
    """How images are resized and normalised; its target means nothing. Unreadable images are left out."""
    told: str
    """Which network it is: "the teacher after epoch 12"."""
    path: Path


def load_trained(path: Path) -> Trained:
    """The network that evaluation uses: the teacher, or before an adaptation the pre-trained network.

    Args:
        path: a run folder, finished, going on or broken off; or one of its checkpoints (last.pt, previous.pt,
            pretrained.pt). A checkpoint that does not say how images are resized and normalised, as those of runs
            before there was this function, needs the spec.yaml of its run beside it or in the folder above.
    Raises: InputError if there is no network, or what is needed to build and to feed it cannot be told.
    """
    state = _state_of_folder(path) if path.is_dir() else load_tensors(path)
    weights, told = _weights(state, path)
    model, data = _description(state, path)
    network = TwoBranch(model, data.channels)
    try:
        network.load_state_dict({name: x for name, x in weights.items() if not name.startswith("classifiers.")})
    except RuntimeError as fault:
        raise InputError(f"{path}: its weights are of another network than it names ({model.backbone})") from fault
    return Trained(network.eval().requires_grad_(False), data, told, path)


def _state_of_folder(path: Path) -> dict[str, Any]:
    folder = RunFolder(path)
    state = folder.load_checkpoint()
    if (state is None or "teacher" not in state) and folder.pretrained_file.exists():
        return load_tensors(folder.pretrained_file)
    if state is None:
        raise InputError(f"{path} holds no checkpoint; name the folder of a run, or one of its checkpoints")
    return state


def _weights(state: Mapping[str, Any], path: Path) -> tuple[Mapping[str, Tensor], str]:
    for name, told in (("teacher", "the teacher after epoch"), ("network", "the network in pre-training, epoch")):
        if isinstance(weights := state.get(name), dict):
            return weights, f"{told} {state['epoch']}" if "epoch" in state else "the pre-trained network"
    raise InputError(
        f"{path} is not a checkpoint of this program: it holds no network; "
        "give a run folder, or its checkpoints/last.pt or checkpoints/pretrained.pt"
    )


def _description(state: Mapping[str, Any], path: Path) -> tuple[ModelSpec, DataSpec]:
    """The network to build, without weights to start from, and the images that it takes."""
    if not {"model", "precision", "images"} <= state.keys():
        state = description(load_spec(_spec_beside(path)))
    try:
        model = {name: value for name, value in state["model"].items() if name != "channels"}
        images = {name: state["images"][name] for name in IMAGE_KEYS}
        return (
            ModelSpec.model_validate(model | {"precision": state["precision"]}),
            DataSpec(target=DomainSpec(path="-"), on_error="skip", **images),
        )
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
