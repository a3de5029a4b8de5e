"""The training loop, on real molecules: it learns, resumes bit for bit, accumulates exactly, and leaves records."""

import json
import math
import os
import signal
from concurrent.futures import ThreadPoolExecutor

import h5py
import numpy as np
import pytest
import torch
from ase.build import molecule
from conftest import ListSource, run_small, small_run

from hpc_kit.data.manifest import read_manifest
from hpc_kit.data.prepare import Settings, prepare
from hpc_kit.data.structures import Structure
from hpc_kit.models import build_model
from hpc_kit.ranks import Ranks
from hpc_kit.runs.preempt import Watch
from hpc_kit.runs.records import read_lines, sealed
from hpc_kit.spec.data import Graph
from hpc_kit.spec.errors import InputError, Preempted, WorkError
from hpc_kit.spec.shipped import shipped_folder
from hpc_kit.spec.site import NODE_LOCAL
from hpc_kit.spec.yaml_text import read_yaml, write_yaml
from hpc_kit.task import run_task
from hpc_kit.train import loop, state
from hpc_kit.train.distributed import Group


def losses(task) -> list[tuple[float, float]]:
    return [(line["train_loss"], line["val_mae"]) for line in read_lines(task.epochs)]


def test_training_beats_guessing_the_mean(tmp_path):
    task = run_small(tmp_path / "run", "data.split.train=0.2", "train.learning_rate=5e-3", "train.epochs=6")
    errors = json.loads(task.metrics.read_text())["targets"]["zpve"]
    assert errors["test_mae"] < 0.5 * errors["baseline_mae"]
    assert errors["unit"] == "eV"


def test_records_hold_every_field_of_the_design(small_task):
    run_task(small_task.path)
    fields = (
        "epoch started_at wall_s cpu_s grad_norm data_wait_s compute_s eval_s checkpoint_s graphs atoms edges"
        " graphs_per_s train_loss val_mae learning_rate peak_rss_mb peak_gpu_mb world_size fingerprint"
    )
    for number, line in enumerate(read_lines(small_task.epochs)):
        assert list(line) == fields.split()
        assert line["epoch"] == number and line["graphs"] == 120
        parts = sum(line[k] for k in ("data_wait_s", "compute_s", "eval_s", "checkpoint_s"))
        assert parts == pytest.approx(line["wall_s"], abs=0.01)
        assert 0 < line["cpu_s"] and 0 < line["grad_norm"]
    assert line["fingerprint"] == json.loads(small_task.fingerprint.read_text())["sha256"]


def test_predictions_are_those_the_reported_error_is_made_of(small_task):
    run_task(small_task.path)
    split = json.loads(next(small_task.splits.iterdir()).read_text())
    with h5py.File(small_task.predictions) as file:
        assert [name.decode() for name in file["ids"]] == split["test"]
        predicted, truth = file["predictions/zpve"], file["targets/zpve"]
        assert predicted.attrs["unit"] == truth.attrs["unit"] == "eV"
        residual = predicted[:] - truth[:]
        spread = np.square(truth[:] - truth[:].mean()).sum()
    errors = json.loads(small_task.metrics.read_text())["targets"]["zpve"]
    assert errors["test_mae"] == pytest.approx(np.abs(residual).mean(), rel=1e-12)
    assert errors["test_rmse"] == pytest.approx(np.sqrt(np.square(residual).mean()), rel=1e-12)
    assert errors["test_r2"] == pytest.approx(1 - np.square(residual).sum() / spread, rel=1e-12)


def test_resumed_training_equals_an_uninterrupted_one_bit_for_bit(tmp_path, monkeypatch):
    whole = run_small(tmp_path / "whole", "train.schedule=cosine", "train.clip=1.0")

    saved = state.save_checkpoint

    def die_after_the_second_epoch(path, content):
        saved(path, content)
        if content["progress"]["epoch"] == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(state, "save_checkpoint", die_after_the_second_epoch)
        with pytest.raises(KeyboardInterrupt):
            run_small(tmp_path / "cut", "train.schedule=cosine", "train.clip=1.0")
    cut = run_small(tmp_path / "cut", "train.schedule=cosine", "train.clip=1.0")

    assert losses(cut) == losses(whole)
    assert read_lines(cut.epochs)[1]["checkpoint_s"] is None  # not known: the task died before it was written
    a, b = weights(cut), weights(whole)
    assert all(torch.equal(a[name], b[name]) for name in b)
    assert cut.metrics.read_text() == whole.metrics.read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2])
