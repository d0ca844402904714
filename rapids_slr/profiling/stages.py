"""What is profiled: an epoch of a run and the decoding of its images, by the functions that the run calls.

Stages are what the run's own marks say (marks.py); what hears them here measures.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rapids_slr.data.store import BLOCK, load_images
from rapids_slr.marks import heard_by
from rapids_slr.networks.batchnorm import recalibrate_batchnorm
from rapids_slr.networks.checkpoint import load_network
from rapids_slr.run import cluster, drawn_network, new_adaptation, refine, run_epoch
from rapids_slr.session import Session
from rapids_slr.settings.spec import RunSpec

STEPS = 10
"""Training steps of a repetition; an epoch has training.iterations of them."""
FIRST, TIMED = 1, 2
"""Epochs that are run: the first leaves the memory of refinement, the second is repeated."""

OPERATORS = "torch's counter of operators: matrix products and convolutions, 2 for a multiplication with its addition"
TRAFFIC = "every operator of torch reads its operands and writes its results once"
ARRAYS = "the arrays that its functions are given and give back, each once"


@dataclass(frozen=True)
class Stage:
    """One stage of a repetition.

    Attributes:
        unit: what its speed is counted in.
        flop, bytes: how its work is counted; None where there is no honest count.
        mark: the stage of the run's epoch that it is, where that has another name; a step has its own.
        network: whether it computes in the precision of the networks; else in float32.
    """

    unit: str = "images"
    flop: str | None = None
    bytes: str | None = ARRAYS
    mark: str = ""
    network: bool = False


STAGES = {
    "decode": Stage(bytes=None),
    "embed": Stage(flop=OPERATORS, bytes=TRAFFIC, mark="features", network=True),
    "cameras": Stage(),
    "neighbours": Stage(flop=OPERATORS),
    "Jaccard graph": Stage(),
    "DBSCAN": Stage(),
    "reliability": Stage(),
    "HDBSCAN": Stage(),
    "contingency": Stage(),
    "projection": Stage(),
    "soft labels": Stage(),
    "hard labels": Stage(),
    "targets": Stage(flop=OPERATORS, bytes=TRAFFIC),
    "training step": Stage(flop=OPERATORS, bytes=TRAFFIC, mark="training", network=True),
    "EMA": Stage("steps", "3 for every averaged parameter", TRAFFIC),
    "memory update": Stage("steps", bytes=TRAFFIC),
    "evaluation": Stage(flop=OPERATORS, bytes=TRAFFIC, network=True),
    "guard": Stage(flop=OPERATORS, bytes=TRAFFIC, network=True),
}
"""The stages in the order of an epoch. Those that a spec has no use for (HDBSCAN, EMA, guard, ...) are left out."""

STAGE_OF_MARK = {stage.mark or name: name for name, stage in STAGES.items()}
"""What a mark is called here. Marks that are not in it, `clusters` and `refinement`, hold nothing but others."""

Mark = Callable[[str], AbstractContextManager[Any]]
"""mark(stage) opens what measures a stage."""
Seen = Callable[[str, Any], None]
"""seen(stage, values) is called after each step with all that it was given and gave back."""


@dataclass(frozen=True)
class Ear:
    """Hears the marks of a run, and measures those that are stages of a profile."""

    mark: Mark
    seen: Seen | None = None

    def stage(self, name: str) -> AbstractContextManager[Any]:
        return self.mark(STAGE_OF_MARK[name]) if name in STAGE_OF_MARK else nullcontext()

    def step(self, name: str, function: Callable[..., Any], args: tuple, options: dict) -> Any:
        with self.stage(name):
            result = function(*args, **options)
        # Behind the stage, so that a search through arrays is not timed.
        if self.seen is not None:
            self.seen(name, (args, options, result))
        return result


def marked(mark: Mark, seen: Seen | None = None) -> AbstractContextManager[None]:
    """While the block runs, `mark` measures the stages of what is run."""
    return heard_by(Ear(mark, seen))


def short(spec: RunSpec) -> RunSpec:
    """The spec of what is measured: few training steps an epoch, and scores after each."""
    steps = min(STEPS, spec.training.iterations)
    training = spec.training.model_copy(update={"iterations": steps})
    return spec.model_copy(update={"training": training, "evaluation": spec.evaluation.model_copy(update={"every": 1})})


class Workload:
    """An epoch that can be repeated: every repetition starts from the same networks and the same memory.

    Reads the images of the target (and of the source where the clusters need them), makes or loads the network, and
    runs a first epoch.

    Args:
        session: one with a `short` spec.
    """

    def __init__(self, session: Session) -> None:
        self.session, self._spec = session, session.spec
        spec, images = session.spec, session.images
        self._some = images.target_domain.train.take(slice(0, BLOCK))  # type: ignore[arg-type]
        self._now = new_adaptation(session)
        if spec.checkpoint is not None:
            self.weights = spec.checkpoint
            network = load_network(Path(spec.checkpoint), spec).place(session.device)
        else:
            self.weights = "random"
            network = drawn_network(spec).place(session.device)
            recalibrate_batchnorm(network, images.training_batches(images.target))
        self._now.host.begin(network, session)
        self._features_ND = self._now.host.embed(images.target, FIRST)
        self._source_SD = self._now.host.embed(images.source) if spec.clusters.needs_source else None
        self.shape = (len(self._features_ND), self._features_ND.shape[1])
        run_epoch(session, self._now, FIRST)
        # A state dict holds the very tensors that training goes on to change.
        self._start = copy.deepcopy(self._now.checkpoint(images.target.split.names))

        steps, batch = spec.training.iterations, spec.training.identities * spec.training.images
        self.units = dict.fromkeys(STAGES, len(images.target.store)) | {
            "decode": len(self._some),
            "embed": len(images.target.store) + (0 if self._source_SD is None else len(self._source_SD)),
            "training step": steps * batch,
            "EMA": steps,
            "memory update": steps,
            "evaluation": self._now.task.test_images(images),
            "guard": 0 if self._now.guard is None else self._now.guard.images,
        }
        """Images or steps that a repetition takes through each stage."""

    def repeat(self) -> None:
        """One repetition; `reset` comes before it."""
        load_images(self.session.images.target_domain, self._some, self._spec.data, self.session.device)
        run_epoch(self.session, self._now, TIMED)

    def reset(self) -> None:
        """Put networks and memory back to where every repetition starts."""
        self._now.restore(copy.deepcopy(self._start))

    def labels(self) -> None:
        """The label stages of a repetition alone, on the features of the first epoch."""
        # Every call refines with the same memory.
        self._now.refiner.load_state_dict(self._start["refiner"])
        cameras_N = self.session.images.target.split.cameras
        clusters = cluster(self._now, FIRST, self._features_ND, self._source_SD, cameras_N)
        refine(self._now, clusters, self._features_ND)
