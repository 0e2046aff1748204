"""What MTEB is told of a model (``ModelMeta``): its size, its form, and what it was trained on, from its own files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from gecko.evaluate.mteb.places import named_tasks, plain_name

_PACKAGED, _HUB_ID = "all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2"
_HUB = "hf://"
_OWN = ("fret", "corpus", "queries")  # sources that a run makes itself of its corpus
_GENERIC = ("model", "train", "prefinetune")  # names of folders that say nothing of the model in them


@dataclass(frozen=True, slots=True)
class Provenance:
    """What a model's files say of its training.

    Attributes:
        datasets: What it was trained on, beside what its student was: names of MTEB's tasks where the data is known to
            be theirs, else the sources' own names. None where the files do not tell.
        said: One line on where this is known from.
        student: The model it was trained from; empty if unknown.
        recipe: Its recipe; empty if unknown.
    """

    datasets: frozenset[str] | None
    said: str
    student: str = ""
    recipe: Mapping[str, Any] | None = None


def model_meta(embedder: Any, dim: int) -> tuple[Any, str]:  # noqa: ANN401
    """Describe a model for MTEB: (its ``ModelMeta``, how its training data is known).

    A model that MTEB knows by name, and the packaged one, is described by MTEB's own entry.

    Args:
        embedder: A ``gecko.embedder.embedder.Embedder``.
        dim: The dimension it is scored at.
    """
    import mteb
    from mteb.models import ModelMeta

    experiment = {"dim": dim} if dim < embedder.full_dim else None
    local = embedder.path != _PACKAGED and Path(embedder.path).is_dir()
    if not local:
        try:
            known = mteb.get_model_meta(_HUB_ID if embedder.path == _PACKAGED else embedder.path)
            return known.model_copy(update={"experiment_kwargs": experiment}), "MTEB's own entry of this model"
        except KeyError:
            pass
    origin = provenance(Path(embedder.path)) if local else Provenance(None, "MTEB has no entry of this model")
    card = _card(Path(embedder.path)) if local else {}
    network = embedder.model
    torch_made = hasattr(network, "parameters")  # an ONNX export's weights are in its graph
    parameters = sum(part.numel() for part in network.parameters()) if torch_made else None
    datasets = None if origin.datasets is None else set(origin.datasets)
    meta = ModelMeta(
        loader=None,
        name=embedder.path if "/" in embedder.path and not local else _name(Path(embedder.path)),
        revision=embedder.fingerprint,
        release_date=None,
        languages=_languages(card.get("language")),
        n_parameters=parameters,
        n_embedding_parameters=_embedding_parameters(network),
        memory_usage_mb=None if parameters is None else round(parameters * 4 / 2**20),
        max_tokens=getattr(network, "max_seq_length", None),
        embed_dim=_sizes(origin.recipe, embedder.full_dim),
        license=_licence(card.get("license")),
        open_weights=None,
        public_training_code=None,
        public_training_data=None,
        framework=["Sentence Transformers", "PyTorch", "safetensors"] if torch_made else ["ONNX"],
        reference=None,
        similarity_fn_name="cosine",
        use_instructions=embedder.format == "gecko" or any(network.prompts.values()),
        training_datasets=datasets,
        adapted_from=(_HUB_ID if origin.student == _PACKAGED else _shown(origin.student)) or None,
        experiment_kwargs=experiment,
    )
    return meta, origin.said


def provenance(model: Path) -> Provenance:
    """Read what a model was trained on from the files that a run, or a training, leaves beside it."""
    homes = [model.resolve().parent, model.resolve().parent.parent]
    run = next((home for home in homes if (home / "recipe.yaml").is_file()), None)
    if run is None:
        return _of_rows(homes[0])
    try:
        recipe = yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8"))
        student = str(recipe["train"]["student"])
        gate = _json(run / "gate" / "gate.json") if model.resolve() == (run / "model").resolve() else {}
        if gate and float(gate.get("alpha", 1)) == 0:
            return Provenance(frozenset(), "the run shipped its student unchanged", student, recipe)
        paths = [str(source) for source in (recipe.get("corpus") or {}).get("sources") or ()]
        for section in ("mixture", "prefinetune"):
            paths += [str(source["path"]) for source in (recipe.get(section) or {}).get("sources") or ()]
    except (OSError, ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError):
        return Provenance(None, f"unknown: {run.name}/recipe.yaml cannot be read")
    return _of_paths(paths, run, student, recipe)


def _of_paths(paths: Iterable[str], run: Path, student: str, recipe: Mapping[str, Any]) -> Provenance:
    """Name the data sets of a run's corpus, mixture and pre-finetuning."""
    datasets: set[str] = set()
    for path in paths:
        if path.startswith(_HUB):
            datasets |= _of_hub(path.removeprefix(_HUB).strip("/"))
            continue
        if path.endswith(":"):  # stdlib:
            datasets.add(path.rstrip(":"))
            continue
        place = next((root / path for root in (Path(), run, run.parent) if (root / path).exists()), None)
        if place is None and not any(sign in path for sign in "*?["):
            said = f"unknown: {Path(path).name}, which the run's recipe names, is not there any more"
            return Provenance(None, said, student, recipe)
        datasets |= _of_folder(place.resolve()) if place else {Path(path).parent.name or path}
    named = ", ".join(sorted(datasets)) or "none"
    return Provenance(frozenset(datasets), f"the run's recipe: {named}", student, recipe)


