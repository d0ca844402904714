"""What a refiner is: from the clusters of an epoch to the labels that are trained on."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from rapids_slr.settings.base import Section

# A spec is read without torch.
if TYPE_CHECKING:
    from torch import Tensor

    from rapids_slr.refinement.slr.soft_labels import SoftRows


class Refined(Protocol):
    """Labels of one epoch after refinement, where the clusters are."""

    @property
    def hard(self) -> Tensor:
        """(N,) whole numbers, -1 = left out."""

    @property
    def rescued(self) -> int:
        """Outliers that have a refined label."""

    @property
    def confidence(self) -> Tensor:
        """(N,) float32 in [0, 1]: how sure the label of an image is; 0 for those left out."""

    @property
    def rows(self) -> SoftRows:
        """Distinct soft labels; asked for only where the section says `soft_targets`."""


class Refiner(Protocol):
    """A way to refine clusters."""

    @property
    def update(self) -> Callable[..., Refined]:
        """update(labels, others=(), **needed): refine the clusters (N,) of an epoch, arrays or tensors, and remember
        what the next one needs. `others` are further clusterings; `needed` is what the section says in `needs`."""

    def state_dict(self) -> dict[str, Any]:
        """What is remembered: tensors and plain values."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""


class RefinerSpec(Section):
    """From clusters to the labels that are trained on."""

    needs: ClassVar[frozenset[str]] = frozenset()
    """What `update` is given beside the clusters, by these names: `features`, (N, D) float32 unit rows where the
    clusters are; `graph`, the distances that were clustered, (N, N) CSR of the library of the clusters."""
    reads_others: ClassVar[bool] = True
    """Whether `update` looks at further clusterings."""

    @property
    def label(self) -> str:
        """What summaries and reports call it."""
        return self.choice()

    @property
    def words(self) -> str:
        """What a report says of it."""
        return f"refined by {self.choice()}"

    @property
    def remembers(self) -> str:
        """Labels that the next epoch is refined with: `clusters`, as they are, or `refined`."""
        return "clusters"

    @property
    def soft_targets(self) -> bool:
        """Whether soft rows are trained on, in place of hard labels."""
        return False

    @property
    def unread(self) -> str:
        """What is set and not read, in words, as it belongs to another way of the same choice; empty if nothing is."""
        return ""

    @property
    def cuml_for(self) -> dict[str, str]:
        """Settings that on CUDA only cuML serves, each with what to set in its place (see `choose_backend`)."""
        return {}

    def again(self) -> Refiner | None:
        """A refiner that makes the soft labels of an epoch again from its clusters and the labels remembered before;
        None where these two do not tell them."""
        return None

    def build(self) -> Refiner:
        raise NotImplementedError
