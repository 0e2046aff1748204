"""Which rows stand in which batch: shares, single sources, and the same batches after an interruption."""

from __future__ import annotations

import json
import pickle
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from gecko.errors import GeckoError
from gecko.mixture.describe import describe_mixture, mixture_lines
from gecko.mixture.format import render_query
from gecko.mixture.options import MixtureOptions
from gecko.mixture.sampler import BatchPlan, PlannedBatches, plan_batches, planned_batches, row_kinds
from gecko.records import UnifiedRow


def options(*names: str, weights: dict[str, float] | None = None, **more: Any) -> MixtureOptions:
    weights = weights or {}
    sources = [{"path": name, "kind": "pairs", "weight": weights.get(name)} for name in names]
    return MixtureOptions.model_validate({"sources": sources, **more})


def mixed(**sizes: int) -> list[str]:
    return [name for name, size in sizes.items() for _ in range(size)]


def plan(sources: list[str], chosen: MixtureOptions, **more: Any) -> BatchPlan:
    values: dict[str, Any] = {"batch_size": 8, "epochs": 2.0, "seed": 0, **more}
    return plan_batches(sources, values.pop("batch_size"), chosen, **values)


def drawn(made: BatchPlan) -> list[list[int]]:
    return [batch.tolist() for batch in made.batches()]


EVERY = [
    {"sampling": "proportional"},
    {"sampling": "temperature"},
    {"sampling": "uniform_task"},
    {"sampling": "weights", "fret_weight": 1.0},
]


@pytest.mark.parametrize("single_source", [True, False])
@pytest.mark.parametrize("chosen", EVERY, ids=lambda value: value["sampling"])
def test_batches_hold_no_row_twice_and_one_source_where_asked(chosen: dict[str, Any], single_source: bool) -> None:
    sources = mixed(fret=70, a=100, small=3)
    weights = {"a": 2.0, "small": 3.0} if chosen["sampling"] == "weights" else None
    made = plan(sources, options("a", "small", weights=weights, single_source=single_source, **chosen), kinds=sources)
    batches = drawn(made)
    assert len(batches) == made.steps
    for batch in batches:
        of = {sources[row] for row in batch}
        assert len(set(batch)) == len(batch)
        assert len(of) == 1 or not single_source
        assert len(batch) <= 8
        assert not single_source or of != {"small"} or len(batch) == 3
    assert any(sources[row] == "small" for batch in batches for row in batch)


def test_proportional_draws_every_row_once_an_epoch() -> None:
    made = plan(mixed(fret=70, a=100, small=3), options("a", "small"), epochs=3)
    assert made.steps == 3 * (9 + 13 + 1)
    assert set(Counter(row for batch in drawn(made) for row in batch).values()) == {3}
    sizes = [len(batch) for batch in made.epoch(0)]
    assert sorted(sizes)[:2] == [3, 7]  # 70 rows in 9 batches: no tiny rest


@pytest.mark.parametrize(
    ("chosen", "shares"),
    [
        ({"sampling": "temperature", "temperature": 2.0}, {"fret": 20 / 35, "a": 10 / 35, "b": 5 / 35}),
        ({"sampling": "temperature", "temperature": 1.0}, {"fret": 400 / 525, "a": 100 / 525, "b": 25 / 525}),
        ({"sampling": "weights", "fret_weight": 1.0}, {"fret": 0.25, "a": 0.25, "b": 0.5}),
    ],
)
@pytest.mark.parametrize("single_source", [True, False])
def test_shares(chosen: dict[str, Any], shares: dict[str, float], single_source: bool) -> None:
    sources = mixed(fret=400, a=100, b=25)
    weights = {"a": 1.0, "b": 2.0} if chosen["sampling"] == "weights" else None
    made = plan(sources, options("a", "b", weights=weights, single_source=single_source, **chosen), epochs=10)
    counted = Counter(sources[row] for batch in drawn(made) for row in batch)
    for name, share in shares.items():
        assert counted[name] / counted.total() == pytest.approx(share, abs=0.005)
    # within a source, all rows alike
    times = Counter(row for batch in drawn(made) for row in batch if sources[row] == "b")
    assert max(times.values()) - min(times.values()) <= 10


@pytest.mark.parametrize("single_source", [True, False])
def test_uniform_task_draws_every_kind_equally_often(single_source: bool) -> None:
    sources = mixed(fret=300, a=200, b=100)
    kinds = ["qa"] * 250 + ["fact"] * 50 + ["class"] * 200 + ["fact"] * 100
    chosen = options("a", "b", sampling="uniform_task", single_source=single_source)
    made = plan(sources, chosen, kinds=kinds, epochs=10)
    counted = Counter(kinds[row] for batch in drawn(made) for row in batch)
    for kind in ("qa", "fact", "class"):
        assert counted[kind] / counted.total() == pytest.approx(1 / 3, abs=0.01)
    facts = Counter(sources[row] for batch in drawn(made) for row in batch if kinds[row] == "fact")
    assert facts["b"] / facts.total() == pytest.approx(2 / 3, abs=0.03)  # by size among the sources of a kind
    with pytest.raises(ValueError, match="kinds"):
        plan(sources, chosen)


