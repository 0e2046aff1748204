import json
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

from gecko.cli import app

VERBS = ["demo", "run", "corpus", "evaluate", "index", "search", "report"]
runner = CliRunner()


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example_and_json(verb):
    result = runner.invoke(app, [verb, "--help"])
    assert result.exit_code == 0
    assert f"gecko {verb}" in result.output
    assert "--json" in result.output


def test_help_is_quick():
    subprocess.run([sys.executable, "-m", "gecko.cli", "--help"], check=True, capture_output=True)
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "gecko.cli", "--help"], check=True, capture_output=True)
    assert time.perf_counter() - started < 1.5  # 0.2 s on an idle machine; the tests may share it
    loaded = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys, gecko.cli; print(sorted(set(sys.modules) & {'torch', 'transformers', 'lancedb'}))",
        ],
        check=True,
        capture_output=True,
        text=True,
    )
    assert loaded.stdout.strip() == "[]"


def test_corpus_verb_writes_passages(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.txt").write_text("The first text speaks of apples.")
    (tmp_path / "docs" / "b.txt").write_text("The second text speaks of pears.")
    result = runner.invoke(app, ["corpus", str(tmp_path / "docs"), "--out", str(tmp_path / "out"), "--json"])
    assert result.exit_code == 0
    assert json.loads(result.stdout)["passages"] == 2
    assert (tmp_path / "out" / "_stage.json").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["corpus", "/no/such/place", "--out", "{tmp}/o"], 1, "no file at"),
        (["run", "/no/recipe.yaml"], 2, "cannot read the recipe"),
        (["run", "{recipe}", "--set", "train.epoch=1", "--out", "{tmp}/r"], 2, "did you mean train.epochs"),
        (["run", "{recipe}", "--set", "nonsense", "--out", "{tmp}/r"], 2, "expected a.b=value"),
        (
            ["run", "{recipe}", "--set", "teacher.spec=gpt", "--corpus", "{recipe}", "--out", "{tmp}/r"],
            2,
            "unknown teacher",
        ),
        (["evaluate", "{tmp}", "--beir", "{tmp}"], 1, "not a model"),
        (["search", "{tmp}", "words"], 1, "no index"),
        (["evaluate", "m", "--beir", "{tmp}", "--dims", "a,b"], 1, ""),
    ],
)
def test_mistakes_give_one_line_a_hint_and_a_code(tmp_path, arguments, code, words):
    (tmp_path / "recipe.yaml").write_text("seed: 1\n")
    filled = [a.replace("{tmp}", str(tmp_path)).replace("{recipe}", str(tmp_path / "recipe.yaml")) for a in arguments]
    result = runner.invoke(app, filled)
    assert result.exit_code in {code, 2} if not words else result.exit_code == code
    assert words in result.stderr
    assert "Traceback" not in result.output + result.stderr


def test_two_runs_on_one_folder(tmp_path):
    from gecko.shards import locked

    (tmp_path / "recipe.yaml").write_text("seed: 1\n")
    with locked(tmp_path / "run"):
        result = runner.invoke(
            app, ["run", str(tmp_path / "recipe.yaml"), "--corpus", str(tmp_path), "--out", str(tmp_path / "run")]
        )
    # flock is per open file, so the same process is refused as another would be
    assert result.exit_code == 1
    assert "another process" in result.stderr
