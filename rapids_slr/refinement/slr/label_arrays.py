"""Label arrays as callers give them, checked and converted."""

from __future__ import annotations

from functools import reduce
from operator import or_

from rapids_slr.engine.arrays import Array, array_module, as_array
from rapids_slr.errors import InputError

LARGEST = 2**24  # cluster numbers; tables of clusters are as long as the largest number


def check_labels(labels: object, name: str = "labels") -> Array:
    """Labels as a new contiguous int32 array (N,); -1 = outlier, clusters 0, 1, ...

    A number that no image has is an empty cluster. Whole numbers of any type are taken, floats included.

    Raises: InputError if the array is not a list of labels, or has the number that -1 becomes in its unsigned type; the
        first offending index is named.
    """
    x_N = as_array(labels)
    xp = array_module(x_N)
    if x_N.ndim != 1 or (x_N.dtype.kind not in "iuf" and x_N.size):
        raise InputError(f"{name}: expected (N,) integers, got shape {tuple(x_N.shape)} of {x_N.dtype}")
    unsigned = x_N.dtype.kind == "u"
    wrapped = int(xp.iinfo(x_N.dtype).max) if unsigned else None
    if x_N.dtype.itemsize < 4:  # LARGEST is beyond the smallest types
        x_N = x_N.astype(xp.float32 if x_N.dtype.kind == "f" else xp.int32)
    kind = x_N.dtype.kind
    rules = [
        (x_N != xp.floor(x_N) if kind == "f" else None, "a whole number"),
        (x_N < -1 if kind != "u" else None, "-1 (outlier) or a cluster from 0"),
        (x_N >= LARGEST, f"below {LARGEST}; number clusters 0, 1, ... without gaps"),
        (x_N == wrapped if unsigned else None, f"no {wrapped}"),
    ]
    broken = [(bad_N, rule) for bad_N, rule in rules if bad_N is not None]
    if bool(reduce(or_, (bad_N for bad_N, _ in broken)).any()):  # one wait for a GPU where nothing is wrong
        bad_N, rule = next((bad_N, rule) for bad_N, rule in broken if bool(bad_N.any()))
        first = int(bad_N.argmax())
        if unsigned and int(x_N[first]) == wrapped:
            rule += ", which is what -1 (outlier) becomes without a sign; give labels with one (int32)"
        raise InputError(f"{name}[{first}] is {x_N[first]}, expected {rule} ({int(bad_N.sum())} such labels)")
    return xp.array(x_N, dtype=xp.int32, order="C")
