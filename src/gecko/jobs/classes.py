"""A head for classes in its folder: learnt and measured, kept with what made it, and used on new texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gecko.embedder.embedder import Embedder
from gecko.embedder.open import lasting_name
from gecko.errors import GeckoError
from gecko.evaluate.compare import paired_bootstrap
from gecko.jobs.classify import Checked, Head, check_labels, cross_validate, learn, learning_curve
from gecko.jobs.items import Item
from gecko.jobs.pages import shorten, write_page
from gecko.mixture.tasks import task_word
from gecko.report import svg
from gecko.shards import atomic, read_json, write_json

_FACTS, _WEIGHTS = "head.json", "head.safetensors"
_EXAMPLES = 3  # texts of a mistake


def learn_head(
    items: Sequence[Item],
    model: str,
    out: Path,
    *,
    name: str = "",
    base: str | None = None,
    dim: int | None = None,
    seed: int = 0,
    tell: Callable[[str], None],
) -> dict[str, Any]:
    """Learn a head from labelled texts, measure it by cross-validation, and write both.

    Args:
        items: The texts with their labels; one without is left out and told.
        model: Makes the vectors.
        out: Directory for head.json, head.safetensors and classify.html.
        name: Of the file, for the page.
        base: Another model to be measured on the same texts.
        dim: Dimensions that are kept.
        seed: Of the folds.
        tell: Receives what is left out.

    Returns:
        The figures, as ``Checked.figures`` has them, with ``curve`` and ``base``.

    Raises:
        GeckoError: There are not two labels of two texts each.
    """
    labelled = [item for item in items if item.label]
    if len(labelled) < len(items):
        tell(f"{len(items) - len(labelled):,} texts without a label are left out")
    kept, single = check_labels([item.label for item in labelled])
    if single:
        shown = ", ".join(sorted(single)[:5])
        tell(
            f"{len(single)} labels of one text each are left out, which can be learnt or checked and not both: {shown}"
        )
    labelled = [labelled[place] for place in kept]
    labels, texts = [item.label for item in labelled], [item.whole for item in labelled]
    embedder = Embedder(model, dim=dim)
    vectors = _encode(embedder, texts)
    checked = cross_validate(vectors, labels, seed)
    figures = checked.figures() | {"curve": learning_curve(vectors, labels, seed), "left_out": len(items) - len(labels)}
    if base is not None:
        other = cross_validate(_encode(Embedder(base), texts), labels, seed)
        low, high = paired_bootstrap(other.right, checked.right)
        gain = float(checked.right.mean() - other.right.mean())
        figures["base"] = {"model": base, "accuracy": float(other.right.mean()), "gain": gain, "ci95": [low, high]}
    _save(learn(vectors, labels, seed), embedder, model, figures, out)
    _write_page(out, name or out.name, model, checked, figures, texts)
    return figures


def open_head(out: Path, model: str = "") -> tuple[Head, Embedder]:
    """Load a head and the model it was learnt with.

    Args:
        out: Its directory.
        model: Where that model is now, if it was moved; it must have the same weights.

    Raises:
        GeckoError: There is no head, it is broken, or the model is another one.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    again = "learn it: gecko classify MODEL --labelled FILE --out DIR"
    try:
        facts = read_json(out / _FACTS)
        arrays = load_file(out / _WEIGHTS)
        head = Head(tuple(facts["labels"]), arrays["weights"], arrays["bias"])
        if head.weights.shape != (len(head.labels), facts["dim"]) or head.bias.shape != (len(head.labels),):
            raise ValueError("the weights are not those of the labels")
    except FileNotFoundError:
        raise GeckoError(f"{out} holds no head", again) from None
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise GeckoError(f"the head in {out} cannot be read: {error}", again) from error
    embedder = Embedder(model or facts["model"], dim=facts["dim"])
    if embedder.fingerprint != facts["fingerprint"]:
        raise GeckoError(
            f"the head in {out} was learnt with another model than {model or facts['model']}",
            f"it was {facts['model']}; name that one, or learn again with --labelled",
        )
    return head, embedder


def apply_head(head: Head, embedder: Embedder, items: Sequence[Item]) -> list[dict[str, Any]]:
    """Put texts into classes: id, label, its probability, and the next label with its own."""
    found = head.probabilities(_encode(embedder, [item.whole for item in items]))
    order = np.argsort(-found, axis=1, kind="stable")
    return [
        {
            "id": item.item_id,
            "label": head.labels[best],
            "probability": round(float(row[best]), 4),
            "next": head.labels[after],
            "next_probability": round(float(row[after]), 4),
        }
        for item, row, (best, after) in zip(items, found, order[:, :2], strict=True)
    ]


def _encode(embedder: Embedder, texts: list[str]) -> np.ndarray:
    return embedder.encode_symmetric(texts, task_word("classification"), "Classification")


def _save(head: Head, embedder: Embedder, model: str, figures: dict[str, Any], out: Path) -> None:
    from safetensors.numpy import save_file

    with atomic(out / _WEIGHTS) as temporary:
        save_file({"weights": head.weights, "bias": head.bias}, temporary)
    write_json(
        out / _FACTS,
        {
            "labels": list(head.labels),
            "model": lasting_name(model),
            "fingerprint": embedder.fingerprint,
            "dim": embedder.dim,
            "figures": figures,
        },
    )


def _write_page(
    out: Path, name: str, model: str, checked: Checked, figures: dict[str, Any], texts: Sequence[str]
) -> None:
    labels = sorted(figures["labels"], key=lambda row: (row["f1"], row["label"]))
    place = {label: index for index, label in enumerate(checked.labels)}
    confused = []
    for row in figures["confused"]:
        wrong = (checked.gold == place[row["label"]]) & (checked.given == place[row["given"]])
        confused.append({**row, "texts": [shorten(texts[i], 160) for i in np.flatnonzero(wrong)[:_EXAMPLES]]})
    points = [(point["per_label"], 100 * point["accuracy"]) for point in figures["curve"]]
    line = svg.Line("accuracy", "accent", points)
    write_page(
        out / "classify.html",
        "classify.html",
        name=name,
        model=model,
        figures=figures,
        base=figures.get("base"),
        curve=svg.curves([line], "Accuracy by texts of a class", x_name="texts of a class", dots=True)
        if len(points) > 1
        else "",
        labels=[{**row, "bar": svg.share_bar(row["f1"], f"F1 {100 * row['f1']:.0f}")} for row in labels],
        confused=confused,
    )