def test_training_ended_by_a_signal_goes_on_inside_the_epoch(tmp_path, monkeypatch, number):
    options = ("train.accumulate=2", "train.schedule=cosine", "train.ema=0.9")
    whole = run_small(tmp_path / "whole", *options)
    taken = []

    def signal_in_the_second_epoch(training, *arguments):
        step(training, *arguments)
        taken.append(arguments)
        if len(taken) == 6:  # of four steps an epoch
            os.kill(os.getpid(), number)

    step = loop.Training._step
    with monkeypatch.context() as patch:
        patch.setattr(loop.Training, "_step", signal_in_the_second_epoch)
        with pytest.raises(Preempted, match=f"{number.name} was sent; last.pt holds epoch 1 up to batch 4"):
            run_small(tmp_path / "cut", *options)
    before = (tmp_path / "cut" / "tasks").glob("*/epochs.jsonl")
    assert len(read_lines(next(before))) == 1
    cut = run_small(tmp_path / "cut", *options)

    assert losses(cut) == losses(whole)
    assert [line["graphs"] for line in read_lines(cut.epochs)] == [120] * 4
    assert cut.metrics.read_text() == whole.metrics.read_text()


def weights(task) -> dict[str, torch.Tensor]:
    return torch.load(task.last, weights_only=True)["model"]


@pytest.mark.parametrize("part", ["val", "test"])
def test_stop_while_validating_or_testing_repeats_no_step(tmp_path, monkeypatch, part):
    # An epoch is 7 steps of 2 batches and one of 1.
    options = ("train.accumulate=2", "train.batch_size=8", "train.ema=0.9", "train.epochs=2")
    whole = run_small(tmp_path / "whole", *options)
    plain_step, steps = loop.Training._step, []
    monkeypatch.setattr(loop.Training, "_step", lambda *given: steps.append(given[1]) or plain_step(*given))

    with monkeypatch.context() as patch:
        plain, parts = loop.predict, ["val", "another val", "test"]

        def signal_after_the_first_batch(objective, data, index, limits, group, meet):
            now = parts.pop(0)

            def meet_and_signal(more: bool) -> bool:
                found = meet(more)
                if now == part:
                    os.kill(os.getpid(), signal.SIGUSR1)
                return found

            return plain(objective, data, index, limits, group, meet_and_signal)

        patch.setattr(loop, "predict", signal_after_the_first_batch)
        held = {"val": "epoch 0, whose validation is left", "test": "all epochs; the test is left"}[part]
        with pytest.raises(Preempted, match=f"SIGUSR1 was sent; last.pt holds {held}") as stop:
            run_small(tmp_path / "cut", *options)
    assert stop.value.cause == "preempted"
    cut = run_small(tmp_path / "cut", *options)

    assert steps == list(range(16))
    assert losses(cut) == losses(whole) and len(losses(cut)) == 2
    assert cut.metrics.read_text() == whole.metrics.read_text()


def test_checkpoint_inside_an_epoch_is_gone_on_from(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "in_seconds", {"00:00:01": 0.0}.get)
    whole = run_small(tmp_path / "whole")

    with monkeypatch.context() as patch:
        plain = loop.Training._step

        def die_in_the_second_epoch(training, step, steps):
            if step == 13:  # of 8 steps an epoch
                raise KeyboardInterrupt
            plain(training, step, steps)

        patch.setattr(loop.Training, "_step", die_in_the_second_epoch)
        with pytest.raises(KeyboardInterrupt):
            run_small(tmp_path / "cut", "train.checkpoint_every=00:00:01")
    (last,) = (tmp_path / "cut" / "tasks").glob("*/last.pt")
    progress = torch.load(last, weights_only=True)["progress"]
    assert (progress["epoch"], progress["batch"], len(progress["losses"])) == (1, 5, 5)
    cut = run_small(tmp_path / "cut", "train.checkpoint_every=00:00:01")

    assert losses(cut) == losses(whole) and cut.path.name == whole.path.name
    assert [x["grad_norm"] for x in read_lines(cut.epochs)] == [x["grad_norm"] for x in read_lines(whole.epochs)]
    assert cut.metrics.read_text() == whole.metrics.read_text()


