"""What an audit of training rows against evaluation sets found, told: on the page, in the card, in a terminal."""

from __future__ import annotations

from typing import Any

from gecko.auditing import summary_line
from gecko.report.markdown import safe

_EXAMPLES = 3
_SHOWN = 200  # characters of a text
_SHOWN_IN_CARD = 80  # cards are published: no text of an evaluation set is to be read whole there
_NOTE = (
    "A row that shares a text with a document, and asks no question of the set, is no leak: one tunes on what one "
    "searches."
)
_KINDS = {
    "exact": "word for word",
    "order": "in another order",
    "near": "nearly the same words",
    "ngram": "a run of words",
    "embedding": "nearly the same vector",
}


def leakage_part(value: dict[str, Any]) -> dict[str, Any]:
    """Lay out the table of sets and the examples; those of leaks, where there are any."""
    return {
        "summary": _done(value),
        "sets": [{**one, "alike": _alike(one["leaks"]["kinds"])} for one in value["sets"]],
        "examples": [_cut(one) for one in _shown(value)],
        "note": " ".join([_NOTE, *_notes(value)]),
    }


def leakage_lines(value: dict[str, Any]) -> list[str]:
    """Write the card's lines, in Markdown."""
    lines = [_done(value), ""]
    met = [one for one in value["sets"] if one["leaks"]["rows"] or one["overlaps"]["rows"]]
    lines += [f"- {safe(one['set'])}: {_of_set(one)}" for one in met]
    if clean := [safe(one["set"]) for one in value["sets"] if one not in met]:
        lines.append(f"- no row shares a text with {', '.join(clean)}")
    if examples := [one for one in _shown(value) if one["leak"]]:
        lines += ["", "Examples, training text first:", ""]
        for one in (_cut(example, _SHOWN_IN_CARD) for example in examples):
            said = f"“{safe(one['row_text'])}” – “{safe(one['evaluation_text'])}”"
            lines.append(f"- {safe(one['set'])} {safe(one['evaluation_id'])}, {_KINDS[one['match']]}: {said}")
    return [*lines, "", " ".join([_NOTE, *_notes(value)])]


def render_audit(value: dict[str, Any]) -> str:
    """Write what a terminal shows."""
    lines = [_done(value), *(f"  {one['set']}: {_of_set(one)}" for one in value["sets"])]
    for one in map(_cut, _shown(value)):
        what = "asks" if one["leak"] else "shares"
        lines += [
            f"{one['set']} {one['evaluation_side']} {one['evaluation_id']}, {_KINDS[one['match']]}",
            f"  {what:<6} {one['row_text']}  ({one['source']}, {one['side']} of {one['row_id']})",
            f"  set    {one['evaluation_text']}",
        ]
    return "\n".join([*lines, *_notes(value)])


def _done(value: dict[str, Any]) -> str:
    """The summary as a sentence, and what was done about it."""
    line = summary_line(value)
    dropped, action = value.get("dropped", 0), value.get("action")
    done = ""
    if value["leaked"] and action == "drop":
        left = value["leaked"] - dropped
        done = f" {dropped:,} were dropped before training" + (f", {left:,} were trained on." if left else ".")
    elif value["leaked"] and action:
        done = " They were trained on."
    return f"{line[0].upper()}{line[1:]}.{done}"


def _of_set(one: dict[str, Any]) -> str:
    leaks, overlaps = one["leaks"], one["overlaps"]
    alike = f" ({_alike(leaks['kinds'])})" if leaks["rows"] else ""
    said = f"{leaks['rows']:,} rows ask {leaks['texts']:,} of {one['questions']:,} questions{alike}"
    return f"{said}; {overlaps['rows']:,} rows share a text with it otherwise, of {one['documents']:,} documents"


def _alike(kinds: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {_KINDS[kind]}" for kind, count in kinds.items())


def _shown(value: dict[str, Any]) -> list[dict[str, Any]]:
    leaks = [one for one in value["examples"] if one["leak"]]
    return (leaks or value["examples"])[:_EXAMPLES]


def _cut(one: dict[str, Any], most: int = _SHOWN) -> dict[str, Any]:
    """An example with its texts on one line, cut."""
    texts = {name: " ".join(one[name].split()) for name in ("row_text", "evaluation_text")}
    return one | {name: text if len(text) <= most else f"{text[:most]}…" for name, text in texts.items()}


def _notes(value: dict[str, Any]) -> list[str]:
    notes = [f"Not audited against {item['place']}: {item['reason']}." for item in value["skipped"]]
    if value["common_ngrams"]:
        notes.append(f"{value['common_ngrams']:,} runs of words that many texts of a set share were not counted.")
    return notes
