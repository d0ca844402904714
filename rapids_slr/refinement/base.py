"""What a refiner is: from the clusters of an epoch to the labels that are trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

from annotated_types import Ge

from rapids_slr.settings.base import Section
from rapids_slr.settings.keys import Count, Fraction, NotNegative

if TYPE_CHECKING:
    from torch import Tensor

    from rapids_slr.refinement.slr.soft_labels import SoftRows


class Refined(Protocol):
    """Labels of one epoch after refinement, where the clusters are."""

    @property
    def hard(self) -> Tensor:
        """(N,) int32, -1 = left out."""

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

    memory: str
    """Labels that the next epoch is refined with: `clusters`, as given, or `refined`."""

    def update(self, labels: Tensor, others: Sequence[Tensor] = ()) -> Refined:
        """Refine the clusters (N,) int32 of an epoch, and remember what the next one needs."""

    def state_dict(self) -> dict[str, Any]:
        """What is remembered: tensors and plain values."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""


class RefinerSpec(Section):
    """From clusters to the labels that are trained on."""

    @property
    def label(self) -> str:
        """What summaries and reports call it."""
        return self.choice()

    @property
    def soft_targets(self) -> bool:
        """Whether soft rows are trained on, in place of hard labels."""
        return False

    def build(self) -> Refiner:
        raise NotImplementedError


class SLRSpec(RefinerSpec):
    """From this epoch's and last epoch's clusters to refined labels (SLR)."""

    name: Literal["slr"] = "slr"
    """Pseudo-label refinement by last epoch's clusters."""

    alpha: Fraction = 0.5
    """Weight of this epoch's clusters against last epoch's; 1 forgets the past."""
    hard: Literal["hdbscan", "argmax", "dbscan", "none", "cuml"] = "hdbscan"
    """How soft labels become hard ones; `none` trains on the soft labels themselves, `cuml` is cuML's HDBSCAN on the
    soft label of every image, for comparison on a GPU."""
    min_cluster_size: Annotated[int, Ge(2)] = 7
    """Smallest refined cluster of HDBSCAN, images."""
    min_samples: Count | None = None
    """Neighbours, without the point itself, of a core distance; none takes min_cluster_size."""
    merge_distance: NotNegative = 0.0
    """Clusters of HDBSCAN that part below this distance stay together (its cluster_selection_epsilon)."""
    outliers: Literal["project", "drop"] = "project"
    """An outlier that was clustered last epoch takes its projected label, or is left out."""
    noise: Literal["drop", "argmax"] = "drop"
    """HDBSCAN's noise is left out, or joins the refined cluster that holds most of its raw cluster."""
    memory: Literal["clusters", "refined"] = "clusters"
    """Labels carried to the next epoch: the clusters (paper) or the refined ones."""
    min_confidence: Fraction = 0.0
    """Images whose soft label has no entry of at least this are left out; 0 keeps all (paper)."""

    @property
    def label(self) -> str:
        return self.hard

    @property
    def soft_targets(self) -> bool:
        return self.hard == "none"

    def build(self) -> Refiner:
        from rapids_slr.refinement.slr.estimator import SLR

        return SLR(**self.model_dump(exclude={"name"}))


class NoRefinementSpec(RefinerSpec):
    """The clusters as they are (the ABMT baseline)."""

    name: Literal["none"] = "none"
    """No refinement."""

    def build(self) -> Refiner:
        from rapids_slr.refinement.none import NoRefinement

        return NoRefinement()


REFINERS: dict[str, type[RefinerSpec]] = {"slr": SLRSpec, "none": NoRefinementSpec}
"""Ways to refine, by the name of `refine`."""
