"""The teacher: a moving average of the student."""

from __future__ import annotations

import torch
from torch import Tensor

from rapids_slr.marks import step
from rapids_slr.networks.network import Network


def averaged_parameters(network: Network, skip_classifiers: bool = False) -> list[Tensor]:
    """The parameters that a teacher averages, in the order of the network: listed once for many steps.

    Args:
        skip_classifiers: leave the teacher's classifiers to their own training.
    """
    # Statistics of BatchNorm are buffers, and so not among them.
    return [
        parameter
        for name, parameter in network.named_parameters()
        if not (skip_classifiers and name.startswith("classifiers."))
    ]


@step("EMA")
@torch.no_grad()
def update_teacher(teacher: list[Tensor], student: list[Tensor], step: int, decay: float) -> None:
    """Move the teacher's parameters towards the student's: teacher <- a teacher + (1 - a) student.

    a = min(1 - 1 / (step + 1), decay), so that the first steps are a plain mean. BatchNorm statistics are left alone:
    the teacher sees the batches itself and keeps its own.

    Args:
        teacher, student: `averaged_parameters` of the two networks.
        step: steps done before this one, counted over all epochs.
    """
    share = 1 - min(1 - 1 / (step + 1), decay)
    # A few kernels for all parameters, in place of one for each.
    torch._foreach_lerp_(teacher, student, share)
