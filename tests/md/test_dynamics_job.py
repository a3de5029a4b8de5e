"""Jobs of kind dynamics: to their end, from where they were stopped, held against a reference, and refused."""

import io
import json
import re
import time
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from conftest import run_small
from rich.console import Console

from hpc_kit.data.manifest import read_manifest
from hpc_kit.data.prepare import Settings, prepare
from hpc_kit.data.sources import open_source
from hpc_kit.md.page import sections_of
from hpc_kit.md.summary import print_summary
from hpc_kit.md.trajectory import last_frames, read_frames
from hpc_kit.plan import make_plan
from hpc_kit.report.page import write_page
from hpc_kit.report.summary import summarize
from hpc_kit.runs.create import create_run
from hpc_kit.runs.layout import RunDir, TaskDir
from hpc_kit.spec.data import Graph
from hpc_kit.spec.errors import InputError, Preempted, WorkError
from hpc_kit.spec.job import load_job
from hpc_kit.spec.site import load_site
from hpc_kit.task import run_task

SHORT = [
    "dynamics.replicas=2",
    "dynamics.steps=60",
    "dynamics.every=10",
    "dynamics.equilibrate.steps=20",
    "dynamics.reference=null",
    "dynamics.untrained=false",
    "dynamics.limits.closer_A=0.5",  # of 42 frames
    "resources.gpus_per_rank=0",
    "resources.cpus_per_rank=1",
]

NO_LIMITS = "dynamics.limits={bond_A: 99, fly_away_A: 999, closer_A: 9, energy_eV_per_atom: 999, temperature: 999}"


def made(path: Path, *overrides: str, job: str = "dynamics-ethanol") -> RunDir:
    file = load_job(job, [*SHORT, *overrides])
    return create_run(path, make_plan(file), file.job, load_site("local"))


def only_task(run: RunDir) -> TaskDir:
    return run.task(run.read_plan().tasks[0].id)


def ran(path: Path, *overrides: str, **of) -> TaskDir:
    task = only_task(made(path, *overrides, **of))
    run_task(task.path)
    return task


def metrics(task: TaskDir) -> dict:
    return json.loads(task.metrics.read_text())


@pytest.fixture(scope="module")
def xtb(tmp_path_factory) -> TaskDir:
    """Dynamics of ethanol with GFN2-xTB."""
    steps = ["dynamics.steps=100", "dynamics.every=5", "dynamics.equilibrate.steps=100", "dynamics.timestep_fs=0.5"]
    return ran(tmp_path_factory.mktemp("xtb") / "run", *steps, job="xtb-ethanol")


@pytest.fixture(scope="module")
def trained(xtb, tmp_path_factory) -> TaskDir:
    """A small SchNet trained on its frames."""
    folder = tmp_path_factory.mktemp("trained")
    file = next(xtb.parts.glob("*.extxyz"))
    prepare(open_source("files", file, {}), folder / "set", Settings(Graph(cutoff=5.0)), workers=0)
    data = f"data={{source: shards, path: {folder}/set, target: energy, forces: true, graph: {{cutoff: 5.0}}}}"
    return run_small(folder / "run", data, "train.epochs=3", "train.atom_references=fit")


def test_xtb_keeps_its_energy_and_leaves_frames_to_train_on(xtb, trained):
    (field,) = metrics(xtb)["fields"]
    (one,) = field["molecules"]
    assert field["calculator"] == "GFN2-xTB" and one["ended"] == [] and one["frames"] == 2 * 21
    assert one["drift"]["scatter"] < 1.0 and one["centre_moved"] < 1e-6 and one["angular_momentum_changed"] < 1e-2
    assert 100 < one["temperature"]["mean"] < 1000
    frames = ase.io.read(next(xtb.parts.glob("*.extxyz")), ":")
    assert len(frames) == 42 and abs(frames[-1].get_forces()).max() > 0.01
    folder = Path(trained.read_task().work.dataset)
    assert read_manifest(folder).graphs == 42 and read_manifest(folder).forces


def test_a_restart_gives_the_same_numbers_to_the_last_bit(trained, tmp_path, monkeypatch):
    of = [f"dynamics.model={trained.path}", "dynamics.molecules=[ethanol]", "dynamics.steps=400", NO_LIMITS]
    of += ["dynamics.equilibrate={steps: 20, timestep_fs: 0.1}"]
    whole = ran(tmp_path / "whole", *of)
    task = only_task(made(tmp_path / "again", *of))
    with monkeypatch.context() as patch:
        patch.setenv("HPC_KIT_DEADLINE", str(time.time() - 1))
        for done in (20, 220):
            with pytest.raises(Preempted, match=f"{done} of 420 steps are done"):
                run_task(task.path)
            assert task.read_progress()["done"] == done
    with next(task.parts.glob("*.frames")).open("ab") as file:
        file.write(b"what a killed attempt appended")
    run_task(task.path)
    ours, theirs = (next(one.parts.glob("*.frames")).read_bytes() for one in (task, whole))
    assert ours == theirs and len(ours) > 0
    assert metrics(task)["fields"][0]["molecules"] == metrics(whole)["fields"][0]["molecules"]


