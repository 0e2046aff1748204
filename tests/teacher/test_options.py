from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from endpoint import Endpoint

from gecko.context import RunContext
from gecko.errors import GeckoError, UsageError
from gecko.recipe import Recipe, dump_recipe, load_recipe
from gecko.teacher.ask import Answer, Prompt, Write
from gecko.teacher.batched import BatchCaller
from gecko.teacher.ledger import UNPRICED, Call, Ledger
from gecko.teacher.llm import LLMTeacher
from gecko.teacher.open import open_engine, open_teacher
from gecko.teacher.openai import OpenAIEngine
from gecko.teacher.options import PriceOptions, RankingOptions, TeacherOptions
from gecko.teacher.schedule import Thrifty


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "GECKO_API_KEY", "OPENAI_BASE_URL", "SMALL_KEY"):
        monkeypatch.delenv(name, raising=False)


def recipe(*settings: str) -> Recipe:
    return load_recipe(None, settings)


def test_one_teacher_does_both_steps_unless_something_differs() -> None:
    one = TeacherOptions(spec="openai:big", batch=True)
    assert one.of_writer() == one.of_ranker() == ("openai:big", one)
    two = TeacherOptions(spec="openai:big", ranking=RankingOptions(timeout=5.0))
    assert two.of_writer() != two.of_ranker()


def test_the_ranker_has_an_address_a_price_and_a_batch_of_its_own() -> None:
    written = recipe(
        "teacher.writer=openai:big",
        "teacher.ranker=openai:small",
        "teacher.batch=true",
        "teacher.price={input: 5, output: 10}",
        "teacher.ranking={base_url: http://127.0.0.1:8000/v1, batch: false, price: {input: 0, output: 0}}",
    )
    options = load_recipe(None, [f"teacher={written.teacher.model_dump_json()}"]).teacher
    assert options == written.teacher
    writer, ranker = options.of_writer(), options.of_ranker()
    assert (writer[0], writer[1].base_url, writer[1].batch) == ("openai:big", None, True)
    assert (ranker[0], ranker[1].base_url, ranker[1].batch) == ("openai:small", "http://127.0.0.1:8000/v1", False)
    assert ranker[1].price == PriceOptions(input=0, output=0)
    assert ranker[1].timeout == writer[1].timeout


def test_a_key_goes_to_the_address_it_is_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "for-the-writer")
    own = RankingOptions(base_url="http://127.0.0.1:8000/v1")
    options = TeacherOptions(writer="openai:big", ranker="openai:small", ranking=own)

    def key(asked: tuple[str, TeacherOptions]) -> str:
        engine = open_engine(*asked)
        assert isinstance(engine, OpenAIEngine)
        return engine._key

    assert key(options.of_writer()) == "for-the-writer"
    assert key(options.of_ranker()) == "none"
    named = options.model_copy(update={"ranking": own.model_copy(update={"key_variable": "SMALL_KEY"})})
    with pytest.raises(GeckoError, match="SMALL_KEY holds no key"):
        key(named.of_ranker())
    monkeypatch.setenv("SMALL_KEY", "for-the-ranker")
    assert key(named.of_ranker()) == "for-the-ranker"


def test_a_price_and_a_batch_are_for_the_teacher_behind_an_api(tmp_path: Path) -> None:
    options = TeacherOptions(
        writer="openai:big", ranker="transformers:x", batch=True, price=PriceOptions(input=5, output=10)
    )
    assert options.of_writer()[1].batch
    assert not options.of_ranker()[1].batch
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        teacher = open_teacher(options.of_writer()[0], ledger, options=options.of_writer()[1], asked=False)
        assert isinstance(teacher, LLMTeacher)
        assert isinstance(teacher.caller, BatchCaller)
        assert teacher.price(1_000_000, 0) == pytest.approx(2.5)


