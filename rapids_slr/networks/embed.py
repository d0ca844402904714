"""From images to features: the embedding of a whole split."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from rapids_slr.data.augment import augment as draw_view
from rapids_slr.data.augment import normalise, random_draws
from rapids_slr.data.store import ImageStore
from rapids_slr.engine.memory import memory_advice, out_of_memory
from rapids_slr.engine.rows import room_for
from rapids_slr.networks.network import Network
from rapids_slr.settings.spec import AugmentSpec, FeatureSpec, ImageSpec

log = logging.getLogger(__name__)


def embed(
    model: Network,
    store: ImageStore,
    data: ImageSpec,
    features: FeatureSpec,
    augment: AugmentSpec | None = None,
    generator: torch.Generator | None = None,
    progress: Callable[[int], None] | None = None,
    wanted: range | None = None,
) -> Tensor:
    """Features of all images of a store, in its order, by the network in evaluation mode.

    With `features.views` above 1, the mean over the plain image and views - 1 augmented ones, scaled to unit length.
    Where memory runs out, batches are halved and the embedding goes on; the views stay the same.

    Args:
        augment, generator: how views are drawn; needed for more than one view.
        progress: called after every batch with its number of images.
        wanted: of these images alone, by whole batches as without: bits of a row may depend on the rest of its batch.
    Returns: (N, model.feature_dim) float32, unit rows, on the store's device; on the CPU in a file if memory is short.
    Raises: RunError if memory runs out with a batch of one image.
    """
    if features.views > 1 and (augment is None or generator is None):
        raise ValueError(f"{features.views} views need augment and a generator")
    wanted = range(len(store)) if wanted is None else wanted
    rows = room_for(len(wanted), model.feature_dim, store.device)  # made here: no inference tensor leaves
    draws: list[Tensor] = []
    if generator is not None and features.views > 1:
        draws = _draws_of_batches(len(store), features, generator, store.device)

    def embed_rows(start: int, stop: int) -> None:
        pixels = store.batch(torch.arange(start, stop, device=store.pixels.device))
        batch = model.embed(normalise(pixels, data))
        if augment is not None and draws:
            number, first = divmod(start, features.batch)
            for view_BD in draws[number]:
                batch += model.embed(draw_view(pixels, augment, data, view_BD[first : first + stop - start]))
            batch = F.normalize(batch, dim=1)
        first, last = max(start, wanted.start), min(stop, wanted.stop)
        if first < last:
            rows[first - wanted.start : last - wanted.start] = batch[first - start : last - start]

    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            start, size = wanted.start // features.batch * features.batch, features.batch
            while len(wanted) and start < wanted.stop:
                border = (start // features.batch + 1) * features.batch  # halves stay within the batch they were
                stop = min(start + size, border, len(store))
                if _fits(embed_rows, start, stop):
                    if progress is not None:
                        progress(stop - start)
                    start = stop
                else:
                    size = (stop - start + 1) // 2
                    log.warning("embedding: memory has run out; going on with batches of %d images", size)
    finally:
        model.train(was_training)
    return rows


def _draws_of_batches(N: int, features: FeatureSpec, generator: torch.Generator, device: torch.device) -> list[Tensor]:
    """Random numbers of the views of every batch, (views - 1, B, DRAWS) each, drawn and moved at once.

    Before any batch is embedded: halving must not change which numbers an image gets.
    """
    views = features.views - 1
    sizes = [min(features.batch, N - start) for start in range(0, N, features.batch)]
    draws = random_draws(views * N, generator).to(device)
    return [part.unflatten(0, (views, -1)) for part in draws.split([views * size for size in sizes])]


def _fits(work: Callable[[int, int], None], start: int, stop: int) -> bool:
    """Do the work of these rows; False if memory ran out for more than one of them."""
    if stop - start == 1:
        with memory_advice("embedding", "one image at a time is too much; lower data.height and data.width"):
            work(start, stop)
        return True
    try:
        work(start, stop)
    except (RuntimeError, MemoryError) as fault:
        if not out_of_memory(fault):
            raise
        return False
    return True
