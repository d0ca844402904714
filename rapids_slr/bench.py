"""Benchmarks: features -> refined labels, timed beside the dense way on the same input in the same run.

Times are medians of runs taken in turn, so that a busy machine slows all of them alike; ratios are what to compare.
"""

from __future__ import annotations

import platform
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from rapids_slr.clustering.dbscan import dbscan, radius
from rapids_slr.clustering.jaccard import jaccard_graph
from rapids_slr.clustering.neighbours import BLOCK, check_features, nearest_neighbours
from rapids_slr.errors import InputError
from rapids_slr.kernels import warm_up
from rapids_slr.kernels.density_clusters import density_clusters
from rapids_slr.refinement import SLR

IMAGES = 17  # images an identity, as in Market-1501
LATENT = 32  # dimensions in which identities differ: trained embeddings have far fewer than their width
K2, PAIRS_PER_IMAGE, MIN_SAMPLES = 6, 7, 4


def synthetic_features(N: int, D: int, seed: int = 0, epoch: int = 0, noise: float = 0.3) -> np.ndarray:
    """Unit rows (N, D) float32 that cluster like embeddings of people: 17 images an identity, in random order.

    Args:
        epoch: the same images after some more training: another small disturbance of every row.
        noise: spread of an identity, in units of the spread between identities.
    """
    rng = np.random.default_rng(seed)
    identities = max(1, N // IMAGES)
    identity_N = rng.permutation(np.arange(N) % identities)
    centre, spread = (rng.standard_normal((n, LATENT), dtype=np.float32) for n in (identities, N))
    basis = rng.standard_normal((LATENT, D), dtype=np.float32) / np.float32(LATENT**0.5)
    drift = np.random.default_rng([seed, epoch]).standard_normal((N, LATENT), dtype=np.float32)
    x_ND = (centre[identity_N] + np.float32(noise) * (0.9 * spread + 0.44 * drift).astype(np.float32)) @ basis
    x_ND += 0.1 * rng.standard_normal((N, D), dtype=np.float32)
    x_ND /= np.linalg.norm(x_ND, axis=1, keepdims=True)
    return x_ND


def bench_labels(
    samples: int, dim: int, *, k1: int = 30, repeats: int = 5, dense: bool = True, seed: int = 0
) -> dict[str, Any]:
    """Time features -> raw labels -> refined labels, stage by stage, and the dense way beside it.

    Args:
        samples, dim: N and D of synthetic features.
        k1: neighbours that must be reciprocal.
        repeats: runs of which medians are taken; the dense way runs once.
        dense: run the dense way; it needs about 40 N^2 bytes.
    Returns: `seconds` of each stage, `product` being the bare N x N matrix product and `total` all stages from
        features to raw labels; `ratio` of total to product; `peak_mb` beyond the features; `equal`: whether both ways
        gave the same raw and the same refined labels; and what is needed to read the figures.
    """
    if samples <= k1 or dim < 1 or repeats < 1:
        raise InputError(f"bench: need samples > k1={k1}, dim >= 1 and repeats >= 1, got {samples}, {dim}, {repeats}")
    warm_up()
    features_ND, later_ND = (synthetic_features(samples, dim, seed, epoch) for epoch in (0, 1))
    times: dict[str, list[float]] = defaultdict(list)

    def timed(stage: str, function: Callable, *args: Any) -> Any:
        start = time.perf_counter()
        result = function(*args)
        times[stage].append(time.perf_counter() - start)
        return result

    def labels_of(x_ND: np.ndarray) -> np.ndarray:
        x_ND = timed("check", check_features, x_ND)
        neighbours = timed("neighbours", nearest_neighbours, x_ND, k1 + 1)
        graph = timed("graph", jaccard_graph, x_ND, neighbours, k1, K2)
        eps = timed("radius", lambda: radius(graph, pairs_per_image=PAIRS_PER_IMAGE))
        info["distances_an_image"] = round(graph.distances.size / samples, 1)
        return timed("dbscan", dbscan, graph, eps, MIN_SAMPLES)

    info: dict[str, Any] = {}
    labels_N, peak_mb = peak_memory(lambda: labels_of(features_ND))
    times.clear()
    for _ in range(repeats):
        timed("product", bare_product, features_ND)
        timed("total", labels_of, features_ND)
    later_N = labels_of(later_ND)
    for _ in range(max(repeats, 11)):
        slr = SLR()
        slr.update(labels_N)
        refined = timed("refine", slr.update, later_N)

    seconds = {stage: median(runs) for stage, runs in times.items()}
    result = {
        "samples": samples,
        "dim": dim,
        "k1": k1,
        "clusters": int(later_N.max()) + 1,
        "outliers": int((later_N < 0).sum()),
        "distinct_soft_labels": len(refined.rows.counts),
        **info,
        "seconds": seconds,
        "after_neighbours": sum(seconds[stage] for stage in ("graph", "radius", "dbscan")),
        "ratio": seconds["total"] / seconds["product"],
        "peak_mb": peak_mb,
        "equal": None,
        "environment": environment(),
    }
    if dense:
        start = time.perf_counter()
        dense_N = dense_labels(features_ND, k1)
        seconds["dense_labels"] = time.perf_counter() - start
        start = time.perf_counter()
        dense_refined_N = dense_refinement(labels_N, later_N)
        seconds["dense_refine"] = time.perf_counter() - start
        result["equal"] = {
            "raw": bool(np.array_equal(labels_N, dense_N)),
            "refined": same_partition(refined.hard, dense_refined_N),
        }
    return result


def table(result: dict[str, Any]) -> str:
    """The result of bench_labels for the screen."""
    lines = [f"N = {result['samples']}, D = {result['dim']}, k1 = {result['k1']}: {result['clusters']} clusters"]
    lines += [f"  {stage:<13} {seconds * 1e3:>10.1f} ms" for stage, seconds in result["seconds"].items()]
    lines.append(f"  features to labels take {result['ratio']:.2f} x the bare matrix product")
    if result["peak_mb"] is not None:
        lines.append(f"  peak memory beyond the features: {result['peak_mb']:.0f} MB")
    if result["equal"] is not None:
        equal = [f"{kind} labels {'equal' if same else 'DIFFER'}" for kind, same in result["equal"].items()]
        lines.append("  beside the dense way: " + ", ".join(equal))
    return "\n".join(lines)


def bare_product(x_ND: np.ndarray) -> None:
    """The N x N matrix product, block by block, and nothing else."""
    x = torch.from_numpy(x_ND)
    space = torch.empty(min(BLOCK, len(x)) * len(x))
    for row in range(0, len(x), BLOCK):
        rows = x[row : row + BLOCK]
        torch.mm(rows, x.T, out=space[: len(rows) * len(x)].view(len(rows), len(x)))


def dense_labels(x_ND: np.ndarray, k1: int) -> np.ndarray:
    """Raw labels the way research code finds them: all Jaccard distances as a matrix, and scikit-learn's DBSCAN."""
    from sklearn.cluster import DBSCAN

    N = len(x_ND)
    x_ND = x_ND.astype(np.float64)
    d_NN = np.maximum(0, np.round(2 - 2 * (x_ND @ x_ND.T), 12))  # rounded, so that equal images tie
    d_NN[d_NN < 1e-6] = 0
    furthest_N = d_NN.max(axis=1)
    np.fill_diagonal(d_NN, -1)  # an image comes first in its own list
    near_NK = np.argpartition(d_NN, k1, axis=1)[:, : k1 + 1]
    bound_N = np.take_along_axis(d_NN, near_NK, axis=1).max(axis=1)
    rank_NK = np.empty((N, k1 + 1), np.int64)
    for i in range(N):
        near = np.flatnonzero(d_NN[i] <= bound_N[i])
        rank_NK[i] = near[np.argsort(d_NN[i, near], kind="stable")][: k1 + 1]
    np.fill_diagonal(d_NN, 0)

    def reciprocal(i: int, k: int) -> np.ndarray:
        forward = rank_NK[i, : k + 1]
        return forward[(rank_NK[forward, : k + 1] == i).any(axis=1)]

    half = round(k1 / 2)
    half_sets = [reciprocal(i, half) for i in range(N)]
    v_NN = np.zeros((N, N), np.float32)
    for i in range(N):
        own = reciprocal(i, k1)
        added = [half_sets[c] for c in own if 3 * np.isin(half_sets[c], own).sum() > 2 * len(half_sets[c])]
        members = np.unique(np.concatenate([own, *added]))
        weights = np.exp(-d_NN[i, members] / (furthest_N[i] or 1))
        v_NN[i, members] = weights / weights.sum()
    del d_NN
    v_NN = np.stack([v_NN[rank_NK[i, :K2]].mean(axis=0, dtype=np.float64) for i in range(N)]).astype(np.float32)
    holders = [np.flatnonzero(column) for column in v_NN.T]
    distance_NN = np.empty((N, N), np.float32)
    for i in range(N):
        shared_N = np.zeros(N)
        for c in np.flatnonzero(v_NN[i]):
            shared_N[holders[c]] += np.minimum(v_NN[i, c], v_NN[holders[c], c])
        distance_NN[i] = np.maximum(0, 1 - shared_N / (2 - shared_N))
    distance_NN[distance_NN < 1e-6] = 0
    del v_NN
    above = distance_NN[np.triu_indices(N, 1)]
    above = np.sort(above[above > 0])
    eps = np.float32(above[: min(round(PAIRS_PER_IMAGE * N), above.size)].mean(dtype=np.float64))
    return DBSCAN(eps=float(eps), min_samples=MIN_SAMPLES, metric="precomputed").fit(distance_NN).labels_


def dense_refinement(before_N: np.ndarray, now_N: np.ndarray, min_cluster_size: int = 7) -> np.ndarray:
    """Refined labels (alpha 0.5) from an (N, K) matrix of soft labels, with HDBSCAN's spanning tree over all images."""
    P, K = int(before_N.max()) + 1, int(now_N.max()) + 1
    before_NP, now_NK = (
        (labels[:, None] == np.arange(n)).astype(np.float64) for labels, n in ((before_N, P), (now_N, K))
    )
    shared_PK = before_NP.T @ now_NK
    either_PK = before_NP.sum(axis=0)[:, None] + now_NK.sum(axis=0) - shared_PK
    iou_PK = np.round(shared_PK / np.maximum(either_PK, 1) * 2**50) / 2**50
    past_NK = before_NP @ (iou_PK / np.maximum(iou_PK.sum(axis=1, keepdims=True), 1e-300))
    soft_NK = np.where((before_N >= 0)[:, None], 0.5 * now_NK + 0.5 * past_NK, now_NK)
    soft_NK = np.round(np.where((now_N >= 0)[:, None], soft_NK, past_NK) * 2**26) / 2**26
    kept = np.flatnonzero(soft_NK.any(axis=1))
    refined_N = np.full(len(now_N), -1, np.int32)
    points, n = soft_NK[kept], len(kept)
    if n <= min_cluster_size:
        return refined_N
    square_n = (points**2).sum(axis=1)
    reach_nn = np.maximum(square_n[:, None] + square_n - 2 * (points @ points.T), 0)
    core_n = np.partition(reach_nn, min_cluster_size, axis=1)[:, min_cluster_size].copy()  # place 0: itself
    np.maximum(reach_nn, core_n, out=reach_nn)
    np.maximum(reach_nn, core_n[:, None], out=reach_nn)
    left, right, weight = np.zeros(n - 1, np.int32), np.empty(n - 1, np.int32), np.empty(n - 1)
    outside, best_n, from_n = np.ones(n, bool), reach_nn[0].copy(), np.zeros(n, np.int32)
    outside[0] = False
    for e in range(n - 1):  # Prim
        j = int(np.where(outside, best_n, np.inf).argmin())
        left[e], right[e], weight[e] = from_n[j], j, best_n[j]
        outside[j] = False
        closer = outside & (reach_nn[j] < best_n)
        best_n[closer], from_n[closer] = reach_nn[j, closer], j
    refined_N[kept] = density_clusters(np.ones(n, np.int64), core_n, (left, right, weight), min_cluster_size, 0.0)
    return refined_N


def same_partition(x_N: np.ndarray, y_N: np.ndarray) -> bool:
    """Equal up to the numbers of clusters; outliers (-1) are outliers in both."""
    pairs = np.unique(np.stack([x_N, y_N]), axis=1)
    one_to_one = all(len(np.unique(side)) == pairs.shape[1] for side in pairs)
    return one_to_one and bool(((pairs[0] < 0) == (pairs[1] < 0)).all())


def peak_memory(function: Callable[[], Any]) -> tuple[Any, float | None]:
    """What a function returns, and by how many MB its peak exceeds what was resident before; None outside Linux."""
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")

    def resident(name: str) -> int:
        line = next(line for line in status.read_text().splitlines() if line.startswith(name))
        return int(line.split()[1])

    try:
        reset.write_text("5")  # the peak starts anew
        before = resident("VmRSS:")
    except OSError:
        return function(), None
    result = function()
    return result, (resident("VmHWM:") - before) / 1024


def environment() -> dict[str, str | int]:
    """What the figures depend on: device, threads, versions, commit."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = names[0] if names else cpu
    git = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=Path(__file__).parent, capture_output=True, text=True
    )
    packages = ("rapids-slr", "torch", "numpy", "numba", "scipy", "scikit-learn")
    return {
        "device": cpu,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
        "commit": git.stdout.strip() or "unknown",
    }
