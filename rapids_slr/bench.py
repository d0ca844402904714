"""Benchmarks: features -> refined labels, timed beside the dense way on the same input in the same run.

Times are medians of runs taken in turn, so that a busy machine slows all of them alike; ratios are what to compare.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import psutil
import torch
from rich.console import Console
from rich.table import Table

from rapids_slr.clustering.dbscan import dbscan, radius
from rapids_slr.clustering.distances import Distances
from rapids_slr.clustering.jaccard import memberships
from rapids_slr.clustering.neighbours import check_features, nearest_neighbours
from rapids_slr.engine.arrays import Array, like
from rapids_slr.engine.blocks import BLOCK, bfloat16_pays, product
from rapids_slr.errors import InputError
from rapids_slr.kernels.density_clusters import density_clusters
from rapids_slr.provenance import cpu_name, environment
from rapids_slr.refinement import SLR, Refined
from rapids_slr.warmup import warm_up

IMAGES = 17  # images an identity, as in Market-1501
LATENT = 32  # dimensions in which identities differ: trained embeddings have far fewer than their width
K2, PAIRS_PER_IMAGE, MIN_SAMPLES = 6, 7, 4
REFINE_REPEATS = 11  # refinement takes a millisecond: more runs cost nothing and settle its median
DENSE_BYTES = 40  # of memory per pair of images that the dense way takes at its peak; measured: 28 to 38
GB = 1e9


def clustered_features(N: int, D: int, seed: int = 0, epoch: int = 0, noise: float = 0.3) -> np.ndarray:
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
    # Its own generator, so that another epoch has the same people: only the drift differs. 0.9^2 + 0.44^2 is about 1,
    # so every epoch has the spread that was asked for.
    drift = np.random.default_rng([seed, epoch]).standard_normal((N, LATENT), dtype=np.float32)
    x_ND = (centre[identity_N] + np.float32(noise) * (0.9 * spread + 0.44 * drift).astype(np.float32)) @ basis
    x_ND += 0.1 * rng.standard_normal((N, D), dtype=np.float32)
    x_ND /= np.linalg.norm(x_ND, axis=1, keepdims=True)
    return x_ND


def isotropic_features(N: int, D: int, seed: int = 0, epoch: int = 0, noise: float = 0.3) -> np.ndarray:
    """Unit rows (N, D) float32 in all directions alike, without clusters: the input with most neighbours in common.

    In many dimensions a few images are near to nearly all others (hubs), so that neighbourhoods meet where those of
    real embeddings do not.
    """
    x_ND = np.random.default_rng(seed).standard_normal((N, D), dtype=np.float32)
    x_ND += np.float32(noise) * np.random.default_rng([seed, epoch]).standard_normal((N, D), dtype=np.float32)
    x_ND /= np.linalg.norm(x_ND, axis=1, keepdims=True)
    return x_ND


def collapsed_features(N: int, D: int, seed: int = 0, epoch: int = 0, noise: float = 0.01) -> np.ndarray:
    """Unit rows (N, D) float32 of a network that finds all images alike, but for noise of this share of a row."""
    x_ND = np.random.default_rng([seed, epoch]).standard_normal((N, D), dtype=np.float32)
    x_ND = np.random.default_rng(seed).standard_normal(D, dtype=np.float32) + np.float32(noise) * x_ND
    x_ND /= np.linalg.norm(x_ND, axis=1, keepdims=True)
    return x_ND


Features = Callable[[int, int, int, int], np.ndarray]
"""Called with N, D, a seed and an epoch, 0 or 1: unit rows (N, D) float32."""
FEATURES: dict[str, Features] = {
    "clustered": clustered_features,
    "isotropic": isotropic_features,
    "collapsed": collapsed_features,
}


def bench_labels(
    samples: int,
    dim: int,
    *,
    k1: int = 30,
    repeats: int = 5,
    seed: int = 0,
    features: str | Features = "clustered",
    dense: bool = True,
    device: str = "cpu",
    say: Callable[[str], object] = lambda message: None,
) -> dict[str, Any]:
    """Time features -> raw labels -> refined labels, stage by stage, and the dense way beside it.

    Args:
        samples, dim: N and D of synthetic features.
        k1: neighbours that must be reciprocal; at least 5.
        repeats: runs of which medians are taken; the dense way runs once.
        features: a name in FEATURES, or a function like those, whose name is then that of the features.
        dense: run the dense way, on the CPU, if the memory it needs is available.
        device: engine to time, `cpu` or `cuda`.
        say: told what is done next.
    Returns: ready for JSON. `seconds` of each stage, `product` being the bare N x N matrix product and `total` all
        stages from features to raw labels; `ratio` of total to product; `peak_mb` of the whole and `stage_peak_mb` of
        each stage, on the CPU beyond what was resident before it all, the features included, on CUDA of the device
        beyond what was taken before the stage; `bfloat16`: whether the search of neighbours may multiply in it, and
        why; `equal`: whether both ways gave the same raw and the same refined labels, None without the dense way and
        then `not_compared` says why; and what is needed to read the figures.
    Raises: InputError for sizes that cannot be used, or if there is no CUDA device to use.
    """
    machine = Machine(device)
    draw = FEATURES.get(features) if isinstance(features, str) else features
    name = features if isinstance(features, str) else features.__name__
    if k1 + 1 < K2 or samples <= k1 or dim < 1 or repeats < 1 or draw is None:
        raise InputError(
            f"bench: need k1 >= {K2 - 1}, samples > k1, dim >= 1, repeats >= 1 and features of {', '.join(FEATURES)}; "
            f"got k1={k1}, samples={samples}, dim={dim}, repeats={repeats}, features={features}"
        )
    say("compiling kernels, half a minute the first time")
    warm_up(cuda=machine.cuda)
    say(f"drawing {samples:,} {name} features of {dim:,} dimensions")
    host_ND = draw(samples, dim, seed, 0)
    features_ND, later_ND = machine.put(host_ND), machine.put(draw(samples, dim, seed, 1))
    stages = Stages(machine)
    labels = measure(stages, features_ND, later_ND, k1, repeats, say)
    not_compared = lacks_memory(samples) if dense else "it was not asked for"
    equal = compare(stages, host_ND, labels, k1, say) if not_compared is None else None
    return {
        **{
            "samples": len(host_ND),
            "dim": host_ND.shape[1],
            "k1": k1,
            "features": name,
            "seed": seed,
            "repeats": repeats,
        },
        "clusters": int(labels.later_N.max()) + 1,
        "outliers": int((labels.later_N < 0).sum()),
        "distinct_soft_labels": len(labels.refined.rows.counts),
        "distances_an_image": round(labels.distances_an_image, 1),
        **stages.figures(),
        "equal": equal,
        "not_compared": not_compared,
        "bfloat16": None if machine.cuda else bfloat16_pays()[1],
        "environment": environment(machine.name),
    }


class Stages:
    """Seconds and peak memory of stages; they are run by `timed` or by `weighed`, as counting memory takes time."""

    def __init__(self, machine: Machine) -> None:
        self.machine, self.resident = machine, resident_mb()
        self.times: dict[str, list[float]] = defaultdict(list)
        self.peak_mb: dict[str, float | None] = {}

    def timed(self, stage: str, function: Callable, *args: Any) -> Any:
        start = self.machine.now()
        result = function(*args)
        self.times[stage].append(self.machine.now() - start)
        return result

    def weighed(self, stage: str, function: Callable, *args: Any) -> Any:
        result, self.peak_mb[stage] = self.machine.peak_memory(function, *args, above=self.resident)
        return result

    def dense(self, stage: str, function: Callable, *args: Any) -> Any:
        """Both at once, on the CPU: a run of the dense way takes minutes and is not repeated."""
        result, self.peak_mb[stage] = peak_memory(self.timed, stage, function, *args)
        return result

    def figures(self) -> dict[str, Any]:
        """The figures of `bench_labels` that are about seconds and memory."""
        seconds = {stage: median(runs) for stage, runs in self.times.items()}
        peaks = [peak for stage, peak in self.peak_mb.items() if peak is not None and stage not in DENSE_STAGES]
        return {
            "seconds": seconds,
            "after_neighbours": sum(seconds[stage] for stage in ("graph", "radius", "dbscan")),
            "ratio": seconds["total"] / seconds["product"],
            "peak_mb": max(peaks) if peaks else None,
            "stage_peak_mb": self.peak_mb,
        }


class Labels(NamedTuple):
    """What the stages found, where they ran: raw labels of two epochs (N,) int32, and the second ones refined."""

    before_N: Array
    later_N: Array
    refined: Refined
    distances_an_image: float


def measure(
    stages: Stages, features_ND: Array, later_ND: Array, k1: int, repeats: int, say: Callable[[str], object]
) -> Labels:
    """Peak memory of every stage first, then their seconds: the first run also warms what later ones find warm."""
    say("peak memory")
    before_N, distances_an_image = raw_labels(features_ND, k1, stages.weighed)
    for run in range(repeats):
        say(f"run {run + 1} of {repeats}")
        stages.timed("product", bare_product, features_ND)
        stages.timed("total", raw_labels, features_ND, k1, stages.timed)
    say("refinement")
    later_N, _ = raw_labels(later_ND, k1, lambda stage, function, *args: function(*args))
    for _ in range(max(repeats, REFINE_REPEATS)):
        slr = SLR()
        slr.update(before_N)
        refined = stages.timed("refine", slr.update, later_N)
    return Labels(before_N, later_N, refined, distances_an_image)


def raw_labels(x_ND: Array, k1: int, run: Callable[..., Any]) -> tuple[Array, float]:
    """Raw labels (N,) int32 and distances an image, stage by stage, each by run(stage, function, *arguments)."""
    x_ND = run("check", check_features, x_ND)
    neighbours = run("neighbours", nearest_neighbours, x_ND, k1 + 1)

    def nearest_pairs() -> Distances:
        distances = Distances(memberships(x_ND, neighbours, k1, K2))
        distances.smallest(round(PAIRS_PER_IMAGE * len(x_ND)))
        return distances

    distances = run("graph", nearest_pairs)
    eps = run("radius", lambda: radius(distances.graph, pairs_per_image=PAIRS_PER_IMAGE))
    return run("dbscan", dbscan, distances.graph, eps, MIN_SAMPLES), 2 * distances.met / len(x_ND)


def compare(stages: Stages, x_ND: np.ndarray, labels: Labels, k1: int, say: Callable[[str], object]) -> dict[str, bool]:
    """Run the dense way on the same features, and find out whether its labels are the same."""
    host = stages.machine.get
    say("the dense way: features to raw labels")
    raw_N = stages.dense("dense_labels", dense_labels, x_ND, k1)
    say("the dense way: refinement")
    refined_N = stages.dense("dense_refine", dense_refinement, host(labels.before_N), host(labels.later_N))
    return {
        "raw": bool(np.array_equal(host(labels.before_N), raw_N)),
        "refined": same_partition(host(labels.refined.hard), refined_N),
    }


def lacks_memory(samples: int) -> str | None:
    """Why the dense way cannot run on so many images; None if it can."""
    needed, free = DENSE_BYTES * samples**2, psutil.virtual_memory().available
    if needed <= free:
        return None
    return f"it needs about {needed / GB:.1f} GB of memory for {samples:,} images, and {free / GB:.1f} GB are available"


STAGES = {
    "product": "bare matrix product",
    "check": "check features",
    "neighbours": "nearest neighbours",
    "graph": "Jaccard graph",
    "radius": "radius",
    "dbscan": "DBSCAN",
    "total": "features to raw labels",
    "refine": "refinement",
    "dense_labels": "dense: features to raw labels",
    "dense_refine": "dense: refinement",
}
"""Names of the stages for the screen, in the order in which they are shown."""
DENSE_STAGES = ("dense_labels", "dense_refine")


def show(result: dict[str, Any], console: Console | None = None) -> None:
    """The result of bench_labels as a table, with the outcome of the comparison beneath it."""
    console = console or Console(markup=False, highlight=False)
    seconds, peaks = result["seconds"], result["stage_peak_mb"] | {"total": result["peak_mb"]}
    title = f"{result['samples']:,} images, D = {result['dim']:,}, k1 = {result['k1']}, median of {result['repeats']}"
    table = Table(title=title, title_justify="left")
    table.add_column("stage")
    for column in ("seconds", "x product", "peak MB"):
        table.add_column(column, justify="right")
    for stage in (stage for stage in STAGES if stage in seconds):
        peak, ratio = peaks.get(stage), seconds[stage] / seconds["product"]
        table.add_row(STAGES[stage], f"{seconds[stage]:.5f}", f"{ratio:.4f}", "" if peak is None else f"{peak:,.0f}")
    console.print(table)
    console.print(
        f"{result['clusters']:,} clusters, {result['outliers']:,} outliers, "
        f"{result['distinct_soft_labels']:,} distinct soft labels, "
        f"{result['distances_an_image']:,} distances an image; peak memory beyond the features",
        soft_wrap=True,
    )
    if result["bfloat16"]:
        console.print(f"neighbours: {result['bfloat16']}", soft_wrap=True)
    console.print(comparison(result), soft_wrap=True)


def comparison(result: dict[str, Any]) -> str:
    """What came of comparing with the dense way, in a sentence."""
    if result["equal"] is None:
        return f"not compared with the dense way: {result['not_compared']}"
    equal = [f"{kind} labels {'equal' if same else 'DIFFER'}" for kind, same in result["equal"].items()]
    return "beside the dense way: " + ", ".join(equal)


def bare_product(x_ND: Array) -> None:
    """The N x N matrix product, block by block, and nothing else; as the search has it: float32, on CUDA TF32."""
    x = like(x_ND, torch.empty(0))
    space = torch.empty(min(BLOCK, len(x)) * len(x), device=x.device)
    for row in range(0, len(x), BLOCK):
        rows = x[row : row + BLOCK]
        out = space[: len(rows) * len(x)].view(len(rows), len(x))
        product(rows, x, out, "tf32" if x.is_cuda else "ieee")


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
        # Of neighbours whose half-sized set lies in the image's own for more than two thirds.
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
    smallest = above[: round(PAIRS_PER_IMAGE * N)]
    eps = float(np.float32(smallest.mean(dtype=np.float64))) if smallest.size else 0.0
    return DBSCAN(eps=max(eps, 1e-9), min_samples=MIN_SAMPLES, metric="precomputed").fit(distance_NN).labels_


def dense_refinement(before_N: np.ndarray, now_N: np.ndarray, min_cluster_size: int = 7) -> np.ndarray:
    """Refined labels (alpha 0.5) from an (N, K) matrix of soft labels, with HDBSCAN's spanning tree over all images."""
    P, K = int(before_N.max()) + 1, int(now_N.max()) + 1
    before_NP, now_NK = (
        (labels[:, None] == np.arange(n)).astype(np.float64) for labels, n in ((before_N, P), (now_N, K))
    )
    shared_PK = before_NP.T @ now_NK
    either_PK = before_NP.sum(axis=0)[:, None] + now_NK.sum(axis=0) - shared_PK
    # Rounded as the kernels round, 2^-50 and 2^-26: labels are compared for equality, and ties must stay ties.
    iou_PK = np.round(shared_PK / np.maximum(either_PK, 1) * 2**50) / 2**50
    past_NK = before_NP @ (iou_PK / np.maximum(iou_PK.sum(axis=1, keepdims=True), 1e-300))
    soft_NK = np.where((before_N >= 0)[:, None], 0.5 * now_NK + 0.5 * past_NK, now_NK)
    soft_NK = np.round(np.where((now_N >= 0)[:, None], soft_NK, past_NK) * 2**26) / 2**26
    kept = np.flatnonzero(soft_NK.any(axis=1))
    refined_N = np.full(len(now_N), -1, np.int32)
    points, n = soft_NK[kept], len(kept)
    if (points == points[:1]).all():
        refined_N[kept] = 0
        return refined_N
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


