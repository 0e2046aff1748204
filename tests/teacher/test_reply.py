import json
import random
import re
import time
from pathlib import Path

import pytest
import yaml

from gecko.records import Passage
from gecko.teacher import wording
from gecko.teacher.reply import Skipped, Unreadable, read_generation, read_grades, read_order
from gecko.teacher.wording import fault_of_query, is_refusal, leans_on_passage, one_line

TASK, QUERY = "Given a question, find a passage that answers it.", "how hot does a kiln get"
GOOD = {"skip": "", "task": TASK, "query": QUERY}
PASSAGE = Passage("p", "s", "Kilns and their heat", "A kiln " + " ".join(f"word{i}" for i in range(40)), "t", "en")


def written(query, task=TASK):
    return json.dumps({"skip": "", "task": task, "query": query})


def unreadable(found, *parts):
    assert isinstance(found, Unreadable)
    assert all(part in found.reason for part in parts), found.reason
    return found


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(GOOD),
        f"\ufeff \n{json.dumps(GOOD, indent=2)}\n",
        json.dumps({"task": TASK, "query": QUERY}),
        json.dumps({"task": TASK, "query": QUERY, "skip": None}),
        json.dumps({"Task": TASK, " QUERY ": QUERY, "skip": "none"}),
        f"Sure! Here it is:\n```json\n{json.dumps(GOOD)}\n```\nLet me know.",
        f"```\n{json.dumps(GOOD)}```",
        f'<think>Maybe {{"task": "no", "query": "not this one"}}?</think>\n{json.dumps(GOOD)}',
        f'we think {{"task": "{TASK}", "query": "not this one"}} hm</think>{json.dumps(GOOD)}',
        f"<|channel|>analysis<|message|>Well {{}}<|end|><|channel|>final<|message|>{json.dumps(GOOD)}",
        f'The shape is {{"skip": "", "task": "...", "query": "..."}}, so: {json.dumps(GOOD)}',
        json.dumps([GOOD]),
        json.dumps({"result": GOOD}),
        json.dumps(GOOD)[:-1],
        json.dumps(GOOD)[:-1] + ",}",
        f"{{'task': '{TASK}', 'query': '{QUERY}'}}",
        f'{{"task": "{TASK}",\n "query": “{QUERY}”}}',
        f'{{task: "{TASK}", query: "{QUERY}"}} // done',
        written(f'"{QUERY}"'),
        written("  how \u200fhot\n does\u202e a\t kiln\x00 get\ud800 "),
        json.dumps(GOOD) + json.dumps(GOOD),
    ],
)
def test_a_query_is_read_however_it_is_wrapped(text):
    assert read_generation(text) == (TASK, QUERY)


def test_the_first_of_several_answers_counts():
    assert read_generation(written("who is first here") + "\n" + written("who is second")) == (
        TASK,
        "who is first here",
    )


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ({"skip": "a menu\nonly", "task": "", "query": ""}, "a menu only"),
        ({"skip": "a menu"}, "a menu"),
        ({"skip": True}, "no reason given"),
    ],
)
def test_a_skip_is_no_fault(reply, reason):
    assert read_generation(json.dumps(reply)) == Skipped(reason)
    assert read_generation(f"Sorry. {json.dumps(reply)} bye") == Skipped(reason)


@pytest.mark.parametrize(
    ("text", "reason", "mendable"),
    [
        ("", "empty", False),
        ("  \n", "empty", False),
        ("<think>so much to think", "no answer", False),
        ("A query for this might be: kiln heat", "no JSON object with query or skip", True),
        ("[1, 2]", "no JSON object", True),
        ("{" * 5000, "no JSON object", True),
        ('{"a":' * 3000 + "1" + "}" * 3000, "no JSON object", True),
        ("I'm sorry, but I can't help with that.", "refused", False),
        ("As an AI language model, I do not search.", "refused", False),
        ("Lo siento, pero no puedo ayudar con eso.", "refused", False),
        ("抱歉，我无法完成这个请求。", "refused", False),
        (written("I cannot assist with this request"), "refused", False),
        (json.dumps({"task": TASK}), "no JSON object", True),
        (json.dumps({"task": TASK, "query": None}), "no query", True),
        (json.dumps({"query": QUERY}), "no task", True),
        (json.dumps({"task": TASK, "query": ["a", "b"]}), "query is no text", True),
        (json.dumps({"task": TASK, "query": True}), "query is no text", True),
        (json.dumps({"task": 1e999, "query": QUERY}), "task is no text", True),
        ('{"task": "Given a b", "query": "one way", "query": "another way"}', "two values for one key", True),
        (json.dumps({"task": TASK, "query": "", "skip": "n/a"}), "no query", False),
        (written("..."), "placeholder", False),
        (written("<query>"), "placeholder", False),
        (written("<your query here> please"), "placeholder", False),
        (written("your query here"), "placeholder", False),
        (written("[the search query]"), "placeholder", False),
        (written("{query}"), "placeholder", False),
        (written(QUERY, "Given a ..., find a passage that ..."), "task is a placeholder", False),
        (written(QUERY, "retrieval"), "task is a single word", False),
        (written(QUERY, "Given " + "x" * 400), "the task has 406 characters", False),
        (written("kiln"), "single word", False),
        (written("?? kiln !!"), "single word", False),
        (written("过冷"), "single word", False),
        (written("how " * 61), "61 words", False),
        (written("hot kiln" * 60), "480 characters", False),
        (written("what does the author say about kilns"), "the author", False),
        (written("x" * 200_000), "characters", False),
    ],
)
def test_why_a_reply_is_not_usable(text, reason, mendable):
    assert unreadable(read_generation(text), reason).mendable is mendable


