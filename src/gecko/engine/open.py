"""An engine from its name on the command line."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

from gecko.engine.local import LocalEngine
from gecko.engine.protocol import Engine
from gecko.errors import GeckoError, UsageError


def open_engine(
    name: str, *, address: str | None = None, gpus: float = 0.0, tell: Callable[[str], None] | None = None
) -> Engine:
    """Open an engine; Ray itself is started by the first work it gets, so a run with nothing to do starts none.

    Args:
        name: ``local`` or ``ray``.
        address: Of the Ray cluster to join; None starts Ray on this machine.
        gpus: GPUs that each Ray worker with a model asks for.
        tell: Receives lines on what is waited for.

    Raises:
        UsageError: There is no such engine, or the options are not for it.
        GeckoError: Ray is not installed.
    """
    if name == "local":
        if address is not None or gpus:
            raise UsageError("--ray-address and --ray-gpus are for --engine ray", "add --engine ray, or leave them out")
        return LocalEngine()
    if name != "ray":
        raise UsageError(f"--engine {name}: there is no such engine", "it is local or ray")
    if importlib.util.find_spec("ray") is None:
        raise GeckoError("Ray is not installed", "pip install 'gecko-embed[ray]'")
    from gecko.engine.ray import RayEngine

    return RayEngine(address, gpus=gpus, tell=tell)
