"""What all tests of the export share, beside the networks of tests.networks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from san_export.verify import CheckCrops


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small lose time to a second thread, and all of it on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def crops(check_crops: CheckCrops) -> CheckCrops:
    return check_crops
