"""Re-identification: rank the gallery for every query, by the protocol of Market-1501."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from rapids_slr.data.images import Images, RunImages
from rapids_slr.evaluation.retrieval import retrieval_scores


class Test(NamedTuple):
    query: Images
    gallery: Images


class ReID:
    """Query and gallery of the target; their identities and cameras are looked at here and nowhere else."""

    scores = ("mAP", "rank1", "rank5", "rank10")
    headline = "mAP"

    def __init__(self) -> None:
        self._test: Test | None = None

    def read(self, images: RunImages) -> None:
        self.test(images)

    def test(self, images: RunImages) -> Test:
        """The two splits, decoded once."""
        if self._test is None:
            self._test = Test(images.test("query"), images.test("gallery"))
        return self._test

    def test_images(self, images: RunImages) -> int:
        return sum(len(part.store) for part in self.test(images))

    def evaluate(self, embed: Callable[[Images], Tensor], images: RunImages) -> dict[str, float]:
        """mAP and CMC as fractions."""
        query, gallery = self.test(images)
        query_QD, gallery_GD = embed(query), embed(gallery)
        labels = (query.split.identities, query.split.cameras, gallery.split.identities, gallery.split.cameras)
        on_device = (torch.as_tensor(each).to(query_QD.device) for each in labels)
        found = retrieval_scores(query_QD, gallery_GD, *on_device)
        return {name: found[name] for name in self.scores}
