"""The keys of `SLR`, as its estimator, the spec and the command line read them."""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge

from rapids_slr.settings.keys import Count, Fraction, NotNegative


# As with JaccardDBSCANKeys: equal to itself alone.
@dataclass(eq=False, repr=False)
class SLRKeys:
    alpha: Fraction = 0.5
    """Weight of this epoch's clusters against last epoch's, 0 to 1; 1 forgets the past."""
    min_cluster_size: Annotated[int, Ge(2)] = 7
    """Smallest refined cluster of HDBSCAN, images."""
    min_samples: Count | None = None
    """Neighbours, without the point itself, of a core distance; where not given, min_cluster_size. For `dbscan`,
    images within its radius, the point itself included."""
    hard: Literal["hdbscan", "argmax", "dbscan", "none", "cuml"] = "hdbscan"
    """How soft labels become hard ones; `none` is for training on the soft labels, with their argmax as hard ones.
    `cuml` is HDBSCAN by cuML on the soft label of every image, N x K of them, for comparison on a GPU."""
    outliers: Literal["project", "drop"] = "project"
    """An outlier that was clustered last epoch takes its projected label, or is left out."""
    noise: Literal["drop", "argmax"] = "drop"
    """Noise of the hard step is left out, or joins the refined cluster that holds most of its raw cluster."""
    memory: Literal["clusters", "refined"] = "clusters"
    """Labels remembered for the next epoch: the clusters as given (the paper), or the refined ones."""
    merge_distance: NotNegative = 0.0
    """Clusters of HDBSCAN that part below this distance stay together. Its cluster_selection_epsilon."""
    min_confidence: Fraction = 0.0
    """Images whose soft label has no entry of at least this are left out; 0 keeps all (the paper)."""
