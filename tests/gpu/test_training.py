"""Images, networks, training and evaluation on a GPU: as on the CPU but for rounding, and never waited for."""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from rapids_slr import run
from rapids_slr.data.augment import augment
from rapids_slr.data.decode import decode, decodes_jpegs
from rapids_slr.data.read import read_domain
from rapids_slr.data.sampler import identity_batches
from rapids_slr.data.store import ImageStore, load_images
from rapids_slr.engine.backend import what_cuda_misses
from rapids_slr.errors import RunError
from rapids_slr.evaluation import query_results, retrieval_scores
from rapids_slr.hosts import abmt, pretraining
from rapids_slr.hosts.abmt import adapt_epoch, adaptation_loss
from rapids_slr.hosts.loop import GuardedAdam, LossMeter
from rapids_slr.hosts.pretraining import pretrain_epoch, pretrain_optimizer
from rapids_slr.hosts.targets import class_centroids, hard_targets
from rapids_slr.networks.batchnorm import recalibrate_batchnorm
from rapids_slr.networks.embed import embed
from rapids_slr.networks.two_branch import TwoBranch
from rapids_slr.seeds import generator
from rapids_slr.settings.spec import AugmentSpec, DomainSpec, FeatureSpec, ModelSpec, RunSpec

NARROW = ModelSpec(backbone="narrow", widths=[16, 32, 48])
IDENTITIES, EACH = 8, 8
N = IDENTITIES * EACH
HAS_BFLOAT16 = torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 0)
needs_bfloat16 = pytest.mark.skipif(not HAS_BFLOAT16, reason="this GPU has no bfloat16")


@pytest.fixture
def device() -> torch.device:
    return torch.device("cuda", torch.cuda.current_device())


@pytest.fixture
def exact() -> Iterator[None]:
    """Convolutions in float32 without TF32; matrix products are without it by torch's default."""
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield


def silent(*_, **__) -> None:
    pass


def pixels(seed: int = 2) -> Tensor:
    """Images of IDENTITIES that look alike within an identity."""
    rng = torch.Generator().manual_seed(seed)
    centres = torch.randint(0, 256, (IDENTITIES, 3, 64, 32), generator=rng).float()
    noise = 40 * torch.randn(N, 3, 64, 32, generator=rng)
    return (centres[labels()] + noise).clamp(0, 255).byte()


def labels() -> Tensor:
    return torch.arange(N) // EACH


def networks(device: torch.device | str, **model) -> tuple[TwoBranch, TwoBranch]:
    """Student and teacher with the same weights on every device."""
    torch.manual_seed(0)
    student = TwoBranch(NARROW.model_copy(update=model)).place(device)
    teacher = student.frozen_copy()
    for network in (student, teacher):
        network.set_classifiers(IDENTITIES, torch.Generator().manual_seed(1))
    return student, teacher


@pytest.fixture
def spec(tiny) -> RunSpec:
    values = tiny.model_dump()
    values["data"] |= {"height": 64, "width": 32}
    values["training"] |= {"iterations": 23, "identities": 4}
    values["pretrain"] |= {"iterations": 23, "identities": 4}
    return RunSpec.model_validate(values)


def store(device: torch.device, on_host: bool = False) -> ImageStore:
    return ImageStore(pixels() if on_host else pixels().to(device), device)


# A step ---------------------------------------------------------------------------------------------------------------


def one_step(where: torch.device | str, spec: RunSpec, **model) -> tuple[float, dict[str, float], Tensor, Tensor]:
    """Loss, terms, gradient and features of a step on 32 images, on the CPU."""
    student, teacher = networks(where, **model)
    for network in (student, teacher):
        network.train()
    chosen = torch.arange(N) % EACH < 4
    images = augment(pixels()[chosen].to(where), AugmentSpec(), spec.data, torch.Generator().manual_seed(3))
    targets = labels()[chosen].to(where)
    taught = student(images)
    with torch.no_grad():
        guide = teacher(images)
    total, terms = adaptation_loss(taught, guide, targets, targets, spec.training)
    total.backward()
    gradient = torch.cat([p.grad.flatten() for p in student.parameters() if p.grad is not None])
    features = F.normalize(torch.cat(taught.necked, dim=1).detach(), dim=1)
    return total.item(), {name: term.item() for name, term in terms.items()}, gradient.cpu(), features.cpu()