def test_end_of_the_time_given_is_written_as_the_cause(small_task, monkeypatch):
    monkeypatch.setenv("HPC_KIT_DEADLINE", "1000")
    with pytest.raises(Preempted):
        run_task(small_task.path)
    told = small_task.read_stopped()
    assert told["cause"] == "time_limit" and "0 s are left of the time given" in told["text"]
    assert not small_task.last.exists()


def test_epochs_come_one_by_one_and_may_be_left(small_task):
    task, ranks = small_task.read_task(), Ranks()
    with Group.open(task, small_task, ranks) as group:
        training = loop.Training(task, small_task, group, Watch({}))
        records = []
        for record in training.epochs():
            records.append(record)
            assert read_lines(small_task.epochs) == records
            told = json.loads(small_task.progress.read_text())
            assert (told["done"], told["total"], told["unit"]) == (len(records), 4, "epochs")
            assert told["score"] == {"name": "val MAE", "value": min(r["val_mae"] for r in records), "unit": "eV"}
            if len(records) == 2:
                break
        metrics = training.test()
    assert metrics["epochs"] == 2 and metrics == json.loads(small_task.metrics.read_text())


def test_training_outside_the_main_thread_is_the_same(tmp_path):
    main = run_small(tmp_path / "main", "train.epochs=1")
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(run_small, tmp_path / "other", "train.epochs=1").result()
    assert losses(other) == losses(main)