def test_the_end_of_a_reply_is_told():
    cut = json.dumps(GOOD)[:-8]
    assert unreadable(read_generation(cut, "length", tokens=300)).reason == "truncated at 300 tokens"
    assert "truncated" in read_generation("", "length").reason
    assert "truncated" in read_grades('{"grades": [1, 2]', 2, "length").reason
    assert "truncated" in read_order("[1, 2", 2, "length").reason
    assert read_generation(json.dumps(GOOD) + " And as a further", "length") == (TASK, QUERY)
    for found in (read_generation(json.dumps(GOOD), "content_filter"), read_order("[1]", 1, "content_filter")):
        assert "content filter" in unreadable(found).reason
        assert not found.mendable


def test_a_cut_reply_never_passes_for_a_query():
    texts = [
        json.dumps({"skip": "", "task": TASK, "query": f'what does "{q}" mean {{x}} in kilns'}) for q in ("a", "é")
    ]
    whole = {read_generation(text) for text in texts}
    for text in texts:
        for end in range(len(text)):
            for finish in ("stop", "length"):
                found = read_generation(text[:end], finish)
                assert isinstance(found, Unreadable) or found in whole


def test_titles_and_copies_are_no_queries_where_the_passage_is_known():
    words = PASSAGE.text.split()
    assert read_generation(written("Kilns, and their heat?")) == (TASK, "Kilns, and their heat?")
    unreadable(read_generation(written("Kilns, and their heat?"), passage=PASSAGE), "the title")
    unreadable(read_generation(written("does " + " ".join(words[5:17]).upper()), passage=PASSAGE), "copies 12 words")
    eleven = "does " + " ".join(words[5:16])
    assert read_generation(written(eleven), passage=PASSAGE) == (TASK, eleven)
    chinese = "过冷是液体冷却到凝固点以下而仍不结晶的状态轻微的振动就能使它立刻凝固"
    other = Passage("q", "s", "", chinese, "t", "zh")
    assert "copies" in fault_of_query(chinese[2:26], other)
    assert fault_of_query(chinese[2:25], other) == ""
    assert fault_of_query("水低于零度不结冰叫什么", other) == ""


def test_people_who_are_sorry_are_not_refusing():
    for query in (
        "sorry i can't log in to my account",
        "i cannot open the file",
        "i'm sorry song lyrics",
        "as an aid worker",
    ):
        assert not is_refusal(query)
        assert read_generation(written(query)) == (TASK, query)


@pytest.mark.parametrize(
    ("text", "grades", "order"),
    [
        ('{"grades": [1, 3, 0], "order": [2, 1, 3]}', (1, 3, 0), (1, 0, 2)),
        ('{"grades": ["1", 3.0, "0"], "order": ["[2]", "1", "Passage 3"]}', (1, 3, 0), (1, 0, 2)),
        ('Fine:\n```json\n{"grades": [1, 3, 0], "order": "2 > 1 > 3",}\n```', (1, 3, 0), (1, 0, 2)),
        ('{"grades": [1, 3, 0], "order": [1, 0, 2]}', (1, 3, 0), (1, 0, 2)),
        ('{"grades": [1, 3, 0], "order": [2, 2, 1, 3, 2]}', (1, 3, 0), (1, 0, 2)),
        # Left out of the order: put in by grade, then as shown.
        ('{"grades": [1, 3, 0]}', (1, 3, 0), (1, 0, 2)),
        ('{"grades": [3, 3, 0, 3], "order": []}', (3, 3, 0, 3), (0, 1, 3, 2)),
        ('{"grades": [2, 3, 0, 2], "order": [2, 3]}', (2, 3, 0, 2), (1, 0, 3, 2)),
        ('{"grades": [1, 3, 0, 2], "order": [3, 2]}', (1, 3, 0, 2), (2, 1, 3, 0)),
        ('{"grades": [3, 1, 0, 2], "order": [2, 3]}', (3, 1, 0, 2), (0, 3, 1, 2)),
        ('{"grades": [], "order": []}', (), ()),
    ],
)
def test_grades_and_order_are_read(text, grades, order):
    assert read_grades(text, len(grades)) == (grades, order)


