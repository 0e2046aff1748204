"""A person at the page, in a real browser: types, compares, switches, marks; with the keyboard, and on a phone."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

pytest.importorskip("fastapi")

from serve_parts import CORPUS, until

from gecko.judge.folder import JudgedFolder
from gecko.serve.search import SearchIndex

TITLES = "[...document.querySelectorAll('.column')].map(c => [...c.querySelectorAll('h3')].map(h => h.textContent))"
SHOWN = "document.querySelectorAll('article').length"
SAID = "document.getElementById('say').textContent"
READY = "document.querySelectorAll('#dims button').length"


def titles(server, model, **options):
    body = {"query": "rotate the signing keys", "model": model, "k": 10, "mode": "dense", **options}
    return [hit["title"] for hit in server.post("/search", body).json()["hits"]]


def test_type_compare_switch_and_mark(browser, whole_site, tmp_path):
    browser.open(whole_site.url)
    browser.wait(f"{READY} === 2")
    assert browser.tell("document.activeElement.id") == "box"
    browser.type("rotate the signing keys")
    browser.wait(f"{SHOWN} === 20")
    assert browser.tell(TITLES) == [titles(whole_site, "base"), titles(whole_site, "words")]  # base left, tuned right
    heads = "[...document.querySelectorAll('.column h2')].map(h => h.firstChild.textContent)"
    assert browser.tell(heads) == ["base", "words"]
    article = "[...document.querySelectorAll('.column:last-child article')].find(a => a.innerText.includes('Keys'))"
    marks = f"[...({article}).querySelectorAll('mark')].map(m => m.textContent)"
    assert browser.tell(marks) == ["Keys", "rotate", "signing", "keys"]
    assert browser.tell("document.querySelector('.column:last-child .score').textContent").startswith("0.")

    browser.tell("document.querySelectorAll('#dims button')[1].click()")
    browser.wait("document.querySelector('.column h2 small')?.textContent === '32 dimensions'")
    assert browser.tell(TITLES)[1] == titles(whole_site, "words", dimensions=32)
    assert "dim=32" in browser.tell("location.hash")

    # By keyboard: out of the box, the second passage relevant, and the first not.
    for key in ("Escape", "j", "u"):
        browser.press(key)
    pressed = "document.querySelector('article.at .thumbs .{}').getAttribute('aria-pressed') === 'true'"
    browser.wait(pressed.format("up"))
    assert browser.tell("document.activeElement === document.querySelector('article.at')")
    browser.press("k")
    browser.press("d")
    browser.wait(f"{SAID}.startsWith('2 judged')")
    shown = browser.tell(TITLES)[1]
    folder = JudgedFolder(tmp_path / "mine")
    names = {p.passage_id: p.title for p in CORPUS}
    judged = [(names[event["doc_id"]], event["grade"]) for event in folder.events()]
    assert judged == [(shown[1], 2), (shown[0], 0)]
    marked = "[...document.querySelectorAll('.thumbs [aria-pressed=true]')].map(b => b.ariaLabel)"
    at_both = {f"relevant: {shown[1]}", f"not relevant: {shown[0]}"}  # in both columns, where both have it
    assert set(browser.tell(marked)) == at_both

    browser.press("d")  # again: taken back
    browser.wait(f"{SAID}.startsWith('1 judged')")
    browser.open(f"{whole_site.url}/{browser.tell('location.hash')}")
    browser.wait(f"{SHOWN} === 20")
    assert set(browser.tell(marked)) == {f"relevant: {shown[1]}"}  # another day it is still seen
    browser.press("Escape")
    browser.press("/")
    assert browser.tell("document.activeElement.id") == "box"
    assert browser.complaints == []
    assert {url.partition("#")[0] for url in browser.requests} <= {
        f"{whole_site.url}/",
        f"{whole_site.url}/search",
        f"{whole_site.url}/thumbs",
        "data:,",
    }


def test_a_thumb_is_of_what_is_shown_not_of_what_is_being_typed(browser, whole_site, encoder, tmp_path):
    browser.open(f"{whole_site.url}/#q=logs")
    browser.wait(SHOWN)
    encoder.gate.clear()  # no answer to the new words yet
    browser.tell("document.getElementById('box').select()")
    browser.type("keys")
    browser.tell("document.querySelector('.thumbs .up').click()")
    encoder.gate.set()
    folder = JudgedFolder(tmp_path / "mine")
    until(folder.pools)
    assert [pool.query for pool in folder.pools().values()] == ["logs"]
    browser.wait("document.querySelector('.column mark')?.textContent === 'Keys'")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_an_address_shows_what_it_says_and_text_is_text(browser, whole_site, scheme):
    query = "%3Cimg%20src%3Dx%20onerror%3Dalert(1)%3E%20backup"
    browser.open(f"{whole_site.url}/#q={query}&by=text&dim=32", width=390, height=800, scheme=scheme)
    browser.wait("document.querySelectorAll('.column.shown article').length")
    assert browser.tell("document.querySelectorAll('img, .text b, h3 b, .text script').length") == 0
    assert "<b>Bold</b>" in browser.tell(TITLES)[1]
    pressed = "[...document.querySelectorAll('#switches [aria-pressed=true]')].map(b => b.textContent)"
    assert browser.tell(pressed) == ["words", "32"]
    # One column at a time, as wide as the screen; the tabs change it.
    assert browser.tell("[innerWidth, document.documentElement.scrollWidth]") == [390, 390]
    visible = "[...document.querySelectorAll('.column')].map(c => c.offsetWidth > 0)"
    assert browser.tell(visible) == [False, True]
    browser.tell("document.querySelector('#tabs button').click()")
    assert browser.tell(visible) == [True, False]
    emoji = "[...document.querySelectorAll('.column.shown .text')].map(t => t.textContent).find(t => t.includes('😀'))"
    assert browser.tell(emoji) == CORPUS[1].text
    paper = {"light": "rgb(253, 253, 251)", "dark": "rgb(20, 23, 21)"}[scheme]
    assert browser.tell("getComputedStyle(document.body).backgroundColor") == paper
    assert browser.complaints == []


def test_every_field_and_button_has_a_name(browser, whole_site):
    browser.open(f"{whole_site.url}/#q=keys")
    browser.wait(SHOWN)
    lacking = "[...document.querySelectorAll('button, input')].filter(b => !(b.textContent.trim() || b.ariaLabel))"
    assert browser.tell(f"{lacking}.length") == 0
    assert browser.tell("document.querySelectorAll('button').length") > 40


def test_the_page_asks_for_the_key(browser, start, encoder, indexes):
    server = start(encoder, index=SearchIndex(indexes[0]), key="sesame")
    browser.open(server.url)
    for key in ("wrong", "sesame"):
        browser.wait("!document.getElementById('login').hidden")
        browser.tell("document.getElementById('key').value = ''; document.getElementById('key').focus()")
        browser.type(key)
        browser.press("Enter")
        if key == "wrong":
            browser.wait(f"{SAID}.includes('missing or wrong')")
    browser.wait(READY)
    browser.tell("document.getElementById('box').focus()")
    browser.type("logs")
    browser.wait(SHOWN)
    assert [told for told in browser.complaints if "401" not in json.dumps(told)] == []


def test_a_server_that_is_gone_is_told(browser, start, encoder, indexes):
    server = start(encoder, index=SearchIndex(indexes[0]))
    browser.open(server.url)
    browser.wait(READY)
    server.stop()
    browser.type("keys")
    browser.wait("document.getElementById('say').classList.contains('bad')")
    assert "does not answer" in browser.tell(SAID)


def test_nothing_is_loaded_from_elsewhere():
    import gecko.serve

    page = (Path(gecko.serve.__file__).parent / "page.html").read_text(encoding="utf-8")
    assert not re.search(r"https?://|@import|src=|url\(", page)
