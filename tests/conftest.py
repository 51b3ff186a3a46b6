"""What every test shares: one thread, since the models are small and a busy machine stalls thread pools; pytester."""

from __future__ import annotations

import atexit
import gc
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from typing import Any

import cloudpickle
import pytest

from robench.store import files

os.environ.setdefault("OMP_NUM_THREADS", "1")
# nothing is noted of the tests in the user's own state folder
os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp(prefix="robench-state-")
atexit.register(shutil.rmtree, os.environ["XDG_STATE_HOME"], ignore_errors=True)
# a shell starts background jobs with Ctrl-C ignored, and so would every process here that a test interrupts
signal.signal(signal.SIGINT, signal.default_int_handler)

# what is written need not outlast the machine, and waiting for a disk is a fifth of some tests
os.fsync = lambda fd: None

# disks here tell times apart by far less than the coarsest, for whose sake a file is read again for two seconds
files.SETTLED = 5 * 10**7

# nor is there anything to collect while all tests are imported
gc.disable()

pytest_plugins = ["pytester"]


def pytest_collection_finish() -> None:
    """What all the tests import stays; the garbage collector would look through its million objects for half a second
    at a time."""
    gc.enable()
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """At the end all is given back, which some libraries count."""
    gc.unfreeze()


@pytest.fixture(scope="module", autouse=True)
def _classes_by_value(request: pytest.FixtureRequest) -> Iterator[None]:
    """A module of a test's own class is asked again in a process that need not import the test and all it imports."""
    cloudpickle.register_pickle_by_value(request.module)
    yield
    cloudpickle.unregister_pickle_by_value(request.module)


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[Any]:
    """A Ray cluster of this machine with two cores, started when a test asks for it first."""
    from robench.executors.ray_cluster import package

    package()
    from ray.cluster_utils import Cluster

    cluster = Cluster()
    try:
        settings = {"worker_niceness": 0}  # Ray's workers stand back otherwise, which on a busy machine takes minutes
        cluster.add_node(num_cpus=2, include_dashboard=False, object_store_memory=80 * 2**20, _system_config=settings)
        yield cluster
    finally:
        cluster.shutdown()
