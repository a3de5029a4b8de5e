"""Learning-rate schedules beside torch's own."""

import pytest
import torch

from hpc_kit.spec.train import Train
from hpc_kit.train.optim import build_optimizer, learning_rate


def rates_of_torch(scheduler_of, steps: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.01)
    scheduler = scheduler_of(optimizer)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("steps", [10, 37, 200])
def test_one_cycle_equals_torchs(steps):
    train = Train(learning_rate=0.01, schedule="one_cycle")
    theirs = rates_of_torch(
        lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.01, total_steps=steps, cycle_momentum=False), steps
    )
    assert [learning_rate(train, k, steps) for k in range(steps)] == pytest.approx(theirs, rel=1e-9)


def test_cosine_equals_torchs():
    train = Train(learning_rate=0.01, schedule="cosine")
    theirs = rates_of_torch(lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 50), 50)
    assert [learning_rate(train, k, 50) for k in range(50)] == pytest.approx(theirs, rel=1e-9)


def test_warmup_rises_in_equal_steps_to_the_peak():
    train = Train(learning_rate=0.01, warmup=4)
    assert [learning_rate(train, k, 10) for k in range(6)] == pytest.approx([0.0025, 0.005, 0.0075, 0.01, 0.01, 0.01])


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_very_short_one_cycle_has_a_rate_at_every_step(steps):
    train = Train(learning_rate=0.01, schedule="one_cycle")
    assert all(0 < learning_rate(train, k, steps) <= 0.01 for k in range(steps))


@pytest.mark.parametrize(
    ("name", "kind"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)]
)
def test_optimizer_takes_its_settings_from_the_job(name, kind):
    train = Train(optimizer=name, learning_rate=0.5, weight_decay=0.25)
    optimizer = build_optimizer([torch.nn.Parameter(torch.zeros(1))], train)
    assert type(optimizer) is kind
    assert (optimizer.defaults["lr"], optimizer.defaults["weight_decay"]) == (0.5, 0.25)
