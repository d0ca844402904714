"""The tasks that come with the package, as sections of a spec."""

from __future__ import annotations

from typing import Literal

from rapids_slr.record.columns import Column, add_columns
from rapids_slr.tasks.base import Task, TaskSpec


class ReIDSpec(TaskSpec):
    """Retrieval of the images of a query's identity, by the protocol of Market-1501."""

    name: Literal["reid"] = "reid"
    """Re-identification: query and gallery."""
    scores = add_columns(
        Column("mAP", "mAP", "%", "scores", "more"),
        Column("rank1", "rank-1", "%", "scores", "more"),
        Column("rank5", "rank-5", "%", "", "more"),
        Column("rank10", "rank-10", "%", "", "more"),
        Column("reranked_mAP", "mAP re-ranked", "%", "", "more"),  # these two with evaluation.rerank
        Column("reranked_rank1", "rank-1 re-ranked", "%", "", "more"),
    )
    headline = "mAP"
    tests = "query and gallery"
    on_screen = ("mAP", "rank1")
    report = "rapids_slr.reports.retrieval"

    def build(self) -> Task:
        from rapids_slr.tasks.reid import ReID

        return ReID()
