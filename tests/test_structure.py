"""The house's rules, read from the imports: arrows go down, never in a circle, and the two sides stay apart."""

import ast
from pathlib import Path

from hpc_kit.kinds import ROOMS as ROOMS_OF_KINDS

PACKAGE = Path(__file__).resolve().parent.parent / "hpc_kit"
FLOORS = [
    {"checks", "files", "kinds", "lock", "machine", "ranks", "spec", "svg", "text"},
    {"data", "models", "plan", "probes", "runs"},
    {"sites", "images"},
    {path.name for path in PACKAGE.iterdir() if (path / "run.py").exists()},  # the rooms of kinds
    {"report"},
    {"drive"},
    {"submit", "task", "apps"},
    {"cli", "__main__"},
]
ROOMS = FLOORS[3]
LOGIN_SIDE = {
    "cli",
    "spec",
    "plan",
    "submit",
    "drive",
    "apps",
    "sites",
    "images",
    "kinds",
    "runs",
    "report",
    "checks",
    "files",
    "lock",
    "machine",
    "ranks",
    "svg",
    "text",
}
NODE_SIDE = {"task", "probes", "data", "models"}
OF_EVERY_ROOM = {"job", "summary", "page", "weights"}
OF_BENCH = {  # what compares timings and draws: all of that room but run.py and its clocks
    "baseline",
    "compare",
    "compare_table",
    "configurations",
    "deviations",
    "export",
    "fields",
    "figures",
    "fitness",
    "measures",
    "meters",
    "metrics",
    "pareto",
    "published",
    "scaling",
    "statistics",
    "studies",
    "study_command",
    "study_page",
    "study_tables",
}
OF_SEARCH = {  # what is searched, and what came of it: all of that room but what runs trials and proposes them
    "chance",
    "drawings",
    "importance",
    "pruning",
    "records",
    "results",
    "show",
    "space",
    "trials",
    "winner",
}
OF_MD = {"molecules"}
LOGIN_FILES_OF_ROOMS = OF_EVERY_ROOM | OF_BENCH | OF_SEARCH | OF_MD  # all other files of a room are the node's
NODE_ONLY_PACKAGES = {"torch", "torch_geometric", "dgl", "deephyper"}
# What the login side may import of the node side: files without any of those packages.
FILES_OF_DATA = {"hpc_kit.data.manifest", "hpc_kit.data.split_file"}
# The commands that do a node's work; only the command line may enter there, when one of them is called.
ENTRANCES = {
    "hpc_kit.task",
    "hpc_kit.data.command",
    "hpc_kit.data.inspect",
    "hpc_kit.predict.command",
    "hpc_kit.explain.command",
}
BRIDGES = FILES_OF_DATA | ENTRANCES
DOORS_OF_ROOMS = {
    *((f"hpc_kit.cli.{file}", f"hpc_kit.bench.{name}") for file in ("bench", "timings") for name in OF_BENCH),
    ("hpc_kit.cli.explain", "hpc_kit.explain.command"),
    ("hpc_kit.cli.predict", "hpc_kit.predict.command"),
    ("hpc_kit.cli.search", "hpc_kit.search.show"),
    ("hpc_kit.search.results", "hpc_kit.bench.pareto"),
}


def modules() -> dict[str, Path]:
    return {
        ".".join(("hpc_kit", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__"): path
        for path in sorted(PACKAGE.rglob("*.py"))
    }


def room(module: str) -> str:
    return (module.split(".") + [""])[1]


def on_login_side(module: str) -> bool:
    if room(module) in ROOMS:
        return (module.split(".") + [""])[2] in LOGIN_FILES_OF_ROOMS
    return room(module) in LOGIN_SIDE | {""}


def on_node_side(module: str) -> bool:
    return room(module) in NODE_SIDE or (room(module) in ROOMS and not on_login_side(module))


def imports(path: Path) -> set[str]:
    """Return every module a file imports, at its top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            inner = {f"{node.module}.{alias.name}" for alias in node.names} & set(modules())
            found |= inner or {node.module}
    return found


ARROWS = [(name, target) for name, path in modules().items() for target in sorted(imports(path))]
INSIDE = [(a, b) for a, b in ARROWS if b.startswith("hpc_kit.") and room(a)]


def floor(module: str) -> int:
    return next(i for i, rooms in enumerate(FLOORS) if room(module) in rooms)


def test_every_file_is_on_a_floor():
    assert {room(name) for name in modules()} - {""} <= set().union(*FLOORS)


def test_every_kind_has_a_room_and_every_room_a_kind():
    assert {name.removeprefix("hpc_kit.") for name in ROOMS_OF_KINDS.values()} == ROOMS
    for name in ROOMS_OF_KINDS.values():
        assert {f"{name}.job", f"{name}.run"} <= set(modules())


def test_no_room_is_named_outside_of_kinds_and_its_own_files():
    assert [
        (a, b) for a, b in INSIDE if room(b) in ROOMS and room(a) not in ROOMS and (a, b) not in DOORS_OF_ROOMS
    ] == []


def test_imports_go_down():
    assert [(source, target) for source, target in INSIDE if floor(target) > floor(source)] == []


def test_rooms_import_in_no_circle():
    arrows = {(room(a), room(b)) for a, b in INSIDE if room(a) != room(b)}
    while arrows:
        ends = {b for _, b in arrows} - {a for a, _ in arrows}
        assert ends, f"circle among {sorted({a for a, _ in arrows})}"
        arrows = {(a, b) for a, b in arrows if b not in ends}


def test_login_side_never_reaches_for_torch():
    bad = [(a, b) for a, b in ARROWS if on_login_side(a) and b.split(".")[0] in NODE_ONLY_PACKAGES]
    bad += [(a, b) for a, b in INSIDE if on_login_side(a) and on_node_side(b) and b not in BRIDGES]
    bad += [(a, b) for a, b in INSIDE if a in FILES_OF_DATA and room(b) in NODE_SIDE and b not in FILES_OF_DATA]
    bad += [(a, b) for a, b in ARROWS if a in FILES_OF_DATA and b.split(".")[0] in {"numpy", "torch", "h5py"}]
    assert bad == []


def test_node_side_never_reaches_for_parsl():
    shared = {"runs", "files", "lock", "machine", "ranks"}
    assert [(a, b) for a, b in ARROWS if (on_node_side(a) or room(a) in shared) and b.split(".")[0] == "parsl"] == []


def test_only_the_command_line_crosses_to_the_node_side_and_only_when_asked():
    crossing = {a for a, b in INSIDE if b in ENTRANCES and room(a) in LOGIN_SIDE}
    assert crossing == {"hpc_kit.cli.runs", "hpc_kit.cli.data", "hpc_kit.cli.explain", "hpc_kit.cli.predict"}
    for file in (PACKAGE / "cli").glob("*.py"):
        top = [node for node in ast.parse(file.read_text()).body if isinstance(node, ast.ImportFrom)]
        assert not {node.module for node in top} & ENTRANCES


def test_files_are_short():
    assert [name for name, path in modules().items() if len(path.read_text().splitlines()) > 400] == []


def test_names_of_test_files_are_unique():
    """pytest imports each by its name alone: two of one name, and nothing runs."""
    names = [path.name for path in Path(__file__).parent.rglob("test_*.py")]
    assert sorted(name for name in set(names) if names.count(name) > 1) == []
