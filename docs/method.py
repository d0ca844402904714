"""Draw docs/method.svg: one epoch of SLR on a small example, computed by the package itself.

python docs/method.py
"""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
import numpy as np

from rapids_slr import SLR

IDENTITIES, IMAGES = 6, 26
OUTLIER = "#b5b5b5"
COLOURS = plt.get_cmap("tab10")([0, 1, 2, 3, 4, 6, 8, 9])


def example(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points (N, 2), and two clusterings that err differently, in splits, strays and lost images."""
    angles = np.arange(IDENTITIES) / IDENTITIES * 2 * np.pi
    centres = np.stack([np.cos(angles), np.sin(angles)], axis=1) * 2.2
    truth = np.repeat(np.arange(IDENTITIES), IMAGES)
    points = centres[truth] + rng.normal(0, 0.42, (len(truth), 2))
    before, now = truth.copy(), truth.copy()
    right_half = points[:, 0] > np.median(points[truth == 1, 0])
    before[(truth == 1) & ~right_half] = IDENTITIES  # one identity in two clusters
    wandering = rng.random(len(truth)) < 0.04
    before[wandering] = (truth[wandering] + 1) % IDENTITIES
    now[(truth == 4) & (points[:, 0] < np.quantile(points[truth == 4, 0], 0.3))] = 3  # a part with its neighbour
    for labels, share in ((before, 0.06), (now, 0.25)):
        labels[rng.random(len(truth)) < share] = -1
    return points, before, now


def scatter(axes, points, labels, title) -> None:
    colours = [COLOURS[label] if label >= 0 else OUTLIER for label in labels]
    axes.scatter(*points.T, c=colours, s=14, linewidths=0)
    axes.set(title=title, xticks=[], yticks=[], aspect="equal")
    clusters, outliers = len(set(labels[labels >= 0])), int((labels < 0).sum())
    axes.set_xlabel(f"{clusters} clusters, {outliers} outliers")


def heat(axes, matrix, title, rows, columns) -> None:
    axes.imshow(matrix, cmap="Blues", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    axes.set(title=title, xlabel=columns, ylabel=rows, xticks=range(matrix.shape[1]))
    axes.set_yticks(range(matrix.shape[0]) if matrix.shape[0] < 10 else [])


def main() -> None:
    plt.rcParams |= {"svg.hashsalt": "rapids_slr", "font.size": 8, "axes.titlesize": 9}
    points, before, now = example(np.random.default_rng(4))
    slr = SLR(alpha=0.5, min_cluster_size=8)
    slr.update(before.astype(np.int32))
    refined = slr.update(now.astype(np.int32))
    soft = refined.soft.toarray()
    soft = soft[np.lexsort(soft.T)[::-1]]

    figure, axes = plt.subplots(1, 5, figsize=(13, 2.9), layout="constrained", facecolor="white")
    scatter(axes[0], points, before, "clusters of last epoch")
    scatter(axes[1], points, now, "clusters of this epoch")
    projection = refined.projection
    projection = projection.toarray() if hasattr(projection, "toarray") else np.asarray(projection)
    heat(axes[2], projection, "IoU projection", "last epoch", "this epoch")
    heat(axes[3], soft, "soft labels", "images", "this epoch")
    scatter(axes[4], points, refined.hard, "refined labels")
    figure.savefig(Path(__file__).with_name("method.svg"), metadata={"Date": None})


if __name__ == "__main__":
    main()
