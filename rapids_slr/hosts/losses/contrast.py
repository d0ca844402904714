"""Contrast with a memory of keys."""

from __future__ import annotations

from torch import Tensor

from rapids_slr.hosts.losses.cross_entropy import cross_entropy


def info_nce(
    queries_BD: Tensor, keys_KD: Tensor, labels: Tensor, temperature: float, weights_B: Tensor | None = None
) -> Tensor:
    """Mean over the batch of -sum_k q_k log softmax(query keys / temperature)_k.

    Args:
        queries_BD: (B, D) float32, unit rows.
        keys_KD: (K, D) float32, unit rows; no gradient reaches them.
        labels: (B,) int64 keys, q one-hot; or (B, K) rows q.
        weights_B: (B,) what each image counts; all alike where not given.
    """
    return cross_entropy(queries_BD @ keys_KD.T / temperature, labels, weights_B=weights_B)