@pytest.mark.parametrize(
    ("grades", "reason"),
    [
        ("[1, 2]", "2 grades for 3"), ("[1, 2, 3, 1]", "4 grades for 3"), ("3", "no list"), ('"123"', "no list"),
        ("{}", "no list"), ("null", "no list"), ("[[1], 2, 3]", "not one of"), ("[true, 1, 2]", "not one of"),
        ("[NaN, 1, 2]", "not one of"), ("[Infinity, 1, 2]", "not one of"), ("[-1, 1, 2]", "not one of"),
        ("[1.5, 1, 2]", "not one of"), ("[4, 1, 2]", "not one of"), ('["high", 1, 2]', "not one of"),
        ('["１", 1, 2]', "not one of"), ("[null, 1, 2]", "not one of"), (f"[1, 1, {'9' * 400}]", "not one of"),
        ("[1, 1, 1e999]", "not one of"), ('[1, 1, 2], "grades": [3, 1, 2]', "two values"),
    ],
)  # fmt: skip
def test_grades_of_another_form_are_not_guessed(grades, reason):
    assert unreadable(read_grades(f'{{"grades": {grades}, "order": [1, 2, 3]}}', 3), reason).mendable


@pytest.mark.parametrize(
    "order",
    ["[4, 1, 2]", "[-1, 1, 2]", "[true, 2, 3]", "[[1], 2, 3]", "[NaN]", "{}", "[1.5]", '["best"]', "7", "[0, 1]"],
)
def test_an_order_of_another_form_is_not_guessed(order):
    assert unreadable(read_grades(f'{{"grades": [1, 2, 3], "order": {order}}}', 3), "order").mendable
    assert unreadable(read_order(f'{{"order": {order}}}', 3), "order").mendable


@pytest.mark.parametrize(
    ("text", "order"),
    [
        ('{"order": [3, 1, 2, 4]}', (2, 0, 1, 3)),
        ("[3] > [1] > [2] > [4]", (2, 0, 1, 3)),
        ("[3, 1, 2, 4]\n", (2, 0, 1, 3)),
        ("3, 1, 2, 4", (2, 0, 1, 3)),
        ('<think>[1]</think>{"order": ["3", "1", "2", "4"]}', (2, 0, 1, 3)),
        ('{"order": [3, 1, 2]}', (2, 0, 1, 3)),
        ('{"order": [3, 3, 1, 4, 1]}', (2, 0, 3, 1)),
    ],
)
def test_an_order_is_read_and_little_of_it_may_be_missing(text, order):
    assert read_order(text, 4) == order


def test_an_order_with_half_of_it_missing_is_none():
    unreadable(read_order('{"order": [3, 1]}', 4), "orders 2 of 4")
    unreadable(read_order('{"order": []}', 4), "orders 0 of 4")
    unreadable(read_order("The best is 3.", 4), "no JSON object")
    unreadable(read_order("[" * 50_000, 4), "order")
    unreadable(read_order("9" * 50_000, 4), "order")


# Whatever comes is a value in its form or a reason.


def hostile_value(rng, depth=0):
    simple = [
        None, True, False, 0, 1, 3, -1, 2.5, 10**30, float("nan"), float("inf"), "", "3", "...", "\ud800", "\x00",
        "\u202eabc", "query", QUERY, TASK, "x" * 500, "</think>", "```", "{", "[1]", "ﷺ", "👩‍👩‍👧", "１",
    ]  # fmt: skip
    if depth > 3 or rng.random() < 0.6:
        return rng.choice(simple)
    if rng.random() < 0.5:
        return [hostile_value(rng, depth + 1) for _ in range(rng.randint(0, 5))]
    keys = ["task", "query", "skip", "grades", "order", "Query", "", "\ud800", "0"]
    return {rng.choice(keys): hostile_value(rng, depth + 1) for _ in range(rng.randint(0, 5))}