def test_the_kinds_of_rows() -> None:
    chosen = options("a")
    rows = [
        UnifiedRow("1", "Given a claim, find proof.", "q", "p", source="fret"),
        UnifiedRow("2", "Given a claim, find proof.", "q", "p", source="a"),  # its source's first task decides
    ]
    assert row_kinds(rows, chosen) == ["fact checking", "search result"]


@pytest.mark.parametrize("chosen", EVERY[:3], ids=lambda value: value["sampling"])
def test_the_seed_and_the_epoch_decide(chosen: dict[str, Any]) -> None:
    sources = mixed(fret=70, a=100)
    first, again, other = (
        plan(sources, options("a", **chosen), kinds=sources, seed=seed, epochs=2.5) for seed in (1, 1, 2)
    )
    assert drawn(first) == drawn(again)
    assert drawn(first) != drawn(other)
    # An epoch asked for alone is the epoch of the sequence.
    second = [batch.tolist() for batch in first.epoch(1)]
    length = len(list(first.epoch(0)))
    assert drawn(first)[length : length + len(second)] == second
    assert second != drawn(first)[:length]


def test_without_human_sources_it_is_the_trainers_own_order() -> None:
    made = plan(mixed(fret=30), MixtureOptions(), epochs=2)
    assert made.steps == round(2 * 30 / 8)
    orders = [torch.randperm(30, generator=torch.Generator().manual_seed(epoch)).tolist() for epoch in range(3)]
    expected = [order[first : first + 8] for order in orders for first in (0, 8, 16)]
    assert drawn(made) == expected[: made.steps]
    assert [len(batch) for batch in drawn(plan(mixed(fret=5), MixtureOptions(), epochs=4))] == [5, 5]


def test_processes_get_equal_parts_of_one_source() -> None:
    from accelerate.data_loader import BatchSamplerShard

    sources = mixed(fret=70, a=100, small=5)
    made = plan(sources, options("a", "small"), processes=2)
    shards = [list(BatchSamplerShard(PlannedBatches(made), 2, rank)) for rank in range(2)]
    assert [len(shard) for shard in shards] == [made.steps] * 2
    for one, other in zip(*shards, strict=True):
        assert len(one) == len(other) > 0
        assert len({sources[row] for row in [*one, *other]}) == 1
        assert not set(one) & set(other)
    with pytest.raises(GeckoError, match="small has 5 rows for 8 processes"):
        plan(sources, options("a", "small"), processes=8)
    with pytest.raises(GeckoError, match="a batch has 3 rows for 4 processes") as caught:
        plan(sources, options("a", "small"), processes=4, batch_size=3)
    assert "train.batch_size" in caught.value.hint


@pytest.mark.parametrize(("batch_size", "processes"), [(5, 1), (4, 4), (5, 2), (8, 3), (8, 4), (5, 5)])
@pytest.mark.parametrize("single_source", [True, False])
@pytest.mark.parametrize("chosen", EVERY, ids=lambda value: value["sampling"])
def test_every_process_gets_as_many_batches_and_rows_as_are_told(
    chosen: dict[str, Any], single_source: bool, batch_size: int, processes: int
) -> None:
    from accelerate.data_loader import BatchSamplerShard

    weights = {"a": 2.0, "small": 3.0} if chosen["sampling"] == "weights" else None
    mixture = options("a", "small", weights=weights, single_source=single_source, **chosen)
    draw = random.Random(batch_size * processes)
    for small in (5, draw.randrange(5, 12), draw.randrange(12, 40)):
        sources = mixed(fret=draw.randrange(20, 90), a=draw.randrange(20, 50), small=small)
        made = plan(sources, mixture, kinds=sources, batch_size=batch_size, processes=processes, epochs=3)
        sampler = PlannedBatches(made)
        parts = list(sampler)
        assert len(sampler) == len(parts) == made.steps * processes
        shards = [list(BatchSamplerShard(sampler, processes, rank)) for rank in range(processes)]
        assert [len(shard) for shard in shards] == [made.steps] * processes
        for of_a_step in zip(*shards, strict=True):
            (size,) = {len(part) for part in of_a_step}
            assert 1 <= size <= batch_size // processes
            step = [row for part in of_a_step for row in part]
            assert len(set(step)) == len(step)
            assert len({sources[row] for row in step}) == 1 or not single_source
        counted = Counter(row for part in parts for row in part)
        assert {sources[row] for row in counted} == {"fret", "a", "small"}
        if chosen["sampling"] == "proportional" and single_source:
            assert max(counted.values()) <= 3, "no row twice an epoch"
            drawn_of = Counter(sources[row] for part in parts for row in part)
            # An epoch leaves less than a row for each process out of a source.
            assert drawn_of == {name: 3 * (size - size % processes) for name, size in Counter(sources).items()}
        rows = [UnifiedRow(str(row), "a word", "q", "p", source=name) for row, name in enumerate(sources)]
        facts = describe_mixture(rows, made, mixture)
        assert sum(source["draws"] for source in facts["sources"]) == counted.total(), "what is told is what is drawn"


