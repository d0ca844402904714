"""Which images a training step sees: P identities, K images of each; or such and single images, mixed."""

from __future__ import annotations

import torch
from torch import Tensor

from rapids_slr.errors import InputError


def identity_batches(
    labels_N: Tensor, identities: int, images: int, iterations: int, generator: torch.Generator
) -> Tensor:
    """Batches of P identities times K images, for a whole epoch at once.

    Identities come in rounds: each of them once, in random order, before any comes a second time. A batch holds P
    different ones; with fewer than P, each of them once, then the rest of the batch from such rounds. The K images
    of an identity are different ones; with fewer than K images, all of them and then repeats. An identity that comes
    again takes images it has not shown yet, until fewer than K of those are left.

    Args:
        labels_N: (N,) integers on any device; below 0 is left out. Gaps in the numbering are allowed.
        identities: P.
        images: K.
        iterations: batches T.
        generator: source of all that is random. On the device of the labels only a few counts cross to the host; one
            on the CPU gives the same batches whatever that device is.
    Returns: (T, P * K) int64 on the labels' device: rows of labels_N, the K of an identity side by side.
    Raises: InputError if no label is 0 or more.
    """
    device, K = labels_N.device, images
    labelled = (labels_N >= 0).nonzero()[:, 0]
    if not len(labelled):
        raise InputError(f"labels: none of {len(labels_N)} images has an identity (all are below 0); nothing to sample")
    _, member, size_M = torch.unique(labels_N[labelled], return_inverse=True, return_counts=True)
    image_of = labelled[member.argsort(stable=True)]  # images, identity by identity
    first_M = size_M.cumsum(0) - size_M
    shown_S = _identity_order(len(size_M), identities, iterations, generator, device).flatten()

    # A cycle of an identity is a random order of its images, cut into groups of K; a visit shows the next group.
    groups_M = (size_M // K).clamp(min=1)
    visits_M = torch.bincount(shown_S, minlength=len(size_M))
    cycles_M = (visits_M + groups_M - 1) // groups_M
    length_M = cycles_M * size_M
    start_M = length_M.cumsum(0) - length_M
    owner = torch.repeat_interleave(length_M)  # identity of every place in the cycles
    place = torch.arange(len(owner), device=device) - start_M[owner]
    cycle = place // size_M[owner]
    cycle_number = (cycles_M.cumsum(0) - cycles_M)[owner] + cycle
    draws = torch.rand(len(owner), generator=generator, device=generator.device, dtype=torch.float64)
    order = (cycle_number + draws.to(device)).argsort()  # shuffles within each cycle
    drawn = image_of[(first_M[owner] + place % size_M[owner])[order]]

    visit_S = _occurrence(shown_S, visits_M)
    group_S = visit_S % groups_M[shown_S]
    begin_S = start_M[shown_S] + visit_S // groups_M[shown_S] * size_M[shown_S]
    step_SK = (group_S[:, None] * K + torch.arange(K, device=device)) % size_M[shown_S][:, None]
    return drawn[begin_S[:, None] + step_SK].view(iterations, identities * K)


def mixed_batches(labels_N: Tensor, images: int, size: int, iterations: int, generator: torch.Generator) -> Tensor:
    """Batches in which an identity shows K images and an image without one itself, for a whole epoch at once.

    Identities and single images come in rounds: each once, in random order, before any comes a second time. The rounds
    are cut into batches wherever one is full.

    Args:
        labels_N: (N,) integers on any device; every image below 0 is by itself. At least one is not.
        images: K.
        size: images of a batch.
        iterations: batches T.
        generator: as of `identity_batches`.
    Returns: (T, size) int64 on the labels' device: rows of labels_N.
    Source: the sampler of MMT and SpCL, where an identity of one image shows it once.
    """
    device, alone = labels_N.device, (labels_N < 0).nonzero()[:, 0]
    A, M = len(alone), len(torch.unique(labels_N[labels_N >= 0]))
    rounds = -(-iterations * size // (M * images + A))
    shown_RS = identity_batches(labels_N, 1, images, rounds * M, generator).view(rounds, M * images)
    keys_RU = torch.rand(rounds, M + A, generator=generator, device=generator.device, dtype=torch.float64).to(device)
    # The images of an identity have one key, so that they stay side by side.
    keys_RS = torch.cat([keys_RU[:, :M].repeat_interleave(images, dim=1), keys_RU[:, M:]], dim=1)
    every_RS = torch.cat([shown_RS, alone.expand(rounds, A)], dim=1)
    mixed_RS = every_RS.gather(1, keys_RS.argsort(dim=1, stable=True))
    return mixed_RS.flatten()[: iterations * size].view(iterations, size)


def _identity_order(M: int, P: int, T: int, generator: torch.Generator, device: torch.device) -> Tensor:
    """Identities (T, P) int64 of T batches, drawn in rounds of all M."""
    whole, rest = divmod(P, M)
    every_batch = torch.arange(M, device=device).repeat(T, whole)
    if rest == 0:
        return every_batch
    rounds = -(-T * rest // M)
    keys = torch.rand(rounds, M, generator=generator, device=generator.device, dtype=torch.float64)
    order = keys.to(device).argsort(dim=1)
    for number in range(1, rounds):
        begun = number * M % rest  # places of the open batch that the last round has filled
        if begun:  # its next places go to the first of this round who are not in it yet
            free_M = torch.ones(M, dtype=torch.bool, device=device)
            free_M.index_fill_(0, order[number - 1, M - begun :], False)
            free = free_M[order[number]]
            chosen = free & (free.cumsum(0) <= rest - begun)
            order[number] = order[number][(~chosen).byte().argsort(stable=True)]
    return torch.cat([every_batch, order.flatten()[: T * rest].view(T, rest)], dim=1)


def _occurrence(values_S: Tensor, counts_M: Tensor) -> Tensor:
    """How often each value has come before, (S,) int64."""
    order = values_S.argsort(stable=True)
    begins_M = counts_M.cumsum(0) - counts_M
    occurrence_S = torch.empty_like(values_S)
    occurrence_S[order] = torch.arange(len(values_S), device=values_S.device) - begins_M[values_S[order]]
    return occurrence_S
