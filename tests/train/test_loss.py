"""Equation 3 against a naive float64 reference, and the two ways of computing it against each other."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from gecko.embedder.open import load_model
from gecko.errors import GeckoError
from gecko.train import gradient_cache, groups
from gecko.train.batch import BatchLayout, distinct_texts
from gecko.train.finetune import disable_dropout
from gecko.train.groups import cheapest_cut, length_groups
from gecko.train.loss import GeckoLoss
from gecko.train.loss_options import LossOptions
from gecko.train.total import total


def reference(vectors: np.ndarray, layout: BatchLayout, options: LossOptions) -> float:  # noqa: C901
    """Equation 3 as it is written in the paper, one exponential after the other."""
    queries, positives = layout.queries.tolist(), layout.positives.tolist()
    negatives, has = layout.negatives.tolist(), layout.has_negative.tolist()
    rows = len(queries)
    dims = options.dims or (vectors.shape[1],)
    per_dim = []
    for dim in dims:
        cut = [[float(x) for x in vector[:dim]] for vector in vectors]

        def s(a: int, b: int, cut: list[list[float]] = cut) -> float:
            dot = sum(x * y for x, y in zip(cut[a], cut[b], strict=True))
            norm_a = math.sqrt(sum(x * x for x in cut[a]))
            norm_b = math.sqrt(sum(x * x for x in cut[b]))
            return dot / norm_a / norm_b / options.temperature

        total = 0.0
        for i in range(rows):
            own = math.exp(s(queries[i], positives[i]))
            denominator = own
            for j in range(rows):
                if j == i:
                    continue
                same = queries[j] == queries[i] or positives[j] == positives[i]
                if options.in_batch:
                    duplicate = same or positives[j] == queries[i]
                    if not (options.mask_duplicates and duplicate):
                        denominator += math.exp(s(queries[i], positives[j]))
                if options.same_tower:
                    duplicate = same or queries[j] == positives[i]
                    if not (options.mask_duplicates and duplicate):
                        denominator += math.exp(s(queries[i], queries[j]))
            for slot, negative in enumerate(negatives[i]):
                duplicate = negative in (positives[i], queries[i])
                if has[i][slot] and not (options.mask_duplicates and duplicate):
                    denominator += math.exp(s(queries[i], negative))
            total += -math.log(own / denominator)
        per_dim.append(total / rows)
    return sum(per_dim) / len(per_dim)


def random_batch(seed: int, rows: int, slots: int, texts: int, share: float, width: int = 12):
    """Vectors of ``texts`` distinct texts and rows that draw from them, so that duplicates occur."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(texts, width))
    layout = BatchLayout(
        queries=torch.tensor(rng.integers(0, texts, rows)),
        positives=torch.tensor(rng.integers(0, texts, rows)),
        negatives=torch.tensor(rng.integers(0, texts, (rows, slots)).reshape(rows, slots)),
        has_negative=torch.tensor(rng.random((rows, slots)) < share),
    )
    return vectors, layout


SWITCHES = list(itertools.product([True, False], repeat=3))


@pytest.mark.parametrize(("in_batch", "same_tower", "mask"), SWITCHES)
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("dims", [(), (12, 8, 3), (5,)])
def test_loss_equals_the_written_equation(in_batch: bool, same_tower: bool, mask: bool, share: float, dims) -> None:
    options = LossOptions(0.3, in_batch, same_tower, mask, dims)
    for seed, (slots, texts) in enumerate([(1, 60), (1, 5), (3, 9), (0, 60), (0, 4)]):
        vectors, layout = random_batch(seed, 7, slots, texts, share)
        computed = total(torch.tensor(vectors), layout, options).value.item()
        assert computed == pytest.approx(reference(vectors, layout, options), abs=1e-6)


