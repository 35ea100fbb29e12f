"""How many requests the workers of a run have in flight together."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

import parallel_openai as po
from parallel_openai._ray.cluster import count_workers, seal


@pytest.mark.parametrize(("most", "workers"), [(8, 3), (1, 2), (5, None), (2, 4)])
def test_all_workers_together_keep_the_clients_max_concurrent_requests(most: int, workers: int | None) -> None:
    client = po.Client("http://127.0.0.1:9/v1", max_concurrent_requests=most)
    number = count_workers(SimpleNamespace(cluster_resources=lambda: {"CPU": 16.0}), workers, client)
    each = seal(client, number).open()["options"]["max_concurrent_requests"]
    assert each >= 1
    assert number * each <= most
