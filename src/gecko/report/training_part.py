"""The parts of a card that say what a model was made from: texts, rows, licences and the teacher."""

from __future__ import annotations

from collections import Counter
from typing import Any

from gecko.corpus.files import HUB
from gecko.corpus.language import NO_LANGUAGE
from gecko.mixture.options import FRET, QUERIES, TITLES
from gecko.report.columns import RUNGS
from gecko.report.gather import FretFacts, PassageFacts
from gecko.report.licences import stated_licence
from gecko.report.markdown import counted, safe, set_aside, short, table
from gecko.report.run_facts import RunFacts

_MOST_SHOWN = 5
STAGES = ("corpus", "generate", "fret", "pairs", "mixture")  # as rows of the quarantine name them
_OBJECTIVES = {
    "listwise": "the ranker's scores as a distribution",
    "margin_mse": "the ranker's margins",
    "spread": "spread-out of queries and positives",
}
_OWN_PAIRS = {TITLES: "titles with their texts, of the corpus", QUERIES: "the teacher's queries with their seeds"}


def training_data(facts: RunFacts) -> str:
    """Say what the model was trained on, and what was read and not trained on."""
    shipped = (
        "" if facts.alpha else "The gate shipped the base unchanged: none of this has gone into these weights.\n\n"
    )
    return "\n\n".join(
        [
            f"## Training data\n\n{shipped}{corpus_line(facts.corpora, facts.passages)}",
            f"{fret_line(facts.fret, facts.recipe['fret'])} {_used(facts)}",
            _sources(facts),
            *filter(None, (_objective(facts), _rehearsed(facts.recipe["train"]), _prefinetuned(facts))),
            f"Most frequent tasks of the FRet rows:\n\n{task_lines(facts.fret.tasks)}",
            set_aside(facts.quarantine, STAGES),
            "The FRet rows inherit the licence of the corpus and the terms of the teacher, which are not known to this "
            "card.",
        ]
    )


def corpus_line(sources: list[str], passages: PassageFacts) -> str:
    """Name the corpus with the number and languages of its passages, and its licence."""
    said = "; ".join(f"{safe(short(source))} (licence: {safe(stated_licence(source))})" for source in sources)
    return f"{passages.rows:,} passages ({_languages(passages.languages)}) of {said}."


def fret_line(fret: FretFacts, options: dict[str, Any]) -> str:
    """Say how many FRet rows there are, how they were chosen, and what their queries look like."""
    share = fret.relabelled / fret.rows if fret.rows else 0.0
    crossing = f" {fret.cross_lingual:,} find a passage in another language." if fret.cross_lingual else ""
    return (
        f"{fret.rows:,} FRet rows, whose queries were written by a teacher for passages of the corpus: the miner "
        f"{safe(short(options['miner']))} found {options['neighbours']} neighbours of each query, the teacher ranked "
        f"them, and {share:.0%} of the rows ({fret.relabelled:,}) have another positive than the passage the query was "
        f"written from; {fret.without_negative:,} have no hard negative. Query languages: "
        f"{_languages(fret.languages)}.{crossing}"
    )


def task_lines(tasks: Counter[str]) -> str:
    """The most frequent task strings, as a list."""
    return "\n".join(f"- {safe(task)} ({count:,})" for task, count in tasks.most_common(_MOST_SHOWN))


def teacher_part(fret: FretFacts, calls: list[dict[str, Any]], level: int = 2) -> str:
    """Say which teacher wrote and ranked which rows on which rung, and what its calls cost."""
    made = [
        (safe(short(teacher)), safe(short(ranker)) or "-", safe(rung), safe(version), rows)
        for (teacher, ranker, rung, version), rows in fret.made.most_common(_MOST_SHOWN)
    ]
    lines = [
        f"{'#' * level} Teacher",
        table(("queries by", "ranked by", "rung", "prompts", "rows"), made, 4),
        _told(fret),
    ]
    if fret.notes:
        notes = counted(fret.notes, _MOST_SHOWN)
        lines.append(f"{fret.notes.total():,} rows carry a note of what is wrong with their ranking: {notes}.")
    if not calls:
        return "\n\n".join([*lines, "There is no ledger of its calls."])
    names = ("calls", "failed", "input_tokens", "output_tokens")
    rows = [
        (call["kind"], safe(short(call["model"])), *(int(call[name]) for name in names), f"{call['usd']:.2f}")
        for call in calls
    ]
    totals = [sum(int(call[name]) for call in calls) for name in names]
    rows.append(("total", "", *totals, f"{sum(call['usd'] for call in calls):.2f}"))
    headings = ("call", "model", "finished", "failed", "input tokens", "output tokens", "USD")
    lines.append(table(headings, rows, 2))
    lines.append(
        "All calls of the ledger, also those of earlier recipes in the same folder."
        + ("" if sum(totals[2:]) else " No tokens were counted: the replies were recorded before, or need none.")
    )
    return "\n\n".join(lines)


def hub_sets(facts: RunFacts) -> list[str]:
    """The Hub's names of the data sets that were read."""
    paths = [*facts.corpora, *(source["path"] for source in facts.sources.values())]
    names = (
        "/".join(path.removeprefix(HUB).partition(":")[0].split("/")[:2]) for path in paths if path.startswith(HUB)
    )
    return list(dict.fromkeys(names))


