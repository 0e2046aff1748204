"""What went wrong with a call over HTTP, told without its key and without its passages."""

from __future__ import annotations

import re
import ssl
import time
from collections.abc import Mapping, Sequence
from email.utils import parsedate_to_datetime
from typing import Any

from gecko.corpus.decode import clean as without_surrogates
from gecko.teacher.ask import EngineError

_LONGEST = 200
_QUOTED = 20
_KEYS = (
    re.compile(
        r"(?i)\b(?:authorization|proxy-authorization|api[-_ ]?key|x-api-key)\s*[:=]\s*(?:(?:bearer|basic)\s+)?\S+"
    ),
    re.compile(r"(?i)\bbearer\s+\S+"),
    re.compile(r"(?i)\b(?:sk|pk|rk|gsk|xai|hf|key|tok)[-_][\w*-]{6,}"),
    re.compile(r"\bAIza[\w-]{10,}|\beyJ[\w-]{10,}(?:\.[\w-]+)*"),
    re.compile(r"(?=[\w*-]*\d)[\w*-]{32,}"),
    re.compile(r"https?://\S+"),
)
_NO_MONEY = re.compile(
    r"(?i)insufficient[_ ](quota|balance|funds|credits?)|billing_hard_limit|exceeded your current quota"
)
_NO_MODEL = re.compile(
    r"(?i)model[ _-]?not[ _-]?found|\bmodels?\b.{0,120}\b(not found|does(n't| not) exist|is not a valid|not available)"
    r"|not a valid model|unknown model|invalid model"
)
_NO_KEY = re.compile(r"(?i)(invalid|incorrect|missing|no|expired)[ _](api[ _]?)?key|api key not valid|unauthori[sz]ed")
_TOO_LARGE = re.compile(r"(?i)request too large|must be reduced")  # one call above a minute's limit: waiting is in vain
_JUDGED = re.compile(r"(?i)moderation|flagged|content[ _](filter|policy|management)|safety")


class Refusal(EngineError):
    """A call that the server answered with an error.

    Attributes:
        status: HTTP status.
        code: The server's own code or type of error, where it gave one.
        param: The parameter the server objects to, where it named one.
        said: The server's message, cleaned.
    """

    def __init__(self, status: int, code: str, param: str, said: str, flags: Mapping[str, Any]) -> None:
        super().__init__(" ".join(part for part in (f"HTTP {status}", code and f"({code})", said) if part), **flags)
        self.status = status
        self.code = code
        self.param = param
        self.said = said


class Damaged(EngineError):
    """A reply that says nothing usable; the same call may be answered well."""

    def __init__(self, what: str, *, input_tokens: int = 0, output_tokens: int = 0) -> None:
        super().__init__(
            f"damaged reply: {clean(what)}", retry=True, input_tokens=input_tokens, output_tokens=output_tokens
        )


def clean(text: str, key: str = "", passages: Sequence[str] = ()) -> str:
    """A server's message in one short line without keys, addresses and what it quotes of the passages.

    A message that quotes a passage is dropped whole: what is left of it would say little.
    """
    line = " ".join(without_surrogates(text).split())
    if len(key) > 4:
        line = line.replace(key, "[key]")
    for pattern in _KEYS:
        line = pattern.sub("[...]", line)
    line = line if len(line) <= _LONGEST else line[: _LONGEST - 3] + "..."
    whole = " ".join(" ".join(passages).split())
    if any(line[at : at + _QUOTED] in whole for at in range(len(line) - _QUOTED + 1)):
        return "the server's message quotes the prompt and is left out"
    return line


