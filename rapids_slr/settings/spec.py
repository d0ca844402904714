"""The settings of a run, as typed models that mirror the YAML of a run spec, key by key.

A setting says what it means beneath it; `rapids-slr spec schema` prints the same words. Reading and writing YAML, and
naming the faults of a spec with their lines, is the work of `specfile.py`.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    TypeAdapter,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
    model_validator,
)

from rapids_slr.clustering.base import ClustererSpec
from rapids_slr.clustering.sections import DBSCANSpec
from rapids_slr.data.layouts import layout_names
from rapids_slr.errors import InputError
from rapids_slr.hosts.base import HostSpec
from rapids_slr.hosts.sections import ABMTSpec
from rapids_slr.networks.base import BACKBONES, TIMM
from rapids_slr.refinement.base import RefinerSpec
from rapids_slr.refinement.sections import SLRSpec
from rapids_slr.settings.base import Chosen, Settings, not_in_table
from rapids_slr.settings.keys import Count, CountOrZero, Fraction, NotNegative, Positive, at_home
from rapids_slr.settings.tables import CLUSTERERS, HOSTS, REFINERS, TASKS
from rapids_slr.tasks.base import TaskSpec
from rapids_slr.tasks.sections import ReIDSpec


class SynthSpec(Settings):
    """A synthetic pedestrian-like domain, drawn on demand and always the same for the same settings."""

    style: Literal["source", "target"] = "source"
    """Palette, light, background and sharpness of the cameras; the gap between the two is the domain gap."""
    identities: Count = 50
    """Identities for training; as many others are drawn for query and gallery."""
    images: Annotated[int, Field(ge=2)] = 16
    """Images of an identity."""
    cameras: Annotated[int, Field(ge=2)] = 4
    """Cameras; every identity is seen by at least two."""
    distractors: CountOrZero = 0
    """Gallery images of people who are no query (pid 0)."""
    gap: NotNegative = 1.0
    """Strength of the style, no unit; 0 draws both styles alike."""
    camera_gap: NotNegative = 1.0
    """Spread of light and colour between the cameras of the domain, no unit; 0 makes them alike."""
    height: Annotated[int, Field(ge=16)] = 128
    """Height of a drawn image, pixels."""
    width: Annotated[int, Field(ge=8)] = 64
    """Width of a drawn image, pixels."""
    seed: CountOrZero = 0
    """Which people are drawn; the two styles never share one."""


class DomainSpec(Settings):
    """Where the images of one domain come from: a path, or the synthetic generator."""

    path: str | None = None
    """Folder or .zip in the layout below, or the table of `layout: table`."""
    # A str that is looked up, not a Literal: the table may have grown since this module was imported.
    layout: Annotated[str, Field(json_schema_extra={"enum": layout_names()})] = "auto"
    """How names tell identity and camera; `auto` looks at the folders. `omniglot-*` takes torchvision's data set.
    `classes` takes a folder a class, as ImageFolder does, or such folders in train/ and test/. `images` takes any
    images as a target, without labels. `table` reads a .csv or .parquet that is the path or lies in it, with the
    columns path and, where they are known, identity, camera and split."""
    camera_level: Count | None = None
    """With `layout: images`, the folder below the path whose name is the camera: 1 is the first."""
    camera_pattern: str | None = None
    """With `layout: images`, a regular expression that finds the camera in the path of an image below the data set: its
    group, or all that it matches. Without this and camera_level all images are of one camera."""
    synth: SynthSpec | None = None
    """Draw the domain instead of reading it."""
    appearance: Literal["mid", "hard"] | None = None
    """A stated gap on top of what is stored: thicker dark strokes, blur, less contrast, texture and noise (`mid`), or
    all of that inverted (`hard`); for experiments."""

    _at_home = field_validator("path")(at_home)

    @field_validator("layout")
    @classmethod
    def _known(cls, layout: str) -> str:
        if layout not in layout_names():
            raise not_in_table(layout, layout_names())
        return layout

    @field_validator("camera_pattern")
    @classmethod
    def _compiles(cls, pattern: str | None) -> str | None:
        try:
            re.compile(pattern or "")
        except re.error as fault:
            raise ValueError(f"is no regular expression: {fault}") from fault
        return pattern

    @model_validator(mode="after")
    def _cameras_of_free_names(self) -> DomainSpec:
        given = [name for name in ("camera_level", "camera_pattern") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError("give either camera_level or camera_pattern, and not both")
        if given and self.layout != "images":
            raise ValueError(f"{given[0]} needs layout: images; other layouts tell cameras themselves")
        return self

    @model_validator(mode="after")
    def _one_origin(self) -> DomainSpec:
        if (self.path is None) == (self.synth is None):
            raise ValueError("give either path (a folder or .zip) or synth (a drawn domain), and not both")
        return self


def one_or_several(value: Any, read: ValidatorFunctionWrapHandler) -> Any:
    """A domain, or a list of them; a fault names its place in the list. By itself pydantic would name all kinds."""
    if isinstance(value, list):
        return TypeAdapter(DomainSpecs).validate_python(value, strict=True)
    return read(value) if value is None else DomainSpec.model_validate(value, strict=True)


DomainSpecs = Annotated[list[DomainSpec], Field(min_length=1)]


class PlacesSpec(Settings):
    """Where images come from."""

    source: Annotated[DomainSpec | DomainSpecs | None, WrapValidator(one_or_several)] = None
    """Labelled domain for pre-training, or a list of them, which share neither identities (but for the classes of
    `task: classification`) nor cameras; not needed with pretrain.checkpoint or `pretrain: none`."""
    target: DomainSpec
    """Domain to adapt to. Its training labels are used for nothing but the label-quality columns of the reports."""

    @property
    def sources(self) -> list[DomainSpec]:
        """The labelled domains; none without a source."""
        if self.source is None:
            return []
        return self.source if isinstance(self.source, list) else [self.source]


class ImageSpec(Settings):
    """What an image is when a network takes it."""

    height: Annotated[int, Field(ge=16)] = 256
    """Height images are resized to, pixels."""
    width: Annotated[int, Field(ge=16)] = 128
    """Width images are resized to, pixels."""
    channels: Literal[1, 3] = 3
    """3 reads every image as RGB, 1 as grey."""
    invert: bool = False
    """Turn dark strokes on white into light strokes on black, so that padding is background."""
    # A list as a default is safe here: pydantic copies it for every section.
    mean: list[Fraction] = [0.485, 0.456, 0.406]
    """Mean of a channel, pixel range 0..1; one value for all channels or one each."""
    std: list[Positive] = [0.229, 0.224, 0.225]
    """Standard deviation of a channel, pixel range 0..1; one value for all channels or one each."""

    @model_validator(mode="after")
    def _values_a_channel(self) -> ImageSpec:
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, self.channels):
                raise ValueError(f"{name} has {len(values)} values for {self.channels} channels; give 1 or one each")
        return self


class StoreSpec(Settings):
    """How images are read and held."""

    on_error: Literal["stop", "skip"] = "stop"
    """What an unreadable or misnamed image does: stop before training, or be left out and counted."""
    store: Literal["auto", "device", "host", "file"] = "auto"
    """Where the decoded images stay; `auto` takes the training device while all splits fill at most half of its memory
    that was free before, else host memory or, of several processes on a machine, `file`: one in TMPDIR that they share
    and that later runs take again. From host and file every batch is copied."""
    decode: Literal["auto", "pillow", "gpu"] = "auto"
    """What decodes JPEG files: `auto` takes the GPU (nvJPEG) on CUDA where torchvision can, `gpu` stops if it cannot.
    Pixels differ slightly from Pillow's. Other files, and JPEG files that the GPU refuses, are left to Pillow."""


