"""Documents to passages: cut where the text itself is divided, titled by the path of headings that leads there."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from gecko.records import Document

_TOKEN = re.compile(r"\w+|[^\w\s]")
_SENTENCE_END = re.compile(r"(?<=[.!?。！？])\s+")
# Sub-word tokenizers split rare words; on English technical prose they make about 1.3 tokens of a word or sign.
_TOKENS_PER_WORD = 1.3


@dataclass(frozen=True, slots=True)
class Section:
    """A stretch of text under a path of headings."""

    headings: tuple[str, ...]
    text: str


def count_tokens(text: str) -> int:
    """Estimate how many tokens an encoder makes of a text, without loading a tokenizer."""
    return round(len(_TOKEN.findall(text)) * _TOKENS_PER_WORD)


def chunk_document(
    document: Document,
    max_tokens: int,
    min_tokens: int,
    *,
    split: bool = True,
    count: Callable[[str], int] = count_tokens,
) -> list[Document]:
    """Cut a document into pieces of at most ``max_tokens``.

    Markdown is divided at its headings first; then everything at blank lines, then at sentences, then between words. A
    piece shorter than ``min_tokens`` joins its neighbour under the same heading.

    Args:
        document: What a reader found; Markdown is recognised by the end of its source's name.
        max_tokens: Longest piece.
        min_tokens: Shortest piece, where there is a neighbour to join.
        split: False keeps the document whole.
        count: Counts the tokens of a text.

    Returns:
        The pieces. One piece keeps the document's ``source_id``; several are numbered ``id#1``, ``id#2`` …
    """
    if not split:
        return [document]
    is_markdown = document.source.lower().endswith((".md", ".markdown"))
    sections = markdown_sections(document.text) if is_markdown else [Section((), document.text)]
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

    lines = text.splitlines()
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
    for unit, separator in _units(text, max_tokens, count):
        size = count(unit)
        if packed and (sizes[-1] + size <= max_tokens):
            packed[-1] += separator + unit
            sizes[-1] += size
        else:
            packed.append(unit)
            sizes.append(size)
    if len(packed) > 1 and sizes[-1] < min_tokens:
        tail = packed.pop()
        packed[-1] += "\n\n" + tail
    return packed


def _units(text: str, max_tokens: int, count: Callable[[str], int]) -> Iterator[tuple[str, str]]:
    for paragraph in re.split(r"\n\s*\n", text):
        paragraph = paragraph.strip("\n")
        if not paragraph.strip():
            continue
        if count(paragraph) <= max_tokens:
            yield paragraph, "\n\n"
            continue
        separator = "\n\n"
        for sentence in _SENTENCE_END.split(paragraph):
            for part in _cut_words(sentence, max_tokens, count):
                yield part, separator
                separator = " "


def _cut_words(sentence: str, max_tokens: int, count: Callable[[str], int]) -> Sequence[str]:
    if count(sentence) <= max_tokens:
        return [sentence]
    words = sentence.split()
    # A word can hold many tokens (a long path, a line of base64), so the step is set by the sentence's own density.
    step = max(1, int(len(words) * max_tokens / count(sentence)))
    return [" ".join(words[start : start + step]) for start in range(0, len(words), step)]