def test_a_float32_step_is_that_of_the_cpu(spec, device, exact):
    expected, found = (one_step(where, spec, precision="float32") for where in ("cpu", device))
    assert found[0] == pytest.approx(expected[0], rel=1e-4)
    assert found[1] == pytest.approx(expected[1], rel=1e-3)
    assert torch.cosine_similarity(found[2], expected[2], dim=0) > 0.999
    assert (found[3] * expected[3]).sum(1).min() > 0.9999


@needs_bfloat16
def test_a_bfloat16_step_is_near_the_float32_one(spec, device, exact):
    """Losses within 2 %, features within a cosine of 0.995, the gradient within 0.9 (hardest pairs may change)."""
    expected, found = (one_step(device, spec, precision=kind) for kind in ("float32", "bfloat16"))
    assert found[0] == pytest.approx(expected[0], rel=0.02)
    assert found[1] == pytest.approx(expected[1], rel=0.02)
    assert torch.cosine_similarity(found[2], expected[2], dim=0) > 0.9
    assert float(found[2].norm()) == pytest.approx(float(expected[2].norm()), rel=0.15)
    assert (found[3] * expected[3]).sum(1).min() > 0.995


@needs_bfloat16
def test_auto_computes_in_bfloat16_and_channels_last(device):
    student, _ = networks(device)
    seen: list[Tensor] = []
    for module in student.modules():
        if isinstance(module, nn.Conv2d):
            assert module.weight.is_contiguous(memory_format=torch.channels_last)
            assert module.weight.dtype == torch.float32
            module.register_forward_hook(lambda _, __, out: seen.append(out.detach()))
    out = student(torch.randn(8, 3, 64, 32, device=device))
    assert seen
    assert {maps.dtype for maps in seen} == {torch.bfloat16}
    assert all(maps.is_contiguous(memory_format=torch.channels_last) for maps in seen)
    assert {x.dtype for part in out for x in part} == {torch.float32}


@pytest.mark.parametrize("backbone", ["resnet18", "resnet50", "ibn_resnet50_a"])
def test_every_backbone_takes_a_step(device, backbone):
    network = TwoBranch(ModelSpec(backbone=backbone)).place(device)
    network.set_classifiers(4, torch.Generator().manual_seed(1))
    optimizer = GuardedAdam(network.parameters(), lr=1e-3, weight_decay=5e-4)
    for _ in range(2):
        total = sum(logits.logsumexp(1).mean() for logits in network(torch.randn(8, 3, 64, 32, device=device)).logits)
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        optimizer.step_unless(torch.zeros((), device=device))
    assert all(parameter.isfinite().all() for parameter in network.parameters())
    rows = network.eval().embed(torch.randn(3, 3, 64, 32, device=device))
    assert rows.dtype == torch.float32
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(3, device=device))


@pytest.mark.slow
def test_a_compiled_network_gives_the_same_features(device, exact):
    plain, compiled = (networks(device, precision="float32", compile=flag)[0].eval() for flag in (False, True))
    images = torch.randn(8, 3, 64, 32, device=device)
    with torch.no_grad():
        torch.testing.assert_close(compiled.embed(images), plain.embed(images), rtol=1e-3, atol=1e-4)