def hostile_reply(rng, count):
    drawn = rng.sample(range(1, count + 1), rng.choice([count, count, count // 2, 0])) + rng.choice(
        [[], [], [1], [0], [99]]
    )
    base = rng.choice(
        [
            lambda: json.dumps(GOOD),
            lambda: json.dumps({"grades": rng.choices([0, 1, 2, 3, 3.0, "2"], k=count), "order": drawn}),
            lambda: json.dumps({"grades": rng.choices([0, 1, 2.5, True, [1], 9], k=count), "order": drawn}),
            lambda: json.dumps({"order": drawn}),
            lambda: json.dumps(hostile_value(rng), ensure_ascii=rng.random() < 0.5),
            lambda: json.dumps({key: hostile_value(rng) for key in ("skip", "task", "query", "grades", "order")}),
            lambda: rng.choice(["{", "[", '{"query":', '[{"order":']) * rng.choice([1, 50, 3000]),
            lambda: "".join(rng.choice('{}[]":,\\ntru0123\n\'"<>`') for _ in range(rng.randint(0, 200))),
        ]
    )()  # fmt: skip
    wraps = [
        "{}",
        "```json\n{}\n```",
        "<think>{}</think>{}",
        "Sure: {} ok",
        "{}{}",
        "<think>{}",
        "[{}]",
        "\ufeff{}\x00",
        "{},}}",
    ]
    text = rng.choice(wraps).replace("{}", base).replace("}}", "}")
    for _ in range(rng.choice([0, 0, 1, 3])):
        at = rng.randint(0, len(text))
        text = (
            text[:at]
            + rng.choice(["", '"', "}", "\\", "\ud800", "\x00", "\u200f", ",", "NaN", "'"])
            + text[at + rng.randint(0, 3) :]
        )
    return text[: rng.randint(0, len(text))] if rng.random() < 0.3 else text


def check(text, finish, count):
    generation = read_generation(text, finish, passage=PASSAGE, tokens=9)
    if isinstance(generation, tuple):
        assert all(isinstance(part, str) and part == one_line(part) and part for part in generation)
        assert fault_of_query(generation[1], PASSAGE) == ""
        "".join(generation).encode()
    else:
        assert isinstance(generation, Skipped | Unreadable)
        assert generation.reason
    graded = read_grades(text, count, finish)
    if isinstance(graded, tuple):
        assert len(graded[0]) == count
        assert all(type(grade) is int and 0 <= grade <= 3 for grade in graded[0])
        assert sorted(graded[1]) == list(range(count))
    else:
        assert graded.reason
    order = read_order(text, count, finish)
    assert sorted(order) == list(range(count)) if isinstance(order, tuple) else order.reason
    return isinstance(generation, tuple), isinstance(graded, tuple), isinstance(order, tuple)


def test_hostile_replies_end_as_a_value_or_a_reason():
    rng = random.Random(20240327)
    found = []
    for _ in range(2500):
        count, finish = rng.randint(0, 6), rng.choice(["stop", "stop", "eos", "length", "content_filter"])
        found.append(check(hostile_reply(rng, count), finish, count))
    assert all(sum(column) > 50 for column in zip(*found, strict=True))


def test_replies_cut_at_every_place_end_as_a_value_or_a_reason():
    texts = [
        f"<think>hm</think>\n```json\n{json.dumps(GOOD, indent=1)}\n``` done",
        'Grades: {"grades": [1, "2", 3.0], "order": [3, 1, 2], "note": "a \\"quoted\\" \\ud83d {word}"}',
        '{"order": ["[3]", "[1]", "[2]"]}',
    ]
    for text in texts:
        for end in range(len(text) + 1):
            for finish in ("stop", "length"):
                check(text[:end], finish, 3)


@pytest.mark.parametrize(
    "text",
    [
        "{" * 99_000,
        '{"a":' * 19_000,
        '"' * 99_000,
        "{'" * 40_000,
        "<think>" * 14_000,
        "[{" * 9_000 + "]}" * 9_000,
        "[" * 99_000,
    ],
)
def test_a_long_hostile_reply_does_not_take_long(text):
    started = time.process_time()
    check(text, "stop", 3)
    assert time.process_time() - started < 5


def queries(name):
    return Path(__file__).with_name(name).read_text("utf-8").splitlines()


def test_queries_that_lean_on_a_passage_are_found_and_no_others():
    leaning, alone = queries("queries_leaning.txt"), queries("queries_alone.txt")
    assert len(leaning) > 190
    assert len(alone) > 100
    assert [query for query in leaning if not leans_on_passage(query)] == []
    assert [(query, leans_on_passage(query)) for query in alone if leans_on_passage(query)] == []
    assert leans_on_passage("Was, LAUT DEM\nArtikel, geschah?") == "laut dem artikel"
    assert leans_on_passage("SEGU\u0301N el texto") == leans_on_passage("según el texto") == "segun el texto"


def test_phrases_compile_and_stand_for_text_in_lower_case():
    sections = yaml.safe_load(Path(wording.__file__).with_name("phrases.yaml").read_text("utf-8"))
    for section in sections.values():
        for language, words in section.items():
            names = set(re.findall(r"\{([a-z]+)\}", " ".join(words.values())))
            assert names <= set(words), language
            assert words["patterns"] == words["patterns"].lower(), language
