"""A baseline file, and the check of a run against it: for a site whose software changes while the job stays.

Not for: whether two runs may be compared in general (compare.py).
"""

import math
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from hpc_kit.bench.compare import Sides, refusal
from hpc_kit.bench.configurations import Configuration, pairs, read_configurations, require_distinct
from hpc_kit.bench.fields import SOFTWARE, differences
from hpc_kit.bench.statistics import Side, slower_by
from hpc_kit.files import make_folder, write_atomically
from hpc_kit.runs.layout import RunDir
from hpc_kit.runs.records import open_seal, read_sealed_json, sealed_json
from hpc_kit.spec.errors import InputError

SCHEMA = 1
ALARMS = 0.05  # share of checks that fail although nothing is slower than the limit, at most
PASSED, SLOWER, UNDECIDED = "passed", "slower", "undecided"
REMEDY = "write it anew with 'hpc_kit bench baseline'"


def write_baseline(runs: Sequence[RunDir], path: Path, force: bool, measure: str = "wall_s") -> int:
    """Write the timings of runs of one job as a baseline; return how many configurations it has.

    The runs of further directories are further replicates. Raises InputError where `path` exists and `force` is not
    given, where a run is unfit, alone or named twice, where tasks are missing, or where the jobs differ.
    """
    make_folder(path.parent, [path], force)
    require_distinct(runs)
    first, *others = (read_configurations(run, measure) for run in runs)
    for run, more in zip(runs[1:], others, strict=True):
        for one, twin in pairs(first, more):
            if twin is None:
                raise InputError(refusal(first, more, (str(runs[0].path), str(run.path))))
            one.runs.extend(twin.runs)
            one.missing.extend(twin.missing)
    for one in first:
        _require_timings(one, str(runs[0].path))
    fields = {"schema_version": SCHEMA, "measure": measure, "made_at": time.time()}
    content = fields | {"configurations": [asdict(one) for one in first]}
    write_atomically(path, sealed_json(content, "configurations"))
    return len(first)


def read_baseline(path: Path) -> tuple[str, list[Configuration]]:
    """Return the measure and the configurations of a baseline file. Raises InputError where it is none, is damaged,
    was changed or is of another schema."""
    fields = read_sealed_json(path, REMEDY)
    if fields is None:
        raise InputError(f"{path}: there is no such file; 'hpc_kit bench baseline RUN --out {path}' writes one")
    if "configurations" not in fields or fields.get("schema_version") != SCHEMA:
        version = fields.get("schema_version")
        what = f"schema version {version!r}" if "configurations" in fields else "no baseline"
        raise InputError(f"{path}: {what}; this hpc_kit reads baselines of version {SCHEMA}: {REMEDY}")
    content = open_seal(path, fields, REMEDY)
    try:
        return content["measure"], TypeAdapter(list[Configuration]).validate_python(content["configurations"])
    except (ValidationError, KeyError) as error:
        first = error.errors()[0]["msg"] if isinstance(error, ValidationError) else f"lacks {error}"
        raise InputError(f"{path}: is damaged: {first}; {REMEDY}") from None


def check(run: RunDir, path: Path, limit: float) -> dict[str, Any]:
    """Hold a run against a baseline. A configuration is "slower" where the least ratio that chance allows is above
    `limit`, "passed" where the greatest is not, else "undecided".

    Of checks of runs whose true ratios are all at the limit at most ALARMS find one slower: each of m configurations
    is judged at ALARMS / m (Bonferroni). Raises InputError where the run is of another job or machine than the
    baseline, is unfit, or where there are less than two runs of one of them.
    """
    if not 1.0 <= limit < math.inf:
        raise InputError(f"--fail-above {limit:g}: must be a number of at least 1")
    measure, base = read_baseline(path)
    now = read_configurations(run, measure)
    names, matched = (str(path), str(run.path)), list(pairs(base, now))
    if any(twin is None for _, twin in matched):
        raise InputError(refusal([one for one, twin in matched if twin is None], now, names))
    sides, found = Sides(), []
    for one, twin in matched:
        _require_timings(twin, names[1])
        fields = differences([each.conditions for each in one.runs], [each.conditions for each in twin.runs])
        if elsewhere := [field.as_text() for field in fields if field.matters and field.part != SOFTWARE]:
            raise InputError(f"{names[1]}: was timed under other conditions than {path}: {'; '.join(elsewhere)}")
        found.append(_checked(one, sides.of(one), sides.of(twin), fields, limit, ALARMS / len(matched)))
    return {
        "schema_version": SCHEMA,
        "measure": measure,
        "limit": limit,
        "alarms": ALARMS,
        "slower": any(one["outcome"] == SLOWER for one in found),
        "configurations": found,
    }


def _checked(one: Configuration, base: Side, now: Side, fields, limit: float, alarms: float) -> dict[str, Any]:
    found = slower_by(now, base, alarms)
    outcome = SLOWER if found.low > limit else PASSED if found.high <= limit else UNDECIDED
    told = {"label": one.label, "outcome": outcome, "medians": [base.median, now.median]}
    return told | asdict(found) | {"fields": [asdict(field) for field in fields]}


def _require_timings(one: Configuration, name: str) -> None:
    """Raise InputError where a configuration has runs that are missing or unfit, or less than two."""
    label = f"{name}: {one.label}".removesuffix(": ")
    if one.missing or one.unfit:
        first, *others = [*one.missing, *one.unfit]
        more = f", and {len(others)} more like this ('hpc_kit bench compare' lists them)" if others else ""
        raise InputError(f"{label}: is not fit to be judged by: {first}{more}")
    if len(one.runs) < 2:
        raise InputError(f"{label}: has one run, which does not tell how runs differ; give the job several seeds")
