"""What a clusterer is: from the features of an epoch to cluster labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

from rapids_slr.settings.base import Section

# A spec is read without torch.
if TYPE_CHECKING:
    from torch import Tensor


class Clusters(NamedTuple):
    """Labels of one epoch, where the features are; whole numbers (N,), -1 = outlier."""

    labels_N: Tensor
    others: Sequence[Tensor] = ()
    """Further clusterings of the same images, for a refiner that projects them too."""
    graph: Callable[[], Any] | None = None
    """Makes the distances that were clustered, for a refiner that needs them: (N, N) CSR of the library of the labels,
    both triangles without the diagonal; of a section that `gives_graph`."""


class Clusterer(Protocol):
    """A way to cluster the images of an epoch."""

    def check(self, N: int) -> None:
        """Raises: InputError if N images are too few, before anything is trained."""

    def fit_predict(
        self,
        features_ND: Tensor,
        *,
        source_SD: Tensor | None = None,
        cameras_N: Any = None,
        heads: Sequence[str] = (),
    ) -> Clusters:
        """Cluster the images of an epoch.

        Args:
            features_ND: (N, D) float32, unit rows.
            source_SD: (S, D) float32 features of the source, where the section says `needs_source`.
            cameras_N: (N,) integers, the camera of every image; None where nobody knows.
            heads: names of the equal parts that a row of features consists of, in order.
        Raises: InputError if the features cannot be clustered with these settings.
        """

    def state_dict(self) -> dict[str, Any]:
        """What the next epoch needs to know of those before it: plain values; nothing for most."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave, which may be nothing."""


class ClustererSpec(Section):
    """From features to cluster labels."""

    TAG = "method"
    takes_share: ClassVar[bool] = False
    """Whether `fit_predict` takes the features that a process of a group holds, `rapids_slr.group.current().share(N)`;
    without, all processes get all features, and cluster them alike."""
    gives_graph: ClassVar[bool] = False
    """Whether `Clusters.graph` is there."""

    @property
    def for_one_process(self) -> str:
        """The setting that several processes cannot keep, as messages name it; empty where they keep all."""
        return ""

    @property
    def needs_source(self) -> bool:
        """Whether `fit_predict` wants the features of the source."""
        return False

    @property
    def needs_refinement(self) -> bool:
        """Whether there are further clusterings, which only a refiner reads."""
        return False

    @property
    def heads(self) -> set[str]:
        """Names of the heads of the network whose features are clustered on their own."""
        return set()

    @property
    def cuml_for(self) -> dict[str, str]:
        """Settings that on CUDA only cuML serves, each with what to set in its place (see `choose_backend`)."""
        return {}

    def build(self) -> Clusterer:
        raise NotImplementedError
