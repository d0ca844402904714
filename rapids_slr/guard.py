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
from rapids_slr.tasks.base import Task

NEIGHBOURS = 10
"""Neighbours of an image that are compared."""
FORGOTTEN = 0.05
"""Part of the best score on the source that a network may lose and still be picked."""


class Guard:
    """Looks at test images of the source, at training images of the target, and at two augmented views of these.

    Images and views depend on the seed alone: from epoch to epoch nothing changes but the network. Identities of the
    source that no loss saw tell how the target fares: a network that forgets how to tell them apart has lost what it
    was to bring to the target as well.

    Args:
        images: asked for the images when they are first looked at.
        task: scores the network on the source.
    """

    def __init__(self, spec: RunSpec, images: RunImages, task: Task) -> None:
        self._spec, self._images, self._task = spec, images, task
        self.start_NK: Tensor | None = None
        """Neighbours before adaptation, int32 as `neighbour_lists` gives them; None before it is looked at."""
        self.before_NK: Tensor | None = None
        """Neighbours when last looked at."""
        self.picked: dict[str, float] | None = None
        """Epoch (0 is the start) and score of the network that is picked so far, and the best score; where the spec
        wants one picked."""

    def read(self) -> None:
        """Decode what it looks at, so that bad data stops a run before it trains."""
        if self._spec.data.source is not None:
            self._task.read(self._images, "source")

    @cached_property
    def seen(self) -> tuple[Images, Images, Images]:
        """What networks are shown: plain images and two views of them."""
        spec = self._spec
        some = some_of(self._images.target, spec.evaluation.guard_images, generator(spec.seed, "guard images"))
        one, other = (
            view_of(some, spec.augment, spec.data, generator(spec.seed, "guard views", number)) for number in (1, 2)
        )
        return some, one, other

    @property
    def images(self) -> int:
        """How many images a look embeds."""
        of_source = 0 if self._spec.data.source is None else self._task.test_images(self._images, "source")
        return of_source + sum(len(part.store) for part in self.seen)

    def look(self, embed: Callable[[Images], Tensor]) -> dict[str, float]:
        """Scores of a network, columns `guard/...`, fractions; those of the start lack what compares with it.

        Args:
            embed: gives the features (N, D) of images, float32 unit rows.
        """
        some, one, other = self.seen
        features_ND, heads = embed(some), len(self._spec.host.heads)
        near_NK = neighbour_lists(features_ND, NEIGHBOURS).int()
        scores = self._of_source(embed)
        scores["views"] = neighbour_agreement(embed(one), embed(other), NEIGHBOURS)
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

    def _of_source(self, embed: Callable[[Images], Tensor]) -> dict[str, float]:
        """The task's headline on the source's test images; nothing where there are none."""
        if self._spec.data.source is None or not self._task.test_images(self._images, "source"):
            return {}
        found = self._task.evaluate(embed, self._images, "source")
        headline = self._spec.task.headline_in([found])
        return {"source": found[headline]} if headline in found else {}

    def picks(self, epoch: int, scores: Mapping[str, float]) -> bool:
        """Whether the spec wants a network picked, and this one scores as well as the best before it, or nearly so.

        So the latest network wins, unless it forgot; it has seen most of the target.
        """
        if self._spec.evaluation.pick != "guard" or PICKS_BY not in scores:
            return False
        score = scores[PICKS_BY]
        best = score if self.picked is None else max(score, self.picked["best"])
        if score < (1 - FORGOTTEN) * best:
            return False
        self.picked = {"epoch": epoch, "score": score, "best": best}
        return True

    def state_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("start_NK", "before_NK", "picked")}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.start_NK, self.before_NK, self.picked = (state[name] for name in ("start_NK", "before_NK", "picked"))