def _of_rows(home: Path) -> Provenance:
    """Name the sources of a training on rows of the user's own, which have no more than names."""
    unknown = "unknown: no recipe lies beside the model"
    history = _json(home / "history.json")
    try:
        sources = [str(source["source"]) for source in history["mixture"]["sources"]]
    except (KeyError, TypeError):
        return Provenance(None, unknown)
    known = {plain_name(name): name for name in _task_names()}
    names = {plain_name(source): source for source in sources if source not in _OWN}
    if lacking := [source for name, source in names.items() if name not in known]:
        return Provenance(None, f"unknown: rows of {', '.join(lacking)}, whose data set is not known")
    return Provenance(frozenset(known[name] for name in names), "the sources of its rows")


def _of_folder(place: Path) -> set[str]:
    """The tasks that the README of a place, or of a folder it lies in, names; else its own name."""
    folder = place if place.is_dir() else place.parent
    known = set(_task_names())
    for home in [folder, *folder.parents[:2]]:
        if names := known & set(named_tasks(home)):
            return names
        if (home / "README.md").is_file():
            break  # it says what the data is, and that MTEB does not have it
    return {folder.name}


def _of_hub(name: str) -> set[str]:
    """The tasks whose data is this of the Hub; else its own name."""
    from mteb.get_tasks import TASK_LIST

    owner_and_name = "/".join(name.split("/")[:2]).lower()
    found = {task.metadata.name for task in TASK_LIST if _hub_path(task) == owner_and_name}
    return found or {name}


def _hub_path(task: Any) -> str:  # noqa: ANN401
    return str((task.metadata.dataset or {}).get("path", "")).lower()


def _task_names() -> list[str]:
    from mteb.get_tasks import TASK_LIST

    return [task.metadata.name for task in TASK_LIST]


def _name(model: Path) -> str:
    """A name in the Hub's form, from the last folder that is called anything."""
    parts = [part for part in model.resolve().parts if part not in _GENERIC]
    return f"gecko/{parts[-1] if parts else 'model'}"


def _shown(student: str) -> str:
    """A student's name without the folders it lies in."""
    return Path(student).name if Path(student).is_absolute() or student.startswith(".") else student


def _card(model: Path) -> dict[str, Any]:
    """The head of a model's card; empty where there is none."""
    try:
        text = (model / "README.md").read_text(encoding="utf-8", errors="replace")
        head = yaml.safe_load(text.split("---")[1]) if text.startswith("---") else None
    except (OSError, IndexError, yaml.YAMLError):
        return {}
    return head if isinstance(head, dict) else {}


def _languages(codes: Any) -> list[str] | None:  # noqa: ANN401
    """A card's languages as MTEB writes them (``eng-Latn``); None where it says nothing MTEB knows."""
    import langcodes
    from mteb.languages import check_language_code

    found = []
    for code in [codes] if isinstance(codes, str) else codes or ():
        try:
            language = langcodes.Language.get(str(code)).maximize()
            tag = f"{'cmn' if language.language == 'zh' else language.to_alpha3()}-{language.script}"
            check_language_code(tag)
        except (ValueError, LookupError):
            continue
        found.append(tag)
    return found or None


def _licence(name: Any) -> str | None:  # noqa: ANN401
    """A licence that MTEB has a name for."""
    from mteb.types import Licenses
    from pydantic import TypeAdapter, ValidationError

    try:
        return str(TypeAdapter(Licenses).validate_python(name)) if name else None
    except ValidationError:
        return None


def _sizes(recipe: Mapping[str, Any] | None, full: int) -> int | list[int]:
    """The dimensions a model was trained for, or the one it has."""
    sizes = sorted({int(size) for size in ((recipe or {}).get("train") or {}).get("dims") or ()} | {full})
    return sizes if len(sizes) > 1 else full


def _embedding_parameters(network: Any) -> int | None:  # noqa: ANN401
    """How many of the parameters are of the table of tokens."""
    try:
        return int(network[0].auto_model.get_input_embeddings().weight.numel())
    except (AttributeError, IndexError, KeyError, TypeError, NotImplementedError):
        return None


def _json(path: Path) -> Any:  # noqa: ANN401
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
