"""What cameras add to features, taken away before clustering."""

from __future__ import annotations

from typing import Any

import numpy as np

from rapids_slr.engine.arrays import Array, array_module, as_array
from rapids_slr.errors import InputError
from rapids_slr.group import ALONE, Group, add_rows, divided
from rapids_slr.marks import step

FEWEST = 8
"""Images of a camera whose mean is taken by itself; the mean of fewer is more that of the people it saw."""
NOTHING = 1e-6
"""Length below which what is left of a feature is rounding."""


def check_cameras(cameras: Any, N: int) -> np.ndarray:
    """Cameras as NumPy int64 (N,), whatever library they came in.

    Raises: InputError if they are no integers, one an image.
    """
    camera_N = as_array(cameras)
    camera_N = camera_N.get() if hasattr(camera_N, "get") else camera_N
    if camera_N.shape != (N,) or camera_N.dtype.kind not in "iu":
        raise InputError(f"cameras: expected ({N},) integers, one an image, got {camera_N.shape} {camera_N.dtype}")
    return camera_N.astype(np.int64)


def takes_centre(cameras: str, camera_N: np.ndarray | None) -> bool:
    """Whether features are centred by camera: asked for, or `auto` with two cameras or more that have images enough.

    Raises: InputError for `centre` without cameras.
    """
    if cameras == "centre" and camera_N is None:
        raise InputError("cameras: `centre` needs the camera of every image; give fit(features, cameras=...)")
    if cameras == "ignore" or camera_N is None:
        return False
    _, count_C = np.unique(camera_N, return_counts=True)
    return cameras == "centre" or int((count_C >= FEWEST).sum()) > 1


@step("cameras")
def centre_cameras(features_ND: Array, camera_N: np.ndarray, group: Group = ALONE) -> Array:
    """Features less the mean feature of their camera, rows of unit length again.

    Cameras of fewer than FEWEST images share one mean; where even these are fewer together, it is that of all images.
    A feature that is its camera's mean, and so has nothing left, stays as it is.

    Args:
        features_ND: (N, D) float32, unit rows, NumPy or CuPy.
        camera_N: (N,) int64, on the host.
        group: its processes hold the features, each its share; cameras are of all images.
    Returns: (N, D) float32, a new array; of a group the share of this process.
    """
    xp = array_module(features_ND)
    camera_of, count_C = np.unique(camera_N, return_inverse=True, return_counts=True)[1:]
    sets = [np.flatnonzero(camera_of == camera) for camera in np.flatnonzero(count_C >= FEWEST)]
    if (rest := np.flatnonzero(count_C[camera_of] < FEWEST)).size:
        sets.append(rest)
    means = [] if group.size == 1 else _means_of_shares_cpu(features_ND, sets, group)
    mean_D = means[-1] if means else features_ND.mean(axis=0)
    centred_ND, share = xp.empty_like(features_ND), group.share(camera_N.size)
    for number, rows in enumerate(sets):
        index = xp.asarray(_within_cpu(rows, share))
        own = features_ND[index]
        if rows.size < FEWEST:
            centred_ND[index] = own - mean_D
        else:
            centred_ND[index] = own - (means[number] if means else own.mean(axis=0))
    length_N = xp.linalg.norm(centred_ND, axis=1)
    gone_N = length_N < NOTHING
    # Divided by 1 where nothing is left: 0 / 0 would warn, and the row is replaced below.
    centred_ND /= xp.where(gone_N, 1, length_N)[:, None]
    return xp.where(gone_N[:, None], features_ND, centred_ND)


def _means_of_shares_cpu(features_ND: np.ndarray, sets: list[np.ndarray], group: Group) -> list[np.ndarray]:
    """Of the features that a group holds, the mean (D,) float32 of each set of rows, and of all: as NumPy adds them."""
    N = group.total(len(features_ND))
    share = group.share(N)

    def add(total_SD: np.ndarray) -> np.ndarray:
        for number, rows in enumerate(sets):
            total_SD[number] = add_rows(total_SD[number], features_ND[_within_cpu(rows, share)])
        total_SD[-1] = add_rows(total_SD[-1], features_ND)
        return total_SD

    total_SD = group.in_turn(np.full((len(sets) + 1, features_ND.shape[1]), -0.0, np.float32), add)
    return [divided(total_D, n) for total_D, n in zip(total_SD, [*(rows.size for rows in sets), N], strict=True)]


def _within_cpu(rows: np.ndarray, share: range) -> np.ndarray:
    """Those of ascending rows that are in a share, counted from its first."""
    low, high = np.searchsorted(rows, [share.start, share.stop])
    return rows[low:high] - share.start
