"""Re-identification: rank the gallery for every query, by the protocol of Market-1501."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from rapids_slr.data.images import Images, RunImages
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
        if images.target_domain.is_tested:
            self.test(images)

    def test(self, images: RunImages) -> Test:
        """The two splits, decoded once."""
        if self._test is None:
            self._test = Test(images.test("query"), images.test("gallery"))
        return self._test

    def test_images(self, images: RunImages) -> int:
        return sum(len(part.store) for part in self.test(images)) if images.target_domain.is_tested else 0

    def evaluate(self, embed: Callable[[Images], Tensor], images: RunImages) -> dict[str, float]:
        """mAP and CMC as fractions; none of a target without query and gallery."""
        if not images.target_domain.is_tested:
            return {}
        query, gallery = self.test(images)
        query_QD, gallery_GD = embed(query), embed(gallery)
        identities_Q, cameras_Q, identities_G, cameras_G = (
            torch.as_tensor(labels).to(query_QD.device)
            for part in (query, gallery)
            for labels in (part.split.identities, part.split.cameras)
        )
        found = retrieval_scores(query_QD, gallery_GD, identities_Q, cameras_Q, identities_G, cameras_G)
        return {column.key: found[column.key] for column in ReIDSpec.scores}
