"""Files of features and labels."""

from __future__ import annotations

import logging
import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from rapids_slr.cli.options import Device, print_table

log = logging.getLogger(__name__)


class Search(StrEnum):
    exact = "exact"
    approximate = "approximate"


class Hard(StrEnum):
    hdbscan = "hdbscan"
    argmax = "argmax"
    dbscan = "dbscan"
    none = "none"


class Outliers(StrEnum):
    project = "project"
    drop = "drop"


class Noise(StrEnum):
    drop = "drop"
    argmax = "argmax"


def cluster(
    features: Annotated[Path, typer.Argument(metavar="FEATURES", help="(N, D) as .npy, .safetensors or .parquet.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="OUT", help="Labels: .npy, .csv or .parquet.")],
    k1: Annotated[int, typer.Option(help="Neighbours that must be reciprocal.")] = 20,
    k2: Annotated[int, typer.Option(help="Images averaged by query expansion; 1 leaves it out.")] = 6,
    pairs_per_image: Annotated[
        float, typer.Option(help="The radius is the mean distance of this many nearest pairs an image.")
    ] = 13,
    rho: Annotated[
        float | None, typer.Option(help="In its place, this fraction of all pairs.", show_default=False)
    ] = None,
    eps: Annotated[
        float | None, typer.Option(help="In place of both, a fixed radius, 0 to 1.", show_default=False)
    ] = None,
    min_samples: Annotated[int, typer.Option(help="Images within the radius that make a core point.")] = 4,
    min_size: Annotated[int, typer.Option(help="Smaller clusters become outliers.")] = 1,
    key: Annotated[
        str | None, typer.Option(metavar="NAME", help="Tensor or column, if there are several.", show_default=False)
    ] = None,
    normalise: Annotated[bool, typer.Option("--normalise", help="Divide every row by its length first.")] = False,
    device: Annotated[Device, typer.Option(help="Engine; auto takes CUDA where it works.")] = Device.auto,
    search: Annotated[
        Search, typer.Option(help="All nearest neighbours, or on CUDA most of them, faster.")
    ] = Search.exact,
) -> None:
    """Cluster features: DBSCAN on the k-reciprocal Jaccard distance. Label -1 is an outlier.

    Rows of FEATURES have unit length. In a .parquet file they are a column of lists, or a column for each dimension.

    A table of labels has the columns sample and path of FEATURES, or else sample, the number of a row; and cluster.
    """
    from rapids_slr.labelfiles import LABEL_WRITERS, check_suffix, read_features, write_labels

    check_suffix(out, LABEL_WRITERS)
    features_ND, images = read_features(features, key, normalise)

    import numpy as np
    import torch

    from rapids_slr.clustering import JaccardDBSCAN
    from rapids_slr.engine.backend import choose_backend
    from rapids_slr.kernels.runtime import warm_up
    from rapids_slr.progress import Progress

    backend = choose_backend(device.value)
    model = JaccardDBSCAN(
        k1=k1,
        k2=k2,
        pairs_per_image=pairs_per_image,
        rho=rho,
        eps=eps,
        min_samples=min_samples,
        min_size=min_size,
        search=search.value,
    )
    with Progress() as progress, progress.task("compiling kernels, kept for later", None, "kernels") as task:
        warm_up(task.advance, cuda=backend.name == "cuda")  # not in the seconds below
    start = time.perf_counter()
    labels_N = model.fit_predict(torch.as_tensor(features_ND).to(backend.device)).cpu().numpy()
    seconds = time.perf_counter() - start
    write_labels(out, images.assign(cluster=labels_N), "cluster")

    N, D = features_ND.shape
    sizes = np.bincount(labels_N[labels_N >= 0])
    largest = int(sizes.max(initial=0))
    summary = {
        "images": N,
        "dimensions": D,
        "eps": float(f"{model.eps_:.4g}"),
        "clusters": len(sizes),
        "outliers": N - int(sizes.sum()),
        "largest cluster": largest,
        "engine": backend.name,
        "seconds": round(seconds, 2),
    }
    print_table(str(out), [summary])
    if largest > N / 10:
        log.warning(
            "one of %d clusters holds %d of %d images; if that is too many, lower --pairs-per-image, --rho or --eps",
            len(sizes),
            largest,
            N,
        )
    elif not largest:
        log.warning("every image is an outlier; raise --pairs-per-image, --rho or --eps, or lower --min-samples")


def refine(
    previous: Annotated[Path, typer.Argument(metavar="PREV", help="Labels of last epoch: .npy, .csv or .parquet.")],
    current: Annotated[Path, typer.Argument(metavar="CUR", help="Labels of this epoch, of the same images.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="OUT", help="Refined labels: .npy, .csv or .parquet.")],
    alpha: Annotated[float, typer.Option(help="Weight of this epoch's clusters against last epoch's, 0 to 1.")] = 0.5,
    min_cluster_size: Annotated[int, typer.Option(help="Images of the smallest refined cluster.")] = 7,
    min_samples: Annotated[
        int | None,
        typer.Option(help="Neighbours that make a place dense; --min-cluster-size without.", show_default=False),
    ] = None,
    hard: Annotated[Hard, typer.Option(help="How soft labels become hard ones; none: their argmax.")] = Hard.hdbscan,
    outliers: Annotated[
        Outliers, typer.Option(help="Outliers with a previous cluster take its projection, or are left out.")
    ] = Outliers.project,
    noise: Annotated[
        Noise, typer.Option(help="Noise of the hard step is left out, or joins the cluster of most of its own.")
    ] = Noise.drop,
    merge_distance: Annotated[float, typer.Option(help="HDBSCAN clusters that part below it stay together.")] = 0.0,
    min_confidence: Annotated[float, typer.Option(help="Least largest entry of the soft label of a kept image.")] = 0.0,
    column: Annotated[
        str | None, typer.Option(metavar="NAME", help="Column with the labels, of both tables.", show_default=False)
    ] = None,
    soft: Annotated[
        Path | None,
        typer.Option(metavar="FILE.npz", help="Save the soft labels too, scipy sparse (N, K).", show_default=False),
    ] = None,
) -> None:
    """Refine this epoch's labels with last epoch's, as one step of SLR. Label -1 is an outlier, or left out.

    Labels of a table are its column `label` or `cluster`, or its only one.

    Two tables are matched by their column `path` or `sample`; otherwise images are in the same order in both files.

    OUT keeps the order of CUR: sample, path, previous, cluster, refined, confidence; as .npy the refined labels alone.
    """
    from rapids_slr.labelfiles import (
        LABEL_WRITERS,
        SOFT_SUFFIXES,
        check_suffix,
        join_labels,
        read_labels,
        write_labels,
        write_soft_labels,
    )

    check_suffix(out, LABEL_WRITERS)
    if soft is not None:
        check_suffix(soft, SOFT_SUFFIXES)
    pair = join_labels(read_labels(previous, column), read_labels(current, column))

    import numpy as np

    from rapids_slr.refinement import SLR

    slr = SLR(
        alpha=alpha,
        min_cluster_size=min_cluster_size,
        min_samples=min_samples,
        hard=hard.value,
        outliers=outliers.value,
        noise=noise.value,
        merge_distance=merge_distance,
        min_confidence=min_confidence,
    )
    slr.update(pair.previous_N)
    refined = slr.update(pair.current_N)

    columns = {"previous": pair.previous_N, "cluster": pair.current_N, "refined": refined.hard}
    write_labels(out, pair.images.assign(**columns, confidence=refined.confidence), "refined")
    if soft is not None:
        write_soft_labels(soft, refined.soft)

    clusters = {name: len(np.unique(labels_N[labels_N >= 0])) for name, labels_N in columns.items()}
    summary = {
        "images": len(pair.images),
        "matched by": pair.matched_by,
        "clusters before": clusters["previous"],
        "now": clusters["cluster"],
        "refined": clusters["refined"],
        "outliers": int((pair.current_N < 0).sum()),
        "rescued": refined.rescued,
        "left out": int((refined.hard < 0).sum()),
    }
    print_table(str(out), [summary])
