"""The readable text of a web page, its headings written as Markdown so that the chunker can cut at them."""

from __future__ import annotations

from typing import Any

_UNSEEN = ("script", "style", "nav", "noscript", "template", "head", "svg")
_PARAGRAPHS = frozenset(
    {"p", "div", "section", "article", "pre", "blockquote", "table", "main", "header", "footer", "aside", "figure"}
    | {"address", "details", "dl", "fieldset", "form"}
)
_LINES = frozenset({"li", "tr", "br", "dt", "dd", "figcaption", "summary", "caption", "option"})
_CELLS = frozenset({"td", "th"})
_HEADINGS = tuple(f"h{level}" for level in range(1, 7))


def html_to_markdown(text: str, fallback: str) -> tuple[str, str]:
    """Take the readable text of a page without what frames it: menus, side bars, the site's header and footer.

    Args:
        text: The page.
        fallback: Its title where it names none.

    Returns:
        Title and text.
    """
    from bs4 import BeautifulSoup

    soup = BeautifulSoup(text, "html.parser")
    title = soup.title.get_text(" ", strip=True) if soup.title else fallback
    for element in soup(_UNSEEN):
        element.decompose()
    for element in soup(["header", "footer", "aside"]):
        if not element.decomposed and _frames_the_page(element):
            element.decompose()
    for heading in soup(_HEADINGS):
        heading.replace_with(f"\n\n{'#' * int(heading.name[1])} {heading.get_text(' ', strip=True)}\n\n")
    for block in soup([*_PARAGRAPHS, *_LINES, *_CELLS]):
        gap = "\n\n" if block.name in _PARAGRAPHS else "\n" if block.name in _LINES else " "
        if block.name != "br" and _follows_text(block):
            block.insert_before(gap)
        block.append(gap)
    lines = (line.strip() for line in soup.get_text().splitlines())
    return title, "\n".join(lines)


def _frames_the_page(element: Any) -> bool:  # noqa: ANN401
    """Tell the site's frame from a part of the text: inside an article, or around the page's title, it is text."""
    return element.find_parent(["article", "main", "section"]) is None and element.find("h1") is None


def _follows_text(block: Any) -> bool:  # noqa: ANN401
    """Whether text stands right before a block, with nothing but the block's own edge between them."""
    before = block.previous_sibling
    if before is None or before.name in _PARAGRAPHS | _LINES | _CELLS:
        return False
    return bool(before.get_text(strip=True))