class StoredSpec(StoreSpec, ImageSpec):
    """What images are, and how they are held: all that reading them takes."""


class DataSpec(StoredSpec, PlacesSpec):
    """Images: where they come from, what they are, and how they are held."""


class AugmentSpec(Settings):
    """Augmentation of training images, drawn for every image of a batch on its own."""

    flip: Fraction = 0.5
    """Probability of a mirrored image."""
    pad: CountOrZero = 10
    """Pixels padded on every side before a crop of the old size is taken."""
    rotate: NotNegative = 0.0
    """Largest rotation either way, degrees."""
    scale: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Largest change of size either way, as a fraction."""
    jitter: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Largest change of brightness and contrast either way, as a fraction."""
    erase: Fraction = 0.5
    """Probability of random erasing (2 to 40 % of the area)."""


BACKBONE_NAMES: list[Any] = [{"enum": list(BACKBONES)}, {"type": "string", "pattern": f"^{TIMM}"}]
"""What `model.backbone` takes, as a schema says it."""


class ArchitectureSpec(Settings):
    """What two networks must have in common to share weights."""

    # As with layouts, the table may have grown.
    backbone: Annotated[str, Field(json_schema_extra={"anyOf": BACKBONE_NAMES})] = "resnet50"
    """`narrow` is a three-stage ResNet that trains on two CPU cores. `timm:` and a name is that network of timm, for
    hosts whose networks are not cut into branches."""
    widths: list[Count] = [24, 48, 96]
    """Channels of the three stages of `narrow`; other backbones ignore it."""

    @field_validator("backbone")
    @classmethod
    def _known(cls, backbone: str) -> str:
        if backbone not in BACKBONES and not backbone.startswith(TIMM):
            raise not_in_table(backbone, [*BACKBONES, f"{TIMM}<name>"])
        return backbone


