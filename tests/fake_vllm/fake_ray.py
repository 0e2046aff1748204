"""In place of Ray, for tests without it: what ``gecko.teacher.ray_vllm`` calls, with the signatures of Ray 2.60."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import vllm


class vLLMEngineProcessorConfig:
    """As Ray has it, of what is used."""

    def __init__(
        self,
        *,
        model_source: str,
        engine_kwargs: dict[str, Any],
        concurrency: int,
        batch_size: int,
        should_continue_on_error: bool,
        chat_template_stage: Any,
        tokenize_stage: Any,
        detokenize_stage: Any,
    ) -> None:
        self.concurrency = concurrency
        self.engine_kwargs = engine_kwargs
        assert should_continue_on_error
        assert chat_template_stage is tokenize_stage is detokenize_stage is False


Row = dict[str, Any]


@dataclasses.dataclass
class Dataset:
    """Rows that are made when they are looked at."""

    rows: Callable[[], Iterator[Row]]

    def iter_rows(self) -> Iterator[Row]:
        yield from self.rows()


class FakeRay:
    """A cluster; ``install`` puts it where Ray would be imported from.

    Attributes:
        runs: Rows of each run of the pipeline.
        configs: Of each.
        dies_after: Rows given before a run breaks.
        told: What of a vLLM's output comes back.
        joined: Whether this process is connected.
        resources: Of the cluster.
        free: Those that nobody uses; None: all of them.
        installed: Which packages are there.
    """

    def __init__(self, patch: pytest.MonkeyPatch, *, gpus: float = 2, cores: float = 1, joined: bool = False) -> None:
        self.runs: list[list[Row]] = []
        self.configs: list[Any] = []
        self.dies_after: int | None = None
        self.told = {"logprobs", "prompt_logprobs"}
        self.joined = joined
        self.resources = {"GPU": gpus, "CPU": cores}
        self.free: dict[str, float] | None = None
        ray, data, llm = (ModuleType(name) for name in ("ray", "ray.data", "ray.data.llm"))
        ray.__dict__.update(
            data=data,
            is_initialized=lambda: self.joined,
            init=lambda *_, **__: setattr(self, "joined", True),
            shutdown=lambda: setattr(self, "joined", False),
            cluster_resources=lambda: self.resources,
            available_resources=lambda: self.resources if self.free is None else self.free,
        )
        context = SimpleNamespace(get_current=SimpleNamespace)
        data.__dict__.update(llm=llm, from_items=lambda rows: Dataset(lambda: map(dict, rows)), DataContext=context)
        llm.__dict__.update(build_processor=self.build_processor, vLLMEngineProcessorConfig=vLLMEngineProcessorConfig)
        for module in (ray, data, llm):
            patch.setitem(sys.modules, module.__name__, module)
        self.installed = ["ray", "vllm"]
        true = importlib.util.find_spec

        def find_spec(name: str, package: str | None = None) -> Any:
            if name in ("ray", "vllm"):
                return self if name in self.installed else None
            return true(name, package)

        patch.setattr(importlib.util, "find_spec", find_spec)

    def build_processor(
        self,
        config: vLLMEngineProcessorConfig,
        preprocess: Any = None,
        postprocess: Any = None,
        preprocess_map_kwargs: dict[str, Any] | None = None,
        postprocess_map_kwargs: dict[str, Any] | None = None,
        builder_kwargs: dict[str, Any] | None = None,
    ) -> Callable[[Dataset], Dataset]:
        assert preprocess_map_kwargs == postprocess_map_kwargs == {"num_cpus": 0}
        self.configs.append(config)

        def answered(dataset: Dataset) -> Iterator[Row]:
            rows = list(dataset.iter_rows())
            self.runs.append(rows)
            # Arrow gives a column of numbers and nothings back as floats.
            assert len({tuple(row["sampling_params"]) for row in rows}) == 1
            assert None not in rows[0]["sampling_params"].values()
            for count, row in enumerate(reversed(rows)):  # in any order
                if count == self.dies_after:
                    raise RuntimeError("ray::MapWorker died\nCUDA error: no kernel image")
                yield self._answered(row, postprocess)

        return lambda dataset: Dataset(lambda: answered(dataset))

    def _answered(self, row: Row, postprocess: Callable[[Row], Row]) -> Row:
        tokens = row["tokenized_prompt"]
        try:
            output = vllm.generate(tokens, vllm.SamplingParams(**row["sampling_params"]))
        except ValueError as error:
            return {**row, "__inference_error__": f"ValueError: {error}"}
        reply = output.outputs[0]
        data = {
            **{name: value for name, value in row.items() if name not in ("tokenized_prompt", "sampling_params")},
            "prompt_token_ids": tokens,
            "num_input_tokens": len(tokens),
            "generated_text": reply.text,
            "num_generated_tokens": len(reply.token_ids),
            "logprobs": _plain(reply.logprobs) if "logprobs" in self.told else None,
            "prompt_logprobs": _plain(output.prompt_logprobs) if "prompt_logprobs" in self.told else None,
        }
        return {**postprocess(data), "__inference_error__": ""}


def _plain(places: Any) -> Any:
    if places is None:
        return None
    return [place and {token: dataclasses.asdict(entry) for token, entry in place.items()} for place in places]
