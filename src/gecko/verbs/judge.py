"""``gecko judge``: your own test set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gecko.errors import UsageError
from gecko.shell import AsJson, answer, out_option, say, verb

EXAMPLE = (
    "Example: gecko judge --corpus runs/docs/passages --model runs/docs/model --base all-MiniLM-L6-v2 "
    "--queries searches.log --sample 40 --out my-test/"
)


@verb
def judge(
    out: Annotated[Path, out_option("Folder of the test set (BEIR); the same one goes on.")] = Path("my-test"),
    corpus: Annotated[
        str | None, typer.Option(help="What is searched: passages as gecko corpus or a run makes them, or BEIR.")
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="Pool this model's candidates too; repeat for several, also later.")
    ] = None,
    base: Annotated[str | None, typer.Option(help="The model it came from, whose candidates are pooled too.")] = None,
    queries: Annotated[
        list[Path] | None, typer.Option(help="File of queries: one a line, or a table (--column); repeat for several.")
    ] = None,
    column: Annotated[str | None, typer.Option(help="Column of the queries in a table.")] = None,
    sample: Annotated[int | None, typer.Option(min=1, help="Draw so many queries from each file.")] = None,
    type_queries: Annotated[bool, typer.Option("--type", help="Type more queries before judging.")] = False,
    depth: Annotated[int | None, typer.Option(min=1, max=100, help="Candidates of each system; default: 5.")] = None,
    difference: Annotated[
        float, typer.Option(min=0.001, max=1.0, help="Difference in nDCG@10 that the test is to show.")
    ] = 0.05,
    power: Annotated[float, typer.Option(min=0.06, max=0.999, help="The chance that it does.")] = 0.8,
    page: Annotated[bool, typer.Option("--page", help="Judge in the browser instead of the terminal.")] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="--page: port on this machine; 0 takes a free one.")] = 0,
    status: Annotated[bool, typer.Option("--status", help="Say how far it is, and ask nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make your own test set in minutes: queries, their candidates of all systems to mark blind, a BEIR folder."""
    from gecko.embedder.embedder import Embedder
    from gecko.embedder.open import lasting_name, resolve_model
    from gecko.judge.folder import JudgedFolder
    from gecko.judge.judging import Goal, Judging, Wanted, settle
    from gecko.judge.page import JudgePage
    from gecko.judge.queries import read_queries
    from gecko.judge.terminal import ask_queries, judge_here
    from gecko.shards import locked

    if (column or sample) and not queries:
        raise UsageError("--column and --sample are of --queries", "name the file of queries")
    found = [read_queries(path, column=column, sample=sample) for path in queries or ()]
    for path, each in zip(queries or (), found, strict=True):
        say(
            f"{path}: {len(each.queries):,} queries ({each.repeated:,} repeated, {each.empty:,} empty, "
            f"{each.broken:,} unreadable, {each.left:,} not drawn)"
        )
    wanted = Wanted(
        str(Path(corpus).resolve()) if corpus else None,
        tuple(map(lasting_name, model or ())),
        lasting_name(base) if base else None,
        depth,
    )
    for name in settle(JudgedFolder(out), wanted).systems.values():  # mistakes are told before anything is written
        resolve_model(name)
    with locked(out):
        judging = Judging(out, wanted, Embedder, Goal(difference, power))
        texts = [query.text for each in found for query in each.queries]
        if not status:
            if type_queries or not (texts or page or judging.session.progress().queries):
                texts += ask_queries()
            if texts:
                say(f"{judging.session.add(texts)} new queries")
            say(judging.report())
        if page and not status:
            server = JudgePage(judging, port)
            say(f"judge at {server.url} (Ctrl-C ends it)")
            server.serve()
        elif not status:
            judge_here(judging, say)
        nothing = not judging.session.progress().queries
    if nothing and not status:
        say("there is no query yet: type some, or name a file with --queries")
    named = " ".join(judging.settings.systems.values()) or "MODEL"
    next_step = f"gecko compare {named} --beir {out}"
    answer(as_json, judging.summary(), f"\n{judging.report()}\nnext    {next_step}")
