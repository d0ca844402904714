"""One run, read from top to bottom: pre-train on the source, adapt to the target epoch by epoch, evaluate.

Array names end in their shape: N target images, D feature size, K classes of this epoch, S source images.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from rapids_slr.clustering import JaccardDBSCAN, cluster_hdbscan
from rapids_slr.errors import InputError, RunError
from rapids_slr.evaluation import agreement, label_quality, retrieval_scores
from rapids_slr.models import TwoBranch, embed, make_teacher, recalibrate_batchnorm
from rapids_slr.refinement import SLR, Refined
from rapids_slr.runfolder import best_row, load_tensors, save_tensors
from rapids_slr.seeds import generator
from rapids_slr.session import SCORES, Images, Session, Test
from rapids_slr.spec import ClusterSpec, RefineSpec, RunSpec
from rapids_slr.training.steps import adapt_epoch, pretrain_epoch, pretrain_optimizer, pretrain_rate
from rapids_slr.training.targets import (
    Targets,
    class_centroids,
    hard_targets,
    shuffled,
    soft_targets,
    true_identities,
)

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
        network = load_network(Path(spec.pretrain.checkpoint), session)
        save_network(folder.pretrained_file, network, spec)
        return
    source, target = session.source, session.target
    labels_S = true_identities(session.on_device(source.split.identities)).identities_N
    network = session.new_network()
    network.set_classifiers(int(labels_S.max()) + 1, generator(spec.seed, "classifiers"))
    network.to(session.device)
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
            checkpoint_head(spec, "pretrain", epoch)
            | {"network": network.state_dict(), "optimizer": optimizer.state_dict()}
        )
    network.drop_classifiers()
    save_network(folder.pretrained_file, network, spec)


def adapt_network(session: Session) -> None:
    """The epochs of SLR: features, clusters, projection onto them, refined labels, training, evaluation."""
    spec, folder, target = session.spec, session.folder, session.target
    teacher = load_network(folder.pretrained_file, session)
    slr = refiner(spec.refine)
    done = step = 0
    before_N: Tensor | None = None  # clusters and refined labels of the last epoch
    refined_before_N: Tensor | None = None
    if state := session.checkpoint("adapt"):
        start, done, step = state["start"], state["epoch"], state["step"]
        before_N, refined_before_N = state["clusters"], state["refined"]
        if slr is not None:
            slr.load_state_dict(state["slr"])
        teacher.load_state_dict(state["teacher"])
        student = make_teacher(teacher).requires_grad_(True)
        student.load_state_dict(state["student"])
    else:
        start = starting_points(teacher, session)
        student = make_teacher(teacher).requires_grad_(True)
    folder.forget_after(folder.metrics_file, done)

    for epoch in range(done + 1, spec.training.epochs + 1):
        clock = session.clock()
        with clock.stage("features"):
            features_ND = features(teacher, target, session, epoch)
            source_SD = features(teacher, session.source, session) if spec.clusters.source_weight > 0 else None
        with clock.stage("clusters"):
            clusters_N = cluster(features_ND, source_SD, spec.clusters, session.backend.label_device)
        with clock.stage("refinement"):
            refined = slr.update(clusters_N) if slr is not None else None
            refined_N = clusters_N if refined is None else refined.hard
        warn_of_collapse(session, epoch, clusters_N, refined_N)
        targets = training_targets(refined_N, refined, session, epoch)
        with clock.stage("training"):
            centroids_KD = class_centroids(features_ND, targets)
            student.set_classifiers_from(centroids_KD)
            teacher.set_classifiers_from(centroids_KD)
            with session.bar(f"epoch {epoch}/{spec.training.epochs}", spec.training.iterations) as report:
                losses, step = adapt_epoch(student, teacher, target.store, targets, spec, epoch, step, report)
            student.drop_classifiers()
            teacher.drop_classifiers()
        scores: dict[str, float] = {}
        if epoch % spec.evaluation.every == 0 or epoch == spec.training.epochs:
            with clock.stage("evaluation"):
                scores = evaluate_on(teacher, session.test, session)

        row = {"epoch": epoch, **scores, **label_columns(clusters_N, refined_N, refined, target.split.identities)}
        if refined_before_N is not None:
            row["ari_prev"] = agreement(to_host(refined_N), to_host(refined_before_N))
        session.log(folder.metrics_file, "adapt", row | prefixed("loss", losses) | clock.row())
        previous_N = refined_before_N if spec.refine is not None and spec.refine.memory == "refined" else before_N
        folder.write_labels(epoch, label_table(target.split, previous_N, clusters_N, refined_N, refined))
        before_N, refined_before_N = clusters_N, refined_N
        folder.save_checkpoint(
            checkpoint_head(spec, "adapt", epoch)
            | {"start": start, "step": step, "student": student.state_dict(), "teacher": teacher.state_dict()}
            | {"clusters": before_N, "refined": refined_before_N, "slr": slr.state_dict() if slr is not None else None}
        )
    summarise(session, start)


def evaluate(spec: RunSpec, out: Path | None = None) -> dict[str, float]:
    """Scores of the network of a run folder (its teacher, or its pre-trained network) on the target's test split."""
    with Session(spec, out, resume=True) as session:
        teacher = load_network(session.folder.pretrained_file, session)
        if state := session.checkpoint("adapt"):
            teacher.load_state_dict(state["teacher"])
        scores = evaluate_on(teacher, session.test, session)
        session.folder.write_json(session.folder.path / "evaluation.json", scores)
        session.say_scores("evaluation", scores)
    return scores


