"""Where an adaptation stands between two epochs, and the checkpoint that holds it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from rapids_slr.clustering.base import Clusterer
from rapids_slr.errors import InputError
from rapids_slr.guard import Guard
from rapids_slr.hosts.base import Host
from rapids_slr.networks.checkpoint import FORMAT, description
from rapids_slr.refinement.base import Refiner
from rapids_slr.settings.spec import RunSpec
from rapids_slr.tasks.base import Task

NAMED = 3
"""Images of each kind that an error names."""


@dataclass
class Adaptation:
    """What the epochs work with, and what they leave for the next one.

    Attributes:
        start: scores before the first epoch, `direct` and `direct_bn`, and `guard` where there is one.
        epoch: the last one that is done.
        clusters_N, refined_N: its labels, int32, -1 = outlier; None before the first.
        guard: None where the spec wants none.
    """

    spec: RunSpec
    host: Host
    clusterer: Clusterer
    refiner: Refiner
    task: Task
    start: dict[str, Mapping[str, float]] = field(default_factory=dict)
    epoch: int = 0
    clusters_N: Tensor | None = None
    refined_N: Tensor | None = None
    guard: Guard | None = None

    @property
    def begun_with(self) -> Mapping[str, float]:
        """Scores of the network that the first epoch begins with."""
        return self.start.get("direct_bn" if self.spec.features.bn_recalibrate else "direct", {})

    @property
    def remembered_N(self) -> Tensor | None:
        """The labels (N,) that the next epoch is refined with."""
        return self.refined_N if self.spec.refine.remembers == "refined" else self.clusters_N

    def checkpoint(self, names: Sequence[str]) -> dict[str, Any]:
        """All that a resumed run goes on from; entries of the host stand beside those of the run.

        Args:
            names: the N images, whose rows the labels are.
        """
        own = {name: getattr(self, name) for name in ("start", "epoch", "clusters_N", "refined_N")}
        own |= {
            "format": FORMAT,
            "stage": "adapt",
            "names": list(names),
            "clusterer": self.clusterer.state_dict(),
            "refiner": self.refiner.state_dict(),
            **description(self.spec),
        }
        if self.guard is not None:
            own["guard"] = self.guard.state_dict()
        host = self.host.state_dict()
        if both := own.keys() & host.keys():
            raise ValueError(f"state of the host: entries {', '.join(sorted(both))} are the run's own")
        return own | host

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint, one of 0.1.0 too, whose refiner was SLR or none."""
        for name in ("start", "epoch", "clusters_N", "refined_N"):
            setattr(self, name, state[name])
        self.clusterer.load_state_dict(state.get("clusterer", {}))
        # `slr` is None in a run of 0.1.0 without refinement.
        self.refiner.load_state_dict(state["refiner"] if "refiner" in state else state["slr"] or {})
        if self.guard is not None:
            self.guard.load_state_dict(state["guard"])
        self.host.load_state_dict(state)


def check_images(state: Mapping[str, Any], names: Sequence[str], role: str) -> None:
    """Compare the images that are there with those of a checkpoint, whose labels and classes go by row.

    Args:
        state: a checkpoint; one of 0.1.0 has no names, and its labels are counted.
        names: in order.
        role: `source` or `target`.
    Raises: InputError naming the first that differ.
    """
    labels, before = state.get("clusters_N"), state.get("names")
    if before is None:
        before = names if labels is None or len(labels) == len(names) else [""] * len(labels)
    if list(before) == list(names):
        return
    advice = "put them back as they were, or start a new run with another --out"
    raise InputError(f"the {role} images are not those of the checkpoint: {_changes(before, names)}; {advice}")


def _changes(before: Sequence[str], now: Sequence[str]) -> str:
    if not any(before):
        return f"{len(now)}, and it knows {len(before)}"
    gone, new = set(before) - set(now), set(now) - set(before)
    found = [
        f"{len(names)} {'is' if len(names) == 1 else 'are'} {what} ({', '.join(sorted(names)[:NAMED])}"
        f"{', ...' if len(names) > NAMED else ''})"
        for names, what in ((gone, "gone"), (new, "new"))
        if names
    ]
    row = next((row for row, (one, other) in enumerate(zip(before, now, strict=False)) if one != other), 0)
    return " and ".join(found) or f"they stand in another order, from image {row} on ({now[row]} for {before[row]})"
