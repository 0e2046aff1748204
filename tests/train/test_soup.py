"""Blends of two models, and soups of several."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from typer.testing import CliRunner

from gecko.cli import app
from gecko.embedder.open import load_model
from gecko.embedder.save import save_model
from gecko.errors import GeckoError, UsageError
from gecko.mixture.format import model_prompts, render_passage
from gecko.recipe import TrainOptions
from gecko.records import UnifiedRow
from gecko.train import weights as weights_module
from gecko.train.finetune import finetune
from gecko.train.soup import interpolate, make_soup, merge_weights
from gecko.train.student_options import BackboneOptions, SoupOptions


@pytest.mark.parametrize("alpha", [0.0, 0.25, 0.5, 1.0])
def test_every_weight_lies_between_the_two(tiny_model: str, alpha: float) -> None:
    base, tuned = load_model(tiny_model, device="cpu"), load_model(tiny_model, device="cpu")
    with torch.no_grad():
        for parameter in tuned.parameters():
            parameter.add_(torch.randn_like(parameter))
    tuned.prompts = {"query": "q: ", "document": "d: "}
    before = {name: value.clone() for name, value in tuned.state_dict().items()}
    start = {name: value.clone() for name, value in base.state_dict().items()}
    blend = interpolate(base, tuned, alpha)
    for name, value in blend.state_dict().items():
        torch.testing.assert_close(value, (1 - alpha) * start[name] + alpha * before[name], atol=1e-6, rtol=0)
    if alpha in (0.0, 1.0):
        exact = start if alpha == 0 else before
        assert all(torch.equal(value, exact[name]) for name, value in blend.state_dict().items())
    assert blend.prompts == tuned.prompts
    assert all(torch.equal(value, before[name]) for name, value in tuned.state_dict().items())
    assert all(torch.equal(value, start[name]) for name, value in base.state_dict().items())


def state(*values: float, **others: Any) -> dict[str, torch.Tensor]:
    return {"w": torch.tensor(values, dtype=torch.float32), **others}


@pytest.fixture
def models(tiny_model: str, tmp_path: Path) -> list[str]:
    """Three models of one architecture with weights of their own, saved."""
    made = []
    for number in range(3):
        model = load_model(tiny_model, device="cpu")
        torch.manual_seed(number)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        model.prompts = model_prompts("gecko")
        save_model(model, tmp_path / f"run{number}" / "model")
        made.append(str(tmp_path / f"run{number}" / "model"))
    return made


def weights(model: Path | str) -> dict[str, torch.Tensor]:
    return load_model(str(model), device="cpu").state_dict()


@pytest.mark.parametrize("method", ["mean", "slerp"])
def test_a_soup_of_equal_models_is_the_model(tiny_model: str, method: Any) -> None:
    own = weights(tiny_model)
    merged = merge_weights([own] * 3, [1.0, 2.0, 4.0], method)
    assert all(torch.equal(value, own[name]) for name, value in merged.items())
    assert all(value.data_ptr() != own[name].data_ptr() for name, value in merged.items())


def test_the_mean_is_that_of_the_weights_by_their_shares() -> None:
    states = [state(1, 2), state(3, -2), state(5, 9)]
    assert merge_weights(states[:2], [1, 1])["w"].tolist() == [2, 0]
    assert merge_weights(states, [1, 1, 2])["w"].tolist() == [3.5, 4.5]
    assert merge_weights(states, [0, 0, 3])["w"].tolist() == [5, 9]
    assert merge_weights(states, [2, 0, 0])["w"].tolist() == [1, 2]


def test_sums_are_taken_in_float64() -> None:
    """In float32 the small weight would be lost beside the large one."""
    merged = merge_weights([state(1e8), state(1.0), state(-1e8), state(3.0)], [1.0] * 4)
    assert merged["w"].item() == 1.0
    assert merged["w"].dtype == torch.float32


def test_what_is_no_number_of_the_model_is_the_first_one_s() -> None:
    ids = {"ids": torch.arange(3)}
    assert merge_weights([state(1, **ids), state(3, **ids)], [1, 1])["ids"].tolist() == [0, 1, 2]


def test_slerp_goes_along_the_arc() -> None:
    first, second = state(1, 0), state(0, 1)
    for share in (0.0, 0.25, 0.5, 1.0):
        merged = merge_weights([first, second], [1 - share, share], "slerp")["w"]
        angle = share * math.pi / 2
        torch.testing.assert_close(merged, torch.tensor([math.cos(angle), math.sin(angle)]), atol=1e-7, rtol=0)
    half = math.sin(math.pi / 4) * (2 + 3)  # lengths are interpolated with the direction: 2 and 3 at right angles
    merged = merge_weights([state(2, 0), state(0, 3)], [1, 1], "slerp")["w"]
    torch.testing.assert_close(merged.sum(), torch.tensor(half), atol=1e-6, rtol=0)


def test_slerp_ends_at_the_models(models: list[str]) -> None:
    first, second = weights(models[0]), weights(models[1])
    for shares, expected in (([1.0, 0.0], first), ([0.0, 1.0], second)):
        merged = merge_weights([first, second], shares, "slerp")
        assert all(torch.equal(value, expected[name]) for name, value in merged.items())


def test_slerp_of_parallel_and_of_zero_weights_is_the_straight_line() -> None:
    for other in ([2.0, 2.0], [-1.0, -1.0], [0.0, 0.0]):
        merged = merge_weights([state(1, 1), state(*other)], [1, 1], "slerp")["w"]
        assert merged.tolist() == [(1 + other[0]) / 2] * 2


def test_a_soup_of_saved_models_says_what_it_is_made_of(models: list[str], tmp_path: Path) -> None:
    made = make_soup(models, tmp_path / "soup", weights=[1, 1, 2])
    assert made["weights"] == [0.25, 0.25, 0.5]
    each = [weights(model) for model in models]
    for name, value in weights(tmp_path / "soup").items():
        expected = sum(share * own[name].double() for share, own in zip((0.25, 0.25, 0.5), each, strict=True))
        torch.testing.assert_close(value.double(), expected, atol=1e-7, rtol=0)
    loaded = SentenceTransformer(str(tmp_path / "soup"), device="cpu")
    assert loaded.prompts["document"] == model_prompts("gecko")["document"]
    card = (tmp_path / "soup" / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert front["base_model"] == ["run0/model", "run1/model", "run2/model"]
    assert "0.5 x run2/model" in card
    assert str(tmp_path) not in card, "nothing of this machine"


def changed(model: str, out: Path, change: Any) -> str:
    loaded = load_model(model, device="cpu")
    change(loaded)
    save_model(loaded, out)
    return str(out)


def test_models_that_do_not_go_together_are_refused(models: list[str], tiny_model: str, tmp_path: Path) -> None:
    from sentence_transformers.models import Pooling

    def prompts(model: Any) -> None:
        model.prompts = {"query": "q: ", "document": ""}

    def pooling(model: Any) -> None:
        model[1] = Pooling(32, pooling_mode="cls")

    def attention(model: Any) -> None:
        model[0].auto_model.config.is_causal = False

    def tokenizer(model: Any) -> None:
        model.tokenizer.add_tokens(["wombat"])

    def shape(model: Any) -> None:
        model[0].auto_model.resize_token_embeddings(200)

    def window(model: Any) -> None:
        model.max_seq_length = 20

    def fewer(model: Any) -> None:
        del model[2]

    for words, change in (
        ("prompts", prompts),
        ("pooling", pooling),
        ("configuration", attention),
        ("tokenizer", tokenizer),
        ("configuration", shape),
        ("longest text", window),
        ("modules", fewer),
    ):
        other = changed(models[1], tmp_path / change.__name__, change)
        with pytest.raises(GeckoError, match="differ in their") as caught:
            make_soup([models[0], other], tmp_path / "soup")
        assert ("configuration" if words == "pooling" else words) in caught.value.message
        assert caught.value.hint
        assert not (tmp_path / "soup").exists()


def test_what_makes_no_soup_is_refused(models: list[str], tmp_path: Path) -> None:
    for given, options, words in (
        (models[:1], {}, "two models or more"),
        (models, {"weights": [1, 1]}, "2 weights for 3 models"),
        (models[:2], {"weights": [1, -1]}, "not all 0 or more"),
        (models[:2], {"weights": [0, 0]}, "not all 0 or more"),
        (models[:2], {"weights": [float("nan"), 1]}, "not all 0 or more"),
    ):
        with pytest.raises(UsageError, match=words):
            make_soup(given, tmp_path / "soup", **options)
    with pytest.raises(UsageError, match="is one of the models"):
        make_soup(models[:2], Path(models[1]))
    assert (Path(models[1]) / "modules.json").exists()


def test_the_verb_makes_a_soup(models: list[str], tmp_path: Path) -> None:
    run = CliRunner()
    out = tmp_path / "soup"
    done = run.invoke(app, ["soup", *models[:2], "--out", str(out), "--weights", "1,3", "--method", "slerp", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["weights"] == [0.25, 0.75]
    expected = merge_weights([weights(model) for model in models[:2]], [1, 3], "slerp")
    for name, value in load_file(out / "model.safetensors").items():
        torch.testing.assert_close(value, expected[f"0.model.{name}"], atol=1e-7, rtol=0)
    for options, words in ((["--weights", "1,x"], "expected numbers"), (["--method", "median"], "no such method")):
        failed = run.invoke(app, ["soup", *models[:2], "--out", str(tmp_path / "no"), *options])
        assert failed.exit_code == 2
        assert words in failed.stderr


@pytest.mark.parametrize("lora", [0, 4])
def test_a_training_s_last_checkpoints_make_its_model(
    tiny_model: str, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lora: int
) -> None:
    draw = random.Random(0)
    rows = [
        UnifiedRow(str(n), "search result", f"{word} {draw.choice(words)}", render_passage(word, f"{word} the {word}"))
        for n, word in enumerate(words[:16])
    ]
    options = TrainOptions(
        student=tiny_model, epochs=5.0, batch_size=8, learning_rate=5e-3, dims=(32,), max_length=32, bf16=False,
        backbone=BackboneOptions.model_validate({"lora": {"rank": lora}}), soup=SoupOptions(last=3),
    )  # fmt: skip
    seen: list[dict[str, torch.Tensor]] = []
    merge = weights_module.merge_weights

    def recording(states: Any, shares: Any, method: Any) -> Any:
        def each() -> Any:
            for one in states:
                seen.append({name: value.clone() for name, value in one.items()})
                yield one

        return merge(each(), shares, method)

    monkeypatch.setattr(weights_module, "merge_weights", recording)
    told: list[str] = []
    history = finetune(rows, options, tmp_path / "soup" / "model", tell=told.append)
    assert history["soup"] == [6, 8, 10]
    assert told[-1] == "merged from the checkpoints of steps 6, 8, 10"
    assert len(seen) == 3
    plain = finetune(rows, options.model_copy(update={"soup": SoupOptions()}), tmp_path / "last" / "model")
    assert plain["soup"] == []
    last = weights(tmp_path / "last" / "model")
    moved = 0
    for name, value in weights(tmp_path / "soup" / "model").items():
        torch.testing.assert_close(seen[2][name], last[name], atol=1e-6, rtol=0)
        expected = (seen[0][name].double() + seen[1][name].double() + seen[2][name].double()) / 3
        torch.testing.assert_close(value.double(), expected, atol=1e-6, rtol=0)
        moved += int(not torch.equal(seen[0][name], seen[2][name]))
    assert moved, "the checkpoints must differ for this test to say anything"
