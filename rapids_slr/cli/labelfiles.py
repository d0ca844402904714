"""Files of features and labels."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rapids_slr.cli.keys import with_keys
from rapids_slr.cli.options import Device, print_table
from rapids_slr.clustering.keys import JaccardDBSCANKeys
from rapids_slr.refinement.slr.keys import SLRKeys

if TYPE_CHECKING:
    import numpy as np

    from rapids_slr.labelfiles import LabelPair
    from rapids_slr.refinement import Refined

log = logging.getLogger(__name__)


# The source term needs features that no argument gives.
@with_keys(JaccardDBSCANKeys, without=("source_weight", "solver"))
def cluster(
    features: Annotated[Path, typer.Argument(metavar="FEATURES", help="(N, D) as .npy, .safetensors or .parquet.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="OUT", help="Labels: .npy, .csv or .parquet.")],
    keys: Mapping[str, Any],
    key: Annotated[
        str | None, typer.Option(metavar="NAME", help="Tensor or column, if there are several.", show_default=False)
    ] = None,
    normalise: Annotated[bool, typer.Option("--normalise", help="Divide every row by its length first.")] = False,
    device: Annotated[Device, typer.Option(help="Engine; auto takes CUDA where it works.")] = Device.auto,
) -> None:
    """Cluster features: DBSCAN on the k-reciprocal Jaccard distance. Label -1 is an outlier.

    Rows of FEATURES have unit length. In a .parquet file they are a column of lists, or a column for each dimension.

    A table of labels has the columns sample and path of FEATURES, or else sample, the number of a row; and cluster.
    """
    from rapids_slr.files import check_output
    from rapids_slr.labelfiles import LABEL_WRITERS, check_suffix, read_features, write_labels

    # What cannot be written, or read, is said before anything is computed.
    check_suffix(out, LABEL_WRITERS)
    check_output(out, features)
    features_ND, images = read_features(features, key, normalise)

    import torch

    from rapids_slr.clustering import JaccardDBSCAN
    from rapids_slr.engine.arrays import as_array, to_host
    from rapids_slr.engine.backend import choose_backend
    from rapids_slr.progress import Progress
    from rapids_slr.warmup import warm_up

    backend = choose_backend(device.value)
    model = JaccardDBSCAN(**keys)
    with Progress() as progress, progress.task("compiling kernels, kept for later", None, "kernels") as task:
        warm_up(task.advance, cuda=backend.name == "cuda")  # not in the seconds below
    start = time.perf_counter()
    # On the CPU as they are: rows may lie in the file.
    given = features_ND if backend.name == "cpu" else torch.as_tensor(features_ND).to(backend.device)
    with Progress() as progress, progress.task("nearest neighbours", len(features_ND), "images") as task:
        labels_N = to_host(as_array(model.fit_predict(given, progress=task.advance))).astype("int32")
    seconds = round(time.perf_counter() - start, 2)
    write_labels(out, images.assign(cluster=labels_N), "cluster")

    facts = {"engine": backend.name, "seconds": seconds}
    print_clusters(out, labels_N, features_ND.shape[1], float(f"{model.eps_:.4g}"), model.copies_, facts)


def print_clusters(
    out: Path, labels_N: np.ndarray, D: int, eps: float, copies: int, facts: Mapping[str, object]
) -> None:
    """What `cluster` has found, and a warning where that is no clustering."""
    import numpy as np

    N, sizes = len(labels_N), np.bincount(labels_N[labels_N >= 0])
    largest = int(sizes.max(initial=0))
    summary = {
        "images": N,
        **({"copies": copies} if copies else {}),
        "dimensions": D,
        "eps": eps,
        "clusters": len(sizes),
        "outliers": N - int(sizes.sum()),
        "largest cluster": largest,
        **facts,
    }
    print_table(str(out), [summary])
    if largest > N / 10 and eps > 0:  # of features that have collapsed the estimator has told
        log.warning(
            "one of %d clusters holds %d of %d images; if that is too many, lower --pairs-per-image, --rho or --eps",
            len(sizes),
            largest,
            N,
        )
    elif not largest:
        log.warning("every image is an outlier; raise --pairs-per-image, --rho or --eps, or lower --min-samples")


# A single step leaves no memory; labels of files lie in host memory, where cuML does not work.
@with_keys(SLRKeys, without=("memory",), no_choice={"hard": ("cuml",)})
def refine(
    previous: Annotated[Path, typer.Argument(metavar="PREV", help="Labels of last epoch: .npy, .csv or .parquet.")],
    current: Annotated[Path, typer.Argument(metavar="CUR", help="Labels of this epoch, of the same images.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="OUT", help="Refined labels: .npy, .csv or .parquet.")],
    keys: Mapping[str, Any],
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
    from rapids_slr.files import check_output
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
    check_output(out, previous, current)
    if soft is not None:
        check_suffix(soft, SOFT_SUFFIXES)
        check_output(soft, previous, current, out)
    pair = join_labels(read_labels(previous, column), read_labels(current, column))

    from rapids_slr.refinement import SLR

    slr = SLR(**keys)
    # The first update is for the memory.
    slr.update(pair.previous_N)
    refined = slr.update(pair.current_N)

    columns = {"previous": pair.previous_N, "cluster": pair.current_N, "refined": refined.hard}
    write_labels(out, pair.images.assign(**columns, confidence=refined.confidence), "refined")
    if soft is not None:
        write_soft_labels(soft, refined.soft)
    print_refined(out, pair, refined)


def print_refined(out: Path, pair: LabelPair, refined: Refined) -> None:
    """What `refine` has made of two clusterings."""
    import numpy as np

    columns = {"clusters before": pair.previous_N, "now": pair.current_N, "refined": refined.hard}
    summary = {
        "images": len(pair.images),
        "matched by": pair.matched_by,
        **{name: len(np.unique(labels_N[labels_N >= 0])) for name, labels_N in columns.items()},
        "outliers": int((pair.current_N < 0).sum()),
        "rescued": refined.rescued,
        "left out": int((refined.hard < 0).sum()),
    }
    print_table(str(out), [summary])
