"""What a teacher can do, found out by asking it (``gecko teacher check``)."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gecko.fret.check import too_many_failed
from gecko.recipe import Recipe
from gecko.records import Passage
from gecko.teacher.ledger import FILE_NAME, Ledger
from gecko.teacher.llm import LLMTeacher, best_rung
from gecko.teacher.open import ENGINES, open_teacher
from gecko.teacher.protocol import Generation

_WHY = {
    "ql+rc": "it gives the log-probabilities of a given text and of every label: QL and RC are exact, as in the paper",
    "ql+rc-topk": "it gives the log-probabilities of a given text, and of the likeliest next tokens only: QL is exact, "
    "a label that is not among them is floored",
    "rc+listwise": "it gives no log-probabilities of a given text: RC comes from its next tokens, and its own order of "
    "the candidates stands for QL",
    "graded+listwise": "it gives no log-probabilities: it grades and orders the candidates in words",
}
_PAID_SAMPLE, _FREE_SAMPLE = 200, 1000  # queries
# Read by the teacher to see how fast it is; nothing is done with what it writes.
_PASSAGES = tuple(
    Passage(f"check-{number}", f"check-{number}", title, text, "", "en")
    for number, (title, text) in enumerate(
        (
            (
                "Loft ladders",
                "A folding ladder needs a hatch of at least 60 by 120 cm; measure the swing before you cut.",
            ),
            (
                "Late invoices",
                "Interest on an unpaid invoice runs from the thirty-first day, whether or not it was claimed.",
            ),
            ("Tide tables", "Spring tides follow the new and the full moon by a day or two, and neaps the half moons."),
        )
    )
)


def check_teacher(
    recipe: Recipe,
    out: Path,
    beir: Path | None,
    *,
    split: str | None = None,
    sample: int | None = None,
    tell: Callable[[str], None],
) -> dict[str, Any]:
    """Probe a teacher, time it, and measure its rankings where there are judgements.

    Args:
        recipe: Its ``teacher``, ``fret`` and ``seed`` count.
        out: Folder of the ledger, so that rankings asked for before cost nothing. What the teacher can do, and how fast
            it is, is found out anew by every check.
        beir: A BEIR folder to rank for, or None.
        split: Split of its judgements; None: train, where there is one, else test.
        sample: Queries to rank for; None: 200 where a query costs calls to a language model, else 1,000.
        tell: Receives progress lines.

    Raises:
        GeckoError: The teacher does not answer, or the judgements cannot be read.
    """
    spec, options = recipe.teacher.of_ranker()
    # A language model's seed counts for what it writes alone, which is timed here: what is replayed takes no time.
    seed = secrets.randbelow(2**31) if spec.partition(":")[0] in ENGINES else recipe.seed
    with Ledger(out / FILE_NAME) as ledger, ExitStack() as opened:
        teacher = open_teacher(spec, ledger, options=options, seed=seed, tell=tell, thrifty=recipe.fret.thrifty)
        value: dict[str, Any] = {"teacher": teacher.name}
        if isinstance(teacher, LLMTeacher):
            opened.callback(teacher.close)
            capabilities = teacher.probe(again=True)
            best = best_rung(capabilities)
            value |= {
                "capabilities": asdict(capabilities),
                "best_rung": best,
                "rung": teacher.rung,
                "why": _WHY[teacher.rung],
                "thoughts": teacher.thoughts() or 0,
                **(_sample(teacher) if options.batch else _speed(teacher)),
                "price_known": teacher.price(1, 1) is not None,
            }
        else:
            value |= {
                "capabilities": asdict(teacher.capabilities),
                "rung": teacher.rung,
                "why": "it is no language model",
            }
        if beir is not None:
            from gecko.embedder.embedder import Embedder
            from gecko.fret.check import check_ranking, passes

            value["ranking"] = check_ranking(
                teacher,
                beir,
                miner=Embedder(recipe.fret.miner),
                sample=sample or (_PAID_SAMPLE if isinstance(teacher, LLMTeacher) else _FREE_SAMPLE),
                neighbours=recipe.fret.neighbours,
                split=split,
                seed=recipe.seed,
                scores_all=options.schedule == "full",
            )
            value["ranking"]["good_enough"] = passes(value["ranking"])
        value["spent"] = ledger.stats()
    return value


def render_check(value: dict[str, Any]) -> str:
    """What was found, for people."""
    lines = [f"teacher  {value['teacher']}", f"rung     {value['rung']}: {value['why']}"]
    able = [name.replace("_", " ") for name, found in value["capabilities"].items() if found]
    lines.append(f"can      {', '.join(able) or 'rank only'}")
    if "seconds_a_call" in value:
        lines.append(
            f"speed    {value['seconds_a_call']:.2f} s a call, {value['tokens_per_second']:,.0f} tokens/s one at a time"
        )
    if "sample" in value:
        if value["thoughts"]:
            lines.append(f"thinks   {value['thoughts']} tokens before a short answer, and cannot be kept from it")
        sample = value["sample"]
        lines.append(f"wrote    {sample['query'] or '(nothing usable: ' + sample['problem'] + ')'}")
        if not value["price_known"]:
            lines.append("price    not known: --set 'teacher.price={input: X, output: Y}', in dollars a million tokens")
    if "ranking" in value:
        ranking = value["ranking"]
        figures = ranking["ndcg_at_10"]
        lines.append(
            f"ranking  nDCG@10 of {ranking['n']} queries of {ranking['dataset']} ({ranking['split']}): "
            + ", ".join(f"{name} {100 * figures[name]:.1f}" for name in ("miner", "ql", "rc", "rrf"))
        )
        if ranking["failed"]:
            lines.append(f"failed   {ranking['failed']} of {ranking['n']} queries were not ranked, or lack a score")
        fused, gain = ranking["fused_to_better"], ranking["delta_to_miner"]["rrf"]
        lines.append(
            f"fused    {_signed(gain)} against the miner, {_signed(fused)} against the better part "
            f"({fused['better'].upper()})"
        )
        lines.append(f"verdict  {_verdict(ranking)}")
    return "\n".join(lines)


def _verdict(ranking: dict[str, Any]) -> str:
    """The paper's test in words: passed, or what stands in its way."""
    if ranking["good_enough"]:
        return "good enough: fused no worse than its better part, and that no worse than the miner (the paper's test)"
    if too_many_failed(ranking):
        return "not known: too many queries failed; gecko ledger show --failed says why"
    fused, gain = ranking["fused_to_better"], ranking["delta_to_miner"]["rrf"]
    verdict = "not clearly good enough by the paper's test (RRF >= max(QL, RC) >= miner)"
    undecided = gain["ci95"][0] > 0 and fused["ci95"][0] <= 0 <= fused["ci95"][1]
    if undecided and ranking["n"] < ranking["available"]:
        verdict += ": it beats the miner, but the sample is too small to set it against its better part; raise --sample"
    return verdict


def _signed(difference: dict[str, Any]) -> str:
    low, high = difference["ci95"]
    return f"{100 * difference['delta']:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"


def _speed(teacher: LLMTeacher) -> dict[str, Any]:
    seconds, tokens, last = [], 0, None
    for passage in _PASSAGES:
        started = time.monotonic()
        last = teacher.write([passage])[0]
        seconds.append(time.monotonic() - started)
        tokens += last.input_tokens + last.output_tokens
    return {
        "seconds_a_call": sum(seconds) / len(seconds),
        "tokens_per_second": tokens / max(sum(seconds), 1e-9),
        "sample": _shown(last),
    }


def _sample(teacher: LLMTeacher) -> dict[str, Any]:
    """What it writes, in one batch, whose time says nothing of a call's."""
    return {"sample": _shown(teacher.write(_PASSAGES)[-1])}


def _shown(written: Generation | None) -> dict[str, str]:
    assert written is not None  # noqa: S101 - there are passages
    return {"task": written.task, "query": written.query, "problem": written.error or written.skip or ""}
