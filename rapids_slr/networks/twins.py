"""Two networks that share nothing, side by side."""

from __future__ import annotations

from torch import Tensor, nn

from rapids_slr.networks.base import Outputs
from rapids_slr.networks.network import ANY, Neck, Network
from rapids_slr.networks.single import body_of
from rapids_slr.settings.spec import ImageSpec, ModelSpec


class Twins(Network):
    """Two networks of one head each, as `Single`; where two views of an image are given, each sees one.

    Args: as of `Single`. Weights are drawn for each; those of a file are the same in both.
    """

    heads = ("first", "second")
    views = 2

    def __init__(self, spec: ModelSpec, images: ImageSpec = ANY) -> None:
        bodies = [body_of(spec, images) for _ in self.heads]
        super().__init__(spec, bodies[0].width)
        self.bodies = nn.ModuleList(bodies)
        self.necks = nn.ModuleList([Neck(self.head_dim) for _ in self.heads])
        self.classifiers = nn.ModuleList()

    def parts(self) -> list[nn.Module]:
        return list(self.bodies)

    def forward(self, images: Tensor) -> Outputs:
        views = images if images.ndim == 5 else [images] * len(self.heads)
        with self.autocast(images.device):
            pooled = tuple(body(view) for body, view in zip(self.bodies, views, strict=True))
        necked = tuple(neck(x) for neck, x in zip(self.necks, pooled, strict=True))
        return Outputs(pooled, necked, self.classify(necked))
