"""What refinement makes of cluster labels whose errors are known: a controlled bench of SLR, without images.

    python benchmarks/label_noise.py                          # all figures, about four minutes on one core
    python benchmarks/label_noise.py --noise 0.2 --seeds 3 --out noise.json

True identities are spoilt anew in every epoch, by errors of one kind or several, at a noise of p:

    outliers    every image is an outlier with probability p
    moved       every image is with probability p in the cluster of some image of another identity
    splits      a share p of the identities falls into two clusters, every image by the toss of a coin
    merges      a share p of the clusters, after splits, is joined two by two

The errors of two epochs are independent unless they persist: then every image, split and merge stays as it was with
probability `repeat` and is drawn anew otherwise. Figures are means over all epochs but the first, which has nothing
to compare with, and over the seeds. ARI counts every outlier as a cluster of its own.

A last part has no errors, but many times as many clusters as the epoch before, or as few.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rapids_slr.evaluation import agreement, label_quality, pair_errors
from rapids_slr.progress import Progress
from rapids_slr.provenance import environment
from rapids_slr.refinement import SLR

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

KINDS = {
    "outliers": ("outliers",),
    "moved": ("moved",),
    "splits": ("splits",),
    "merges": ("merges",),
    "splits + merges": ("splits", "merges"),
    "all kinds": ("outliers", "moved", "splits", "merges"),
}
DEFAULT = "default"
SETTINGS: dict[str, dict[str, Any]] = {
    DEFAULT: {},
    "hard argmax": {"hard": "argmax"},
    "hard dbscan": {"hard": "dbscan"},
    "hard none": {"hard": "none"},
    "alpha 0.2": {"alpha": 0.2},
    "alpha 0.4": {"alpha": 0.4},
    "alpha 0.6": {"alpha": 0.6},
    "alpha 0.8": {"alpha": 0.8},
    "memory refined": {"memory": "refined"},
    "outliers drop": {"outliers": "drop"},
    "noise argmax": {"noise": "argmax"},
    "merge 0.2": {"merge_distance": 0.2},
    "merge 0.4": {"merge_distance": 0.4},
    "refined + noise": {"memory": "refined", "noise": "argmax"},
    "0.4 + noise": {"alpha": 0.4, "noise": "argmax"},
}
"""What is tried: one setting at a time against the defaults of SLR, and two that go together."""
FEW = (DEFAULT, "hard argmax", "hard dbscan", "refined + noise")
"""Settings for more identities and for errors that persist."""
SMALL, LARGE = (53, 20), (751, 17)
"""Identities and images of each: a small domain, and about Market-1501's training split."""
REPEATS = (0.0, 0.5, 0.85, 0.92, 1.0)
OUT = Path(__file__).parent / "results" / "label-noise.json"


# Labels with known errors ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Errors:
    """The errors of one epoch. Identity i of I has the cluster 2 i and, where it is split, 2 i + 1 as well."""

    outlier_N: Bools
    moved_to_N: Ints
    """The image, of another identity, whose cluster this image is in; -1 for an image among its own."""
    half_N: Ints
    """Which part of its identity an image is in, 0 or 1, should that be split."""
    split_I: Bools
    partner_C: Ints
    """The cluster that a cluster is joined with, -1 for none; (2 I,)."""

    def labels(self, identity_N: Ints) -> Ints:
        """int64 (N,), -1 = outlier, clusters numbered from 0 without gaps."""
        cluster_N = _clusters(identity_N, self.half_N, self.split_I)
        cluster_N = np.where(self.moved_to_N >= 0, cluster_N[self.moved_to_N], cluster_N)
        partner_N = self.partner_C[cluster_N]
        cluster_N = np.where(partner_N >= 0, np.minimum(cluster_N, partner_N), cluster_N)
        labels_N = np.full(identity_N.size, -1)
        labels_N[~self.outlier_N] = np.unique(cluster_N[~self.outlier_N], return_inverse=True)[1]
        return labels_N


def draw_epochs(
    identity_N: Ints, kinds: Collection[str], noise: float, epochs: int, seed: int, repeat: float = 0.0
) -> Iterator[Ints]:
    """Labels (N,) of one epoch after another.

    Args:
        identity_N: (N,) identities, numbered from 0 without gaps.
        kinds: which errors there are, of `outliers`, `moved`, `splits`, `merges`.
        noise: share p of each kind, in [0, 1].
        repeat: probability that an image, split or merge stays as it was an epoch before.
    """
    rng, errors = np.random.default_rng(seed), None
    for _ in range(epochs):
        errors = draw_errors(identity_N, kinds, noise, rng, errors, repeat)
        yield errors.labels(identity_N)


