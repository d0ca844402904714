"""What a report needs images and network for: contact sheets, the map of the features, and what a task shows."""

from __future__ import annotations

import base64
import importlib
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from PIL import Image, features
from torch import Tensor

from rapids_slr.data.domain import Domain, Split
from rapids_slr.data.imagefile import read_images
from rapids_slr.data.layouts import SplitName
from rapids_slr.data.read import read_domain
from rapids_slr.data.store import ImageStore
from rapids_slr.engine.arrays import on_torch_stream
from rapids_slr.engine.backend import choose_backend
from rapids_slr.errors import InputError
from rapids_slr.networks.checkpoint import Trained, load_trained
from rapids_slr.networks.embed import embed
from rapids_slr.progress import Progress
from rapids_slr.record.folder import RunFolder
from rapids_slr.reports.clusters import Changes, EpochLabels, groups, kept_apart, moved, rescued
from rapids_slr.reports.maps import map_features
from rapids_slr.settings.spec import RunSpec
from rapids_slr.tasks.base import TaskSpec

if TYPE_CHECKING:
    from rapids_slr.reports.gather import Run
    from rapids_slr.reports.markup import Html

THUMB = 80
"""Longest side of a small picture, pixels."""
CLUSTERS, OF_CLUSTER = 36, 12
"""Clusters on a contact sheet, and images of each."""
CHANGED, OF_CHANGE = 10, 8
"""Changes of a kind, and images of each part of one."""
POINTS = 4000
"""Images on the map; of more, as many are drawn at random."""
NUMBERED = 60
"""Largest clusters that are named on the map."""


@dataclass(frozen=True)
class Thumb:
    uri: str
    description: str
    """What is read out in its stead, and shown where the pointer rests on it."""
    right: bool | None = None
    """Whether it belongs there by its identity; None where that is unknown or no question."""
    caption: str = ""
    """What stands below it."""


@dataclass(frozen=True)
class Part:
    """Some images of one kind."""

    name: str
    thumbs: list[Thumb]
    images: int
    """How many there are, shown or not."""


@dataclass(frozen=True)
class Strip:
    """A row of a contact sheet."""

    title: str
    facts: str
    """What stands beside the title."""
    parts: list[Part]


@dataclass(frozen=True)
class Sheet:
    """A contact sheet: the rows that are shown, of how many."""

    strips: list[Strip]
    of: int


@dataclass(frozen=True)
class Map:
    """Positions of images; arrays are (n,)."""

    method: str
    xy: np.ndarray
    label: np.ndarray
    """Refined label, -1 for left out."""
    tips: list[str]
    """Label and name of every image."""
    of: int
    """Images of the run."""


@dataclass
class Pictures:
    """All that is shown of images; None with a reason in `absent` where there is nothing."""

    network: str = ""
    """Which network the features are of."""
    map: Map | None = None
    clusters: Sheet | None = None
    apart: Sheet | None = None
    rescued: Sheet | None = None
    moved: Sheet | None = None
    of_task: dict[str, Any] = field(default_factory=dict)
    """What the task shows, by the names that its part of the report gives it."""
    absent: dict[str, str] = field(default_factory=dict)
    """Name of a field, or of what the task shows -> why it is not there."""


def take_pictures(path: Path, spec: RunSpec, labels: EpochLabels | None) -> Pictures:
    """The pictures of a run, by its last network and its last label table.

    Args:
        path: the run folder.
        spec: that of the run; its device is where features are computed.
    Raises: InputError if the network or the images cannot be read.
    """
    backend = choose_backend(spec.device, spec.memory_pool)
    device = backend.device
    with Progress() as progress, on_torch_stream(device):
        progress.say(f"pictures of {path}, on {device} ({backend.why})")
        trained = load_trained(path) if RunFolder(path).pretrained_file.exists() else None
        if trained is not None:
            trained.network.place(device)
        domain = read_domain(spec.data.target, spec.data.on_error, spec.task.asks)
        return draw_pictures(trained, domain, labels, Maker(spec, device, progress))


@dataclass(frozen=True)
class Maker:
    """How images are read and embedded: as by the run, on `device`."""

    spec: RunSpec
    device: torch.device
    progress: Progress

    def read(self, domain: Domain, name: SplitName) -> tuple[ImageStore, Split]:
        """The images of a split of the target that can be read, decoded, and their names."""
        split: Split = getattr(domain, name)
        with self.progress.task(f"reading target {name}", len(split), "images") as task:
            return read_images(domain, split, self.spec.data, self.device, task.advance)

    def embed(self, trained: Trained, store: ImageStore) -> Tensor:
        """(N, D) float32 unit rows of the plain images."""
        # As an evaluation embeds: augmented views are for clustering.
        settings = self.spec.features.model_copy(update={"views": 1})
        with self.progress.task("embedding", len(store), "images") as task:
            return embed(trained.network, store, self.spec.data, settings, progress=task.advance)