class ComputeSpec(Settings):
    """How networks are computed."""

    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """What convolutions compute in: `auto` takes bfloat16 on GPUs that have it (compute capability 8.0 and above), else
    float32 (on GPUs TF32, as torch sets it). Weights, features, losses and the optimizer are float32 in any case.
    Bfloat16 is several times slower on a processor without instructions for it (CPUs that lack AVX512-BF16 and AMX)."""
    compile: bool = False
    """Compile the networks with torch.compile: the first steps take minutes, the others may be faster."""


class WeightsSpec(Settings):
    """What networks start from."""

    weights: str | None = None
    """Start of the backbone: `imagenet` (torchvision's, IBN-Net's or timm's file by name), a file of weights, or none.
    Of a checkpoint of another program the tensors with the backbone's names are taken, and the others named."""

    _at_home = field_validator("weights")(at_home)


class ModelSpec(ComputeSpec, WeightsSpec, ArchitectureSpec):
    """The network: its architecture, what it starts from, how it is computed."""


class PretrainSpec(Settings):
    """Training on the labelled source."""

    checkpoint: str | None = None
    """A pretrained.pt to load in place of training."""
    epochs: Count = 80
    """Epochs."""
    iterations: Count = 200
    """Steps an epoch."""
    identities: Count = 16
    """Identities in a batch (P)."""
    images: Annotated[int, Field(ge=2)] = 4
    """Images of an identity in a batch (K)."""
    lr: Positive = 3.5e-4
    """Learning rate of Adam."""
    weight_decay: NotNegative = 5e-4
    """Weight decay of Adam."""
    milestones: list[Count] = [40, 70]
    """Epochs after which the learning rate falls."""
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Factor of the learning rate at a milestone."""
    warmup_epochs: CountOrZero = 10
    """Epochs over which the learning rate rises from a hundredth."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Label smoothing of the cross entropy."""
    target_forward: bool = True
    """Pass target images through the network without a loss, so that BatchNorm sees them."""

    _at_home = field_validator("checkpoint")(at_home)


