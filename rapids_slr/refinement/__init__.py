"""Labels of two epochs -> refined labels."""

from rapids_slr.refinement.slr.estimator import SLR, Refined
from rapids_slr.refinement.slr.soft_labels import SoftRows

__all__ = ["SLR", "Refined", "SoftRows"]
