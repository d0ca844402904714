"""The patches of docs/peers.md, each in a loop that counts, groups and indexes as the script does that it is for."""

from __future__ import annotations

import collections
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from rapids_slr.bench import FEATURES
from tests.reference import peers
from tests.test_docs import DOCS, blocks

HEAD, CONTRAST, CONTRAST_SOFT, SPCL, SPCL_REFINED, MMT, TORCHREID = blocks(DOCS / "peers.md", "python")
N = 240


@pytest.fixture
def names() -> dict:
    """What a script has by then: its settings, and its images by name, identity and camera."""
    train = [(f"{i:04}.jpg", 0, i % 3) for i in range(N)]
    args = SimpleNamespace(k1=20, k2=6, eps=0.6, eps_gap=0.02, lambda_value=0.1)
    names = {"args": args, "dataset": SimpleNamespace(train=train), "torch": torch}
    exec(HEAD, names)
    return names


def features(epoch: int) -> torch.Tensor:
    return torch.from_numpy(FEATURES["clustered"](N, 32, epoch=epoch))


def patched(code: str, names: dict, **of_epoch) -> dict:
    names.update(of_epoch)
    exec(compile(code, "docs/peers.md", "exec"), names)
    return names


def centres_of(labels, rows) -> torch.Tensor:
    """`generate_cluster_features` of cluster-contrast, and MMT's cluster_centers: by the labels as keys."""
    centers = collections.defaultdict(list)
    for i, label in enumerate(labels):
        if label == -1:
            continue
        centers[labels[i]].append(rows[i])
    return torch.stack([torch.stack(centers[idx], dim=0).mean(0) for idx in sorted(centers.keys())])


def test_patches_are_short():
    for code in (CONTRAST, CONTRAST_SOFT, SPCL, SPCL_REFINED, MMT, TORCHREID):
        assert 3 <= len(code.strip().splitlines()) <= 10


def test_cluster_contrast(names):
    for epoch in range(3):
        rows = features(epoch)
        pseudo_labels = patched(CONTRAST, names, epoch=epoch, features=rows)["pseudo_labels"]
        num_cluster = len(set(pseudo_labels)) - (1 if -1 in pseudo_labels else 0)
        memory = F.normalize(centres_of(pseudo_labels, rows), dim=1)
        assert 5 < num_cluster == len(memory) < 60
        data = [
            (fname, label.item(), cid)
            for (fname, _, cid), label in zip(sorted(names["dataset"].train), pseudo_labels, strict=True)
            if label != -1
        ]
        assert {label for _, label, _ in data} == set(range(num_cluster))
        batch = torch.tensor([label for _, label, _ in data[:32]])
        inputs = torch.stack([rows[int(fname[:4])] for fname, _, _ in data[:32]])
        assert torch.isfinite(F.cross_entropy(inputs @ memory.T / 0.05, batch))


def test_cluster_contrast_without_refinement_has_the_labels_of_the_script(names):
    from sklearn.cluster import DBSCAN

    rows = features(0)
    distance = peers.faiss_family(rows.numpy(), 20, 6)
    theirs = DBSCAN(eps=0.6, min_samples=4, metric="precomputed").fit_predict(distance)
    patched(CONTRAST, names, epoch=0, features=rows)
    np.testing.assert_array_equal(names["cluster"].labels_, theirs)


def test_the_trap_of_tensors_is_as_the_page_says(names):
    """What the page warns of is so; what it says to do is not."""
    labels = patched(CONTRAST, names, epoch=0, features=features(0))["cluster"].fit_predict(features(0))
    assert labels.dtype == torch.int64
    assert len(set(labels)) == N
    assert len(set(labels.tolist())) == len(set(names["cluster"].fit_predict(features(0).numpy())))


