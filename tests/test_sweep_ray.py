"""Sweeps on Ray: the results of one without, jobs that go on after a kill, and what is said where no Ray is found."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from rapids_slr.cli import main, valued
from rapids_slr.errors import InputError
from rapids_slr.settings.specfile import dump_yaml
from rapids_slr.sweep import cluster, jobs, processes, work
from rapids_slr.sweep.cluster import Cluster, Task, run_here
from rapids_slr.sweep.folder import SweepFolder
from rapids_slr.sweep.jobs import jobs_of
from rapids_slr.sweep.plan import load_sweep
from tests.conftest import TINY
from tests.test_sweep import AtOnce

SWEEP = """\
spec: base.yaml
seeds: [0]
methods: {abmt: {refine: none}, slr: {}}
set: {pretrain: {epochs: 1, iterations: 2}, training: {epochs: 3, iterations: 2}}
"""
TIMED = ("seconds", "stage_seconds", "commit")
"""What differs from run to run."""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", str(torch.get_num_threads()))
    monkeypatch.setattr(work, "POLL_SECONDS", 0.02)
    (tmp_path / "base.yaml").write_text(dump_yaml(TINY))
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    return tmp_path


@pytest.fixture(scope="module")
def ray() -> Iterator:
    """A Ray of two CPUs of this machine."""
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'rapids-slr[cluster]'")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[1]), *sys.path]))
        ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield ray
    ray.shutdown()


def kill_in(folder: Path, killed: list[int]) -> None:
    """Kill the process that has a run folder, once it has done an epoch."""
    while not (folder / "metrics.jsonl").exists():
        time.sleep(0.01)
    killed.append(json.loads((folder / "lock").read_text())["pid"])
    os.kill(killed[0], signal.SIGKILL)


def results_in(folder: Path) -> dict:
    results = json.loads((folder / "results.json").read_text())
    runs = [{key: value for key, value in run.items() if key not in TIMED} for run in results["runs"]]
    return results | {"runs": runs}


@pytest.mark.slow
def test_results_are_those_without_ray_though_a_worker_is_killed(here, ray, monkeypatch):
    killed: list[int] = []
    run = here / "ray/runs/all/slr/seed-0"
    threading.Thread(target=kill_in, args=(run, killed), daemon=True).start()
    assert main(["sweep", "sweep.yaml", "--out", "ray", "--ray"]) == 0
    assert len(killed) == 1
    assert killed[0] != os.getpid()
    assert len((run / "starts.jsonl").read_text().splitlines()) == 2
    assert len((run.parents[1] / "abmt/seed-0/starts.jsonl").read_text().splitlines()) == 1
    assert len(list((here / "ray/pretrained").iterdir())) == 1

    monkeypatch.setattr(jobs, "commit", lambda: "abc123")
    monkeypatch.setattr(processes.subprocess, "Popen", AtOnce)
    assert main(["sweep", "sweep.yaml", "--out", "without"]) == 0
    assert results_in(here / "ray") == results_in(here / "without")
    for method in ("abmt", "slr"):
        ours, others = (
            torch.load(here / top / f"runs/all/{method}/seed-0/checkpoints/last.pt", weights_only=True)["teacher"]
            for top in ("ray", "without")
        )
        assert all(torch.equal(weights, others[key]) for key, weights in ours.items())


def test_a_task_is_stopped_as_by_ctrl_c_or_by_force(here, ray):
    def work_on(name: str, deaf: bool) -> str:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
        Path(name).touch()
        try:
            while True:
                time.sleep(0.01)
        except KeyboardInterrupt:
            Path(f"{name}-stopped").touch()
            if deaf:
                time.sleep(600)
            return "stopped"

    job = SimpleNamespace(result=here / "result", log=here / "run.log")
    polite, deaf = (
        Task(ray, ray.remote(max_calls=1)(work_on).remote(str(here / name), name == "deaf"), job)
        for name in ("polite", "deaf")
    )
    for name, task in (("polite", polite), ("deaf", deaf)):
        wait_for((here / name).exists)
        task.stop(force=False)
        wait_for((here / f"{name}-stopped").exists)
    wait_for(polite.ended)
    assert not deaf.ended()
    deaf.stop(force=True)
    wait_for(deaf.ended)
    assert polite.fault() is not None
    assert deaf.fault() is not None


def wait_for(what) -> None:
    end = time.monotonic() + 50
    while not what():
        assert time.monotonic() < end
        time.sleep(0.02)


# Without a Ray --------------------------------------------------------------------------------------------------------


@pytest.fixture
def job(here):
    sweep, folder = load_sweep("sweep.yaml"), SweepFolder(Path("out"))
    return next(job for job in jobs_of(sweep.runs, folder) if job.command == "pretrain")


def test_a_task_says_why_it_failed(here, job, capfd, monkeypatch):
    for number, name in ((1, "stdout"), (2, "stderr")):  # as Ray has them
        monkeypatch.setattr(sys, name, open(number, "w", buffering=1, closefd=False))  # noqa: SIM115
    missing = job.spec.data.target.model_copy(update={"synth": None, "path": "gone.zip"})
    broken = job.spec.model_copy(update={"data": job.spec.data.model_copy(update={"target": missing})})
    job.folder.write_spec(broken)
    assert run_here(job, str(here)).startswith("exit code 2: gone.zip does not exist; ")
    assert "error:" in job.log.read_text()
    print("again on the screen")
    assert capfd.readouterr() == ("again on the screen\n", "")


def test_storage_that_is_not_shared_is_told(here, job, monkeypatch):
    needed = here / "out/pretrained" / job.spec.name / "spec.yaml"
    on = "is not to be seen on .*; the folder of a sweep, and where it is started, have to lie on storage that all mach"
    assert fits(f"{needed} {on}", run_here(job, str(here)))
    assert fits(f"{here / 'gone'} {on}", run_here(job, str(here / "gone")))

    monkeypatch.setattr(cluster, "SEEN_SECONDS", 0.05)
    done = SimpleNamespace(wait=lambda tasks, timeout: (tasks, []), get=lambda task: None)
    task = Task(done, "task", job)
    assert not task.ended()  # storage may take a while to show it
    time.sleep(0.1)
    assert task.ended()
    assert fits(f"it was done, but {job.result} {on}", task.fault())


def fits(pattern: str, text: str | None) -> bool:
    return text is not None and re.match(pattern, text) is not None


def test_what_ray_says_of_a_task_is_its_fault(here, job):
    def crashed(task):
        raise RuntimeError("The worker died unexpectedly.\nIts machine is gone.")

    task = Task(SimpleNamespace(wait=lambda tasks, timeout: (tasks, []), get=crashed), "task", job)
    assert task.ended()
    assert task.fault() == f"RuntimeError: Its machine is gone.; see {job.log}"


@pytest.mark.parametrize(
    ("device", "gpus", "threads", "wanted"),
    [("cpu", 8, None, (0, "1")), ("auto", 8, None, (1, "6")), ("auto", 0, None, (0, "1")), ("cuda", 8, "3", (1, "3"))],
)
def test_a_task_takes_a_gpu_and_its_share_of_the_threads(here, job, monkeypatch, device, gpus, threads, wanted):
    asked = {}

    def remote(**settings):
        asked.update(settings)
        return lambda function: SimpleNamespace(remote=lambda *words: "task")

    machines = [{"CPU": 64.0, "GPU": 8.0}, {"CPU": 50.0, "GPU": 8.0}, {"CPU": 2.0}] if gpus else [{"CPU": 2.0}]
    nodes = [{"Alive": True, "Resources": machine} for machine in machines]
    nodes.append({"Alive": False, "Resources": {"CPU": 1.0, "GPU": 8.0}})
    monkeypatch.setitem(
        sys.modules,
        "ray",
        SimpleNamespace(remote=remote, nodes=lambda: nodes, cluster_resources=lambda: {"GPU": gpus} if gpus else {}),
    )
    monkeypatch.delenv("OMP_NUM_THREADS")
    if threads:
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        monkeypatch.setattr(cluster.torch, "get_num_threads", lambda: int(threads))
    of_device = SimpleNamespace(spec=job.spec.model_copy(update={"device": device}), result=job.result, log=job.log)
    Cluster().start(of_device, [])
    variables = asked["runtime_env"]["env_vars"]
    assert (asked["num_gpus"], variables["OMP_NUM_THREADS"]) == wanted
    assert (asked["num_cpus"], asked["max_retries"], asked["max_calls"]) == (1, 2, 1)


def test_ray_that_is_not_installed_is_told_before_a_folder_is_made(here, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["sweep", "sweep.yaml", "--ray", "--out", "out"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: --ray: Ray is not installed (")
    assert err.endswith("); pip install 'rapids-slr[cluster]'\n")
    assert not (here / "out").exists()


def test_an_address_without_a_ray_is_told(here, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: False))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(
        InputError, match=rf"--ray {address}: no Ray was found there \(.*refused\); start one with `ray "
    ):
        Cluster(address).__enter__()
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    ("words", "read"),
    [
        ("sweep a --ray", "sweep a --ray=local"),
        ("sweep a --ray --resume", "sweep a --ray=local --resume"),
        ("sweep a --ray auto --resume", "sweep a --ray auto --resume"),
        ("sweep a --ray=auto", "sweep a --ray=auto"),
        ("", ""),
    ],
)
def test_ray_without_an_address_is_one_of_this_machine(words, read):
    assert valued(words.split()) == read.split()
