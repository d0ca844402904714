"""Everything that a first call would compile, load or set up, done before a clock runs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from rapids_slr import kernels
from rapids_slr.clustering import JaccardDBSCAN
from rapids_slr.refinement import SLR

IMAGES, EACH, WIDTH = 512, 16, 64
"""Of the dry run: rows, rows of a cluster, and dimensions."""


def warm_up(progress: Callable[[int], None] | None = None, cuda: bool = False) -> None:
    """Make every kernel ready, and on CUDA go once through all label steps, so that no timed stage does it.

    Kernels are compiled, or loaded from what is kept on disk. CuPy compiles its own for each type and operation when
    they are first asked for, which only a run asks in full; and the libraries of matrix products and sorting set
    themselves up.

    Args:
        progress: called with 1 after every kernel.
        cuda: the kernels and the libraries of the current CUDA device too.
    """
    kernels.warm_up(progress, cuda)
    if cuda:
        dry_run(torch.device("cuda", torch.cuda.current_device()))


def dry_run(device: torch.device) -> None:
    """Cluster a few drawn rows and refine their labels over two epochs, in all types that a run has."""
    draw = np.random.default_rng(0)  # of its own: what a run draws stays as it is
    rows_ND = np.repeat(draw.standard_normal((IMAGES // EACH, WIDTH)), EACH, axis=0)
    rows_ND += 0.2 * draw.standard_normal(rows_ND.shape)
    rows_ND /= np.linalg.norm(rows_ND, axis=1, keepdims=True)
    features_ND = torch.from_numpy(rows_ND).to(device, torch.float32)
    camera_N = torch.arange(IMAGES, device=device) % 2
    plain = JaccardDBSCAN(k1=EACH, pairs_per_image=EACH / 2 - 1)
    full = JaccardDBSCAN(k1=EACH, pairs_per_image=EACH / 2 - 1, source_weight=0.1, cameras="centre", min_share=0.33)
    for clusterer in (plain, full):
        labels_N = clusterer.fit_predict(features_ND, source=features_ND[:EACH], cameras=camera_N)
    moved_N = labels_N.roll(EACH // 2)
    moved_N[::EACH] = -1
    for slr in (SLR(hard="hdbscan"), SLR(hard="none", min_confidence=0.1), SLR(hard="argmax")):
        for now_N in (labels_N.int(), moved_N):  # labels of a checkpoint are int32, those of a caller often int64
            refined = slr.update(now_N)
        refined.confidence, refined.rows, refined.soft, refined.projection, refined.overlap  # noqa: B018 - on request
    if device.type == "cuda":
        torch.cuda.synchronize(device)
