"""The guard of a run: tells after every evaluated epoch, without identities, whether adaptation helps.

N images that are looked at, k neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

from torch import Tensor

from rapids_slr.data.images import Images, RunImages
from rapids_slr.data.views import some_of, view_of
from rapids_slr.evaluation.guard import (
    head_agreement,
    neighbour_agreement,
    neighbour_lists,
    shared_neighbours,
    soft_neighbourhood_density,
)
from rapids_slr.record.columns import GUARD, PICKS_BY
from rapids_slr.seeds import generator
from rapids_slr.settings.spec import RunSpec

NEIGHBOURS = 10
"""Neighbours of an image that are compared."""


class Guard:
    """Looks at training images of the target, and at two augmented views of them.

    Images and views depend on the seed alone: from epoch to epoch nothing changes but the network.

    Args:
        images: asked for the target when it is first looked at.
    """

    def __init__(self, spec: RunSpec, images: RunImages) -> None:
        self._spec, self._images = spec, images
        self.start_NK: Tensor | None = None
        """Neighbours before adaptation, int32 as `neighbour_lists` gives them; None before it is looked at."""
        self.before_NK: Tensor | None = None
        """Neighbours when last looked at."""
        self.picked: dict[str, float] | None = None
        """Epoch (0 is the start) and score of the best network so far, where the spec wants one picked."""

    @cached_property
    def seen(self) -> tuple[Images, Images, Images]:
        """What networks are shown: plain images and two views of them."""
        spec = self._spec
        some = some_of(self._images.target, spec.evaluation.guard_images, generator(spec.seed, "guard images"))
        one, other = (
            view_of(some, spec.augment, spec.data, generator(spec.seed, "guard views", number)) for number in (1, 2)
        )
        return some, one, other

    def look(self, embed: Callable[[Images], Tensor]) -> dict[str, float]:
        """Scores of a network, columns `guard/...`, fractions; those of the start lack what compares with it.

        Args:
            embed: gives the features (N, D) of images, float32 unit rows.
        """
        some, one, other = self.seen
        features_ND, heads = embed(some), len(self._spec.host.heads)
        near_NK = neighbour_lists(features_ND, NEIGHBOURS).int()
        scores = {"views": neighbour_agreement(embed(one), embed(other), NEIGHBOURS)}
        if heads > 1:
            scores["heads"] = head_agreement(features_ND, heads, NEIGHBOURS)
        most = math.log(max(2, len(features_ND) - 1))
        scores["density"] = min(1.0, soft_neighbourhood_density(features_ND) / most)
        if self.start_NK is not None and self.before_NK is not None:
            scores["epochs"] = shared_neighbours(near_NK, self.before_NK.to(near_NK.device))
            scores["start"] = shared_neighbours(near_NK, self.start_NK.to(near_NK.device))
        else:
            self.start_NK = near_NK
        self.before_NK = near_NK
        return {GUARD + name: score for name, score in scores.items()}

    def picks(self, epoch: int, scores: Mapping[str, float]) -> bool:
        """Whether the spec wants the best network picked, and this is better than all before it."""
        if self._spec.evaluation.pick != "guard" or PICKS_BY not in scores:
            return False
        if self.picked is not None and scores[PICKS_BY] <= self.picked["score"]:
            return False
        self.picked = {"epoch": epoch, "score": scores[PICKS_BY]}
        return True

    def state_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("start_NK", "before_NK", "picked")}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.start_NK, self.before_NK, self.picked = (state[name] for name in ("start_NK", "before_NK", "picked"))
