"""Re-identification: rank the gallery for every query, by the protocol of Market-1501."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from rapids_slr.data.images import Images, Role, RunImages
from rapids_slr.evaluation.reranking import Reranking, check_enough
from rapids_slr.evaluation.retrieval import retrieval_scores
from rapids_slr.tasks.sections import ReIDSpec


class Test(NamedTuple):
    query: Images
    gallery: Images


class ReID:
    """Query and gallery of a domain; their identities and cameras are looked at here and nowhere else."""

    def __init__(self) -> None:
        self._tests: dict[Role, Test] = {}

    def read(self, images: RunImages, role: Role = "target") -> None:
        if not images.domain(role).is_tested:
            return
        query, gallery = self.test(images, role)
        if role == "target" and images.evaluation.rerank:
            check_enough(len(query.store), len(gallery.store))

    def test(self, images: RunImages, role: Role = "target") -> Test:
        """The two splits, decoded once."""
        if role not in self._tests:
            self._tests[role] = Test(images.test("query", role), images.test("gallery", role))
        return self._tests[role]

    def test_images(self, images: RunImages, role: Role = "target") -> int:
        return sum(len(part.store) for part in self.test(images, role)) if images.domain(role).is_tested else 0

    def evaluate(self, embed: Callable[[Images], Tensor], images: RunImages, role: Role = "target") -> dict[str, float]:
        """mAP and CMC as fractions, and mAP and rank-1 after re-ranking where the run asks for them of its target; none
        of a domain without query and gallery."""
        if not images.domain(role).is_tested:
            return {}
        query, gallery = self.test(images, role)
        query_QD, gallery_GD = embed(query), embed(gallery)
        identities_Q, cameras_Q, identities_G, cameras_G = (
            torch.as_tensor(labels).to(query_QD.device)
            for part in (query, gallery)
            for labels in (part.split.identities, part.split.cameras)
        )
        labels = identities_Q, cameras_Q, identities_G, cameras_G
        found = retrieval_scores(query_QD, gallery_GD, *labels)
        if role == "target" and images.evaluation.rerank:
            again = retrieval_scores(query_QD, gallery_GD, *labels, reranking=Reranking(query_QD, gallery_GD))
            found |= {f"reranked_{key}": score for key, score in again.items()}
        return {column.key: found[column.key] for column in ReIDSpec.scores if column.key in found}