def test_cluster_contrast_with_soft_labels(names):
    for epoch in range(3):
        patched(CONTRAST_SOFT, names, epoch=epoch, features=features(epoch))
        data, targets, memory = names["pseudo_labeled_dataset"], names["targets"], names["cluster_features"]
        assert names["num_cluster"] == len(memory) == targets.shape[1] > 5
        assert len(data) == len(names["kept"].hard)
        row = torch.tensor([row for _, row, _ in data[:32]])
        inputs = torch.stack([features(epoch)[int(fname[:4])] for fname, _, _ in data[:32]])
        assert torch.isfinite(F.cross_entropy(inputs @ memory.T / 0.05, targets[row]))
        for x, y in zip(inputs, names["kept"].hard[:32], strict=True):  # ClusterMemory's update
            memory[y] = F.normalize(0.1 * memory[y] + 0.9 * x, dim=0)


def test_spcl(names):
    def generate_pseudo_labels(cluster_id, num):
        labels, outliers = [], 0
        for (_, _, _), id in zip(sorted(names["dataset"].train), cluster_id, strict=True):
            if id != -1:
                labels.append(id)
            else:
                labels.append(num + outliers)
                outliers += 1
        return torch.Tensor(labels).long()

    names["generate_pseudo_labels"] = generate_pseudo_labels
    for epoch in range(3):
        patched(SPCL, names, epoch=epoch, features=features(epoch))
        three = []
        for suffix in ("", "_tight", "_loose"):
            found = names["pseudo_labels" + suffix]
            three.append(generate_pseudo_labels(found, len(set(found)) - (1 if -1 in found else 0)))
        same, tight, loose = (x.expand(N, N).eq(x.expand(N, N).t()).float() for x in three)
        r_comp = 1 - torch.min(same, tight).sum(-1) / torch.max(same, tight).sum(-1)
        r_indep = 1 - torch.min(same, loose).sum(-1) / torch.max(same, loose).sum(-1)
        labels = three[0].clone()
        labels[(r_comp > 0.5) | (r_indep > 0.5)] = (
            labels.max() + 1 + torch.arange(int(((r_comp > 0.5) | (r_indep > 0.5)).sum()))
        )
        clusters = int((labels.bincount() > 1).sum())
        patched(SPCL_REFINED, names, pseudo_labels=labels)
        assert 5 < names["num_ids"] <= clusters
        assert (names["refined"] >= 0).sum() > N / 2
        filtered = names["pseudo_labels"]  # every outlier has a number of its own
        assert (filtered.bincount()[: names["num_ids"]] > 1).all()
        assert (filtered.bincount()[names["num_ids"] :] == 1).all()


@pytest.mark.parametrize("rho", ["1.6e-3", "2e-3"], ids=["MMT", "ABMT"])
def test_mmt(names, rho):
    radii = []
    for epoch in range(3):
        cf, cf_s = features(epoch), features(9)[:100]
        patched(MMT.replace("1.6e-3", rho), names, epoch=epoch, cf=cf, cf_s=cf_s)
        labels, num_ids = names["labels"], names["num_ids"]
        radii.append(names["cluster"].eps_)
        data = [(f, label, c) for (f, _, c), label in zip(names["dataset"].train, labels, strict=True) if label != -1]
        assert len({label for _, label, _ in data}) == num_ids
        assert len(centres_of(labels, cf)) == num_ids > 0  # few: the fraction is for some 10,000 images
    assert radii[0] == radii[1] == radii[2]


def test_torchreid(names):
    qf, gf = features(0)[:40] * 3, features(0)[40:] * 2
    distmat = patched(TORCHREID, names, rerank_asked=True, qf=qf, gf=gf)["distmat"]
    unit = [F.normalize(part, dim=1).double().numpy() for part in (qf, gf)]
    parts = [np.maximum(0, peers.squared_euclidean(unit[a], unit[b])) for a, b in ((0, 1), (0, 0), (1, 1))]
    np.testing.assert_allclose(distmat, peers.re_ranking(*parts), atol=1e-6)
