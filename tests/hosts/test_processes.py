"""Training in several processes: the batches, statistics, losses and gradients of one."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from rapids_slr import group as module
from rapids_slr import session as session_module
from rapids_slr.data.sampler import identity_batches
from rapids_slr.data.store import ImageStore
from rapids_slr.errors import InputError
from rapids_slr.group import ALONE, Group
from rapids_slr.hosts import abmt, cluster_contrast, loop, mmt, spcl
from rapids_slr.hosts.sections import ABMTSpec
from rapids_slr.hosts.source import SourceLoss
from rapids_slr.hosts.targets import Targets, class_centroids, hard_targets
from rapids_slr.networks import batchnorm
from rapids_slr.networks.batchnorm import statistics_of
from rapids_slr.networks.checkpoint import new_network
from rapids_slr.networks.whole import OnWholeBatch
from rapids_slr.settings.spec import RunSpec
from tests.conftest import TINY
from tests.processes import together

STEPS = 20
WITHIN = 1e-5
"""Part of the largest gradient, and of a loss, that rounding may move."""
SETS = (None, 16, 8)


class Trained(NamedTuple):
    gradient: np.ndarray
    """Of the first step, all parameters."""
    losses: list[float]
    state: np.ndarray
    """Weights and statistics of student and teacher afterwards."""


def trained(group: Group, bn_images: int | None, with_source: bool = False) -> Trained:
    """An epoch of ABMT on drawn images, 8 identities x 4 images a step."""
    module._current = group
    keys = {"identities": 8, "images": 4, "iterations": STEPS, "bn_images": bn_images, "teacher_ce": True}
    keys["source"] = {"identities": 8, "images": 4} if with_source else None
    spec = RunSpec.model_validate(TINY | {"training": TINY["training"] | keys})
    draw = torch.Generator().manual_seed(1)
    store = ImageStore(torch.randint(0, 256, (96, 3, 32, 16), generator=draw, dtype=torch.uint8), torch.device("cpu"))
    labels_N = torch.arange(96) % 12
    torch.manual_seed(0)
    teacher = new_network(spec).requires_grad_(False)
    student = teacher.frozen_copy().requires_grad_(True)
    features_ND = F.normalize(torch.randn(96, teacher.feature_dim, generator=draw), dim=1)
    for network in (student, teacher):
        network.set_classifiers_from(class_centroids(features_ND, hard_targets(labels_N)))
    images = SimpleNamespace(split=SimpleNamespace(identities=labels_N.numpy() + 1), store=store)
    source = SourceLoss(images, spec, spec.training.source, 1, features_ND) if with_source else None
    seen = Seen()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(loop.GuardedAdam, "step_unless", seen.step(loop.GuardedAdam.step_unless))
        patched.setattr(loop.LossMeter, "add", seen.add(loop.LossMeter.add))
        abmt.adapt_epoch(student, teacher, store, hard_targets(labels_N), spec, 1, 0, lambda *_, **__: None, source)
    state = [x.flatten().double() for network in (student, teacher) for x in network.state_dict().values()]
    module._current = ALONE
    return Trained(seen.gradient, seen.losses, torch.cat(state).numpy())


class Seen:
    """Listens to an optimizer and a meter."""

    def __init__(self) -> None:
        self.gradient, self.losses = np.empty(0), list[float]()

    def step(self, real):
        def step_unless(optimizer, spoilt):
            if not self.gradient.size:
                parameters = [p for part in optimizer.param_groups for p in part["params"]]
                self.gradient = torch.cat([p.grad.flatten() for p in parameters]).numpy()
            real(optimizer, spoilt)

        return step_unless

    def add(self, real):
        def add(meter, total, terms, batch_B):
            self.losses.append(float(total.detach()))
            real(meter, total, terms, batch_B)

        return add


def every_set(group: Group) -> list[Trained]:
    return [*(trained(group, images) for images in SETS), trained(group, None, with_source=True)]


# Every host -----------------------------------------------------------------------------------------------------------

HOSTS = {
    "abmt": {},
    "cluster_contrast": {},
    "hardest": {"host": {"name": "cluster_contrast", "memory": "hardest"}},
    "spcl": {},
    "mmt": {},
}


class InSixteens(Group):
    """Shares of 16 rows, for a few images to be dealt out too."""

    def share(self, N, rank=None, step=16):
        return super().share(N, rank, step)


def host_trained(group: Group, folder: Path, name: str, training: dict) -> Trained:
    """Two epochs of a host, which embeds and trains on labels of three kinds."""
    module._current = InSixteens(group.rank, group.size)
    keys = {"iterations": 4, "source": {"identities": 4, "images": 4}, **training}
    spec = RunSpec.model_validate(TINY | {"host": name, "training": TINY["training"] | keys} | HOSTS[name])
    seen, host = Seen(), spec.host.build()
    labels_N = torch.arange(48) * 5 % 7 - 1
    soft = Targets(labels_N, 6, 0.8 * torch.eye(6) + 0.2 / 6, labels_N)
    weighed = Targets(labels_N, 6, weights_N=torch.linspace(0.1, 1, 48))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(session_module, "leave", lambda: None)
        patched.setattr(loop.GuardedAdam, "step_unless", seen.step(loop.GuardedAdam.step_unless))
        patched.setattr(loop.LossMeter, "add", seen.add(loop.LossMeter.add))
        with session_module.Session(spec, folder) as session:
            torch.manual_seed(0)
            host.begin(new_network(spec), session)
            for epoch, targets in enumerate((hard_targets(labels_N), soft, weighed), start=1):
                features_ND = host.embed(session.images.target, epoch)
                assert len(features_ND) == len(module._current.share(48))
                host.fit_epoch(features_ND, targets, epoch)
    module._current = ALONE
    state = [x.flatten().double() for x in tensors_in(host.state_dict())]
    return Trained(seen.gradient, seen.losses, torch.cat(state).numpy())


def tensors_in(state: Any) -> list[torch.Tensor]:
    if isinstance(state, Mapping):
        return [x for value in state.values() for x in tensors_in(value)]
    return [state] if isinstance(state, torch.Tensor) else []


def every_host(group: Group, folder: Path) -> dict[str, Trained]:
    ways = {name: (name, {}) for name in HOSTS}
    ways |= {
        f"{name} in sets": (name, {"bn_images": 4, "source": None}) for name in ("cluster_contrast", "spcl", "mmt")
    }
    return {way: host_trained(group, folder / way, *of) for way, of in ways.items()}


@pytest.mark.slow
def test_every_host_trains_as_in_one_process(hosts_of_one, tmp_path):
    """Networks and memories too: the same on every process, bit by bit."""
    found = together(2, every_host, tmp_path)
    for way, expected in hosts_of_one.items():
        for of_process in found:
            assert not far_apart(of_process[way], expected), way
            assert np.array_equal(of_process[way].state, found[0][way].state), way


def faulty_hosts(group: Group, folder: Path) -> dict[str, Trained]:
    """Statistics of each process by itself, and gradients that it does not share."""
    found = {}
    for of in (cluster_contrast, spcl, mmt):
        name = of.__name__.rpartition(".")[2]
        for what, mutant in (
            ("statistics_of", lambda *_: nullcontext()),
            ("OnWholeBatch", lambda network, trained=False: OnWholeBatch(network)),
        ):
            with pytest.MonkeyPatch.context() as patched:
                patched.setattr(of, what, mutant)
                found[f"{name} {what}"] = host_trained(group, folder / f"{name} {what}", name, {})
    return found


@pytest.mark.slow
def test_faults_of_hosts_would_be_seen(hosts_of_one, tmp_path):
    found = together(2, faulty_hosts, tmp_path)
    for way, mutant in found[0].items():
        same = np.array_equal(mutant.state, found[1][way].state)
        assert far_apart(mutant, hosts_of_one[way.partition(" ")[0]]) or not same, way


def test_hosts_that_know_nothing_of_processes_are_refused(tiny, monkeypatch):
    monkeypatch.setattr(ABMTSpec, "takes_part", False)
    tiny.check_processes(1)
    with pytest.raises(InputError, match="host abmt trains in one process, not in 2; hosts that do are cluster_con"):
        tiny.check_processes(2)


def test_an_approximate_search_is_refused_before_anything_is_started():
    spec = RunSpec.model_validate(TINY | {"clusters": TINY["clusters"] | {"search": "approximate"}})
    spec.check_processes(1)
    with pytest.raises(InputError, match=r"clusters\.search: approximate is for one process, not for 2"):
        spec.check_processes(2)


def alone(work, *args) -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return work(ALONE, *args)
    finally:
        torch.set_num_threads(threads)


def far_apart(found: Trained, expected: Trained) -> bool:
    gradient = np.abs(found.gradient - expected.gradient).max() > WITHIN * np.abs(expected.gradient).max()
    return bool(gradient or not np.allclose(found.losses, expected.losses, rtol=WITHIN, atol=0))


@pytest.fixture(scope="module")
def of_one() -> list[Trained]:
    return alone(every_set)


@pytest.fixture(scope="module")
def hosts_of_one(tmp_path_factory) -> dict[str, Trained]:
    return alone(every_host, tmp_path_factory.mktemp("alone"))


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 4])
def test_gradient_and_losses_are_those_of_one_process(of_one, size):
    found = together(size, every_set)
    for number, expected in enumerate(of_one):
        for of_process in found:
            assert not far_apart(of_process[number], expected)
            assert np.array_equal(of_process[number].state, found[0][number].state)  # bit by bit


def mutants(group: Group) -> list[Trained]:
    """Training with a fault each: statistics, hardest pairs and draws of each process by itself."""

    def local_statistics(images, *networks):
        return statistics_of(32 // group.size, *networks)

    def local_pairs(pooled_BD, labels_B):
        part = group.part(len(labels_B))
        return group.batch(real_triplet(pooled_BD[part], labels_B[part])[None]).mean()

    def own_draws(*args):
        *rest, draw = args
        return identity_batches(*rest, draw.manual_seed(group.rank))

    real_triplet, found = abmt.soft_margin_triplet, []
    for place, name, mutant in (
        (abmt, "statistics_of", local_statistics),
        (abmt, "soft_margin_triplet", local_pairs),
        (loop, "identity_batches", own_draws),
    ):
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(place, name, mutant)
            found.append(trained(group, None))
    return found


@pytest.mark.slow
def test_faults_that_others_make_would_be_seen(of_one):
    for mutant in together(2, mutants)[0]:
        assert far_apart(mutant, of_one[0])


# BatchNorm ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", [torch.nn.BatchNorm2d(5), torch.nn.BatchNorm1d(5)])
@pytest.mark.parametrize("images", [4, 6, 12])
def test_sets_of_a_batch_are_normalised_each_by_itself(layer, images, rng):
    """torch's own layer on one set after the other; running statistics go to the mean of theirs."""
    shape = (12, 5, 3, 2) if isinstance(layer, torch.nn.BatchNorm2d) else (12, 5)
    layer, x = layer.train(), torch.randn(shape, generator=rng)
    layer.reset_running_stats()
    torch.nn.init.uniform_(layer.weight, 0.5, 2, generator=rng)
    torch.nn.init.uniform_(layer.bias, generator=rng)
    plain = [torch.nn.BatchNorm2d(5) if x.ndim == 4 else torch.nn.BatchNorm1d(5) for _ in range(12 // images)]
    for other in plain:
        other.load_state_dict(layer.state_dict())
    expected = torch.cat([other(part) for other, part in zip(plain, x.split(images), strict=True)])
    with statistics_of(images, layer):
        found = layer(x)
    torch.testing.assert_close(found, expected)
    for name in ("running_mean", "running_var"):
        mean = torch.stack([getattr(other, name) for other in plain]).mean(0)
        torch.testing.assert_close(getattr(layer, name), mean)
    assert layer.num_batches_tracked == 1
    layer.eval()
    with statistics_of(images, layer):
        torch.testing.assert_close(layer(x), type(layer).forward(layer, x))


def test_layers_with_an_activation_behind_them_keep_it(rng):
    layer = pytest.importorskip("timm").layers.BatchNormAct2d(5).train()
    x = torch.randn(12, 5, 3, 2, generator=rng)
    expected = torch.cat([copy.deepcopy(layer)(part) for part in x.split(4)])
    with statistics_of(4, layer):
        found = layer(x)
    torch.testing.assert_close(found, expected)


def test_layers_that_take_statistics_in_a_way_of_their_own_are_refused():
    class Own(torch.nn.BatchNorm1d):
        def forward(self, x):
            return 2 * super().forward(x)

    network = torch.nn.Sequential(torch.nn.BatchNorm1d(3), Own(3))
    with statistics_of(None, network):
        assert "forward" not in vars(network[0])
    with (
        pytest.raises(InputError, match=r"model\.backbone: Own takes statistics of batches"),
        statistics_of(4, network),
    ):
        pass
    assert "forward" not in vars(network[0])


def test_layers_are_as_they_were_afterwards_and_untouched_for_whole_batches():
    layer = torch.nn.BatchNorm1d(3)
    with statistics_of(None, layer):
        assert "forward" not in vars(layer)
    with statistics_of(2, layer):
        assert "forward" in vars(layer)
    assert "forward" not in vars(layer)


def test_gradients_of_sets_are_right(rng):
    layer, x = torch.nn.BatchNorm1d(3).double(), torch.randn(8, 3, generator=rng, dtype=torch.float64)
    # In float64, which `float()` would leave behind.
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(torch.Tensor, "float", lambda self: self)
        check = torch.autograd.gradcheck(lambda y: batchnorm.normalised(layer, y, 4), x.requires_grad_())
    assert check


# Small things ---------------------------------------------------------------------------------------------------------


def test_of_one_process_the_whole_batch_is_the_network_itself(tiny):
    network = new_network(tiny)
    images = torch.zeros(4, 3, 32, 16)
    network.eval()
    for found, expected in zip(OnWholeBatch(network, trained=True)(images), network(images), strict=True):
        assert all(map(torch.equal, found, expected))


def test_batches_that_cannot_be_dealt_out_are_refused(tiny):
    tiny.check_processes(4)
    with pytest.raises(
        InputError, match=r"3 processes .* training.identities: 4, pretrain.identities: 4, training.sou"
    ):
        tiny.check_processes(3)


def test_sets_that_do_not_fill_a_batch_are_refused():
    for keys, name in (({"bn_images": 5}, "training.identities"), ({"bn_images": 32}, "training.source.identities")):
        keys = TINY["training"] | {"identities": 8, "source": {"identities": 2}} | keys
        with pytest.raises(ValueError, match=rf"bn_images: .*{name}.* no multiple of {keys['bn_images']}"):
            RunSpec.model_validate(TINY | {"training": keys})
