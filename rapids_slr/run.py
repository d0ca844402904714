"""One run, read from top to bottom: pre-train on the source, adapt to the target epoch by epoch, evaluate.

It names no method: the spec does, and tables of the rooms say who does it. Array names end in their shape: N target
images, D feature size, S source images.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rapids_slr.clustering.base import Clusters
from rapids_slr.errors import InputError, RunError
from rapids_slr.group import current
from rapids_slr.guard import Guard
from rapids_slr.hosts.pretraining import pretrain_epoch, pretrain_optimizer, pretrain_rate
from rapids_slr.hosts.targets import hard_targets, targets_of, true_identities
from rapids_slr.marks import heard_by, stage
from rapids_slr.networks.batchnorm import recalibrate_batchnorm
from rapids_slr.networks.checkpoint import (
    FORMAT,
    description,
    load_network,
    load_trained,
    new_network,
    save_network,
    save_picked,
)
from rapids_slr.networks.network import Network
from rapids_slr.provenance import versions
from rapids_slr.record.columns import PICKS_BY, columns_in
from rapids_slr.record.folder import RunFolder, best_row
from rapids_slr.record.rows import cluster_means, count_clusters, epoch_row, label_table, prefixed, seconds_by_stage
from rapids_slr.refinement.base import Refined
from rapids_slr.seeds import generator
from rapids_slr.session import RunSession, Session
from rapids_slr.settings.spec import RunSpec
from rapids_slr.state import Adaptation, check_images

IDLE, IDLE_EPOCHS = 0.03, 3
"""Part of its chance value within which a loss term counts as idle, and epochs that it takes to say so."""

# Commands -------------------------------------------------------------------------------------------------------------


def train(spec: RunSpec, out: Path | None = None, resume: bool = False) -> Path:
    """The whole job. Gives the run folder."""
    with RunSession(spec, out, resume) as session:
        now = new_adaptation(session)
        read_images(session, now)
        pretrain_network(session)
        adapt_network(session, now)
    return session.folder.path


def pretrain(spec: RunSpec, out: Path | None = None, resume: bool = False) -> Path:
    """Pre-training alone; leaves checkpoints/pretrained.pt in the run folder it gives."""
    if spec.pretrain is None:
        raise InputError("pretrain: none leaves nothing to pre-train; `rapids-slr train` or `adapt` starts without it")
    with RunSession(spec, out, resume) as session:
        pretrain_network(session)
    return session.folder.path


def adapt(spec: RunSpec, out: Path | None = None, resume: bool = False) -> Path:
    """Adaptation alone, from pretrain.checkpoint, the folder's pretrained.pt or, with `pretrain: none`, neither."""
    with RunSession(spec, out, resume, builds_on_pretraining=True) as session:
        if spec.pretrains and not session.folder.pretrained_file.exists():
            raise InputError(
                f"{session.folder.path} holds no pre-trained network; run `rapids-slr pretrain` into it first, "
                "or give one with --set pretrain.checkpoint=.../checkpoints/pretrained.pt"
            )
        now = new_adaptation(session)
        read_images(session, now)
        # Takes the network that is there; nothing is trained.
        pretrain_network(session)
        adapt_network(session, now)
    return session.folder.path


def evaluate(spec: RunSpec, out: Path | None = None, checkpoint: Path | None = None) -> Mapping[str, float]:
    """Scores of the network of a run folder, the one that embeds, on the target's test split.

    Args:
        checkpoint: takes the network of this file in place of the last one, for example the run's picked.pt.
    """
    if out is None or not RunFolder(out).spec_file.exists():
        raise InputError(f"{out} holds no run (no spec.yaml); name the folder of one with --out")
    with RunSession(spec, out, resume=True) as session:
        network, task = load_trained(checkpoint or session.folder.path).network.place(session.device), spec.task.build()
        if not task.test_images(session.images):
            raise InputError(f"{nothing_to_evaluate(spec)}; give one that does with --set data.target.path=...")
        scores = task.evaluate(lambda images: session.embed(network, images), session.images)
        session.folder.write_json(session.folder.path / "evaluation.json", scores)
        session.log.scores("evaluation", scores)
    return scores


