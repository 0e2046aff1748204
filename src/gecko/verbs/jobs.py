"""``gecko similar``, ``classify`` and ``match``: likes of an item, classes from few labels, translations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from gecko.errors import UsageError
from gecko.shell import AsJson, Input, answer, input_argument, input_option, out_option, say, verb
from gecko.verbs.texts import Dim, IdColumn, Model, TextColumn, TitleColumn

SIMILAR = "Example: gecko similar runs/docs/model --items products.jsonl --to 4711 --diversity 0.3 --out similar/"
CLASSIFY = "Example: gecko classify runs/docs/model --labelled tickets.csv --texts new.csv --out classes/"
MATCH = "Example: gecko match MODEL english.txt german.txt --out pairs.jsonl"

_SHOWN_LISTS = 200  # on the page


@verb
def similar(
    model: Model,
    items: Annotated[Input, input_option("Table or text file of one a line, also by URL; or folder of passages.")],
    out: Annotated[Path, out_option("Directory for similar.jsonl and similar.html.")],
    to: Annotated[
        list[str] | None, typer.Option(help="Id of an item, or any text; repeat for several. Default: every item.")
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, max=1000, help="Items of a list.")] = 10,
    diversity: Annotated[
        float, typer.Option(min=0, max=0.95, help="How much a list is spread out; 0 is the nearest.")
    ] = 0.0,
    same: Annotated[
        float, typer.Option(min=0.5, max=1, help="A cosine above which two items are the same thing again.")
    ] = 1.0,
    text: TextColumn = "",
    title: TitleColumn = "",
    id_: IdColumn = "",
    dim: Dim = None,
    as_json: AsJson = False,
) -> None:
    """Recommend items like an item or a text: the nearest, spread out if wanted."""
    from gecko.embedder.embedder import Embedder
    from gecko.jobs.items import Columns, read_items
    from gecko.jobs.pages import shorten, write_page
    from gecko.jobs.similar import similar_to, spread_of
    from gecko.mixture.tasks import task_word
    from gecko.shards import write_json_lines

    found = read_items(items, Columns(text, title, id_))
    say(found.said(items))
    whole = [item.whole for item in found.items]
    embedder = Embedder(model, dim=dim)
    word = task_word("sts")
    vectors = embedder.encode_symmetric(whole, word, "STS")
    place = {item.item_id: index for index, item in enumerate(found.items)}
    if to:
        own = [place.get(each) for each in to]
        for each in (each for each, index in zip(to, own, strict=True) if index is None):
            say(f"{each!r} is no item's id: taken as a text")
        asked = [each if index is None else whole[index] for each, index in zip(to, own, strict=True)]
        names = [each if index is not None else "" for each, index in zip(to, own, strict=True)]
        queries = embedder.encode_symmetric(asked, word, "STS")
    else:
        own, asked, queries = list(range(len(whole))), whole, vectors
        names = [item.item_id for item in found.items]
    lists = similar_to(queries, vectors, k, diversity=diversity, same=same, own=own)
    value: list[dict[str, Any]] = [
        {
            "to": name or asked[index],
            "like": [
                {
                    "id": found.items[like.index].item_id,
                    "score": round(like.score, 4),
                    "text": shorten(whole[like.index]),
                }
                for like in each
            ],
        }
        for index, (name, each) in enumerate(zip(names, lists, strict=True))
    ]
    write_json_lines(out / "similar.jsonl", value)
    shown: list[dict[str, Any]] = [
        {"to": shorten(text), "like": row["like"]} for text, row in list(zip(asked, value, strict=True))[:_SHOWN_LISTS]
    ]
    write_page(
        out / "similar.html", "similar.html", name=items.name, model=model, items=len(whole), lists=shown,
        shown=len(shown), all=len(value), diversity=diversity, same=same,
    )  # fmt: skip
    summary = {
        "items": len(whole),
        "left_out": dict(found.left),
        "lists": len(value),
        "spread": spread_of(lists, vectors),
        "page": str(out / "similar.html"),
    }
    if to:
        summary["similar"] = value
    lines = []
    for row in shown[:5] if to else []:
        near = (f"  {like['score']:.2f}  {like['id']:<16} {like['text'][:80]}" for like in row["like"])
        lines += [row["to"], *near]
    lines.append(f"{len(value):,} lists, two of one are {summary['spread']:.2f} apart on average")
    lines.append(f"similar  {out / 'similar.html'}")
    answer(as_json, summary, "\n".join(lines))


@verb
def classify(
    out: Annotated[Path, out_option("Directory of the head; with it alone --texts are put into its classes.")],
    model: Annotated[str, typer.Argument(help="Path, Hub id or all-MiniLM-L6-v2; default: the head's.")] = "",
    labelled: Annotated[Input, input_option("Table of texts with their labels, to learn from, also by URL.")] = None,
    texts: Annotated[
        Input, input_option("Texts to put into classes: a table or text file, also by URL; or a folder of passages.")
    ] = None,
    base: Annotated[str | None, typer.Option(help="Also say what this model would do on the same texts.")] = None,
    text: TextColumn = "",
    title: TitleColumn = "",
    id_: IdColumn = "",
    label: Annotated[str, typer.Option(help="Column of the label.")] = "",
    dim: Dim = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the cross-validation.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Put texts into a few classes: a linear head learnt from labelled texts, with what it is worth on new ones."""
    from gecko.jobs.classes import apply_head, learn_head, open_head
    from gecko.jobs.items import Columns, read_items
    from gecko.shards import write_json_lines

    if labelled is None and texts is None:
        raise UsageError("there is nothing to do", "give --labelled to learn from, --texts to classify, or both")
    if labelled is not None and not model:
        raise UsageError("no model is named", "gecko classify MODEL --labelled FILE --out DIR")
    columns = Columns(text, title, id_, label)
    value: dict[str, Any] = {"head": str(out)}
    lines: list[str] = []
    if labelled is not None:
        found = read_items(labelled, columns, wanted=("label",))
        say(found.said(labelled))
        figures = learn_head(found.items, model, out, name=labelled.name, base=base, dim=dim, seed=seed, tell=say)
        value |= {"figures": figures, "page": str(out / "classify.html")}
        low, high = figures["ci95"]
        lines.append(
            f"accuracy {100 * figures['accuracy']:.1f} [{100 * low:.1f}, {100 * high:.1f}] on texts not learnt from, "
            f"{figures['n']:,} of {len(figures['labels'])} classes; the commonest class alone: "
            f"{100 * figures['commonest']:.1f}"
        )
        if "base" in figures:
            gain, (low, high) = figures["base"]["gain"], figures["base"]["ci95"]
            lines.append(f"gain over {base}: {100 * gain:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]")
        lines.append(f"classes  {out / 'classify.html'}")
    if texts is not None:
        head, embedder = open_head(out, model)
        new = read_items(texts, columns)
        say(new.said(texts))
        rows = apply_head(head, embedder, new.items)
        write_json_lines(out / "classified.jsonl", rows)
        value |= {"classified": len(rows), "left_out": dict(new.left), "file": str(out / "classified.jsonl")}
        lines.append(f"{len(rows):,} texts in {out / 'classified.jsonl'}")
    answer(as_json, value, "\n".join(lines))


