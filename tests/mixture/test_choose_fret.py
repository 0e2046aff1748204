"""Which of a run's FRet rows a mixture trains on."""

from gecko.mixture.options import MixtureOptions
from gecko.mixture.rows import choose_fret
from gecko.records import FretRow, Quarantined

TASKS = (
    "Given a question, find a passage that answers it.",
    "Given a claim, find a passage that refutes it.",
    "Given a few keywords, find a passage that would be a good search result.",
    "Given a sentence, find a passage that says the same thing in other words.",
)


def fret(number: int) -> FretRow:
    return FretRow(f"r{number}", TASKS[number % 4], "q", "en", "seed", "p", "n", (), True, "t", "x", "1", 0, 0)


ROWS = [fret(number) for number in range(40)]


def chosen(seed: int = 0, **options: object) -> list[str]:
    made = choose_fret(ROWS, MixtureOptions.model_validate(options), seed)
    return [row.row_id for row in made if isinstance(row, FretRow)]


def test_all_rows_by_default() -> None:
    assert chosen() == [row.row_id for row in ROWS]


def test_rows_of_some_kinds_only() -> None:
    assert chosen(fret_kinds=["fact checking"]) == [f"r{number}" for number in range(1, 40, 4)]
    assert chosen(fret_kinds=["search result", "semantic similarity"]) == [f"r{n}" for n in range(40) if n % 4 > 1]


def test_a_limit_keeps_the_order_and_a_smaller_one_takes_some_of_the_same() -> None:
    ten, twenty = chosen(fret_limit=10), chosen(fret_limit=20)
    assert len(ten) == 10
    assert len(twenty) == 20
    assert set(ten) < set(twenty)
    assert twenty == sorted(twenty, key=lambda row: int(row[1:]))
    assert chosen(fret_limit=100) == chosen()


def test_the_sample_is_the_seeds() -> None:
    assert chosen(1, fret_limit=10) == chosen(1, fret_limit=10)
    assert chosen(1, fret_limit=10) != chosen(2, fret_limit=10)


def test_the_limit_counts_rows_of_the_wanted_kinds() -> None:
    kept = chosen(fret_kinds=["question answering"], fret_limit=5)
    assert len(kept) == 5
    assert {int(row[1:]) % 4 for row in kept} == {0}


def test_what_was_set_aside_passes_through() -> None:
    aside = Quarantined("mixture", "x", "why", "q")
    made = list(choose_fret([aside, *ROWS], MixtureOptions(fret_kinds=("fact checking",), fret_limit=1), 0))
    assert aside in made
    assert len(made) == 2
