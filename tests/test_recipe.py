"""The recipe: YAML, command line and Python say the same, and what is wrong is named."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from gecko.errors import UsageError
from gecko.recipe import Recipe, dump_recipe, load_recipe

SETTINGS = """
seed: 7
corpus: {sources: [docs, "wiki é.jsonl"]}
teacher: {spec: offline, ranker: "openai:some-model"}
fret: {limit: 10, negative: last, styles: {question: 0.5, keywords: 0.5}}
train: {epochs: 0.5, dims: [128, 64], bf16: false, text_format: plain}
gate: {alphas: [0.5, 1.0], probe: false}
prefinetune: {corpus: true, sources: [{path: faq.csv, kind: pairs}, {path: a, kind: bitext, task: [x, y]}]}
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("text", ["", SETTINGS])
def test_yaml_round_trip(tmp_path: Path, text: str) -> None:
    recipe = load_recipe(write(tmp_path, text))
    again = load_recipe(write(tmp_path, dump_recipe(recipe)))
    assert again == recipe
    assert dump_recipe(again) == dump_recipe(recipe)


def test_values_of_the_file_and_defaults(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, SETTINGS))
    assert recipe.corpus.sources == ("docs", "wiki é.jsonl")
    assert recipe.train.dims == (128, 64)
    assert recipe.train.text_format == "plain"
    assert recipe.train.batch_size == Recipe().train.batch_size
    assert load_recipe(write(tmp_path, "")) == load_recipe(None) == Recipe()


def test_overrides_lie_over_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, SETTINGS)
    recipe = load_recipe(path, ["fret.limit=3", "train.dims=[32]", "teacher.spec=recorded:x", "seed=1"], ["a", "b"])
    assert (recipe.fret.limit, recipe.fret.negative) == (3, "last")
    assert recipe.train.dims == (32,)
    assert recipe.teacher.spec == "recorded:x"
    assert recipe.seed == 1
    assert recipe.corpus.sources == ("a", "b")


def test_an_override_may_hold_an_equals_sign() -> None:
    assert load_recipe(None, ["teacher.spec=openai:x?a=b"]).teacher.spec == "openai:x?a=b"


@pytest.mark.parametrize(
    ("override", "suggestion"),
    [
        ("train.epoch=1", "train.epochs"),
        ("fret.limits=1", "fret.limit"),
        ("tran.epochs=1", "train"),
        ("sede=1", "seed"),
        ("train.listwise.weigth=1", "train.listwise.weight"),
        ("train.gaurd={}", "train.guard"),
    ],
)
def test_a_typo_gets_a_suggestion(override: str, suggestion: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_recipe(None, [override])
    assert override.partition("=")[0].split(".")[0] in caught.value.message
    assert suggestion in caught.value.hint
    assert "\n" not in caught.value.message


def test_an_unknown_key_in_the_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"train\.batchsize") as caught:
        load_recipe(write(tmp_path, "train: {batchsize: 3}"))
    assert caught.value.hint == "did you mean train.batch_size?"


@pytest.mark.parametrize(
    "override",
    [
        *["train.epochs=0", "train.epochs=many", "fret.negative=worst", "gate.dev_share=2", "train=3"],
        *["train.batch_size=1", "train.epochs=.inf", "train.learning_rate=.nan", "fret.min_positive_rc=.inf"],
        *["seed=-1", "seed=12345678901234567890", "train.dims=[0, -5]", "evaluation.dims=[0]"],
        *[
            "train.hardness.alpha=-1",
            "train.listwise.temperature=0",
            "train.guard.kind=near",
            "train.candidates.count=0",
            "prefinetune.corpus_task=' '",
            "prefinetune.batch_size=1",
            "prefinetune.max_steps=0",
            "prefinetune.corpus=maybe",
        ],
        *["train.contrast=-1", "train.distill.embedder=3", "train.positives.extra=-1", "train.mini_tokens=-1"],
        *["gate.alphas=[2.0]", "gate.alphas=[0]", "gate.alphas=[]", "teacher.spec=recorded:", "teacher.writer=3"],
    ],
)
def test_a_value_out_of_range_is_named(override: str) -> None:
    key = override.partition("=")[0]
    with pytest.raises(UsageError, match=key.replace(".", r"\.")) as caught:
        load_recipe(None, [override])
    assert caught.value.hint
    assert "did you mean" not in caught.value.hint  # the key is right


def test_a_training_that_learns_from_nothing_is_an_error() -> None:
    with pytest.raises(UsageError, match="contrast is 0 and no other objective is on"):
        load_recipe(None, ["train.contrast=0", "train.guard.embedder=x", "train.hardness.alpha=5"])
    assert load_recipe(None, ["train.contrast=0", "train.listwise={weight: 1}"]).train.listwise.weight == 1.0


def test_a_number_that_may_be_left_out_is_not_taken_for_a_text() -> None:
    with pytest.raises(UsageError) as caught:
        load_recipe(None, ["train.listwise.temperature=0"])
    assert caught.value.hint == "the default is None"