def draw_errors(
    identity_N: Ints,
    kinds: Collection[str],
    noise: float,
    rng: np.random.Generator,
    before: Errors | None = None,
    repeat: float = 0.0,
) -> Errors:
    """The errors of one epoch, some of them those of the epoch `before`."""
    N, identities = identity_N.size, int(identity_N.max()) + 1
    outlier_N = (rng.random(N) < noise) & ("outliers" in kinds)
    moves_N = (rng.random(N) < noise) & ("moved" in kinds)
    moved_to_N = np.where(moves_N, _of_another_identity(identity_N, rng), -1)
    half_N = rng.integers(0, 2, N)
    split_I = np.zeros(identities, bool)
    if before is not None:
        outlier_N = np.where(rng.random(N) < repeat, before.outlier_N, outlier_N)
        moved_to_N = np.where(rng.random(N) < repeat, before.moved_to_N, moved_to_N)
        split_I = before.split_I & (rng.random(identities) < repeat)
        half_N = np.where(split_I[identity_N], before.half_N, half_N)
    splits = round(noise * identities) if "splits" in kinds else 0
    split_I[rng.permutation(np.flatnonzero(~split_I))[: splits - split_I.sum()]] = True

    clusters = np.unique(_clusters(identity_N, half_N, split_I))
    partner_C = np.full(2 * identities, -1)
    if before is not None:
        one = np.flatnonzero(before.partner_C > np.arange(2 * identities))
        other = before.partner_C[one]
        stays = np.isin(one, clusters) & np.isin(other, clusters) & (rng.random(one.size) < repeat)
        _join(partner_C, one[stays], other[stays])
    merges = round(noise * clusters.size / 2) if "merges" in kinds else 0
    free = rng.permutation(clusters[partner_C[clusters] < 0])[: max(2 * merges - (partner_C >= 0).sum(), 0)]
    _join(partner_C, free[: free.size // 2], free[free.size // 2 :])
    return Errors(outlier_N, moved_to_N, half_N, split_I, partner_C)


def _clusters(identity_N: Ints, half_N: Ints, split_I: Bools) -> Ints:
    return 2 * identity_N + half_N * split_I[identity_N]


def _join(partner_C: Ints, one: Ints, other: Ints) -> None:
    partner_C[one], partner_C[other] = other, one


def _of_another_identity(identity_N: Ints, rng: np.random.Generator) -> Ints:
    """For every image some image of another identity, int64 (N,)."""
    found_N = rng.integers(0, identity_N.size, identity_N.size)
    while (same_N := identity_N[found_N] == identity_N).any():
        found_N[same_N] = rng.integers(0, identity_N.size, same_N.sum())
    return found_N


def recounted(identities: int, images: int, factor: int, rng: np.random.Generator) -> tuple[Ints, Ints]:
    """True identities, and clusters of which there are `factor` times as many: each a random part of one identity."""
    identity_N = np.repeat(np.arange(identities), images)
    return identity_N, identity_N * factor + rng.integers(0, factor, identity_N.size)


# Measuring ------------------------------------------------------------------------------------------------------------


def measure(
    size: tuple[int, int],
    kind: str,
    noise: float,
    settings: Collection[str],
    epochs: int,
    seeds: int,
    repeat: float = 0.0,
) -> dict[str, Any]:
    """Quality of raw and refined labels for one kind and level of noise."""
    identity_N = np.repeat(np.arange(size[0]), size[1])
    found: dict[str, list[list[dict[str, float]]]] = {name: [] for name in ("raw", *settings)}  # name, seed, epoch
    again: dict[str, list[float]] = {"false": [], "missing": []}
    for seed in range(seeds):
        refinements = {name: SLR(**SETTINGS[name]) for name in settings}
        rows: dict[str, list[dict[str, float]]] = {name: [] for name in found}
        before: dict[str, Ints] = {}
        for now_N in draw_epochs(identity_N, KINDS[kind], noise, epochs, seed, repeat):
            labels = {"raw": now_N} | {name: slr.update(now_N).hard for name, slr in refinements.items()}
            if before:
                for name, labels_N in labels.items():
                    stable = agreement(labels_N, before[name])
                    rows[name].append(label_quality(labels_N, identity_N) | {"ari_prev": stable})
                errors = pair_errors(now_N, identity_N, before["raw"])
                for name, error in (("false", "false"), ("missing", "missed")):
                    again[name] += [errors[f"{error}_repeated"]] if errors[f"{error}_pairs"] else []
            before = labels
        for name in found:
            found[name].append(rows[name])
    result: dict[str, Any] = {
        "identities": size[0],
        "images": size[1],
        "kind": kind,
        "noise": noise,
        "repeat": repeat,
        "epochs": epochs,
        "seeds": seeds,
        "wrong_again": {name: round(mean(shares), 5) if shares else None for name, shares in again.items()},
    }
    for name, rows_of_seeds in found.items():
        ari = [mean(row["ari"] for row in rows) for rows in rows_of_seeds]
        every = [row for rows in rows_of_seeds for row in rows]
        result[name] = {
            "ari": round(mean(ari), 5),
            "ari_spread": round(stdev(ari), 5) if seeds > 1 else None,
            **{
                key: round(mean(row[key] for row in every), 5)
                for key in ("ari_labelled", "ari_prev", "clusters", "outliers")
            },
        }
    return result


def measure_recount(factor: int, seeds: int) -> list[dict[str, Any]]:
    """What becomes of projection and refined labels where there are `factor` times as many clusters, or as few.

    `more`: true identities first, then random parts of them; `fewer`: parts first, then the identities. Of the rows of
    the projection: their entries and the largest; of the labels: clusters and ARI.
    """
    found: dict[str, list[dict[str, float]]] = {"more": [], "fewer": []}
    for seed in range(seeds):
        identity_N, part_N = recounted(50, 100, factor, np.random.default_rng(seed))
        for name, (before_N, now_N) in {"more": (identity_N, part_N), "fewer": (part_N, identity_N)}.items():
            slr = SLR()
            slr.update(before_N)
            refined = slr.update(now_N)
            found[name].append(
                {
                    "clusters_before": float(before_N.max() + 1),
                    "clusters_now": float(now_N.max() + 1),
                    "refined_clusters": float(refined.hard.max() + 1),
                    "left_out": float((refined.hard < 0).sum()),
                    "entries_a_row": float((refined.projection > 0).sum(axis=1).mean()),
                    "largest_entry": float(refined.projection.max(axis=1).mean()),
                    "raw_ari": label_quality(now_N, identity_N)["ari"],
                    "refined_ari": label_quality(refined.hard, identity_N)["ari"],
                    "agreement_with_now": agreement(refined.hard, now_N),
                }
            )
    return [
        {"direction": name, "factor": factor, "seeds": seeds}
        | {key: round(mean(row[key] for row in rows), 5) for key in rows[0]}
        for name, rows in found.items()
    ]


def show(results: list[dict[str, Any]], settings: Collection[str]) -> None:
    """ARI of raw labels, and what each setting adds to it."""
    one = results[0]
    print(
        f"\n{one['identities']} identities x {one['images']} images; {one['seeds']} seeds, {one['epochs'] - 1} epochs"
    )
    wide = {name: max(len(name), 7) for name in settings}
    print(f"{'':16s} noise repeat  false again  raw ARI  " + "  ".join(f"{name:>{w}s}" for name, w in wide.items()))
    for row in results:
        gains = [f"{row[name]['ari'] - row['raw']['ari']:+{w}.3f}" for name, w in wide.items()]
        share = row["wrong_again"]["false"]
        again = "-" if share is None else f"{share:.2f}"
        print(
            f"{row['kind']:16s} {row['noise']:5.2f} {row['repeat']:6.2f} {again:>12s} {row['raw']['ari']:8.3f}  "
            + "  ".join(gains)
        )


def a_line_a_case(found: dict[str, Any]) -> str:
    """JSON with a line for each entry of each part."""
    parts = []
    for name, part in found.items():
        if isinstance(part, list):
            lines = [f"  {json.dumps(entry)}" for entry in part]
            parts.append(f"{json.dumps(name)}: [\n" + ",\n".join(lines) + "\n ]")
        else:
            lines = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in part.items()]
            parts.append(f"{json.dumps(name)}: {{\n" + ",\n".join(lines) + "\n }")
    return "{\n " + ",\n ".join(parts) + "\n}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--noise", type=float, nargs="+", default=[0.1, 0.2, 0.3, 0.4, 0.5])
    parser.add_argument("--repeat", type=float, nargs="+", default=list(REPEATS), help="for errors that persist")
    parser.add_argument("--persistent-noise", type=float, default=0.2, help="their noise")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()

    start = time.perf_counter()
    few = {"epochs": options.epochs, "seeds": options.seeds}
    parts = {
        "independent": [(SMALL, kind, noise, tuple(SETTINGS), 0.0) for kind in KINDS for noise in options.noise],
        "independent, more identities": [
            (LARGE, kind, noise, FEW, 0.0) for kind in KINDS for noise in options.noise if 0.15 <= noise <= 0.35
        ],
        "persistent": [
            (SMALL, kind, options.persistent_noise, FEW, repeat) for kind in KINDS for repeat in options.repeat
        ],
    }
    found: dict[str, Any] = {"environment": environment(), "settings": SETTINGS}
    with Progress() as progress, progress.task("label noise", sum(map(len, parts.values())), "cases") as task:
        for part, cases in parts.items():
            found[part] = []
            for size, kind, noise, settings, repeat in cases:
                found[part].append(measure(size, kind, noise, settings, repeat=repeat, **few))
                task.advance()
    found["recount"] = [row for factor in (2, 5, 10) for row in measure_recount(factor, options.seeds)]
    for part, cases in parts.items():
        if cases:
            show(found[part], cases[0][3])
    for row in found["recount"]:
        print("  ".join(f"{key} {value:g}" if key != "direction" else f"\n{value}:" for key, value in row.items()))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(a_line_a_case(found) + "\n")
    print(f"\n{time.perf_counter() - start:.0f} s; written to {options.out}")


if __name__ == "__main__":
    main()
