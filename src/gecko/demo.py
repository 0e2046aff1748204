"""The demo: the whole pipeline on the Python documentation of the running interpreter, with nothing to download.

The test questions and the recorded replies of a language model ship in ``examples/stdlib``; the passages are read from
the interpreter. Judged answers are qualified names, so the test set is written out in BEIR layout for this interpreter.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gecko.errors import GeckoError
from gecko.recipe import load_recipe
from gecko.records import Passage
from gecko.shards import atomic, write_json

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "stdlib"
RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "demo.yaml"

SEARCHES = (
    "read a big file line by line without loading it all",
    "stop a function that takes too long",
    "why is my list changed after I copied it",
)


def run_demo(out: Path, teacher: str, tell: Callable[[str], None], *, seed: int = 0) -> tuple[dict[str, Any], str]:
    """Run the demo recipe, evaluate on the shipped questions, and search three times.

    Args:
        out: Run directory.
        teacher: A teacher's SPEC; empty replays the recorded replies.
        seed: Of the draws and the training.
        tell: Receives progress lines.

    Returns:
        The run's JSON summary, and the text to show: table, example searches, paths.

    Raises:
        GeckoError: The example files are not there (the package was installed without its repository).
    """
    from gecko.checks import check_run_folder
    from gecko.corpus.build import build_passages
    from gecko.embedder.embedder import Embedder
    from gecko.evaluate.table import render_table
    from gecko.run import run_recipe
    from gecko.serve.hits import show_hits
    from gecko.serve.index import build_index
    from gecko.serve.search import search_index
    from gecko.shards import read_rows, to_passage

    if not RECIPE.exists() or not (EXAMPLES / "questions.jsonl").exists():
        raise GeckoError("the demo's files are not here", "run it from a clone of the repository: make demo")
    spec = teacher or f"recorded:{EXAMPLES / 'recorded'}"
    check_run_folder(out)
    settings = [f"teacher.spec={json.dumps(spec)}", f"seed={seed}"]
    recipe = load_recipe(RECIPE, settings)
    test = out / "test-set"
    passages = [row for row in build_passages(recipe.corpus) if isinstance(row, Passage)]
    judged = write_test_set(passages, EXAMPLES / "questions.jsonl", test)
    tell(f"questions  {judged:>8,} judged      written without sight of the teacher's replies")
    # A row that asks what a judged question asks must not be trained on.
    judged_apart = [f"evaluation.beir=[{json.dumps(str(test))}]", "audit.action=drop"]
    recipe = load_recipe(RECIPE, [*settings, *judged_apart])
    summary = run_recipe(recipe, out, tell=tell)
    embedder = Embedder(summary.model)
    build_index(embedder, read_rows(out / "passages", to_passage), out / "index")
    shown = [render_table(summary.evaluation), ""]
    for query in SEARCHES:
        shown += [
            f"search: {query}",
            show_hits(search_index(out / "index", query, k=3, mode="dense", embedder=embedder)),
            "",
        ]
    shown += [f"model   {summary.model}", f"report  {summary.report}"]
    return summary.to_json(), "\n".join(shown)


def write_test_set(passages: Sequence[Passage], questions: Path, out: Path) -> int:
    """Write the shipped questions as a BEIR folder over this interpreter's passages.

    An answer names a documented object. Of one cut into several pieces, those count that hold the phrase given under
    ``pieces``, all of them where no phrase is given. A question none of whose answers this interpreter documents is
    left out.

    Args:
        passages: The demo's corpus.
        questions: JSON Lines of ``{"id", "style", "text", "answers": {qualified name: grade}}`` and, for long
            objects, ``"pieces": {qualified name: phrase}``.
        out: The BEIR folder to write.

    Returns:
        The number of judged questions.
    """
    by_name: dict[str, list[Passage]] = {}
    for passage in passages:
        by_name.setdefault(passage.source_id.partition("#")[0], []).append(passage)
    queries, judgements = [], ["query-id\tcorpus-id\tscore"]
    for line in questions.read_text(encoding="utf-8").splitlines():
        question = json.loads(line)
        phrases = question.get("pieces", {})
        answers = [
            (piece.source_id, grade)
            for name, grade in question["answers"].items()
            for piece in by_name.get(name, ())
            if phrases.get(name, "").casefold() in _flat(piece.text)
        ]
        if answers:
            queries.append(json.dumps({"_id": question["id"], "text": question["text"]}, ensure_ascii=False))
            judgements += [f"{question['id']}\t{piece}\t{grade}" for piece, grade in answers]
    documents = [
        json.dumps({"_id": p.source_id, "title": p.title, "text": p.text}, ensure_ascii=False) for p in passages
    ]
    for name, lines in (("corpus.jsonl", documents), ("queries.jsonl", queries), ("qrels/test.tsv", judgements)):
        _write(out / name, "\n".join(lines) + "\n")
    write_json(out / "source.json", {"questions": len(queries), "documents": len(documents)})
    return len(queries)


def _write(path: Path, text: str) -> None:
    """Write a file whose text changed; an equal one keeps its time, so that the evaluation is not made again."""
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _flat(text: str) -> str:
    return " ".join(text.split()).casefold()
