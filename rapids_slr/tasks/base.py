"""What a task is: what a network is for, which images test it, how it is scored."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, ClassVar, Protocol

from rapids_slr.record.columns import Column
from rapids_slr.settings.base import Section

# A spec is read without torch.
if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from rapids_slr.data.images import Images, Role, RunImages


class Task(Protocol):
    """How a network is scored."""

    def read(self, images: RunImages, role: Role = "target") -> None:
        """Decode what tests the network, so that bad data stops a run before it trains."""

    def test_images(self, images: RunImages, role: Role = "target") -> int:
        """How many images an evaluation embeds; 0 where nothing tests a network."""

    def evaluate(
        self, embed: Callable[[Images], Tensor], images: RunImages, role: Role = "target"
    ) -> Mapping[str, float]:
        """Scores of a network on the target, or on the source, by which a guard tells how the target fares.

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
    otherwise: ClassVar[str] = ""
    """The key that takes its place where images do not tell it; nothing where they always do."""
    by_name: ClassVar[bool] = False
    """Whether identities of the same name are the same in all domains of a run."""
    asks: ClassVar[bool] = False
    """Whether queries ask for images of another camera; those that nothing answers are faults of the data then."""
    largest: ClassVar[float] = 0.1
    """Part of the images that may be of one identity; a run warns of a larger cluster."""
    tests: ClassVar[str] = "labelled images"
    """What images would test a network, in words."""
    on_screen: ClassVar[tuple[str, ...]]
    """The keys that an epoch's line on the screen has."""
    report: ClassVar[str] = ""
    """The module that makes what a report shows of the task (`reports.pictures.TaskReport`); none without one."""

    @classmethod
    def shown(cls) -> list[Column]:
        """The scores that tables of several runs have."""
        return [column for column in cls.scores if column.group == "scores"]

    @classmethod
    def headline_in(cls, rows: Iterable[Mapping[str, float]]) -> str:
        """The key of the score by which the networks of these rows are compared."""
        told = {key for row in rows for key in row}
        return cls.otherwise if cls.headline not in told and cls.otherwise in told else cls.headline

    def score_labels(self, labels_N: np.ndarray, identities_N: np.ndarray) -> dict[str, float]:
        """What an epoch's labels are worth for the task, beside ARI, NMI and purity, as fractions.

        Args:
            labels_N: (N,) integers, -1 = outlier: refined ones, or clusters, whose columns begin with `raw_`.
            identities_N: (N,) integers, all of them known.
        """
        return {}

    def build(self) -> Task:
        raise NotImplementedError
