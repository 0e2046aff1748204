"""The mixture's human-labelled sources, loaded: whatever their kind and container, unified rows come out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from gecko.corpus.files import HUB, FileState, file_state
from gecko.mixture.format import TextFormat
from gecko.mixture.options import Kind, MixtureOptions, SourceOptions
from gecko.mixture.sources.labels import labelled
from gecko.mixture.sources.make import Draft, RowMaker
from gecko.mixture.sources.pairs import bitext, nli, pair_classification, pairs, sts, triples
from gecko.mixture.sources.read import Item, check_columns, read_items, source_files, trouble
from gecko.mixture.sources.retrieval import Miner, retrieval, retrieval_files
from gecko.records import Quarantined, UnifiedRow

_ADAPTERS: dict[Kind, Callable[[Iterable[Item], RowMaker], Iterator[Draft]]] = {
    "nli": nli,
    "sts": sts,
    "classification": labelled,
    "clustering": labelled,
    "pair_classification": pair_classification,
    "bitext": bitext,
    "pairs": pairs,
    "triples": triples,
}


@dataclass(frozen=True, slots=True)
class LoadedSource:
    """A source's rows and what became of every record of it: read = used + unused + quarantined.

    Attributes:
        options: The source.
        rows: Its unified rows, at most ``limit``.
        quarantined: Records that nothing could be made of, with the reason.
        read: Records there were; of a BEIR folder, judgements.
        used: Records that a row holds (before the limit), as its positive or as a hard negative.
        unused: Good records that no row holds, counted by the reason.
        left_out: Rows beyond the limit.
    """

    options: SourceOptions
    rows: list[UnifiedRow]
    quarantined: list[Quarantined]
    read: int
    used: int
    unused: dict[str, int]
    left_out: int

    def account(self) -> dict[str, object]:
        """What became of its records, JSON-ready."""
        return {
            "source": self.options.name,
            "rows": len(self.rows),
            "read": self.read,
            "used": self.used,
            "unused": self.unused,
            "quarantined": len(self.quarantined),
            "left_out": self.left_out,
        }

    def why_none(self) -> str:
        """Say of a source without rows what became of its records, by reason."""
        reasons = [f"{count} x {reason}" for reason, count in self.unused.items()]
        if self.quarantined:
            reasons.append(f"{len(self.quarantined)} set aside, the first for: {self.quarantined[0].reason}")
        return f"{self.read} records ({'; '.join(reasons) or 'it is empty'})"


def load_source(options: SourceOptions, text_format: TextFormat, seed: int, miner: Miner | None = None) -> LoadedSource:
    """Load one source.

    Args:
        options: Where it lies, what it is, and what of it is used.
        text_format: How texts are rendered.
        seed: Of what is drawn.
        miner: Finds hard negatives where they are to be mined.

    Returns:
        Its rows, equal for equal arguments and files, and the account of its records.

    Raises:
        GeckoError: It is not there, lacks a column, or gives no row.
    """
    maker = RowMaker(options, text_format, seed)
    account = maker.account
    drafts = (
        retrieval(maker, miner)
        if options.kind == "retrieval"
        else _ADAPTERS[options.kind](account.usable(read_items(options)), maker)
    )
    loaded = collect(maker, [maker.render(draft) for draft in maker.sample(drafts)])
    if not loaded.rows:
        raise maker.trouble(f"gives no row of {loaded.why_none()}", "check its kind and columns")
    return loaded


def collect(maker: RowMaker, rows: list[UnifiedRow]) -> LoadedSource:
    """Put the rows that a maker made beside its account, once they are all made."""
    account = maker.account
    return LoadedSource(
        options=maker.options,
        rows=rows,
        quarantined=account.quarantined,
        read=account.read,
        used=account.used,
        unused=dict(account.unused),
        left_out=account.made - len(rows),
    )


def load_mixture(
    options: MixtureOptions, text_format: TextFormat, seed: int, miner: Miner | None = None
) -> Iterator[LoadedSource]:
    """Load the sources one after the other; arguments and errors as :func:`load_source`'s."""
    for source in options.sources:
        yield load_source(source, text_format, seed, miner)


def check_sources(options: MixtureOptions) -> None:
    """Find what a run would stumble over after the work before it: missing files and columns. The Hub is not asked.

    Raises:
        GeckoError: A source is not there or lacks a column.
    """
    for source in options.sources:
        if source.kind != "retrieval":
            check_columns(source)
        elif missing := next((path for path in retrieval_files(source) if not path.is_file()), None):
            hint = "retrieval reads a BEIR folder: corpus.jsonl, queries.jsonl, qrels/<split>.tsv"
            raise trouble(source, f"there is no {missing}", hint)


def mixture_state(options: MixtureOptions) -> list[FileState]:
    """What tells whether sources changed: the state of each file; of a data set on the Hub, its name."""
    state: list[FileState] = []
    for source in options.sources:
        if source.path.startswith(HUB):
            state.append((source.path, 0, 0, 0))
        files = retrieval_files(source) if source.kind == "retrieval" else source_files(source)
        state += [file_state(path, str(path)) for path in files]
    return state
