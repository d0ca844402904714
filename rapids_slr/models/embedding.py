"""From images to features: the embedding of a whole split."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from rapids_slr.data import ImageStore, normalise
from rapids_slr.data import augment as draw_view
from rapids_slr.models.two_branch import TwoBranch
from rapids_slr.spec import AugmentSpec, DataSpec, FeatureSpec


def embed(
    model: TwoBranch,
    store: ImageStore,
    data: DataSpec,
    features: FeatureSpec,
    augment: AugmentSpec | None = None,
    generator: torch.Generator | None = None,
    progress: Callable[[int], None] | None = None,
) -> Tensor:
    """Features of all images of a store, in its order, by the network in evaluation mode.

    With `features.views` above 1, the mean over the plain image and views - 1 augmented ones, scaled to unit length.

    Args:
        augment, generator: how views are drawn; needed for more than one view.
        progress: called after every batch with its number of images.
    Returns: (N, model.feature_dim) float32 on the store's device, rows of unit length.
    """
    if features.views > 1 and (augment is None or generator is None):
        raise ValueError(f"{features.views} views need augment and a generator")
    rows = torch.empty(len(store), model.feature_dim, device=store.device)  # made here: no inference tensor leaves
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            for start in range(0, len(store), features.batch):
                stop = min(start + features.batch, len(store))
                pixels = store.batch(torch.arange(start, stop, device=store.pixels.device))
                batch = model.embed(normalise(pixels, data))
                if augment is not None and generator is not None and features.views > 1:
                    for _ in range(features.views - 1):
                        batch += model.embed(draw_view(pixels, augment, data, generator))
                    batch = F.normalize(batch, dim=1)
                rows[start:stop] = batch
                if progress is not None:
                    progress(stop - start)
    finally:
        model.train(was_training)
    return rows