def wait_seconds(headers: Mapping[str, str], now: float | None = None) -> float | None:
    """Seconds the server asks to wait: ``retry-after-ms``, or ``retry-after`` in seconds or as an HTTP date."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = headers.get(name)
        if value is None:
            continue
        try:
            seconds = float(value) * unit
        except ValueError:
            try:
                seconds = parsedate_to_datetime(value).timestamp() - (time.time() if now is None else now)
            except (ValueError, TypeError, OverflowError):
                continue
        if seconds == seconds and seconds != float("inf"):
            return max(seconds, 0.0)
    return None


def refusal(
    status: int, body: object, headers: Mapping[str, str], key: str = "", passages: Sequence[str] = ()
) -> Refusal:
    """The error of a reply with an HTTP status other than 200, or with an error in place of an answer."""
    error = body.get("error", body) if isinstance(body, Mapping) else body
    code = param = ""
    if isinstance(error, Mapping):
        code = str(error.get("code") or error.get("type") or "")
        param = str(error.get("param") or "")
        text = str(error.get("message") or error.get("detail") or "")
        kind = f"{code} {error.get('type') or ''} {text}"
    else:
        text = kind = "" if error is None else str(error)
    said = clean(text, key, passages)
    return Refusal(status, clean(code, key)[:60], param, said, _flags(status, kind, headers))


def _flags(status: int, kind: str, headers: Mapping[str, str]) -> dict[str, Any]:
    if status == 402 or (status == 429 and _NO_MONEY.search(kind)):
        return {"fatal": True}
    if status == 429 and _TOO_LARGE.search(kind):
        return {}
    if status in (429, 503, 529):
        return {"retry": True, "crowded": True, "wait": wait_seconds(headers)}
    if status == 408:
        return {"retry": True, "timeout": True, "wait": wait_seconds(headers)}
    if status == 403 and _JUDGED.search(kind):
        return {}
    if status in (401, 403, 404, 405):
        # A proxy's filter says 403, and 404 where it has lost the server for a moment.
        return {"fatal": True, "perhaps": status in (403, 404) and not (_NO_MODEL.search(kind) or _NO_KEY.search(kind))}
    if status in (400, 422):
        return {"fatal": bool(_NO_MODEL.search(kind) or _NO_KEY.search(kind))}
    return {"retry": status in (409, 425) or (status >= 500 and status != 501), "wait": wait_seconds(headers)}


def is_missing_model(error: Refusal) -> bool:
    """Whether the server says that it has no such model, rather than no such route."""
    return bool(_NO_MODEL.search(f"{error.code} {error.said}"))


def unreached(error: BaseException, seconds: float) -> EngineError:
    """The error of a call that got no reply.

    Args:
        error: What the ``openai`` package raised.
        seconds: How long the call was given.
    """
    causes = _causes(error)
    names = {type(cause).__name__ for cause in causes}
    # By name: the package has changed its HTTP library between versions. One of them tells a connection that was lost
    # as one that could not be made, so what is lost or damaged comes first.
    if names & {"ClientResponseError", "RemoteProtocolError", "TransferEncodingError", "ContentEncodingError"}:
        return Damaged("not HTTP as it should be")
    lost = any(isinstance(cause, ConnectionError) and not isinstance(cause, ConnectionRefusedError) for cause in causes)
    if lost or "ServerDisconnectedError" in names:
        return EngineError("the connection was dropped", retry=True)
    if any(isinstance(cause, ssl.SSLError) for cause in causes):
        # After other answers it may be a broken handshake; before any it is the address or the certificate.
        told = "no secure connection to the model's address: does it speak https, and is its certificate known here?"
        return EngineError(told, fatal=True, perhaps=True)
    if names & {"ConnectError", "ConnectTimeout"}:
        return EngineError("nobody answers at the model's address", retry=True, unreachable=True)
    if names & {"APITimeoutError", "TimeoutException", "ReadTimeout", "WriteTimeout", "PoolTimeout", "TimeoutError"}:
        return EngineError(f"no answer in {seconds:g} s", retry=True, timeout=True)
    unusable = {"UnsupportedProtocol", "InvalidURL", "LocalProtocolError", "UnicodeEncodeError", "UnicodeError"}
    if names & unusable or type(causes[-1]) is ValueError:  # a bare one says that a header's value holds a line's end
        return EngineError("the model's address or key cannot be used: is it a URL, is the key whole?", fatal=True)
    return EngineError("the connection was dropped", retry=True)


def _causes(error: BaseException | None) -> list[BaseException]:
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found
