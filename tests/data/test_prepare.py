"""Preparing: same bytes whatever the processes, restart after a kill, and every reject named."""

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from ase.build import molecule
from conftest import ListSource, hpc_kit

from hpc_kit.data import workers
from hpc_kit.data.command import summary
from hpc_kit.data.inspect import info, verify
from hpc_kit.data.manifest import read_manifest
from hpc_kit.data.prepare import Settings, prepare
from hpc_kit.data.rejects import commonest
from hpc_kit.data.shards import read_shard_set
from hpc_kit.data.structures import RejectedError, Structure
from hpc_kit.ranks import LAUNCHERS
from hpc_kit.spec.data import Graph
from hpc_kit.spec.errors import InputError, WorkError

SETTINGS = Settings(Graph(cutoff=3.0), shard_size=5)


def ethanol(name: str, **changes) -> Structure:
    atoms = molecule("CH3CH2OH")
    rng = np.random.default_rng(list(name.encode()))
    fields = {"z": atoms.numbers, "pos": atoms.positions + rng.normal(0, 0.05, (9, 3)), "targets": {"e": 1.0}}
    return Structure(id=name, **(fields | changes))


def many(count=23) -> ListSource:
    return ListSource([ethanol(f"m{i}") for i in range(count)], e="eV")


def rejects(folder):
    return {line["id"]: line["reason"] for line in map(json.loads, (folder / "rejects.jsonl").open())}


@pytest.mark.parametrize(("workers", "ranks"), [(0, 1), (2, 1), (1, 3)])
def test_bytes_do_not_depend_on_workers_or_ranks(tmp_path, workers, ranks):
    expected = prepare(many(), tmp_path / "one", SETTINGS, workers=0)
    if ranks == 1:
        made = prepare(many(), tmp_path / "other", SETTINGS, workers=workers)
    else:
        made = in_ranks(tmp_path / "other", ranks)
    assert made.sha256 == expected.sha256
    assert [s.sha256 for s in made.shards] == [s.sha256 for s in expected.shards]
    assert verify(tmp_path / "other") == []


RANK = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from data.test_prepare import SETTINGS, many
from hpc_kit.data.prepare import prepare
from hpc_kit.ranks import find_ranks
ranks = find_ranks()
print(prepare(many(), Path(sys.argv[1]), SETTINGS, 0, ranks.rank, ranks.size).sha256)
"""


def in_ranks(out, ranks: int):
    """Run the preparation in several processes, each told its rank as a launcher tells it."""
    from conftest import ROOT

    code = RANK.format(tests=str(ROOT / "tests"))
    names = LAUNCHERS["hpc_kit"]
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(out)],
            env=os.environ | dict(zip(names, map(str, (rank, ranks) * 2), strict=True)),
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(ranks)
    ]
    assert len({process.communicate(timeout=120)[0] for process in started}) == 1
    return read_manifest(out)


class Slow(ListSource):
    """Counts its conversions in a file and takes its time."""

    def convert(self, id, raw):
        with open(self.log, "a") as file:
            file.write(id + "\n")
        time.sleep(0.05)
        return raw


KILLED = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from data.test_prepare import SETTINGS, slow
from hpc_kit.data.prepare import prepare
prepare(slow(sys.argv[2]), Path(sys.argv[1]), SETTINGS, 0)
"""


def slow(log) -> Slow:
    source = Slow(many().structures, e="eV")
    source.log = str(log)
    return source


def test_restart_after_a_kill_keeps_finished_shards(tmp_path):
    from conftest import ROOT

    out, log = tmp_path / "set", tmp_path / "log"
    code = KILLED.format(tests=str(ROOT / "tests"))
    process = subprocess.Popen([sys.executable, "-c", code, str(out), str(log)])
    while len(list(out.glob(".progress/shard-*.json"))) < 2:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = log.read_text().split()
    made = prepare(slow(log), out, SETTINGS, workers=0)
    again = log.read_text().split()[len(before) :]
    assert not {f"m{i}" for i in range(10)} & set(again)  # the first two shards were not made twice
    assert made.sha256 == prepare(many(), tmp_path / "whole", SETTINGS, workers=0).sha256
    assert verify(out) == []