def test_a_restart_of_xtb_gives_the_same_numbers_to_the_last_bit(tmp_path, monkeypatch):
    of = ["dynamics.steps=400", NO_LIMITS]
    whole = ran(tmp_path / "whole", *of, job="xtb-ethanol")
    task = only_task(made(tmp_path / "again", *of, job="xtb-ethanol"))
    with monkeypatch.context() as patch:
        patch.setenv("HPC_KIT_DEADLINE", str(time.time() - 1))
        for done in (20, 220):
            with pytest.raises(Preempted, match=f"{done} of 420 steps are done"):
                run_task(task.path)
    run_task(task.path)
    ours, theirs = (next(one.parts.glob("*.frames")).read_bytes() for one in (task, whole))
    assert ours == theirs and len(ours) > 0


def test_transfer_is_judged_against_xtb_beside_an_untrained_model(trained, tmp_path):
    task = ran(
        tmp_path / "run",
        f"dynamics.model={trained.path}",
        "dynamics.molecules=[ethanol, n-propanol]",
        "dynamics.reference=xtb",
        "dynamics.untrained=true",
        f"dynamics.direct={{ethanol: {trained.path}}}",
        "dynamics.ending=h5",
    )
    found = metrics(task)
    assert [field["name"] for field in found["fields"]] == ["xtb", "model", "untrained", "direct ethanol"]
    rows = {(row["field"], row["molecule"]): row for row in found["transfer"]}
    assert len(rows) == 5 and found["training"]["structures"] == 42
    assert rows["model", "ethanol"]["errors"]["force_mae"] < rows["untrained", "ethanol"]["errors"]["force_mae"]
    assert {"C-C near O", "C-C far", "C-C-C"} <= set(found["reference_groups"]["n-propanol"])
    for row in rows.values():
        assert row["ended"] or set(row["groups"]) == set(found["reference_groups"][row["molecule"]])
    unseen = {m["name"]: m["outside"] for f in found["fields"] if f["name"] == "model" for m in f["molecules"]}
    assert unseen["n-propanol"] > unseen["ethanol"]
    new = {m["name"]: m["features_outside"] for f in found["fields"][1:2] for m in f["molecules"]}
    assert 0 <= new["ethanol"] < new["n-propanol"] <= 1
    assert task.read_progress()["done"] == task.read_progress()["total"]
    titles = [section.title for section in sections_of(found, "seed=0")]
    assert "Transfer" in titles and "Bonds and angles, forces of xtb" in titles
    write_page(task.run, tmp_path / "page.html", False)
    assert "n-propanol, last frame" in (tmp_path / "page.html").read_text()
    assert summarize(task.run)["dynamics"][0]["transfer"]
    console = Console(width=80, record=True, file=io.StringIO())
    print_summary(summarize(task.run), console)
    lines = [re.sub(r"\W+", " ", line).strip() for line in console.export_text().splitlines()]
    assert [line for line in lines if re.match("xtb n propanol 0 of 2 ", line)]
    assert [line for line in lines if re.match("direct ethanol ethanol [012] of 2 ", line)]


def test_a_break_is_told_with_frame_and_reason_and_the_rest_goes_on(trained, tmp_path):
    limits = "dynamics.limits={bond_A: 0.09}"
    task = ran(tmp_path / "run", f"dynamics.model={trained.path}", limits, "dynamics.temperature_K=900")
    (one,) = [m for m in metrics(task)["fields"][0]["molecules"] if m["name"] == "ethanol"]
    assert one["ended"] and "broke" in one["ended"][0]["reason"]
    for end in one["ended"]:
        if end["phase"] == "production":
            frames = [a for a in ase.io.iread(task.parts / one["file"]) if a.info["replica"] == end["replica"]]
            assert frames[-1].info["time_fs"] == pytest.approx(end["time_fs"])


def test_too_large_a_step_is_said(trained, tmp_path):
    big = ["dynamics.timestep_fs=2.5", "dynamics.steps=100", "dynamics.limits={energy_eV_per_atom: 5}"]
    task = ran(tmp_path / "run", "dynamics.molecules=[ethanol]", *big, job="xtb-ethanol")
    assert any("timestep_fs 2.5 is too large" in text for text in metrics(task)["told"])


