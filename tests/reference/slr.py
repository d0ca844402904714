"""SLR on dense one-hot matrices, with plain loops over clusters, word by word from the method."""

import numpy as np


def one_hot(labels, K):
    return (np.asarray(labels)[:, None] == np.arange(K)).astype(np.float64)


def projection(before, now, P, K):
    """IoU of all clusters, rows divided by their sums."""
    iou = np.zeros((P, K))
    for a in range(P):
        for b in range(K):
            both = np.sum((before == a) & (now == b))
            either = np.sum((before == a) | (now == b))
            iou[a, b] = both / either if either else 0.0
    total = iou.sum(axis=1, keepdims=True)
    return np.divide(iou, total, out=np.zeros_like(iou), where=total > 0)


def soft_labels(before, now, alpha, outliers="project"):
    """(N, K), an empty row for an image that is left out."""
    before, now = np.asarray(before), np.asarray(now)
    P, K = before.max(initial=-1) + 1, now.max(initial=-1) + 1
    Y = one_hot(before, P) @ projection(before, now, P, K)
    S = alpha * one_hot(now, K) + (1 - alpha) * Y
    S[before < 0] = one_hot(now, K)[before < 0]
    S[now < 0] = Y[now < 0] if outliers == "project" else 0
    return S
