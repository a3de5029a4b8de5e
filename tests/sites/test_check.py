"""`sites check`: what is looked at, and what a user is told to do."""

import json

from conftest import hpc_kit
from on_schedulers import SITE

from hpc_kit.sites.check import check, node_probe
from hpc_kit.spec.site import load_site


def states(site, **more) -> dict[str, str]:
    return {c.name: c.state for c in check(site, **more)}


def test_site_without_its_commands_fails(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    found = check(load_site("delta", account="a"))
    assert {c.name for c in found if c.state == "fail"} >= {"sbatch", "squeue", "/projects", "/work/hdd"}
    assert all(c.do for c in found if c.state == "fail")


def test_account_is_asked_for_with_its_form():
    [account] = [c for c in check(load_site("delta")) if c.name == "account"]
    assert account.state == "fail" and "abcd-delta-gpu" in account.do


def test_local_site_passes():
    assert set(states(load_site("local")).values()) == {"pass"}


def test_interface_that_is_not_here_is_named_with_those_that_are():
    [interface] = [c for c in check(load_site("polaris", account="a")) if c.name == "interface"]
    assert interface.state == "fail" and "lo" in interface.do


def test_real_cluster_passes_and_a_wrong_account_does_not(slurm, tmp_path):
    site = load_site(str(SITE))
    assert states(site, on_a_node=True)["from a node"] == "pass"
    assert states(site)["account"] == "pass" and states(load_site(str(SITE), account="nobody"))["account"] == "fail"
    missing = tmp_path / "no.sif"
    assert states(site, image=str(missing), on_a_node=True)["from a node"] == "fail"
    out = hpc_kit("sites", "check", SITE, "--account", "nobody", "--json", cwd=tmp_path)
    assert out.returncode == 1 and "checks failed" in out.stderr
    assert any(c["state"] == "fail" and c["name"] == "account" for c in json.loads(out.stdout))


def test_probe_names_account_partition_and_options():
    words = node_probe(load_site("delta", account="a"), "/x.sif")
    assert words[-3:] == ["test", "-r", "/x.sif"] and "--account=a" in words and "--constraint=scratch" in words


def test_sites_are_listed_and_shown(command):
    assert {"delta", "local", "polaris"} <= json.loads(command("sites", "list", "--json").stdout).keys()
    assert "gpuA100x4" in command("sites", "show", "delta").stdout
    assert json.loads(command("sites", "show", "delta", "--json").stdout)["scheduler"] == "slurm"
    assert command("sites", "show", "nowhere").returncode == 2