def read_images(session: RunSession, now: Adaptation) -> None:
    """Decode all that the run will need, so that bad data stops it before it trains."""
    spec = session.spec
    if spec.adapts_with_source or (spec.pretrains and not session.folder.pretrained_file.exists()):
        _ = session.images.source  # reads it
    now.clusterer.check(len(session.images.target.split))
    if spec.training.labels == "identities" and not session.images.target_domain.is_labelled:
        raise InputError("training.labels: identities needs those of the target, whose images tell none")
    now.task.read(session.images)
    if now.guard is not None:
        now.guard.read()
    if not now.task.test_images(session.images):
        session.progress.say(f"{nothing_to_evaluate(spec)}: the run leaves figures that need no labels")


def nothing_to_evaluate(spec: RunSpec) -> str:
    return f"the target has no images that test a network ({spec.task.tests}), so nothing to evaluate on"


# Pre-training ---------------------------------------------------------------------------------------------------------


def pretrain_network(session: RunSession) -> None:
    """Train the host's network on the labelled source, or take the one that the spec or the folder gives."""
    spec, folder = session.spec, session.folder
    if folder.pretrained_file.exists():
        return
    if spec.pretrain is None or spec.checkpoint is not None:
        given = spec.checkpoint and load_network(Path(spec.checkpoint), spec)
        save_network(folder.pretrained_file, given or drawn_network(spec), spec)
        return
    source, target = session.images.source, session.images.target
    labels_S = true_identities(session.on_device(source.split.identities)).identities_N
    # Drawn on the CPU and then moved: every engine starts from the same weights.
    network = drawn_network(spec)
    network.set_classifiers(int(labels_S.max()) + 1, generator(spec.seed, "classifiers"))
    network.place(session.device)
    optimizer = pretrain_optimizer(network, spec.pretrain)
    done = 0
    if state := session.checkpoint("pretrain"):
        check_images(state, source.split.names, "source")
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        done = state["epoch"]
    folder.forget_after(folder.pretrain_file, done)

    for epoch in range(done + 1, spec.pretrain.epochs + 1):
        clock, label = session.clock(), f"pre-training {epoch}/{spec.pretrain.epochs}"
        with clock.stage("training"), session.bar(label, spec.pretrain.iterations) as report:
            losses = pretrain_epoch(network, optimizer, source.store, labels_S, target.store, spec, epoch, report)
        row = {"epoch": epoch, "lr": pretrain_rate(spec.pretrain, epoch), **prefixed("loss", losses), **clock.row()}
        # The row before its checkpoint: a row without one is dropped by a resume, a checkpoint without its row would
        # leave a gap.
        session.log.epoch(folder.pretrain_file, "pretrain", row)
        folder.save_checkpoint(
            {
                "format": FORMAT,
                "stage": "pretrain",
                "epoch": epoch,
                "names": list(source.split.names),
                "network": network.state_dict(),
                "optimizer": optimizer.state_dict(),
                **description(spec),
            }
        )
    network.drop_classifiers()
    save_network(folder.pretrained_file, network, spec)


def drawn_network(spec: RunSpec) -> Network:
    """A network to pre-train, whose random weights depend on the seed alone."""
    # torchvision and nn.init draw from the global generator alone. Nobody else's numbers change by it.
    with torch.random.fork_rng():
        torch.manual_seed(generator(spec.seed, "network").initial_seed())
        return new_network(spec)


# Adaptation -----------------------------------------------------------------------------------------------------------


def new_adaptation(session: Session) -> Adaptation:
    """Host, clusterer, refiner and task as the spec names them; the host has no network yet."""
    spec = session.spec
    parts = spec.host.build(), spec.clusters.build(), spec.refine.build(), (task := spec.task.build())
    guard = Guard(spec, session.images, task) if spec.evaluation.guard else None
    return Adaptation(spec, *parts, guard=guard)


