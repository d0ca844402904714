"""Several processes on GPUs: what they tell each other goes through NCCL, and training is that of one process."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from rapids_slr import group as module
from rapids_slr.group import ALONE, Group
from rapids_slr.networks.batchnorm import statistics_of
from rapids_slr.networks.two_branch import TwoBranch
from rapids_slr.networks.whole import OnWholeBatch
from rapids_slr.settings.spec import ModelSpec
from tests.processes import together

BOTH = "cpu:gloo,cuda:nccl"
"""What `group.join` sets up where there are GPUs."""
GPUS = torch.cuda.device_count()
B, IDENTITIES = 16, 8


class Speaking(Group):
    """A process that is alone, but tells all that it would tell others."""

    def __init__(self, *_: int) -> None:
        super().__init__(0, 1)
        self.size = 2  # so that nothing is left out; the second process has no rows

    def part(self, B):
        return slice(0, B)

    def _whole(self, rows):
        self.size = 1
        try:
            return super()._whole(rows)
        finally:
            self.size = 2


def every_call(_: Group) -> dict[str, tuple[Tensor, Tensor]]:
    """What each way to tell something gives, beside what it is to give."""
    group, rng = Speaking(), torch.Generator().manual_seed(0)
    rows = torch.randn(5, 3, generator=rng).cuda()
    labels, bits = torch.arange(5).cuda(), torch.arange(5, dtype=torch.int16).cuda()
    trained = rows.clone().requires_grad_()
    group.batch(trained, summed=True).square().sum().backward()
    return {
        name: (found.cpu(), expected.cpu())
        for name, (found, expected) in {
            "gather": (group.gather(rows), rows),
            "gather int64": (group.gather(labels), labels),
            "gather int16, which neither knows": (group.gather(bits), bits),
            "added": (group.added(rows), rows),
            "batch": (group.batch(rows), rows),
            "its gradient": (trained.grad, 2 * rows),
            "total": (torch.tensor(group.total(7)), torch.tensor(7)),
            "highest": (torch.tensor(group.highest(0.5)), torch.tensor(0.5)),
            "from_first": (torch.tensor(group.from_first({"eps": 0.25})["eps"]), torch.tensor(0.25)),
        }.items()
    }


def test_all_that_is_told_goes_through_nccl():
    (found,) = together(1, every_call, through=BOTH)
    for name, (told, expected) in found.items():
        assert torch.equal(told, expected), name


def gradient(group: Group, forward: Callable[[TwoBranch], Callable]) -> np.ndarray:
    """Of a loss of the whole batch that looks at pairs, with statistics of sets of 4 images."""
    module._current = group
    torch.manual_seed(0)
    network = TwoBranch(ModelSpec(backbone="narrow", widths=[16, 32, 48])).place("cuda").train()
    network.set_classifiers(IDENTITIES, torch.Generator().manual_seed(1))
    rng = torch.Generator().manual_seed(2)
    images = torch.randn(B, 3, 64, 32, generator=rng).cuda()
    labels = (torch.arange(B) % IDENTITIES).cuda()
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False), statistics_of(4, network):
        whole = forward(network)  # held until the gradient is there, which it takes the mean of
        outputs = whole(images[group.part(B)])
        classes = [F.cross_entropy(logits, labels) for logits in outputs.logits]
        pairs = [torch.cdist(pooled, pooled).amax(1).mean() for pooled in outputs.pooled]
        torch.stack(classes + pairs).sum().backward()
    module._current = ALONE
    return torch.cat([p.grad.flatten() for p in network.parameters()]).cpu().numpy()


def through_ddp(group: Group) -> tuple[np.ndarray, np.ndarray]:
    """The gradient as several processes take it, and as one does."""
    found = gradient(Speaking() if group.size == 1 else group, lambda network: OnWholeBatch(network, trained=True))
    if group.size == 1:
        found /= 2  # of the two that it thinks there are, DistributedDataParallel takes no mean
    return found, gradient(ALONE, OnWholeBatch)


@pytest.mark.parametrize("size", [1, pytest.param(2, marks=pytest.mark.skipif(GPUS < 2, reason=f"{GPUS} GPU"))])
def test_gradients_are_those_of_the_whole_batch(size):
    found = together(size, through_ddp, through=BOTH)
    for of_process, expected in found:
        np.testing.assert_allclose(of_process, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
        assert np.array_equal(of_process, found[0][0])  # bit by bit
