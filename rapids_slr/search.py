"""A trained network on any images: the features of all, and the gallery images most like each query.

N images, Q queries, G gallery images, D feature size, K answers.
"""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rapids_slr import __version__
from rapids_slr.clustering.neighbours import check_features
from rapids_slr.data.collect import Collection, collect
from rapids_slr.data.faults import Fault, faults_error
from rapids_slr.data.layouts import DISTRACTOR
from rapids_slr.data.store import load_images
from rapids_slr.engine.arrays import like, on_torch_stream
from rapids_slr.engine.backend import Backend, choose_backend
from rapids_slr.engine.blocks import similarity_blocks
from rapids_slr.engine.rows import room_for
from rapids_slr.errors import InputError
from rapids_slr.evaluation import reranking
from rapids_slr.evaluation.reranking import Reranking
from rapids_slr.files import write_atomically
from rapids_slr.networks.checkpoint import Trained, load_trained
from rapids_slr.networks.embed import embed
from rapids_slr.progress import Progress
from rapids_slr.provenance import commit
from rapids_slr.settings.spec import FeatureSpec

TOP = 10
"""Answers to a query where none are asked for."""
CHUNK = 4096
"""Images whose pixels are held at a time."""
SPARE = 32
"""Candidates from the product in float32 beyond twice the answers."""
SETTLED = 1 << 28
"""Bytes of the features of candidates that are settled at a time."""
DIGITS = 9
"""Decimals that tell two similarities apart; equal ones rank by gallery index."""
AGAIN = "free some space, or name another --out"


@dataclass(frozen=True)
class Matches:
    """The answers to every query."""

    query: Collection
    """The images that could be read, row by row."""
    gallery: Collection
    index_QK: np.ndarray
    """int64 rows of the gallery, the most similar first; -1 where there is no further image."""
    similarity_QK: np.ndarray
    """float32 cosines of the angle between the features, -1..1; NaN where the index is -1."""
    itself_Q: np.ndarray
    """bool: whether the query's own file is in the gallery, where it is not its own answer."""
    faults: list[Fault]
    """Images that were left out, and why."""
    trained: Trained
    backend: Backend
    reranked: bool = False
    """Whether answers are in the order of re-ranked distances."""

    @property
    def top(self) -> int:
        return self.index_QK.shape[1]

    @property
    def identified(self) -> bool:
        """Whether names tell identities that can be compared: both those of one data set."""
        return self.query.numbering is not None and self.query.numbering == self.gallery.numbering

    def answers(self, row: int) -> Iterator[tuple[int, int, float, bool | None]]:
        """Rank from 1, gallery row, similarity, and whether it has the identity of the query; None where one of both
        is not known."""
        person = int(self.query.split.identities[row])
        for rank, (i, similarity) in enumerate(zip(self.index_QK[row], self.similarity_QK[row], strict=True), 1):
            if i < 0:
                return
            other = int(self.gallery.split.identities[i])
            known = self.identified and person > DISTRACTOR and other >= DISTRACTOR
            yield rank, int(i), float(similarity), person == other if known else None

    def right_first(self) -> tuple[int, int]:
        """Queries whose first answer has their identity, and queries of which that can be told."""
        found = [right for row in range(len(self.query)) for rank, _, _, right in self.answers(row) if rank == 1]
        return found.count(True), len(found) - found.count(None)


