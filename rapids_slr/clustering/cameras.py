"""What cameras add to features, taken away before clustering."""

from __future__ import annotations

from typing import Any

import numpy as np

from rapids_slr.engine.arrays import Array, array_module, as_array
from rapids_slr.errors import InputError
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
def centre_cameras(features_ND: Array, camera_N: np.ndarray) -> Array:
    """Features less the mean feature of their camera, rows of unit length again.

    Cameras of fewer than FEWEST images share one mean; where even these are fewer together, it is that of all images.
    A feature that is its camera's mean, and so has nothing left, stays as it is.

    Args:
        features_ND: (N, D) float32, unit rows, NumPy or CuPy.
        camera_N: (N,) int64, on the host.
    Returns: (N, D) float32, a new array.
    """
    xp = array_module(features_ND)
    camera_of, count_C = np.unique(camera_N, return_inverse=True, return_counts=True)[1:]
    groups = [np.flatnonzero(camera_of == camera) for camera in np.flatnonzero(count_C >= FEWEST)]
    if (rest := np.flatnonzero(count_C[camera_of] < FEWEST)).size:
        groups.append(rest)
    mean_D = features_ND.mean(axis=0)
    centred_ND = xp.empty_like(features_ND)
    for rows in groups:
        index = xp.asarray(rows)
        own = features_ND[index]
        centred_ND[index] = own - (own.mean(axis=0) if rows.size >= FEWEST else mean_D)
    length_N = xp.linalg.norm(centred_ND, axis=1)
    gone_N = length_N < NOTHING
    # Divided by 1 where nothing is left: 0 / 0 would warn, and the row is replaced below.
    centred_ND /= xp.where(gone_N, 1, length_N)[:, None]
    return xp.where(gone_N[:, None], features_ND, centred_ND)
