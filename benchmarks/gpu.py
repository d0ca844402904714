"""What the CUDA engine takes on this machine's GPU: labels over N, a training step, embedding, a whole epoch, copies.

    python benchmarks/gpu.py                       # all parts, a few minutes; benchmarks/results/gpu-<device>.json
    python benchmarks/gpu.py --parts labels step   # some of them
    python benchmarks/gpu.py --samples 1000000 --dim 2048 --parts labels
    python benchmarks/gpu.py --parts step epoch --memory-pool rmm   # on the pool that a run shares, beside torch's own
    python benchmarks/gpu.py --parts search --pick-threads 128 512  # threads of the kernel that reads similarities
    python benchmarks/gpu.py --device cpu --quick  # the same code on sizes that a CPU can do, to see that it runs

torch, CuPy and numba-cuda are enough. The file is written anew after every part, so that what was measured is kept; a
part that fails leaves its error there, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import traceback
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from rapids_slr import SLR, JaccardDBSCAN
from rapids_slr.bench import FEATURES, Machine, bench_labels, clustered_features, show
from rapids_slr.clustering.neighbours import nearest_neighbours
from rapids_slr.data.store import ImageStore
from rapids_slr.engine.memory import pool_in_words, share_pool
from rapids_slr.errors import InputError
from rapids_slr.files import write_atomically
from rapids_slr.hosts import loop
from rapids_slr.hosts.abmt import adapt_epoch
from rapids_slr.hosts.targets import Targets, class_centroids, hard_targets
from rapids_slr.kernels import nearest_cuda
from rapids_slr.marks import Clock
from rapids_slr.networks.embed import embed
from rapids_slr.networks.two_branch import TwoBranch
from rapids_slr.profiling import recorded
from rapids_slr.provenance import environment
from rapids_slr.settings.spec import RunSpec

RESULTS = Path(__file__).parent / "results"
GROWTH = [1000, 2000, 4000, 8000, 12936, 30000, 100000]
MARKET = {"images": 12936, "identities": 751, "height": 256, "width": 128, "iterations": 400, "dim": 4096}
QUICK = {"images": 240, "identities": 12, "height": 32, "width": 16, "iterations": 4, "dim": 64}


class Bench:
    """Sizes, the images and networks of a run at the size of Market-1501, and the clock they are timed by."""

    def __init__(self, options: argparse.Namespace) -> None:
        if options.device == "cuda" and options.memory_pool == "rmm" and not share_pool():  # torch's first use is next
            raise InputError(f"--memory-pool rmm: {pool_in_words('rmm')}; take --memory-pool torch")
        self.options, self.machine = options, Machine(options.device)
        self.device = torch.device("cuda", torch.cuda.current_device()) if self.machine.cuda else torch.device("cpu")
        self.size = QUICK if options.quick else MARKET
        size = self.size
        backbone = {"backbone": "narrow", "widths": [4, 8, 8]} if options.quick else {"backbone": "resnet50"}
        self.spec = RunSpec.model_validate(
            {
                "name": "benchmark",
                "device": options.device,
                "data": {
                    "target": {"synth": {"style": "target"}},
                    "height": size["height"],
                    "width": size["width"],
                },
                "model": {**backbone, "weights": None},
                "pretrain": {"checkpoint": "none"},
                "training": {"iterations": size["iterations"]},
            }
        )
        self.labels_N = (torch.arange(size["images"]) % size["identities"]).to(self.device)

    @cached_property
    def store(self) -> ImageStore:
        draw, size = torch.Generator().manual_seed(0), self.size
        shape = size["images"], 3, size["height"], size["width"]
        pixels = torch.randint(256, shape, generator=draw, dtype=torch.uint8)
        return ImageStore(pixels.to(self.device), self.device)

    @cached_property
    def student(self) -> TwoBranch:
        return TwoBranch(self.spec.model).place(self.device)  # channels-last, as in a run

    @cached_property
    def teacher(self) -> TwoBranch:
        return self.student.frozen_copy()

    def median_seconds(self, function: Callable[[], object], repeats: int) -> float:
        """Median over `repeats` calls, after one that is not counted."""
        function()
        seconds = []
        for _ in range(repeats):
            start = self.machine.now()
            function()
            seconds.append(self.machine.now() - start)
        return median(seconds)

    def set_classifiers(self, targets: Targets) -> None:
        width = self.teacher.feature_dim
        centroids_KD = torch.randn(targets.classes, width, generator=torch.Generator().manual_seed(1)).to(self.device)
        self.student.set_classifiers_from(centroids_KD)
        self.teacher.set_classifiers_from(centroids_KD)

    def train(self, targets: Targets, iterations: int) -> None:
        training = self.spec.training.model_copy(update={"iterations": iterations})
        spec = self.spec.model_copy(update={"training": training})
        adapt_epoch(self.student, self.teacher, self.store, targets, spec, 1, 0, lambda *args, **values: None)


def labels(bench: Bench) -> list[dict[str, Any]]:
    """Features to raw and refined labels, with the dense way beside it where that takes seconds."""
    results = []
    if bench.options.samples:
        sizes = [(N, bench.options.dim) for N in bench.options.samples]
    elif bench.options.quick:
        sizes = [(500, 32)]
    else:
        sizes = [(MARKET["images"], MARKET["dim"]), *((N, 512) for N in GROWTH)]
    for N, D in sizes:
        options = bench.options
        result = bench_labels(
            N, D, repeats=options.repeats, features=options.features, dense=N <= 4000, device=options.device
        )
        show(result)
        results.append(result)
    return results


def step(bench: Bench) -> dict[str, float]:
    """A training step, and the same on one batch that lies ready: what the data path costs."""
    targets, iterations = hard_targets(bench.labels_N), 4 if bench.options.quick else 60
    bench.set_classifiers(targets)
    with_data = bench.median_seconds(lambda: bench.train(targets, iterations), 3) / iterations
    real_augment, ready = loop.augment, []

    def the_same_batch(pixels: Tensor, *args: Any) -> Tensor:
        if not ready:
            ready.append(real_augment(pixels, *args))
        return ready[0]

    class ReadyStore(ImageStore):
        def batch(self, indices_B: Tensor) -> Tensor:
            return self.pixels[: len(indices_B)]

    store, bench.store = bench.store, ReadyStore(bench.store.pixels, bench.device)
    loop.augment = the_same_batch
    try:
        constant = bench.median_seconds(lambda: bench.train(targets, iterations), 3) / iterations
    finally:
        loop.augment, bench.store = real_augment, store
    return {"seconds": with_data, "seconds_on_constant_tensors": constant, "ratio": with_data / constant}


def embedding(bench: Bench) -> dict[str, float]:
    """Images a second through the teacher."""
    seconds = bench.median_seconds(lambda: embed(bench.teacher, bench.store, bench.spec.data, bench.spec.features), 3)
    return {"images": len(bench.store), "seconds": seconds, "images_per_second": len(bench.store) / seconds}


def epoch(bench: Bench) -> dict[str, Any]:
    """One adaptation epoch at the size of Market-1501 on drawn noise, its stages, and what each copied.

    Noise has no clusters, and a network that has learnt nothing finds all images alike: what is clustered is drawn to
    cluster like trained embeddings, and the labels to train on are those of `labels_N`.
    """
    drawn_ND = torch.from_numpy(clustered_features(len(bench.store), bench.teacher.feature_dim)).to(bench.device)
    clusterer, slr = JaccardDBSCAN(k1=20 if bench.options.quick else 30, pairs_per_image=7), SLR()
    slr.update(bench.labels_N)

    def run() -> Clock:
        clock = Clock(bench.device)
        with clock.stage("features"):
            features_ND = embed(bench.teacher, bench.store, bench.spec.data, bench.spec.features)
        with clock.stage("clusters"):
            clusterer.fit_predict(drawn_ND)
        with clock.stage("refinement"):
            refined = slr.update(bench.labels_N)
        with clock.stage("targets"):
            targets = hard_targets(refined.hard)
            centroids_KD = class_centroids(features_ND, targets)
            bench.student.set_classifiers_from(centroids_KD)
            bench.teacher.set_classifiers_from(centroids_KD)
        with clock.stage("training"):
            bench.train(targets, bench.size["iterations"])
        return clock

    run()
    seconds = run().row()
    result: dict[str, Any] = {"iterations": bench.size["iterations"], "seconds": seconds}
    if bench.machine.cuda:
        bench.size = bench.size | {"iterations": 20}  # the trace of a whole epoch is large
        with recorded() as ledger:
            run()
        result["ledger"] = {
            name: {
                "kernels": work.kernels,
                "device_seconds": work.device_seconds,
                "to_host": vars(work.to_host),
                "to_device": vars(work.to_device),
            }
            for name, work in ledger().items()
        }
    return result


def search(bench: Bench) -> list[dict[str, Any]]:
    """The exact neighbour search with blocks of --pick-threads, which have to find the same: the fastest is to stay."""
    options, results = bench.options, []
    N, D = (500, 32) if options.quick else ((options.samples or [100_000])[0], options.dim)
    features_ND, k1 = bench.machine.put(clustered_features(N, D)), 30
    first = nearest_neighbours(features_ND, k1 + 1)
    for threads in options.pick_threads:
        nearest_cuda.PICK_THREADS = threads
        seconds = bench.median_seconds(lambda: nearest_neighbours(features_ND, k1 + 1), options.repeats)
        found = nearest_neighbours(features_ND, k1 + 1)
        equal = bool((found.indices_Nk == first.indices_Nk).all())
        results.append({"samples": N, "dim": D, "threads": threads, "seconds": seconds, "equal": equal})
    assert all(result["equal"] for result in results), results
    return results


PARTS = {"labels": labels, "step": step, "embedding": embedding, "epoch": epoch, "search": search}


def options_of(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=[name for name in PARTS if name != "search"])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="sizes for a look at whether everything runs")
    parser.add_argument(
        "--samples", type=int, nargs="+", help="images of `labels`, in place of its growth, and of `search`"
    )
    parser.add_argument("--dim", type=int, default=2048, help="dimensions that go with --samples")
    parser.add_argument("--features", choices=FEATURES, default="clustered", help="of `labels`")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--memory-pool", choices=("torch", "rmm"), default="torch", help="of a run: `memory_pool`")
    parser.add_argument("--pick-threads", type=int, nargs="+", default=[128, 256, 512], help="what `search` compares")
    parser.add_argument("-o", "--output", type=Path)
    return parser.parse_args(words)


def main(words: list[str] | None = None) -> int:
    options = options_of(words)
    bench = Bench(options)
    output = options.output or RESULTS / f"gpu-{re.sub('[^a-z0-9]+', '-', bench.machine.name.lower()).strip('-')}.json"
    results: dict[str, Any] = {
        "environment": environment(bench.machine.name),
        "quick": options.quick,
        "memory_pool": options.memory_pool,
    }
    failed = False
    for name in options.parts:
        print(f"== {name}", flush=True)
        try:
            results[name] = PARTS[name](bench)
        except Exception:  # the other parts are worth having
            results[name], failed = {"error": traceback.format_exc()}, True
        print(json.dumps(results[name], indent=1)[:4000], flush=True)
        output.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(results, indent=1) + "\n"
        write_atomically(output, lambda part, text=text: part.write_text(text))
    print(f"wrote {output}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
