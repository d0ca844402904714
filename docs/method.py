"""Draw the pictures of docs/method.md: an epoch of SLR, and its steps on a few images, computed by the package itself.

python docs/method.py
"""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Polygon
from scipy.cluster.hierarchy import dendrogram, linkage

from rapids_slr import SLR
from rapids_slr.kernels.core_distances import core_distances, rows_by_column
from rapids_slr.refinement import Refined

DOCS = Path(__file__).parent
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


def draw_epoch(path: Path) -> None:
    """An epoch on points in the plane."""
    points, before, now = example(np.random.default_rng(4))
    slr = SLR(alpha=0.5, min_cluster_size=8)
    slr.update(before.astype(np.int32))
    refined = slr.update(now.astype(np.int32))
    soft = refined.soft.toarray()
    soft = soft[np.lexsort(soft.T)[::-1]]

    figure, axes = plt.subplots(1, 5, figsize=(13, 2.9), layout="constrained", facecolor="white")
    scatter(axes[0], points, before, "clusters of last epoch")
    scatter(axes[1], points, now, "clusters of this epoch")
    heat(axes[2], refined.projection, "IoU projection", "last epoch", "this epoch")
    heat(axes[3], soft, "soft labels", "images", "this epoch")
    scatter(axes[4], points, refined.hard, "refined labels")
    save(figure, path)


# A few images ---------------------------------------------------------------------------------------------------------

FEW = {  # images by their labels last epoch and now: A splits into 0 and 1, B and C come together as 2
    (0, 0): 7, (0, 1): 5, (0, -1): 1, (1, 2): 7, (1, 1): 1, (1, -1): 1, (2, 2): 6, (-1, 2): 2, (-1, 0): 1, (-1, -1): 1,
}  # fmt: skip
BEFORE, NOW = "ABC", "012"


def few(min_cluster_size: int = 4) -> tuple[np.ndarray, np.ndarray, Refined]:
    """The labels of these images last epoch and now, and what SLR makes of them."""
    before, now = np.repeat(np.array(list(FEW), np.int32), list(FEW.values()), axis=0).T
    slr = SLR(alpha=0.5, min_cluster_size=min_cluster_size)
    slr.update(before)
    return before, now, slr.update(now)


def name(cluster: int, names: str) -> str:
    return names[cluster] if cluster >= 0 else "–"


def draw_projection(path: Path) -> None:
    """Images in both clusters as bands between them, and the projection as a table."""
    before, now, refined = few()
    figure, (flow, table) = plt.subplots(1, 2, figsize=(9, 3.2), width_ratios=[3, 2], facecolor="white")
    sizes = [[int((labels == cluster).sum()) for cluster in range(3)] for labels in (before, now)]
    starts = [np.cumsum([0, *(size + 3 for size in column)]) for column in sizes]
    tops = [list(column) for column in starts]
    for (a, b), images in sorted(FEW.items()):
        if a < 0 or b < 0:
            continue
        left, right = tops[0][a], tops[1][b]
        tops[0][a], tops[1][b] = left + images, right + images
        corners = [(0.08, left), (0.08, left + images), (0.92, right + images), (0.92, right)]
        flow.add_patch(Polygon(corners, color=COLOURS[a], alpha=0.35, linewidth=0))
        flow.text(0.13, left + images / 2 + 0.06 * (right - left), f"{images} in both", va="center", fontsize=7)
    for x, column, names, colours in ((0, 0, BEFORE, COLOURS), (1, 1, NOW, ["#6b6b6b"] * 3)):
        for cluster, size in enumerate(sizes[column]):
            start = starts[column][cluster]
            flow.add_patch(plt.Rectangle((x - 0.08, start), 0.16, size, color=colours[cluster]))
            flow.text(x, start + size / 2, f"{names[cluster]}: {size}", ha="center", va="center", color="white")
    flow.set(xlim=(-0.15, 1.15), ylim=(max(starts[0][-1], starts[1][-1]) - 2, -2), title="clusters before → now")
    flow.axis("off")

    projection, overlap = refined.projection, refined.overlap
    heat(table, projection, "projection (IoU below it)", "last epoch", "this epoch")
    table.set_xticks(range(3), NOW)
    table.set_yticks(range(3), BEFORE)
    for a, b in zip(*np.nonzero(overlap), strict=True):
        union = sizes[0][a] + sizes[1][b] - overlap[a, b]
        text, colour = (
            f"{projection[a, b]:.2f}\n({overlap[a, b]}/{union})",
            "white" if projection[a, b] > 0.5 else "black",
        )
        table.text(b, a, text, ha="center", va="center", color=colour)
    figure.tight_layout()
    save(figure, path)


