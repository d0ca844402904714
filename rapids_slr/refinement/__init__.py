"""Labels of two epochs -> refined labels."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rapids_slr.refinement.slr.estimator import SLR, Refined
    from rapids_slr.refinement.slr.soft_labels import SoftRows

__all__ = ["SLR", "Refined", "SoftRows"]


def __getattr__(name: str) -> Any:
    """Import what is asked for, so that the keys beside it can be read without torch."""
    if name in ("SLR", "Refined"):
        from rapids_slr.refinement.slr import estimator

        return getattr(estimator, name)
    if name == "SoftRows":
        from rapids_slr.refinement.slr.soft_labels import SoftRows

        return SoftRows
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
