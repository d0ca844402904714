"""What a report needs the images and the network for: contact sheets, retrieval sheets and the map of the features."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import Image, features
from torch import Tensor

from rapids_slr.data import ImageStore, Split
from rapids_slr.data.images import Images
from rapids_slr.data.layouts import JUNK
from rapids_slr.errors import InputError
from rapids_slr.evaluation import query_results
from rapids_slr.networks.checkpoint import load_network
from rapids_slr.networks.embed import embed
from rapids_slr.networks.two_branch import TwoBranch
from rapids_slr.reports.clusters import Changes, EpochLabels, groups, kept_apart, moved, rescued
from rapids_slr.reports.maps import map_features
from rapids_slr.session import Session

THUMB = 80
"""Longest side of a small picture, pixels."""
CLUSTERS, OF_CLUSTER = 36, 12
"""Clusters on a contact sheet, and images of each."""
CHANGED, OF_CHANGE = 10, 8
"""Changes of a kind, and images of each part of one."""
QUERIES, TOP = 20, 10
"""Queries of a retrieval sheet, and gallery images of each."""
POINTS = 4000
"""Images on the map; of more, as many are drawn at random."""
NUMBERED = 60
"""Largest clusters that are named on the map."""


@dataclass(frozen=True)
class Thumb:
    uri: str
    told: str
    """What is told about the image."""
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
    """What is said about it."""
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
    told: list[str]
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
    retrieval: Sheet | None = None
    start: dict[str, dict[str, float]] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    """Name of a field -> why it is None."""


def take_pictures(session: Session, labels: EpochLabels | None) -> Pictures:
    """The pictures of a run, by its last network and its last label table.

    Raises: InputError if the images cannot be read.
    """
    found = Pictures()
    network, found.network = last_network(session)
    if state := session.checkpoint("adapt"):
        found.start = state["start"]
    target = session.target
    if labels is None:
        for name in ("map", "clusters", "apart", "rescued", "moved"):
            found.absent[name] = "no epoch has left a label table yet"
    else:
        rows = rows_of(labels, target.split)
        thumbs = Thumbs(target, known_identities(target.split))
        found.clusters = cluster_sheet(labels, rows, thumbs)
        found.apart = change_sheet(kept_apart(labels, CHANGED), rows, thumbs)
        found.rescued = change_sheet(rescued(labels, CHANGED), rows, thumbs)
        found.moved = change_sheet(moved(labels, CHANGED), rows, thumbs)
    if network is None:
        found.absent["map"] = found.absent["retrieval"] = "there is no pre-trained network yet"
        return found
    if labels is not None:
        found.map = draw_map(network, target, labels, rows, session)
    found.retrieval = retrieval_sheet(network, session)
    return found


def last_network(session: Session) -> tuple[TwoBranch | None, str]:
    """The teacher of the last checkpoint, else the pre-trained network, and which of them it is."""
    if not session.folder.pretrained_file.exists():
        return None, ""
    network, name = load_network(session.folder.pretrained_file, session.spec), "the pre-trained network"
    if state := session.checkpoint("adapt"):
        network.load_state_dict(state["teacher"])
        name = f"the teacher after epoch {state['epoch']}"
    return network.place(session.device), name


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
    """Identities of a split, None where they are not told."""
    known = np.unique(split.identities)
    return split.identities if known[0] > 0 and len(known) > 1 else None


# Small pictures -------------------------------------------------------------------------------------------------------


class Thumbs:
    """Makes small pictures of images, once each."""

    def __init__(self, images: Images, identities: np.ndarray | None) -> None:
        self.split, self.store, self.identities = images.split, images.store, identities
        self._uris: dict[int, str] = {}

    def of(self, row: int, right: bool | None = None, note: str = "") -> Thumb:
        """The picture of a row of the split; `note` is told before its name."""
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


def features_of(network: TwoBranch, images: Images, session: Session) -> Tensor:
    """(N, D) float32 unit rows of the plain images."""
    settings = session.spec.features.model_copy(update={"views": 1})
    with session.bar("embedding", len(images.store)) as report:
        return embed(network, images.store, session.spec.data, settings, progress=report)


def draw_map(network: TwoBranch, target: Images, labels: EpochLabels, rows: np.ndarray, session: Session) -> Map:
    """The map of the training images, coloured by the labels of the table."""
    drawn = np.sort(np.random.default_rng(session.spec.seed).permutation(len(labels))[:POINTS])
    features_ND = features_of(network, target, session)
    chosen = torch.as_tensor(rows[drawn], device=features_ND.device)
    with session.bar("map of the features", None) as _:
        xy, method = map_features(features_ND[chosen], session.spec.seed)
    told = [
        f"{f'cluster {labels.refined[i]}' if labels.refined[i] >= 0 else 'left out'}: {labels.paths[i]}" for i in drawn
    ]
    return Map(method, xy, labels.refined[drawn], told, len(labels))


def retrieval_sheet(network: TwoBranch, session: Session) -> Sheet:
    """The queries with the lowest average precision, each with the gallery images nearest to it."""
    query, gallery = session.test.query, session.test.gallery
    query_QD, gallery_GD = (features_of(network, images, session) for images in (query, gallery))
    results = query_results(
        query_QD,
        gallery_GD,
        session.on_device(query.split.identities),
        session.on_device(query.split.cameras),
        session.on_device(gallery.split.identities),
        session.on_device(gallery.split.cameras),
    )
    precision, matches = results.average_precision.cpu().numpy(), results.matches.cpu().numpy()
    first = results.first_match.cpu().numpy()
    answered = np.flatnonzero(matches > 0)
    worst = answered[np.argsort(precision[answered], kind="stable")][:QUERIES]
    asked, found = Thumbs(query, None), Thumbs(gallery, None)
    strips = []
    for row in worst.tolist():
        nearest, right = nearest_of(row, query_QD, gallery_GD, query.split, gallery.split)
        pictures = [
            found.of(int(i), bool(mark), f"rank {rank}, {'right' if mark else 'wrong'}: ")
            for rank, (i, mark) in enumerate(zip(nearest, right, strict=True), 1)
        ]
        several = f"{matches[row]} match{'' if matches[row] == 1 else 'es'} in the gallery"
        facts = f"first match at rank {first[row]} · {several}"
        parts = [Part("query", [asked.of(row)], 1), Part(f"nearest {TOP}", pictures, len(pictures))]
        strips.append(Strip(f"AP {100 * precision[row]:.1f} %", facts, parts))
    return Sheet(strips, len(answered))


def nearest_of(
    row: int, query_QD: Tensor, gallery_GD: Tensor, query: Split, gallery: Split
) -> tuple[np.ndarray, np.ndarray]:
    """The TOP gallery images nearest to a query by the protocol of `query_results`, and which of them match it."""
    distances = (gallery_GD.square().sum(dim=1) / 2 - gallery_GD @ query_QD[row]).cpu().numpy()
    same = gallery.identities == query.identities[row]
    left_out = (gallery.identities == JUNK) | (same & (gallery.cameras == query.cameras[row]))
    order = np.argsort(np.where(left_out, np.inf, distances), kind="stable")[: min(TOP, int((~left_out).sum()))]
    return order, same[order]


def name_places(positions: Map) -> dict[int, tuple[float, float]]:
    """Where the largest clusters of a map are named: above most of their images, the largest first."""
    places = {}
    for label, rows in sorted(groups(positions.label), key=lambda item: -len(item[1]))[:NUMBERED]:
        xy = positions.xy[rows]
        middle = np.median(xy, axis=0)
        distances = np.abs(xy - middle).sum(axis=1)
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
        hue_K[i] = hue_N[rows] = nearest.argmax()
    return hue_N
