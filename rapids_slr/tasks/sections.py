"""The tasks that come with the package, as sections of a spec."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from rapids_slr.record.columns import COLUMNS, Column, add_columns
from rapids_slr.tasks.base import Task, TaskSpec

if TYPE_CHECKING:
    import numpy as np


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
    asks = True
    tests = "query and gallery"
    on_screen = ("mAP", "rank1")
    report = "rapids_slr.reports.retrieval"

    def build(self) -> Task:
        from rapids_slr.tasks.reid import ReID

        return ReID()


class ClassificationSpec(TaskSpec):
    """Classes known by name, as folders have them: accuracies of classifiers on the features, and of clusters.

    Source and target with classes of the same names are a closed set: the classifier of the source's images is then
    asked about those of the target, which is what networks are compared by; else nearest neighbours are.
    """

    name: Literal["classification"] = "classification"
    """Classification: folders a class."""
    scores = (
        *add_columns(
            Column(
                "source_classifier",
                "source classifier",
                "%",
                "scores",
                "more",
                "test images of the target by a linear classifier of the source's training images",
            ),
            Column("knn", "kNN", "%", "scores", "more", "test images by their nearest training images"),
            Column(
                "linear", "linear", "%", "scores", "more", "test images by a linear classifier of the training images"
            ),
            Column(
                "matched",
                "cluster accuracy",
                "%",
                "scores",
                "more",
                "training images in the cluster that their class is matched to, outliers wrong",
            ),
        ),
        COLUMNS["ari"],
        COLUMNS["nmi"],
    )
    headline = "source_classifier"
    otherwise = "knn"
    tests = "two or more known classes"
    by_name = True
    largest = 0.5  # there may be two classes
    on_screen = ("source_classifier", "knn", "matched")
    report = "rapids_slr.reports.classes"

    def score_labels(self, labels_N: np.ndarray, identities_N: np.ndarray) -> dict[str, float]:
        from rapids_slr.evaluation import matched_accuracy

        return {"matched": matched_accuracy(labels_N, identities_N)}

    def build(self) -> Task:
        from rapids_slr.tasks.classification import Classification

        return Classification()
