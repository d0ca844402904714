"""Labels of two epochs -> refined labels."""

from rapids_slr.refinement.slr import SLR, Refined
from rapids_slr.refinement.soft_labels import SoftRows

__all__ = ["SLR", "Refined", "SoftRows"]
