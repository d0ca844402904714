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


def mean_projection(sources, now):
    """(N, K): the mean of each image's projected clusters, of the clusterings in which it has one that is projected."""
    K = now.max(initial=-1) + 1
    rows = []
    for image in range(len(now)):
        found = []
        for source in sources:
            if source[image] >= 0:
                row = projection(source, now, source.max() + 1, K)[source[image]]
                if row.sum() > 0:
                    found.append(row)
        rows.append(np.mean(found, axis=0) if found else np.zeros(K))
    return np.array(rows).reshape(len(now), K)


def soft_labels_of_several(sources, now, alpha, outliers="project"):
    """`soft_labels` with the mean projection of several clusterings in place of last epoch's."""
    Y = mean_projection(sources, now)
    S = alpha * one_hot(now, Y.shape[1]) + (1 - alpha) * Y
    alone = Y.sum(axis=1) == 0
    S[alone] = one_hot(now, Y.shape[1])[alone]
    S[now < 0] = Y[now < 0] if outliers == "project" else 0
    return S
