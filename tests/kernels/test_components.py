"""Joining components by threads that read what a cache holds, where another thread has written since."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from rapids_slr.kernels import components, runtime


class Cached:
    """A forest as one thread sees it: what it has read before it reads again, but a compare-and-swap goes to memory."""

    def __init__(self, seen: list[int], now: list[int]) -> None:
        self.seen, self.now, self.swaps = list(seen), list(now), 0

    def __getitem__(self, i: int) -> int:
        return self.seen[i]

    def __setitem__(self, i: int, value: int) -> None:
        self.seen[i] = self.now[i] = value

    def swap(self, i: int, expected: int, value: int) -> int:
        self.swaps += 1
        assert self.swaps < 10, "it goes on for ever"
        before = self.now[i]
        if before == expected:
            self[i] = value
        return before


@pytest.mark.skipif(runtime.SIMULATED, reason="the simulator has threads of its own")
def test_a_root_that_another_thread_has_hung_elsewhere(monkeypatch):
    pytest.importorskip("numba_cuda")
    forest = Cached(seen=[0, 1, 2], now=[0, 1, 0])  # 2 was joined to 0, which this thread has not seen
    swap = SimpleNamespace(atomic=SimpleNamespace(cas=lambda parent, i, old, new: parent.swap(i, old, new)))
    monkeypatch.setattr(components, "cuda", swap)
    components.join.py_func(forest, 1, 2)
    assert forest.now == [0, 0, 0]
