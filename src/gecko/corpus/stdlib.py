"""The documentation of the running interpreter as a corpus that needs no download (``stdlib:``).

Public modules, classes, functions and methods are walked by import; their docstrings become documents whose
``source_id`` is the qualified name, so that replies recorded under one Python version find their passage in another.
The language reference comes from ``pydoc_data.topics`` as ``topics.<name>``.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import io
import logging
import pkgutil
import sys
import warnings
from collections.abc import Iterator
from types import ModuleType

from gecko.records import Document

logger = logging.getLogger(__name__)

# Modules whose import has an effect a reader must not cause: a browser, a window, a game, a test run.
_SIDE_EFFECTS = frozenset(
    {"antigravity", "this", "idlelib", "turtle", "turtledemo", "tkinter", "test", "lib2to3", "ensurepip", "nt"}
)
# Packages whose submodules are documented API of their own.
_WALKED_PACKAGES = frozenset(
    {"asyncio", "collections", "concurrent", "ctypes", "email", "html", "http", "importlib", "json"}
    | {"logging", "multiprocessing", "os", "sqlite3", "sysconfig", "tomllib", "unittest", "urllib", "wsgiref", "xml"}
    | {"zipfile", "zoneinfo", "curses", "dbm", "re", "pathlib", "string"}
)
_MIN_WORDS = 6


def read_stdlib() -> Iterator[Document]:
    """Yield one document per documented public name of the standard library, then the language topics.

    The order is that of the sorted names, so two runs of one interpreter give the same corpus. The names are read in a
    process of its own: in this one, transformers may have given ``logging.Logger`` methods, and Ray ``inspect`` other
    functions.
    """
    from joblib.externals.loky import ProcessPoolExecutor

    with ProcessPoolExecutor(1) as pool:
        documents = pool.submit(_read_here).result()
    yield from documents


def _read_here() -> list[Document]:
    return list(_documents())


def _documents() -> Iterator[Document]:
    # All imports come first: importing a submodule can replace a function of its package (curses.has_key).
    modules = {name: _import_quietly(name) for name in _module_names()}
    seen: set[str] = set()
    for name, module in modules.items():
        if module is not None:
            yield from _module_documents(name, module, seen)
    yield from _topic_documents()


def _module_names() -> list[str]:
    names = set()
    for name in sys.stdlib_module_names:
        if name.startswith("_") or name in _SIDE_EFFECTS:
            continue
        names.add(name)
        if name in _WALKED_PACKAGES:
            package = _import_quietly(name)
            for item in pkgutil.iter_modules(getattr(package, "__path__", [])):
                if not item.name.startswith("_") and item.name not in {"test", "tests", "__main__"}:
                    names.add(f"{name}.{item.name}")
    return sorted(names)


def _import_quietly(name: str) -> ModuleType | None:
    """Import a module with its warnings and prints swallowed; None where this platform lacks it."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            return importlib.import_module(name)
        except (Exception, SystemExit) as error:
            logger.debug("stdlib: %s cannot be imported here: %s", name, error)
            return None


def _module_documents(name: str, module: ModuleType, seen: set[str]) -> Iterator[Document]:
    yield from _document(name, f"{name} module", inspect.getdoc(module), seen)
    for member_name, member in sorted(vars(module).items()):
        if member_name.startswith("_"):
            continue
        home = getattr(member, "__module__", None)
        exported = member_name in getattr(module, "__all__", ())
        if not (exported or home == module.__name__ or (home or "").lstrip("_") == name):
            continue
        qualified = f"{name}.{member_name}"
        if inspect.isclass(member):
            yield from _document(qualified, f"{qualified} class", inspect.getdoc(member), seen)
            yield from _class_documents(qualified, member, seen)
        elif callable(member):
            yield from _document(qualified, _call(qualified, member), inspect.getdoc(member), seen)


def _class_documents(qualified: str, owner: type, seen: set[str]) -> Iterator[Document]:
    for method_name, method in sorted(vars(owner).items()):
        if method_name.startswith("_"):
            continue
        function = method.__func__ if isinstance(method, classmethod | staticmethod) else method
        if callable(function) or isinstance(function, property):
            path = f"{qualified}.{method_name}"
            title = path if isinstance(function, property) else _call(path, function)
            yield from _document(path, title, getattr(function, "__doc__", None), seen)


def _call(qualified: str, function: object) -> str:
    """Title of a callable: its name with its signature where one is known.

    A default that prints as an address would differ in every process, and with it the passage's content hash.
    """
    try:
        signature = str(inspect.signature(function))  # type: ignore[arg-type]
    except Exception as error:  # some C functions carry signatures that inspect itself fails to read
        logger.debug("stdlib: no signature for %s: %s", qualified, error)
        return qualified
    if len(signature) > 120 or " at 0x" in signature:
        return f"{qualified}(...)"
    return qualified + signature


def _document(source_id: str, title: str, doc: str | None, seen: set[str]) -> Iterator[Document]:
    """Yield the docstring as a document unless it is missing, trivial or already taken by another name."""
    text = inspect.cleandoc(doc or "").strip()
    if len(text.split()) < _MIN_WORDS or text in seen:
        return
    seen.add(text)
    yield Document(source_id=source_id, title=title, text=text, source="stdlib:")


def _topic_documents() -> Iterator[Document]:
    topics: dict[str, str] = importlib.import_module("pydoc_data.topics").topics
    for name in sorted(topics):
        heading, _, body = topics[name].strip().partition("\n")
        title = f"Python language: {heading.strip('* ') or name}"
        yield Document(source_id=f"topics.{name}", title=title, text=body.strip("*=- \n"), source="stdlib:")
