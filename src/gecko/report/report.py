"""Write a run's report: one HTML file with nothing outside it, missing parts named instead of failing."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa

from gecko.errors import GeckoError, UsageError
from gecko.report import gather
from gecko.report.embedding_map import FILE as MAP
from gecko.report.embedding_map import map_part, read_map
from gecko.report.glance import glance
from gecko.report.leakage import leakage_part
from gecko.report.pictures import (
    evaluation_part,
    fret_part,
    gate_part,
    passages_part,
    prefinetuning_part,
    quarantine_part,
    summary_part,
    tasks_part,
    training_part,
)
from gecko.report.queries import queries_part, read_queries
from gecko.report.templates import beside, templates
from gecko.report.verdict import verdict
from gecko.shards import atomic
from gecko.teacher.ledger import FILE_NAME as LEDGER

logger = logging.getLogger(__name__)

Part = TypeVar("Part")

_TITLE = "· gecko report</title>"
_PARTS = ("recipe.yaml", "summary.json", "evaluation.json", "passages", "fret", "train", "gate")


def write_report(run: Path, out: Path) -> Path:
    """Tell one run as a self-contained HTML page.

    Args:
        run: A run directory; whatever it lacks is said in a line.
        out: The file to write (or a folder, for report.html in it).

    Returns:
        The file written.

    Raises:
        GeckoError: The run directory does not exist or is empty of all a run writes, or the page cannot be written.
        UsageError: The file exists and is not a report.
    """
    run, out = Path(run), Path(out)
    if not run.is_dir():
        raise GeckoError(f"{run}: no such run directory", "Give the folder that `gecko run --out` wrote.")
    if out.is_dir():
        out = out / "report.html"
    if not any((run / name).exists() for name in _PARTS):
        raise GeckoError(f"{run}: nothing of a run is in it", "Give the folder that `gecko run --out` wrote.")
    if out.exists() and not _is_report(out):
        raise UsageError(f"{out} exists and is not a report", "Choose another --out, or move it away.")
    page = render(run)
    with atomic(out) as temporary:
        temporary.write_text(page, encoding="utf-8")
    logger.info("report: %s (%.1f KB)", out, out.stat().st_size / 1000)
    return out


def _is_report(path: Path) -> bool:
    with path.open("rb") as handle:
        return _TITLE.encode() in handle.read(4096)


def render(run: Path) -> str:
    """Read the run and fill the page's template."""
    missing: list[str] = []

    def part(name: str, make: Callable[[], Part], stage: str = "") -> Part | None:
        """Make one part, or note in one line why it cannot be made."""
        try:
            if stage:
                gather.check_made(run, stage)
            return make()
        except gather.StaleError:
            missing.append(f"{name}: not made yet under this recipe")
        except FileNotFoundError:
            missing.append(f"{name}: not in this run")
        except (
            OSError,
            ValueError,
            LookupError,
            TypeError,
            AttributeError,
            ArithmeticError,
            pa.ArrowException,
            GeckoError,
        ) as error:
            logger.warning("report: %s cannot be read: %s", name, error)
            missing.append(f"{name}: cannot be read ({type(error).__name__})")
        return None

    summary = part("summary.json", lambda: gather.read_json(run / "summary.json"))
    evaluation = part("evaluation.json", lambda: gather.read_json(run / "evaluation.json"), "evaluation")
    gate = part("gate/gate.json", lambda: gather.read_json(run / "gate" / "gate.json"), "gate")
    history = part("train/history.json", lambda: gather.read_json(run / "train" / "history.json"), "train")
    before = None
    if gather.takes_part(run, "prefinetune"):
        place = run / "prefinetune" / "history.json"
        before = part("prefinetune/history.json", lambda: gather.read_json(place), "prefinetune")
    leakage = None
    if gather.takes_part(run, "audit"):
        leakage = part("audit/audit.json", lambda: gather.read_json(run / "audit" / "audit.json"), "audit")
    fret = part("FRet rows", lambda: gather.read_fret(run / "fret"), "fret")
    examples = gather.pick_examples(fret.sample) if fret else []
    passages = part(
        "passages",
        lambda: gather.read_passages(run / "passages", examples, fret.sample if fret else []),
        "passages",
    )
    quarantined = part("quarantine", lambda: gather.read_quarantine(run))
    aside = part("what was set aside", lambda: gather.read_aside(run)) or {}
    calls = part("ledger", lambda: gather.read_calls(run / LEDGER)) or []
    places = part(MAP, lambda: read_map(run), "gate")
    queries = part("queries", lambda: queries_part(*read_queries(run, evaluation))) if evaluation else None
    recipe = part("recipe.yaml", lambda: (run / "recipe.yaml").read_text(encoding="utf-8")[:20_000])
    model = (evaluation or {}).get("model") or (summary or {}).get("model") or "model"

    content: dict[str, Any] = {
        "run": run.resolve().name,
        "verdict": part("verdict", lambda: verdict(evaluation, gate))
        or {"word": "Unknown", "line": "", "kind": "same"},
        "glance": part("at a glance", lambda: glance(evaluation, summary, calls, leakage)) or [],
        "evaluation": evaluation
        and evaluation.get("results")
        and part("evaluation", lambda: evaluation_part(evaluation)),
        "tasks": evaluation
        and evaluation.get("tasks")
        and part("general tasks", lambda: tasks_part(evaluation["tasks"])),
        "queries": queries,
        "map": places and part("map", lambda: map_part(places)),
        "leakage": leakage and part("leakage", lambda: leakage_part(leakage)),
        "gate": gate and part("gate", lambda: gate_part(gate)),
        "prefinetuning": before and part("pre-finetuning", lambda: prefinetuning_part(before)),
        "training": history and part("training", lambda: training_part(history)),
        "passages": passages and part("passages", lambda: passages_part(passages)),
        "fret": fret and part("FRet", lambda: fret_part(fret, passages, examples)),
        "quarantine": part("quarantine", lambda: quarantine_part(quarantined)) if quarantined else None,
        "summary": summary and part("summary", lambda: summary_part(summary, aside, calls)),
        "recipe": recipe,
        "model": str(model),
        "missing": missing,
        "style": beside("style.css"),
        "script": beside("page.js"),
    }
    page: str = templates(Path(__file__).parent).get_template("template.html").render(**content)
    return page
