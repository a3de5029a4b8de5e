"""best.pt: the weights of the best epoch, and all that is needed to predict with them. Written and read here only.

Not for: what is predicted on (predict/), or last.pt (state.py).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from hpc_kit import __version__
from hpc_kit.data.manifest import Manifest
from hpc_kit.models import build_model
from hpc_kit.models.parts import GraphModel
from hpc_kit.spec.data import Graph
from hpc_kit.spec.errors import InputError, WorkError
from hpc_kit.spec.models import Foreign, Model
from hpc_kit.spec.train import Train
from hpc_kit.train.checkpoint import parse_checkpoint
from hpc_kit.train.job import Work
from hpc_kit.train.objective import Objective
from hpc_kit.train.pretrained import load_fitting
from hpc_kit.train.scale import Scale
from hpc_kit.train.state import State

_REMEDY = "Copy it anew, or name another"
_KINDS = {"model": dict, "scale": dict, "spec": dict, "graph": dict, "units": dict, "forces": bool, "elements": list,
          "dataset_sha256": str, "hpc_kit": str, "epoch": int, "score": float}  # fmt: skip


@dataclass
class Best:
    """What best.pt holds, built. `units` is target -> unit; `forces`: trained on them, as minus the gradient of the
    one target; `elements` and `periodic` (None: not noted) are of the data set it was trained on, `dataset_sha256`
    that set's identity; `version` is the hpc_kit that wrote it."""

    path: Path
    model: GraphModel
    spec: Model
    scale: Scale
    graph: Graph
    units: dict[str, str]
    forces: bool
    elements: list[int]
    periodic: bool | None
    dataset_sha256: str
    version: str
    epoch: int
    score: float

    def objective(self, train: Train | None = None) -> Objective:
        """Return what predicts with it: in fp32, or as `train` says."""
        return Objective(self.model, self.scale, train or Train(), self.forces)


def content_of(state: State, work: Work, scale: Scale, manifest: Manifest) -> dict[str, Any]:
    """Return what best.pt holds. manifest: of the data set that `work` trains on."""
    return {
        "model": state.eval_model.state_dict(),
        "scale": scale.describe(),
        "spec": work.model.model_dump(),
        "graph": work.data.graph.model_dump(),
        "units": {name: work.units[name] for name in work.data.target},
        "forces": work.data.forces,
        "elements": list(manifest.elements),
        "periodic": manifest.periodic,
        "dataset_sha256": manifest.sha256,
        "hpc_kit": __version__,
        "epoch": state.progress.best_epoch,
        "score": state.progress.best.best,
    }


def read_best(path: Path, modules: Sequence[str] = ()) -> Best:
    """Read a best.pt. Raises InputError like build_best, and where the file cannot be read or is damaged."""
    try:
        fields = parse_checkpoint(path, path.read_bytes(), _REMEDY)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except WorkError as error:
        raise InputError(str(error)) from None
    return build_best(path, fields, modules)


def build_best(path: Path, fields: Any, modules: Sequence[str] = ()) -> Best:
    """Build what `fields`, the content of the best.pt at `path`, describes.

    modules: the modules of the user's own, `package.module:Class`, that may be imported. A file that names another is
    refused: whoever wrote it would choose which code runs here. Raises InputError where the file is another's, or
    does not fit itself.
    """
    if not isinstance(fields, dict) or not {"model", "scale", "spec", "graph"} <= set(fields):
        raise InputError(f"{path}: is no best.pt of hpc_kit, but another checkpoint (last.pt?); name the best.pt")
    wrong = [name for name, kind in _KINDS.items() if not isinstance(fields.get(name), kind)]
    if wrong:
        raise InputError(f"{path}: holds no {wrong[0]}: it was written by an older hpc_kit. Train anew to predict")
    try:
        spec = TypeAdapter(Model).validate_python(fields["spec"])
        graph = Graph(**fields["graph"])
        units = {str(name): str(unit) for name, unit in fields["units"].items()}
        scale = Scale.of(fields["scale"], len(units))
        elements = sorted({int(z) for z in fields["elements"]})
    except (ValidationError, ValueError, TypeError, KeyError) as error:
        text = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise InputError(f"{path}: does not describe a model of this hpc_kit ({fields['hpc_kit']}): {text}") from None
    if isinstance(spec, Foreign) and spec.module not in modules:
        raise InputError(
            f"{path}: its model is the module {spec.module}, which is code outside of hpc_kit. If you trust it, name"
            f" it: --module {spec.module}"
        )
    model = build_model(spec, graph, len(units))
    load_fitting(model, fields["model"], str(path))
    model.requires_grad_(False).eval()
    return Best(
        path=path,
        model=model,
        spec=spec,
        scale=scale,
        graph=graph,
        units=units,
        forces=fields["forces"],
        elements=elements,
        periodic=fields.get("periodic"),
        dataset_sha256=fields["dataset_sha256"],
        version=fields["hpc_kit"],
        epoch=fields["epoch"],
        score=fields["score"] if math.isfinite(fields["score"]) else math.nan,
    )
