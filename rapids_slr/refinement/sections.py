"""The refiners that come with the package, as sections of a spec."""

from __future__ import annotations

from typing import Literal

from rapids_slr.refinement.base import Refiner, RefinerSpec
from rapids_slr.refinement.slr.keys import SLRKeys
from rapids_slr.settings.keys import values_of


class SLRSpec(RefinerSpec, SLRKeys):
    """From this epoch's and last epoch's clusters to refined labels (SLR)."""

    name: Literal["slr"] = "slr"
    """Pseudo-label refinement by last epoch's clusters."""

    @property
    def label(self) -> str:
        return self.hard

    @property
    def words(self) -> str:
        return f"refined by {self.hard}, alpha {self.alpha:g}"

    @property
    def remembers(self) -> str:
        return self.memory

    @property
    def soft_targets(self) -> bool:
        return self.hard == "none"

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
