"""Pseudo-label refinement (SLR) for unsupervised domain adaptation."""

__version__ = "0.1.0"
