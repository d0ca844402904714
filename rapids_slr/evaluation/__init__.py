"""How good features and labels are, where identities are known."""

from rapids_slr.evaluation.classes import linear_classes, nearest_classes, out_of_fold
from rapids_slr.evaluation.label_quality import agreement, label_quality, matched_accuracy, pair_errors, rightly_placed
from rapids_slr.evaluation.reranking import Reranking, rerank
from rapids_slr.evaluation.retrieval import QueryResults, nearest_answers, query_results, retrieval_scores

__all__ = [
    "QueryResults",
    "Reranking",
    "agreement",
    "label_quality",
    "linear_classes",
    "matched_accuracy",
    "nearest_answers",
    "nearest_classes",
    "out_of_fold",
    "pair_errors",
    "query_results",
    "rerank",
    "retrieval_scores",
    "rightly_placed",
]
