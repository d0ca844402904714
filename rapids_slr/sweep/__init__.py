"""Sweeps: many runs of one base spec, compared method by method over seeds and pairs of domains."""
