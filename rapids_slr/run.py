"""One run, read from top to bottom: pre-train on the source, adapt to the target epoch by epoch, evaluate.

Array names end in their shape: N target images, D feature size, K classes of this epoch, S source images.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from rapids_slr.clustering import JaccardDBSCAN, cluster_hdbscan
from rapids_slr.errors import InputError, RunError
from rapids_slr.evaluation import retrieval_scores
from rapids_slr.hosts.steps import adapt_epoch, pretrain_epoch, pretrain_optimizer, pretrain_rate
from rapids_slr.hosts.targets import (
    Targets,
    class_centroids,
    hard_targets,
    shuffled,
    soft_targets,
    true_identities,
)
from rapids_slr.networks import (
    TwoBranch,
    description,
    embed,
    load_network,
    make_teacher,
    recalibrate_batchnorm,
    save_network,
)
from rapids_slr.record.folder import best_row
from rapids_slr.record.rows import cluster_means, count_clusters, epoch_row, label_table, prefixed, seconds_by_stage
from rapids_slr.refinement import SLR, Refined
from rapids_slr.seeds import generator
from rapids_slr.session import SCORES, Images, Session, Test
from rapids_slr.settings.spec import ClusterSpec, RunSpec

CHECKPOINT_FORMAT = 1


def train(spec: RunSpec, out: Path | None = None, resume: bool = False) -> Path:
    """The whole job. Gives the run folder."""
    with Session(spec, out, resume) as session:
        session.read_images()
        pretrain_network(session)
        adapt_network(session)
    return session.folder.path


def pretrain(spec: RunSpec, out: Path | None = None, resume: bool = False) -> Path:
    """Pre-training alone; leaves checkpoints/pretrained.pt in the run folder it gives."""
    with Session(spec, out, resume) as session:
        pretrain_network(session)
    return session.folder.path


def adapt(spec: RunSpec, out: Path | None = None, resume: bool = False) -> Path:
    """Adaptation alone, from pretrain.checkpoint or from the pretrained.pt of the run folder."""
    with Session(spec, out, resume, builds_on_pretraining=True) as session:
        if not session.folder.pretrained_file.exists() and spec.pretrain.checkpoint is None:
            raise InputError(
                f"{session.folder.path} holds no pre-trained network; run `rapids-slr pretrain` into it first, "
                "or give one with --set pretrain.checkpoint=.../checkpoints/pretrained.pt"
            )
        pretrain_network(session)
        adapt_network(session)
    return session.folder.path


def pretrain_network(session: Session) -> None:
    """Train the two-branch network on the labelled source, or take the one that the spec or the folder gives."""
    spec, folder = session.spec, session.folder
    if folder.pretrained_file.exists():
        return
    if spec.pretrain.checkpoint is not None:
        network = load_network(Path(spec.pretrain.checkpoint), spec)
        save_network(folder.pretrained_file, network, spec)
        return
    source, target = session.source, session.target
    labels_S = true_identities(session.on_device(source.split.identities)).identities_N
    network = session.new_network()
    network.set_classifiers(int(labels_S.max()) + 1, generator(spec.seed, "classifiers"))
    network.place(session.device)
    optimizer = pretrain_optimizer(network, spec.pretrain)
    done = 0
    if state := session.checkpoint("pretrain"):
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        done = state["epoch"]
    folder.forget_after(folder.pretrain_file, done)

    for epoch in range(done + 1, spec.pretrain.epochs + 1):
        clock, label = session.clock(), f"pre-training {epoch}/{spec.pretrain.epochs}"
        with clock.stage("training"), session.bar(label, spec.pretrain.iterations) as report:
            losses = pretrain_epoch(network, optimizer, source.store, labels_S, target.store, spec, epoch, report)
        row = {"epoch": epoch, "lr": pretrain_rate(spec.pretrain, epoch), **prefixed("loss", losses), **clock.row()}
        session.log(folder.pretrain_file, "pretrain", row)
        folder.save_checkpoint(
            {
                "format": CHECKPOINT_FORMAT,
                "stage": "pretrain",
                "epoch": epoch,
                "network": network.state_dict(),
                "optimizer": optimizer.state_dict(),
                **description(spec),
            }
        )
    network.drop_classifiers()
    save_network(folder.pretrained_file, network, spec)


@dataclass
class Adaptation:
    """Where the adaptation stands between two epochs; what a checkpoint holds."""

    start: dict[str, dict[str, float]]
    """Scores before the first epoch: `direct` and `direct_bn`."""
    student: TwoBranch
    teacher: TwoBranch
    slr: SLR | None
    """None trains on the clusters as they are (ABMT)."""
    epoch: int = 0
    step: int = 0
    clusters_N: Tensor | None = None
    refined_N: Tensor | None = None

    def checkpoint(self) -> dict[str, Any]:
        return {
            "format": CHECKPOINT_FORMAT,
            "stage": "adapt",
            **{name: getattr(self, name) for name in ("start", "epoch", "step", "clusters_N", "refined_N")},
            **{name: getattr(self, name).state_dict() for name in ("student", "teacher")},
            "slr": None if self.slr is None else self.slr.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        for name in ("start", "epoch", "step", "clusters_N", "refined_N"):
            setattr(self, name, state[name])
        self.student.load_state_dict(state["student"])
        self.teacher.load_state_dict(state["teacher"])
        if self.slr is not None:
            self.slr.load_state_dict(state["slr"])


def begin_adaptation(session: Session) -> Adaptation:
    """Teacher and student equal to the pre-trained network, or as the checkpoint to resume from left them."""
    teacher = make_teacher(load_network(session.folder.pretrained_file, session.spec).place(session.device))
    student = make_teacher(teacher).requires_grad_(True)
    refine = session.spec.refine
    now = Adaptation({}, student, teacher, None if refine is None else SLR(**refine.model_dump()))
    if state := session.checkpoint("adapt"):
        now.restore(state)
    else:
        now.start = starting_points(teacher, session)
        student.load_state_dict(teacher.state_dict())
    return now


def adapt_network(session: Session) -> None:
    """The epochs of SLR. Each clusters the target anew, refines the clusters with last epoch's, and trains on them."""
    spec, folder, target = session.spec, session.folder, session.target
    now = begin_adaptation(session)
    student, teacher = now.student, now.teacher
    folder.forget_after(folder.metrics_file, now.epoch)

    for epoch in range(now.epoch + 1, spec.training.epochs + 1):
        clock = session.clock()
        with clock.stage("features"):  # the teacher embeds every target image
            features_ND = features(teacher, target, session, epoch)
            source_SD = features(teacher, session.source, session) if spec.clusters.source_weight > 0 else None

        with clock.stage("clusters"):  # k-reciprocal Jaccard distance, then DBSCAN
            try:
                clusters_N, *others = cluster(features_ND, source_SD, spec.clusters)
            except InputError as fault:
                raise RunError(f"epoch {epoch}: {fault}") from fault

        with clock.stage("refinement"):  # IoU projection of last epoch's clusters, soft labels, refined hard labels
            refined = now.slr.update(clusters_N, others) if now.slr is not None else None
            refined_N = clusters_N if refined is None else refined.hard
        warn_of_collapse(session, epoch, clusters_N, refined_N)

        with clock.stage("targets"):  # what the epoch trains on; dynamic classifiers from the centroids of its classes
            targets = training_targets(refined_N, refined, session, epoch)
            centroids_KD = class_centroids(features_ND, targets)
            student.set_classifiers_from(centroids_KD)
            teacher.set_classifiers_from(centroids_KD)

        with clock.stage("training"):  # student on labels and teacher; teacher follows
            with session.bar(f"epoch {epoch}/{spec.training.epochs}", spec.training.iterations) as report:
                losses, now.step = adapt_epoch(student, teacher, target.store, targets, spec, epoch, now.step, report)
            student.drop_classifiers()
            teacher.drop_classifiers()

        scores: dict[str, float] = {}
        if epoch % spec.evaluation.every == 0 or epoch == spec.training.epochs:
            with clock.stage("evaluation"):  # the teacher on the test split
                scores = evaluate_on(teacher, session.test, session)

        labels = epoch_row(clusters_N, refined_N, now.clusters_N, now.refined_N, refined, target.split.identities)
        remembered_N = now.refined_N if spec.refine is not None and spec.refine.memory == "refined" else now.clusters_N
        table = label_table(target.split, remembered_N, clusters_N, refined_N, refined)
        row = {"epoch": epoch, **scores, **labels, **cluster_means(table), **prefixed("loss", losses), **clock.row()}
        session.log(folder.metrics_file, "adapt", row)
        folder.write_labels(epoch, table)
        now.epoch, now.clusters_N, now.refined_N = epoch, clusters_N, refined_N
        folder.save_checkpoint(now.checkpoint() | description(spec))
    summarise(session, now.start)