class FeatureSpec(Settings):
    """How the teacher embeds images."""

    batch: Count = 256
    """Images in a forward pass; halved, with a warning, where the GPU's memory does not suffice."""
    views: Count = 1
    """Augmented views whose features are averaged before clustering; 1 takes the plain image."""
    bn_recalibrate: bool = True
    """Re-estimate BatchNorm statistics on the target before the first clustering (not in the paper)."""


class SourceLossSpec(Settings):
    """Labelled source images in every step of adaptation, so that the network keeps what they taught."""

    triplet_weight: NotNegative = 1.0
    """Weight of the soft-margin triplet loss on the source identities."""
    ce_weight: NotNegative = 1.0
    """Weight of the cross entropy with them; above 0 the source is embedded every epoch, for its classifiers."""
    identities: Count = 16
    """Source identities in a step."""
    images: Annotated[int, Field(ge=2)] = 4
    """Images of each."""


class TrainingSpec(Settings):
    """Adaptation to the target. Keys that name a host are looked at by it alone."""

    epochs: Count = 50
    """Epochs; every epoch clusters anew."""
    iterations: Count = 400
    """Steps an epoch."""
    identities: Count = 16
    """Clusters in a batch (P)."""
    images: Annotated[int, Field(ge=2)] = 4
    """Images of a cluster in a batch (K)."""
    lr: Positive = 3.5e-4
    """Learning rate of Adam, which starts afresh every epoch."""
    decay: Literal["none", "cosine"] = "cosine"
    """How the learning rate falls from epoch to epoch: not at all (paper), or as half a cosine towards 0."""
    weight_decay: NotNegative = 5e-4
    """Weight decay of Adam."""
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Decay of the teacher's moving average (abmt, mmt); runs of a few hundred steps want 0.99."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Label smoothing of the hard cross entropy (abmt, mmt)."""
    ce_weight: NotNegative = 0.5
    """Weight of the cross entropy with refined labels (abmt)."""
    soft_weight: NotNegative = 0.5
    """Weight of the cross entropy with the teacher's other branch (abmt)."""
    triplet_weight: NotNegative = 1.0
    """Weight of the triplet loss (abmt)."""
    triplet: Literal["softened", "plain", "both"] = "plain"
    """The triplet loss (abmt): softened by the teacher's other branch (paper), the plain soft-margin one on the refined
    labels, or the mean of both."""
    teacher_ce: bool = False
    """Train the teacher's classifiers with cross entropy as well (abmt; paper, section 3.9, Eq. 5)."""
    bn_images: Annotated[int, Field(ge=2)] | None = None
    """BatchNorm takes the statistics of every so many images of a batch, student and teacher alike; `none` those of the
    whole batch. On any number of processes the same: 16 of 64 is what four GPUs with 16 images each do elsewhere."""
    elr_weight: NotNegative = 0.0
    """Weight of early-learning regularisation, which holds predictions to what they were before (abmt, mmt; Liu et al.,
    NeurIPS 2020, who take 3); 0 leaves it out."""
    elr_momentum: Annotated[float, Field(ge=0, lt=1)] = 0.7
    """What a prediction leaves of the running mean of those before it, for `elr_weight`."""
    future: bool = False
    """Train on the clusters of the network that this epoch's clusters would lead to: it trains an epoch, embeds, and
    goes back to where it was (after Du et al., NeurIPS 2022). An epoch then takes twice the time."""
    labels: Literal["clusters", "shuffled", "identities"] = "clusters"
    """What to train on; the other two are controls: the refined labels shuffled, or the true identities."""
    weights: Literal["equal", "confidence"] = "equal"
    """What an image counts in the cross entropy with its label: all alike, or as much as `refine` is sure of it."""
    source: SourceLossSpec | None = SourceLossSpec()
    """Train on the labelled source beside the target, where there is a source; `none` leaves it (paper)."""

    @model_validator(mode="after")
    def _batches_of_whole_sets(self) -> TrainingSpec:
        sizes = {"training": self.identities * self.images}
        if self.source is not None:
            sizes["training.source"] = self.source.identities * self.source.images
        for name, size in sizes.items():
            if self.bn_images is not None and size % self.bn_images:
                raise ValueError(
                    f"bn_images: the {size} images of a batch ({name}.identities x {name}.images) are no multiple of "
                    f"{self.bn_images}"
                )
        return self


