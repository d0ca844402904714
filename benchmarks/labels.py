"""Growth of the label engine over N: time and peak memory, beside the dense way and other implementations.

    python benchmarks/labels.py                                        # 1k .. 30k images, D = 512
    python benchmarks/labels.py --samples 100000 --repeats 1 --append  # one more N in the same file
    python benchmarks/labels.py --features isotropic --samples 4000 12936 30000 --no-others --append
    python benchmarks/labels.py --network RUN --images IMAGES.zip --samples 1000 4000 --append  # real features
    python benchmarks/labels.py --approximate --dim 256 --samples 100000 1000000 --append

Every N runs in a process of its own, so that one peak of memory does not hide another. The results, a list of what
`rapids_slr.bench.bench_labels` gives, hold the device, the versions, the commit and the date. The file is written anew
after every N. `python docs/performance.py` makes the tables and the plot of the documentation from it.

With `--approximate` features lie in a file of which only what is read takes memory, clustered as `clustered_features`
are, and labels come from one `fit` with an approximate search; memory is that of the whole process.

Where faiss is installed (pip install faiss-cpu), what research code does with its lists is timed as well.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rapids_slr.bench import (
    FEATURES,
    IMAGES,
    K2,
    LATENT,
    MIN_SAMPLES,
    PAIRS_PER_IMAGE,
    Features,
    bench_labels,
    peak_memory,
    resident_mb,
    show,
)
from rapids_slr.clustering import JaccardDBSCAN
from rapids_slr.progress import Progress
from rapids_slr.provenance import cpu_name, environment, version_of
from rapids_slr.refinement import SLR
from rapids_slr.warmup import warm_up

SAMPLES = [1000, 2000, 4000, 8000, 12936, 30000]
DENSE = 12936
"""Largest N for the dense way, which takes N^2 time and memory."""
SPARSE_DBSCAN = 30000
"""Largest N for scikit-learn's DBSCAN on the sparse graph."""
HDBSCAN = 8000
"""Largest N for HDBSCAN on the soft labels of all images, which takes N^3 and more: minutes at 12,936."""

FAISS = "lists by faiss, all distances, scikit-learn DBSCAN"
EPS = 0.6
"""Radius of the code that searches with faiss."""
ROWS = 50_000
"""Rows that are drawn together into a file."""
NOISE = 0.05
"""Of real features: length of what is added to a row for another epoch."""


def embedded(run: Path, images: Path, trained: bool) -> Features:
    """Features of real images by the network of a run, or by one of its kind that is new, in a random order."""
    from rapids_slr.data.collect import collect
    from rapids_slr.networks.checkpoint import load_trained, new_network
    from rapids_slr.search import embed_collection
    from rapids_slr.settings.specfile import load_spec

    network = load_trained(run)
    if not trained:
        torch.manual_seed(0)
        network = replace(network, network=new_network(load_spec(run / "spec.yaml")).eval())
    x_ND = embed_collection(network, collect(images, "all"), torch.device("cpu"))[0].numpy()

    def draw(N: int, D: int, seed: int, epoch: int) -> np.ndarray:
        """D is what the network gives; another epoch has other noise added."""
        chosen = np.random.default_rng(seed).permutation(len(x_ND))[:N]
        noise_ND = np.random.default_rng([seed, epoch]).standard_normal((N, x_ND.shape[1]), np.float32)
        rows_ND = x_ND[chosen] + np.float32(epoch * NOISE / x_ND.shape[1] ** 0.5) * noise_ND
        return rows_ND / np.linalg.norm(rows_ND, axis=1, keepdims=True)

    draw.__name__ = "pre-trained" if trained else "untrained"
    return draw


def features_of(options: argparse.Namespace) -> Features:
    if options.network is None:
        return FEATURES[options.features]
    return embedded(options.network, options.images, trained=not options.untrained)


