"""What the verbs of the command line share: how an error is shown, where text and JSON go, options they all have.

Human text goes to stderr; with ``--json`` one object goes to stdout. Exit codes: 0 done, 1 failed, 2 wrong usage.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping
from enum import StrEnum
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, ParamSpec, TypeVar

import typer

from gecko.errors import GeckoError, UsageError, is_memory_error, reason
from gecko.remote import any_file, is_url, was_url

P = ParamSpec("P")
R = TypeVar("R")

# Typer knows no unions.
Input = Any  # a Path, or a RemoteFile
Index = Any  # a Path, or the URL as text

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]


class Precision(StrEnum):
    """Of the numbers that a model computes with."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"

    @property
    def bf16(self) -> bool | None:
        """As an Embedder takes it."""
        return {"auto": None, "float32": False, "bfloat16": True}[self.value]


def _folder(text: str | Path) -> Path:
    if not str(text).strip():
        raise typer.BadParameter("the name is empty")
    if "://" in str(text):
        raise typer.BadParameter(f"{text} is no folder of this machine; write here, and copy it there")
    return Path(text)


def out_option(help_text: str, metavar: str = "DIRECTORY") -> Any:  # noqa: ANN401
    """Make the option that names what a verb writes."""
    return typer.Option(help=help_text, parser=_folder, metavar=metavar)


def _index(text: str | Path) -> Path | str:
    if not str(text).strip():
        raise typer.BadParameter("the name is empty")
    return str(text) if is_url(str(text)) else Path(text)


def index_option(help_text: str) -> Any:  # noqa: ANN401
    """Make the option that names an index: a directory, or a URL in an object store."""
    return typer.Option(help=help_text, parser=_index, metavar="DIRECTORY|URL")


def index_argument(help_text: str) -> Any:  # noqa: ANN401
    """As :func:`index_option`, an argument."""
    return typer.Argument(help=help_text, parser=_index, metavar="DIRECTORY|URL")


def input_option(help_text: str) -> Any:  # noqa: ANN401
    """Make the option that names a file to read, of this machine or of an object store."""
    return typer.Option(help=help_text, parser=any_file, metavar="FILE|URL")


def input_argument(help_text: str) -> Any:  # noqa: ANN401
    """As :func:`input_option`, an argument."""
    return typer.Argument(help=help_text, parser=any_file, metavar="FILE|URL")


def verb(function: Callable[P, R]) -> Callable[P, R]:
    """Show a user's error as one line and a hint, and exit with its code."""

    @wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
        logging.getLogger("gecko").setLevel(logging.INFO)
        try:
            _refuse_urls(kwargs)
            return function(*args, **kwargs)
        except GeckoError as error:
            say(f"gecko: {error.message}")
            if error.hint:
                say(f"hint: {error.hint}")
            raise typer.Exit(2 if isinstance(error, UsageError) else 1) from error
        except KeyboardInterrupt as stop:
            say("gecko: interrupted; run the same command again to go on")
            raise typer.Exit(1) from stop
        except OSError as error:
            say(f"gecko: {error.strerror or error}: {error.filename or _log()}")
            say("hint: check the path, its permissions and the free space, then run again")
            raise typer.Exit(1) from error
        except Exception as error:
            if is_memory_error(error):
                say(f"gecko: memory ran out: {reason(error)}")
                say("hint: end what else needs it, or use a machine with more, and run again: nothing finished is lost")
                raise typer.Exit(1) from error
            say(f"gecko: unexpected {type(error).__name__}: {reason(error)}")
            say(f"hint: this is a fault of gecko, or of an input it did not expect; {_log()}")
            raise typer.Exit(1) from error

    return guarded


def _refuse_urls(values: Mapping[str, Any]) -> None:
    """Name the URL that a verb which reads or writes this machine's files only would take for a path."""
    for value in values.values():
        for path in value if isinstance(value, list) else [value]:
            if isinstance(path, Path) and was_url(path):
                url = re.sub(":/", "://", str(path), count=1)
                hint = "copy it here: docs/scale.md says what may lie in an object store"
                raise UsageError(f"{url} is no path of this machine", hint)


def _log() -> str:
    """Write the traceback of the error being handled to a file, and say where it is."""
    try:
        with tempfile.NamedTemporaryFile("w", prefix="gecko-", suffix=".log", delete=False, encoding="utf-8") as log:
            log.write(traceback.format_exc())
    except OSError as error:
        return f"its details could not be written ({error.strerror})"
    return f"its details are in {log.name}"


def say(line: str) -> None:
    """Tell the user something."""
    typer.echo(line, err=True)


def tell_prompts(asked: Mapping[str, str]) -> None:
    """Say so where models that are compared are not asked alike; ``asked`` is by the model's name."""
    if len(set(asked.values())) > 1:
        say(f"the models are asked differently: {'; '.join(f'{name} {how}' for name, how in asked.items())}")
        say(
            "hint: each as its directory says; a model that was trained with prompts needs them in its "
            "config_sentence_transformers.json"
        )


def answer(as_json: bool, value: dict[str, Any], text: str) -> None:
    """End a verb: the object on stdout, or the text."""
    if as_json:
        typer.echo(json.dumps(value, ensure_ascii=False))
    else:
        say(text)


def teacher_settings(base_url: str | None, max_usd: float | None = None, max_tokens: int | None = None) -> list[str]:
    """The options of a verb that belong to the recipe's teacher, as its settings."""
    values = (("base_url", base_url), ("max_usd", max_usd), ("max_tokens", max_tokens))
    return [f"teacher.{name}={json.dumps(value)}" for name, value in values if value is not None]


def dims(text: str | None) -> tuple[int, ...] | None:
    """Read the dimensions of ``--dims``."""
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(f"--dims {text}: expected numbers", "for example --dims 384,256,128") from error
