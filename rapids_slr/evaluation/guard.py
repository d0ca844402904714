"""How good features are, told without identities: whether images keep their neighbours, and how clear those are.

N images, D feature size, k neighbours, B rows of a block. Features are rows of unit length; no array is (N, N).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import torch
from torch import Tensor
from torch.nn import functional as F

from rapids_slr.engine.arrays import on_torch_stream
from rapids_slr.engine.blocks import product
from rapids_slr.errors import InputError

BLOCK = 2**22  # similarities held at once
ALIKE = 1e-6  # similarities that differ by no more are equal; rounding would decide between them


def neighbour_agreement(one_ND: Tensor, other_ND: Tensor, k: int) -> float:
    """How many of an image's k nearest others are the same by two sets of features, as a mean over the images.

    Args:
        one_ND, other_ND: (N, D) and (N, E) float, unit rows of the same images: two views of them, two networks.
        k: neighbours; all others where there are no more.
    Returns: 0..1, mean of |kNN(one) ∩ kNN(other)| / k; k / (N - 1) is chance, and 0 what fewer than two images have, or
        features that are all equal (see `neighbour_lists`).
    Raises: InputError if shapes disagree, k is below 1, or features are not finite.
    """
    _check(one_ND, k)
    if len(one_ND) != len(other_ND):
        raise InputError(f"features of the same images: expected as many rows, got {len(one_ND)} and {len(other_ND)}")
    return shared_neighbours(neighbour_lists(one_ND, k), neighbour_lists(other_ND, k))


@torch.no_grad()
def neighbour_lists(features_ND: Tensor, k: int) -> Tensor:
    """The k others that are most similar to each image, by the product of their features.

    An image that is as near as one for which there is no place left is in no list. So lists do not depend on the order
    of the images, and features that are all equal, those of a collapsed network, have no neighbours.

    Args:
        features_ND: (N, D) float, unit rows.
    Returns: (N, min(k, N - 1)) int64 on the device of the features, -1 in places that are left empty.
    Raises: InputError if k is below 1, or features are no finite (N, D).
    """
    _check(features_ND, k)
    N = len(features_ND)
    k = min(k, max(N - 1, 0))
    index_NK = torch.empty(N, k, dtype=torch.int64, device=features_ND.device)
    with on_torch_stream(features_ND):
        for row, block_BN in _similarities(features_ND):
            similarity_BK, index_BK = block_BN.topk(k + 1, dim=1)
            in_doubt_BK = ~(similarity_BK[:, :-1] > similarity_BK[:, -1:] + ALIKE)
            index_NK[row : row + len(block_BN)] = index_BK[:, :-1].masked_fill(in_doubt_BK, -1)
    return index_NK


def shared_neighbours(one_NK: Tensor, other_NK: Tensor) -> float:
    """The share of an image's neighbours that two lists of `neighbour_lists` have in common, as a mean; 0..1, and 0
    where there are no places."""
    if one_NK.shape != other_NK.shape:
        raise InputError(
            f"lists: expected the same images and k, got {tuple(one_NK.shape)} and {tuple(other_NK.shape)}"
        )
    if not one_NK.numel():
        return 0.0
    rows = max(1, BLOCK // one_NK.shape[1] ** 2)
    shared = [
        ((one_BK[:, :, None] == other_BK[:, None]) & (one_BK >= 0)[:, :, None]).sum()
        for one_BK, other_BK in zip(one_NK.split(rows), other_NK.split(rows), strict=True)
    ]
    return int(torch.stack(shared).sum()) / one_NK.numel()


def head_agreement(features_ND: Tensor, heads: int, k: int) -> float:
    """Agreement of neighbours between the heads of a network, as a mean over the pairs of heads.

    Args:
        features_ND: (N, heads x D) float, the features of all heads side by side; those of a head need no unit length.
    Returns: 0..1 as `neighbour_agreement`; 1 for a single head, which has nobody to disagree with.
    Raises: InputError if the features do not part into as many heads, or as `neighbour_lists` does.
    """
    if heads < 1 or features_ND.shape[1] % heads:
        raise InputError(f"features: {features_ND.shape[1]} columns do not part into {heads} heads")
    if heads == 1:
        return 1.0
    lists = [neighbour_lists(F.normalize(part_ND, dim=1), k) for part_ND in features_ND.chunk(heads, dim=1)]
    found = [shared_neighbours(one_NK, other_NK) for one_NK, other_NK in combinations(lists, 2)]
    return sum(found) / len(found)


@torch.no_grad()
def soft_neighbourhood_density(features_ND: Tensor, temperature: float = 0.05) -> float:
    """How many near neighbours an image has: the mean entropy of the softmax of its similarities to all others.

    More is better, as long as the network keeps images apart: equal features have the most.

    Args:
        features_ND: (N, D) float, unit rows. The source takes the softmax of a classifier; here there is none.
        temperature: what similarities are divided by.
    Returns: 0..log(N - 1), nats; 0 for fewer than three images.
    Raises: InputError if features are no finite (N, D), or the temperature is not above 0.
    Source: Saito et al., Tune it the Right Way: Unsupervised Validation of Domain Adaptation via Soft Neighborhood
        Density, ICCV 2021.
    """
    _check(features_ND)
    if not temperature > 0:
        raise InputError(f"temperature: expected a number above 0, got {temperature}")
    if len(features_ND) < 3:
        return 0.0
    total = torch.zeros((), dtype=torch.float64, device=features_ND.device)
    with on_torch_stream(features_ND):
        for row, block_BN in _similarities(features_ND):
            block_BN /= temperature
            weight_BN, norm_B = block_BN.softmax(dim=1), block_BN.logsumexp(dim=1)
            block_BN.diagonal(row).fill_(0)  # its weight is 0
            total += (norm_B - (weight_BN * block_BN).sum(dim=1)).sum()
    return max(0.0, float(total) / len(features_ND))


def _similarities(features_ND: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Blocks of rows of the similarities of all images, (B, N) float32 with -inf to an image itself, and the number of
    their first row; a block is overwritten by the next one."""
    features_ND = features_ND.float()
    rows = max(1, min(len(features_ND), BLOCK // max(1, len(features_ND))))
    space_BN = features_ND.new_empty(rows, len(features_ND))
    for row in range(0, len(features_ND), rows):
        part_BD = features_ND[row : row + rows]
        block_BN = space_BN[: len(part_BD)]
        product(part_BD, features_ND, block_BN, "ieee")
        block_BN.diagonal(row).fill_(-torch.inf)
        yield row, block_BN


def _check(features_ND: Tensor, k: int = 1) -> None:
    if features_ND.ndim != 2 or not features_ND.is_floating_point():
        raise InputError(f"features: expected (N, D) float, got {tuple(features_ND.shape)} {features_ND.dtype}")
    if k < 1:
        raise InputError(f"k: expected 1 neighbour or more, got {k}")
    if not bool(torch.isfinite(features_ND).all()):
        bad_N = ~torch.isfinite(features_ND).all(dim=1)
        raise InputError(f"features: {int(bad_N.sum())} of {len(bad_N)} rows are not finite")