def dense(vectors: torch.Tensor, layout: BatchLayout, options: LossOptions) -> torch.Tensor:
    """Equation 3 as it was first written: all similarities at once, the gradient left to autograd."""

    def masked(logits: torch.Tensor, excluded: torch.Tensor) -> torch.Tensor:
        return logits.masked_fill(excluded, float("-inf"))

    def equal(own: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        return own[:, None] == other[None, :]

    def at(cut: torch.Tensor) -> torch.Tensor:
        unit = torch.nn.functional.normalize(cut, dim=-1)
        queries, positives = unit[layout.queries], unit[layout.positives]
        own = (queries * positives).sum(-1, keepdim=True) / options.temperature
        terms = [own]
        same_row = torch.eye(len(queries), dtype=torch.bool)
        duplicate = same_row | equal(layout.queries, layout.queries) | equal(layout.positives, layout.positives)
        other_positives = duplicate | equal(layout.queries, layout.positives)
        other_queries = duplicate | equal(layout.positives, layout.queries)
        terms.append(masked(queries @ positives.T / options.temperature, other_positives))
        terms.append(masked(queries @ queries.T / options.temperature, other_queries))
        hard = torch.einsum("bd,bkd->bk", queries, unit[layout.negatives]) / options.temperature
        missing = ~layout.has_negative | (layout.negatives == layout.positives[:, None])
        terms.append(masked(hard, missing | (layout.negatives == layout.queries[:, None])))
        return (torch.logsumexp(torch.cat(terms, dim=1), dim=1) - own.squeeze(1)).mean()

    return torch.stack([at(vectors[:, :dim]) for dim in options.dims]).mean()


@pytest.mark.parametrize("rows", [8, 64])
def test_the_default_loss_and_its_gradient_are_the_first_implementation_s_to_the_last_bit(rows: int) -> None:
    options = LossOptions(dims=(384, 256, 128))
    vectors, layout = random_batch(rows, rows, 1, 2 * rows, 0.8, width=384)
    leaf = torch.tensor(vectors, dtype=torch.float32).requires_grad_()
    expected = dense(leaf, layout, options)
    (gradient,) = torch.autograd.grad(expected, leaf)
    found = total(leaf, layout, options)
    assert torch.equal(found.value, expected.detach())
    assert torch.equal(found.gradient, gradient)
    assert gradient.abs().max() > 1e-3


def test_loss_at_the_default_temperature_and_in_float32() -> None:
    vectors, layout = random_batch(1, 16, 1, 60, 0.7, width=32)
    options = LossOptions(dims=(32, 16))
    computed = total(torch.tensor(vectors, dtype=torch.float32), layout, options).value
    assert computed.dtype == torch.float32
    assert computed.item() == pytest.approx(reference(vectors, layout, options), rel=1e-5)
    half = total(torch.tensor(vectors, dtype=torch.bfloat16), layout, options).value
    assert half.dtype == torch.float32


def test_duplicate_masks_of_a_symmetric_pair() -> None:
    """Rows (A, B) and (B, A): neither side may count against the other."""
    vectors = torch.randn(2, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    layout = BatchLayout(
        torch.tensor([0, 1]), torch.tensor([1, 0]), torch.zeros(2, 0).long(), torch.zeros(2, 0, dtype=torch.bool)
    )
    assert total(vectors, layout, LossOptions()).value.item() == pytest.approx(0.0, abs=1e-12)


def apart(rows: int, slots: int) -> BatchLayout:
    """Every text of the batch is another one."""
    index = torch.arange(rows * (2 + slots))
    return BatchLayout(
        index[:rows],
        index[rows : 2 * rows],
        index[2 * rows :].view(rows, slots),
        torch.ones(rows, slots, dtype=torch.bool),
    )


def test_an_empty_slot_has_no_influence() -> None:
    layout = apart(4, 2)
    layout.has_negative[1, 1] = False
    vectors = torch.randn(16, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    before = total(vectors, layout, LossOptions())
    empty = int(layout.negatives[1, 1])
    assert torch.count_nonzero(before.gradient[empty]) == 0
    assert torch.count_nonzero(before.gradient[int(layout.negatives[1, 0])]) > 0
    changed = vectors.clone()
    changed[empty] = vectors[int(layout.queries[1])]
    assert total(changed, layout, LossOptions()).value.item() == before.value.item()


def test_other_rows_hard_negatives_have_no_influence() -> None:
    layout = apart(4, 1)
    vectors = torch.randn(12, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).requires_grad_()
    unit = torch.nn.functional.normalize(vectors, dim=-1)
    q, p, n = unit[:4], unit[4:8], unit[8:]
    t = 0.05
    row = 0
    terms = torch.cat([p @ q[row], q[1:] @ q[row], (n[row] @ q[row])[None]]) / t
    alone = torch.logsumexp(terms, 0) - p[row] @ q[row] / t
    changed = vectors.detach().clone()
    changed[9:] = torch.randn(3, 8, dtype=torch.float64)
    unit = torch.nn.functional.normalize(changed, dim=-1)
    whole = total(vectors, layout, LossOptions()).value.item() * 4
    others = 0.0
    for i in range(1, 4):
        others_of = [j for j in range(4) if j != i]
        parts = torch.cat([p @ q[i], q[others_of] @ q[i], (n[i] @ q[i])[None]]) / t
        others += (torch.logsumexp(parts, 0) - p[i] @ q[i] / t).item()
    assert whole == pytest.approx(alone.item() + others, abs=1e-9)
    # Moving row 3's negative onto row 0's query changes row 3's own term only.
    moved = vectors.detach().clone()
    moved[11] = moved[0]
    moved_unit = torch.nn.functional.normalize(moved, dim=-1)
    i, others_of = 3, [0, 1, 2]
    before = torch.cat([p @ q[i], q[others_of] @ q[i], (n[i] @ q[i])[None]]) / t
    after = torch.cat([p @ q[i], q[others_of] @ q[i], (moved_unit[11] @ q[i])[None]]) / t
    difference = (torch.logsumexp(after, 0) - torch.logsumexp(before, 0)).item()
    assert total(moved, layout, LossOptions()).value.item() * 4 == pytest.approx(whole + difference, abs=1e-9)


def features(*texts: list[int], width: int | None = None, pad: int = 0) -> dict[str, torch.Tensor]:
    longest = width or max(len(text) for text in texts)
    ids = torch.tensor([text + [pad] * (longest - len(text)) for text in texts])
    mask = torch.tensor([[1] * len(text) + [0] * (longest - len(text)) for text in texts])
    return {"input_ids": ids, "attention_mask": mask, "sentence_embedding": torch.zeros(len(texts), 3)}


@pytest.mark.parametrize("pad", [0, 1, 9])
def test_distinct_texts_ignores_padding(pad: int) -> None:
    left = features([5, 6], [7], [5, 6], pad=pad)
    right = features([7], [5, 6, 8], [5, 6], width=6, pad=pad)
    texts, places = distinct_texts([left, right])
    assert len(texts["input_ids"]) == 3
    assert set(texts) == {"input_ids", "attention_mask"}
    assert places[0] == places[2] == places[5]
    assert places[1] == places[3]
    kept = [row[mask.bool()].tolist() for row, mask in zip(texts["input_ids"], texts["attention_mask"], strict=True)]
    assert [kept[int(place)] for place in places] == [[5, 6], [7], [5, 6], [7], [5, 6, 8], [5, 6]]


def test_a_token_with_the_paddings_id_is_no_padding() -> None:
    texts, places = distinct_texts([features([5, 0], [5], width=2)])
    assert len(texts["input_ids"]) == 2
    assert places[0] != places[1]


def test_length_groups_cover_every_text_once() -> None:
    texts = features([1], [2, 2, 2], [3, 3], [4, 4, 4, 4], [5])
    found, order = length_groups(texts, 2)
    assert [group["input_ids"].shape for group in found] == [(2, 4), (1, 2), (2, 1)]
    firsts = torch.cat([group["input_ids"][:, 0] for group in found])
    assert firsts[order].tolist() == [1, 2, 3, 4, 5]


def test_length_groups_of_so_many_tokens() -> None:
    texts = features([1], [2, 2, 2], [3, 3], [4, 4, 4, 4, 4, 4, 4], [5], [6, 6])
    found, order = length_groups(texts, 99, tokens=6)
    assert [group["input_ids"].shape for group in found] == [(1, 7), (2, 3), (3, 2)]
    firsts = torch.cat([group["input_ids"][:, 0] for group in found])
    assert firsts[order].tolist() == [1, 2, 3, 4, 5, 6]
    assert len(length_groups(texts, 1, tokens=10**6)[0]) == 1, "the number of texts does not count then"


def test_long_texts_are_not_put_with_short_ones() -> None:
    """Padding sixty short texts to the longest costs more than a group of its own does."""
    texts = features(*[[1] * 10] * 60, *[[2] * 200] * 4)
    assert [group["input_ids"].shape for group in length_groups(texts, 64)[0]] == [(4, 200), (60, 10)]


@pytest.mark.parametrize(("size", "tokens"), [(3, 0), (9, 0), (0, 40), (0, 25), (0, 10**6)])
@pytest.mark.parametrize("cost", [0, 7, 10**6])
def test_texts_are_cut_where_padding_and_groups_cost_least(size: int, tokens: int, cost: int) -> None:
    lengths = sorted(np.random.default_rng(size + tokens + cost).integers(1, 30, 9).tolist())

    def price(sizes: list[int]) -> float:
        total, end = 0, 0
        for count in sizes:
            end += count
            padded = count * lengths[end - 1]
            if count > 1 and (padded > tokens if tokens else count > size):
                return math.inf
            total += padded + cost
        return total

    def cuts(count: int) -> Iterator[list[int]]:
        yield from ([] for _ in range(count == 0))
        for first in range(1, count + 1):
            yield from ([first, *rest] for rest in cuts(count - first))

    found = cheapest_cut(lengths, size, tokens, cost)
    assert sum(found) == len(lengths)
    assert price(found) == min(price(sizes) for sizes in cuts(len(lengths)))


# On the tiny model.


def batch_of(model: Any, words: list[str]) -> tuple[list[dict[str, torch.Tensor]], torch.Tensor]:
    rng = np.random.default_rng(3)
    columns = [[" ".join(rng.choice(words, int(rng.integers(2, 12)))) for _ in range(6)] for _ in range(3)]
    columns[1][4] = columns[1][0]  # two rows share a positive
    columns[2][2] = columns[2][5] = ""  # and two have no negative
    labels = torch.tensor([1, 1, 0, 1, 1, 0])
    return [dict(model.tokenize(column)) for column in columns], labels


def gradients(model: Any, options: LossOptions, batch, scale: float = 1.0) -> tuple[float, dict[str, torch.Tensor]]:
    model.zero_grad(set_to_none=True)
    torch.manual_seed(11)
    value = GeckoLoss(model, options)(*batch)
    (value * scale).backward()
    return value.item(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("scale", [1.0, 3.0])
@pytest.mark.parametrize(("mini_batch", "mini_tokens"), [(1, 0), (4, 0), (64, 0), (0, 1), (4, 40), (0, 10**6)])
def test_cached_equals_plain(
    tiny_model: str, words: list[str], mini_batch: int, mini_tokens: int, scale: float
) -> None:
    model = load_model(tiny_model, device="cpu")
    disable_dropout(model)
    model.train()
    batch = batch_of(model, words)
    plain, expected = gradients(model, LossOptions(dims=(32, 16)), batch, scale)
    cached, found = gradients(
        model, LossOptions(dims=(32, 16), mini_batch=mini_batch, mini_tokens=mini_tokens), batch, scale
    )
    assert cached == pytest.approx(plain, abs=1e-5)
    assert expected.keys() == found.keys()
    assert len(found) > 20
    assert max(float(g.abs().max()) for g in expected.values()) > 1e-2
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_cached_replays_dropout(
    tiny_model: str, words: list[str], monkeypatch: pytest.MonkeyPatch, scale: float
) -> None:
    monkeypatch.setattr(gradient_cache, "_GROUP", 4)  # the same groups draw the same dropout
    model = load_model(tiny_model, device="cpu")
    model.train()
    batch = batch_of(model, words)
    plain, expected = gradients(model, LossOptions(), batch, scale)
    cached, found = gradients(model, LossOptions(mini_batch=4), batch, scale)
    assert cached == pytest.approx(plain, abs=1e-5)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=1e-4, msg=name)
    model.eval()
    without, _ = gradients(model, LossOptions(), batch)
    assert abs(without - plain) > 1e-3, "the test needs dropout that does something"


def test_the_replay_leaves_the_random_stream_alone(tiny_model: str, words: list[str]) -> None:
    model = load_model(tiny_model, device="cpu")
    model.train()
    batch = batch_of(model, words)
    value = GeckoLoss(model, LossOptions(mini_batch=4))(*batch)
    state = torch.get_rng_state()
    value.backward()
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("mini_batch", [0, 4])
def test_each_distinct_text_is_encoded_once(tiny_model: str, words: list[str], mini_batch: int) -> None:
    model = load_model(tiny_model, device="cpu")
    columns, labels = batch_of(model, words)
    columns.append(dict(columns[2]))
    loss = GeckoLoss(model, LossOptions(mini_batch=mini_batch))
    seen: list[tuple[int, ...]] = []

    def count(_module: Any, inputs: tuple[dict[str, torch.Tensor], ...]) -> None:
        for ids, mask in zip(inputs[0]["input_ids"], inputs[0]["attention_mask"], strict=True):
            seen.append(tuple(ids[mask.bool()].tolist()))

    handle = model.register_forward_pre_hook(count)
    with torch.no_grad():
        loss(columns, labels)
    handle.remove()
    distinct = {
        tuple(ids[mask.bool()].tolist())
        for column in columns
        for ids, mask in zip(column["input_ids"], column["attention_mask"], strict=True)
    }
    assert len(seen) == len(distinct) == 16
    assert set(seen) == distinct


@pytest.mark.parametrize(
    ("options", "once"),
    [
        ({}, 16),
        ({"mini_batch": 16}, 16),  # it fits in one: no second pass
        ({"mini_batch": 15}, 15),
        ({"mini_batch": 5}, 5),
        ({"mini_batch": 1}, 1),
        ({"mini_tokens": 16 * 48}, 16),
        ({"mini_tokens": 40}, 4),
        ({"mini_tokens": 1}, 1),
    ],
)
def test_one_mini_batch_is_encoded_once(
    tiny_model: str, words: list[str], monkeypatch: pytest.MonkeyPatch, options: dict[str, int], once: int
) -> None:
    """The others are encoded twice, and no mini-batch is larger than the options say."""
    monkeypatch.setattr(groups, "_GROUP_COST", 0)  # so that texts of every length are a group
    model = load_model(tiny_model, device="cpu")
    batch = batch_of(model, words)
    calls: list[tuple[int, int]] = []
    seen: Counter[tuple[int, ...]] = Counter()

    def count(_module: Any, inputs: tuple[dict[str, torch.Tensor], ...]) -> None:
        ids, mask = inputs[0]["input_ids"], inputs[0]["attention_mask"]
        calls.append(tuple(ids.shape))
        seen.update(tuple(row[kept.bool()].tolist()) for row, kept in zip(ids, mask, strict=True))

    handle = model.register_forward_pre_hook(count)
    GeckoLoss(model, LossOptions(**options))(*batch).backward()
    handle.remove()
    lengths = {times: [len(text) for text in seen if seen[text] == times] for times in (1, 2)}
    assert (len(lengths[1]), len(lengths[2])) == (once, 16 - once)
    if "mini_tokens" in options:
        assert all(rows == 1 or rows * width <= options["mini_tokens"] for rows, width in calls)
        assert once == 1 or sum(lengths[1]) <= options["mini_tokens"]
    elif options:
        assert all(rows <= options["mini_batch"] for rows, _ in calls)


def test_a_loss_that_is_not_a_number_stops_the_training(tiny_model: str, words: list[str]) -> None:
    model = load_model(tiny_model, device="cpu")
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    with pytest.raises(GeckoError, match="not a number") as caught:
        GeckoLoss(model, LossOptions())(*batch_of(model, words))
    assert "train.learning_rate" in caught.value.hint


def test_more_negatives_than_columns_is_an_error(tiny_model: str, words: list[str]) -> None:
    model = load_model(tiny_model, device="cpu")
    columns, labels = batch_of(model, words)
    with pytest.raises(ValueError, match="2 negatives in 1 columns"):
        GeckoLoss(model, LossOptions())(columns, labels + 1)


def test_an_empty_negative_changes_nothing_end_to_end(tiny_model: str, words: list[str]) -> None:
    model = load_model(tiny_model, device="cpu")
    model.eval()
    columns, labels = batch_of(model, words)
    loss = GeckoLoss(model, LossOptions())
    with torch.no_grad():
        with_slot = loss(columns, torch.zeros_like(labels)).item()
        without_column = loss(columns[:2], torch.zeros_like(labels)).item()
        graded = loss(columns, labels).item()
    assert with_slot == pytest.approx(without_column, abs=1e-6)
    assert graded > with_slot