def languages_of(passages: PassageFacts) -> list[str]:
    """Codes of the languages that make up a twentieth of the passages or more."""
    least = passages.rows / 20
    return [name for name, count in passages.languages.most_common() if count >= least and name not in NO_LANGUAGE]


def _used(facts: RunFacts) -> str:
    trained = facts.mixture[FRET].rows if FRET in facts.mixture else 0
    return f"{trained:,} of them were trained on, {facts.held_out:,} were held out for the gate."


def _sources(facts: RunFacts) -> str:
    """What of each source was drawn in fine-tuning, and its licence."""
    mixture = facts.history.get("mixture", {})
    rows = []
    for drawn in mixture.get("sources", ()):
        own = facts.sources.get(drawn["source"])
        name = safe(short(drawn["source"]))
        licence = safe(stated_licence(own["path"])) if own else "see above"
        rows.append((name, drawn["kind"], licence, drawn["rows"], f"{drawn['share']:.1%}", f"{drawn['epochs']:.2f}"))
    people = "" if facts.recipe["mixture"]["sources"] else " None of them is human-labelled."
    return (
        f"Fine-tuned on {facts.history.get('rows', 0):,} rows in {facts.history.get('steps', 0):,} steps.{people}\n\n"
        + table(("source", "kind", "licence", "rows", "share of draws", "epochs"), rows, 3)
    )


def _prefinetuned(facts: RunFacts) -> str:
    """Say what the student was pre-finetuned on, where it was."""
    history = facts.prefinetune
    if not history:
        return ""
    said = []
    for source in history["mixture"]["sources"]:
        name, own = source["source"], facts.sources.get(source["source"])
        about = _OWN_PAIRS.get(name, "") if own is None else stated_licence(own["path"])
        said.append(f"- {safe(short(name))} ({source['rows']:,}): {safe(about)}")
    pairs = "\n".join(said)
    return (
        f"The student was first pre-finetuned on {history['rows']:,} pairs of texts, with negatives from the batch "
        f"alone:\n\n{pairs}"
    )


def _objective(facts: RunFacts) -> str:
    """Say by which loss and settings the rows were trained on."""
    train = facts.recipe["train"]
    negatives = ["hard negatives of the row's own"] if train["negatives"] else []
    negatives += ["other rows' positives"] if train["in_batch"] else []
    negatives += ["other rows' queries"] if train["same_tower"] else []
    sizes = ", ".join(map(str, facts.sizes))
    if train["contrast"]:
        loss = f"equation 3 of the paper (temperature {train['temperature']:g}; negatives: {', '.join(negatives)})"
    else:
        loss = "without equation 3 of the paper"
    said = [
        f"Loss: {loss}, at {sizes} dimensions with equal weight; batches of {train['batch_size']:,}, learning rate "
        f"{train['learning_rate']:g}, texts cut at {train['max_length']:,} tokens."
    ]
    weights = {name: train.get(name, {}).get("weight", 0) for name in _OBJECTIVES}
    added = [f"{_OBJECTIVES[name]} (weight {weight:g})" for name, weight in weights.items() if weight]
    if added:
        said.append(f"Added to it: {', '.join(added)}.")
    if alpha := (train.get("hardness") or {}).get("alpha"):
        said.append(f"Rows weigh more the nearer their hard negative is (alpha {alpha:g}).")
    if extra := (train.get("positives") or {}).get("extra"):
        said.append(f"Up to {extra} more positives a row, by the ranker's grades.")
    if guard := (train.get("guard") or {}).get("embedder"):
        said.append(f"{safe(short(guard))} guarded against false negatives.")
    if teacher := (train.get("distill") or {}).get("embedder"):
        weight = train["distill"]["weight"]
        said.append(f"The vectors of {safe(short(teacher))} were distilled (weight {weight:g}).")
    return " ".join(said)


def _rehearsed(train: dict[str, Any]) -> str:
    """Say which texts were held near the vectors they had, against forgetting, and with what weight."""
    options = train.get("rehearse") or {}
    if not options.get("weight"):
        return "No general texts were rehearsed against forgetting."
    kind, _, language = options["texts"].partition(":")
    texts = f"texts of the file {safe(short(options['texts']))}"
    if options["texts"] == "general":
        texts = "general English texts, which a language model wrote and gecko ships,"
    elif kind == "words" and language:
        texts = f"texts made of frequent words ({safe(language)})"
    return (
        f"Rehearsal, against forgetting: in every step {options['count']:,} {texts} were held near the vectors that "
        f"the student gave them before fine-tuning, by mean cosine distance with weight {options['weight']:g}."
    )


def _told(fret: FretFacts) -> str:
    """Say what the rungs mean, and what a recording is."""
    rungs = sorted({key[2] for key in fret.made} & RUNGS.keys())
    said = [f"- rung `{rung}`: {RUNGS[rung]}" for rung in rungs]
    if any(name.startswith("recorded:") for key in fret.made for name in key[:2]):
        said.append("- `recorded`: replies of a language model, kept in files and replayed")
    return "\n".join(said) or "A rung says what the scores of a ranking are made of."


def _languages(counter: Counter[str]) -> str:
    """Languages with their counts, in words where a text has none that can be told."""
    named: Counter[str] = Counter()
    for code, count in counter.items():
        named["not told" if code in NO_LANGUAGE else code] += count
    return counted(named, _MOST_SHOWN)
