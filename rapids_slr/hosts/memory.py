"""Memories: rows of unit length, one for each class or image, that follow what a network makes of it.

M rows, B images of a batch, D features.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from rapids_slr.marks import step


class Memory:
    """Rows that move towards features: row <- unit(momentum row + (1 - momentum) feature).

    Args:
        rows_MD: where they begin, float32; scaled to unit length.
        momentum: 0 to 1, what an image leaves of a row.
    """

    def __init__(self, rows_MD: Tensor, momentum: float) -> None:
        # One row more, which takes what is to move none: no step waits to know how many images that are.
        self._rows = F.pad(F.normalize(rows_MD.detach().float(), dim=1), (0, 0, 0, 1))
        self._momentum = momentum

    @property
    def rows_MD(self) -> Tensor:
        """(M, D) float32, unit rows; without a gradient. It changes where a memory follows."""
        return self._rows[:-1]

    def load(self, rows_MD: Tensor) -> None:
        """Go on from rows that a memory had, as they are."""
        self._rows[:-1] = rows_MD

    @step("memory update")
    @torch.no_grad()
    def follow(self, features_BD: Tensor, rows_B: Tensor, turns: int) -> None:
        """Move rows towards the images of a batch, one image after the other.

        Args:
            features_BD: (B, D) float32, unit rows.
            rows_B: (B,) int64, the row of each image.
            turns: most images that share a row, or more; see `most_turns`.
        """
        turn_B = _turn(rows_B)
        for turn in range(turns):  # within one no two images share a row
            self._move(turn_B == turn, rows_B, features_BD)

    @step("memory update")
    @torch.no_grad()
    def follow_hardest(self, features_BD: Tensor, rows_B: Tensor) -> None:
        """Move every row once, towards the image of the batch that is least like it; of equals the first.

        Args: as of `follow`.
        """
        likeness_B = (features_BD * self._rows[rows_B]).sum(dim=1)
        same_BB = rows_B[:, None] == rows_B[None, :]
        hardest_B = likeness_B[None, :].masked_fill(~same_BB, torch.inf).argmin(dim=1)
        self._move(hardest_B == torch.arange(len(rows_B), device=rows_B.device), rows_B, features_BD)

    def _move(self, chosen_B: Tensor, rows_B: Tensor, features_BD: Tensor) -> None:
        """Move the rows of the chosen images, no two of which share one."""
        rows_B = torch.where(chosen_B, rows_B, len(self._rows) - 1)
        self._rows[rows_B] = F.normalize(torch.lerp(features_BD, self._rows[rows_B], self._momentum), dim=1)


def most_turns(rows_TB: Tensor) -> int:
    """Most images of one of T batches that share a row; asks the device once.

    Args:
        rows_TB: (T, B) int64.
    """
    return 1 + int(torch.stack([_turn(rows_B).max() for rows_B in rows_TB]).max())


def _turn(rows_B: Tensor) -> Tensor:
    """(B,) int64: how many images before it in the batch share the row of an image."""
    return (rows_B[:, None] == rows_B[None, :]).tril(-1).sum(dim=1)
