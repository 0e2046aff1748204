"""The no-harm gate: never hand the user a model worse than the one they had.

Held-out FRet queries say whether a model serves the corpus better, but they are the teacher's own queries: a bad
teacher's student gets better at them while people's questions suffer. So a general-purpose probe, written by hand and
shipped with the package, is asked as well, and a blend may not lose more than a set amount on it.
"""

from __future__ import annotations

import importlib.resources
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from gecko.embedder.embedder import Embedder, cut
from gecko.embedder.known import KnownPassages
from gecko.embedder.open import load_model
from gecko.errors import GeckoError
from gecko.evaluate.compare import paired_bootstrap
from gecko.evaluate.retrieval import ndcg_at_k
from gecko.fret.store import PassageTable
from gecko.miner.exact import top_k
from gecko.recipe import GateOptions, Recipe
from gecko.records import FretRow
from gecko.teacher.offline.teacher import NAME as OFFLINE
from gecko.train.save import save_whole
from gecko.train.soup import interpolate

ALPHAS = (0.25, 0.5, 0.75, 1.0)
OFFLINE_ALPHAS = (0.35,)  # the farthest that people's dev questions bore out (docs/log.md)


@dataclass(frozen=True, slots=True)
class DevSet:
    """Queries with graded passages.

    Attributes:
        queries: (task, query) pairs.
        passages: (title, text) pairs that are searched.
        relevant: For each query, the grade of each relevant passage position.
    """

    queries: Sequence[tuple[str, str]]
    passages: Sequence[tuple[str, str]]
    relevant: Sequence[dict[int, float]]