def evaluate(spec: RunSpec, out: Path | None = None) -> dict[str, float]:
    """Scores of the network of a run folder (its teacher, or its pre-trained network) on the target's test split."""
    with Session(spec, out, resume=True) as session:
        teacher = load_network(session.folder.pretrained_file, spec).place(session.device)
        if state := session.checkpoint("adapt"):
            teacher.load_state_dict(state["teacher"])
        scores = evaluate_on(teacher, session.test, session)
        session.folder.write_json(session.folder.path / "evaluation.json", scores)
        session.say_scores("evaluation", scores)
    return scores


# The steps of an epoch ------------------------------------------------------------------------------------------------


def cluster(features_ND: Tensor, source_SD: Tensor | None, spec: ClusterSpec) -> list[Tensor]:
    """Cluster labels (N,) int32 of one epoch, where the features are; -1 for outliers.

    Returns: the clusters, and one array more for each of `clusters.also`.
    """
    if spec.method == "hdbscan":
        return [cluster_hdbscan(features_ND, spec.min_cluster_size)]
    settings = spec.model_dump(exclude={"method", "min_cluster_size", "also"})
    fitted: dict[str, JaccardDBSCAN] = {}  # a graph for each set of features, whatever the radii
    labels = []
    for other in (None, *spec.also):
        branch = "both" if other is None else other.branch
        if branch not in fitted:
            source = None if source_SD is None else branch_features(source_SD, branch)
            fitted[branch] = JaccardDBSCAN(**settings).fit(branch_features(features_ND, branch), source=source)
        radius = {} if other is None else other.model_dump(exclude={"branch"}, exclude_none=True)
        labels.append(fitted[branch].labels_at(**radius) if radius else fitted[branch].labels_)
    return labels


