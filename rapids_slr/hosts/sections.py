"""The hosts that come with the package, as sections of a spec, and the names of their loss terms."""

from __future__ import annotations

import math
from typing import Literal

from rapids_slr.hosts.base import Host, HostSpec
from rapids_slr.record.columns import loss_column
from rapids_slr.settings.keys import Fraction, Positive


class ABMTSpec(HostSpec):
    """Student and mean teacher, each of two branches that learn from the other's other one (Chen et al., WACV 2021).

    Its weights and its teacher's decay are keys of `training`.
    """

    name: Literal["abmt"] = "abmt"
    """Asymmetric-branch mean teaching."""
    network = "two_branch"
    heads = ("average", "maximum")
    has_classifiers = True
    takes_part = True
    embeds = "teacher"

    def build(self) -> Host:
        from rapids_slr.hosts.abmt import ABMT

        return ABMT()


class ClusterContrastSpec(HostSpec):
    """One network and a memory of cluster centroids (Dai et al., ACCV 2022).

    Of `training` it takes what is said of steps, batches, the rate and the source.
    """

    name: Literal["cluster_contrast"] = "cluster_contrast"
    """Cluster contrast."""
    memory: Literal["mean", "hardest"] = "mean"
    """What moves the centroid of a cluster: every image of a batch, one after the other, or the one least like it."""
    momentum: Fraction = 0.1
    """What an image leaves of a centroid."""
    temperature: Positive = 0.05
    """Temperature of the softmax over the clusters."""
    network = "single"
    takes_timm = True
    takes_part = True
    embeds = "encoder"

    def build(self) -> Host:
        from rapids_slr.hosts.cluster_contrast import ClusterContrast

        return ClusterContrast(self)


class SpCLSpec(HostSpec):
    """One network and a hybrid memory of source classes, clusters and single images (Ge et al., NeurIPS 2020).

    Of `training` it takes what is said of steps, batches and the rate; of `training.source` the batch, and `ce_weight`
    as the weight of the source's contrast. `clusters.reliable` goes with it.
    """

    name: Literal["spcl"] = "spcl"
    """Self-paced contrast."""
    momentum: Fraction = 0.2
    """What an image leaves of its row of the memory, or of its source class."""
    renew: bool = True
    """Embed the target anew at every epoch, as where the network moves far in one; the paper clusters the memory."""
    temperature: Positive = 0.05
    """Temperature of the softmax over classes, clusters and images."""
    network = "single"
    takes_timm = True
    takes_part = True
    embeds = "encoder"

    def build(self) -> Host:
        from rapids_slr.hosts.spcl import SpCL

        return SpCL(self)


class MMTSpec(HostSpec):
    """Two networks and their mean teachers, each of which teaches the other network (Ge et al., ICLR 2020).

    Decay of the teachers and label smoothing are keys of `training`.
    """

    name: Literal["mmt"] = "mmt"
    """Mutual mean-teaching."""
    soft_weight: Fraction = 0.5
    """Weight of the cross entropy with the other's teacher; what is left of 1 is that with the label."""
    soft_triplet_weight: Fraction = 0.8
    """Weight of the triplet loss softened by the other's teacher; what is left of 1 is that of the plain one."""
    network = "twins"
    takes_timm = True
    heads = ("first", "second")
    has_classifiers = True
    takes_part = True
    embeds = "teacher"

    def build(self) -> Host:
        from rapids_slr.hosts.mmt import MMT

        return MMT(self)


loss_column("contrast", "cross entropy over the memory")
loss_column("source_contrast", "cross entropy of the source over the memory")
loss_column("ce", "cross entropy with the labels")  # of pre-training too
loss_column("soft", "cross entropy with the teacher")
# log 2: the cross entropy of two equal distances, of which a softmax makes one half each.
loss_column("triplet", "triplet loss", chance=math.log(2))  # of pre-training too
loss_column("soft_triplet", "triplet loss softened by the teacher", chance=math.log(2))
loss_column("teacher_ce", "cross entropy of the teacher with the labels")
loss_column("elr", "early-learning regularisation")
loss_column("source_ce", "cross entropy with the source's identities")
loss_column("source_triplet", "triplet loss of the source")