def test_damaged_shard_of_an_unfinished_preparation_is_made_anew(tmp_path):
    out = tmp_path / "set"

    class Stops(ListSource):
        def records(self):
            yield from list(super().records())[:12]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(Stops(many().structures, e="eV"), out, SETTINGS, workers=0)
    shard = out / "shard-00000.h5"
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    made = prepare(many(), out, SETTINGS, workers=0)
    assert verify(out) == [] and made.graphs == 23


def test_damaged_note_of_a_finished_shard_is_not_believed(tmp_path):
    """What is noted beside a shard goes into the manifest, so a restart checks it as it does the shard."""
    source = Slow(many().structures, e="eV")
    source.log = os.devnull
    source.records = lambda: itertools.chain(list(ListSource.records(source))[:12], (1 / 0 for _ in "x"))
    with pytest.raises(ZeroDivisionError):
        prepare(source, tmp_path / "set", SETTINGS, workers=0)
    note = tmp_path / "set" / ".progress" / "shard-00001.json"
    text = note.read_text()
    note.write_text(text.replace('"atoms": [\n    9', '"atoms": [\n    8'))
    assert note.read_text() != text
    made = prepare(many(), tmp_path / "set", SETTINGS, workers=0)
    assert made.atoms_per_graph == [9] * 23


def test_damaged_settings_of_an_unfinished_preparation_are_named(tmp_path):
    (tmp_path / ".progress").mkdir()
    (tmp_path / ".progress" / "settings.json").write_text("{")
    with pytest.raises(InputError, match="settings.json: damaged: remove .* and prepare it again"):
        prepare(many(), tmp_path, SETTINGS, workers=0)


FULL = """
import subprocess, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from data.test_prepare import SETTINGS, many
from hpc_kit.data.prepare import prepare
from hpc_kit.spec.errors import WorkError

disk = Path(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=160k", "none", str(disk)], check=True)
try:
    prepare(many(200), disk / "set", SETTINGS, workers=1)
except WorkError as error:
    print(error)
print(*(path.name for path in disk.rglob("*") if path.name.endswith(".tmp")))
subprocess.run(["mount", "-o", "remount,size=16m", str(disk)], check=True)
print(prepare(many(200), disk / "set", SETTINGS, workers=0).sha256)
"""


@pytest.mark.skipif(
    subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode != 0,
    reason="this machine does not let its users mount a small disk to fill",
)
def test_full_disk_is_one_line_and_leaves_nothing_half_written(tmp_path):
    from conftest import ROOT

    (tmp_path / "disk").mkdir()
    script = [sys.executable, "-c", FULL.format(tests=str(ROOT / "tests")), tmp_path / "disk"]
    out = subprocess.run(["unshare", "-rm", *script], capture_output=True, text=True, timeout=120)
    first, leftovers, sha256 = out.stdout.splitlines()
    assert "disk/set: not prepared: " in first and "No space left on device; finished shards are kept" in first
    assert (leftovers, out.stderr) == ("", "")
    assert sha256 == prepare(many(200), tmp_path / "whole", SETTINGS, workers=0).sha256


class Hungry(ListSource):
    def convert(self, id, raw):
        if id == "m2":
            np.empty(2**62, np.uint8)
        return raw


def test_structure_without_memory_for_it_ends_the_preparation_by_its_name(tmp_path):
    with pytest.raises(WorkError, match="m2: not enough memory for it: Unable to allocate 4.00 EiB"):
        prepare(Hungry(many(5).structures, e="eV"), tmp_path, SETTINGS, workers=0)


