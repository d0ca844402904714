"""Augmented views of images that stay as they are, so that any network can be shown the same ones again."""

from __future__ import annotations

import torch
from torch import Tensor

from rapids_slr.data.augment import augment, random_draws, scale_and_shift
from rapids_slr.data.images import Images
from rapids_slr.data.store import ImageStore
from rapids_slr.settings.spec import AugmentSpec, ImageSpec


class ViewStore(ImageStore):
    """The images of a store, each augmented in a way of its own that stays the same.

    Args:
        draw: a generator on the CPU, so that views are the same on any device.
    """

    def __init__(self, store: ImageStore, augment: AugmentSpec, data: ImageSpec, draw: torch.Generator) -> None:
        super().__init__(store.pixels, store.device)
        self._augment, self._data = augment, data
        self._draws_ND = random_draws(len(store), draw).to(store.device)

    def batch(self, indices_B: Tensor) -> Tensor:
        """Images (B, C, H, W) float32 in 0..255 on the training device, for `normalise`; what is erased is the mean."""
        pixels_BCHW = super().batch(indices_B)
        draws_BD = self._draws_ND.index_select(0, indices_B.to(self.device))
        scale_C11, shift_C11 = scale_and_shift(tuple(self._data.mean), tuple(self._data.std), self.device)
        return (augment(pixels_BCHW, self._augment, self._data, draws_BD) - shift_C11) / scale_C11


def view_of(images: Images, augment: AugmentSpec, data: ImageSpec, draw: torch.Generator) -> Images:
    """The same images, as a `ViewStore` shows them."""
    return Images(images.split, ViewStore(images.store, augment, data, draw))


def some_of(images: Images, most: int, draw: torch.Generator) -> Images:
    """At most so many of the images, drawn at random and in their order; all of them where they are no more."""
    if len(images.store) <= most:
        return images
    row_N = torch.randperm(len(images.store), generator=draw)[:most].sort().values
    pixels = images.store.pixels[row_N.to(images.store.pixels.device)]
    return Images(images.split.take(row_N.numpy()), ImageStore(pixels, images.store.device))