@verb
def match(
    model: Model,
    left: Annotated[Input, input_argument("Sentences: a text file of one a line, or a table, also by URL.")],
    right: Annotated[Input, input_argument("Sentences of the other language.")],
    out: Annotated[Path, out_option("JSON Lines file for the pairs.", "FILE")],
    margin: Annotated[float, typer.Option(min=0, help="Smallest margin of a pair; more is surer and fewer.")] = 1.06,
    text: TextColumn = "",
    dim: Dim = None,
    as_json: AsJson = False,
) -> None:
    """Match sentences with their translations in two unordered files (the model must know both languages)."""
    from gecko.embedder.embedder import Embedder
    from gecko.jobs.items import Columns, read_items
    from gecko.jobs.translations import match as match_vectors
    from gecko.mixture.tasks import task_word
    from gecko.shards import write_json_lines

    sides = [read_items(place, Columns(text=text)) for place in (left, right)]
    for place, side in zip((left, right), sides, strict=True):
        say(side.said(place))
    embedder = Embedder(model, dim=dim)
    vectors = [
        embedder.encode_symmetric([item.text for item in side.items], task_word("bitext"), "BitextMining")
        for side in sides
    ]
    pairs = match_vectors(vectors[0], vectors[1], least=margin)
    one, other = (side.items for side in sides)
    write_json_lines(
        out,
        (
            {
                "sentence1": one[pair.left].text,
                "sentence2": other[pair.right].text,
                "id1": one[pair.left].item_id,
                "id2": other[pair.right].item_id,
                "score": round(pair.score, 4),
                "margin": round(pair.margin, 4),
            }
            for pair in pairs
        ),
    )
    value = {"pairs": len(pairs), "left": len(one), "right": len(other), "file": str(out)}
    answer(as_json, value, f"{len(pairs):,} pairs of {len(one):,} and {len(other):,} sentences in {out}")


VERBS: Sequence[tuple[Callable[..., None], str]] = (
    (similar, SIMILAR),
    (classify, CLASSIFY),
    (match, MATCH),
)
