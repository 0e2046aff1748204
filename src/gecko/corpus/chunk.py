"""Documents to passages: cut where the text itself is divided, titled by the path of headings that leads there."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from gecko.records import Document

# Chinese and Japanese: kana, ideographs and their iteration marks. Written without spaces, a character about a token.
_IDEOGRAPHS = (
    "\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"
)
_IDEOGRAPH = re.compile(f"[{_IDEOGRAPHS}]")
_WORD = re.compile(rf"[^\W{_IDEOGRAPHS}]+|[^\w\s]")
# A full-width stop ends a sentence without a space, but a closing quote after it belongs to the sentence.
_SENTENCE_END = re.compile(
    r"(?<=[.!?。！？])\s+|(?<=[。！？])(?=[^\s。！？」』）”’])|(?<=[。！？][」』）”’])(?=[^\s」』）”’])"
)
# Sub-word tokenizers split rare words; on English technical prose they make about 1.3 tokens of a word or sign.
_TOKENS_PER_WORD = 1.3
# No word of a language is as long: it is base64, a hash, or a script without spaces, and costs many tokens.
_LONGEST_WORD = 64
_CHARACTERS_PER_PART = 4


@dataclass(frozen=True, slots=True)
class Section:
    """A stretch of text under a path of headings."""

    headings: tuple[str, ...]
    text: str


def count_tokens(text: str) -> int:
    """Estimate how many tokens an encoder makes of a text, without loading a tokenizer."""
    words = sum(1 if len(word) <= _LONGEST_WORD else len(word) // _CHARACTERS_PER_PART for word in _WORD.findall(text))
    ideographs = 0 if text.isascii() else len(_IDEOGRAPH.findall(text))
    return round(words * _TOKENS_PER_WORD + ideographs)


def chunk_document(
    document: Document,
    max_tokens: int,
    min_tokens: int,
    *,
    split: bool = True,
    count: Callable[[str], int] = count_tokens,
) -> list[Document]:
    """Cut a document into pieces of at most ``max_tokens``.

    Markdown is divided at its headings first; then everything at blank lines, then at sentences, then between words;
    a word that alone is too long is cut inside. A piece shorter than ``min_tokens`` joins its neighbour under the same
    heading.

    Args:
        document: What a reader found.
        max_tokens: Longest piece.
        min_tokens: Shortest piece, where there is a neighbour to join.
        split: False keeps the document whole.
        count: Counts the tokens of a text.

    Returns:
        The pieces. One piece keeps the document's ``source_id``; several are numbered ``id#1``, ``id#2`` …
    """
    if not split:
        return [document]
    sections = markdown_sections(document.text) if document.markdown else [Section((), document.text)]
    pieces: list[tuple[str, str]] = []
    for section in sections:
        title = " > ".join(part for part in (document.title, *section.headings) if part)
        pieces += [(title, text) for text in _pack(section.text, max_tokens, min_tokens, count)]
    if len(pieces) == 1:
        return [Document(document.source_id, pieces[0][0], pieces[0][1], document.source)]
    return [
        Document(f"{document.source_id}#{number}", title, text, document.source)
        for number, (title, text) in enumerate(pieces, start=1)
    ]


def markdown_sections(text: str) -> list[Section]:
    """Divide Markdown at its headings; fences and lists stay as they are written."""
    from markdown_it import MarkdownIt

    lines = text.split("\n")  # as the parser counts them: splitlines also splits at form feeds and the like
    path: list[str] = []
    sections: list[Section] = []
    start = 0

    def close(end: int) -> None:
        body = "\n".join(lines[start:end]).strip()
        if body:
            sections.append(Section(tuple(part for part in path if part), body))

    tokens = MarkdownIt().parse(text)
    for token, inline in pairwise(tokens):
        if token.type != "heading_open" or token.map is None or token.level != 0:
            continue
        close(token.map[0])
        level = int(token.tag[1:])
        path = [*path[: level - 1], *[""] * (level - 1 - len(path)), inline.content.strip()]
        start = token.map[1]
    close(len(lines))
    return sections


def _pack(text: str, max_tokens: int, min_tokens: int, count: Callable[[str], int]) -> list[str]:
    """Join paragraphs up to the limit; a paragraph over it is cut at sentences, a sentence over it between words."""
    packed: list[str] = []
    sizes: list[int] = []
    gap = ""
    for unit, separator in _units(text, max_tokens, count):
        size = count(unit)
        if packed and (sizes[-1] + size <= max_tokens):
            packed[-1] += separator + unit
            sizes[-1] += size
        else:
            packed.append(unit)
            sizes.append(size)
            gap = separator
    if len(packed) > 1 and sizes[-1] < min_tokens:
        tail = packed.pop()
        packed[-1] += ("\n\n" if gap else "") + tail
    return packed


def _units(text: str, max_tokens: int, count: Callable[[str], int]) -> Iterator[tuple[str, str]]:
    """Yield what is packed, each with what stands before it: nothing where a script or a long word was cut."""
    for paragraph in re.split(r"\n\s*\n", text):
        paragraph = paragraph.strip("\n")
        if not paragraph.strip():
            continue
        if count(paragraph) <= max_tokens:
            yield paragraph, "\n\n"
            continue
        before = "\n\n"
        for sentence, after in _sentences(paragraph):
            for part, gap in _cut_words(sentence, max_tokens, count):
                yield part, before
                before = gap
            before = after


def _sentences(paragraph: str) -> Iterator[tuple[str, str]]:
    """Yield the sentences of a paragraph, each with what stands after it: a space, or nothing where none was."""
    start = 0
    for end in _SENTENCE_END.finditer(paragraph):
        yield paragraph[start : end.start()], " " if end.group() else ""
        start = end.end()
    yield paragraph[start:], ""


def _cut_words(sentence: str, max_tokens: int, count: Callable[[str], int]) -> Iterator[tuple[str, str]]:
    """Yield the parts of a sentence, each with what stands after it."""
    size = count(sentence)
    if size <= max_tokens:
        yield sentence, " "
        return
    words = sentence.split()
    if len(words) == 1:
        yield from _cut_word(words[0], max_tokens, count)
        return
    # Words differ in tokens, so the step is set by the sentence's own density. A part a little over the limit stays.
    step = max(1, int(len(words) * max_tokens / size))
    for start in range(0, len(words), step):
        group = words[start : start + step]
        part = " ".join(group)
        if _IDEOGRAPH.search(part) or any(count(word) > max_tokens and _says_something(word) for word in group):
            yield from _cut_words(part, max_tokens, count)
        else:
            yield part, " "


def _cut_word(word: str, max_tokens: int, count: Callable[[str], int]) -> Iterator[tuple[str, str]]:
    """Cut a word over the limit between characters."""
    step = max(1, int(len(word) * max_tokens / count(word))) if _says_something(word) else len(word)
    for start in range(0, len(word), step):
        yield word[start : start + step], "" if start + step < len(word) else " "


def _says_something(word: str) -> bool:
    """Tell a word from the rule of a table, whose pieces would be passages without a letter."""
    return any(map(str.isalnum, word))
