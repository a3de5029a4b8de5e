"""The fingerprint: stable, complete, and without names in its comparable part."""

import getpass
import json
import os
import socket

from hpc_kit import machine
from hpc_kit.runs import fingerprint


def test_same_conditions_give_the_same_hash():
    first, again = (fingerprint.collect({"batch_size": 32}, {"torch": "2"}) for _ in range(2))
    assert first["sha256"] == again["sha256"] == fingerprint.comparable_sha256(first["comparable"])


def test_hash_does_not_depend_on_key_order():
    comparable = fingerprint.collect({"a": 1, "b": 2}, {})["comparable"]
    turned = dict(reversed(comparable.items())) | {"work": {"b": 2, "a": 1}}
    assert fingerprint.comparable_sha256(turned) == fingerprint.comparable_sha256(comparable)


def test_work_software_and_environment_change_the_hash(monkeypatch):
    base = fingerprint.collect({"batch_size": 32}, {"torch": "2"})["sha256"]
    assert fingerprint.collect({"batch_size": 64}, {"torch": "2"})["sha256"] != base
    assert fingerprint.collect({"batch_size": 32}, {"torch": "3"})["sha256"] != base
    monkeypatch.setenv("NCCL_CROSS_NIC", "1")
    assert fingerprint.collect({"batch_size": 32}, {"torch": "2"})["sha256"] != base


def test_comparable_part_names_no_host_user_or_path(monkeypatch):
    monkeypatch.setenv("NCCL_TOPO_FILE", f"/home/{getpass.getuser()}-x/{socket.gethostname()}-y/topo.xml")
    monkeypatch.setenv("OMP_SECRET_TOKEN", "hunter2")
    content = fingerprint.collect({}, {})
    assert content["comparable"]["environment"]["NCCL_TOPO_FILE"] == "topo.xml"
    text = json.dumps(content["comparable"])
    for private in (f"{getpass.getuser()}-x", f"{socket.gethostname()}-y", "hunter2", os.getcwd()):
        assert private not in text
    names = {socket.gethostname(), getpass.getuser()}
    assert not names & set(all_strings(content["comparable"]))
    assert content["observed"]["host"] == socket.gethostname()


def all_strings(value):
    if isinstance(value, dict):
        value = value.values()
    if isinstance(value, str):
        yield value
    elif hasattr(value, "__iter__"):
        for part in value:
            yield from all_strings(part)


def test_what_the_machine_tells_is_there():
    comparable = fingerprint.collect({}, {})["comparable"]
    assert comparable["usable_cores"] == machine.usable_cores() <= os.cpu_count()
    assert comparable["memory"]["total_gb"] > 0
    assert comparable["software"]["python"] and comparable["cpu"]["architecture"]


def test_cgroup_quota_limits_the_usable_cores(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "_cgroup_folders", lambda: [tmp_path])
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    (tmp_path / "memory.max").write_text(f"{3 * 2**30}\n")
    assert machine.cpu_quota() == 1.5 and machine.usable_cores() == 1
    assert machine.memory()["cgroup_limit_mb"] == 3072


def test_visible_gpus_follow_the_variable(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,GPU-abc")
    assert machine.visible_gpus() == ["2", "GPU-abc"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert machine.visible_gpus() == []
