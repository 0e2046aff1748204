"""Texts of three themes in the tiny model's words, and how a verb is called."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gecko.cli import app

GROUPS = {
    "beasts": ["bear", "lion", "wolf", "fox", "zebra", "yak"],
    "birds": ["hen", "ibis", "jay", "owl", "quail", "koala"],
    "places": ["river", "road", "tree", "house", "green", "blue"],
}


@pytest.fixture(scope="session")
def written() -> list[dict]:
    """Ninety texts, thirty of each group: a label, an id and a month each."""
    draw = random.Random(0)
    rows = []
    for number in range(90):
        label = list(GROUPS)[number % 3]
        words = [draw.choice(GROUPS[label]) for _ in range(7)]
        rows.append(
            {"id": f"t{number}", "text": " ".join(words), "label": label, "date": f"2024-{1 + number % 5:02d}-03"}
        )
    return rows


@pytest.fixture
def table(tmp_path: Path, written: list[dict]) -> Path:
    path = tmp_path / "feedback.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in written), encoding="utf-8")
    return path


@pytest.fixture
def gecko():
    """Run the command line; (exit code, the object on stdout or None, what was said)."""
    runner = CliRunner()

    def run(*words: object):
        result = runner.invoke(app, [*map(str, words), "--json"])
        lines = result.stdout.strip().splitlines()
        return result.exit_code, json.loads(lines[-1]) if lines and lines[-1].startswith("{") else None, result.stderr

    return run