def begin_adaptation(session: RunSession, now: Adaptation) -> None:
    """Let the host begin from the pre-trained network, or go on as the checkpoint to resume from left it."""
    network = load_network(session.folder.pretrained_file, session.spec).place(session.device)
    if state := session.checkpoint("adapt"):
        check_images(state, session.images.target.split.names, "target")
        now.host.begin(network, session)  # makes the networks that the state goes into
        now.restore(state)
    else:
        # Before the host copies the network: with features.bn_recalibrate its statistics change.
        now.start = starting_points(session, now, network)
        now.host.begin(network, session)
        if now.guard is not None:
            now.start["guard"] = guard(now, 0)
            session.log.scores("guard", now.start["guard"])
            keep_picked(session, now, 0, now.start["guard"])


@dataclass(frozen=True)
class Epoch:
    """What an epoch made."""

    clusters: Clusters
    refined: Refined
    losses: Mapping[str, float]
    scores: Mapping[str, float]


def adapt_network(session: RunSession, now: Adaptation) -> None:
    """The epochs of SLR. Each clusters the target anew, refines the clusters with last epoch's, and trains on them."""
    begin_adaptation(session, now)
    session.folder.forget_after(session.folder.metrics_file, now.epoch)
    for epoch in range(now.epoch + 1, session.spec.training.epochs + 1):
        clock = session.clock()
        with heard_by(clock):
            made = run_epoch(session, now, epoch)
        record(session, now, epoch, made, clock.row)  # not row(): the time of recording counts too
    summarise(session, now)


def run_epoch(session: Session, now: Adaptation, epoch: int) -> Epoch:
    """One epoch, from images to a better network and its scores; of `now` host, refiner and guard have moved on."""
    spec, target = session.spec, session.images.target
    features_ND, clusters = embed_and_cluster(session, now, epoch)
    clustered_ND = features_ND
    if spec.training.future:
        clustered_ND, clusters = look_ahead(session, now, epoch, features_ND, clusters)
    with stage("refinement"):
        refined = refine(now, clusters, clustered_ND)
    clusters = clusters._replace(graph=None)  # what it is made of makes room for the training
    warn_of_collapse(session, epoch, clusters.labels_N, refined.hard)
    with stage("targets"):
        targets = targets_of(refined, spec, epoch, target.split.identities)
    with stage("training"):
        losses = now.host.fit_epoch(features_ND, targets, epoch)
    scores: Mapping[str, float] = {}
    if epoch % spec.evaluation.every == 0 or epoch == spec.training.epochs:
        with stage("evaluation"):
            scores = now.task.evaluate(now.host.embed, session.images)
        if now.guard is not None:
            with stage("guard"):
                scores = {**scores, **guard(now, epoch)}
    return Epoch(clusters, refined, losses, scores)


def embed_and_cluster(session: Session, now: Adaptation, epoch: int) -> tuple[Tensor, Clusters]:
    """Features (N, D) of the network as it is, those of the process's share, and their clusters."""
    target = session.images.target
    with stage("features"):
        features_ND = now.host.embed(target, epoch)
        source_SD = now.host.embed(session.images.source) if now.spec.clusters.needs_source else None
    with stage("clusters"):
        return features_ND, cluster(now, epoch, features_ND, source_SD, target.split.cameras)


def look_ahead(
    session: Session, now: Adaptation, epoch: int, features_ND: Tensor, clusters: Clusters
) -> tuple[Tensor, Clusters]:
    """Features and clusters of the network that these clusters lead to in an epoch; the host is then as it was.

    They are trained on as they are, so that the refiner sees, and remembers, one clustering an epoch.

    Source: after Du et al., Learning from Future, NeurIPS 2022, where a virtual step is one of a batch.
    """
    if not bool((clusters.labels_N >= 0).any()):
        return features_ND, clusters  # which the training refuses in words
    # A copy: a state dict holds the very tensors that training goes on to change.
    before = copy.deepcopy(now.host.state_dict())
    with stage("training"):
        now.host.fit_epoch(features_ND, hard_targets(clusters.labels_N), epoch)
    ahead = embed_and_cluster(session, now, epoch)
    now.host.load_state_dict(before)
    return ahead