@dataclass(frozen=True)
class Seen:
    """What pictures are made of."""

    trained: Trained | None
    """None before there is a network."""
    domain: Domain
    """The target."""
    split: Split
    """Its training images that can be read."""
    store: ImageStore
    """The same, decoded."""
    labels: EpochLabels | None
    """None before there is a label table."""
    rows: np.ndarray
    """Rows of the split that the label table is about; none without a table."""
    thumbs: Thumbs
    maker: Maker


class TaskReport(Protocol):
    """The module that `TaskSpec.report` names: what a report shows of a task."""

    HEADING: str

    def take(self, seen: Seen, found: Pictures) -> None:
        """Fill `found.of_task`, and `found.absent` with the reasons for what is not there."""

    def figures(self, run: Run, prefix: str) -> list[Html]:
        """The figures of a run; their ids begin with the prefix."""


def report_of(task: TaskSpec) -> TaskReport | None:
    """What reports show of a task; None where it asks for nothing."""
    return importlib.import_module(task.report) if task.report else None


def draw_pictures(trained: Trained | None, domain: Domain, labels: EpochLabels | None, maker: Maker) -> Pictures:
    """All pictures that a network, if there is one, and a label table, if there is one, give."""
    found = Pictures(network="" if trained is None else trained.which)
    store, split = maker.read(domain, "train")
    thumbs = Thumbs(split, store, known_identities(split))
    rows = np.zeros(0, np.int64) if labels is None else rows_of(labels, split)
    if labels is None:
        for name in ("map", "clusters", "apart", "rescued", "moved"):
            found.absent[name] = "no epoch has left a label table yet"
    else:
        found.clusters = cluster_sheet(labels, rows, thumbs)
        found.apart = change_sheet(kept_apart(labels, CHANGED), rows, thumbs)
        found.rescued = change_sheet(rescued(labels, CHANGED), rows, thumbs)
        found.moved = change_sheet(moved(labels, CHANGED), rows, thumbs)
    if trained is None:
        found.absent["map"] = "there is no pre-trained network yet"
    elif labels is not None:
        found.map = draw_map(trained, store, labels, rows, maker)
    if (shown := report_of(maker.spec.task)) is not None:
        shown.take(Seen(trained, domain, split, store, labels, rows, thumbs, maker), found)
    return found


def rows_of(labels: EpochLabels, split: Split) -> np.ndarray:
    """(N,) row of every image of the label table in the split.

    Raises: InputError if the split lacks one.
    """
    place = {name: row for row, name in enumerate(split.names)}
    missing = [path for path in labels.paths if path not in place]
    if missing:
        raise InputError(
            f"{len(missing)} of {len(labels)} images of the label table are not in data.target, the first is "
            f"{missing[0]}; the data have changed since the run"
        )
    return np.array([place[path] for path in labels.paths], np.int64)


def known_identities(split: Split) -> np.ndarray | None:
    """Identities of a split, None where names do not tell them."""
    known = np.unique(split.identities)
    return split.identities if known[0] > 0 and len(known) > 1 else None


# Small pictures -------------------------------------------------------------------------------------------------------


class Thumbs:
    """Makes small pictures of images, once each."""

    def __init__(self, split: Split, store: ImageStore, identities: np.ndarray | None) -> None:
        self.split, self.store, self.identities = split, store, identities
        self._uris: dict[int, str] = {}

    def of(self, row: int, right: bool | None = None, note: str = "") -> Thumb:
        """The picture of a row of the split; `note` stands before its name."""
        if row not in self._uris:
            self._uris[row] = picture(pixels_of(self.store, row))
        return Thumb(self._uris[row], f"{note}{self.split.names[row]}, camera {self.split.cameras[row]}", right)


def pixels_of(store: ImageStore, row: int) -> np.ndarray:
    """(C, H, W) uint8."""
    return store.pixels[row].cpu().numpy()


def picture(pixels_CHW: np.ndarray) -> str:
    """A data: URI of pixels (C, H, W) uint8, scaled down to THUMB where they are more."""
    return uri_of(Image.fromarray(pixels_CHW[0] if len(pixels_CHW) == 1 else pixels_CHW.transpose(1, 2, 0)))


def uri_of(image: Image.Image) -> str:
    """A data: URI of an image, which is scaled down in its place."""
    image.thumbnail((THUMB, THUMB))
    # Pillow may have been built without WebP.
    kind = "webp" if features.check("webp") else "jpeg"
    file = io.BytesIO()
    image.save(file, kind, quality=72)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


