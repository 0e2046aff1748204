"""Publish a model with its card and exports, on the Hugging Face Hub or in a folder; a dry run says what would go."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gecko.embedder.onnx import GRAPHS, MARK, export_facts
from gecko.embedder.open import PACKAGED_MODEL, resolve_model
from gecko.errors import GeckoError, UsageError, reason, writing
from gecko.replace import replaced

_TARGET_HINT = "a Hub repository is owner/name; a folder begins with ./ or / (or is there already)"
_LOGIN = "hf auth login, or set HF_TOKEN; --dry-run shows what would go"


@dataclass(frozen=True, slots=True)
class Push:
    """What ``gecko push --json`` prints; ``files`` maps names there to bytes."""

    target: str
    hub: bool
    dry_run: bool
    private: bool
    files: dict[str, int]
    url: str

    def to_json(self) -> dict[str, Any]:
        """The JSON object."""
        return asdict(self)


def push(model: str, target: str, exports: Sequence[Path] = (), *, dry_run: bool = False, public: bool = False) -> Push:
    """Publish a model, and the ONNX graphs of its exports beside its weights, where transformers.js and TEI look.

    Args:
        model: Its folder, or that of an export.
        target: ``owner/name`` on the Hub, or a folder.
        exports: ONNX exports of the model.
        dry_run: Only say what would go. Where there is no token of the Hub, a push to it is a dry run too.
        public: Make a new repository public; the data a model was made from has terms that no program knows.

    Raises:
        UsageError: The target is neither, or a folder that holds something else.
        GeckoError: The model is no folder or has no card, an export is of another model, or the Hub refuses.
    """
    files = collect(model, exports)
    sizes = {name: path.stat().st_size for name, path in files.items()}
    if not _is_hub(target):
        if not dry_run:
            _copy(files, Path(target), Path(model))
        return Push(target, hub=False, dry_run=dry_run, private=True, files=sizes, url=str(Path(target)))
    from huggingface_hub import get_token

    dry = dry_run or get_token() is None
    url = f"https://huggingface.co/{target}" if dry else _upload(files, target, private=not public)
    return Push(target, hub=True, dry_run=dry, private=not public, files=sizes, url=url)


def collect(model: str, exports: Sequence[Path]) -> dict[str, Path]:
    """List what is published: name there → file here.

    Raises:
        GeckoError: As :func:`push`.
        UsageError: Two exports are of one format.
    """
    folder = Path(resolve_model(model))
    if model == PACKAGED_MODEL or not folder.is_dir():
        raise GeckoError(f"{model} is no folder of yours", "name the model of a run, such as runs/docs/model")
    if not (folder / "README.md").is_file():
        raise GeckoError(f"{folder} has no card (README.md)", "gecko run and gecko export write one")
    files = _files(folder)
    known = export_facts(folder)
    # But for a static table, an export has the weights and prompts that its facts name.
    own = None if known is None or known["format"] == "static" else known["fingerprint"]
    graphs: set[str] = set()
    for export in exports:
        facts = export_facts(export)
        if facts is None or facts["format"] not in GRAPHS:
            raise GeckoError(
                f"{export} is not an ONNX export of gecko", f"gecko export {model} --format onnx --out DIR"
            )
        own = own or _fingerprint(model)
        if facts["fingerprint"] != own:
            raise GeckoError(f"{export} was made from another model ({facts['model']})", "export this one")
        if facts["format"] in graphs:
            raise UsageError(f"{export} is the second --export of {facts['format']}", "name one of each format")
        graphs.add(facts["format"])
        files |= {name: path for name, path in _files(export).items() if name.startswith("onnx/")}
    return dict(sorted(files.items()))


def _fingerprint(model: str) -> str:
    from gecko.embedder.embedder import Embedder

    return Embedder(model, bf16=False).fingerprint


def _files(folder: Path) -> dict[str, Path]:
    """All files of a folder but hidden ones, by their names in it."""
    found = ((path.relative_to(folder), path) for path in sorted(folder.rglob("*")) if path.is_file())
    return {name.as_posix(): path for name, path in found if not any(part.startswith(".") for part in name.parts)}


def _is_hub(target: str) -> bool:
    """Whether a target is a repository of the Hub.

    Raises:
        UsageError: It is neither that nor a folder.
    """
    if target.startswith((".", "/", "~")) or Path(target).is_dir():
        return False
    if target.count("/") == 1 and all(target.split("/")):
        return True
    raise UsageError(f"{target} is neither a repository nor a folder", _TARGET_HINT)


def _copy(files: dict[str, Path], out: Path, model: Path) -> None:
    """Copy the files; a model that was published there is replaced.

    Raises:
        UsageError: The folder holds what is published, lies in it, or holds something else.
    """
    out = out.expanduser()
    place = out.resolve()
    if model.resolve() in place.parents or any(place in path.resolve().parents for path in files.values()):
        raise UsageError(f"{out} holds what is to be published, or lies in it", "choose another folder")
    known = (out / "modules.json").exists() or (out / MARK).exists()
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not known)):
        raise UsageError(f"{out} holds something that is not a model", "choose another folder")
    with writing(out), replaced(out) as fresh:
        for name, path in files.items():
            (fresh / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, fresh / name)


def _upload(files: dict[str, Path], repository: str, *, private: bool) -> str:
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi()
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        operations = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=path) for name, path in files.items()]
        done = api.create_commit(repository, operations=operations, commit_message="Model made with gecko")
    except Exception as error:  # of the network, the Hub or its client
        raise GeckoError(f"the Hub did not take {repository}: {reason(error)[:200]}", _LOGIN) from error
    return str(done.commit_url)