def cluster(now: Adaptation, epoch: int, features_ND: Tensor, source_SD: Tensor | None, cameras_N) -> Clusters:
    """The clusters of an epoch."""
    if not now.spec.clusters.takes_share:
        features_ND = current().gather(features_ND)
    with faults_of_the_run(f"epoch {epoch}"):
        return now.clusterer.fit_predict(
            features_ND, source_SD=source_SD, cameras_N=cameras_N, heads=now.spec.host.heads
        )


def refine(now: Adaptation, clusters: Clusters, features_ND: Tensor) -> Refined:
    """The refined labels of an epoch, by all that the refiner says it needs."""
    needs, needed = now.spec.refine.needs, dict[str, Any]()
    if "features" in needs:
        needed["features"] = current().gather(features_ND)
    if "graph" in needs and clusters.graph is not None:
        needed["graph"] = clusters.graph()
    return now.refiner.update(clusters.labels_N, clusters.others, **needed)


def guard(now: Adaptation, epoch: int) -> Mapping[str, float]:
    """The guard's scores of the network as it is after an epoch; 0 is the start."""
    assert now.guard is not None
    with faults_of_the_run(f"epoch {epoch}" if epoch else "before adaptation"):
        return now.guard.look(now.host.embed)


@contextmanager
def faults_of_the_run(where: str) -> Iterator[None]:
    """Features that cannot be used are no mistake of the user's input."""
    try:
        yield
    except InputError as fault:
        raise RunError(f"{where}: {fault}") from fault


def starting_points(session: RunSession, now: Adaptation, network: Network) -> dict[str, Mapping[str, float]]:
    """Scores before adaptation: as pre-trained, and with BatchNorm re-estimated on the target (no training).

    The statistics are those of augmented images, as the weights were trained with; those of plain images can be worse
    than none. With `features.bn_recalibrate` the network goes on with them.
    """

    def scores_of(name: str, embedder: Network) -> Mapping[str, float]:
        scores = now.task.evaluate(lambda images: session.embed(embedder, images), session.images)
        session.log.scores(name, scores)
        return scores

    start = {"direct": scores_of("direct", network)}
    # A copy, as without bn_recalibrate the host begins from the network as it is.
    recalibrated = network.frozen_copy()
    recalibrate_batchnorm(recalibrated, session.images.training_batches(session.images.target))
    start["direct_bn"] = scores_of("direct_bn", recalibrated)
    if session.spec.features.bn_recalibrate:
        network.load_state_dict(recalibrated.state_dict())
    return start


def warn_of_collapse(session: Session, epoch: int, clusters_N: Tensor, refined_N: Tensor) -> None:
    """Say when labels look wrong in a way that training will not mend."""
    sizes = torch.bincount(clusters_N[clusters_N >= 0].long())
    refined_clusters, wanted = count_clusters(refined_N), session.spec.training.identities
    if len(sizes) and int(sizes.max()) > session.spec.task.largest * len(clusters_N):
        session.warn(
            f"epoch {epoch}: one of {len(sizes)} clusters holds {int(sizes.max())} of {len(clusters_N)} images; "
            "if there are more identities than that, lower clusters.pairs_per_image"
        )
    if refined_clusters < wanted:
        session.warn(
            f"epoch {epoch}: {refined_clusters} clusters for batches of {wanted}; they are repeated within a batch. "
            "Raise clusters.pairs_per_image if most images are outliers, lower it if clusters are too large"
        )


def warn_of_idle_losses(session: Session, rows: Sequence[Mapping[str, float]]) -> None:
    """Say which loss terms were, in every epoch after the first, what they are where they have nothing to teach.

    Args:
        rows: those of metrics.jsonl; fewer than IDLE_EPOCHS after the first tell nothing.
    """
    later = [row for row in rows if row["epoch"] > 1]
    for column in columns_in(later, "loss"):
        values, chance = [row[column.key] for row in later if column.key in row], column.chance
        if chance is None or len(values) < IDLE_EPOCHS or any(abs(x - chance) > IDLE * chance for x in values):
            continue
        session.warn(
            f"the loss term {column.name} was {min(values):.3f} to {max(values):.3f} from epoch 2 on; it is "
            f"{chance:.3f} where it has nothing to teach. Another form of it, or a weight of 0, may serve as well"
        )


