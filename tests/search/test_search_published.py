"""The jobs of the published search, held against its tables (physnet_top10.csv: its tables 2, 3, A1 and A2)."""

import csv
from pathlib import Path

import pytest

from hpc_kit.search.space import Choices, read_space
from hpc_kit.spec.job import load_job

TABLE_1 = {  # key -> low, high, log scale
    "train.accumulate": (1, 20, True),
    "train.batch_size": (128, 512, False),
    "train.clip": (1e-5, 2.0, True),
    "train.learning_rate": (1e-3, 1.0, True),
    "train.weight_decay": (2e-6, 0.02, True),
}
OPTIMIZERS = {"torch_adam": "adam", "torch_adamw": "adamw"}
JOBS = ("search-physnet-zpve", "search-physnet-homo")


def space(name):
    job = load_job(name).job
    return job, {one.key: one.domain for one in read_space(job.search.space, job.model_dump()).parameters}


@pytest.mark.parametrize("name", JOBS)
def test_the_space_is_table_1(name):
    job, domains = space(name)
    assert (job.search.trials, job.train.epochs, job.model.name) == (20, 30, "physnet")
    ranges = {key: one for key, one in domains.items() if not isinstance(one, Choices)}
    assert {key: (one.low, one.high, one.prior.startswith("log")) for key, one in ranges.items()} == TABLE_1
    assert domains["train.optimizer"].values == ("sgd", "adam", "lamb")
    assert domains["train.precision"].values == ("fp32", "fp16")


@pytest.mark.parametrize(
    ("name", "outside"),
    [
        (JOBS[0], {(3, "train.learning_rate"), (10, "train.optimizer")}),
        (
            JOBS[1],
            {(number, "train.learning_rate") for number in (2, 3, 7, 8)} | {(8, "train.optimizer")},
        ),
    ],
)
def test_published_best_that_lie_outside_of_the_published_space_are_those_the_job_names(name, outside):
    job, domains = space(name)
    found = set()
    for row in csv.DictReader((Path(__file__).parent / "physnet_top10.csv").open()):
        if row["target"].lower() != job.data.target[0]:
            continue
        values = {
            "train.accumulate": int(row["agb"]),
            "train.precision": "fp16" if row["amp"] == "TRUE" else "fp32",
            "train.batch_size": int(row["batch_size"]),
            "train.clip": float(row["gradient_clip"]),
            "train.learning_rate": float(row["learning_rate"]),
            "train.optimizer": OPTIMIZERS.get(row["optimizer"], row["optimizer"]),
            "train.weight_decay": float(row["weight_decay"]),
        }
        found |= {(int(row["rank"]), key) for key, value in values.items() if domains[key].why_outside(value)}
    assert found == outside
