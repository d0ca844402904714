"""What a spec can name: the tables of clusterers, refiners, hosts and tasks.

To add one, write its section and what that builds in a file of its own room, import the section here, and name it in
its table. Heavy imports belong into the section's `build`: reading a spec does not wait for torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rapids_slr.clustering.base import ClustererSpec
from rapids_slr.clustering.sections import DBSCANSpec, HDBSCANSpec
from rapids_slr.hosts.base import HostSpec
from rapids_slr.hosts.sections import ABMTSpec, ClusterContrastSpec, MMTSpec, SpCLSpec
from rapids_slr.refinement.base import RefinerSpec
from rapids_slr.refinement.sections import (
    ConfidentSpec,
    EnsemblingSpec,
    NoRefinementSpec,
    PropagationSpec,
    PrototypesSpec,
    SLRSpec,
)
from rapids_slr.tasks.base import TaskSpec
from rapids_slr.tasks.sections import ClassificationSpec, ReIDSpec

CLUSTERERS: dict[str, type[ClustererSpec]] = {"dbscan": DBSCANSpec, "hdbscan": HDBSCANSpec}
"""Ways to cluster the images of an epoch, by `clusters.method`."""
REFINERS: dict[str, type[RefinerSpec]] = {
    "slr": SLRSpec,
    "none": NoRefinementSpec,
    "confident": ConfidentSpec,
    "prototypes": PrototypesSpec,
    "propagation": PropagationSpec,
    "ensembling": EnsemblingSpec,
}
"""Ways to refine clusters, by the name of `refine`."""
HOSTS: dict[str, type[HostSpec]] = {
    "abmt": ABMTSpec,
    "cluster_contrast": ClusterContrastSpec,
    "spcl": SpCLSpec,
    "mmt": MMTSpec,
}
"""Ways to train on labels, by the name of `host`."""
TASKS: dict[str, type[TaskSpec]] = {"reid": ReIDSpec, "classification": ClassificationSpec}
"""What a network is for, by the name of `task`."""


def task_of(spec: Mapping[str, Any]) -> type[TaskSpec]:
    """The section of the task that the settings of a spec name, as a YAML file or a results file has them."""
    task = spec.get("task", ReIDSpec.choice())
    return TASKS[task if isinstance(task, str) else task.get(TaskSpec.TAG, ReIDSpec.choice())]
