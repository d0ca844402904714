"""The rivals of SLR with plain loops over images, classes and pairs, word by word from their formulas."""

import math

import numpy as np

# Confident learning ---------------------------------------------------------------------------------------------------


def votes(features, labels, k):
    """(n, K) votes of the k nearest other images, each counting as much as it is similar, and one that is spread."""
    n, K = len(labels), max(labels) + 1
    odds = np.full((n, K), 1 / K)
    for i in range(n):
        similar = sorted(((features[i] @ features[j], j) for j in range(n) if j != i), reverse=True)
        for similarity, j in similar[: min(k, n - 1)]:
            odds[i, labels[j]] += max(0, similarity)
    return odds / odds.sum(axis=1, keepdims=True)


def mislabelled(labels, odds, rounded):
    """Confident joint, calibrated to the class sizes; then prune by noise rate: of every pair of a given class and a
    likely other one the images with the widest margin, as many as the joint says, rounded."""
    labels, (n, K) = np.asarray(labels), odds.shape
    threshold = [np.mean([odds[i, j] for i in range(n) if labels[i] == j]) for j in range(K)]
    joint = np.zeros((K, K))
    for i in range(n):
        sure = [j for j in range(K) if odds[i, j] >= threshold[j] - 1e-6]
        if sure:
            joint[labels[i], max(sure, key=lambda j: odds[i, j])] += 1
    wrong = np.zeros(n, bool)
    for given in range(K):
        members = [i for i in range(n) if labels[i] == given]
        joint[given] = joint[given] / joint[given].sum() * len(members)
        for other in range(K):
            count = rounded(joint[given, other]) if other != given else 0
            wrong[sorted(members, key=lambda i: odds[i, given] - odds[i, other])[:count]] = True
    return wrong & (odds.argmax(axis=1) != labels)


# Prototypes -----------------------------------------------------------------------------------------------------------


def prototype_distances(features, labels):
    distances = []
    for i, label in enumerate(labels):
        mean = np.mean([features[j] for j in range(len(labels)) if labels[j] == label], axis=0)
        distances.append(1 - features[i] @ mean / math.sqrt(mean @ mean))
    return np.array(distances)


def density(x, mean, variance):
    return math.exp(-((x - mean) ** 2) / (2 * variance)) / math.sqrt(2 * math.pi * variance)


def clean_posterior(distances, rounds=3000):
    """EM of two Gaussians on distances scaled to [0, 1], from 0 and 1; of the one with the smaller mean."""
    low, high = min(distances), max(distances)
    x = [(d - low) / (high - low) for d in distances]
    spread = np.var(x) + 5e-4
    weight, mean, variance = [0.5, 0.5], [0.0, 1.0], [spread, spread]

    def posteriors():
        found = []
        for value in x:
            part = [weight[c] * density(value, mean[c], variance[c]) for c in (0, 1)]
            found.append([part[0] / sum(part), part[1] / sum(part)])
        return np.array(found)

    for _ in range(rounds):
        share = posteriors()
        for c in (0, 1):
            total = share[:, c].sum()
            weight[c], mean[c] = total / len(x), (share[:, c] @ x) / total
            variance[c] = sum(share[i, c] * (x[i] - mean[c]) ** 2 for i in range(len(x))) / total + 5e-4
    return posteriors()[:, int(np.argmin(mean))]


# Label propagation ----------------------------------------------------------------------------------------------------


def spread(distances, labels, alpha):
    """(N, K): (1 - alpha)(I - alpha S)^-1 Y, rows divided by their sums; distances (N, N), from 1 on they join none."""
    N, K = len(labels), max([-1, *labels]) + 1
    W = np.array([[max(0.0, 1 - distances[i, j]) if i != j else 0.0 for j in range(N)] for i in range(N)])
    degree = W.sum(axis=1)
    S = np.zeros((N, N))
    for i in range(N):
        for j in range(N):
            if W[i, j] > 0:
                S[i, j] = W[i, j] / math.sqrt(degree[i] * degree[j])
    Y = np.array([[float(label == k) for k in range(K)] for label in labels]).reshape(N, K)
    F = (1 - alpha) * np.linalg.inv(np.eye(N) - alpha * S) @ Y
    F[F < 1e-12] = 0
    total = F.sum(axis=1, keepdims=True)
    return np.divide(F, total, out=np.zeros_like(F), where=total > 0)


# Evidence accumulation ------------------------------------------------------------------------------------------------


def co_association(epochs):
    """(N, K): mean over the images of each cluster of the last epoch of the share of epochs that had both together."""
    N = len(epochs[0])
    together = np.zeros((N, N))
    for labels in epochs:
        for i in range(N):
            for j in range(N):
                together[i, j] += labels[i] >= 0 and labels[i] == labels[j]
    together /= len(epochs)
    K = max([-1, *epochs[-1]]) + 1
    means = np.zeros((N, K))
    for k in range(K):
        members = [j for j in range(N) if epochs[-1][j] == k]
        if members:
            means[:, k] = together[:, members].mean(axis=1)
    return means


# Early-learning regularisation ----------------------------------------------------------------------------------------


def early_learning(logits, rows, mean, momentum, sure):
    """The loss of a batch; `mean` (N, M) moves first, by the mean of an image's predictions."""
    chance = []
    for row in logits:
        value = np.exp(row - max(row))
        chance.append(np.clip(value / value.sum(), sure, 1 - sure))
    for image in set(rows):
        said = np.mean([p / p.sum() for p, i in zip(chance, rows, strict=True) if i == image], axis=0)
        mean[image] = momentum * mean[image] + (1 - momentum) * said
    return np.mean([math.log(1 - p @ mean[i]) for p, i in zip(chance, rows, strict=True)])
