"""Where an adaptation stands between two epochs, and the checkpoint that holds it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from rapids_slr.clustering.base import Clusterer
from rapids_slr.guard import Guard
from rapids_slr.hosts.base import Host
from rapids_slr.networks.checkpoint import FORMAT, description
from rapids_slr.refinement.base import Refiner
from rapids_slr.settings.spec import RunSpec
from rapids_slr.tasks.base import Task


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

    def checkpoint(self) -> dict[str, Any]:
        """All that a resumed run goes on from; entries of the host stand beside those of the run."""
        own = {name: getattr(self, name) for name in ("start", "epoch", "clusters_N", "refined_N")}
        own |= {"format": FORMAT, "stage": "adapt", "refiner": self.refiner.state_dict(), **description(self.spec)}
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
        # `slr` is None in a run of 0.1.0 without refinement.
        self.refiner.load_state_dict(state["refiner"] if "refiner" in state else state["slr"] or {})
        if self.guard is not None:
            self.guard.load_state_dict(state["guard"])
        self.host.load_state_dict(state)
