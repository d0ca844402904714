"""The product of images on the CPU, tile by tile: whoever computes a tile offers it while it lies in the cache.

Every thread has tiles of its own, and computes their product alone: threads of torch beside those of the kernels would
wait for each other, and while they wait keep a core busy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import cache, partial
from threading import Lock
from typing import NamedTuple

import numpy as np
import torch

from rapids_slr.engine.blocks import as_tensor, in_precision
from rapids_slr.kernels import nearest
from rapids_slr.kernels.runtime import each_in_parallel

TILE = 512  # rows and columns: a MB of similarities
TILES = 8  # of a strip, whose rows are rounded once for all that meet it


def multiply(rows: nearest.Part, columns: nearest.Part, tell: Callable[[int], None]) -> None:
    """Offer images of two parts, or of one, to each other; `tell` is called with numbers of pairs."""
    product = _Product(rows, columns)
    with in_precision("ieee"):
        for pairs in each_in_parallel(product.offer_cpu, product.runs()):
            tell(pairs)


class _Run(NamedTuple):
    """A row of tiles: TILE images from `row` on beside those of a strip from `column` on."""

    row: int
    column: int
    first: int
    """Of the strip."""
    strip: Callable[[], torch.Tensor]
    """Its rows as they are multiplied, which whoever needs them first computes."""


class _Product:
    def __init__(self, rows: nearest.Part, columns: nearest.Part) -> None:
        self.rows, self.columns = rows, columns
        self.x, self.y = as_tensor(rows.of.x_ND), as_tensor(columns.of.x_ND)
        self.dtype = torch.bfloat16 if rows.of.share > 0 else torch.float32
        self.row_locks = [Lock() for _ in range(0, len(self.x), TILE)]
        self.column_locks = self.row_locks if rows is columns else [Lock() for _ in range(0, len(self.y), TILE)]

    def runs(self) -> Iterator[_Run]:
        """All tiles of two parts, or those of one that are not below the diagonal.

        Squares on the diagonal come first: after them every image knows how near others must be.
        """
        same = self.rows is self.columns
        if same:
            for row in range(0, len(self.x), TILE):
                yield _Run(row, row, row, cache(partial(self._strip, row, TILE)))
        # No more than a few strips are rounded at a time: features may lie in a file.
        for first in range(0, len(self.y), TILES * TILE):
            strip, end = cache(partial(self._strip, first, TILES * TILE)), min(first + TILES * TILE, len(self.y))
            for row in range(0, min(len(self.x), end - TILE) if same else len(self.x), TILE):
                yield _Run(row, max(first, row + TILE) if same else first, first, strip)

    def _strip(self, first: int, rows: int) -> torch.Tensor:
        return self.y[first : first + rows].to(self.dtype)

    def offer_cpu(self, run: _Run) -> int:
        """Compute the tiles of a run and offer them; returns how many pairs of images they stand for."""
        left, strip, pairs = self.x[run.row : run.row + TILE].to(self.dtype), run.strip(), 0
        space = np.empty(TILE * TILE, np.int16 if self.dtype == torch.bfloat16 else np.float32)
        columns = range(run.column, run.first + len(strip), TILE)
        # Each row begins elsewhere, so that threads do not wait for the same columns.
        turn = run.row // TILE % len(columns)
        for column in [*columns[turn:], *columns[:turn]]:
            right = strip[column - run.first :][:TILE]
            block_IJ = space[: len(left) * len(right)].reshape(len(left), len(right))
            torch.mm(left, right.T, out=as_tensor(block_IJ).view(self.dtype))
            square = self.rows is self.columns and column == run.row
            with self.row_locks[run.row // TILE], nullcontext() if square else self.column_locks[column // TILE]:
                nearest.offer(block_IJ, run.row, column, self.rows, self.columns)
            pairs += block_IJ.size if square else 2 * block_IJ.size
        return pairs
