"""Re-identification: rank the gallery for every query, by the protocol of Market-1501."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from rapids_slr.data.images import Images, RunImages
from rapids_slr.evaluation.reranking import Reranking, check_enough
from rapids_slr.evaluation.retrieval import retrieval_scores
from rapids_slr.tasks.sections import ReIDSpec


class Test(NamedTuple):
    query: Images
    gallery: Images


class ReID:
    """Query and gallery of the target; their identities and cameras are looked at here and nowhere else."""

    def __init__(self) -> None:
        self._test: Test | None = None

    def read(self, images: RunImages) -> None:
        query, gallery = self.test(images)
        if images.evaluation.rerank:
            check_enough(len(query.store), len(gallery.store))

    def test(self, images: RunImages) -> Test:
        """The two splits, decoded once."""
        if self._test is None:
            self._test = Test(images.test("query"), images.test("gallery"))
        return self._test

    def test_images(self, images: RunImages) -> int:
        return sum(len(part.store) for part in self.test(images))

    def evaluate(self, embed: Callable[[Images], Tensor], images: RunImages) -> dict[str, float]:
        """mAP and CMC as fractions, and mAP and rank-1 after re-ranking where the run asks for them."""
        query, gallery = self.test(images)
        query_QD, gallery_GD = embed(query), embed(gallery)
        identities_Q, cameras_Q, identities_G, cameras_G = (
            torch.as_tensor(labels).to(query_QD.device)
            for part in (query, gallery)
            for labels in (part.split.identities, part.split.cameras)
        )
        labels = identities_Q, cameras_Q, identities_G, cameras_G
        found = retrieval_scores(query_QD, gallery_GD, *labels)
        if images.evaluation.rerank:
            again = retrieval_scores(query_QD, gallery_GD, *labels, reranking=Reranking(query_QD, gallery_GD))
            found |= {f"reranked_{key}": score for key, score in again.items()}
        return {column.key: found[column.key] for column in ReIDSpec.scores if column.key in found}