def test_a_model_of_ones_own_costs_nothing_whatever_the_price(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gecko.teacher import open as opening

    class Local:
        name, fingerprint, in_flight, batch = "transformers:tiny", "x", 1, 1

    monkeypatch.setattr(opening, "open_engine", lambda *_, **__: Local())
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        options = TeacherOptions(price=PriceOptions(input=5, output=10))
        teacher = open_teacher("transformers:tiny", ledger, options=options)
        assert isinstance(teacher, LLMTeacher)
        assert teacher.price(1_000_000, 1_000_000) == 0.0


def test_calls_made_while_the_price_was_unknown_count_once_it_is_known(tmp_path: Path) -> None:
    answer = Answer(input_tokens=1_000_000, cached_tokens=500_000, output_tokens=100_000)
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        request = {"model": "openai:mine", "prompt": {"shared": "", "own": "a"}}
        used = (answer.input_tokens, answer.output_tokens)
        for key, model, unknown in (
            ("a", "openai:mine", True),
            ("b", "openai:another", True),
            ("c", "openai:mine", False),
        ):
            asked = {**request, "model": model, **({UNPRICED: True} if unknown else {})}
            ledger.put_many([Call(key, "write", asked, answer.to_json(), *used)])
        price = PriceOptions(input=1.0, output=10.0, cached=0.5)
        options = TeacherOptions(base_url="http://127.0.0.1:1/v1", price=price, max_usd=1.0)
        teacher = open_teacher("openai:mine", ledger, options=options)
        assert ledger.stats()["usd"] == pytest.approx(0.5 + 0.25 + 1.0)
        # The other model's price is still unknown, and the call whose price was known, nothing, keeps it.
        assert isinstance(teacher, LLMTeacher)
        with pytest.raises(GeckoError, match=r"cap of \$1"):
            teacher.caller.map(teacher.caller.ask, [Write(Prompt("", "b"), 5)])


@pytest.mark.parametrize("key", ["teacher.base_url", "teacher.ranking.base_url"])
def test_a_password_in_an_address_is_refused_and_not_repeated(key: str) -> None:
    with pytest.raises(UsageError, match="no user and no password") as caught:
        recipe(f"{key}=http://user:s3cret@10.0.0.1/v1")
    assert "s3cret" not in f"{caught.value.message} {caught.value.hint}"
    for address in ("http://[::1/v1", "http://user:s3cret@[::1/v1"):
        with pytest.raises(UsageError, match="not a URL"):
            recipe(f"{key}={address}")
    assert "http://127.0.0.1:8000/v1" in dump_recipe(recipe(f"{key}=http://127.0.0.1:8000/v1"))


def test_a_key_in_place_of_a_variables_name_is_refused() -> None:
    with pytest.raises(UsageError, match="key_variable"):
        recipe("teacher.key_variable=sk-proj-abcDEF0123456789")


def ranked_at(address: str, **options: Any) -> TeacherOptions:
    """How a ranker with an address of its own is asked."""
    given = TeacherOptions(spec="openai:toy", ranking=RankingOptions(base_url=address, **options))
    return given.of_ranker()[1]


def test_calls_without_a_price_are_marked_and_priced_when_the_run_goes_on(tmp_path: Path) -> None:
    def ask(price: PriceOptions | None) -> float:
        with Endpoint("openai", key="") as endpoint, Ledger(tmp_path / "ledger.sqlite") as ledger:
            options = ranked_at(endpoint.url, price=price)
            teacher = open_teacher("openai:toy", ledger, options=options)
            assert isinstance(teacher, LLMTeacher)
            teacher.caller.map(teacher.caller.ask, [Write(Prompt("", "a"), 5)])
            teacher.close()
            return ledger.stats()["usd"]

    assert ask(None) == 0.0
    assert ask(PriceOptions(input=10.0, output=10.0)) > 0.0


def test_calls_that_cost_nothing_are_not_priced_later(tmp_path: Path) -> None:
    with Endpoint("openai", key="") as endpoint, Ledger(tmp_path / "ledger.sqlite") as ledger:
        for price in (PriceOptions(input=0.0, output=0.0), PriceOptions(input=10.0, output=10.0)):
            options = ranked_at(endpoint.url, price=price)
            teacher = open_teacher("openai:toy", ledger, options=options)
            assert isinstance(teacher, LLMTeacher)
            teacher.caller.map(teacher.caller.ask, [Write(Prompt("", "a"), 5)])
            teacher.close()
        assert ledger.stats()["input_tokens"] > 0
        assert ledger.stats()["usd"] == 0.0


def test_a_plan_sends_no_common_key_to_an_endpoint_with_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also not what else the environment holds for the common one."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-the-common-key")
    monkeypatch.setenv("OPENAI_ORG_ID", "org-common")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "proj-common")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "x-gateway: common-secret")
    monkeypatch.setenv("RANKER_KEY", "key-of-the-ranker")
    for variable, expected in (("RANKER_KEY", "Bearer key-of-the-ranker"), ("", "Bearer none")):
        with Endpoint("vllm") as endpoint, Ledger(tmp_path / f"{variable}.sqlite") as ledger:
            options = ranked_at(endpoint.url, key_variable=variable or None)
            for asked in (True, False):
                teacher = open_teacher("openai:toy", ledger, options=options, asked=asked)
                assert isinstance(teacher, LLMTeacher)
                if asked:
                    teacher.probe()
                before = len(endpoint.log)
                assert teacher.counts_tokens()
                assert len(endpoint.log) > before
                teacher.close()
            sent = [seen.headers for seen in endpoint.log]
            assert {headers["authorization"] for headers in sent} == {expected}
            assert not [value for headers in sent for value in headers.values() if "common" in value]
            assert not [name for headers in sent for name in headers if name.startswith("x-stainless-os")]
    monkeypatch.delenv("RANKER_KEY")
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        options = TeacherOptions(base_url="http://127.0.0.1:1/v1", key_variable="RANKER_KEY")
        assert open_teacher("openai:toy", ledger, options=options, asked=False).name == "openai:toy"
        with pytest.raises(GeckoError, match="RANKER_KEY holds no key"):
            open_teacher("openai:toy", ledger, options=options)


def test_the_common_account_goes_to_the_common_endpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-the-common-key")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "x-gateway: wanted")
    with Endpoint("vllm") as endpoint, Ledger(tmp_path / "ledger.sqlite") as ledger:
        teacher = open_teacher("openai:toy", ledger, options=TeacherOptions(base_url=endpoint.url))
        assert isinstance(teacher, LLMTeacher)
        teacher.probe()
        teacher.close()
        headers = endpoint.log[0].headers
    assert headers["authorization"] == "Bearer sk-the-common-key"
    assert headers["x-gateway"] == "wanted"


def test_a_plan_needs_no_key_and_a_run_does(tmp_path: Path) -> None:
    values = recipe("teacher.spec=openai:gpt-5-nano")
    assert RunContext(values, tmp_path / "plan", asks=False).writer.name == "openai:gpt-5-nano"
    with pytest.raises(GeckoError, match="no key"):
        _ = RunContext(values, tmp_path / "run").writer


def test_a_thrifty_schedule_goes_by_the_recipes_thresholds(tmp_path: Path) -> None:
    values = recipe(
        "teacher.spec=openai:x",
        "teacher.schedule=thrifty",
        "fret.min_positive_rc=1.5",
        "fret.max_negative_rc=0.5",
    )
    ranker = RunContext(values, tmp_path, asks=False).ranker
    assert ranker._schedule == Thrifty(answerable=1.5, negative=0.5)
