"""The languages of many texts at once are those of each alone."""

from __future__ import annotations

import importlib.resources

import pytest

from gecko.corpus import identify
from gecko.corpus.language import detect, detect_all

GENERAL = importlib.resources.files("gecko.train").joinpath("general.txt").read_text(encoding="utf-8").splitlines()
OTHERS = [
    "Die Zugspitze ist mit 2962 Metern der höchste Berg Deutschlands",
    "La tour Eiffel est une tour de fer puddlé de 330 mètres de hauteur située à Paris",
    "Стиральная машина не сливает воду и пищит, что делать дальше",
    "水低于零度不结冰叫什么现象，为什么会发生这种现象呢，请说明一下原因",
    "Η Αθήνα είναι η πρωτεύουσα της Ελλάδας και η μεγαλύτερη πόλη της",
    "WHAT IS WRITTEN IN CAPITALS IS READ IN SMALL LETTERS AND MEANS THE SAME",
    "ifølge artikel 14 i forordningen skal den registrerede underrettes",
    "def f(x): return x + 1 if x else lambda y: y ** 2 + abs(x) - len(range(4))",
    "caf\u0065\u0301 nai\u0308ve re\u0301sume\u0301 d\u00e9j\u00e0 vu, accents that may be composed or not",
    "x = 1", "", " ", "12345 67890", "short", "\x01" * 40 + "abcdefghij klmnopqrst",
]  # fmt: skip


@pytest.mark.parametrize("together", [3, 2048])
def test_the_answers_are_those_of_one_at_a_time(together: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identify, "_TOGETHER", together)
    texts = [*OTHERS, *(text[:length] for text in GENERAL[:60] for length in (25, 60, 5000)), " ".join(GENERAL[:80])]
    found = detect_all(texts)
    assert found == [detect(text) for text in texts]
    assert {"de", "fr", "ru", "zh", "el", "en", "und"} <= set(found)


@pytest.mark.parametrize(
    ("likeliest", "doubtful"),
    [((0.3, 0.2996), True), ((0.5004, 0.1), True), ((0.4996, 0.1), True), ((0.6, 0.3), False)],
)
def test_a_text_in_doubt_is_asked_of_the_library(likeliest: tuple[float, float], doubtful: bool) -> None:
    asked = []

    class Library(identify.BlockIdentifier):
        def _chances(self, texts):  # every language but two is out
            chances = super()._chances(texts)
            chances[:] = 0
            chances[:, :2] = likeliest
            return chances

    from gecko.corpus.language import _identifier

    library = _identifier()

    class Asked:
        nb_classes, nb_ptc, nb_pc = library.nb_classes, library.nb_ptc, library.nb_pc
        tk_nextmove, tk_row, tk_output = library.tk_nextmove, library.tk_row, library.tk_output

        def classify(self, text):
            asked.append(text)
            return "xx", 0.6

    found = Library(Asked()).classify(["one text", "another"], 0.5)
    assert found == ([("xx", True)] * 2 if doubtful else [(library.nb_classes[0], True)] * 2)
    assert asked == (["one text", "another"] if doubtful else [])
