"""What a report shows of re-identification: the queries that fare worst, and the images they find."""

from __future__ import annotations

import numpy as np
import torch

from rapids_slr.data.domain import Domain
from rapids_slr.evaluation import nearest_answers, query_results
from rapids_slr.networks.checkpoint import Trained
from rapids_slr.reports.figures import sheet_figure
from rapids_slr.reports.gather import Run
from rapids_slr.reports.markup import Html
from rapids_slr.reports.pictures import Maker, Part, Pictures, Seen, Sheet, Strip, Thumbs

HEADING = "Retrieval"
QUERIES, TOP = 20, 10
"""Queries of a retrieval sheet, and gallery images of each."""


def take(seen: Seen, found: Pictures) -> None:
    if seen.trained is None:
        found.absent["retrieval"] = "there is no pre-trained network yet"
    elif not seen.domain.is_tested:
        found.absent["retrieval"] = "the target has no query and gallery images"
    else:
        found.of_task["retrieval"] = retrieval_sheet(seen.trained, seen.domain, seen.maker)


def retrieval_sheet(trained: Trained, domain: Domain, maker: Maker) -> Sheet:
    """The queries with the lowest average precision, each with the gallery images nearest to it."""
    (asked, query), (offered, gallery) = maker.read(domain, "query"), maker.read(domain, "gallery")
    query_QD, gallery_GD = maker.embed(trained, asked), maker.embed(trained, offered)
    people_Q, cameras_Q, people_G, cameras_G = (
        torch.from_numpy(values).to(maker.device)
        for values in (query.identities, query.cameras, gallery.identities, gallery.cameras)
    )
    results = query_results(query_QD, gallery_GD, people_Q, cameras_Q, people_G, cameras_G)
    precision, first, matches = (values.cpu().numpy() for values in results)
    answered = np.flatnonzero(matches > 0)  # others have no precision
    worst = answered[np.argsort(precision[answered], kind="stable")][:QUERIES]
    if not len(worst):
        return Sheet([], 0)
    rows = torch.from_numpy(worst).to(maker.device)
    answers = nearest_answers(
        query_QD[rows], gallery_GD, people_Q[rows], cameras_Q[rows], people_G, cameras_G, most=TOP
    )
    queries, found = Thumbs(query, asked, None), Thumbs(gallery, offered, None)
    strips = []
    for row, index_K, right_K in zip(worst.tolist(), *(x.tolist() for x in answers), strict=True):
        pictures = [
            found.of(i, right, f"rank {rank}, {'right' if right else 'wrong'}: ")
            for rank, (i, right) in enumerate(zip(index_K, right_K, strict=True), 1)
            if i >= 0
        ]
        several = f"{matches[row]} match{'' if matches[row] == 1 else 'es'} in the gallery"
        facts = f"first match at rank {first[row]} · {several}"
        parts = [Part("query", [queries.of(row)], 1), Part(f"nearest {TOP}", pictures, len(pictures))]
        strips.append(Strip(f"AP {100 * precision[row]:.1f} %", facts, parts))
    return Sheet(strips, len(answered))


def figures(run: Run, prefix: str) -> list[Html]:
    sheet = run.pictures.of_task.get("retrieval") if run.pictures else None
    network = f" Features of {run.pictures.network}." if run.pictures and sheet else ""
    note = (
        f"The {QUERIES} queries with the lowest average precision (AP), worst first. Green with a tick: the query’s "
        f"identity under another camera. Dashed red with a cross: another identity.{network}"
    )
    title = "Queries and their ten nearest gallery images"
    return [sheet_figure(run, f"{prefix}-retrieval", title, sheet, "retrieval", note, "queries")]