def test_a_text_that_yaml_reads_as_something_else_is_explained() -> None:
    with pytest.raises(UsageError) as caught:
        load_recipe(None, ["teacher.spec=recorded:"])
    assert caught.value.hint == "it was read as {'recorded': None}; quote the text: --set 'teacher.spec=\"TEXT\"'"
    assert load_recipe(None, ['teacher.spec="recorded:"']).teacher.spec == "recorded:"


@pytest.mark.parametrize("override", ["train.epochs", "=3", "seed.x.y=1", "train.epochs.x=1", "train.dims=[1"])
def test_a_malformed_override_is_an_error(tmp_path: Path, override: str) -> None:
    with pytest.raises(UsageError):
        load_recipe(write(tmp_path, "seed: 1\ntrain: {epochs: 1}"), [override])


def test_a_missing_file_is_an_error_of_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read the recipe .*nope\.yaml: No such file"):
        load_recipe(tmp_path / "nope.yaml")


def test_pre_finetuning_is_off_until_it_names_pairs() -> None:
    assert not Recipe().prefinetune.active
    for one in ("corpus=true", "queries=true", "sources=[{path: x, kind: pairs}]"):
        assert load_recipe(None, [f"prefinetune.{one}"]).prefinetune.active


def test_a_source_of_pairs_gets_one_short_task(tmp_path: Path) -> None:
    first, second = load_recipe(write(tmp_path, SETTINGS)).prefinetune.sources
    assert first.tasks == ("search result",)
    assert second.tasks == ("x", "y")


def test_pre_finetuning_trains_by_equation_2_with_the_student_of_train() -> None:
    of_train = ["student=s", "text_format=plain", "bf16=true", "temperature=0.9", "negatives=3"]
    own = ["temperature=0.1", "batch_size=99", "max_steps=7"]
    recipe = load_recipe(None, [*(f"train.{one}" for one in of_train), *(f"prefinetune.{one}" for one in own)])
    options = recipe.prefinetune.training(recipe.train)
    assert (options.in_batch, options.same_tower, options.negatives, options.dims) == (True, False, 0, ())
    assert (options.student, options.text_format, options.bf16) == ("s", "plain", True)
    assert (options.temperature, options.batch_size, options.max_steps) == (0.1, 99, 7)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("prefinetune.sources=[{path: x, kind: clustering}]", "x: clustering needs hard negatives"),
        ("prefinetune.sources=[{path: x, kind: retrieval, negatives: mined}]", "in-batch negatives only"),
        ("prefinetune.sources=[{path: x, kind: pairs, same_tower: true}]", "in-batch negatives only"),
        ("prefinetune.sources=[{path: x, kind: pairs, in_batch: false}]", "in-batch negatives only"),
        ("prefinetune.sources=[{path: x, kind: pairs, weight: 2}]", "weight of x"),
        ("prefinetune.sources=[{path: x, kind: pairs}, {path: x, kind: pairs}]", "2 sources are called 'x'"),
        ("prefinetune={corpus: true, sources: [{path: corpus, kind: pairs}]}", "the name of the run's own pairs"),
        ("fret.miner=prefinetuned", "recipe: fret.miner is prefinetuned, but prefinetune names no pairs"),
    ],
)
def test_what_pre_finetuning_cannot_use_is_named(override: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_recipe(None, [override])
    assert words in caught.value.message
    assert caught.value.hint


def test_only_a_miner_that_is_named_is_the_student() -> None:
    same = load_recipe(None, ["train.student=m", "fret.miner=m"])
    assert same.is_miner("m")
    assert not same.is_miner("n")
    own = load_recipe(None, ["train.student=prefinetuned", "fret.miner=prefinetuned", "prefinetune.corpus=true"])
    assert not own.is_miner("prefinetuned")


@pytest.mark.parametrize("text", ["- a\n- b\n", "only text", "3"])
def test_a_file_that_is_no_mapping_is_an_error(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError, match="does not hold a recipe"):
        load_recipe(write(tmp_path, text))


def test_a_file_that_is_no_yaml_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not YAML"):
        load_recipe(write(tmp_path, "a: [1\nb: }"))
    path = tmp_path / "binary.yaml"
    path.write_bytes(b"\xff\xfe\x00\xd8")
    with pytest.raises(UsageError, match="is not YAML"):
        load_recipe(path)


@pytest.mark.parametrize("text", ["corpus:\n", "corpus: docs\n", "corpus: [docs]\n"])
def test_a_corpus_that_is_no_section(tmp_path: Path, text: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(UsageError, match="corpus"):
        load_recipe(path)
    with pytest.raises(UsageError, match="corpus"):
        load_recipe(path, [], ["a"])


def test_values_are_frozen() -> None:
    recipe = Recipe()
    with pytest.raises(ValidationError):
        recipe.seed = 3
    for section in ("corpus", "teacher", "fret", "train", "gate", "evaluation"):
        part = getattr(recipe, section)
        name = next(iter(type(part).model_fields))
        with pytest.raises(ValidationError):
            setattr(part, name, getattr(part, name))


def test_the_recipes_that_ship_are_recipes() -> None:
    folder = Path(__file__).parents[1] / "recipes"
    ready = sorted(folder.glob("*.yaml"))
    if not ready:
        pytest.skip("recipes/ is not beside the tests")
    for path in ready:
        assert isinstance(load_recipe(path), Recipe)
