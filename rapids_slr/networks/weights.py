"""Weights of other programs: found in a file by the names of a backbone, wherever they lie in it."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from rapids_slr.errors import InputError
from rapids_slr.files import read_torch_file

log = logging.getLogger(__name__)

CLASSIFIER = "fc."
"""Names of the ImageNet classifier, which no part of a network uses."""
SAVE = "save a state dict there, torch.save(network.state_dict(), ...)"
DEPTH = 4
"""Dictionaries within dictionaries that are looked through."""


class Found(NamedTuple):
    """Tensors by name somewhere in a file."""

    place: str
    """The keys that lead there, `state_dict.`; nothing for the file itself."""
    tensors: dict[str, Tensor]
    prefix: str
    """What stands before the names of the backbone: `module.backbone.`."""
    known: int
    """Names of the backbone that are there with that prefix."""


def read_weights(path: Path) -> Any:
    """What a .pth, .pt or .safetensors file holds; no code in it is run.

    Raises: InputError if there is no such file, or it cannot be read.
    """
    if not path.is_file():
        raise InputError(
            f"model.weights: there is no file {path}; give a .pth, .pt or .safetensors file, or `imagenet`"
        )
    if path.suffix != ".safetensors":
        return read_torch_file(path, lambda why: f"model.weights: {path} is no file of tensors ({why}); {SAVE}")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as fault:
        raise InputError(f"model.weights: {path} is no file of tensors ({fault}); {SAVE}") from fault


def load_weights(
    network: nn.Module,
    held: Any,
    origin: str,
    classifiers: tuple[str, ...] = (CLASSIFIER,),
    fit: Callable[[dict[str, Tensor]], None] | None = None,
    rename: Callable[[dict[str, Tensor]], dict[str, Tensor]] = dict,
) -> list[str]:
    """Load by name what a file holds. A stem for RGB is summed where the network takes one channel.

    The tensors may lie in a dictionary within the file (`state_dict`, `model`, `net`), and their names may begin with
    the parts that hold the backbone (`module.`, `backbone.`): those are taken that give the most of its names, the
    first of equals. What is not of the backbone, such as classifiers, is left out.

    Args:
        held: what `read_weights` gives.
        origin: its file, for messages.
        classifiers: what names of classifiers begin with.
        fit: brings the weights that were found into the shapes of the network, where they have others.
        rename: gives a dictionary of tensors of the file other names, which are taken where more of them fit.
    Returns: the names that were left out.
    Raises: InputError that says what the file holds, or names all missing, unexpected and mis-shaped tensors.
    """
    expected = {name: value for name, value in network.state_dict().items() if not name.startswith(classifiers)}
    ways = _dictionaries(held, expected, rename)
    found = max(ways, key=lambda way: (way.known, len(way.tensors)), default=None)
    if found is None:
        raise InputError(f"model.weights: {origin} holds no state dict (tensors by name) but {_contents(held)}; {SAVE}")
    inside = {
        name.removeprefix(found.prefix): value
        for name, value in found.tensors.items()
        if name.startswith(found.prefix) and not name.removeprefix(found.prefix).startswith(classifiers)
    }
    weights = {name: value for name, value in inside.items() if name in expected}
    stem = weights.get("conv1.weight")
    if stem is not None and stem.ndim == 4 and expected["conv1.weight"].shape[1] == 1:
        # A grey image is an RGB one of three equal channels.
        weights["conv1.weight"] = stem.sum(dim=1, keepdim=True)
    if fit is not None:
        fit(weights)
    _check_names(expected, weights, inside, origin)
    network.load_state_dict(weights, strict=False)  # what may be missing has been told from what may not
    return [found.place + name for name in found.tensors if name.removeprefix(found.prefix) not in weights]


def warn_of_left_out(names: list[str], origin: str) -> None:
    if names:
        log.warning(
            "model.weights: %s: %d tensors are not of the backbone, and left out: %s", origin, len(names), _some(names)
        )


def _dictionaries(
    value: Any,
    expected: Collection[str],
    rename: Callable[[dict[str, Tensor]], dict[str, Tensor]],
    place: str = "",
    depth: int = DEPTH,
) -> Iterator[Found]:
    """Every dictionary of tensors in a value, itself first, by its own names and by others."""
    if not isinstance(value, Mapping):
        return
    tensors = {name: x for name, x in value.items() if isinstance(name, str) and isinstance(x, Tensor)}
    for named in (tensors, rename(tensors)) if tensors else ():
        prefixes = Counter(
            name[:start]
            for name in named
            for start in (0, *(at + 1 for at, letter in enumerate(name) if letter == "."))
            if name[start:] in expected
        )
        yield Found(place, named, *next(iter(prefixes.most_common(1)), ("", 0)))
    for name, below in value.items() if depth else ():
        yield from _dictionaries(below, expected, rename, f"{place}{name}.", depth - 1)


def _check_names(
    expected: Mapping[str, Tensor], weights: Mapping[str, Tensor], inside: Mapping[str, Tensor], origin: str
) -> None:
    """Refuse weights that lack a tensor, have one of another shape, or more within the backbone's own parts."""
    counters = {name for name in expected if name.endswith("num_batches_tracked")}  # files from before 2018 have none
    unexpected = sorted(inside.keys() - expected.keys())
    faults = {
        "missing": sorted(expected.keys() - weights.keys() - counters),
        "unexpected": unexpected,
        "of another shape": [
            f"{name} {tuple(weights[name].shape)} instead of {tuple(value.shape)}"
            for name, value in expected.items()
            if name in weights and weights[name].shape != value.shape
        ],
    }
    # A head is no fault; what stands within a stage would make another network of it.
    parts = {name.partition(".")[0] for name in expected}
    if faults["missing"] or faults["of another shape"] or any(name.partition(".")[0] in parts for name in unexpected):
        named = "; ".join(f"{len(names)} {what}: {_some(names)}" for what, names in faults.items() if names)
        raise InputError(f"model.weights: {origin} does not fit the backbone ({named}); give weights of this backbone")


def _contents(held: Any) -> str:
    """What is in a file, in a few words."""
    if not isinstance(held, Mapping):
        return f"a {type(held).__name__}"
    return _some([f"{name} ({type(value).__name__})" for name, value in held.items()]) or "nothing"


def _some(names: list[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
