"""Other ways to refine clusters, from the literature, for comparison: what they are, and what they cost, says
docs/rivals.md.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rapids_slr.refinement.rivals.confident import Confident
    from rapids_slr.refinement.rivals.ensembling import Ensembling
    from rapids_slr.refinement.rivals.propagation import Propagation
    from rapids_slr.refinement.rivals.prototypes import Prototypes

__all__ = ["Confident", "Ensembling", "Propagation", "Prototypes"]


def __getattr__(name: str) -> Any:
    """Import what is asked for, so that the keys beside it can be read without torch."""
    if name in __all__:
        from importlib import import_module

        return getattr(import_module(f"{__name__}.{name.lower()}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
