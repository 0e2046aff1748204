"""The map of passages and queries before and after training: where each model puts the same texts, in two dimensions.

Queries are those held out for the gate, so that the picture does not show what was learnt by heart. Both layouts are
t-SNE of cosine distances; the second starts where the first ended, so that a point which did not move stays put.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from gecko.context import held_out_rows
from gecko.embedder.embedder import Embedder
from gecko.errors import GeckoError
from gecko.recipe import Recipe, load_recipe
from gecko.records import FretRow, Passage
from gecko.report import svg
from gecko.report.gather import StaleError, check_made, read_json
from gecko.shards import MARKS, fingerprint, read_rows, to_fret, to_passage, write_json

FILE = "map.json"
MAP_QUERIES = 60
MAP_PASSAGES = 240
_FEWEST = 30  # points; t-SNE of fewer says nothing
_SHOWN = 160  # characters of a text
_VERSION = 1


def write_map(run: Path) -> bool:
    """Lay out a sample of a run's texts as its base and its model see them, unless that is done.

    Args:
        run: A finished run; ``map.json`` is written there.

    Returns:
        Whether the run holds a map: not where the model is the base itself, or where there are too few texts.

    Raises:
        GeckoError: The run is not finished, or a model cannot be loaded.
    """
    try:
        mark = map_mark(run)
        recipe = load_recipe(run / "recipe.yaml")
    except (OSError, ValueError, StaleError) as error:
        raise GeckoError(f"{run}: no map can be drawn of a run that is not finished", "Finish it first.") from error
    try:
        known = read_json(run / FILE)
    except (OSError, ValueError):
        known = {}
    if known.get("mark") == mark:
        return bool(known.get("points"))
    gate = read_json(run / "gate" / "gate.json")
    points: list[dict[str, Any]] = []
    nearest: dict[str, float] = {}
    rows, passages = _sample(run, recipe)
    if gate.get("chosen") != "base" and len(rows) + len(passages) >= _FEWEST:
        points, nearest = _lay_out(rows, passages, {"before": recipe.base, "after": str(run / "model")}, recipe.seed)
    write_json(run / FILE, {"mark": mark, "points": points, "nearest": nearest})
    return bool(points)


def read_map(run: Path) -> dict[str, Any] | None:
    """Return the map of a run's present model; None where it holds no point.

    Raises:
        FileNotFoundError: There is none, or it is another model's.
    """
    value = read_json(run / FILE)
    if value.get("mark") != map_mark(run):
        raise FileNotFoundError(run / FILE)
    return value if value.get("points") else None


def map_part(value: dict[str, Any]) -> dict[str, Any]:
    """Draw both maps, with the lines from every query to its positive."""
    points = value["points"]
    links = [(index, point["positive"]) for index, point in enumerate(points) if point["query"]]
    pictures = {
        side: svg.scatter(
            [
                svg.Point(point[side][0], point[side][1], "accent" if point["query"] else "muted", point["text"])
                for point in points
            ],
            links,
            f"Map of {len(points)} texts {side} training",
        )
        for side in ("before", "after")
    }
    return {
        "pictures": pictures,
        "nearest": value["nearest"],
        "queries": len(links),
        "passages": len(points) - len(links),
    }


def map_mark(run: Path) -> str:
    """Fingerprint of what the map is drawn from: the gate's stage has that of everything before it."""
    check_made(run, "gate")
    gate = read_json(run / "gate" / "gate.json")
    try:
        stage = read_json(run / MARKS).get("gate")
    except FileNotFoundError:
        stage = None
    return fingerprint("map", _VERSION, stage, gate)


def _sample(run: Path, recipe: Recipe) -> tuple[list[FretRow], list[Passage]]:
    """Draw held-out rows, and passages with their positives and hard negatives; the least ids, which are hashes."""
    rows = held_out_rows(read_rows(run / "fret", to_fret), recipe.gate.dev_share, MAP_QUERIES)
    wanted = {passage_id for row in rows for passage_id in (row.positive_id, row.negative_id)}
    passages: list[Passage] = []
    others: list[Passage] = []
    for passage in read_rows(run / "passages", to_passage):
        (passages if passage.passage_id in wanted else others).append(passage)
        if len(others) > 8 * MAP_PASSAGES:
            others = _least(others)
    found = {passage.passage_id for passage in passages}
    rows = [row for row in rows if row.positive_id in found]
    return rows, passages + _least(others)[: max(0, MAP_PASSAGES - len(passages))]


def _least(passages: list[Passage]) -> list[Passage]:
    return sorted(passages, key=lambda passage: passage.passage_id)[:MAP_PASSAGES]


def _lay_out(
    rows: list[FretRow], passages: list[Passage], models: dict[str, str], seed: int
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Place every text on both maps, 0-1 each way; and the share of queries whose nearest passage is their positive."""
    texts = [(passage.title, passage.text) for passage in passages]
    number = {passage.passage_id: index for index, passage in enumerate(passages)}
    positives = [number[row.positive_id] for row in rows]
    layout: np.ndarray | None = None
    places, nearest = {}, {}
    for side, model in models.items():
        embedder = Embedder(model)
        documents = embedder.encode_passages(texts)
        queries = embedder.encode_queries([row.query for row in rows], [row.task for row in rows])
        if rows:
            nearest[side] = float(np.mean(np.argmax(queries @ documents.T, axis=1) == positives))
        layout = _tsne(np.concatenate([documents, queries]), layout, seed)
        low, high = layout.min(axis=0), layout.max(axis=0)
        places[side] = ((layout - low) / np.maximum(high - low, 1e-9)).round(4)
    named = [(f"{title}. " if title else "") + text for title, text in texts] + [row.query for row in rows]
    points = [
        {
            "text": " ".join(text.split())[:_SHOWN],
            "query": index >= len(passages),
            "positive": positives[index - len(passages)] if index >= len(passages) else None,
            **{side: place[index].tolist() for side, place in places.items()},
        }
        for index, text in enumerate(named)
    ]
    return points, nearest


def _tsne(vectors: np.ndarray, start: np.ndarray | None, seed: int) -> np.ndarray:
    """Lay unit vectors out in the plane, from a given layout or from the first principal components."""
    from sklearn.manifold import TSNE

    # A start is wanted small (0.0001 across, as scikit-learn's own): a wide one is never left.
    first: str | np.ndarray = "pca" if start is None else (start / np.std(start[:, 0]) * 1e-4).astype(np.float32)
    perplexity = min(20.0, (len(vectors) - 1) / 3)
    # Squared Euclidean distance of unit vectors is twice their cosine distance.
    model = TSNE(2, perplexity=perplexity, init=first, random_state=seed % 2**32, max_iter=500)
    return np.asarray(model.fit_transform(vectors), np.float64)