@pytest.fixture
def rows(words: list[str]) -> list[UnifiedRow]:
    return [
        UnifiedRow(
            f"{source}{n}",
            "search result",
            f"{words[n]} {words[n + 1]}",
            f"title: none | text: {words[n]}",
            source=source,
        )
        for source, size in (("fret", 20), ("a", 13), ("small", 3))
        for n in range(size)
    ]


def trainer(
    model: Any, rows: list[UnifiedRow], folder: Path, made: BatchPlan | None, steps: int, seen: list[str]
) -> Any:
    from datasets import Dataset
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
    from sentence_transformers.losses import MultipleNegativesRankingLoss
    from transformers import TrainerCallback

    class Stop(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            control.should_training_stop = state.global_step >= steps

    more = {} if made is None else {"batch_sampler": planned_batches(made)}
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(folder),
        max_steps=made.steps if made else 7,
        per_device_train_batch_size=8,
        use_cpu=True,
        seed=3,
        data_seed=3,
        dataloader_drop_last=True,
        save_strategy="steps",
        save_steps=4,
        report_to="none",
        disable_tqdm=True,
        **more,
    )
    data = Dataset.from_dict(
        {"query": [render_query(row.task, row.query) for row in rows], "positive": [row.positive for row in rows]}
    )
    built = SentenceTransformerTrainer(
        model=model, args=arguments, train_dataset=data, loss=MultipleNegativesRankingLoss(model), callbacks=[Stop()]
    )
    collate = built.data_collator

    def watched(features: list[dict[str, Any]]) -> Any:
        seen.append("|".join(feature["query"] for feature in features))
        return collate(features)

    watched.valid_label_columns = collate.valid_label_columns  # type: ignore[attr-defined]
    built.data_collator = watched
    return built


def model_of(tiny_model: str) -> Any:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(tiny_model, device="cpu")


def test_a_resumed_training_draws_what_it_would_have_drawn(
    rows: list[UnifiedRow], tiny_model: str, tmp_path: Path
) -> None:
    made = plan([row.source for row in rows], options("a", "small", sampling="temperature"), seed=3)
    expected = ["|".join(render_query(rows[r].task, rows[r].query) for r in batch) for batch in drawn(made)]
    straight: list[str] = []
    whole = trainer(model_of(tiny_model), rows, tmp_path / "whole", made, 99, straight)
    whole.train()
    assert whole.state.global_step == made.steps
    assert straight == expected
    first, rest = [], []
    trainer(model_of(tiny_model), rows, tmp_path / "cut", made, 4, first).train()
    resumed = trainer(model_of(tiny_model), rows, tmp_path / "cut", made, 99, rest)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == made.steps
    assert rest == expected[4:]
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name])


def test_the_plan_draws_for_fret_alone_what_the_trainer_draws_itself(
    rows: list[UnifiedRow], tiny_model: str, tmp_path: Path
) -> None:
    fret = rows[:20]
    own: list[str] = []
    trainer(model_of(tiny_model), fret, tmp_path, None, 5, own).train()
    made = plan(["fret"] * 20, MixtureOptions(), seed=3, epochs=2)
    assert own[:5] == ["|".join(render_query(fret[r].task, fret[r].query) for r in batch) for batch in drawn(made)]


def test_the_sampler_can_be_pickled() -> None:
    made = plan(mixed(fret=30, a=20), options("a"))
    again = pickle.loads(pickle.dumps(planned_batches(made)))
    assert list(again(None, batch_size=8, drop_last=True)) == list(PlannedBatches(made))


def test_what_will_be_drawn_is_counted_beforehand(rows: list[UnifiedRow]) -> None:
    chosen = MixtureOptions.model_validate(
        {"sources": [{"path": "a", "kind": "pairs", "same_tower": False}, {"path": "small", "kind": "sts"}]}
    )
    made = plan([row.source for row in rows], chosen, epochs=2)
    facts = json.loads(json.dumps(describe_mixture(rows, made, chosen)))
    assert facts["steps"] == made.steps == 12
    by_name = {source["source"]: source for source in facts["sources"]}
    assert {name: (source["rows"], source["epochs"]) for name, source in by_name.items()} == {
        "fret": (20, 2.0),
        "a": (13, 2.0),
        "small": (3, 2.0),
    }
    assert by_name["a"]["same_tower"] is False
    assert by_name["fret"]["kind"] == "fret"
    assert by_name["small"]["batches"] == 2
    assert sum(source["share"] for source in facts["sources"]) == pytest.approx(1, abs=1e-3)
    assert facts["tasks"] == {"search result": 0.9167, "semantic similarity": 0.0833}
    lines = "\n".join(mixture_lines(facts))
    assert "36 rows, 12 steps of 8" in lines
    assert "(off: same_tower)" in lines