class Deadly(ListSource):
    """Ends the process that converts its third structure."""

    def convert(self, id, raw):
        if id == "m2":
            os._exit(3) if self.signal is None else os.kill(os.getpid(), self.signal)
        return raw


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (signal.SIGKILL, "was killed by SIGKILL, by the scheduler, for lack of memory, or by somebody"),
        (None, "ended by itself with exit code 3: what it wrote above says why"),
    ],
)
def test_death_of_a_worker_is_named_by_its_cause(tmp_path, number, message):
    source = Deadly(many(5).structures, e="eV")
    source.signal = number
    with pytest.raises(WorkError, match=f"a worker process {message}.*; finished shards are kept"):
        prepare(source, tmp_path, SETTINGS, workers=1)


def test_processes_that_the_pool_ends_after_another_has_died_are_not_the_cause():
    assert "died of SIGBUS" in workers._death([-signal.SIGTERM, -signal.SIGBUS, None], out_of_memory=False)
    assert "died of SIGTERM" in workers._death([-signal.SIGTERM, -signal.SIGTERM], out_of_memory=False)
    assert "was killed for lack of memory" in workers._death([-signal.SIGKILL], out_of_memory=True)


def test_prepared_set_is_not_made_again_and_another_is_refused(tmp_path):
    made = prepare(many(), tmp_path, SETTINGS, workers=0)
    before = (tmp_path / "manifest.json").stat().st_mtime_ns
    assert prepare(many(), tmp_path, SETTINGS, workers=0).sha256 == made.sha256
    assert (tmp_path / "manifest.json").stat().st_mtime_ns == before
    with pytest.raises(InputError, match="made with other settings"):
        prepare(many(), tmp_path, Settings(Graph(cutoff=2.0), shard_size=5), workers=0)


def test_folder_with_other_things_in_it_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(InputError, match="is not empty"):
        prepare(many(), tmp_path, SETTINGS, workers=0)


class Faulty(ListSource):
    def convert(self, id, raw):
        if id == "refused":
            raise RejectedError("column 'e' holds text")
        if id == "broken":
            raise ZeroDivisionError("deep inside a reader")
        return raw


def test_each_bad_structure_is_named_with_its_reason_and_ends_nothing(tmp_path):
    far = np.arange(27.0).reshape(9, 3) * 100
    near = ethanol("x").pos
    near[1] = near[0] + 0.001
    nan = ethanol("x").pos
    nan[3, 1] = np.nan
    flat = {"cell": np.diag([5.0, 5.0, 0.0]), "pbc": np.array([True, True, True])}
    bad = {
        "nan": (ethanol("nan", pos=nan), "NaN or infinite"),
        "infinite": (ethanol("infinite", pos=near * np.inf), "NaN or infinite"),
        "overlap": (ethanol("overlap", pos=near), "atoms 0 and 1 are 0.001"),
        "element": (ethanol("element", z=np.array([0] * 9)), "unknown element: atomic number 0"),
        "element119": (ethanol("element119", z=np.array([119] * 9)), "unknown element: atomic number 119"),
        "flat": (ethanol("flat", **flat), "a cell of no volume"),
        "lonely": (ethanol("lonely", pos=far), "no atom has a neighbour"),
        "empty": (ethanol("empty", z=np.array([]), pos=np.zeros((0, 3))), "no atoms"),
        "target": (ethanol("target", targets={"e": np.inf}), "target e is infinite"),
        "refused": (ethanol("refused"), "column 'e' holds text"),
        "broken": (ethanol("broken"), "ZeroDivisionError: deep inside a reader"),
        "m1": (ethanol("m1"), "used twice"),
    }
    good = [ethanol(f"m{i}") for i in range(7)]
    source = Faulty(good + [structure for structure, _ in bad.values()], e="eV")
    made = prepare(source, tmp_path, SETTINGS, workers=0)
    found = rejects(tmp_path)
    assert set(found) == set(bad)
    for id, (_, reason) in bad.items():
        assert reason in found[id]
    assert (made.graphs, made.rejected) == (7, len(bad))
    assert verify(tmp_path) == []


