"""The refiners that come with the package, as sections of a spec."""

from __future__ import annotations

from typing import Literal

from rapids_slr.refinement.base import Refiner, RefinerSpec
from rapids_slr.refinement.rivals.keys import ConfidentKeys, EnsemblingKeys, PropagationKeys, PrototypesKeys
from rapids_slr.refinement.slr.keys import SLRKeys
from rapids_slr.settings.keys import values_of

OF_HARD_STEP = ("min_cluster_size", "min_samples", "noise", "merge_distance")
READ_BY: dict[str, tuple[str, ...]] = {
    "none": (),
    "argmax": ("noise",),
    "dbscan": ("min_cluster_size", "min_samples", "noise"),
}
"""Keys of the hard step that a way of it reads, where it does not read them all."""


class SLRSpec(RefinerSpec, SLRKeys):
    """From this epoch's and last epoch's clusters to refined labels (SLR)."""

    name: Literal["slr"] = "slr"
    """Pseudo-label refinement by last epoch's clusters."""
    hard: Literal["hdbscan", "argmax", "dbscan", "none", "cuml"] = "none"
    """How soft labels become hard ones: `none` trains on the soft labels themselves, with their argmax as hard ones
    where a loss wants them, and takes no notice of sizes, noise and merge distance; the paper has `hdbscan`. `cuml` is
    HDBSCAN by cuML on the soft label of every image, N x K of them, for comparison on a GPU."""

    @property
    def label(self) -> str:
        return "soft labels" if self.soft_targets else self.hard

    @property
    def words(self) -> str:
        return f"refined {'to' if self.soft_targets else 'by'} {self.label}, alpha {self.alpha:g}"

    @property
    def remembers(self) -> str:
        return self.memory

    @property
    def soft_targets(self) -> bool:
        return self.hard == "none"

    @property
    def unread(self) -> str:
        changed = [key for key in OF_HARD_STEP if getattr(self, key) != type(self).model_fields[key].default]
        unread = [key for key in changed if key not in READ_BY.get(self.hard, OF_HARD_STEP)]
        return f"refine.hard: {self.hard} does not read refine.{', refine.'.join(unread)}" if unread else ""

    @property
    def cuml_for(self) -> dict[str, str]:
        return {"refine.hard: cuml": "refine.hard: hdbscan"} if self.hard == "cuml" else {}

    def build(self) -> Refiner:
        from rapids_slr.refinement.slr.estimator import SLR

        return SLR(**values_of(SLRKeys, self))

    def again(self) -> Refiner:
        from rapids_slr.refinement.slr.estimator import SLR

        # Argmax, as only soft labels are wanted; clusters, as what it is given first was remembered already.
        return SLR(**values_of(SLRKeys, self) | {"hard": "argmax", "memory": "clusters"})


class NoRefinementSpec(RefinerSpec):
    """The clusters as they are (the ABMT baseline)."""

    reads_others = False
    name: Literal["none"] = "none"
    """No refinement."""

    @property
    def words(self) -> str:
        return "no refinement"

    def build(self) -> Refiner:
        from rapids_slr.refinement.none import NoRefinement

        return NoRefinement()


class ConfidentSpec(RefinerSpec, ConfidentKeys):
    """Leaves out, or moves, images that confident learning finds mislabelled (Northcutt et al., JAIR 2021), by cleanlab
    on the votes of nearest neighbours. With the extra `rivals`."""

    needs = frozenset({"features"})
    reads_others = False
    name: Literal["confident"] = "confident"
    """Confident learning."""

    def build(self) -> Refiner:
        from rapids_slr.refinement.rivals.confident import Confident, cleanlab_filter

        cleanlab_filter()  # where it is missing a run says so before it trains
        return Confident(**values_of(ConfidentKeys, self))


class PrototypesSpec(RefinerSpec, PrototypesKeys):
    """Leaves out images far from the mean feature of their cluster, by a mixture of two Gaussians (after Li et al.,
    ICLR 2020, and Huang et al., arXiv:2212.10766)."""

    needs = frozenset({"features"})
    reads_others = False
    name: Literal["prototypes"] = "prototypes"
    """Class-prototype cleaning."""

    def build(self) -> Refiner:
        from rapids_slr.refinement.rivals.prototypes import Prototypes

        return Prototypes(**values_of(PrototypesKeys, self))


class PropagationSpec(RefinerSpec, PropagationKeys):
    """Spreads clusters over the graph of the distances that were clustered (Zhou et al., NIPS 2003)."""

    needs = frozenset({"graph"})
    reads_others = False
    name: Literal["propagation"] = "propagation"
    """Label propagation."""

    @property
    def soft_targets(self) -> bool:
        return self.targets == "soft"

    def build(self) -> Refiner:
        from rapids_slr.refinement.rivals.propagation import Propagation

        return Propagation(**values_of(PropagationKeys, self))


class EnsemblingSpec(RefinerSpec, EnsemblingKeys):
    """Puts images to the cluster whose images they were with most often in the last epochs (after Fred and Jain, PAMI
    2005)."""

    reads_others = False
    name: Literal["ensembling"] = "ensembling"
    """Temporal ensembling by co-association."""

    @property
    def soft_targets(self) -> bool:
        return self.targets == "soft"

    def build(self) -> Refiner:
        from rapids_slr.refinement.rivals.ensembling import Ensembling

        return Ensembling(**values_of(EnsemblingKeys, self))
