"""A real local cluster, which every file of these tests starts once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def cluster() -> Iterator[Path]:
    """Its folder of logs."""
    ray = pytest.importorskip("ray", reason="Ray has no wheel for this Python")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="error",
        object_store_memory=100 << 20,
    )
    yield Path(ray._private.worker._global_node.get_session_dir_path())
    ray.shutdown()