def approximately(samples: int, options: argparse.Namespace) -> dict[str, Any]:
    """Labels of features in a file, by an approximate search: seconds, memory, recall, agreement with identities."""
    from sklearn.metrics import adjusted_rand_score

    with Progress() as progress, tempfile.TemporaryDirectory() as folder:
        progress.say(f"N = {samples:,}: writing features of {options.dim:,} dimensions into {folder}")
        file = Path(folder) / "features.npy"
        identity_N = clustered_into(file, samples, options.dim, options.seed)
        warm_up(cuda=False)
        features_ND, resident = np.load(file, mmap_mode="r"), resident_mb()
        model = JaccardDBSCAN(
            k1=options.k1, pairs_per_image=PAIRS_PER_IMAGE, min_samples=MIN_SAMPLES, search="approximate"
        )
        with progress.task("features to raw labels", None, "images"):
            start = time.perf_counter()
            labels_N = model.fit_predict(features_ND)
            seconds = time.perf_counter() - start
        clustered_N = labels_N >= 0
        return {
            **{"samples": samples, "dim": options.dim, "k1": options.k1, "features": "clustered", "seed": options.seed},
            "search": "approximate",
            "seconds": {"total": seconds},
            "process_mb": resident_mb(peak=True),
            "process_mb_before": resident,
            "recall": model.recall_,
            "clusters": int(labels_N.max()) + 1,
            "identities": int(identity_N.max()) + 1,
            "outliers": int((~clustered_N).sum()),
            "ari": float(adjusted_rand_score(identity_N[clustered_N], labels_N[clustered_N])),
            "environment": environment(cpu_name()) | {"pynndescent": version_of("pynndescent")},
        }


