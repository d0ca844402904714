"""What a run costs: copies between host and device, kernels and device seconds, by stage."""

from rapids_slr.profiling.ledger import Copies, StageWork, ledger_of, recorded

__all__ = ["Copies", "StageWork", "ledger_of", "recorded"]