# An epoch -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def no_waiting(monkeypatch) -> Iterator[list[int]]:
    """From the first step of an epoch on, waiting for the device is an error, but to read the losses.

    Gives the steps after which they were read.
    """
    reads: list[int] = []
    make, read = abmt.meter_of, LossMeter._read

    def started(*arguments):
        torch.cuda.set_sync_debug_mode("error")
        return make(*arguments)

    def reading(meter):
        torch.cuda.set_sync_debug_mode("default")
        try:
            reads.append(meter._steps)
            return read(meter)
        finally:
            torch.cuda.set_sync_debug_mode("error")

    for module in (abmt, pretraining):
        monkeypatch.setattr(module, "meter_of", started)
    monkeypatch.setattr(LossMeter, "_read", reading)
    yield reads
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("on_host", [False, True], ids=["device-store", "host-store"])
@pytest.mark.parametrize("precision", ["float32", pytest.param("bfloat16", marks=needs_bfloat16)])
@pytest.mark.parametrize("teacher_ce", [False, True])
def test_steps_of_adaptation_never_wait(spec, device, precision, teacher_ce, on_host, request):
    spec = spec.model_copy(update={"training": spec.training.model_copy(update={"teacher_ce": teacher_ce})})
    student, teacher = networks(device, precision=precision)
    arguments = (student, teacher, store(device, on_host), hard_targets(labels().to(device)), spec)
    adapt_epoch(*arguments, 1, 0, silent)  # constants, libraries and pools
    reads = request.getfixturevalue("no_waiting")
    losses, done = adapt_epoch(*arguments, 2, 23, silent)
    torch.cuda.set_sync_debug_mode("default")
    assert reads == [10, 20, 23]
    assert done == 46
    assert all(math.isfinite(value) for value in losses.values())


def test_steps_of_pretraining_never_wait(spec, device, request):
    network, _ = networks(device)
    optimizer = pretrain_optimizer(network, spec.pretrain)
    arguments = (network, optimizer, store(device), labels().to(device), store(device), spec)
    pretrain_epoch(*arguments, 1, silent)
    reads = request.getfixturevalue("no_waiting")
    losses = pretrain_epoch(*arguments, 2, silent)
    torch.cuda.set_sync_debug_mode("default")
    assert reads == [10, 20, 23]
    assert all(math.isfinite(value) for value in losses.values())


def test_the_watch_sees_a_wait(spec, device, request, monkeypatch):
    student, teacher = networks(device)
    arguments = (student, teacher, store(device), hard_targets(labels().to(device)), spec)
    adapt_epoch(*arguments, 1, 0, silent)
    request.getfixturevalue("no_waiting")
    real = abmt.update_teacher
    monkeypatch.setattr(abmt, "update_teacher", lambda *rest: [float(student.necks[0].running_mean[0]), real(*rest)])
    with pytest.raises(RuntimeError, match="synchroniz"):
        adapt_epoch(*arguments, 2, 0, silent)


def test_training_learns(spec, device):
    student, teacher = networks(device)
    targets = hard_targets(labels().to(device))
    first, step = adapt_epoch(student, teacher, store(device), targets, spec, 1, 0, silent)
    for epoch in (2, 3):
        last, step = adapt_epoch(student, teacher, store(device), targets, spec, epoch, step, silent)
    assert last["ce"] < first["ce"]


def test_the_optimizer_is_fused_and_its_moments_lie_as_the_weights(spec, device, monkeypatch):
    made = []
    real = abmt.GuardedAdam
    monkeypatch.setattr(abmt, "GuardedAdam", lambda *args, **more: made.append(real(*args, **more)) or made[-1])
    student, teacher = networks(device)
    adapt_epoch(student, teacher, store(device), hard_targets(labels().to(device)), spec, 1, 0, silent)
    (optimizer,) = made
    assert optimizer.param_groups[0]["fused"] is True
    convolution = student.trunk.layer1[0].conv1.weight
    for name in ("exp_avg", "exp_avg_sq"):
        assert optimizer.state[convolution][name].is_contiguous(memory_format=torch.channels_last)


def test_an_optimizer_of_the_cpu_goes_on_here(spec, device):
    here, _ = networks("cpu")
    optimizer = pretrain_optimizer(here, spec.pretrain)
    on_cpu = ImageStore(pixels(), torch.device("cpu"))
    pretrain_epoch(here, optimizer, on_cpu, labels(), on_cpu, spec, 1, silent)
    network, _ = networks(device)
    network.load_state_dict(here.state_dict())
    resumed = pretrain_optimizer(network, spec.pretrain)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    losses = pretrain_epoch(network, resumed, store(device), labels().to(device), store(device), spec, 2, silent)
    assert all(math.isfinite(value) for value in losses.values())
    assert float(resumed.state[network.necks[0].weight]["step"]) == 46