def draw_soft_labels(path: Path) -> None:
    """The soft label of every kind of image as a bar."""
    before, now, refined = few()
    soft = refined.soft.toarray()
    figure, axes = plt.subplots(figsize=(9, 3.6), facecolor="white")
    for place, pair in enumerate(FEW):
        image = int(np.flatnonzero((before == pair[0]) & (now == pair[1]))[0])
        start = 0.0
        for cluster in range(3):
            axes.barh(place, soft[image, cluster], left=start, color=COLOURS[3 + cluster], height=0.7)
            if soft[image, cluster] > 0.05:
                text = f"{cluster}: {soft[image, cluster]:.2f}"
                axes.text(start + soft[image, cluster] / 2, place, text, ha="center", va="center", color="white")
            start += soft[image, cluster]
        if not start:
            axes.text(0.01, place, "left out", va="center", color="#555555")
        label = int(refined.hard[image])
        axes.text(1.02, place, f"refined {label}" if label >= 0 else "left out", va="center")
    labels = [f"{name(a, BEFORE)} → {name(b, NOW)}   × {images}" for (a, b), images in FEW.items()]
    axes.set_yticks(range(len(FEW)), labels)
    axes.set(xlim=(0, 1.14), xticks=[0, 0.5, 1], title="soft label: this epoch's cluster and the projection, half each")
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    save(figure, path)


def draw_hierarchy(path: Path) -> None:
    """The hierarchy that HDBSCAN cuts: distinct soft labels, joined at their mutual reachability distance."""
    min_cluster_size = 4
    _, _, refined = few(min_cluster_size)
    rows, counts = refined.rows.matrix.astype(np.float64), refined.rows.counts
    core = np.sqrt(core_distances(
        rows_by_column(rows.indptr.astype(np.int64), rows.indices, rows.data, 3), counts, min_cluster_size
    ))  # fmt: skip
    dense = rows.toarray()
    distance = np.sqrt(((dense[:, None] - dense) ** 2).sum(axis=2))
    reach = np.maximum(distance, np.maximum(core[:, None], core))
    label = [int(refined.hard[np.flatnonzero(refined.rows.row_of_image == row)[0]]) for row in range(len(dense))]
    texts = [
        f"{' '.join(f'{weight:.2f}' for weight in weights)}   × {count}   "
        + (f"refined {cluster}" if cluster >= 0 else "noise")
        for weights, count, cluster in zip(dense, counts, label, strict=True)
    ]
    figure, axes = plt.subplots(figsize=(9, 3.2), facecolor="white")
    joins = linkage(reach[np.triu_indices(len(dense), 1)], "single")
    dendrogram(
        joins, labels=texts, orientation="left", ax=axes, color_threshold=0, above_threshold_color="#444444",
        leaf_font_size=8,
    )  # fmt: skip
    axes.set(xlabel="mutual reachability distance", title="distinct soft labels, and where they join")
    axes.spines[["top", "right", "left"]].set_visible(False)
    figure.tight_layout()
    save(figure, path)


def save(figure, path: Path) -> None:
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


DRAWINGS = {
    "method.svg": draw_epoch,
    "projection.svg": draw_projection,
    "soft-labels.svg": draw_soft_labels,
    "hierarchy.svg": draw_hierarchy,
}


def main(folder: Path = DOCS) -> None:
    plt.rcParams |= {"svg.hashsalt": "rapids_slr", "font.size": 8, "axes.titlesize": 9}
    for file, draw in DRAWINGS.items():
        draw(folder / file)


if __name__ == "__main__":
    main()