# Contact sheets -------------------------------------------------------------------------------------------------------


def cluster_sheet(labels: EpochLabels, rows: np.ndarray, thumbs: Thumbs) -> Sheet:
    """Refined clusters, those with most images of a wrong identity first, or the largest where none is known."""
    found = []
    for label, members in groups(labels.refined):
        wrong = wrong_of(rows[members], thumbs.identities)
        found.append((-int(wrong.sum()), -len(members), label, members, wrong))
    strips = []
    # By the numbers alone: the arrays behind them have no order.
    for _, _, label, members, wrong in sorted(found, key=lambda item: item[:3])[:CLUSTERS]:
        good, bad = np.flatnonzero(~wrong), np.flatnonzero(wrong)
        most = max(OF_CLUSTER // 2, OF_CLUSTER - len(good))  # wrong ones are shown first of all, but beside right ones
        shown = [*good[: OF_CLUSTER - min(most, len(bad))], *bad[:most]]
        cameras = len(np.unique(labels.camera[members]))
        facts = [f"{len(members)} images", f"{cameras} camera{'' if cameras == 1 else 's'}"]
        if thumbs.identities is not None:
            facts.insert(1, f"{int(wrong.sum())} wrong" if wrong.any() else "one identity")
        pictures = [thumbs.of(int(rows[members[i]]), False if wrong[i] else None) for i in shown]
        strips.append(Strip(f"cluster {label}", " · ".join(facts), [Part("", pictures, len(members))]))
    return Sheet(strips, len(found))


def wrong_of(rows: np.ndarray, identities: np.ndarray | None) -> np.ndarray:
    """(n,) bool: images of another identity than most of them; none where identities are not known."""
    if identities is None:
        return np.zeros(len(rows), bool)
    people, counts = np.unique(identities[rows], return_counts=True)
    return identities[rows] != people[counts.argmax()]


def change_sheet(changes: Changes, rows: np.ndarray, thumbs: Thumbs) -> Sheet:
    strips = []
    for change in changes.shown:
        parts = [
            Part(name, [thumbs.of(int(rows[i])) for i in members[:OF_CHANGE]], len(members))
            for name, members in change.parts
            if len(members)
        ]
        strips.append(Strip(change.title, "", parts))
    return Sheet(strips, changes.of)


# Features -------------------------------------------------------------------------------------------------------------


def draw_map(trained: Trained, store: ImageStore, labels: EpochLabels, rows: np.ndarray, maker: Maker) -> Map:
    """The map of the training images, coloured by the labels of the table."""
    seed = maker.spec.seed
    # Sorted, so that points and tips keep the order of the label table.
    drawn = np.sort(np.random.default_rng(seed).permutation(len(labels))[:POINTS])
    features_ND = maker.embed(trained, store)
    chosen = torch.as_tensor(rows[drawn], device=features_ND.device)
    with maker.progress.task("map of the features", None):
        xy, method = map_features(features_ND[chosen], seed)
    tips = [
        f"{f'cluster {labels.refined[i]}' if labels.refined[i] >= 0 else 'left out'}: {labels.paths[i]}" for i in drawn
    ]
    return Map(method, xy, labels.refined[drawn], tips, len(labels))


def name_places(positions: Map) -> dict[int, tuple[float, float]]:
    """Where the largest clusters of a map are named: above most of their images, the largest first."""
    places = {}
    for label, rows in sorted(groups(positions.label), key=lambda item: -len(item[1]))[:NUMBERED]:
        xy = positions.xy[rows]
        middle = np.median(xy, axis=0)
        distances = np.abs(xy - middle).sum(axis=1)
        # Without the few that lie far off, or a name would stand over nothing.
        near = xy[distances <= 2 * np.median(distances)]
        places[label] = (float(middle[0]), float(near[:, 1].max()))
    return places


def hues(positions: Map, colours: int) -> np.ndarray:
    """(n,) a hue for every image, -1 for those left out; clusters that lie close get different ones.

    Args:
        colours: hues there are.
    """
    found = groups(positions.label)
    middles = np.array([np.median(positions.xy[rows], axis=0) for _, rows in found]).reshape(-1, 2)
    hue_K, hue_N = np.zeros(len(found), np.int64), np.full(len(positions.label), -1)
    for i, (_, rows) in enumerate(found):
        nearest = np.full(colours, np.inf)  # the cluster of each hue that lies nearest
        np.minimum.at(nearest, hue_K[:i], np.square(middles[:i] - middles[i]).sum(axis=1))
        # The hue whose nearest cluster is farthest; inf for one that nobody has yet.
        hue_K[i] = hue_N[rows] = nearest.argmax()
    return hue_N
