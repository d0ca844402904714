"""The training loops: learning rate, loss meter, and what a step may not do."""

from __future__ import annotations

import pytest
import torch

from rapids_slr.errors import RunError
from rapids_slr.spec import PretrainSpec
from rapids_slr.training.steps import LossMeter, pretrain_rate, stop_unless_finite


def test_the_rate_rises_then_falls_at_the_milestones():
    spec = PretrainSpec(lr=1.0, warmup_epochs=10, milestones=[40, 70], gamma=0.1)
    rates = [pretrain_rate(spec, epoch) for epoch in range(1, 81)]
    assert rates[0] == pytest.approx(0.01)
    assert rates[9] == pytest.approx(0.01 + 0.99 * 0.9)
    assert rates[10:40] == pytest.approx([1.0] * 30)
    assert rates[40:70] == pytest.approx([0.1] * 30)
    assert rates[70:] == pytest.approx([0.01] * 10)


def test_the_meter_gives_means_over_all_steps_and_reports_each_step_once():
    reported = []
    meter = LossMeter(lambda steps, images, **losses: reported.append((steps, images, losses)))
    for step in range(25):
        meter.add({"ce": torch.tensor(float(step))}, images=4)
    assert meter.flush() == {"ce": 12.0}
    assert [steps for steps, *_ in reported] == [10, 10, 5]
    assert [images for _, images, _ in reported] == [40, 40, 20]
    meter.flush()
    assert len(reported) == 3


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_is_named_with_its_batch(value):
    with pytest.raises(RunError, match=r"epoch 2: the loss is not finite \(ce .*\) on images \[5, 9\]"):
        stop_unless_finite(torch.tensor(value), {"ce": torch.tensor(value)}, torch.tensor([5, 9]), "epoch 2")
