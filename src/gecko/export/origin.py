"""What the run that made a model knows of it: its sizes, its rows, its test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from gecko.errors import GeckoError


def run_of(spec: str | Path) -> Path | None:
    """The run whose model this is, or None."""
    run = Path(spec).resolve().parent
    return run if (run / "recipe.yaml").is_file() else None


def recipe_of(spec: str | Path) -> dict[str, Any] | None:
    """The recipe of that run, as it was written.

    Raises:
        GeckoError: It is damaged.
    """
    run = run_of(spec)
    if run is None:
        return None
    try:
        recipe = yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise GeckoError(f"{run / 'recipe.yaml'} is damaged", "run gecko run again") from error
    if not isinstance(recipe, dict) or not isinstance(recipe.get("train"), dict):
        raise GeckoError(f"{run / 'recipe.yaml'} is damaged", "run gecko run again")
    return recipe


def trained_dims(spec: str | Path) -> tuple[int, ...]:
    """The Matryoshka sizes that a run trained its model for, widest first; none of a model that no run made."""
    recipe = recipe_of(spec)
    return () if recipe is None else tuple(sorted(map(int, recipe["train"].get("dims") or ()), reverse=True))