def resident_mb(peak: bool = False) -> float | None:
    """Memory of this process, now or at its peak, in MB of 2^20 bytes; None outside Linux."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    name = "VmHWM:" if peak else "VmRSS:"
    return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith(name)) / 1024


def peak_memory(function: Callable[..., Any], *args: Any, above: float | None = None) -> tuple[Any, float | None]:
    """What a function returns, and by how many MB the peak of this process exceeds `above`; None outside Linux.

    Args:
        above: MB; None takes what is resident before the call.
    """
    before = resident_mb() if above is None else above
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    except OSError:
        return function(*args), None
    result = function(*args)
    peak = resident_mb(peak=True)
    return result, None if peak is None or before is None else peak - before


class Machine:
    """Where a benchmark runs: how arrays come there and back, and how time and memory are taken.

    Raises: InputError if it is `cuda` and there is no CUDA device.
    """

    def __init__(self, device: str) -> None:
        self.cuda = device == "cuda"
        if self.cuda and not torch.cuda.is_available():
            raise InputError("bench: there is no CUDA device here; leave --device out to time the CPU engine")
        self.name = torch.cuda.get_device_name() if self.cuda else cpu_name()

    def put(self, x: np.ndarray) -> Array:
        if not self.cuda:
            return x
        import cupy

        return cupy.asarray(x)

    def get(self, x: Array) -> np.ndarray:
        return x.get() if self.cuda else x

    def now(self) -> float:
        """Seconds, once the device has finished what it was given."""
        if self.cuda:
            torch.cuda.synchronize()
        return time.perf_counter()

    def peak_memory(self, function: Callable[..., Any], *args: Any, above: float | None = None) -> tuple[Any, Any]:
        """As `peak_memory`; on CUDA the MB of the device that the pools of torch and CuPy took for the call."""
        if not self.cuda:
            return peak_memory(function, *args, above=above)
        import cupy

        # A pool that hands out what it kept takes nothing of the device.
        cupy.get_default_memory_pool().free_all_blocks()
        torch.cuda.empty_cache()
        before, _ = torch.cuda.mem_get_info()
        result = function(*args)
        torch.cuda.synchronize()
        return result, (before - torch.cuda.mem_get_info()[0]) / 2**20  # pools keep what was freed
