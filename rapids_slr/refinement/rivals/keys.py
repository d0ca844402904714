"""The keys of the rivals, as their estimators and the spec read them."""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Lt

from rapids_slr.settings.keys import Count, Fraction


# As with SLRKeys: equal to itself alone.
@dataclass(eq=False, repr=False)
class ConfidentKeys:
    votes: Count = 10
    """Nearest clustered images that vote on the cluster of an image, which has no vote itself."""
    mislabelled: Literal["drop", "move"] = "drop"
    """An image that is found mislabelled is left out, or moved to the cluster with most votes."""


@dataclass(eq=False, repr=False)
class PrototypesKeys:
    clean: Fraction = 0.5
    """Posterior of the nearer component below which an image is left out; 0 keeps all, as weights by
    `training.weights: confidence` want it."""


@dataclass(eq=False, repr=False)
class PropagationKeys:
    neighbours_weight: Annotated[float, Ge(0), Lt(1)] = 0.9
    """Weight of what neighbours say against an image's own cluster, the alpha of Zhou et al.; 0 keeps the clusters."""
    min_confidence: Fraction = 0.0
    """Images whose soft label has no entry of at least this are left out; 0 keeps all."""
    targets: Literal["hard", "soft"] = "hard"
    """Train on the cluster with the largest entry, or on the soft labels."""


@dataclass(eq=False, repr=False)
class EnsemblingKeys:
    window: Count = 5
    """Epochs, this one included, over which images are counted as together."""
    majority: Fraction = 0.5
    """Images are left out that were with those of no cluster in at least this share of the epochs, on average."""
    targets: Literal["hard", "soft"] = "hard"
    """Train on the cluster with the largest entry, or on the soft labels."""
