"""P x K batches."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from san_train.sampler import IdentitySampler  # noqa: E402

from san_deploy.datasets import Crop  # noqa: E402


def crops(people: int, cameras: int = 3, each: int = 5) -> list[Crop]:
    return [
        Crop(Path(f"{p}_{c}_{i}.jpg"), p, f"cam{c}", f"t{p}")
        for p in range(1, people + 1)
        for c in range(cameras)
        for i in range(each)
    ]


def test_batches_hold_p_people_and_k_crops_over_cameras() -> None:
    data = crops(10)
    sampler = IdentitySampler(data, num_ids=4, num_instances=3, seed=0)
    for batch in sampler.epoch(0, 20):
        assert len(batch) == 12
        assert sorted(Counter(data[i].person for i in batch).values()) == [3] * 4
        for person in {data[i].person for i in batch}:
            assert {data[i].camera for i in batch if data[i].person == person} == {"cam0", "cam1", "cam2"}


def test_people_come_up_equally_often() -> None:
    data = crops(8)
    seen = Counter(
        data[i].person
        for batch in IdentitySampler(data, num_ids=4, num_instances=2, seed=3).epoch(0, 40)
        for i in batch
    )
    assert max(seen.values()) - min(seen.values()) <= 2 * 2


def test_the_same_epoch_is_the_same_whatever_came_before() -> None:
    data = crops(6)
    one, two = (IdentitySampler(data, num_ids=3, num_instances=2, seed=5) for _ in range(2))
    one.epoch(0, 9)
    assert one.epoch(1, 4) == two.epoch(1, 4)
    assert one.epoch(1, 4) != one.epoch(2, 4)
    assert IdentitySampler(data, num_ids=3, num_instances=2, seed=6).epoch(1, 4) != one.epoch(1, 4)


def test_fewer_people_than_p() -> None:
    data = crops(3)
    (batch,) = IdentitySampler(data, num_ids=5, num_instances=2, seed=0).epoch(0, 1)
    assert len(batch) == 10 and {data[i].person for i in batch} == {1, 2, 3}


def test_few_crops_are_drawn_again() -> None:
    data = crops(3, cameras=1, each=2)
    (batch,) = IdentitySampler(data, num_ids=2, num_instances=4, seed=0).epoch(0, 1)
    assert len(batch) == 8


def test_share_by_data_set() -> None:
    data = crops(4) + crops(30)
    domain = [0] * len(crops(4)) + [1] * len(crops(30))
    sampler = IdentitySampler(data, num_ids=8, num_instances=2, seed=0, domain=domain, share=[0.25, 0.75])
    for batch in sampler.epoch(0, 10):
        assert Counter(domain[i] for i in batch) == {0: 2 * 2, 1: 6 * 2}
    with pytest.raises(ValueError, match="share"):
        IdentitySampler(data, num_ids=8, num_instances=2, seed=0, domain=domain, share=[1.0])