def test_dynamics_go_on_from_the_last_frames_of_a_trajectory(xtb, trained, tmp_path):
    file = next(xtb.parts.glob("*.extxyz"))
    alone = ["dynamics.molecules=[ethanol]", f"dynamics.model={trained.path}", f"dynamics.start={file}"]
    task = ran(tmp_path / "run", *alone)
    first = next(iter(read_frames(next(task.parts.glob("*.extxyz")))))
    last = last_frames(file, first, "ethanol")[0]
    np.testing.assert_allclose(first.positions, last.positions, atol=1e-7)
    np.testing.assert_allclose(first.get_momenta(), last.get_momenta(), atol=1e-6)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda atoms: atoms.positions.__setitem__(0, np.nan), "positions that are not finite"),
        (lambda atoms: atoms.positions.__setitem__(1, atoms.positions[0] + 0.1), "atoms C0 and C1 overlap"),
        (lambda atoms: atoms.set_momenta(np.full((len(atoms), 3), np.nan)), "velocities that are not finite"),
    ],
)
def test_a_start_that_cannot_be_gone_on_from_is_refused(change, reason, xtb, tmp_path):
    frames = ase.io.read(next(xtb.parts.glob("*.extxyz")), ":")
    change(frames[-1])
    ase.io.write(tmp_path / "start.extxyz", frames, format="extxyz")
    with pytest.raises(InputError, match=f"the last frame of replica 1: .*{reason}"):
        last_frames(tmp_path / "start.extxyz", frames[0], "ethanol")


def test_a_calculator_that_gives_nan_at_the_start_ends_with_a_sentence(tmp_path, monkeypatch):
    nothing = lambda cores: lambda systems: (np.full(len(systems), np.nan), np.zeros(systems.pos.shape))  # noqa: E731
    monkeypatch.setattr("hpc_kit.md.run.xtb_forces", nothing)
    with pytest.raises(WorkError, match="xtb: energy or forces of ethanol are not finite at the start"):
        ran(tmp_path / "run", "dynamics.calculator=xtb", "dynamics.model=null", "dynamics.molecules=[ethanol]")


def test_a_trajectory_of_another_run_is_refused(xtb, trained, tmp_path):
    file = next(xtb.parts.glob("*.extxyz"))
    other = ["dynamics.molecules=[n-propanol]", f"dynamics.model={trained.path}"]
    for keys in ([f"dynamics.start={file}"], [f"dynamics.reference={{n-propanol: {file}}}"]):
        with pytest.raises(InputError, match="is of another molecule"):
            ran(tmp_path / str(len(keys[0])), *other, *keys)
    task = only_task(made(tmp_path / "state", f"dynamics.model={trained.path}"))
    task.parts.mkdir()
    (task.parts / "model.state.npz").write_bytes((xtb.parts / "xtb.state.npz").read_bytes())
    with pytest.raises(InputError, match="is of another run, the task xtb-ethanol"):
        run_task(task.path)


def test_what_cannot_work_is_refused_before_it_runs(trained, tmp_path):
    of = f"dynamics.model={trained.path}"
    overlap = tmp_path / "overlap.xyz"
    ase.io.write(overlap, Atoms("OH2", [[0, 0, 0], [0, 0, 0.3], [0, 1, 0]]))
    for keys, message in (
        (["dynamics.molecules=[uracil]"], "dynamics.model: uracil holds N, which the training never saw"),
        ([f"dynamics.molecules=[{overlap}]"], "dynamics.molecules: .*atoms O0 and H1 overlap"),
        (["dynamics.molecules=[etanol]"], "did you mean 'ethanol'"),
        (["dynamics.every=7"], "steps must be a multiple of every"),
        (["dynamics.calculator=xtb"], "calculator: model needs model .* xtb takes none"),
        (["dynamics.reference={benzene: x}"], "'benzene' is not in it"),
        (["resources.ranks_per_node=2"], "is one process"),
    ):
        with pytest.raises(InputError, match=message):
            make_plan(load_job("dynamics-ethanol", [*SHORT, of, *keys]))


def test_a_model_without_forces_is_refused(tmp_path):
    task = run_small(tmp_path / "run", "data.target=u0", "train.epochs=1")
    with pytest.raises(InputError, match="dynamics.model: .*best.pt: was trained without forces"):
        make_plan(load_job("dynamics-ethanol", [*SHORT, f"dynamics.model={task.path}"]))
