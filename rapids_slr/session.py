"""What a command stands on: engine, images, progress, and the folder it writes to where it has one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rapids_slr.data.images import Images, RunImages
from rapids_slr.engine.arrays import on_torch_stream
from rapids_slr.engine.backend import choose_backend, has_bfloat16
from rapids_slr.errors import InputError
from rapids_slr.files import fresh_folder, make_folder
from rapids_slr.group import join, leave
from rapids_slr.launch import processes
from rapids_slr.lock import held
from rapids_slr.marks import Clock
from rapids_slr.networks.embed import embed
from rapids_slr.networks.network import Network
from rapids_slr.progress import Progress
from rapids_slr.record.folder import RunFolder
from rapids_slr.record.log import Log
from rapids_slr.seeds import generator
from rapids_slr.settings.spec import RunSpec
from rapids_slr.warmup import warm_up


class Session(ExitStack):
    """The surroundings of one command; entered, it has its folder to itself, its engine warm, its bars on the screen.

    Args:
        out: the folder that the command writes to; None makes runs/<name>-<time>.
    Raises: InputError if the engine that the spec asks for is not to be had; on entering, if the folder is in use.
    """

    out: Path
    """The folder, once entered."""

    def __init__(self, spec: RunSpec, out: Path | None) -> None:
        super().__init__()
        self.spec, self._wanted = spec, out
        self.group = join(spec.device)
        self.push(lambda kind, *_: leave() if kind is None else None)  # a fault is told before
        # Before anything touches the GPU: the shared pool can be taken until torch's first use of it.
        needs_cuml = spec.clusters.cuml_for | spec.refine.cuml_for
        self.backend = choose_backend(spec.device, spec.memory_pool, needs_cuml)
        self.device = self.backend.device
        quiet = None if self.group.first else self.enter_context(open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        self.progress = Progress(quiet)
        self._warned: set[str] = set()
        self.images = RunImages(spec, self.device, self.bar, self.warn)

    def __enter__(self) -> Session:
        with ExitStack() as opening:  # what is open is closed again, last first, if the rest cannot be opened
            if self.group.first:
                self.out = self._wanted or fresh_folder(self.spec.name)
                make_folder(self.out)
                opening.enter_context(held(self.out))
            self.out = self.group.from_first(self.out if self.group.first else Path())
            self._open_folder()
            opening.enter_context(self.progress)
            opening.push(self._how_to_go_on)  # which is called before the bars close
            self.progress.say(f"{self.out} on {self.device_name} ({self.backend.why})")
            if self.backend.name == "cuda":
                self.progress.say(f"arrays are allocated from {self.backend.memory}")
            if self.spec.refine.unread:
                self.progress.say(self.spec.refine.unread)
            if self.spec.model.precision == "bfloat16" and not has_bfloat16(self.device):
                self.progress.say("the processor has no instructions for bfloat16; model.precision=float32 is faster")
            opening.enter_context(on_torch_stream(self.device))
            with self.bar("compiling kernels, kept for later runs", None, unit="kernels") as report:
                warm_up(report, cuda=self.backend.name == "cuda")  # none is compiled inside a timed stage
            # All is open: from here on it is this session that closes it.
            self.push(opening.pop_all().__exit__)
        return self

    def _open_folder(self) -> None:
        """Look into the folder, and begin it, before all else."""

    def _how_to_go_on(self, kind: Any, *_: object) -> None:
        """What a user who stopped the command can do next; nothing, but for a run."""

    def embed(self, network: Network, images: Images, epoch: int | None = None) -> Tensor:
        """Features (N, D) float32, unit rows; with an epoch, the mean over its `features.views` augmented views.

        The processes of a group embed their share each. Features to cluster, those of an epoch, stay with them; all
        others are given to all.
        """
        spec, N = self.spec, len(images.store)
        share = self.group.share(N)
        settings, draw = spec.features, None
        if epoch is None:
            settings = settings.model_copy(update={"views": 1})
        else:
            # On the CPU, so that views are the same on every engine.
            draw = generator(spec.seed, "views", epoch)
        with self.bar("embedding", len(share)) as report:
            own = embed(network, images.store, spec.data, settings, spec.augment, draw, report, share)
        return own if draw is not None else self.group.gather(own)

    def on_device(self, array: Any) -> Tensor:
        return torch.as_tensor(array).to(self.device)

    def clock(self) -> Clock:
        return Clock(self.device)

    @property
    def device_name(self) -> str:
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        return f"CPU, {torch.get_num_threads()} threads"

    # What the user sees -----------------------------------------------------------------------------------------------

    @contextmanager
    def bar(self, label: str, total: int | None, unit: str = "images") -> Iterator[Callable[..., None]]:
        """A progress bar; call what it gives with the steps done and any values to show."""
        task = self.progress.task(label, total=total, unit=unit)
        try:
            yield task.advance
        finally:
            task.close()

    def epoch_bar(self, epoch: int) -> AbstractContextManager[Callable[..., None]]:
        """The bar of an epoch's training steps."""
        training = self.spec.training
        return self.bar(f"epoch {epoch}/{training.epochs}", training.iterations)

    def warn(self, message: str) -> None:
        """Say what looks wrong, once."""
        if message not in self._warned:
            self._warned.add(message)
            self.progress.say(f"warning: {message}")


class RunSession(Session):
    """The surroundings of a run, with its folder.

    Args:
        out: the run folder; None makes runs/<name>-<time>.
        resume: go on with the run of that folder, where there is one.
        builds_on_pretraining: the folder may hold a finished pre-training of an earlier command.
    Raises: InputError if the folder holds another run.
    """

    folder: RunFolder
    log: Log

    def __init__(
        self, spec: RunSpec, out: Path | None = None, resume: bool = False, builds_on_pretraining: bool = False
    ) -> None:
        self._builds_on_pretraining = builds_on_pretraining
        if resume and out is None:
            raise InputError("a run that is to go on needs its folder")
        spec.check_processes(processes())
        group = join(spec.device)
        self._resumed = group.from_first(resume and out is not None and RunFolder(out).spec_file.exists())
        if out is not None and group.first:
            self._check(RunFolder(out), spec)  # before anything is made
        super().__init__(spec, out)
        self._state: dict[str, Any] | None = None

    def __enter__(self) -> RunSession:
        super().__enter__()
        self.callback(self.log.close)
        return self

    def _check(self, folder: RunFolder, spec: RunSpec) -> None:
        folder.check(spec, self._resumed, self._builds_on_pretraining)

    def _open_folder(self) -> None:
        self.folder = RunFolder(self.out)
        if self.group.first:
            self._check(self.folder, self.spec)  # again: another command may have had it
        self.folder.forget_unfinished()
        # A resumed run may name another device; the spec in the folder stays the one it was started with.
        if not self._resumed:
            self.folder.write_spec(self.spec)
        self._state = self.folder.load_checkpoint()
        self.log = Log(self.folder, self.progress, self.spec.task)

    def checkpoint(self, stage: str) -> dict[str, Any] | None:
        """The checkpoint this run resumes from, if it was left in `stage`."""
        return self._state if self._state is not None and self._state["stage"] == stage else None

    def _how_to_go_on(self, kind: Any, *_: object) -> None:
        if kind is KeyboardInterrupt:
            held = "the last finished epoch is kept" if self.folder.last_file.exists() else "no epoch was finished yet"
            self.progress.say(f"stopped; {held}. Go on with: rapids-slr train --resume --out {self.folder.path}")
