"""No refinement: the clusters are trained on as they are. With it the host is its own baseline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from rapids_slr.refinement.slr.soft_labels import SoftRows


@dataclass(frozen=True)
class Unrefined:
    """The clusters (N,) of an epoch in the place of refined labels."""

    hard: Tensor
    rescued: int = 0

    @property
    def confidence(self) -> Tensor:
        """(N,) float32: 1 for a clustered image, 0 for an outlier."""
        return (self.hard >= 0).float()

    @property
    def rows(self) -> SoftRows:
        raise TypeError("clusters that are not refined have no soft labels")


class NoRefinement:
    """Gives back what it is given, and remembers nothing."""

    def update(self, labels: Any, others: Sequence[Any] = ()) -> Unrefined:
        return Unrefined(labels)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass
