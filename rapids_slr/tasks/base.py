"""What a task is: what a network is for, which images test it, how it is scored."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, Protocol

from rapids_slr.settings.base import Section

if TYPE_CHECKING:
    from torch import Tensor

    from rapids_slr.data.images import Images, RunImages


class Task(Protocol):
    """How a network is scored."""

    scores: Sequence[str]
    """Columns that `evaluate` gives, fractions; the order of screen and summary."""
    headline: str
    """The column that says how good an epoch is, of `scores`."""

    def read(self, images: RunImages) -> None:
        """Decode what tests the network, so that bad data stops a run before it trains."""

    def test_images(self, images: RunImages) -> int:
        """How many images an evaluation embeds."""

    def evaluate(self, embed: Callable[[Images], Tensor], images: RunImages) -> Mapping[str, float]:
        """Scores of a network.

        Args:
            embed: gives the features (N, D) of images, float32 unit rows where the images are trained on.
        """


class TaskSpec(Section):
    """What the network is for."""

    def build(self) -> Task:
        raise NotImplementedError


class ReIDSpec(TaskSpec):
    """Retrieval of the images of a query's identity, by the protocol of Market-1501."""

    name: Literal["reid"] = "reid"
    """Re-identification: query and gallery."""

    def build(self) -> Task:
        from rapids_slr.tasks.reid import ReID

        return ReID()


TASKS: dict[str, type[TaskSpec]] = {"reid": ReIDSpec}
"""Tasks, by the name of `task`."""
