"""``gecko themes``: what a pile of texts is about."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from gecko.shell import AsJson, Input, answer, input_option, out_option, say, teacher_settings, verb
from gecko.verbs.texts import Dim, IdColumn, Model, TextColumn, TitleColumn

EXAMPLE = "Example: gecko themes runs/docs/model --texts feedback.csv --time created --out themes/"
_EXAMPLES = 8  # texts of a theme, on the page


@verb
def themes(
    model: Model,
    texts: Annotated[Input, input_option("Table or text file of one a line, also by URL; or folder of passages.")],
    out: Annotated[Path, out_option("Directory for themes.html, themes.json and texts.jsonl.")],
    smallest: Annotated[int | None, typer.Option(min=2, help="Texts of a theme at least; default: one in 150.")] = None,
    text: TextColumn = "",
    title: TitleColumn = "",
    id_: IdColumn = "",
    time: Annotated[str, typer.Option(help="Column of the time, for counts over time.")] = "",
    teacher: Annotated[str, typer.Option(help="Language model that names the themes, such as openai:MODEL.")] = "",
    base_url: Annotated[str | None, typer.Option(help="Its address, where it is not OpenAI's.")] = None,
    max_usd: Annotated[float | None, typer.Option(help="Stop before naming costs more, in US dollars.")] = None,
    dim: Dim = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the map.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Find what a pile of texts is about: themes, their words, their sizes over time, and a map."""
    from gecko.embedder.embedder import Embedder
    from gecko.jobs.items import Columns, read_items
    from gecko.jobs.pages import shorten
    from gecko.jobs.themes import find_themes
    from gecko.jobs.themes_page import write_themes
    from gecko.jobs.times import read_periods
    from gecko.mixture.tasks import task_word
    from gecko.recipe import load_recipe
    from gecko.shards import write_json_lines

    found = read_items(texts, Columns(text, title, id_, "", time))
    say(found.said(texts))
    periods = read_periods([item.time for item in found.items])
    whole = [item.whole for item in found.items]
    vectors = Embedder(model, dim=dim).encode_symmetric(whole, task_word("clustering"), "Clustering")
    result = find_themes(vectors, whole, smallest=smallest, seed=seed)
    named, spent = result.themes, None
    if teacher:
        from gecko.jobs.naming import name_themes

        changes = [f"teacher.spec={json.dumps(teacher)}", *teacher_settings(base_url, max_usd)]
        named, spent = name_themes(result.themes, whole, load_recipe(None, changes).teacher, out, say)
    value: dict[str, Any] = {
        "texts": len(whole),
        "left_out": dict(found.left),
        "without": int((result.of == 0).sum()),
        "model": model,
        "named_by": teacher or "the words that set them apart (c-TF-IDF)",
        "periods": None if periods is None else {"length": periods.length, "names": periods.names},
        "timeless": 0 if periods is None else int((periods.of < 0).sum()),
        "themes": [
            {
                "number": theme.number,
                "name": theme.name,
                "words": list(theme.words),
                "count": len(theme.members),
                "counts": None if periods is None else periods.counts(theme.members),
                "examples": [
                    {"id": found.items[place].item_id, "text": shorten(whole[place])}
                    for place in theme.members[:_EXAMPLES]
                ],
            }
            for theme in named
        ],
    }
    if spent is not None:
        value["usd"] = spent["usd"]
    write_themes(out, texts.name, value, result, whole)
    names = {theme.number: theme.name for theme in named}
    write_json_lines(
        out / "texts.jsonl",
        (
            {"id": item.item_id, "theme": int(number) or None, "name": names.get(int(number))}
            for item, number in zip(found.items, result.of, strict=True)
        ),
    )
    if not named:
        say("no theme stands out: the texts are of one kind, or --smallest is too large for them")
    lines = [f"{theme['count']:7,}  {theme['name']}" for theme in value["themes"][:20]]
    more = len(named) - len(lines)
    lines += [f"{'':9}and {more} more"] if more > 0 else []
    lines += [f"{value['without']:7,}  of none", f"themes  {out / 'themes.html'}"]
    answer(as_json, value | {"page": str(out / "themes.html")}, "\n".join(lines))
