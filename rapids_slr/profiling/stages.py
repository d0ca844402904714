"""What is profiled: an epoch of a run and the decoding of its images, by the functions that the run calls.

`Workload.repeat` follows `adapt_network` of run.py. The steps inside `cluster`, `SLR.update` and `adapt_epoch` are
found by name: while `marked` holds, the functions that `STAGES` names report when they begin and end. Outside of it
they are as they were, so that a run pays nothing for being able to be profiled.
"""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

from rapids_slr.data import load_images, read_domain
from rapids_slr.data.store import BLOCK
from rapids_slr.hosts.steps import adapt_epoch
from rapids_slr.hosts.targets import class_centroids
from rapids_slr.networks import load_network, make_teacher, recalibrate_batchnorm
from rapids_slr.refinement import SLR
from rapids_slr.run import Adaptation, cluster, evaluate_on, features, training_targets
from rapids_slr.session import Session

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
        functions: "module:name" of the functions it consists of, where it is a step inside another function.
        network: whether it computes in the precision of the networks; else in float32.
    """

    unit: str = "images"
    flop: str | None = None
    bytes: str | None = ARRAYS
    functions: tuple[str, ...] = ()
    network: bool = False


_CLUSTERING, _SLR = "rapids_slr.clustering.jaccard_dbscan", "rapids_slr.refinement.slr.estimator"

STAGES = {
    "decode": Stage(bytes=None),
    "embed": Stage(flop=OPERATORS, bytes=TRAFFIC, network=True),
    "neighbours": Stage(
        flop=OPERATORS, functions=(f"{_CLUSTERING}:check_features", f"{_CLUSTERING}:nearest_neighbours")
    ),
    "Jaccard graph": Stage(
        functions=(f"{_CLUSTERING}:jaccard_graph", f"{_CLUSTERING}:source_reach", f"{_CLUSTERING}:add_source_term")
    ),
    "DBSCAN": Stage(functions=(f"{_CLUSTERING}:radius", f"{_CLUSTERING}:dbscan", f"{_CLUSTERING}:drop_small")),
    "HDBSCAN": Stage(functions=("rapids_slr.run:cluster_hdbscan",)),
    "contingency": Stage(functions=(f"{_SLR}:overlap",)),
    "projection": Stage(functions=(f"{_SLR}:project", f"{_SLR}:combine")),
    "soft labels": Stage(functions=(f"{_SLR}:soft_labels", f"{_SLR}:confident")),
    "hard labels": Stage(functions=(f"{_SLR}:SLR._hard_labels",)),
    "targets": Stage(flop=OPERATORS, bytes=TRAFFIC),
    "training step": Stage(flop=OPERATORS, bytes=TRAFFIC, network=True),
    "EMA": Stage(
        "steps", "3 for every averaged parameter", TRAFFIC, functions=("rapids_slr.hosts.steps:update_teacher",)
    ),
    "evaluation": Stage(flop=OPERATORS, bytes=TRAFFIC, network=True),
}
"""The stages in the order of an epoch. Those that a spec has no use for (HDBSCAN, refinement) are left out."""

Mark = Callable[[str], AbstractContextManager[Any]]


def unmarked(_: str) -> AbstractContextManager[None]:
    """The mark of a repetition that is not measured."""
    return nullcontext()


@contextmanager
def marked(mark: Mark, seen: Callable[[str, Any], None] | None = None) -> Iterator[None]:
    """While the block runs, the steps inside other functions run within `mark(stage)`.

    Args:
        seen: called after each with its stage and all that it was given and gave back.
    """
    before: list[tuple[Any, str, Any]] = []
    try:
        for name, stage in STAGES.items():
            for place in stage.functions:
                owner, attribute = _owner(place)
                function = getattr(owner, attribute)
                before.append((owner, attribute, function))
                setattr(owner, attribute, _with_mark(function, name, mark, seen))
        yield
    finally:
        for owner, attribute, function in before:
            setattr(owner, attribute, function)


def _with_mark(
    function: Callable[..., Any], name: str, mark: Mark, seen: Callable[[str, Any], None] | None
) -> Callable[..., Any]:
    @wraps(function)
    def with_mark(*args: Any, **options: Any) -> Any:
        with mark(name):
            result = function(*args, **options)
        if seen is not None:
            seen(name, (args, options, result))
        return result

    return with_mark


def _owner(place: str) -> tuple[Any, str]:
    """The module or class that holds a function, and its name there."""
    module, _, path = place.partition(":")
    owner, names = importlib.import_module(module), path.split(".")
    for name in names[:-1]:
        owner = getattr(owner, name)
    return owner, names[-1]


class Workload:
    """An epoch that can be repeated: every repetition starts from the same networks and the same memory.

    Reads the images of the target (and of the source where clusters.source_weight needs them), makes or loads the
    networks, and runs a first epoch.
    """

    def __init__(self, session: Session) -> None:
        self.session, spec = session, session.spec
        domain = read_domain(spec.data.target, on_error=spec.data.on_error)
        self._domain, self._some = domain, domain.train.take(slice(0, BLOCK))  # type: ignore[arg-type]
        steps = min(STEPS, spec.training.iterations)
        self._spec = spec.model_copy(update={"training": spec.training.model_copy(update={"iterations": steps})})

        if spec.pretrain.checkpoint is not None:
            self.weights = str(spec.pretrain.checkpoint)
            teacher = make_teacher(load_network(Path(spec.pretrain.checkpoint), spec).place(session.device))
        else:
            self.weights = "random"
            teacher = make_teacher(session.new_network().place(session.device))
            recalibrate_batchnorm(teacher, session.training_batches(session.target))
        student = make_teacher(teacher).requires_grad_(True)
        refine = spec.refine
        self._now = Adaptation({}, student, teacher, None if refine is None else SLR(**refine.model_dump()))
        self.shape = (0, 0)
        self._epoch(FIRST, unmarked)
        self._start = copy.deepcopy(self._now.checkpoint())

        test, batch = session.test, spec.training.identities * spec.training.images
        source = len(session.source.store) if spec.clusters.source_weight > 0 else 0
        images = dict.fromkeys(STAGES, len(session.target.store)) | {
            "decode": len(self._some),
            "embed": len(session.target.store) + source,
            "training step": steps * batch,
            "EMA": steps,
            "evaluation": len(test.query.store) + len(test.gallery.store),
        }
        self.units = images
        """Images or steps that a repetition takes through each stage."""

    def repeat(self, mark: Mark) -> None:
        """One repetition; `reset` comes before it."""
        self._epoch(TIMED, mark)

    def reset(self) -> None:
        """Put networks and memory back to where every repetition starts."""
        self._now.restore(copy.deepcopy(self._start))

    def labels(self) -> None:
        """The label stages of a repetition alone, on the features of the first epoch."""
        if self._now.slr is not None:
            self._now.slr.load_state_dict(self._start["slr"])
        clusters_N, *others = cluster(self._features_ND, self._source_SD, self.session.spec.clusters)
        if self._now.slr is not None:
            self._now.slr.update(clusters_N, others)

    def _epoch(self, number: int, mark: Mark) -> None:
        session, now, target = self.session, self._now, self.session.target
        spec, student, teacher = session.spec, now.student, now.teacher
        with mark("decode"):
            load_images(self._domain, self._some, spec.data, session.device)
        with mark("embed"):
            features_ND = features(teacher, target, session, number)
            source_SD = features(teacher, session.source, session) if spec.clusters.source_weight > 0 else None
        clusters_N, *others = cluster(features_ND, source_SD, spec.clusters)
        refined = now.slr.update(clusters_N, others) if now.slr is not None else None
        with mark("targets"):
            targets = training_targets(clusters_N if refined is None else refined.hard, refined, session, number)
            centroids_KD = class_centroids(features_ND, targets)
            student.set_classifiers_from(centroids_KD)
            teacher.set_classifiers_from(centroids_KD)
        with mark("training step"):
            _, now.step = adapt_epoch(
                student, teacher, target.store, targets, self._spec, number, now.step, lambda *_, **__: None
            )
            student.drop_classifiers()
            teacher.drop_classifiers()
        with mark("evaluation"):
            evaluate_on(teacher, session.test, session)
        if number == FIRST:
            self._features_ND, self._source_SD = features_ND, source_SD
            self.shape = (len(features_ND), features_ND.shape[1])
