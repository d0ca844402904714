"""Growth of the label engine over N: time and peak memory, beside the dense way and other implementations.

    python benchmarks/labels.py                                        # 1k .. 30k images, D = 512
    python benchmarks/labels.py --samples 100000 --repeats 1 --append  # one more N in the same file
    python benchmarks/labels.py --features isotropic --samples 4000 12936 30000 --no-others --append

Every N runs in a process of its own, so that one peak of memory does not hide another. The results, a list of what
`rapids_slr.bench.bench_labels` gives, hold the device, the versions, the commit and the date. The file is written anew
after every N. `python docs/performance.py` makes the table and the plot of the documentation from it.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from rapids_slr.bench import FEATURES, MIN_SAMPLES, PAIRS_PER_IMAGE, bench_labels, peak_memory, show
from rapids_slr.clustering import JaccardDBSCAN
from rapids_slr.progress import Progress
from rapids_slr.provenance import version_of
from rapids_slr.refinement import SLR

SAMPLES = [1000, 2000, 4000, 8000, 12936, 30000]
DENSE = 12936
"""Largest N for the dense way, which takes N^2 time and memory."""
SPARSE_DBSCAN = 30000
"""Largest N for scikit-learn's DBSCAN on the sparse graph."""
HDBSCAN = 8000
"""Largest N for HDBSCAN on the soft labels of all images, which takes N^3 and more: minutes at 12,936."""


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
            FEATURES[options.features](samples, options.dim, options.seed, epoch)
        )
        for epoch in (0, 1)
    ]
    before, now = models
    sparse = DBSCAN(eps=max(now.eps_, 1e-9), min_samples=MIN_SAMPLES, metric="precomputed")
    methods = {"scikit-learn DBSCAN on the sparse graph": lambda: sparse.fit(now.graph_)}
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
            features=options.features,
            dense=dense,
            say=say,
        )
        if options.others:
            result["others"] = other_implementations(samples, options, say)
            result["environment"]["hdbscan"] = version_of("hdbscan")
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, nargs="+", default=SAMPLES)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--k1", type=int, default=30)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--features", choices=FEATURES, default="clustered")
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

    results: list[dict[str, Any]] = []
    if options.append and options.out.exists():
        again = {(options.features, samples) for samples in options.samples}
        kept = json.loads(options.out.read_text())
        if any((result["dim"], result["k1"]) != (options.dim, options.k1) for result in kept):
            parser.error(f"--append: {options.out} has results of another --dim or --k1; name another --out")
        results = [result for result in kept if (result["features"], result["samples"]) not in again]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    for samples in options.samples:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
            result = process.submit(measure, samples, options).result()
        show(result)
        for name, other in result.get("others", {}).items():
            print(f"{name}: {other['seconds']:.4f} s, {other['peak_mb'] or 0:,.0f} MB")
        results = sorted([*results, result], key=lambda result: (result["features"], result["samples"]))
        options.out.write_text(json.dumps(results, indent=1) + "\n")
    print(f"written to {options.out}")


if __name__ == "__main__":
    main()