# The steps of an epoch ------------------------------------------------------------------------------------------------


def cluster(features_ND: Tensor, source_SD: Tensor | None, spec: ClusterSpec, device: torch.device) -> Tensor:
    """Cluster labels (N,) int32 of one epoch on `device`, -1 for outliers."""
    features_ND, source_SD = features_ND.to(device), None if source_SD is None else source_SD.to(device)
    if spec.method == "hdbscan":
        return cluster_hdbscan(features_ND, spec.min_cluster_size)
    settings = spec.model_dump(exclude={"method", "min_cluster_size"})
    return JaccardDBSCAN(**settings).fit_predict(features_ND, source=source_SD)


def refiner(spec: RefineSpec | None) -> SLR | None:
    return None if spec is None else SLR(**spec.model_dump())


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
        return shuffled(targets, generator(spec.seed, "shuffled labels", epoch))
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

    The statistics are those of augmented images, the ones the weights were trained on: of plain images they cost up to
    0.1 mAP. With `features.bn_recalibrate` the network goes on with them.
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
    refined_clusters, wanted = int(refined_N.max()) + 1, session.spec.training.identities
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


# What an epoch leaves behind ------------------------------------------------------------------------------------------


def label_columns(
    clusters_N: Tensor, refined_N: Tensor, refined: Refined | None, identities_N: np.ndarray
) -> dict[str, float]:
    """Counts and quality of the labels; quality where every identity is known."""
    columns: dict[str, float] = {
        "clusters": int(clusters_N.max()) + 1,
        "refined_clusters": int(refined_N.max()) + 1,
        "outliers": int((clusters_N < 0).sum()),
        "rescued": 0 if refined is None else refined.rescued,
        "left_out": int((refined_N < 0).sum()),
    }
    if (identities_N > 0).all():
        columns["identities"] = len(np.unique(identities_N))
        names = ("ari", "nmi", "ari_labelled", "nmi_labelled", "purity")
        for prefix, labels_N in (("", refined_N), ("raw_", clusters_N)):
            quality = label_quality(to_host(labels_N), identities_N)
            columns |= {prefix + name: quality[name] for name in names}
    return columns


def label_table(
    split, previous_N: Tensor | None, clusters_N: Tensor, refined_N: Tensor, refined: Refined | None
) -> pd.DataFrame:
    """One row an image: sample, path, camera, previous, cluster, refined, confidence."""
    clusters, labels = to_host(clusters_N), to_host(refined_N)
    return pd.DataFrame(
        {
            "sample": np.arange(len(clusters), dtype=np.int64),
            "path": split.names,
            "camera": split.cameras,
            "previous": np.full_like(clusters, -1) if previous_N is None else to_host(previous_N),
            "cluster": clusters,
            "refined": labels,
            "confidence": (labels >= 0).astype(np.float32) if refined is None else to_host(refined.confidence),
        }
    )


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
            "device": session.device_name,
            "refine": "none" if spec.refine is None else spec.refine.hard,
            "seed": spec.seed,
            "versions": session.versions(),
        },
    )
    for name, scores in (start | {"last": last, "best": best}).items():
        session.say_scores(name, scores)


def prefixed(prefix: str, values: dict[str, float]) -> dict[str, float]:
    return {f"{prefix}/{name}": value for name, value in values.items()}


def to_host(labels: Tensor) -> np.ndarray:
    return labels.cpu().numpy()


# Networks on disk -----------------------------------------------------------------------------------------------------


def checkpoint_head(spec: RunSpec, stage: str, epoch: int) -> dict[str, object]:
    return {"format": CHECKPOINT_FORMAT, "stage": stage, "epoch": epoch, "seed": spec.seed}


def save_network(path: Path, network: TwoBranch, spec: RunSpec) -> None:
    """A network without classifiers, with what is needed to build it again."""
    model = spec.model.model_dump(exclude={"weights"}) | {"channels": spec.data.channels}
    save_tensors(path, {"format": CHECKPOINT_FORMAT, "model": model, "network": network.state_dict()})


def load_network(path: Path, session: Session) -> TwoBranch:
    """The network of a pretrained.pt, without classifiers, on the device of the run.

    Raises: InputError if the file is absent, damaged, or of another architecture than the spec's.
    """
    spec, state = session.spec, load_tensors(path)
    expected = spec.model.model_dump(exclude={"weights"}) | {"channels": spec.data.channels}
    found = state.get("model")
    if not isinstance(found, dict) or "network" not in state:
        raise InputError(f"{path} holds no pre-trained network; give a pretrained.pt of `rapids-slr pretrain`")
    differing = [name for name in expected if found.get(name) != expected[name]]
    if differing:
        raise InputError(
            f"{path} was trained with "
            + ", ".join(f"{name} {found.get(name)} (the spec says {expected[name]})" for name in differing)
            + "; change model.* and data.channels of the spec, or pre-train anew"
        )
    network = session.new_network(pretrained=False)
    network.load_state_dict(state["network"])
    return network.to(session.device)