def branch_features(features_ND: Tensor, branch: str) -> Tensor:
    """The features of both branches, or the half of the `average` or `maximum` one with unit rows."""
    if branch == "both":
        return features_ND
    return F.normalize(features_ND.chunk(2, dim=1)[branch == "maximum"], dim=1)


def training_targets(refined_N: Tensor, refined: Refined | None, session: Session, epoch: int) -> Targets:
    """What this epoch trains on: refined labels, soft rows (`refine.hard: none`), or a control."""
    spec = session.spec
    if spec.training.labels == "identities":
        return true_identities(session.on_device(session.target.split.identities))
    if not bool((refined_N >= 0).any()):
        raise RunError(
            f"epoch {epoch}: every one of the {len(refined_N)} images is an outlier, nothing is left to train on; "
            "raise clusters.pairs_per_image (or eps), or start from a better pre-trained network"
        )
    if refined is not None and spec.refine is not None and spec.refine.hard == "none":
        targets = soft_targets(session.on_device(refined_N), refined.rows)
    else:
        targets = hard_targets(session.on_device(refined_N))
    if spec.training.labels == "shuffled":
        return shuffled(targets, generator(spec.seed, "shuffled labels", epoch, device=session.device))
    return targets


def features(network: TwoBranch, images: Images, session: Session, epoch: int | None = None) -> Tensor:
    """Embeddings (N, D) float32 with unit rows; with an epoch, the mean over `features.views` augmented views."""
    spec = session.spec
    settings, draw = spec.features, None
    if epoch is None:
        settings = settings.model_copy(update={"views": 1})
    else:
        draw = generator(spec.seed, "views", epoch)
    with session.bar("embedding", len(images.store)) as report:
        return embed(network, images.store, spec.data, settings, spec.augment, draw, progress=report)


