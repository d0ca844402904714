"""The tables of a report: scores, settings that differ, epochs in numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rapids_slr.record.folder import best_row
from rapids_slr.reports.gather import Run
from rapids_slr.reports.markup import Html, el, join
from rapids_slr.reports.pieces import NO_EPOCH, number, table

SCORES = {"mAP": "mAP, %", "rank1": "rank-1, %", "rank5": "rank-5, %", "rank10": "rank-10, %"}
ORIGINS = el(
    "p",
    "direct: the pre-trained network; direct_bn: the same with BatchNorm re-estimated on the target. Neither was "
    "trained on the target. The last epoch is the headline: nobody can pick the best one without labels.",
    class_="note",
)


def last_scores(run: Run) -> dict[str, float]:
    """Scores of the last evaluated epoch; empty before."""
    return run.summary.get("last") or next((row for row in reversed(run.epochs) if "mAP" in row), {})


def best_scores(run: Run) -> Mapping[str, float]:
    """The evaluated epoch with the highest mAP; empty before."""
    return best_row(run.epochs) or {}


def score_table(runs: Sequence[Run]) -> Html:
    """Scores before adaptation and after, of one run in rows; of several a row a run."""
    if len(runs) == 1:
        run, best = runs[0], best_scores(runs[0])
        rows = [
            ("direct", run.start.get("direct", {})),
            ("direct_bn", run.start.get("direct_bn", {})),
            ("last epoch" if run.finished else "last evaluated", last_scores(run)),
            (f"best epoch ({best['epoch']:g})" if best else "best epoch", best),
        ]
        body = [(name, *(number(scores.get(key)) for key in SCORES)) for name, scores in rows]
        return join([table("Scores on the test split of the target", ("network", *SCORES.values()), body), ORIGINS])
    body = []
    for run in runs:
        last, best, row, before = last_scores(run), best_scores(run), run.last, run.start.get("direct_bn", {})
        gain = f"{100 * (last['mAP'] - before['mAP']):+.1f}" if last and before else "–"
        body.append(
            (
                run.name,
                number(before.get("mAP")),
                *(number(last.get(key)) for key in SCORES),
                gain,
                f"{number(best.get('mAP'))} ({best['epoch']:g})" if best else "–",
                f"{row['raw_ari']:.3f} → {row['ari']:.3f}" if "ari" in row else "–",
                f"{row['clusters']:g} → {row['refined_clusters']:g}" if row else "–",
                f"{sum(row.get('seconds/epoch', 0.0) for row in run.epochs):.1f}",
                run.state,
            )
        )
    heads = (
        "run",
        "direct_bn mAP, %",
        *(f"last {name}" for name in SCORES.values()),
        "gain, points",
        "best mAP, % (epoch)",
        "ARI raw → refined",
        "clusters raw → refined",
        "adaptation, s",
        "state",
    )
    return join([table("Scores on the test split of the target", heads, body), ORIGINS])


def settings_that_differ(runs: Sequence[Run]) -> Html:
    """The keys of the specs that are not the same in all runs."""
    flat = [flattened(run.spec.model_dump()) for run in runs]
    keys = [key for key in dict.fromkeys(key for one in flat for key in one) if key != "name"]
    body = [(key, *values) for key in keys if len(set(values := [one.get(key, "–") for one in flat])) > 1]
    if not body:
        return el("p", "All settings are the same.")
    return table("Settings that differ", ("key", *(run.name for run in runs)), body, text=True)


def flattened(values: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Dotted key -> value as text."""
    found: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            found |= flattened(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = "none" if value is None else str(value)
    return found


EPOCH_COLUMNS: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("epoch", "epoch", lambda x: f"{x:g}"),
    ("mAP", "mAP, %", lambda x: f"{100 * x:.1f}"),
    ("rank1", "rank-1, %", lambda x: f"{100 * x:.1f}"),
    ("clusters", "clusters", lambda x: f"{x:g}"),
    ("refined_clusters", "refined", lambda x: f"{x:g}"),
    ("outliers", "outliers", lambda x: f"{x:g}"),
    ("rescued", "rescued", lambda x: f"{x:g}"),
    ("rescued_rightly", "of them right, %", lambda x: f"{100 * x:.0f}"),
    ("left_out", "left out", lambda x: f"{x:g}"),
    ("raw_ari", "ARI raw", lambda x: f"{x:.3f}"),
    ("ari", "ARI", lambda x: f"{x:.3f}"),
    ("raw_nmi", "NMI raw", lambda x: f"{x:.3f}"),
    ("nmi", "NMI", lambda x: f"{x:.3f}"),
    ("purity", "purity, %", lambda x: f"{100 * x:.1f}"),
    ("false_pairs", "false pairs, %", lambda x: f"{100 * x:.1f}"),
    ("missed_pairs", "missed pairs, %", lambda x: f"{100 * x:.1f}"),
    ("ari_prev", "ARI with last", lambda x: f"{x:.3f}"),
    ("cluster_images", "images a cluster", lambda x: f"{x:.1f}"),
    ("cluster_cameras", "cameras a cluster", lambda x: f"{x:.1f}"),
    ("seconds/epoch", "seconds", lambda x: f"{x:.1f}"),
)


def epoch_table(run: Run) -> Html:
    """All epochs in numbers, folded."""
    shown = [column for column in EPOCH_COLUMNS if any(column[0] in row for row in run.epochs)]
    body = [tuple(say(row[key]) if key in row else "–" for key, _, say in shown) for row in run.epochs]
    content = table(f"Epochs of {run.name}", [name for _, name, _ in shown], body) if body else el("p", NO_EPOCH)
    return el("details", el("summary", f"All epochs of {run.name} in numbers"), content)
