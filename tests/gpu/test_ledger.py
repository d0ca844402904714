"""No array of length N or more crosses between host and device from the teacher's last forward to the training."""

from __future__ import annotations

import pytest
import torch

from rapids_slr import SLR, JaccardDBSCAN
from rapids_slr.bench import clustered_features
from rapids_slr.data.sampler import identity_batches
from rapids_slr.engine.backend import what_cuda_misses
from rapids_slr.hosts.targets import class_centroids, hard_targets
from rapids_slr.marks import Clock
from rapids_slr.profiling import recorded
from rapids_slr.run import train
from rapids_slr.seeds import generator
from rapids_slr.settings.spec import RunSpec

N = 3000


def crossings(ledger, stages) -> dict[str, int]:
    """Bytes of the largest copy of each stage and direction that could be an array of N labels or distances."""
    copies = {
        f"{name} {way}": getattr(ledger[name], way).largest for name in stages for way in ("to_host", "to_device")
    }
    return {name: size for name, size in copies.items() if size >= 4 * N}


def test_labels_never_leave_the_device():
    device = torch.device("cuda", torch.cuda.current_device())
    epochs = [torch.from_numpy(clustered_features(N, 256, epoch=epoch)).to(device) for epoch in (0, 1, 2)]
    slr = SLR()

    def epoch(features_ND: torch.Tensor) -> None:
        clock = Clock(device)
        with clock.stage("clusters"):
            clusters_N = JaccardDBSCAN(pairs_per_image=7).fit_predict(features_ND)
        with clock.stage("refinement"):
            refined = slr.update(clusters_N)
        with clock.stage("targets"):
            targets = hard_targets(refined.hard)
            class_centroids(features_ND, targets)
            identity_batches(targets.identities_N, 16, 4, 20, generator(0, "sampler", 1, device=device))

    epoch(epochs[0])  # compiles kernels, fills pools
    with recorded() as ledger:
        epoch(epochs[1])
        epoch(epochs[2])
    found = ledger()
    assert found["clusters"].kernels > 0
    assert found["clusters"].to_host.count > 0, "scalars are read, so an empty ledger has recorded nothing"
    assert crossings(found, ("clusters", "refinement", "targets")) == {}


def test_a_whole_epoch_keeps_arrays_on_the_device(tmp_path):
    if missing := what_cuda_misses():
        pytest.skip("; ".join(missing))
    domain = {"identities": N // 20, "images": 20, "height": 32, "width": 16, "cameras": 3}
    spec = RunSpec.model_validate(
        {
            "name": "ledger",
            "device": "cuda",
            "data": {
                "source": {"synth": {"style": "source"} | domain},
                "target": {"synth": {"style": "target"} | domain},
                "height": 32,
                "width": 16,
            },
            "augment": {"pad": 2},
            "model": {"backbone": "narrow", "widths": [8, 16, 16]},
            "pretrain": {"epochs": 1, "iterations": 20, "warmup_epochs": 0, "milestones": []},
            "clusters": {"pairs_per_image": 8},
            "training": {"epochs": 3, "iterations": 20, "ema": 0.99},
        }
    )
    with recorded() as ledger:
        train(spec, tmp_path / "run")
    assert crossings(ledger(), ("clusters", "refinement", "targets", "training")) == {}