def evaluate_on(network: TwoBranch, test: Test, session: Session) -> dict[str, float]:
    """mAP and CMC as fractions by the Market-1501 protocol."""
    query, gallery = test.query, test.gallery
    scores = retrieval_scores(
        features(network, query, session),
        features(network, gallery, session),
        session.on_device(query.split.identities),
        session.on_device(query.split.cameras),
        session.on_device(gallery.split.identities),
        session.on_device(gallery.split.cameras),
    )
    return {name: scores[name] for name in SCORES}


def starting_points(network: TwoBranch, session: Session) -> dict[str, dict[str, float]]:
    """Scores before adaptation: as pre-trained, and with BatchNorm re-estimated on the target (no training).

    The statistics are those of augmented images, as the weights were trained with; those of plain images can be worse
    than none. With `features.bn_recalibrate` the network goes on with them.
    """
    direct = evaluate_on(network, session.test, session)
    session.say_scores("direct", direct)
    recalibrated = make_teacher(network)
    recalibrate_batchnorm(recalibrated, session.training_batches(session.target))
    direct_bn = evaluate_on(recalibrated, session.test, session)
    session.say_scores("direct_bn", direct_bn)
    if session.spec.features.bn_recalibrate:
        network.load_state_dict(recalibrated.state_dict())
    return {"direct": direct, "direct_bn": direct_bn}


def warn_of_collapse(session: Session, epoch: int, clusters_N: Tensor, refined_N: Tensor) -> None:
    """Say when labels look wrong in a way that training will not mend."""
    sizes = torch.bincount(clusters_N[clusters_N >= 0].long())
    refined_clusters, wanted = count_clusters(refined_N), session.spec.training.identities
    if len(sizes) and int(sizes.max()) > len(clusters_N) / 10:
        session.warn(
            f"epoch {epoch}: one of {len(sizes)} clusters holds {int(sizes.max())} of {len(clusters_N)} images; "
            "if there are more identities than that, lower clusters.pairs_per_image"
        )
    if refined_clusters < wanted:
        session.warn(
            f"epoch {epoch}: {refined_clusters} clusters for batches of {wanted}; they are repeated within a batch. "
            "Raise clusters.pairs_per_image if most images are outliers, lower it if clusters are too large"
        )


# The end of a run -----------------------------------------------------------------------------------------------------


def summarise(session: Session, start: dict[str, dict[str, float]]) -> None:
    """Write summary.json: where the network started, its last epoch (the headline) and its best."""
    spec, rows = session.spec, session.folder.rows(session.folder.metrics_file)
    best, last = best_row(rows), rows[-1]
    assert best is not None  # the last epoch is always evaluated
    session.folder.write_json(
        session.folder.summary_file,
        {
            "name": spec.name,
            **start,
            "last": {name: last[name] for name in SCORES},
            "best": {name: best[name] for name in SCORES} | {"epoch": best["epoch"]},
            "seconds": session.seconds_of_run(),
            "stage_seconds": seconds_by_stage(rows),
            "device": session.device_name,
            "refine": "none" if spec.refine is None else spec.refine.hard,
            "seed": spec.seed,
            "versions": session.versions(),
        },
    )
    for name, scores in (start | {"last": last, "best": best}).items():
        session.say_scores(name, scores)
