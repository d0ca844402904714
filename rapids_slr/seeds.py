"""Random generators by purpose: nothing random is carried over, so a resumed run draws what it would have drawn."""

from __future__ import annotations

import hashlib

import torch


def generator(seed: int, purpose: str, *steps: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator that depends on nothing but its arguments, for example `generator(0, "sampler", epoch)`."""
    # A digest, as hash() of a text differs from process to process; of a repr, in which no two purposes run together.
    digest = hashlib.blake2b(repr((seed, purpose, steps)).encode(), digest_size=8).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest, "little") >> 1)
