"""Drawn pedestrians (to come)."""

from __future__ import annotations

from rapids_slr.data.domain import Domain
from rapids_slr.spec import SynthSpec


def synth_domain(spec: SynthSpec) -> Domain:
    raise NotImplementedError("drawn domains are not written yet")
