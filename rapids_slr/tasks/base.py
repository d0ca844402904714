"""What a task is: what a network is for, which images test it, how it is scored."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from rapids_slr.record.columns import Column, add_columns
from rapids_slr.settings.base import Section

if TYPE_CHECKING:
    from torch import Tensor

    from rapids_slr.data.images import Images, RunImages


class Task(Protocol):
    """How a network is scored."""

    def read(self, images: RunImages) -> None:
        """Decode what tests the network, so that bad data stops a run before it trains."""

    def test_images(self, images: RunImages) -> int:
        """How many images an evaluation embeds."""

    def evaluate(self, embed: Callable[[Images], Tensor], images: RunImages) -> Mapping[str, float]:
        """Scores of a network.

        Args:
            embed: gives the features (N, D) of images, float32 unit rows where the images are trained on.
        Returns: a fraction for each of the section's `scores`; fewer, or none, where images do not tell them.
        """


class TaskSpec(Section):
    """What the network is for."""

    scores: ClassVar[tuple[Column, ...]]
    """The columns that an evaluation gives, fractions, in the order of screen and summary."""
    headline: ClassVar[str]
    """The key of `scores` that says how good an epoch is."""
    on_screen: ClassVar[tuple[str, ...]]
    """The keys that an epoch's line on the screen has."""

    @classmethod
    def shown(cls) -> list[Column]:
        """The scores that tables of several runs have."""
        return [column for column in cls.scores if column.group == "scores"]

    def build(self) -> Task:
        raise NotImplementedError


class ReIDSpec(TaskSpec):
    """Retrieval of the images of a query's identity, by the protocol of Market-1501."""

    name: Literal["reid"] = "reid"
    """Re-identification: query and gallery."""
    scores = add_columns(
        Column("mAP", "mAP", "%", "scores", "more"),
        Column("rank1", "rank-1", "%", "scores", "more"),
        Column("rank5", "rank-5", "%", "", "more"),
        Column("rank10", "rank-10", "%", "", "more"),
    )
    headline = "mAP"
    on_screen = ("mAP", "rank1")

    def build(self) -> Task:
        from rapids_slr.tasks.reid import ReID

        return ReID()


TASKS: dict[str, type[TaskSpec]] = {"reid": ReIDSpec}
"""Tasks, by the name of `task`."""


def task_of(spec: Mapping[str, Any]) -> type[TaskSpec]:
    """The section of the task that the settings of a spec name, as a YAML file or a results file has them."""
    task = spec.get("task", ReIDSpec.choice())
    return TASKS[task if isinstance(task, str) else task.get(TaskSpec.TAG, ReIDSpec.choice())]