def search(
    checkpoint: Path,
    query: Path,
    gallery: Path,
    top: int | None = None,
    device: str = "auto",
    progress: Progress | None = None,
    rerank: bool = False,
) -> Matches:
    """The gallery images most like each query, by the network that evaluation uses.

    Images that cannot be read are left out and named in the result. The very same file is not its own answer.

    Args:
        checkpoint: a run folder or one of its checkpoints, as `load_trained` takes it.
        query, gallery: an image, a folder or a .zip of images, as `collect` takes them.
        top: answers to a query; None takes TOP, or the whole of a smaller gallery.
        device: auto, cpu or cuda.
        progress: where to show how far the work is.
        rerank: rank by k-reciprocal neighbourhoods (evaluation.rerank); similarities stay those of the features.
    Raises: InputError if there is no network, no image, too few to re-rank, or if `top` is more than the gallery holds;
        RunError if memory runs out.
    """
    trained = load_trained(Path(checkpoint))
    asked, offered = collect(query, "query"), collect(gallery, "gallery")
    # Before those that cannot be read are left out of `asked`.
    names = asked.split.names
    if top is not None and not 1 <= top <= len(offered):
        raise InputError(f"--top {top}: {gallery} holds {len(offered)} images; ask for 1 to {len(offered)}")
    backend = choose_backend(device)
    trained.network.place(backend.device)
    with on_torch_stream(backend.device):
        query_QD, asked = embed_collection(trained, asked, backend.device, progress, f"embedding {query}")
        # The same images on both sides are embedded once.
        if (offered.files.path, offered.split.names) == (asked.files.path, names):
            gallery_GD, offered = query_QD, asked
        else:
            gallery_GD, offered = embed_collection(trained, offered, backend.device, progress, f"embedding {gallery}")
        own_Q = rows_of_themselves(asked, offered)
        rank = reranked_matches if rerank else top_matches
        index_QK, similarity_QK = rank(query_QD, gallery_GD, min(top or TOP, len(offered)), own_Q)
    return Matches(
        asked,
        offered,
        index_QK.cpu().numpy(),
        similarity_QK.cpu().numpy(),
        own_Q >= 0,
        list(dict.fromkeys([*asked.faults, *offered.faults])),
        trained,
        backend,
        rerank,
    )


@dataclass(frozen=True)
class Embedded:
    """Images as a network sees them."""

    features_ND: np.ndarray
    """(N, D) float32 rows of unit length."""
    images: Collection
    """Those that could be read, row by row; the others are among its faults."""
    trained: Trained
    backend: Backend


def embed_images(checkpoint: Path, images: Path, device: str = "auto", progress: Progress | None = None) -> Embedded:
    """Features of all images below a path, by the network that evaluation uses.

    Args:
        checkpoint: a run folder or one of its checkpoints, as `load_trained` takes it.
        images: an image, a folder or a .zip; of a data set all its images, whatever their split.
        device: auto, cpu or cuda.
        progress: where to show how far the work is.
    Raises: InputError if there is no network, or no image that can be read; RunError if memory runs out.
    """
    trained, found = load_trained(Path(checkpoint)), collect(images, "all")
    backend = choose_backend(device)
    trained.network.place(backend.device)
    with on_torch_stream(backend.device):
        x_ND, found = embed_collection(trained, found, backend.device, progress, f"embedding {images}")
    return Embedded(x_ND.cpu().numpy(), found, trained, backend)


def embed_collection(
    trained: Trained,
    collection: Collection,
    device: torch.device,
    progress: Progress | None = None,
    label: str = "embedding",
) -> tuple[Tensor, Collection]:
    """Features of all images that can be read, and the collection of these, the others among its faults.

    Args:
        trained: its network on `device`.
        label: what is shown beside the progress.
    Returns: (N, D) float32 unit rows on `device`; row i is image i of the collection.
    Raises: InputError if no image can be read, naming them.
    """
    domain, split, faults = collection.domain, collection.split, list(collection.faults)

    def fault_of(fault: Fault) -> None:
        faults.append(Fault(f"{collection.files.path}/{fault.where}", fault.what))

    rows_ND, filled, kept = room_for(len(split), trained.network.feature_dim, device), 0, set[str]()
    with progress.task(label, len(split), "images") if progress is not None else nullcontext() as task:
        for start in range(0, len(split), CHUNK):
            part = split.take(np.arange(start, min(start + CHUNK, len(split))))
            store, read = load_images(domain, part, trained.data, device, on_fault=fault_of)
            advance = None if task is None else task.advance
            if len(read):
                part_ID = embed(trained.network, store, trained.data, FeatureSpec(), progress=advance)
                rows_ND[filled : filled + len(read)] = part_ID
            filled += len(read)
            kept.update(read.names)
            if task is not None:
                task.advance(len(part) - len(read))  # what cannot be read is done with, too
    if not kept:
        raise faults_error(f"{collection.path}: no image can be read", faults, "mend these, or give other images")
    readable = collection.take(np.array([name in kept for name in split.names]))
    return rows_ND[:filled], Collection(collection.path, collection.files, readable.split, collection.numbering, faults)


