"""The keys of `JaccardDBSCAN`, as its estimator, the spec and the command line read them."""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt

from rapids_slr.settings.keys import Count, Fraction, Positive


# An estimator is equal to itself alone, and has a hash; its repr is that of Estimator.
@dataclass(eq=False, repr=False)
class JaccardDBSCANKeys:
    k1: Count = 20
    """Neighbours that must be reciprocal."""
    k2: Count = 6
    """Images averaged by query expansion, the image itself included; 1 leaves it out."""
    pairs_per_image: Positive | None = 13
    """The radius eps is the mean distance of this many nearest pairs an image: of the round(this x N) smallest nonzero
    distances. Stay below (images an identity - 1) / 2."""
    rho: Annotated[float, Gt(0), Le(1)] | None = None
    """Takes the place of pairs_per_image: the same mean over this fraction of all nonzero pairs (ABMT: 2e-3)."""
    eps: Positive | None = None
    """Takes the place of both rules: a fixed radius, in the distance's own units (0 to 1)."""
    min_samples: Count = 4
    """Images within the radius, the image itself included, that make a core point."""
    min_size: Count = 1
    """Clusters with fewer images become outliers."""
    source_weight: Annotated[float, Ge(0), Lt(1)] = 0.0
    """lambda of the source term of the distance (ABMT: 0.1), which needs source features; 0 leaves it out."""
    search: Literal["exact", "approximate", "auto"] = "exact"
    """Nearest neighbours: all of them, or for some 100,000 images and more most of them, by pynndescent, on CUDA by
    cuVS. `auto` takes what should take less time on this machine, on CUDA and in several processes `exact`; another
    machine may decide otherwise, and find a few other neighbours."""
    solver: Literal["auto", "cuml", "graph"] = "auto"
    """DBSCAN on CUDA: `cuml` on all N x N distances, or own kernels on the `graph`, which `auto` takes: they read only
    the distances below 1. Labels are equal."""
    cameras: Literal["ignore", "centre", "auto"] = "auto"
    """What is done with the cameras of the images, where `fit` is given them: nothing (paper), or the mean feature of
    its camera is subtracted from every feature (`centre`). `auto` centres where two cameras or more have 8 images
    each."""
    convention: Literal["rerank", "faiss"] = "rerank"
    """How neighbours are counted and weighed. `rerank` (Zhong et al., ABMT, MMT): k1 images beside the image itself,
    distances over the largest of their row. `faiss` (cluster-contrast, SpCL, ICE, PPLR, whose eps it fits): k1 images
    with the image itself, distances as they are."""
    min_share: Fraction = 0.0
    """Clusters with fewer than this share of the images that a typical image's cluster has (the median over
    clustered images) become outliers."""
