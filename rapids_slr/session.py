"""What a run stands on: engine, images, run folder, clocks, and what the user sees meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from rapids_slr.data import Domain, ImageStore, Split, augment, load_images, read_domain
from rapids_slr.engine.arrays import on_torch_stream
from rapids_slr.engine.backend import choose_backend
from rapids_slr.errors import InputError
from rapids_slr.files import make_folder
from rapids_slr.kernels.runtime import warm_up
from rapids_slr.marks import Clock
from rapids_slr.networks import TwoBranch
from rapids_slr.progress import Progress
from rapids_slr.provenance import versions
from rapids_slr.record.folder import RunFolder
from rapids_slr.seeds import generator
from rapids_slr.settings.spec import DomainSpec, RunSpec
from rapids_slr.settings.specfile import dump_spec, load_spec, spec_differences

MAY_DIFFER = {"device", "memory_pool", "name"}
"""Keys that a resumed run may change."""


@dataclass(frozen=True)
class Images:
    """A split of a domain, decoded: row i of the store is name i of the split."""

    split: Split
    store: ImageStore


@dataclass(frozen=True)
class Test:
    query: Images
    gallery: Images


class Session(AbstractContextManager["Session"]):
    """The surroundings of one command on one run folder.

    Args:
        out: the run folder; None makes runs/<name>-<time>.
        resume: go on with the run of that folder.
        builds_on_pretraining: the folder may hold a finished pre-training of an earlier command.
    Raises: InputError if the folder holds another run, or none to resume.
    """

    def __init__(
        self, spec: RunSpec, out: Path | None = None, resume: bool = False, builds_on_pretraining: bool = False
    ) -> None:
        self.spec = spec
        self.folder = RunFolder(out or Path("runs") / f"{spec.name}-{time.strftime('%Y%m%d-%H%M%S')}")
        self._may_use(resume, builds_on_pretraining)
        self._resumed = resume
        self.backend = choose_backend(spec.device, spec.memory_pool)
        self.device = self.backend.device
        self._stream = on_torch_stream(self.device)
        self.progress = Progress()
        self._state: dict[str, Any] | None = None
        self._writers: dict[str, SummaryWriter] = {}

    def _may_use(self, resume: bool, builds_on_pretraining: bool) -> None:
        folder, path = self.folder, self.folder.path
        if not folder.spec_file.exists():
            if resume:
                raise InputError(f"{path} holds no run to go on with (no spec.yaml); leave --resume out to start one")
            if path.exists() and (not path.is_dir() or any(path.iterdir())):
                raise InputError(f"{path} exists and is not a run folder; name an empty or new folder with --out")
            return
        checkpoints = folder.last_file, folder.previous_file, folder.pretrained_file
        if not resume and not any(file.exists() for file in checkpoints):
            return  # what was there stopped before its first checkpoint
        adapting = folder.metrics_file.exists() or not folder.pretrained_file.exists()
        if resume:
            differing = spec_differences(load_spec(folder.spec_file), self.spec)
            differing = [key for key in differing if key.split(".")[0] not in MAY_DIFFER]
            if differing:
                raise InputError(
                    f"{path} was started with another spec: {', '.join(differing)} differ; "
                    "leave SPEC out to go on with its own, or start a new run with another --out"
                )
            return
        if builds_on_pretraining and not adapting:
            return
        raise InputError(f"{path} already holds a run; go on with --resume, or name another folder with --out")

    def __enter__(self) -> Session:
        make_folder(self.folder.path)
        if not self._resumed:
            self.folder.write_text(self.folder.spec_file, dump_spec(self.spec))
        self._state = self.folder.load_checkpoint()
        self.progress.__enter__()
        self.progress.say(f"{self.folder.path} on {self.device_name} ({self.backend.why})")
        if self.backend.name == "cuda":
            self.progress.say(f"arrays are allocated from {self.backend.memory}")
        self._stream.__enter__()
        with self.bar("compiling kernels, kept for later runs", None, unit="kernels") as report:
            warm_up(report, cuda=self.backend.name == "cuda")  # none is compiled inside a timed stage
        return self

    def __exit__(self, kind, fault, trace) -> None:
        self._stream.__exit__(kind, fault, trace)
        for writer in self._writers.values():
            writer.close()
        if kind is KeyboardInterrupt:
            held = "the last finished epoch is kept" if self.folder.last_file.exists() else "no epoch was finished yet"
            self.progress.say(f"stopped; {held}. Go on with: rapids-slr train --resume --out {self.folder.path}")
        self.progress.__exit__(kind, fault, trace)

    def checkpoint(self, stage: str) -> dict[str, Any] | None:
        """The checkpoint this run resumes from, if it was left in `stage`."""
        return self._state if self._state is not None and self._state["stage"] == stage else None

    # Images -----------------------------------------------------------------------------------------------------------

    def read_images(self) -> None:
        """Decode all that the run will need, so that bad data stops it before it trains."""
        if self.spec.data.source is not None and not self.folder.pretrained_file.exists():
            _ = self.source
        images, k1 = len(self.target.split), self.spec.clusters.k1
        if images <= k1 and self.spec.clusters.method == "dbscan":
            raise InputError(
                f"data.target: {images} training images, but clusters.k1 {k1} needs more than that; lower k1"
            )
        _ = self.test

    @cached_property
    def source(self) -> Images:
        if self.spec.data.source is None:
            raise InputError("data.source is missing: pre-training and clusters.source_weight need a labelled source")
        return self._load(self._domain(self.spec.data.source), "train", "source")

    @cached_property
    def target(self) -> Images:
        return self._load(self._target_domain, "train", "target")

    @cached_property
    def test(self) -> Test:
        return Test(
            self._load(self._target_domain, "query", "target"), self._load(self._target_domain, "gallery", "target")
        )

    @cached_property
    def _target_domain(self) -> Domain:
        return self._domain(self.spec.data.target)

    def _domain(self, spec: DomainSpec) -> Domain:
        return read_domain(spec, on_error=self.spec.data.on_error)

    def _load(self, domain: Domain, split_name: str, role: str) -> Images:
        split: Split = getattr(domain, split_name)
        with self.bar(f"reading {role} {split_name}", len(split)) as report:
            store, kept = load_images(domain, split, self.spec.data, self.device, progress=report)
        if len(kept) < len(split):
            self.warn(
                f"{role} {split_name}: {len(split) - len(kept)} of {len(split)} images could not be read; left out"
            )
        return Images(kept, store)

    def training_batches(self, images: Images) -> Iterator[Tensor]:
        """All images once, in random order and augmented as in training, float32 (B, C, H, W)."""
        order_N = torch.randperm(len(images.store), generator=generator(self.spec.seed, "batchnorm order"))
        draw = generator(self.spec.seed, "batchnorm augmentation")
        for indices_B in order_N.split(self.spec.features.batch):
            yield augment(images.store.batch(indices_B), self.spec.augment, self.spec.data, draw)

    def on_device(self, array: Any) -> Tensor:
        return torch.as_tensor(array).to(self.device)

    # Networks ---------------------------------------------------------------------------------------------------------

    def new_network(self) -> TwoBranch:
        """A network to pre-train, whose random weights depend on the seed alone."""
        with torch.random.fork_rng():
            torch.manual_seed(generator(self.spec.seed, "network").initial_seed())
            return TwoBranch(self.spec.model, self.spec.data.channels)

    # What the user sees -----------------------------------------------------------------------------------------------

    def clock(self) -> Clock:
        return Clock(self.device)

    @contextmanager
    def bar(self, label: str, total: int | None, unit: str = "images") -> Iterator[Callable[..., None]]:
        """A progress bar; call what it gives with the steps done and any values to show."""
        task = self.progress.task(label, total=total, unit=unit)
        try:
            yield task.advance
        finally:
            task.close()

    def warn(self, message: str) -> None:
        self.progress.say(f"warning: {message}")

    def log(self, path: Path, stage: str, row: Mapping[str, float]) -> None:
        """Append an epoch to its .jsonl file, to TensorBoard and to the screen."""
        self.folder.append(path, row)
        if stage not in self._writers:  # curves of epochs that are done again give way to the new ones
            folder = str(self.folder.path / "tensorboard" / stage)
            self._writers[stage] = SummaryWriter(folder, purge_step=int(row["epoch"]))
        for name, value in row.items():
            if name != "epoch":
                self._writers[stage].add_scalar(name, value, row["epoch"])
        self._writers[stage].flush()
        self.progress.say(line_of(stage, row))

    def say_scores(self, name: str, scores: Mapping[str, float]) -> None:
        self.progress.say(f"{name:<12}" + "  ".join(f"{key} {100 * scores[key]:5.1f}" for key in SCORES))

    # Facts for the summary --------------------------------------------------------------------------------------------

    @property
    def device_name(self) -> str:
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        return f"CPU, {torch.get_num_threads()} threads"

    def seconds_of_run(self) -> float:
        """Seconds of all epochs, those before a resume included."""
        rows = self.folder.rows(self.folder.pretrain_file) + self.folder.rows(self.folder.metrics_file)
        return round(sum(row["seconds/epoch"] for row in rows), 3)

    def versions(self) -> dict[str, str]:
        return versions()


SCORES = ("mAP", "rank1", "rank5", "rank10")


def label_share(row: Mapping[str, float]) -> float:
    """Part of an epoch's seconds that went into labels: clustering and refinement."""
    return (row["seconds/clusters"] + row["seconds/refinement"]) / row["seconds/epoch"]


def line_of(stage: str, row: Mapping[str, float]) -> str:
    """An epoch in one line."""
    if stage == "pretrain":
        losses = "  ".join(f"{key.removeprefix('loss/')} {row[key]:.3f}" for key in row if key.startswith("loss/"))
        return f"pre-training {row['epoch']:>3}  {losses}  {row['seconds/epoch']:.1f} s"
    scores = f"mAP {100 * row['mAP']:5.1f}  rank-1 {100 * row['rank1']:5.1f}  " if "mAP" in row else ""
    quality = f"  ARI {row['raw_ari']:.3f} -> {row['ari']:.3f}" if "ari" in row else ""
    return (
        f"epoch {row['epoch']:>3}  {scores}clusters {row['clusters']} -> {row['refined_clusters']}  "
        f"outliers {row['outliers']} ({row['rescued']} rescued){quality}  "
        f"{row['seconds/epoch']:.1f} s (labels {100 * label_share(row):.1f} %)"
    )
