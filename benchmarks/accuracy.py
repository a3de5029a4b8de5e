"""Accuracy of the models on real data, through the package's own command line, as a user has it.

    python benchmarks/accuracy.py curves  --data QM9_SHARDS --runs FOLDER [--only SchNet ...]
    python benchmarks/accuracy.py ethanol --data rmd17_ethanol_train_01.npz --runs FOLDER
    python benchmarks/accuracy.py cgcnn   --runs FOLDER

curves: every model on 1,000, 4,000 and 10,000 QM9 molecules, HOMO and ZPVE, each with the same number of graphs seen,
batch and schedule, the same validation and test molecules; beside them torch_geometric's SchNet, through the door
for own models. ethanol: TorchMD-ET on 950 frames of rMD17, energy and forces. cgcnn: list against matrix on CoRE
MOFs, at equal edges and at all edges within 5 Angstrom. Prints a Markdown table; an interrupted benchmark goes on
where it was.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
PASSES = 24_000  # graphs seen by each model of a learning curve
SIZES = (1_000, 4_000, 10_000)
# Narrower than published, so that the curves take half an hour on two cores; all of one width.
MODELS = {
    "SchNet": {"name": "schnet", "hidden": 64, "filters": 64, "interactions": 4},
    "SchNet of PyG": {
        "import": "pyg_schnet:OwnModel",
        "args": {"hidden": 64, "filters": 64, "interactions": 4, "gaussians": 50, "cutoff": 5.0},
        "readout": "sum",
    },
    "PhysNet": {"name": "physnet", "hidden": 64, "interactions": 3},
    "MPNN": {"name": "mpnn", "hidden": 64},
    "MPNN-transformer": {"name": "mpnn_transformer", "hidden": 64},
    "TorchMD-ET": {"name": "torchmd_et", "hidden": 64, "layers": 4, "basis": 32},
    "CGCNN": {"name": "cgcnn"},
    "ALIGNN 2+2": {"name": "alignn", "alignn_layers": 2, "gcn_layers": 2, "hidden": 64, "embedding": 32},
}
TRAIN = {"optimizer": "adamw", "learning_rate": 1e-3, "schedule": "one_cycle", "clip": 10.0, "weight_decay": 1e-6}
CPU = {"gpus_per_rank": 0, "cpus_per_rank": 1, "walltime": "02:00:00"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("curves", "ethanol", "cgcnn"))
    parser.add_argument("--data", type=Path)
    parser.add_argument("--runs", type=Path, required=True, help="where runs and prepared data go")
    parser.add_argument("--only", nargs="+", choices=MODELS, default=list(MODELS), help="models of the curves [all]")
    given = parser.parse_args()
    given.runs.mkdir(parents=True, exist_ok=True)
    {"curves": curves, "ethanol": ethanol, "cgcnn": cgcnn}[given.what](given)


def curves(given: argparse.Namespace) -> None:
    found, models = {}, {name: MODELS[name] for name in given.only}
    for size in SIZES:
        job = {
            "name": f"curve-{size}",
            "kind": "train",
            "data": {
                "source": "shards",
                "path": str(given.data.resolve()),
                "target": "homo",
                "split": {"train": size, "val": 500, "test": 2_000, "seed": 0},
                "graph": {"cutoff": 5.0},
            },
            "train": TRAIN | {"batch_size": 32, "epochs": PASSES // size},
            "grid": {"data.target": ["homo", "zpve"], "model": list(models.values())},
            "resources": CPU,
        }
        for task, errors in run(given.runs, job):
            name = next(name for name, model in models.items() if model.items() <= task["model"].items())
            target = task["data"]["target"][0]
            found[name, target, size] = errors[target]["test_mae"] * 1000
    print(f"Test MAE in meV on 2,000 molecules; {PASSES:,} graphs seen in each training, batch 32, seed 0.\n")
    print("| model | " + " | ".join(f"{t} {s:,}" for t in ("homo", "zpve") for s in SIZES) + " |")
    print("|---|" + "---|" * 6)
    for name in models:
        values = [found[name, target, size] for target in ("homo", "zpve") for size in SIZES]
        print(f"| {name} | " + " | ".join(f"{value:.1f}" for value in values) + " |")


def ethanol(given: argparse.Namespace) -> None:
    shards = prepare(given.runs / "ethanol-shards", "md17", "--path", given.data, "--cutoff", "5")
    job = {
        "name": "ethanol",
        "kind": "train",
        "data": {
            "source": "shards",
            "path": str(shards),
            "target": "energy",
            "forces": True,
            "split": {"train": 950, "val": 25, "test": 25, "seed": 0},
            "graph": {"cutoff": 5.0},
        },
        "model": {"name": "torchmd_et", "hidden": 64, "layers": 4, "basis": 32},
        "train": TRAIN | {"batch_size": 8, "epochs": 200},
        "seeds": [0, 1],
        "resources": CPU,
    }
    print("| seed | energy MAE, meV | force MAE, meV/Angstrom | always guessing: energy, forces |\n|---|---|---|---|")
    for task, errors in run(given.runs, job):
        energy, forces = (errors[name] for name in ("energy", "forces"))
        mae, guess = ([1000 * part[key] for part in (energy, forces)] for key in ("test_mae", "baseline_mae"))
        print(f"| {task['seed']} | {mae[0]:.2f} | {mae[1]:.2f} | {guess[0]:.0f}, {guess[1]:.0f} |")


def cgcnn(given: argparse.Namespace) -> None:
    graphs = {"12 nearest": ("--cutoff", "8", "--max-neighbors", "12"), "all within 5 Angstrom": ("--cutoff", "5")}
    print("| model | edges | edges a MOF | test MAE of av_vf | R2 |\n|---|---|---|---|---|")
    for edges, options in graphs.items():
        name = edges.replace(" ", "-")
        shards = prepare(given.runs / f"{name}-shards", "core_mof", "--limit", "1500", *options)
        manifest = json.loads((shards / "manifest.json").read_text())
        graph = {"cutoff": float(options[1]), "max_neighbors": 12 if len(options) > 2 else None}
        models = [{"name": name} for name in ("cgcnn", "cgcnn_matrix") if name == "cgcnn" or graph["max_neighbors"]]
        job = {
            "name": f"cgcnn-{name}",
            "kind": "train",
            "data": {
                "source": "shards",
                "path": str(shards),
                "target": "av_vf",
                "split": {"train": 1_000, "val": 200, "test": 281, "seed": 0},
                "graph": graph,
            },
            "train": TRAIN | {"batch_size": 32, "batch_atoms": 12_000, "epochs": 15},
            "grid": {"model": models},
            "resources": CPU,
        }
        per_mof = sum(manifest["edges_per_graph"]) / len(manifest["edges_per_graph"])
        for task, errors in run(given.runs, job):
            mae, r2 = (errors["av_vf"][key] for key in ("test_mae", "test_r2"))
            print(f"| {task['model']['name']} | {edges} | {per_mof:.0f} | {mae:.5f} | {r2:.3f} |", flush=True)


def prepare(out: Path, source: str, *options: str | Path) -> Path:
    """Make a shard set, or leave one that is there."""
    if not (out / "manifest.json").exists():
        hpc_kit("data", "prepare", source, "--out", out, *options)
    return out.resolve()


def run(folder: Path, job: dict) -> list[tuple[dict, dict]]:
    """Run a job (what of it is not done) and return (task, its errors by target) of each task."""
    file, where = folder / f"{job['name']}.yaml", folder / job["name"]
    file.write_text(yaml.safe_dump(job))
    hpc_kit("submit", "--site", "local", file, "--run", where)
    summary = json.loads(hpc_kit("report", where, "--json"))
    tasks = {task["id"]: task for task in json.loads((where / "plan.json").read_text())["tasks"]}
    return [(tasks[row["id"]], row["targets"]) for row in summary["tasks"]]


def hpc_kit(*arguments: str | Path) -> str:
    own = os.pathsep.join(filter(None, [str(ROOT / "benchmarks" / "peers"), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "hpc_kit", *map(str, arguments)]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": own}, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}")
    return done.stdout


if __name__ == "__main__":
    main()