class EvaluationSpec(Settings):
    """Scores on the target's test split, and the guard, which needs no identities."""

    every: Count = 1
    """Epochs between evaluations; the last epoch is always evaluated."""
    guard: bool = True
    """Tell without identities whether adaptation helps: columns `guard/...` of the start and of every evaluated epoch,
    from the source's test images and from neighbours among the training images of the target."""
    guard_images: Annotated[int, Field(ge=3)] = 2000
    """Images that the guard looks at, at most; drawn once."""
    pick: Literal["last", "guard"] = "guard"
    """The network that a run ends with: the last one, or with `guard` the latest one that has not forgotten more than
    a twentieth of what the best knew of the source's test images, in checkpoints/picked.pt; the start takes part.
    Without such images it is the last one."""
    rerank: bool = False
    """Scores after k-reciprocal re-ranking too (k1 20, k2 6, lambda 0.3; Zhong et al., CVPR 2017), beside the plain
    ones that runs are compared by."""

    @model_validator(mode="after")
    def _picked_by_a_guard(self) -> EvaluationSpec:
        if self.pick == "guard" and not self.guard:
            raise ValueError("pick: guard needs guard: true, whose scores it picks by")
        return self


class RunSpec(Settings):
    """One run: pre-training on the source, adaptation to the target, evaluation."""

    name: Annotated[str, Field(pattern=r"^[\w.-]+$")] = "run"
    """Name of the run folder: letters, digits, dot, dash and underscore."""
    seed: CountOrZero = 0
    """Seed of all that is random."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Engine; `auto` takes CUDA where it works and says why where it does not."""
    memory_pool: Literal["rmm", "torch"] = "rmm"
    """On CUDA: one RMM pool for torch, CuPy, cuML and cuDF, or with `torch` a pool for each library."""
    data: DataSpec
    # One object for all specs, which is safe as sections are frozen.
    augment: AugmentSpec = AugmentSpec()
    model: ModelSpec = ModelSpec()
    pretrain: PretrainSpec | None = PretrainSpec()
    """Training on the labelled source; `none` starts from `model.weights`, or random ones, as they are."""
    features: FeatureSpec = FeatureSpec()
    clusters: Annotated[ClustererSpec, Chosen(CLUSTERERS, "dbscan")] = DBSCANSpec()
    """From features to cluster labels; `method` names the way."""
    refine: Annotated[RefinerSpec, Chosen(REFINERS, "slr")] = SLRSpec()
    """Refinement of the clusters; `none` trains on them as they are (the ABMT baseline)."""
    host: Annotated[HostSpec, Chosen(HOSTS, "abmt")] = ABMTSpec()
    """How the network is trained on cluster labels."""
    task: Annotated[TaskSpec, Chosen(TASKS, "reid")] = ReIDSpec()
    """What the network is for, and how it is scored."""
    training: TrainingSpec = TrainingSpec()
    evaluation: EvaluationSpec = EvaluationSpec()

    def check_processes(self, processes: int) -> None:
        """Raises: InputError if host or clusters are for one process, or batches cannot be dealt out to so many.

        Every process takes as many identities as the others.
        """
        if processes > 1 and not self.host.takes_part:
            able = ", ".join(name for name, section in HOSTS.items() if section.takes_part)
            raise InputError(
                f"host {self.host.choice()} trains in one process, not in {processes}; hosts that do are {able}"
            )
        if processes > 1 and self.clusters.for_one_process:
            raise InputError(
                f"{self.clusters.for_one_process} is for one process, not for {processes}; search exactly, or start one"
            )
        batches = {"training": self.training.identities}
        if self.pretrains and self.pretrain is not None:
            batches["pretrain"] = self.pretrain.identities
        if self.adapts_with_source and self.training.source is not None:
            batches["training.source"] = self.training.source.identities
        if uneven := [f"{name}.identities: {number}" for name, number in batches.items() if number % processes]:
            raise InputError(
                f"{processes} processes take the same number of identities each, but {', '.join(uneven)}; set these to "
                f"multiples of {processes}, or start another number of processes"
            )

    @property
    def checkpoint(self) -> str | None:
        """The network that takes the place of pre-training."""
        return None if self.pretrain is None else self.pretrain.checkpoint

    @property
    def pretrains(self) -> bool:
        """Whether a run begins with training on the source."""
        return self.pretrain is not None and self.pretrain.checkpoint is None

    @property
    def adapts_with_source(self) -> bool:
        """Whether the epochs of the adaptation look at source images."""
        return self.data.source is not None and (self.clusters.needs_source or self.training.source is not None)

    @model_validator(mode="before")
    @classmethod
    def _no_source_to_train_on(cls, values: Any) -> Any:
        # What is on by default is off without a source; who asks for it there is told.
        data = values.get("data") if isinstance(values, dict) else None
        if isinstance(data, dict) and data.get("source") is None:
            training = values.get("training", {})
            if isinstance(training, dict) and "source" not in training:
                return values | {"training": training | {"source": None}}
        return values

    @model_validator(mode="after")
    def _source_or_checkpoint(self) -> RunSpec:
        # Faults between sections, which no section can find by itself.
        if self.data.source is None and self.pretrains:
            raise ValueError(
                "data.source is missing: give it, or a trained network in pretrain.checkpoint, "
                "or start without one by pretrain: none"
            )
        if self.data.source is None and self.training.source is not None:
            raise ValueError("training.source needs data.source; leave it out by training.source: none")
        if self.data.source is None and self.clusters.needs_source:
            raise ValueError("clusters.source_weight > 0 needs data.source")
        if unknown := self.clusters.heads - set(self.host.heads):
            known = ", ".join(("both", *self.host.heads))
            raise ValueError(f"clusters.also: branch should be one of {known}, got {', '.join(sorted(unknown))}")
        if self.model.backbone.startswith(TIMM) and not self.host.takes_timm:
            able = ", ".join(name for name, section in HOSTS.items() if section.takes_timm)
            raise ValueError(
                f"model.backbone: {self.model.backbone} has no stages to cut into the branches of host "
                f"{self.host.choice()}; hosts that take it are {able}"
            )
        if self.training.elr_weight > 0 and not self.host.has_classifiers:
            able = ", ".join(name for name, section in HOSTS.items() if section.has_classifiers)
            raise ValueError(
                f"training.elr_weight needs predictions of classes, which host {self.host.choice()} does not make; "
                f"hosts that do are {able}"
            )
        self._check_refiner()
        return self

    def _check_refiner(self) -> None:
        """What the refiner is to be given is there, and it reads what there is."""
        if self.clusters.needs_refinement and not self.refine.reads_others:
            able = ", ".join(name for name, section in REFINERS.items() if section.reads_others)
            own = self.refine.choice()
            raise ValueError(f"clusters.also needs refine: {able}; with {own} nothing reads further clusterings")
        if "graph" in self.refine.needs and not self.clusters.gives_graph:
            able = " or ".join(name for name, section in CLUSTERERS.items() if section.gives_graph)
            raise ValueError(
                f"refine: {self.refine.choice()} needs the distances of images that were clustered, which "
                f"clusters.method: {self.clusters.choice()} does not give; set clusters.method: {able}"
            )
