"""One recipe on the local engine and on Ray: seconds of each stage, and the same rows though workers and nodes die.

    python bench/scale_ray.py [PASSAGES]

The corpus is the documentation of this interpreter; the offline teacher writes and ranks. Both engines get the cores
that there are. Then the run is made again on Ray while a worker of every stage is killed, and on a cluster of two nodes
of which one is removed while the passages are encoded. The page is ``docs/results/scale-ray.md``.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from quality import write_page

from gecko.corpus import cut
from gecko.engine.local import LocalEngine, cores
from gecko.engine.protocol import Engine, Work
from gecko.engine.ray import RayEngine
from gecko.miner import vectors
from gecko.recipe import Recipe, load_recipe
from gecko.run import opened_run, run_stage
from gecko.stages import stages_for

TESTS = Path(__file__).parents[1] / "tests"
TARGET = 1.3


class AtThird:
    """An engine under which something is done once, after the third batch of the second work: passages' vectors."""

    name = "at-third"

    def __init__(self, engine: Engine, act: Callable[[], None]) -> None:
        self._engine, self._act, self._works = engine, act, 0
        self.acted = False

    def map_batches(self, work: Work, batches: Iterable, *, model: bool = False) -> Iterator:
        """As the engine beneath."""
        self._works += 1
        for number, result in enumerate(self._engine.map_batches(work, batches, model=model)):
            if number == 2 and self._works == 2:
                self._act()
                self.acted = True
            yield result

    def close(self) -> None:
        """Close the engine beneath."""
        self._engine.close()


def distilled(recipe: Recipe, out: Path, engine: Engine, last: str = "fret") -> dict[str, float]:
    """Seconds of each stage up to one, the FRet rows if not another."""
    stages = stages_for(recipe, last)
    with opened_run(recipe, out, stages, tell=lambda line: None, engine=engine) as context:
        return {stage.name: run_stage(stage, context, lambda line: None).seconds for stage in stages}


def made(run: Path) -> tuple[str, int, int]:
    """Hash of all rows and vectors in order, teacher calls in the ledger, and how many of them are there twice."""
    digest = hashlib.sha256((run / "miner" / "vectors.npy").read_bytes())
    for path in sorted(run.rglob("*.parquet")):
        for batch in pq.ParquetFile(path).iter_batches():
            digest.update(repr(batch.to_pylist()).encode())
    with closing(sqlite3.connect(run / "ledger.sqlite")) as ledger:
        calls, different = ledger.execute("SELECT count(*), count(DISTINCT key) FROM teacher_calls").fetchone()
    return digest.hexdigest(), calls, calls - different


def two_nodes() -> tuple[RayEngine, Any]:
    from ray.cluster_utils import Cluster

    each = max(1, cores() // 2)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": each})
    cluster.add_node(num_cpus=each)
    cluster.wait_for_nodes()
    return RayEngine(cluster.address), cluster


def main() -> None:
    import torch

    sys.path.insert(0, str(TESTS))
    from engine_works import Deadly

    passages = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    if passages < 10_000:  # so that every stage has batches enough to lose some
        vectors.BLOCK_ROWS, cut._DOCUMENTS = max(1, passages // 8), max(1, passages // 16)
    # Where workers import the work that kills them from.
    os.environ["PYTHONPATH"] = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    limit = min(2000, passages // 5)
    recipe = load_recipe(Path("recipes/domain.yaml"), [f"corpus.limit={passages}", f"fret.limit={limit}"], ["stdlib:"])
    with tempfile.TemporaryDirectory(prefix="gecko-scale-") as name:
        folder = Path(name)
        alone = distilled(recipe, folder / "alone", LocalEngine(workers=0), "passages")["passages"]
        seconds = {"local": distilled(recipe, folder / "local", LocalEngine())}
        with closing(RayEngine()) as engine:
            seconds["ray"] = distilled(recipe, folder / "ray", engine)
            (folder / "died").mkdir()
            distilled(recipe, folder / "killed", Deadly(engine, folder / "died"))
        died = len(list((folder / "died").iterdir()))
        torch.set_num_threads(max(1, torch.get_num_threads() // 2))  # so that each node has a worker
        distilled(recipe, folder / "half", LocalEngine())
        engine, cluster = two_nodes()
        with closing(AtThird(engine, lambda: cluster.remove_node(cluster.list_all_nodes()[1]))) as removing:
            distilled(recipe, folder / "removed", removing)
        gone = int(removing.acted)
        cluster.shutdown()
        outcomes = {run: made(folder / run) for run in ("local", "ray", "killed", "half", "removed")}
    lines = ["# The local engine and Ray", ""]
    lines += [
        f"`make bench-scale-ray PASSAGES={passages}`: {limit:,} queries, {cores()} cores, offline teacher. "
        "Ray's first stage starts Ray.",
        "",
        "| stage | local, s | Ray, s | ratio |",
        "|:--|--:|--:|--:|",
    ]
    whole = {engine_name: sum(times.values()) for engine_name, times in seconds.items()}
    for stage, local in (*seconds["local"].items(), ("all", whole["local"])):
        ray = {**seconds["ray"], "all": whole["ray"]}[stage]
        lines.append(f"| {stage} | {local:.1f} | {ray:.1f} | {ray / local if local else 1:.2f} |")
    ratio = whole["ray"] / whole["local"]
    lines += [
        "",
        f"Passages without other processes: {alone:.1f} s. Ratio {ratio:.2f}, target {TARGET} at most: "
        f"{'met' if ratio <= TARGET else 'missed'}.",
        "",
        "| run | beside | rows and vectors equal | teacher calls | made twice |",
        "|:--|:--|:--|--:|--:|",
    ]
    for run, beside in (("ray", "local"), ("killed", "local"), ("removed", "half")):
        digest, calls, twice = outcomes[run]
        equal = "yes" if digest == outcomes[beside][0] else "NO"
        what = {"ray": "Ray", "killed": f"Ray, {died} workers killed", "removed": f"two nodes, {gone} removed"}[run]
        lines.append(f"| {what} | {beside}: {outcomes[beside][1]:,} calls | {equal} | {calls:,} | {twice} |")
    write_page("scale-ray", lines)


if __name__ == "__main__":
    main()
