"""A ledger for people: totals, calls, and an export that other tools read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gecko.errors import GeckoError
from gecko.shards import write_json_lines
from gecko.teacher.ledger import FILE_NAME, Ledger

_SHOWN = 200


def open_ledger(place: Path) -> Ledger:
    """Open the ledger of a run, of a distilled folder, or a ledger file.

    Raises:
        GeckoError: There is none.
    """
    for path in (place, place / FILE_NAME, place / ".work" / FILE_NAME):
        if path.is_file():
            return Ledger(path)
    raise GeckoError(f"{place} holds no ledger", "name a run directory; gecko run and gecko distill make one")


def render_totals(value: dict[str, Any]) -> str:
    """Totals as a table, one line a kind and model."""
    lines = [
        f"{'kind':<11}{'calls':>9}{'failed':>8}{'input tok':>13}{'output tok':>12}{'usd':>10}{'s a call':>10}  model"
    ]
    for row in [*value["kinds"], {**value["total"], "kind": "total", "model": ""}]:
        tries = max(row["calls"] + row["failed"], 1)
        lines.append(
            f"{row['kind']:<11}{row['calls']:>9,}{row['failed']:>8,}{row['input_tokens']:>13,}"
            f"{row['output_tokens']:>12,}{_usd(row):>10}{row['seconds'] / tries:>10.2f}  {row['model']}"
        )
    return "\n".join(lines)


def render_calls(calls: Sequence[dict[str, Any]]) -> str:
    """Calls as blocks of text, long passages cut."""
    return "\n\n".join(_block(call) for call in calls) if calls else "no such calls"


def export_calls(ledger: Ledger, out: Path, *, kind: str = "") -> int:
    """Write calls as JSON Lines, the shared part of every prompt put back.

    Returns:
        How many.

    Raises:
        GeckoError: The file cannot be written.
    """

    def whole(call: dict[str, Any]) -> dict[str, Any]:
        prompt = call["request"].get("prompt")
        if isinstance(prompt, dict):
            prompt["shared"] = ledger.text(prompt["shared"])
        return call

    return write_json_lines(out, map(whole, ledger.calls(kind=kind)))


def _usd(row: dict[str, Any]) -> str:
    """Dollars; of an endpoint that used tokens and cost nothing, the price was not known."""
    unknown = not row["usd"] and row["input_tokens"] and row["model"].startswith("openai:")
    return "unknown" if unknown else f"{row['usd']:.4f}"


def _block(call: dict[str, Any]) -> str:
    head = (
        f"#{call['id']} {call['kind']} {call['at']}  {call['input_tokens']} + {call['output_tokens']} tokens, "
        f"${call['usd']:.6f}, {call['seconds']:.2f} s"
    )
    request = call["request"]
    asked = request["prompt"]["own"] if isinstance(request.get("prompt"), dict) else json.dumps(request)
    asked += request.get("continuation", "")
    answer = call["error"] or json.dumps({name: value for name, value in call["reply"].items() if value})
    return "\n".join(
        [head, f"  asked     {_cut(asked)}", f"  {'failed' if call['error'] else 'answered':<9} {_cut(answer)}"]
    )


def _cut(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else f"{line[: _SHOWN // 2]} … {line[-_SHOWN // 2 :]}"