@pytest.mark.parametrize("graph", [None, Graph(cutoff=3.0), Graph(rule="alignn", cutoff=3.0, max_neighbors=2)])
def test_atoms_on_top_of_each_other_are_refused_whatever_the_edges(tmp_path, graph):
    twice = {"pos": np.repeat(np.eye(3), 3, axis=0), "cell": np.eye(3) * 12, "pbc": np.ones(3, dtype=bool)}
    source = ListSource([ethanol("good", **(twice | {"pos": ethanol("good").pos})), ethanol("bad", **twice)], e="eV")
    assert prepare(source, tmp_path, Settings(graph), workers=0).graphs == 1
    assert rejects(tmp_path) == {"bad": "atoms 0 and 1 are 0 Angstrom apart"}


CRYSTAL = {"cell": np.array([[6.0, 0, 0], [1, 7, 0], [0, 2, 8]]), "pbc": np.ones(3, dtype=bool)}
SHEET = CRYSTAL | {"cell": CRYSTAL["cell"] * [[1], [1], [0]], "pbc": np.array([True, True, False])}


@pytest.mark.parametrize("box", [{}, CRYSTAL, SHEET], ids=["molecule", "crystal", "sheet"])
def test_atoms_far_from_the_origin_keep_their_distances(tmp_path, box):
    near = ethanol("near", **box)
    far = ethanol("far", **box)
    far.pos = ethanol("near").pos + [1e6, -2e6, 3e6]
    prepare(ListSource([near, far], e="eV"), tmp_path, Settings(Graph(cutoff=5.0)), workers=0)
    found = read_shard_set(tmp_path, read_manifest(tmp_path))
    vectors = found.pos[found.src + np.repeat(found.atom_ptr[:-1], np.diff(found.edge_ptr))]
    vectors = vectors - found.pos[found.dst + np.repeat(found.atom_ptr[:-1], np.diff(found.edge_ptr))]
    if found.shift is not None:
        vectors += np.einsum("ei,eij->ej", found.shift, np.repeat(found.cell, np.diff(found.edge_ptr), axis=0))
    first, second = np.split(np.linalg.norm(vectors, axis=1), [found.edge_ptr[1]])
    assert np.abs(np.sort(first) - np.sort(second)).max() < 1e-5


def test_source_without_records_is_refused(tmp_path):
    with pytest.raises(InputError, match="yields no records"):
        prepare(ListSource([], e="eV"), tmp_path, SETTINGS, workers=0)


def test_source_of_rejects_alone_is_refused_and_the_rejects_stay(tmp_path):
    bad = [ethanol(f"bad{i}", z=np.array([0] * 9)) for i in range(3)] + [ethanol("empty", z=np.array([]))]
    message = "all 4 records were rejected: 3 x unknown element: atomic number 0; 1 x no atoms. .*rejects.jsonl says"
    with pytest.raises(InputError, match=message):
        prepare(ListSource(bad, e="eV"), tmp_path, SETTINGS, workers=0)
    assert "unknown element" in rejects(tmp_path)["bad0"]


def test_reasons_that_differ_in_numbers_and_names_are_one():
    reasons = [f"two atoms 0.{i} Angstrom apart" for i in range(5)] + [
        "no column 'a'",
        "no column 'b'",
        "x",
        "y",
        "z",
    ]
    assert commonest(reasons) == "5 x two atoms 0.0 Angstrom apart; 2 x no column 'a'; 1 x x; 2 for other reasons"


def test_targets_that_no_structure_has_are_told_and_refused_before_anything_is_planned(tmp_path):
    some = [ethanol(f"m{i}", targets={"e": 1.0} if i else {}) for i in range(5)]
    made = prepare(ListSource(some, e="eV", gap="eV"), tmp_path, SETTINGS, workers=0)
    assert made.known == {"e": 4, "gap": 0}
    assert "no structure has a value of gap: these cannot be learned" in summary(tmp_path, made)
    assert made.other_targets(["e"]) == ""
    assert made.other_targets(["gap"]) == "no structure of this data set has a value of 'gap'; allowed: e"
    assert made.other_targets(["gpa"]).startswith("unknown target 'gpa'; did you mean 'gap'?")