def clustered_into(file: Path, N: int, D: int, seed: int) -> np.ndarray:
    """Write features like `clustered_features` to a .npy, ROWS at a time; returns identities (N,)."""
    rng = np.random.default_rng(seed)
    identity_N = rng.permutation(np.arange(N) % max(1, N // IMAGES))
    centre = rng.standard_normal((max(1, N // IMAGES), LATENT), np.float32)
    basis = rng.standard_normal((LATENT, D), np.float32) / np.float32(LATENT**0.5)
    rows_ND = np.lib.format.open_memmap(file, "w+", np.float32, (N, D))
    for row in range(0, N, ROWS):
        identity_I = identity_N[row : row + ROWS]
        spread = rng.standard_normal((len(identity_I), LATENT), np.float32)
        x_ID = (centre[identity_I] + np.float32(0.3) * spread) @ basis
        x_ID += np.float32(0.1) * rng.standard_normal(x_ID.shape, np.float32)
        rows_ND[row : row + ROWS] = x_ID / np.linalg.norm(x_ID, axis=1, keepdims=True)
    rows_ND.flush()
    return identity_N


def other_implementations(samples: int, options: argparse.Namespace, say: Callable[[str], object]) -> dict[str, Any]:
    """Seconds, and peak MB beyond their input, of public implementations on the same distances and soft labels."""
    if samples > SPARSE_DBSCAN:
        return {}
    import hdbscan
    from sklearn.cluster import DBSCAN
    from sklearn.cluster import HDBSCAN as SklearnHDBSCAN

    say("other implementations: their input")
    models = [
        JaccardDBSCAN(k1=options.k1, pairs_per_image=PAIRS_PER_IMAGE, min_samples=MIN_SAMPLES).fit(
            features_of(options)(samples, options.dim, options.seed, epoch)
        )
        for epoch in (0, 1)
    ]
    before, now = models
    sparse = DBSCAN(eps=max(now.eps_, 1e-9), min_samples=MIN_SAMPLES, metric="precomputed")
    methods = {"scikit-learn DBSCAN on the sparse graph": lambda: sparse.fit(now.graph_)}
    if samples <= DENSE and find_spec("faiss") is not None:
        features_ND = features_of(options)(samples, options.dim, options.seed, 1)
        methods[FAISS] = lambda: faiss_labels(features_ND, options.k1, EPS)
    if samples <= HDBSCAN:
        slr = SLR()
        slr.update(before.labels_)
        soft = slr.update(now.labels_).soft
        soft = soft[np.diff(soft.indptr) > 0].toarray().astype(np.float64)
        theirs = hdbscan.HDBSCAN(min_cluster_size=slr.min_cluster_size)
        sklearn_counts_itself = slr.min_cluster_size + 1
        sklearns = SklearnHDBSCAN(min_cluster_size=slr.min_cluster_size, min_samples=sklearn_counts_itself, copy=True)
        if min(soft.shape) > sklearn_counts_itself:
            methods["hdbscan on all soft labels"] = lambda: theirs.fit(soft)
            methods["scikit-learn HDBSCAN on all soft labels"] = lambda: sklearns.fit(soft)
    results = {}
    for name, method in methods.items():
        say(name)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            start = time.perf_counter()
            _, peak_mb = peak_memory(method)
        results[name] = {"seconds": time.perf_counter() - start, "peak_mb": peak_mb}
    return results


def faiss_labels(x_ND: np.ndarray, k1: int, eps: float) -> np.ndarray:
    """Labels as cluster-contrast, SpCL, ICE and PPLR find them: lists by faiss, all Jaccard distances, DBSCAN."""
    from sklearn.cluster import DBSCAN

    return DBSCAN(eps=eps, min_samples=MIN_SAMPLES, metric="precomputed").fit_predict(faiss_distances(x_ND, k1, K2))


def faiss_distances(x_ND: np.ndarray, k1: int, k2: int) -> np.ndarray:
    """(N, N) float32 Jaccard distances of unit rows; lists are of k1 images, the image itself among them."""
    import faiss

    N, D = x_ND.shape
    index = faiss.IndexFlatL2(D)
    index.add(x_ND)
    rank_NK = index.search(x_ND, k1)[1]

    def reciprocal(i: int, k: int) -> np.ndarray:
        forward = rank_NK[i, : k + 1]
        return forward[(rank_NK[forward, : k + 1] == i).any(axis=1)]

    half_sets = [reciprocal(i, round(k1 / 2)) for i in range(N)]
    v_NN = np.zeros((N, N), np.float32)
    for i in range(N):
        own = reciprocal(i, k1)
        added = [half_sets[c] for c in own if 3 * np.isin(half_sets[c], own).sum() > 2 * len(half_sets[c])]
        members = np.unique(np.concatenate([own, *added]))
        weights = np.exp(2 * (x_ND[members] @ x_ND[i]) - 2)
        v_NN[i, members] = weights / weights.sum()
    v_NN = np.stack([v_NN[rank_NK[i, :k2]].mean(axis=0) for i in range(N)])
    holders = [np.flatnonzero(column) for column in v_NN.T]
    distance_NN = np.empty((N, N), np.float32)
    for i in range(N):
        shared_N = np.zeros(N, np.float32)
        for c in np.flatnonzero(v_NN[i]):
            shared_N[holders[c]] += np.minimum(v_NN[i, c], v_NN[holders[c], c])
        distance_NN[i] = 1 - shared_N / (2 - shared_N)
    return np.maximum(distance_NN, 0)


def measure(samples: int, options: argparse.Namespace) -> dict[str, Any]:
    """All figures of one N."""
    with Progress() as progress:

        def say(message: str) -> None:
            progress.say(f"N = {samples:,}: {message}")

        dense = options.others and samples <= DENSE
        result = bench_labels(
            samples,
            options.dim,
            k1=options.k1,
            repeats=options.repeats,
            seed=options.seed,
            features=options.features if options.network is None else features_of(options),
            dense=dense,
            say=say,
        )
        if options.others:
            result["others"] = other_implementations(samples, options, say)
            result["environment"]["hdbscan"] = version_of("hdbscan")
    return result


def of_what(result: dict[str, Any]) -> tuple[Any, ...]:
    """What a result is the only one of in a file."""
    return result["features"], result.get("search", "exact"), result["dim"], result["k1"], result["samples"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, nargs="+", default=SAMPLES)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--k1", type=int, default=30)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--features", choices=FEATURES, default="clustered")
    parser.add_argument("--network", type=Path, metavar="RUN", help="a run folder, whose network embeds --images")
    parser.add_argument("--images", type=Path, help="a folder or .zip of real images")
    parser.add_argument("--untrained", action="store_true", help="a network like that of --network, but a new one")
    parser.add_argument("--approximate", action="store_true", help="features in a file, an approximate search")
    parser.add_argument(
        "--others",
        action=argparse.BooleanOptionalAction,
        default=True,
        help=f"run the dense way (up to N = {DENSE}), scikit-learn's DBSCAN (up to {SPARSE_DBSCAN}), hdbscan and "
        f"scikit-learn's HDBSCAN (up to {HDBSCAN})",
    )
    parser.add_argument("--append", action="store_true", help="keep what --out holds about other N and features")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "labels-cpu.json")
    options = parser.parse_args()

    if (options.network is None) != (options.images is None):
        parser.error("--network and --images belong together")

    results: list[dict[str, Any]] = json.loads(options.out.read_text()) if options.append else []
    options.out.parent.mkdir(parents=True, exist_ok=True)
    for samples in options.samples:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
            result = process.submit(approximately if options.approximate else measure, samples, options).result()
        if options.approximate:
            print(f"{samples:,} images: {result['seconds']['total']:.0f} s, recall {result['recall']:.4f}")
        else:
            show(result)
        for name, other in result.get("others", {}).items():
            print(f"{name}: {other['seconds']:.4f} s, {other['peak_mb'] or 0:,.0f} MB")
        results = sorted([*(kept for kept in results if of_what(kept) != of_what(result)), result], key=of_what)
        options.out.write_text(json.dumps(results, indent=1) + "\n")
    print(f"written to {options.out}")


if __name__ == "__main__":
    main()