def test_a_bad_step_never_reaches_the_weights(spec, device, monkeypatch):
    student, teacher = networks(device)
    real_loss, real_update, calls, states = abmt.adaptation_loss, abmt.update_teacher, [], []

    def spoilt(*arguments):
        total, terms = real_loss(*arguments)
        calls.append(1)
        return (total * math.nan if len(calls) == 4 else total), terms

    def update(*arguments):
        real_update(*arguments)
        states.append([parameter.detach().clone() for parameter in student.parameters()])

    monkeypatch.setattr(abmt, "adaptation_loss", spoilt)
    monkeypatch.setattr(abmt, "update_teacher", update)
    with pytest.raises(RunError, match=r"epoch 1: the loss is not finite \(ce .*\) on images \["):
        adapt_epoch(student, teacher, store(device), hard_targets(labels().to(device)), spec, 1, 0, silent)
    assert len(calls) == 10
    for parameter, kept in zip(student.parameters(), states[2], strict=True):
        assert torch.equal(parameter, kept)
    assert all(parameter.isfinite().all() for parameter in teacher.parameters())


# Labels to batches ----------------------------------------------------------------------------------------------------


def test_batches_drawn_on_the_device_keep_the_laws_of_a_batch(device):
    many = torch.arange(3000) % 151 - 1
    batches = identity_batches(many.to(device), 16, 4, 50, generator(0, "sampler", 1, device=device))
    again = identity_batches(many.to(device), 16, 4, 50, generator(0, "sampler", 1, device=device))
    assert batches.is_cuda
    assert torch.equal(batches, again)
    for batch in many[batches.cpu()].view(50, 16, 4):
        assert (batch == batch[:, :1]).all()
        assert len(batch[:, 0].unique()) == 16
        assert batch.min() >= 0
    assert all(len(set(group)) == 4 for batch in batches.view(50, 16, 4).tolist() for group in batch)


def test_centroids_are_those_of_the_cpu_and_the_same_twice(device):
    rng = torch.Generator().manual_seed(0)
    features = F.normalize(torch.randn(5000, 256, generator=rng), dim=1)
    found_labels = torch.randint(-1, 40, (5000,), generator=rng)
    expected = class_centroids(features, hard_targets(found_labels))
    found, again = (class_centroids(features.to(device), hard_targets(found_labels.to(device))) for _ in range(2))
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-4, atol=1e-6)
    assert torch.equal(found, again)


# Features and scores --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("views", [1, 3])
@pytest.mark.parametrize("on_host", [False, True], ids=["device-store", "host-store"])
def test_features_are_those_of_the_cpu(spec, device, exact, views, on_host):
    settings = FeatureSpec(batch=24, views=views)

    def features(where: torch.device | str, images: ImageStore) -> Tensor:
        student, _ = networks(where, precision="float32")
        draw = torch.Generator().manual_seed(4)
        return embed(student, images, spec.data, settings, spec.augment, draw)

    expected = features("cpu", ImageStore(pixels(), torch.device("cpu")))
    found = features(device, store(device, on_host))
    assert found.is_cuda
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-3, atol=1e-4)


def test_embedding_goes_on_where_memory_runs_out(spec, device, caplog):
    """A batch of more than ten images asks for more memory than any GPU has."""
    network, _ = networks(device, precision="float32")
    settings = FeatureSpec(batch=48, views=2)

    def features() -> Tensor:
        draw = torch.Generator().manual_seed(4)
        return embed(network, store(device), spec.data, settings, spec.augment, draw)

    expected = features()

    def greedy(_, inputs, __) -> None:
        if len(inputs[0]) > 10:
            torch.empty(1 << 46, device=device)

    handle = network.trunk.register_forward_hook(greedy)
    found = features()
    assert "going on with batches of 6 images" in caplog.text
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-3)
    handle.remove()


