"""Growth of the label engine over N: time and peak memory, beside the dense way and other implementations.

    python benchmarks/labels.py                              # 1k .. 30k images, D = 512
    python benchmarks/labels.py --samples 100000 --repeats 1 --no-others

Every N runs in a process of its own, so that one peak of memory does not hide another. Writes one JSON file, to
benchmarks/results/ unless told otherwise, with the device, the versions and the commit.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from rapids_slr.bench import bench_labels, peak_memory, synthetic_features, table
from rapids_slr.clustering import JaccardDBSCAN
from rapids_slr.refinement import SLR

SAMPLES = [1000, 2000, 4000, 8000, 12936, 30000]
DENSE = 8000  # largest N for what needs N x N matrices in float64
HDBSCAN = 4000  # largest N for HDBSCAN on all soft labels, which takes N^3 and more


def other_implementations(samples: int, dim: int, k1: int) -> dict[str, dict[str, float | None]]:
    """Seconds and peak MB of public implementations on the same labels and distances."""
    import hdbscan
    from sklearn.cluster import DBSCAN
    from sklearn.cluster import HDBSCAN as SklearnHDBSCAN

    labels = []
    for epoch in range(2):
        model = JaccardDBSCAN(k1=k1, pairs_per_image=7).fit(synthetic_features(samples, dim, epoch=epoch))
        labels.append(model.labels_)
    slr = SLR()
    slr.update(labels[0])
    soft = slr.update(labels[1]).soft
    soft = soft[np.diff(soft.indptr) > 0].toarray().astype(np.float64)
    methods = {"scikit-learn DBSCAN on the sparse graph": lambda: DBSCAN(
        eps=model.eps_, min_samples=4, metric="precomputed").fit(model.graph_)}  # fmt: skip
    if samples <= HDBSCAN:
        methods["hdbscan on all soft labels"] = lambda: hdbscan.HDBSCAN(min_cluster_size=7).fit(soft)
        methods["scikit-learn HDBSCAN on all soft labels"] = lambda: SklearnHDBSCAN(
            min_cluster_size=7, min_samples=8, copy=True).fit(soft)  # fmt: skip
    results = {}
    for name, method in methods.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            start = time.perf_counter()
            _, peak = peak_memory(method)
        results[name] = {"seconds": time.perf_counter() - start, "peak_mb": peak}
    return results


def run(samples: int, options: argparse.Namespace) -> dict[str, Any]:
    dense = options.others and samples <= DENSE
    result = bench_labels(samples, options.dim, k1=options.k1, repeats=options.repeats, dense=dense)
    if options.others:
        result["others"] = other_implementations(samples, options.dim, options.k1)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, nargs="+", default=SAMPLES)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--k1", type=int, default=30)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--others", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "labels-cpu.json")
    options = parser.parse_args()

    results = []
    for samples in options.samples:
        with multiprocessing.get_context("spawn").Pool(1) as process:
            result = process.apply(run, (samples, options))
        print(table(result), flush=True)
        for name, other in result.get("others", {}).items():
            print(f"  {name}: {other['seconds']:.2f} s, {other['peak_mb']:.0f} MB", flush=True)
        results.append(result)
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(results, indent=1) + "\n")
    print(f"written to {options.out}")


if __name__ == "__main__":
    main()
