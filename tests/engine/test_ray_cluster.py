"""A Ray cluster that is joined: two nodes, of which one goes away in the middle; and none where one should be."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine_works import Square
from gecko.engine.ray import RayEngine
from gecko.errors import GeckoError

ray = pytest.importorskip("ray", reason="the extra is not installed: make test-ray, or pip install -e '.[ray]'")

_COUNT = 60


def test_no_cluster_is_one_line() -> None:
    with pytest.raises(GeckoError, match=r"no Ray cluster at 127\.0\.0\.1:1: .*refused") as told:
        list(RayEngine("127.0.0.1:1").map_batches(Square(), range(2)))
    assert "ray status" in told.value.hint


@pytest.fixture
def cluster() -> Iterator[Any]:
    """Two nodes of one core each; this process is on neither."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[1]), prepend=os.pathsep)
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        yield cluster
        ray.shutdown()
        cluster.shutdown()


def test_a_node_that_goes_away_changes_nothing(cluster: Any) -> None:
    engine = RayEngine(cluster.address)
    found: list[tuple[int, int]] = []
    gone = False
    for result in engine.map_batches(Square(slow=tuple(range(_COUNT))), range(_COUNT)):
        found.append(result)
        if not gone and len({process for _, process in found}) == 2:  # both work, with a batch in hand and one to come
            cluster.remove_node(cluster.list_all_nodes()[1])
            gone = True
    assert gone
    assert [square for square, _ in found] == [number * number for number in range(_COUNT)]
    engine.close()
    assert not ray.is_initialized()  # it is left, and goes on
