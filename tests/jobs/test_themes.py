import json
from collections import Counter

import numpy as np
import pytest

from gecko.errors import GeckoError
from gecko.jobs import themes as room
from gecko.jobs.naming import naming_ask, read_name
from gecko.jobs.themes import Theme, find_themes, theme_words
from gecko.jobs.times import read_periods


@pytest.fixture(scope="module")
def clouds():
    """Four clouds of forty unit vectors, and a text for each that names its cloud."""
    rng = np.random.default_rng(0)
    centres = np.linalg.qr(rng.normal(size=(16, 16)))[0][:4]
    vectors = np.repeat(centres, 40, axis=0) + 0.12 * rng.normal(size=(160, 16))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    names = ["tax form", "train delay", "garden shed", "printer toner"]
    return vectors.astype(np.float32), [f"the {names[i // 40]} and some other thing {i}" for i in range(160)]


def test_dense_places_are_themes_named_by_their_own_words(clouds):
    vectors, texts = clouds
    found = find_themes(vectors, texts, smallest=20)
    assert [len(theme.members) for theme in found.themes] == sorted(
        (len(theme.members) for theme in found.themes), reverse=True
    )
    for theme in found.themes:
        assert len({place // 40 for place in theme.members}) == 1
        assert texts[theme.members[0]].split()[1] in theme.words[0]
        assert "thing" not in theme.words[0]
    assert len(found.themes) == 4
    assert Counter(found.of.tolist())[0] < 16
    assert found.layout.min() == 0
    assert found.layout.max() == 1
    again = find_themes(vectors, texts, smallest=20)
    assert np.array_equal(again.of, found.of)


def test_the_first_member_is_nearest_to_the_centre(clouds):
    vectors, texts = clouds
    for theme in find_themes(vectors, texts, smallest=20).themes:
        nearness = vectors[list(theme.members)] @ vectors[list(theme.members)].mean(axis=0)
        assert (np.diff(nearness) <= 1e-6).all()


def test_texts_beyond_the_map_join_the_theme_they_are_in_or_none(clouds, monkeypatch):
    vectors, texts = clouds
    monkeypatch.setattr(room, "MOST_LAID_OUT", 120)
    stray = np.eye(1, 16, dtype=np.float32) * -1
    found = find_themes(np.concatenate([vectors, stray]), [*texts, "elsewhere"], smallest=20)
    assert len(found.placed) == 120
    assert len(found.layout) == 120
    off = np.setdiff1d(np.arange(160), found.placed)
    joined = off[found.of[off] > 0]
    assert len(joined) > 0.8 * len(off)
    for place in joined:
        theme = found.themes[found.of[place] - 1]
        assert Counter(member // 40 for member in theme.members).most_common(1)[0][0] == place // 40
    assert found.of[160] == 0 or 160 in found.placed


@pytest.mark.parametrize(
    ("count", "same", "said"), [(12, False, "12 texts are too few"), (60, True, "only 1 of the texts differ")]
)
def test_too_few_texts_are_told(clouds, count, same, said):
    vectors, texts = clouds
    with pytest.raises(GeckoError, match=said):
        find_themes(vectors[:count], texts[:1] * count if same else texts[:count])


def test_words_that_all_themes_share_name_none_of_them():
    texts = ["please refund my ticket"] * 5 + ["please mend my heating"] * 5 + ["please call"] * 5
    words = theme_words(texts, np.repeat([1, 2, 0], 5))
    assert words[0][0] in {"refund", "refund ticket", "ticket"}
    assert "heating" in " ".join(words[1])
    assert not {"please", "my"} & set(" ".join(words[0][:1] + words[1][:1]).split())


def test_texts_without_a_word_have_no_words():
    assert theme_words(["!!", "??"] * 5, np.repeat([1, 2], 5)) == [(), ()]


@pytest.mark.parametrize(
    ("times", "length", "names", "of"),
    [
        (["2024-01-31", "2024-02-02", ""], "day", 3, [0, 2, -1]),
        (["2022-03-01T10:00:00Z", "2023-11-05", "tomorrow"], "month", 21, [0, 20, -1]),
        (["1990", "2020-01-01"], "year", 31, [0, 30]),
        (["1704067200", "1704240000"], "day", 3, [0, 2]),
    ],
)
def test_times_make_the_shortest_periods_that_fit(times, length, names, of):
    found = read_periods(times)
    assert (found.length, len(found.names), found.of.tolist()) == (length, names, of)
    counts = found.counts(range(len(times)))
    assert sum(counts) == sum(place >= 0 for place in of)
    assert counts[0] == 1


def test_no_times_are_no_periods_and_unreadable_ones_are_told():
    assert read_periods(["", ""]) is None
    with pytest.raises(GeckoError, match="no time can be read, such as 'soon'"):
        read_periods(["soon", ""])


@pytest.mark.parametrize(
    ("reply", "name"),
    [
        ('{"name": "Late trains"}', "Late trains"),
        ('<think>{"name": "no"}</think> Sure: {"name": " \\"Late trains.\\" "}', "Late trains"),
        ("Late trains", ""),
        ('{"name": ""}', ""),
        ('{"name": "' + "x" * 90 + '"}', ""),
    ],
)
def test_a_name_is_read_from_any_reply(reply, name):
    assert read_name(reply) == name


def test_a_model_reads_the_words_and_the_nearest_texts():
    ask = naming_ask(Theme(1, "a, b", ("a", "b"), tuple(range(20))), [f"text\n{n}" for n in range(20)])
    assert "Words: a, b" in ask.prompt.own
    assert ask.prompt.own.count("- text") == 8
    assert "- text 7\n" in ask.prompt.own


def test_the_verb_writes_page_record_and_texts(gecko, table, tiny_model, tmp_path):
    out = tmp_path / "out"
    code, value, said = gecko("themes", tiny_model, "--texts", table, "--out", out, "--smallest", 12)
    assert code == 0, said
    assert value["texts"] == 90
    assert value["periods"]["length"] == "week"
    assert sum(theme["count"] for theme in value["themes"]) + value["without"] == 90
    assert all(sum(theme["counts"]) == theme["count"] for theme in value["themes"])
    assert json.loads((out / "themes.json").read_text())["themes"] == value["themes"]
    rows = [json.loads(line) for line in (out / "texts.jsonl").read_text().splitlines()]
    assert len(rows) == 90
    assert Counter(row["theme"] for row in rows)[None] == value["without"]
    page = (out / "themes.html").read_text()
    assert value["themes"][0]["name"] in page
    assert page.count("<circle") == 90


def test_texts_are_shown_and_not_run(gecko, tiny_model, tmp_path, written):
    path = tmp_path / "x.jsonl"
    rows = [{**row, "text": f"<script>alert(1)</script> {row['text']}"} for row in written]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, _, said = gecko("themes", tiny_model, "--texts", path, "--out", tmp_path / "out")
    assert code == 0, said
    assert "<script>alert" not in (tmp_path / "out" / "themes.html").read_text()


def test_a_teacher_that_is_no_language_model_names_nothing(gecko, table, tiny_model, tmp_path):
    code, value, said = gecko("themes", tiny_model, "--texts", table, "--out", tmp_path / "out", "--teacher", "offline")
    assert (code, value) == (2, None)
    assert "offline names no themes" in said
