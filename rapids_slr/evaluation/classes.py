"""How well features tell classes: by an image's nearest neighbours, and by a linear classifier.

N images with a class, Q that are asked for one, D feature size, M classes, k neighbours, B rows of a block. Classes are
numbers from 0 without gaps; the one of an image that nobody knows is left out by whoever calls.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from rapids_slr.engine.arrays import on_torch_stream
from rapids_slr.engine.blocks import product
from rapids_slr.errors import InputError

NEIGHBOURS = 5
PENALTY = 1.0
"""Of the squared weights of the linear classifier."""
FOLDS = 5
BLOCK = 2**22  # numbers held at once, beside the features
Classifier = Callable[[Tensor, Tensor, Tensor], Tensor]
"""classes_Q = classifier(features_ND, class_N, asked_QD)"""


@torch.no_grad()
def nearest_classes(features_ND: Tensor, class_N: Tensor, asked_QD: Tensor, k: int = NEIGHBOURS) -> Tensor:
    """The class that most of an image's k nearest have, by the product of features; of equals, that of the nearest.

    Args:
        features_ND, asked_QD: (N, D) and (Q, D) float on one device, unit rows.
        class_N: (N,) integers.
        k: all N where there are no more.
    Returns: (Q,) int64 on the device of the features.
    Raises: InputError if shapes disagree, k is below 1, there is no image, or features are not finite.
    """
    _check(features_ND, class_N, asked_QD)
    if k < 1:
        raise InputError(f"k: expected 1 neighbour or more, got {k}")
    k, class_N = min(k, len(features_ND)), class_N.to(features_ND.device).long()
    size = max(1, BLOCK // len(features_ND))
    before_k = torch.arange(k, device=features_ND.device)
    found = []
    with on_torch_stream(features_ND):
        for part_BD in asked_QD.float().split(size):
            space_BN = features_ND.new_empty(len(part_BD), len(features_ND), dtype=torch.float32)
            product(part_BD, features_ND.float(), space_BN, "ieee")
            near_Bk = class_N[space_BN.topk(k, dim=1).indices]  # the nearest first
            votes_Bk = (near_Bk[:, :, None] == near_Bk[:, None, :]).sum(dim=2)
            best_B = (votes_Bk * k - before_k).argmax(dim=1)
            found.append(near_Bk.gather(1, best_B[:, None])[:, 0])
    return torch.cat(found) if found else class_N.new_empty(0)


@torch.no_grad()
def linear_classes(features_ND: Tensor, class_N: Tensor, asked_QD: Tensor, penalty: float = PENALTY) -> Tensor:
    """The class by a ridge classifier: least squares to +1 for the class of an image, -1 for others, and an intercept.

    In closed form and in float64, so that it depends on nothing but the features; scikit-learn's RidgeClassifier.

    Args:
        features_ND, asked_QD: (N, D) and (Q, D) float on one device.
        class_N: (N,) integers from 0.
        penalty: weight of the squared weights, above 0.
    Returns: (Q,) int64 on the device of the features.
    Raises: InputError if shapes disagree, there is no image, the penalty is not above 0, or features are not finite.
    """
    _check(features_ND, class_N, asked_QD)
    if not penalty > 0:
        raise InputError(f"penalty: expected a number above 0, got {penalty}")
    class_N = class_N.to(features_ND.device).long()
    N, D = features_ND.shape
    sizes_M = torch.bincount(class_N).double()
    mean_D = features_ND.mean(dim=0, dtype=torch.float64)
    gram_DD = penalty * torch.eye(D, dtype=torch.float64, device=features_ND.device)
    sums_DM = gram_DD.new_zeros(D, len(sizes_M))
    for rows in torch.arange(N, device=features_ND.device).split(max(1, BLOCK // max(D, len(sizes_M)))):
        part_BD = features_ND[rows].double() - mean_D
        gram_DD += part_BD.T @ part_BD
        sums_DM += part_BD.T @ F.one_hot(class_N[rows], len(sizes_M)).double()
    # Centred rows add up to nothing, so that their product with targets of -1 and +1 is that with 0 and 2.
    weight_DM = torch.linalg.solve(gram_DD, 2 * sums_DM)
    level_M = 2 * sizes_M / N - 1
    scores = [(part.double() - mean_D) @ weight_DM + level_M for part in asked_QD.split(max(1, BLOCK // D))]
    return torch.cat(scores).argmax(dim=1) if scores else class_N.new_empty(0)


def out_of_fold(classifier: Classifier, features_ND: Tensor, class_N: Tensor, folds: int = FOLDS) -> Tensor:
    """The class (N,) that a classifier gives every image, having learnt from the other folds alone.

    The images of a class are dealt out to the folds in turn, in their order; one that is alone cannot be told.
    """
    fold_N = _places_within(class_N.to(features_ND.device).long()) % folds
    found_N = torch.full_like(fold_N, -1)
    for fold in range(folds):
        asked_N = fold_N == fold
        if bool(asked_N.any()) and not bool(asked_N.all()):
            found_N[asked_N] = classifier(
                features_ND[~asked_N], class_N.to(fold_N.device)[~asked_N], features_ND[asked_N]
            )
    return found_N


def _places_within(class_N: Tensor) -> Tensor:
    """How many images before an image have its class."""
    order_N = class_N.argsort(stable=True)
    sizes_M = torch.bincount(class_N)
    first_M = sizes_M.cumsum(0) - sizes_M
    places_N = torch.empty_like(class_N)
    places_N[order_N] = torch.arange(len(class_N), device=class_N.device) - first_M[class_N[order_N]]
    return places_N


def _check(features_ND: Tensor, class_N: Tensor, asked_QD: Tensor) -> None:
    if features_ND.ndim != 2 or asked_QD.ndim != 2 or features_ND.shape[1] != asked_QD.shape[1]:
        shapes = f"{tuple(features_ND.shape)} and {tuple(asked_QD.shape)}"
        raise InputError(f"features: expected (N, D) and (Q, D), got {shapes}")
    if not len(features_ND) or tuple(class_N.shape) != (len(features_ND),) or bool((class_N < 0).any()):
        raise InputError(
            f"classes: expected a number from 0 for each of 1 or more images, got {tuple(class_N.shape)} for "
            f"{len(features_ND)}, the lowest {int(class_N.min()) if class_N.numel() else 'none'}"
        )
    for name, rows in (("features", features_ND), ("features to be told a class", asked_QD)):
        if not bool(torch.isfinite(rows).all()):
            raise InputError(
                f"{name}: {int((~torch.isfinite(rows).all(dim=1)).sum())} of {len(rows)} rows are not finite"
            )