@pytest.mark.parametrize("name", ["last.pt", "best.pt"])
def test_damaged_checkpoint_is_refused_when_training_goes_on(small_task, monkeypatch, name):
    run_task(small_task.path)
    small_task.done.unlink()
    content = bytearray((small_task.path / name).read_bytes())
    content[len(content) // 2] ^= 1
    (small_task.path / name).write_bytes(content)
    with pytest.raises(WorkError, match=rf"{name}: is damaged: its bytes do not fit its checksum. Remove last.pt"):
        run_task(small_task.path)


def test_best_weights_that_are_gone_are_asked_for_at_once(small_task):
    run_task(small_task.path)
    small_task.done.unlink()
    small_task.best.unlink()
    with pytest.raises(WorkError, match=r"best.pt: cannot be read: No such file"):
        run_task(small_task.path)


def test_seed_decides_the_losses(tmp_path):
    first, again = (run_small(tmp_path / name) for name in ("first", "again"))
    other = small_run(tmp_path / "other", "seeds=[1]")
    other_task = other.task(other.read_plan().tasks[0].id)
    run_task(other_task.path)
    assert losses(first) == losses(again) != losses(other_task)


def test_accumulating_four_small_batches_equals_one_large_one(tmp_path):
    large = run_small(tmp_path / "large", "train.batch_size=32", "train.optimizer=sgd", "train.learning_rate=1e-6")
    small = run_small(
        tmp_path / "small",
        "train.batch_size=8", "train.accumulate=4", "train.optimizer=sgd", "train.learning_rate=1e-6",
    )  # fmt: skip
    assert [x for x, _ in losses(small)] == pytest.approx([x for x, _ in losses(large)], rel=1e-4)


def test_clipping_bounds_the_step(tmp_path):
    one_step = ("optimizer=sgd", "momentum=0", "epochs=1", "learning_rate=1e-4", "batch_size=120")
    options = [f"train.{text}" for text in one_step]
    free, held = run_small(tmp_path / "free", *options), run_small(tmp_path / "held", *options, "train.clip=1e-2")
    torch.manual_seed(0)
    start = build_model(held.read_task().work.model, Graph()).state_dict()

    def moved(task) -> float:
        end = weights(task)
        return math.sqrt(sum(float((end[name] - start[name]).double().square().sum()) for name in start))

    norms = [read_lines(task.epochs)[0]["grad_norm"] for task in (free, held)]  # before clipping
    assert norms == [pytest.approx(moved(free) / 1e-4, rel=1e-3)] * 2
    assert moved(held) < 1.1e-6


def test_bf16_trains_to_nearly_the_same_loss(tmp_path):
    full = run_small(tmp_path / "full")
    half = run_small(tmp_path / "half", "train.precision=bf16")
    assert losses(half) != losses(full)
    assert losses(half)[-1][0] == pytest.approx(losses(full)[-1][0], rel=0.1)


def test_diverging_loss_ends_the_task_and_keeps_the_epoch_before(tmp_path):
    message = r"epoch \d, batch \d+: the loss is (nan|inf); its graphs: gdb_\d+, .*Lower train.learning_rate"
    with pytest.raises(WorkError, match=message):
        run_small(tmp_path / "run", "train.optimizer=sgd", "train.learning_rate=1e12", "train.momentum=0")
    assert not next((tmp_path / "run" / "tasks").iterdir()).joinpath("done.json").exists()


def test_data_set_that_changed_since_planning_is_refused(tmp_path):
    run = small_run(tmp_path / "run", "seeds=[0]")
    task = run.task(run.read_plan().tasks[0].id)
    sha = read_manifest(shipped_folder("embedded") / "qm9_sample").sha256
    fields, _ = read_yaml(task.task_file)
    assert fields["work"]["dataset_sha256"] == sha
    fields["work"]["dataset_sha256"] = "f" * 64
    del fields["sha256"]
    task.task_file.write_text(write_yaml(sealed(fields)))
    with pytest.raises(InputError, match="not the data set this task was planned with"):
        run_task(task.path)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_missing_gpu_is_an_error_not_a_fallback(tmp_path):
    with pytest.raises(InputError, match="torch sees no GPU"):
        run_small(tmp_path / "run", "resources.gpus_per_rank=1")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_training_on_a_gpu_learns_like_the_cpu(tmp_path):
    cpu, gpu = (run_small(tmp_path / f"g{n}", f"resources.gpus_per_rank={n}") for n in (0, 1))
    assert [x for x, _ in losses(gpu)] == pytest.approx([x for x, _ in losses(cpu)], rel=1e-2)


def test_finished_task_is_not_run_again(small_task, capsys):
    run_task(small_task.path)
    before = small_task.epochs.read_bytes()
    run_task(small_task.path)
    assert "is done already" in capsys.readouterr().out
    assert small_task.epochs.read_bytes() == before and math.isfinite(losses(small_task)[0][0])


def test_what_killed_attempts_left_half_written_is_gone(small_task):
    for name in ("last.pt", "best.pt", "predictions.h5"):
        (small_task.path / f".{name}.0123abcd.tmp").write_bytes(b"half")
    run_task(small_task.path)
    assert list(small_task.path.glob(".*")) == []


def test_data_on_the_nodes_disk_gives_the_same_losses(tmp_path, monkeypatch):
    memory = run_small(tmp_path / "memory")
    monkeypatch.setenv("DISK", str(tmp_path))
    monkeypatch.setenv(NODE_LOCAL, "$DISK/stage")
    staged = run_small(tmp_path / "staged")
    assert any((tmp_path / "stage").glob("*/pos.npy"))
    assert losses(staged) == losses(memory)


@pytest.fixture
def shards(tmp_path):
    """Forty molecules in shards of ten, with edges."""
    names = ["CH3CH2OH", "C6H6", "CH4", "C2H6"]
    molecules = [molecule(names[i % 4]) for i in range(40)]
    structures = [Structure(f"m{i}", m.numbers, m.positions, {"e": float(len(m))}) for i, m in enumerate(molecules)]
    prepare(ListSource(structures, e="eV"), tmp_path / "set", Settings(Graph(cutoff=3.0), shard_size=10), workers=0)
    return [f"data={{source: shards, path: {tmp_path}/set, target: e, graph: {{cutoff: 3.0}}}}", "train.epochs=2"]


def test_streamed_training_sees_every_graph_once_an_epoch(tmp_path, shards):
    task = run_small(tmp_path / "run", *shards, "data.window=2")
    assert [line["graphs"] for line in read_lines(task.epochs)] == [32, 32]
    assert all(math.isfinite(loss) for loss, _ in losses(task))


def test_batches_within_a_budget_see_every_graph_once_an_epoch(tmp_path, shards):
    task = run_small(tmp_path / "run", *shards, "train.batch_atoms=30", "train.accumulate=2")
    assert [line["graphs"] for line in read_lines(task.epochs)] == [32, 32]
