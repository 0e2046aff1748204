"""Which language a text is in: of short texts with what is expected of them, and which language a name means."""

from __future__ import annotations

import pytest

from gecko.corpus.language import NO_LANGUAGE, code_of, detect, detect_among, differ


@pytest.mark.parametrize(
    ("text", "likely", "code"),
    [
        ("waschmaschine pumpt nicht ab", ["de", "de", "en"], "de"),
        ("washing machine does not drain", ["de", "de", "en"], "en"),  # the pivot, where German was expected
        ("isolation combles laine de verre ou bois", ["zh", "fr", "en"], "fr"),  # the passage's own
        ("水低于零度不结冰叫什么现象", ["zh", "en"], "zh"),
        ("水低于零度不结冰叫什么现象", ["de", "en"], "zh"),  # neither of those that were likely
        ("стиральная машина не сливает воду", ["de", "en"], "ru"),
        ("numpy broadcast shape mismatch", ["de", "de", "en"], "en"),
        ("B12 Mangel", ["de", "en"], "de"),
        ("", ["de", "en"], "de"),
        (" ", ["wuu", "en"], "zh"),
        ("C++", ["de", "en"], "de"),  # nothing speaks against what is expected
        ("ifølge artikel 14 gdpr", ["da", "en"], "da"),
        ("ifølge artikel 14 gdpr", ["no", "en"], "no"),  # so near to Danish that the expected one is believed
        ("what does plasmodium falciparum contain", ["en"], "en"),  # Latin names are no Latin text
        ("waschmaschine pumpt nicht ab", ["und", "", "de"], "de"),  # what says nothing is passed over
    ],
)
def test_a_short_text_is_in_the_expected_language_unless_it_clearly_is_not(
    text: str, likely: list[str], code: str
) -> None:
    assert detect_among(text, likely) == code


@pytest.mark.parametrize("likely", [[], ["und"], ["", "zxx"]])
def test_without_an_expectation_it_is_detected_as_any_text(likely: list[str]) -> None:
    for text in ("waschmaschine pumpt nicht ab und piept", "B12", "x = f(y)"):
        assert detect_among(text, [code for code in likely if code not in NO_LANGUAGE]) == detect(text)


def test_a_variety_counts_as_its_language() -> None:
    assert detect_among("水低于零度不结冰叫什么现象", ["wuu"]) == "zh"
    assert not differ("wuu", "zh")
    assert not differ("nn", "no")
    assert differ("de", "en")
    assert not any(differ(one, other) for one in NO_LANGUAGE for other in ("en", "und", ""))


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("German", "de"), ("german", "de"), ("Chinese", "zh"), ("Brazilian Portuguese", "pt"), ("Norwegian", "no"),
        ("simplified Chinese", "zh"), ("Chinese (Traditional)", "zh"), ("de", "de"), ("Klingon", ""), ("", ""),
        ("in", ""), ("very formal", ""), ("Latin American Spanish", "es"), ("Norwegian Bokmål", "no"),
        ("German (with English terms)", "de"), ("German, no English", "de"), ("DE", "de"), ("in English", "en"),
    ],
)  # fmt: skip
def test_names_mean_codes(name: str, code: str) -> None:
    assert code_of(name) == code


def test_every_name_means_a_language_that_can_be_told() -> None:
    from gecko.corpus.language import _CODES, _VARIETIES, _identifier

    known = set(_identifier().labels)
    assert set(_CODES.values()) <= known
    assert set(_VARIETIES.values()) <= known
    assert all(code_of(name) == code for name, code in _CODES.items())
