"""As many of the Jaccard distances of images as clusters need: those within a bound that is shown to be wide enough."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from rapids_slr.clustering.jaccard import ADVICE, Graph, add_source_term
from rapids_slr.engine.arrays import Array, array_module, row_of_entry, take_rows
from rapids_slr.engine.memory import memory_advice
from rapids_slr.group import ALONE, Group
from rapids_slr.kernels.jaccard import (
    both_triangles_cpu,
    jaccard_distances,
    jaccard_of_rows,
    jaccard_within,
    upper_within_cpu,
)
from rapids_slr.marks import step

FEW, FEW_ON_CUDA = 2000, 30_000
"""Images below which all pairs are soonest found and take no memory to speak of. On CUDA by arithmetic alone."""
SAMPLE = 256
"""Images whose distances to all others tell how wide the bound has to be."""
MORE = 1.2
"""As many times the pairs that are needed are expected within the first bound."""
ROOM = 3
"""Times the expected pairs of an image that it has room for; of images with more they are found twice."""


class Distances:
    """The distances of images by their memberships; graphs of them as far as they are asked for.

    A radius rule averages the `count` smallest distances above 0, and DBSCAN reads none above that mean. If all pairs
    within a bound b are known and `count` of them are above 0, the `count` smallest of all pairs are among them: a pair
    beyond b is further than each of these. So radius and labels are those of all pairs, number by number, and nothing
    beyond b has to be stored, which on features that hardly cluster is nearly everything. b is the distance that a
    sample of the images says, with some to spare; where too few pairs are within it, it is widened.

    With a source term a pair is at (1 - lambda) J + lambda (u_i + u_j), so pairs within b have J <= b / (1 - lambda).
    """

    def __init__(
        self,
        rows: tuple[Array, Array, Array],
        reach_N: Array | None = None,
        weight: float = 0.0,
        count_N: Array | None = None,
        group: Group = ALONE,
    ) -> None:
        """
        Args:
            rows: as `jaccard.memberships` gives them.
            reach_N, weight: the source term, as `add_source_term` takes it.
            count_N: int64, how many equal images an image stands for; None: one each.
            group: its processes, which all have the rows, look for a part of the pairs each, and give them to the
                others; they all have to ask for the same.
        """
        self.rows, self.reach_N, self.weight, self.count_N, self.group = rows, reach_N, weight, count_N, group
        self.met = 0
        """Pairs i < j nearer than 1, once a graph has been made: as many as a sample of the images says, unless all
        are there."""
        self._graph: Graph | None = None
        self._bound = -1.0

    @classmethod
    def given(cls, graph: Graph) -> Distances:
        """Distances that are there already, all of them."""
        distances = cls((graph.indptr, graph.indices, graph.distances))
        distances._keep(graph, np.inf)
        return distances

    @property
    def N(self) -> int:
        return self.rows[0].size - 1

    @property
    def graph(self) -> Graph:
        """The last that was made."""
        assert self._graph is not None
        return self._graph

    def whole(self) -> Graph:
        """All pairs nearer than 1."""
        return self.graph if self._bound == np.inf else self._complete(*self._all())

    def within(self, bound: float) -> Graph:
        """All pairs at most `bound` apart, and perhaps others."""
        if bound > self._bound:
            if self.met == 0 and bound < np.inf:
                self._sample()
            self._make(bound)
        return self.graph

    def smallest(self, count: int) -> Graph:
        """The `count` nearest pairs that are not at distance 0, all that are, and perhaps others.

        Where no more pairs than that are nearer than 1, all these.
        """
        if self._is_small():
            return self.within(np.inf)
        bound_of: Callable[[float], float] | None = None
        more = MORE
        while not self._covers(count):
            bound_of = bound_of or self._sampled(count)
            self._make(bound_of(more), max(8, round(ROOM * more * count / self.N)))
            more *= 2
        return self.graph

    def _is_small(self) -> bool:
        few = FEW if array_module(self.rows[0]) is np else FEW_ON_CUDA
        return few > self.rows[0].size - 1

    def _covers(self, count: int) -> bool:
        """Whether the graph that is there holds the `count` smallest distances above 0."""
        if self._graph is None:
            return False
        if self._bound == np.inf:
            return True
        distances = self._graph.distances
        return int(((distances > 0) & (distances <= np.float32(self._bound))).sum()) >= 2 * count

    def _sampled(self, count: int) -> Callable[[float], float]:
        """From a number of times `count` to a bound within which a sample of the images has that many pairs."""
        distances = self._sample()
        xp, above_E = array_module(distances), distances[distances > 0]
        expected = 2 * count * min(self.N, SAMPLE) / self.N  # a pair of two images of the sample is seen twice

        def bound_of(more: float) -> float:
            rank = int(more * (expected + 2 * expected**0.5)) + 1
            return float(xp.partition(above_E, rank)[rank]) if rank < above_E.size else np.inf

        return bound_of

    @step("Jaccard graph")
    def _sample(self) -> Array:
        """Distances of some images to all others that they are nearer to than 1."""
        xp, N = array_module(self.rows[0]), self.N
        S = min(N, SAMPLE)
        row_S = xp.sort(xp.asarray(np.random.default_rng(0).choice(N, S, replace=False))).astype(xp.int32)
        indptr, indices, distances = jaccard_of_rows(*self.rows, row_S)
        self.met = round(indices.size * N / max(S, 1) / 2)
        if self.reach_N is not None:
            share_N = (self.weight * self.reach_N).astype(np.float32)
            image_E = row_S[row_of_entry(indptr, indices.size)]
            distances = np.float32(1 - self.weight) * distances + share_N[image_E] + share_N[indices]
        return distances

    @step("Jaccard graph")
    @memory_advice("Jaccard graph", ADVICE)
    def _make(self, bound: float, room: int = 32) -> None:
        """Make the graph of all pairs within a bound, or of all nearer than 1 where that is not below it.

        Args:
            room: later images within the bound that an image is expected to have at most.
        """
        bound_J = bound / (1 - self.weight)
        if bound_J >= 1:
            self._keep(self._complete(*self._all()), np.inf)
            return
        if self.group.size > 1:
            found = _found_together_cpu(self.rows, bound_J, room, self.group)
        else:
            found = jaccard_within(*self.rows, bound_J, room)
        self._keep(self._complete(*found), bound)

    def _all(self) -> tuple[Array, Array, Array]:
        return jaccard_distances(*self.rows)

    def _complete(self, indptr: Array, indices: Array, distances: Array) -> Graph:
        graph = Graph(indptr, indices, distances, count_N=self.count_N)
        return graph if self.reach_N is None else add_source_term(graph, self.reach_N, self.weight)

    def _keep(self, graph: Graph, bound: float) -> None:
        self._graph, self._bound = graph, bound
        if bound == np.inf:
            self.met = graph.indices.size // 2


def _found_together_cpu(
    rows: tuple[np.ndarray, np.ndarray, np.ndarray], bound: float, room: int, group: Group
) -> tuple[np.ndarray, ...]:
    """`jaccard_within`, whose rows are dealt out in turn: early ones have more later ones to meet."""
    N = rows[0].size - 1
    indptr, indices, distances = upper_within_cpu(*rows, bound, room, group.dealt(N))
    length_N, indices, distances = (group.gather(x) for x in (np.diff(indptr), indices, distances))
    place_N = np.concatenate([group.dealt(N, rank) for rank in range(group.size)]).argsort()
    upper, entry_E = take_rows(np.concatenate([np.zeros(1, np.int64), np.cumsum(length_N)]), place_N)
    return both_triangles_cpu(upper, indices[entry_E], distances[entry_E])