# What is left of an epoch, and of a run -------------------------------------------------------------------------------


def record(session: RunSession, now: Adaptation, epoch: int, made: Epoch, seconds) -> None:
    """Write an epoch down: its row, its labels, and the checkpoint that vouches for both."""
    split, folder = session.images.target.split, session.folder
    # int32 in checkpoints, as in label tables.
    clusters_N, refined_N = made.clusters.labels_N.int(), made.refined.hard.int()
    before, score = (now.clusters_N, now.refined_N), session.spec.task.score_labels
    labels = epoch_row(clusters_N, refined_N, *before, made.refined, split.identities, score)
    # `now` still holds the epoch before, with which this one was refined; it moves on below.
    table = label_table(split, now.remembered_N, clusters_N, refined_N, made.refined)
    row = {"epoch": epoch, **made.scores, **labels, **cluster_means(table), **prefixed("loss", made.losses)}
    session.log.epoch(folder.metrics_file, "adapt", row | seconds())
    folder.write_labels(epoch, table)
    keep_picked(session, now, epoch, made.scores)
    now.epoch, now.clusters_N, now.refined_N = epoch, clusters_N, refined_N
    folder.save_checkpoint(now.checkpoint(split.names))


def keep_picked(session: RunSession, now: Adaptation, epoch: int, scores: Mapping[str, float]) -> None:
    """Put the network of an epoch aside, 0 is the start, where a guard that picks finds it better than all before."""
    if now.guard is not None and now.guard.picks(epoch, scores):
        save_picked(session.folder.picked_file, now.host.state_dict(), session.spec, epoch)


def picked_row(now: Adaptation, rows: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Epoch and scores of the network that the guard has picked, and the column that it went by; empty without one."""
    if now.guard is None or now.guard.picked is None:
        return {}
    epoch, by = now.guard.picked["epoch"], {PICKS_BY: now.guard.picked["score"]}
    scores = now.begun_with if epoch == 0 else next(row for row in rows if row["epoch"] == epoch)
    keys = [column.key for column in now.spec.task.scores if column.key in scores]
    return {key: scores[key] for key in keys} | by | {"epoch": epoch, "by": PICKS_BY}


def summarise(session: RunSession, now: Adaptation) -> None:
    """Write summary.json: where the network started, its last epoch, its best and the one that was picked; `result`
    names the one of them that the run ends with."""
    # From the file: a resumed run has its first epochs nowhere else.
    spec, rows = session.spec, session.folder.rows(session.folder.metrics_file)
    best, last = best_row(rows, spec.task.headline_in(rows)), rows[-1]
    ends = {"last": last} if best is None else {"last": last, "best": best}
    keys = [column.key for column in spec.task.scores]
    scores = {name: {key: row[key] for key in keys if key in row} for name, row in ends.items()}
    if best is not None:
        scores["best"]["epoch"] = best["epoch"]
    if picked := picked_row(now, rows):
        scores["picked"] = picked
    session.folder.write_json(
        session.folder.summary_file,
        {
            "name": spec.name,
            **now.start,
            **scores,
            "result": "picked" if picked else "last",
            "seconds": session.folder.seconds(),
            "stage_seconds": seconds_by_stage(rows),
            "device": session.device_name,
            "refine": spec.refine.label,
            "seed": spec.seed,
            "versions": versions(),
        },
    )
    warn_of_idle_losses(session, rows)
    for name, found in (now.start | scores).items():
        session.log.scores(name, found)
    if picked:
        which = (
            f"epoch {picked['epoch']}"
            if picked["epoch"]
            else "the network before adaptation, as all later ones forgot the source"
        )
        session.progress.say(f"the guard picked {which}: {session.folder.picked_file}")
    elif spec.evaluation.pick == "guard":
        session.progress.say("the last network is kept: without test images of the source the guard cannot pick")