def test_set_in_which_no_target_is_known_is_refused(tmp_path):
    with pytest.raises(InputError, match="no structure has a value of e: there would be nothing to learn"):
        prepare(ListSource([ethanol("m", targets={})], e="eV"), tmp_path, SETTINGS, workers=0)


def test_set_without_targets_says_so(tmp_path):
    made = prepare(ListSource(many(2).structures), tmp_path, SETTINGS, workers=0)
    assert "no targets: this set can be predicted on" in summary(tmp_path, made)
    assert "holds no targets" in made.other_targets(["e"])


def test_failure_of_another_rank_is_reported(tmp_path):
    import threading

    def fail_later():
        time.sleep(1.0)
        (tmp_path / "set" / ".progress" / "rank-1.failed").write_text("disk full")

    threading.Thread(target=fail_later).start()
    with pytest.raises(WorkError, match="rank-1 failed: disk full"):
        prepare(many(), tmp_path / "set", SETTINGS, workers=0, rank=0, ranks=2)


def test_limit_takes_the_first_records(tmp_path):
    assert prepare(many(), tmp_path, Settings(Graph(cutoff=3.0), limit=4), workers=0).graphs == 4


@pytest.fixture
def whole(tmp_path):
    prepare(ListSource([*many().structures, ethanol("m1")], e="eV"), tmp_path / "set", SETTINGS, workers=0)
    return tmp_path / "set"


def flip_a_byte(folder):
    path = folder / "shard-00002.h5"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut_a_shard(folder):
    path = folder / "shard-00001.h5"
    path.write_bytes(path.read_bytes()[:-7])


def swap_manifest(folder):
    other = folder.parent / "other"
    prepare(many(22), other, SETTINGS, workers=0)
    (folder / "manifest.json").write_bytes((other / "manifest.json").read_bytes())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (flip_a_byte, "shard-00002.h5"),
        (cut_a_shard, "shard-00001.h5: .*truncated"),
        (lambda folder: (folder / "shard-00000.h5").unlink(), "shard-00000.h5: missing"),
        (lambda folder: (folder / "shard-00009.h5").write_bytes(b""), "shard-00009.h5: not in manifest.json"),
        (swap_manifest, "shard-00004.h5"),
        (lambda folder: (folder / "rejects.jsonl").unlink(), "rejects.jsonl: 0 rejects where manifest.json says 1"),
        (lambda folder: (folder / "rejects.jsonl").write_text("{}\n"), "rejects.jsonl, line 1: holds no identifier"),
    ],
)
def test_verify_finds_the_damage(whole, tmp_path, damage, message):
    assert hpc_kit("data", "verify", whole, cwd=tmp_path).returncode == 0
    damage(whole)
    out = hpc_kit("data", "verify", whole, cwd=tmp_path)
    assert out.returncode == 1
    assert any(re.search(message, line) for line in out.stderr.splitlines()), out.stderr


def test_info_counts(whole, tmp_path):
    found = info(whole)
    assert (found["graphs"], found["atoms"], found["shards"]) == (23, 23 * 9, 5)
    assert found["targets"]["e"] | {"description": ""} == {
        "unit": "eV", "description": "", "known": 23, "mean": 1.0, "mad": 0.0, "min": 1.0, "max": 1.0
    }  # fmt: skip
    assert found["atoms_per_graph"] == [{"from": 9, "to": 9, "count": 23}]
    assert sum(row["count"] for row in found["edges_per_graph"]) == 23
    printed = hpc_kit("data", "info", whole, cwd=tmp_path).stdout
    assert "23 graphs, 207 atoms" in printed and "MAD" in printed