def rows_of_themselves(query: Collection, gallery: Collection) -> np.ndarray:
    """(Q,) int64: the gallery row of the very same file, -1 where it is not there."""
    place = {gallery.file(name): row for row, name in enumerate(gallery.split.names)}
    return np.array([place.get(query.file(name), -1) for name in query.split.names], np.int64)


@torch.no_grad()
def top_matches(
    query_QD: Tensor, gallery_GD: Tensor, top: int, own_Q: np.ndarray | Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The `top` most similar gallery rows of every query, the most similar first, equal ones by gallery index.

    No Q x G matrix is made: blocks of the product in float32 give each query its candidates, twice `top` and SPARE
    more, whose similarities are settled in float64. So the answer depends on neither blocks nor engine; of more
    candidates than that within the rounding of float32, many equal images, some are left to chance.

    Args:
        query_QD, gallery_GD: (Q, D) and (G, D) float32 rows of unit length on one device.
        own_Q: (Q,) int64, for each query a gallery row that is no answer, or -1.
    Returns: (Q, K) int64 indices and (Q, K) float32 cosines with K = min(top, G), on the device; -1 and NaN where there
        is no further row.
    Raises: InputError if shapes disagree, rows are not finite or not of unit length, or `top` is below 1.
    """
    if query_QD.ndim != 2 or gallery_GD.ndim != 2 or query_QD.shape[1] != gallery_GD.shape[1]:
        raise InputError(f"expected (Q, D) and (G, D), got {tuple(query_QD.shape)} and {tuple(gallery_GD.shape)}")
    if top < 1:
        raise InputError(f"top: expected 1 or more answers, got {top}")
    (Q, D), G, device = query_QD.shape, len(gallery_GD), query_QD.device
    own = torch.full((Q,), -1, device=device) if own_Q is None else torch.as_tensor(own_Q, device=device)
    candidates = min(2 * (top + 1) + SPARE, G)  # one more than `top`, as the query itself may be among them
    best_QC = torch.full((Q, candidates), -torch.inf, device=device)
    index_QC = torch.zeros((Q, candidates), dtype=torch.int64, device=device)
    with on_torch_stream(device):
        x_QD, x_GD = check_features(query_QD, "query"), check_features(gallery_GD, "gallery")
        for row, column, block in similarity_blocks(x_QD, x_GD):
            block_IJ = like(block, query_QD)
            # The best of this block beside the best so far; the better ones of both go on.
            near = block_IJ.topk(min(candidates, block_IJ.shape[1]), dim=1)
            rows = slice(row, row + len(block_IJ))
            both = torch.cat([best_QC[rows], near.values], dim=1)
            places = torch.cat([index_QC[rows], near.indices + column], dim=1)
            best_QC[rows], chosen = both.topk(candidates, dim=1)
            index_QC[rows] = places.gather(1, chosen)
        index_QC = index_QC.sort(dim=1).values  # ascending, so that a stable sort leaves equal ones by index
        settled = max(1, SETTLED // (8 * candidates * D))
        parts = [
            _settle(query_QD[start : start + settled], gallery_GD, index_QC[start : start + settled], own[start:], top)
            for start in range(0, Q, settled)
        ]
    index_QK, similarity_QK = map(torch.cat, zip(*parts, strict=True))
    return index_QK, similarity_QK


@torch.no_grad()
def reranked_matches(
    query_QD: Tensor, gallery_GD: Tensor, top: int, own_Q: np.ndarray | Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """`top_matches` in the order of re-ranked distances, with their cosines. No Q x G matrix is made.

    Raises: InputError as `top_matches` does, or if query and gallery are too few.
    """
    if top < 1:
        raise InputError(f"top: expected 1 or more answers, got {top}")
    Q, device = len(query_QD), query_QD.device
    own = torch.full((Q,), -1, device=device) if own_Q is None else torch.as_tensor(own_Q, device=device)
    found, parts = Reranking(query_QD, gallery_GD), []
    for start in range(0, Q, reranking.BLOCK):
        distance_BG = found.block(start, start + reranking.BLOCK)
        itself = (own[start : start + len(distance_BG)] >= 0).nonzero().squeeze(1)
        distance_BG[itself, own[start + itself]] = torch.inf
        distance_BK, index_BK = (part[:, :top] for part in distance_BG.sort(dim=1, stable=True))
        rows = slice(start, start + len(distance_BG))
        cosine_BK = (query_QD[rows, None].double() * gallery_GD[index_BK].double()).sum(dim=2)
        none_BK = distance_BK.isinf()
        cosine_BK = cosine_BK.clamp(-1, 1).float().masked_fill(none_BK, torch.nan)
        parts.append((index_BK.masked_fill(none_BK, -1), cosine_BK))
    index_QK, similarity_QK = map(torch.cat, zip(*parts, strict=True))
    return index_QK, similarity_QK


def _settle(query_ID: Tensor, gallery_GD: Tensor, index_IC: Tensor, own: Tensor, top: int) -> tuple[Tensor, Tensor]:
    """Rank candidates, ascending by index, by their similarity in float64."""
    exact_IC = (query_ID[:, None].double() * gallery_GD[index_IC].double()).sum(dim=2)
    exact_IC.masked_fill_(index_IC == own[: len(query_ID), None], -torch.inf)
    exact_IC, order = exact_IC.round(decimals=DIGITS).sort(dim=1, descending=True, stable=True)
    index_IK, exact_IK = index_IC.gather(1, order)[:, :top], exact_IC[:, :top]
    none_IK = exact_IK.isneginf()
    return index_IK.masked_fill(none_IK, -1), exact_IK.clamp(-1, 1).float().masked_fill(none_IK, torch.nan)


# Files ----------------------------------------------------------------------------------------------------------------


def write_matches(matches: Matches, folder: Path) -> list[Path]:
    """Write matches.csv, a row an answer, and matches.json, an entry a query. Gives the two files.

    Raises: RunError if they cannot be written.
    """

    def write_csv(path: Path) -> None:
        with open(path, "w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows(_table(matches))

    def write_json(path: Path) -> None:
        path.write_text(json.dumps(_document(matches), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    writers: dict[str, Callable[[Path], None]] = {"matches.csv": write_csv, "matches.json": write_json}
    for name, write in writers.items():
        write_atomically(folder / name, write, AGAIN)
    return [folder / name for name in writers]


def _table(matches: Matches) -> Iterable[tuple[Any, ...]]:
    people = ("query_identity", "query_camera", "gallery_identity", "gallery_camera", "right")
    asked, offered = matches.query.split, matches.gallery.split
    yield "query", "rank", "gallery", "similarity", *(people if matches.identified else ())
    for row, name in enumerate(asked.names):
        for rank, i, similarity, right in matches.answers(row):
            known = (asked.identities[row], asked.cameras[row], offered.identities[i], offered.cameras[i], right)
            yield name, rank, offered.names[i], f"{similarity:.6f}", *(known if matches.identified else ())


def _document(matches: Matches) -> dict[str, Any]:
    asked, offered = matches.query.split, matches.gallery.split

    def image(split: Any, row: int) -> dict[str, Any]:
        known = {"identity": int(split.identities[row]), "camera": int(split.cameras[row])}
        return {"name": split.names[row]} | (known if matches.identified else {})

    return {
        "query": str(matches.query.path),
        "gallery": str(matches.gallery.path),
        "network": {"path": str(matches.trained.path), "which": matches.trained.which},
        "queries": len(asked),
        "images": len(offered),
        "top": matches.top,
        "reranked": matches.reranked,
        "device": str(matches.backend.device),
        "version": __version__,
        "commit": commit(),
        "date": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
        "left_out": [{"where": fault.where, "what": fault.what} for fault in matches.faults],
        "matches": [
            image(asked, row)
            | {"itself_in_gallery": bool(matches.itself_Q[row])}
            | {
                "answers": [
                    {"rank": rank, **image(offered, i), "similarity": round(similarity, 6)}
                    | ({"right": right} if matches.identified else {})
                    for rank, i, similarity, right in matches.answers(row)
                ]
            }
            for row in range(len(asked))
        ],
    }