def test_recalibrated_statistics_are_those_of_the_cpu(device, exact):
    images = torch.randn(20, 3, 64, 32, generator=torch.Generator().manual_seed(5))
    here, there = (networks(where, precision="float32")[0] for where in ("cpu", device))
    recalibrate_batchnorm(here, images.split(8))
    recalibrate_batchnorm(there, images.to(device).split(8))
    for (name, expected), found in zip(here.named_buffers(), there.buffers(), strict=True):
        if "running" in name:
            torch.testing.assert_close(found.cpu(), expected, rtol=1e-3, atol=1e-4, msg=name)


def test_scores_are_those_of_the_cpu(device, exact):
    rng = torch.Generator().manual_seed(6)
    centres = F.normalize(torch.randn(60, 64, generator=rng), dim=1)

    def split(size: int) -> tuple[Tensor, Tensor, Tensor]:
        identities = torch.randint(-1, 60, (size,), generator=rng)
        features = centres[identities.clamp_min(0)] + 0.15 * torch.randn(size, 64, generator=rng)
        return F.normalize(features, dim=1), identities, torch.randint(0, 4, (size,), generator=rng)

    (query, *query_labels), (gallery, *gallery_labels) = split(300), split(4000)
    arguments = (query, gallery, *query_labels, *gallery_labels)
    moved = [x.to(device) for x in arguments]
    expected, found = retrieval_scores(*arguments), retrieval_scores(*moved, block=100)
    assert found == pytest.approx(expected, abs=1e-3)  # pairs that are equally far may change places
    assert torch.equal(query_results(*arguments).matches, query_results(*moved).matches.cpu())
    assert retrieval_scores(*moved) == retrieval_scores(*moved)


# Images ---------------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("where", ["device", "host"])
def test_jpeg_files_are_decoded_on_the_device(tmp_path, spec, device, where):
    data = spec.data.model_copy(update={"store": where})
    if not decodes_jpegs(data, device):
        pytest.skip("torchvision cannot decode JPEG files on this GPU")
    for folder in ("bounding_box_train", "query", "bounding_box_test"):
        (tmp_path / folder).mkdir()
    rng = np.random.default_rng(0)
    for number, size in enumerate([(32, 64), (48, 128), (100, 100), (33, 65)]):
        coarse = rng.integers(0, 256, (6, 6, 3), np.uint8)
        file = io.BytesIO()
        Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(file, "JPEG", quality=95, subsampling=0)
        (tmp_path / f"bounding_box_train/000{number + 1}_c1s1_000001_00.jpg").write_bytes(file.getvalue())
    for folder, camera in (("query", 1), ("bounding_box_test", 2)):
        Image.new("RGB", (32, 64)).save(tmp_path / folder / f"0009_c{camera}s1_000001_00.png")
    domain = read_domain(DomainSpec(path=str(tmp_path)))
    images, _ = load_images(domain, domain.train, data, device)
    assert images.pixels.is_cuda == (where == "device")
    expected = torch.from_numpy(np.stack([decode(domain.open(name), data) for name in domain.train.names]))
    difference = (images.pixels.cpu().int() - expected.int()).abs().float()
    assert difference.mean() < 1.5
    assert difference.max() < 24


# A run ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["float32", pytest.param("bfloat16", marks=needs_bfloat16)])
def test_a_run_from_end_to_end(tiny, tmp_path, precision):
    if missing := what_cuda_misses():
        pytest.skip("; ".join(missing))
    values = tiny.model_dump()
    values |= {"device": "cuda"}
    values["model"] |= {"precision": precision}
    values["features"] |= {"bn_recalibrate": True, "views": 2}
    spec = RunSpec.model_validate(values)
    out = run.train(spec, tmp_path / "run")
    assert (out / "summary.json").exists()
    assert 0 <= run.evaluate(spec, out)["mAP"] <= 1