@dataclass(frozen=True, slots=True)
class Trial:
    """What one blend scored: nDCG@10 on dev and probe, the gain on dev with its 95 % interval, and the verdict.

    ``narrow_gains`` are the gains on dev of vectors cut to the smaller Matryoshka sizes, against the base cut alike. A
    blend of a training that diverged finds nothing: it scores 0, and ``reason`` says why.
    """

    alpha: float
    dev: float
    probe: float | None
    dev_gain: float
    dev_ci95: tuple[float, float]
    probe_gain: float | None
    allowed: bool
    reason: str = ""
    narrow_gains: dict[int, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class GateVerdict:
    """The gate's decision; ``alpha`` 0 means the base is shipped unchanged."""

    chosen: str
    alpha: float
    reason: str
    scores: tuple[Trial, ...]
    dev_queries: int
    probe_queries: int

    def to_json(self) -> dict[str, object]:
        """The contents of ``gate.json``."""
        return asdict(self)


def load_probe() -> DevSet:
    """Read the general-purpose probe that ships with the package."""
    text = importlib.resources.files("gecko.train").joinpath("probe.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines() if line.strip()]
    return DevSet(
        queries=[("search result", row["query"]) for row in rows],
        passages=[(row.get("title", ""), row["passage"]) for row in rows],
        relevant=[{index: 1.0} for index in range(len(rows))],
    )


def choose(
    base: Embedder | KnownPassages,
    blend: Callable[[float], Embedder],
    dev: DevSet,
    probe: DevSet | None,
    options: GateOptions,
    *,
    offline: bool = False,
    dims: Sequence[int] = (),
) -> GateVerdict:
    """Choose the blend with the best dev score among those that keep the probe.

    A blend must gain on dev with a 95 % interval above zero, must not lose there when its vectors are cut to a smaller
    size, and must not lose more than ``max_probe_loss`` on the probe; if none does, the base is kept and the reason
    says which test failed. Blends are tried from the tuned model towards the base, and no further once one scores less
    than an allowed one before it.

    Args:
        base: The model before training.
        blend: Makes the model at an alpha in (0, 1].
        dev: Held-out FRet queries.
        probe: The forgetting probe, or None to judge by dev alone.
        options: The recipe's ``gate`` section.
        offline: The queries were written without a language model. They share their words with the passages, so part
            of what is gained on them is a habit of matching words, which held-out queries of the same make cannot tell
            from the rest; no step of more than about a third of the way is then taken unless the recipe says so.
        dims: Matryoshka sizes to judge beside the full one.

    Raises:
        GeckoError: The base's vectors are not numbers.
    """
    alphas = options.alphas or (OFFLINE_ALPHAS if offline else ALPHAS)
    probe_queries = 0 if probe is None else len(probe.queries)
    if not dev.queries:
        return GateVerdict("base", 0.0, "there are no held-out queries to judge by", (), 0, probe_queries)
    sizes = [base.dim, *sorted({dim for dim in dims if dim < base.dim}, reverse=True)]
    base_dev = score_queries(base, dev, sizes)
    base_probe = None if probe is None else score_queries(base, probe, sizes[:1])
    if not np.isfinite(base_dev).all() or not (base_probe is None or np.isfinite(base_probe).all()):
        raise GeckoError(f"{base.path}: its vectors are not numbers", "choose another train.student")
    trials = [_baseline(base_dev, base_probe)]
    best = trials[0]
    for alpha in sorted(alphas, reverse=True):
        trial = _try(alpha, blend(alpha), dev, probe, sizes, base_dev, base_probe, options)
        trials.insert(1, trial)
        if trial.allowed and trial.dev >= best.dev:
            best = trial
        elif best.alpha > 0 and trial.dev < best.dev:
            break
    chosen = "base" if best.alpha == 0 else "tuned" if best.alpha == 1 else "interpolated"
    return GateVerdict(
        chosen,
        best.alpha,
        _reason(best, trials, options),
        tuple(trials),
        len(dev.queries),
        probe_queries,
    )


def apply_gate(rows: Sequence[FretRow], store: PassageTable, recipe: Recipe, tuned: Path, out: Path) -> GateVerdict:
    """Judge the tuned model of a run against its base and save the model to ship.

    The base is the student as the user gave it, also where it was pre-finetuned: what both stages together did is then
    judged, and a harmful pre-finetuning is undone with the rest. Blends lie between that base and the tuned model.

    Args:
        rows: Held-out FRet rows.
        store: The corpus.
        recipe: The run's recipe.
        tuned: Directory of the fine-tuned model.
        out: Where the chosen model goes: base, tuned or a blend. The one that is there is replaced by a whole one.
    """
    from gecko.train.backbone import keeps_vectors, open_student

    base = Embedder(open_student(recipe.train, seed=recipe.seed))
    tuned_model = load_model(str(tuned))
    pool = _pool(rows)
    dev = dev_set(rows, store)
    same_as_miner = recipe.is_miner(recipe.train.student) and keeps_vectors(recipe.train)
    known = None
    if same_as_miner and store.vectors is not None:
        known = store.vectors[store.positions(list(pool))]
    verdict = choose(
        base if known is None else KnownPassages(base, dev.passages, known),
        lambda alpha: Embedder(interpolate(base.model, tuned_model, alpha)),
        dev,
        load_probe() if recipe.gate.probe else None,
        recipe.gate,
        offline=any(row.teacher == OFFLINE for row in rows),
        dims=recipe.train.dims,
    )
    save_whole(base.model if verdict.alpha == 0 else interpolate(base.model, tuned_model, verdict.alpha), out)
    return verdict


def dev_set(rows: Sequence[FretRow], store: PassageTable) -> DevSet:
    """Make a retrieval test of held-out FRet rows: their candidates together are the passages searched.

    A candidate counts as relevant when it is the positive, or when the teacher graded it as high as the positive.
    """
    position = _pool(rows)
    relevant = []
    for row in rows:
        positive = next(c for c in row.candidates if c.passage_id == row.positive_id)
        grades = {position[row.positive_id]: 1.0}
        for candidate in row.candidates:
            if positive.rc is not None and candidate.rc is not None and candidate.rc >= positive.rc:
                grades[position[candidate.passage_id]] = 1.0
        relevant.append(grades)
    passages = store.passages(list(position))
    return DevSet(
        queries=[(row.task, row.query) for row in rows],
        passages=[(passage.title, passage.text) for passage in passages],
        relevant=relevant,
    )


def _pool(rows: Sequence[FretRow]) -> dict[str, int]:
    """All the rows' candidates, each with its position among the passages searched."""
    position: dict[str, int] = {}
    for row in rows:
        for candidate in row.candidates:
            position.setdefault(candidate.passage_id, len(position))
    return position


def _baseline(dev: np.ndarray, probe: np.ndarray | None) -> Trial:
    mean_probe = None if probe is None else float(probe.mean())
    return Trial(0.0, float(dev[0].mean()), mean_probe, 0.0, (0.0, 0.0), None if probe is None else 0.0, allowed=True)


def _try(
    alpha: float,
    embedder: Embedder,
    dev: DevSet,
    probe: DevSet | None,
    sizes: Sequence[int],
    base_dev: np.ndarray,
    base_probe: np.ndarray | None,
    options: GateOptions,
) -> Trial:
    found = score_queries(embedder, dev, sizes)
    scores = np.nan_to_num(found)
    reason = "" if np.isfinite(found).all() else "its vectors are not numbers: the training diverged"
    gain, *narrow = (float(own.mean() - before.mean()) for own, before in zip(scores, base_dev, strict=True))
    interval = paired_bootstrap(base_dev[0], scores[0])
    probe_mean = probe_gain = None
    if probe is not None and base_probe is not None:
        probe_mean = float(np.nan_to_num(score_queries(embedder, probe, sizes[:1])).mean())
        probe_gain = probe_mean - float(base_probe.mean())
    keeps = probe_gain is None or probe_gain >= -options.max_probe_loss
    holds = gain >= options.min_gain and min(narrow, default=0.0) >= 0
    allowed = bool(interval[0] > 0 and holds and keeps and not reason)
    return Trial(
        alpha,
        float(scores[0].mean()),
        probe_mean,
        gain,
        interval,
        probe_gain,
        allowed,
        reason,
        dict(zip(sizes[1:], narrow, strict=True)),
    )


def score_queries(embedder: Embedder | KnownPassages, dev: DevSet, sizes: Sequence[int]) -> np.ndarray:
    """nDCG@10 of every query at each size, (sizes, n); none is a number where the model's vectors are not."""
    queries, tasks = [query for _, query in dev.queries], [task for task, _ in dev.queries]
    vectors = embedder.encode_queries(queries, tasks)
    passages = embedder.encode_passages(dev.passages)
    if not (np.isfinite(vectors).all() and np.isfinite(passages).all()):
        return np.full((len(sizes), len(dev.queries)), np.nan)
    scores = []
    for size in sizes:
        indices, _ = top_k(cut(vectors, size), cut(passages, size), min(10, len(dev.passages)))
        scores.append(ndcg_at_k(indices, list(dev.relevant), 10))
    return np.stack(scores)


def _reason(best: Trial, trials: Sequence[Trial], options: GateOptions) -> str:
    if best.alpha > 0:
        return f"best on held-out queries ({best.dev_gain:+.3f} nDCG@10) among the blends that keep the probe"
    if len(trials) > 1 and all(trial.reason for trial in trials[1:]):
        return "the training diverged: lower train.learning_rate"
    gained = [trial for trial in trials if trial.dev_ci95[0] > 0]
    if not gained:
        return "no blend gained on the held-out queries with a 95 % interval above zero"
    if all(trial.dev_gain < options.min_gain for trial in gained):
        return f"no blend gained {options.min_gain:g} nDCG@10 on the held-out queries"
    if all(min(trial.narrow_gains.values(), default=0.0) < 0 for trial in gained):
        return "every blend that gained on the held-out queries lost there when its vectors are cut to a smaller size"
    most = options.max_probe_loss
    return f"every blend that gained on the held-out queries lost more than {most:g} on the probe, or when cut"
