"""What a host is: a way to train a network on cluster labels, and what it keeps while it does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from rapids_slr.settings.base import Section

# Sections of a spec derive from HostSpec, and a spec is read without torch.
if TYPE_CHECKING:
    from torch import Tensor

    from rapids_slr.data.images import Images
    from rapids_slr.hosts.targets import Targets
    from rapids_slr.networks.network import Network
    from rapids_slr.session import Session


class Host(Protocol):
    """A way to train a network on cluster labels."""

    def begin(self, network: Network, session: Session) -> None:
        """Start from a pre-trained network, without classifiers, on the training device; it becomes the host's."""

    def embed(self, images: Images, epoch: int | None = None) -> Tensor:
        """Features (N, D) float32, unit rows, of the network that is clustered with and evaluated.

        Args:
            epoch: where given, that of `features.views` augmented views; without, the plain images.
        """

    def fit_epoch(self, features_ND: Tensor, targets: Targets, epoch: int) -> Mapping[str, float]:
        """Train one epoch on the target.

        Args:
            features_ND: what `embed` gave for the target in this epoch.
            targets: labels of this epoch; images with identity -1 take no part.
            epoch: from 1; it decides all that is random.
        Returns: means of the loss terms.
        Raises: RunError if memory runs out, or a loss is not finite.
        """

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs: tensors, plain values, and nests of them."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave, perhaps on another device."""


class HostSpec(Section):
    """How the network is trained on cluster labels."""

    # ClassVar: no keys of a spec. Without it pydantic refuses what a subclass sets without an annotation.
    network: ClassVar[str]
    """The network it trains, by its name in NETWORKS."""
    heads: ClassVar[tuple[str, ...]] = ()
    """Names of that network's heads, for settings that ask for one."""
    takes_timm: ClassVar[bool] = False
    """Whether that network takes backbones as timm has them, which are not cut."""
    has_classifiers: ClassVar[bool] = False
    """Whether it predicts classes of an epoch, and takes `training.elr_weight`."""
    takes_part: ClassVar[bool] = False
    """Whether `fit_epoch` trains in a group of processes, each on its part of the batches (`networks.whole`), and takes
    its share of the features; without, runs of several processes are refused."""
    embeds: ClassVar[str]
    """The entry of its `state_dict` that holds the network which embeds."""

    def build(self) -> Host:
        raise NotImplementedError
