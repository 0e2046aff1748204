"""The report in a browser: no complaint, tables that sort and filter, maps that speak; it fits and prints."""

import re

import pytest

from gecko.report.report import write_report


@pytest.fixture(scope="module")
def page(module_run):
    return write_report(module_run, module_run.parent / "report.html")


ROWS = "[...document.querySelectorAll('#queries tbody tr')].filter((row) => row.checkVisibility())"
STATUS = "document.querySelector('.controls [role=status]').textContent"
READOUT = "document.querySelector('.readout').textContent"
LIT = "[...document.querySelectorAll('.maps circle.on')].map((point) => point.dataset.i)"
WIDE = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


def column(browser, number):
    return browser.tell(f"{ROWS}.map((row) => row.cells[{number}].textContent.trim())")


def focus(browser, script):
    browser.tell(f"({script}).focus()")


def test_page_asks_the_network_for_nothing_and_complains_of_nothing(browser, page):
    browser.open(page)
    assert browser.requests == [page.as_uri()] and browser.complaints == []
    browser.tell("setTimeout(() => { console.error('seen'); undefined.nothing })")  # what a complaint looks like
    browser.tell("new Promise((done) => setTimeout(done, 50))")
    assert len(browser.complaints) == 2


def test_every_table_field_and_picture_has_a_name(browser, page):
    browser.open(page)
    lacking = """(() => {
      const lacking = (what, test) => [...document.querySelectorAll(what)].filter(test).length; return [
      lacking("table", (table) => !table.caption), lacking("input, select", (field) => !field.labels.length),
      lacking("button, svg", (part) => !(part.textContent.trim() || part.ariaLabel)),
      document.querySelectorAll("table, input, select, button, svg").length]; })()"""
    *without, parts = browser.tell(lacking)
    assert without == [0, 0, 0] and parts > 30


def test_queries_sort_by_the_keyboard(browser, page):
    browser.open(page)
    assert len(column(browser, 0)) == 15 and browser.tell(STATUS) == "15 of 60 shown"
    focus(browser, "document.querySelector('button.more')")
    browser.press("Enter")
    assert len(column(browser, 0)) == 60 and not browser.tell("document.querySelector('.more').checkVisibility()")
    focus(browser, "document.querySelector('#queries th button')")
    browser.press("Tab")
    browser.press("Tab")
    browser.press("Tab")  # query, base, tuned, gain
    sorted_by = "document.querySelector('#queries th[aria-sort]')"
    browser.press("Enter")
    down = [float(text) for text in column(browser, 3)]
    assert down == sorted(down, reverse=True) and len(set(down)) > 10
    assert browser.tell(f"[{sorted_by}.cellIndex, {sorted_by}.ariaSort]") == [3, "descending"]
    browser.press("Space")
    assert [float(text) for text in column(browser, 3)] == sorted(down)
    assert browser.tell(f"[{sorted_by}.cellIndex, {sorted_by}.ariaSort]") == [3, "ascending"]
    browser.tell("document.querySelector('#queries th button').click()")
    names = browser.tell(f"{ROWS}.map((row) => row.querySelector('summary').textContent.toLowerCase())")
    assert names[0].startswith("<script>") and names[1:] == sorted(names[1:]) and len(names) == 60


def test_queries_filter_by_words_and_outcome(browser, page):
    browser.open(page)
    focus(browser, "document.querySelector('.controls input')")
    browser.type("Number 59 compile")
    assert browser.tell(STATUS) == "1 of 1 shown" and column(browser, 0)[0].startswith("query number 59 on re")
    focus(browser, "document.querySelector('#queries summary:is(tr:not([hidden]) *)')")
    browser.press("Enter")
    assert browser.tell("document.querySelector('#queries details[open] .body').checkVisibility()")
    browser.open(page)
    focus(browser, "document.querySelector('.controls select')")
    browser.press("ArrowDown")
    browser.press("ArrowDown")
    assert set(browser.tell(f"{ROWS}.map((row) => row.dataset.outcome)")) == {"lost"}
    assert browser.tell(STATUS) == "10 of 10 shown"


def test_map_tells_its_points_to_pointer_and_keys(browser, page):
    browser.open(page)
    browser.point('.maps svg circle[data-i="32"]')
    told = browser.tell(READOUT)
    assert told.startswith(("Query: ", "Passage: "))  # another point may lie on top of it
    browser.tell(
        "document.querySelector('circle[data-i=\"32\"]').dispatchEvent(new Event('pointerover', {bubbles: true}))"
    )
    assert browser.tell(READOUT) == "Query: query text 2" and sorted(browser.tell(LIT)) == ["2", "2", "32", "32"]
    focus(browser, "document.querySelector('.maps svg')")
    browser.press("Escape")
    browser.press("ArrowRight")
    assert browser.tell(READOUT).startswith("Passage: <script>")
    browser.press("ArrowDown")
    assert browser.tell(READOUT) == "Passage: passage text 1" and set(browser.tell(LIT)) >= {"1"}
    browser.press("Escape")
    assert browser.tell(READOUT).startswith("Point at a dot") and browser.tell(LIT) == []


@pytest.mark.parametrize(("width", "scheme", "paper"), [(1280, "light", 253), (390, "light", 253), (390, "dark", 20)])
def test_page_fits_desk_and_phone_and_has_a_dark_side(browser, page, width, scheme, paper):
    browser.open(page, width=width, scheme=scheme)
    assert browser.tell("innerWidth") == width and browser.tell(WIDE) == 0
    assert browser.tell("getComputedStyle(document.body).backgroundColor").startswith(f"rgb({paper},")
    cut = """[...document.querySelectorAll('#queries, .glance, .told, .maps')].filter(
      (part) => part.getBoundingClientRect().right > innerWidth).length"""
    assert browser.tell(cut) == 0


def test_page_prints_whole_tables_without_controls(browser, page, tmp_path):
    browser.open(page, scheme="dark")
    browser.print(tmp_path / "report.pdf")
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")
    browser.look(width=690, scheme="dark", medium="print")  # the width of A4 within its margins
    assert browser.tell("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert browser.tell("document.querySelector('.controls input').checkVisibility()") is False
    edges = "[...document.querySelectorAll('table')].map((table) => table.getBoundingClientRect().right)"
    assert max(browser.tell(edges)) <= 691


def test_page_shows_everything_without_its_script(browser, page):
    browser.open(page, scripts=False)
    browser.ask("Emulation.setScriptExecutionDisabled", value=False)  # for the test's own questions
    assert len(column(browser, 0)) == 60 and not browser.tell("document.querySelector('.controls').checkVisibility()")


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_text_stands_out_from_paper_in_light_and_dark(page):
    """WCAG 2.2: a contrast of 4.5 for text, 3 for what is drawn."""
    style = page.read_text().partition("</style>")[0]
    themes = [dict(re.findall(r"--(\w+): (#\w{6})", block)) for block in re.findall(r":root \{([^}]*)\}", style)]
    themes = [theme for theme in themes if len(theme) == 8]
    assert len(themes) == 3  # light, dark, print
    for theme in themes:
        for name, least in {"ink": 7, "soft": 4.5, "accent": 4.5, "warn": 4.5, "mute": 3}.items():
            for under in ("paper", "wash"):
                low, high = sorted((luminance(theme[name]), luminance(theme[under])))
                assert (high + 0.05) / (low + 0.05) >= least, (name, under, theme[name])
