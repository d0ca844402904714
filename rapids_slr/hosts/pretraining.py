"""Training on the labelled source: what every host begins from."""

from __future__ import annotations

import torch
from torch import Tensor

from rapids_slr.data.store import ImageStore
from rapids_slr.hosts.loop import Batch, Batches, GuardedAdam, Report, meter_of, step_memory, train_steps
from rapids_slr.hosts.losses import Terms, cross_entropy, mean_over_heads, soft_margin_triplet
from rapids_slr.networks.base import Outputs
from rapids_slr.networks.batchnorm import statistics_of
from rapids_slr.networks.network import Network
from rapids_slr.networks.whole import OnWholeBatch
from rapids_slr.seeds import generator
from rapids_slr.settings.spec import PretrainSpec, RunSpec


def pretrain_loss(outputs: Outputs, labels_B: Tensor, smoothing: float) -> tuple[Tensor, Terms]:
    """Loss on labelled images: L = L_ce + L_tri, each the mean over the heads.

    Args:
        labels_B: (B,) int64 classes.
        smoothing: label smoothing of the cross entropy.
    Returns: the total, and its terms `ce` and `triplet`.
    """
    terms = {
        "ce": mean_over_heads(lambda logits: cross_entropy(logits, labels_B, smoothing), outputs.logits),
        "triplet": mean_over_heads(lambda pooled: soft_margin_triplet(pooled, labels_B), outputs.pooled),
    }
    return terms["ce"] + terms["triplet"], terms


def pretrain_optimizer(network: Network, spec: PretrainSpec) -> GuardedAdam:
    return GuardedAdam(network.parameters(), lr=spec.lr, weight_decay=spec.weight_decay)


def pretrain_rate(spec: PretrainSpec, epoch: int) -> float:
    """Learning rate of an epoch (from 1): a linear rise from a hundredth, then a fall at every milestone."""
    rise = 0.01 + 0.99 * (epoch - 1) / spec.warmup_epochs if epoch <= spec.warmup_epochs else 1.0
    return spec.lr * rise * spec.gamma ** sum(epoch > milestone for milestone in spec.milestones)


def pretrain_epoch(
    network: Network,
    optimizer: GuardedAdam,
    source: ImageStore,
    labels_N: Tensor,
    target: ImageStore,
    spec: RunSpec,
    epoch: int,
    report: Report,
) -> dict[str, float]:
    """Train one epoch on the labelled source; target images pass without a loss so that BatchNorm sees them.

    Args:
        network: one of networks/, with classifiers.
        labels_N: (N,) int64 source identities, numbered without gaps, -1 left out.
        epoch: from 1; it decides the learning rate and all that is random.
    Returns: means of the loss terms.
    Raises: RunError if memory runs out, or if the loss is not finite: parameters and optimizer are then as before that
        step, and BatchNorm has seen its batch (on a GPU up to LOG_INTERVAL - 1 later ones too).
    """
    settings, device, where = spec.pretrain, source.device, f"pre-training epoch {epoch}"
    assert settings is not None
    # Set anew every epoch, by the epoch alone: no scheduler has to be resumed.
    for group in optimizer.param_groups:
        group["lr"] = pretrain_rate(settings, epoch)
    batches = Batches(source, labels_N, spec, settings, epoch, purpose="pretrain ", views=network.views)
    draw = generator(spec.seed, "pretrain target", epoch, device=device)
    # Of all steps at once, as the source's are: no step waits for its own.
    passers_TB = torch.randint(len(target), batches.rows_TB.shape, generator=draw, device=device)
    passers = iter(target.indices(passers_TB))

    learner = OnWholeBatch(network, trained=True)

    def loss_of(batch: Batch) -> tuple[Tensor, Terms]:
        return pretrain_loss(learner(batch.images), labels_N[batch.rows_B], settings.label_smoothing)

    @torch.no_grad()
    def pass_target(_: Batch) -> None:
        # Without a gradient, but in training mode, for BatchNorm. It draws from the source's generator: with
        # target_forward off the source is augmented by other numbers.
        network(batches.augmented(target, next(passers)))

    network.train()
    with step_memory("pretrain", where), statistics_of(None, network):
        return train_steps(
            batches,
            loss_of,
            optimizer,
            meter_of(report, where, device),
            after=pass_target if settings.target_forward else None,
        )
