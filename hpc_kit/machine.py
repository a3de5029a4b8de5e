"""What this machine is and what of it this process may use. Absent means None, never a guess."""

import contextlib
import ctypes
import ipaddress
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil

LOOPBACK = "127.0.0.1"
_CGROUP = Path("/sys/fs/cgroup")


def read_text(path: Path | str) -> str | None:
    """Return a small file's text without its end, or None where it cannot be read."""
    try:
        return Path(path).read_text(errors="replace").strip()
    except OSError:
        return None


def cpu() -> dict[str, Any]:
    """Return model, sockets, cores, threads a core, NUMA nodes, caches and vector extensions, as lscpu says."""
    fields: dict[str, str] = {}
    try:
        out = subprocess.run(["lscpu", "--json"], capture_output=True, text=True, check=True, timeout=10)
        _flatten(json.loads(out.stdout)["lscpu"], fields)
    except (OSError, subprocess.SubprocessError, ValueError, KeyError):
        fields = {}
    flags = fields.get("Flags", "").split()
    vectors = [name for name in ("avx", "avx2", "avx512f", "avx512_bf16", "amx_bf16", "sve") if name in flags]
    return {
        "architecture": fields.get("Architecture"),
        "model": fields.get("Model name"),
        "sockets": _number(fields.get("Socket(s)")),
        "cores_per_socket": _number(fields.get("Core(s) per socket")),
        "threads_per_core": _number(fields.get("Thread(s) per core")),
        "numa_nodes": _number(fields.get("NUMA node(s)")),
        "max_mhz": fields.get("CPU max MHz"),
        "l2": fields.get("L2 cache") or fields.get("L2"),
        "l3": fields.get("L3 cache") or fields.get("L3"),
        "vector_extensions": vectors or None,
        "smt": read_text("/sys/devices/system/cpu/smt/control"),
        "governor": read_text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "boost": _boost(),
        "hypervisor": fields.get("Hypervisor vendor"),
    }


def _boost() -> bool | None:
    """Tell whether single cores may clock higher than all together, as the kernel's driver says."""
    on = read_text("/sys/devices/system/cpu/cpufreq/boost")
    off = read_text("/sys/devices/system/cpu/intel_pstate/no_turbo")
    return on == "1" if on is not None else off == "0" if off is not None else None


def memory() -> dict[str, Any]:
    """Return the machine's memory (rounded: nodes of one kind differ by some MB), this process's limit on it
    and the huge-page setting."""
    lines = (read_text("/proc/meminfo") or "").splitlines()
    total = next((int(line.split()[1]) for line in lines if line.startswith("MemTotal")), None)
    return {
        "total_gb": None if total is None else round(total / 2**20),
        "cgroup_limit_mb": _cgroup_limit("memory.max"),
        "transparent_hugepage": _chosen(read_text("/sys/kernel/mm/transparent_hugepage/enabled")),
    }


def usable_cores() -> int:
    """Return how many cores this process may use: its affinity mask, or its cgroup's quota where smaller."""
    allowed = len(os.sched_getaffinity(0))
    quota = cpu_quota()
    return max(1, min(allowed, int(quota))) if quota else allowed


def cpu_quota() -> float | None:
    """Return the cgroup's limit in cores, or None where there is none."""
    limits = []
    for folder in _cgroup_folders():
        parts = (read_text(folder / "cpu.max") or "max").split()
        if parts[0] != "max":
            limits.append(int(parts[0]) / int(parts[1]))
    return min(limits, default=None)


def cpuset() -> str | None:
    """Return the cores and memory nodes this process is bound to, as the kernel writes them."""
    status = read_text("/proc/self/status") or ""
    lists = {
        line.split(":")[0]: line.split(":")[1].strip() for line in status.splitlines() if "_allowed_list" in line
    }
    return f"cpus {lists['Cpus_allowed_list']} mems {lists['Mems_allowed_list']}" if len(lists) == 2 else None


def visible_gpus() -> list[str]:
    """Return the names by which CUDA_VISIBLE_DEVICES would call the NVIDIA GPUs this process may use."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [name.strip() for name in chosen.split(",") if name.strip() and name.strip() != "-1"]
    return [str(i) for i, _ in enumerate(gpu_devices())]


def gpu_devices() -> list[Path]:
    """Return the device files of the NVIDIA GPUs that this process sees, whether or not a driver answers for them."""
    return sorted(Path("/dev").glob("nvidia[0-9]*"))


def image_lock() -> str | None:
    """Return the lock of the image this process runs in, as it was built; None outside of one."""
    return read_text(Path(sys.prefix) / "image.lock")


def gpus() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Ask NVML about each GPU; return (what makes timings comparable, what identifies and was seen at the moment).

    Both lists are empty where there is no NVIDIA driver.
    """
    try:
        import pynvml as nvml

        nvml.nvmlInit()
    except Exception:  # no package, no library, no driver: no GPU to describe
        return [], []

    def ask(function: str, *arguments: Any) -> Any:
        try:
            answer = getattr(nvml, function)(*arguments)
            return answer.decode() if isinstance(answer, bytes) else answer
        except Exception:  # not supported by this GPU or driver: the field is absent
            return None

    comparable, seen = [], []
    for index in range(nvml.nvmlDeviceGetCount()):
        gpu = nvml.nvmlDeviceGetHandleByIndex(index)
        total = ask("nvmlDeviceGetMemoryInfo", gpu)
        comparable.append(
            {
                "name": ask("nvmlDeviceGetName", gpu),
                "memory_mb": total.total // 2**20 if total else None,
                "driver": ask("nvmlSystemGetDriverVersion"),
                "cuda_driver": ask("nvmlSystemGetCudaDriverVersion"),
                "ecc": (ask("nvmlDeviceGetEccMode", gpu) or [None])[0],
                "mig": (ask("nvmlDeviceGetMigMode", gpu) or [None])[0],
                "power_limit_w": _thousandth(ask("nvmlDeviceGetPowerManagementLimit", gpu)),
                "max_sm_mhz": ask("nvmlDeviceGetMaxClockInfo", gpu, nvml.NVML_CLOCK_SM),
                "max_memory_mhz": ask("nvmlDeviceGetMaxClockInfo", gpu, nvml.NVML_CLOCK_MEM),
                "persistence": ask("nvmlDeviceGetPersistenceMode", gpu),
                "pcie_generation": ask("nvmlDeviceGetMaxPcieLinkGeneration", gpu),
                "pcie_width": ask("nvmlDeviceGetMaxPcieLinkWidth", gpu),
            }
        )
        seen.append(
            {
                "uuid": ask("nvmlDeviceGetUUID", gpu),
                "sm_mhz": ask("nvmlDeviceGetClockInfo", gpu, nvml.NVML_CLOCK_SM),
                "memory_mhz": ask("nvmlDeviceGetClockInfo", gpu, nvml.NVML_CLOCK_MEM),
                "throttle_reasons": ask("nvmlDeviceGetCurrentClocksThrottleReasons", gpu),
                "temperature_c": ask("nvmlDeviceGetTemperature", gpu, nvml.NVML_TEMPERATURE_GPU),
                "power_w": _thousandth(ask("nvmlDeviceGetPowerUsage", gpu)),
                "topology": [
                    ask("nvmlDeviceGetTopologyCommonAncestor", gpu, nvml.nvmlDeviceGetHandleByIndex(other))
                    for other in range(nvml.nvmlDeviceGetCount())
                    if other != index
                ],
            }
        )
    nvml.nvmlShutdown()
    return comparable, seen


def network() -> list[dict[str, Any]]:
    """Return driver and speed (Mbit/s) of each physical or fabric interface, without names or addresses."""
    cards = []
    for folder in sorted(Path("/sys/class/net").glob("*")):
        driver = folder / "device" / "driver"
        if driver.exists():
            speed = _number(read_text(folder / "speed"))
            cards.append({"driver": driver.resolve().name, "speed": speed if speed and speed > 0 else None})
    for folder in sorted(Path("/sys/class/infiniband").glob("*")):
        cards.append({"driver": folder.name, "speed": read_text(folder / "ports" / "1" / "rate")})
    return cards


def own_addresses() -> list[str]:
    """Return this host's IPv4 addresses that another may reach, that of its name first."""
    up = {name for name, state in psutil.net_if_stats().items() if state.isup}
    found = [
        a.address
        for name, addresses in psutil.net_if_addrs().items()
        for a in addresses
        if name in up and a.family == socket.AF_INET and not ipaddress.ip_address(a.address).is_loopback
    ]
    named = []
    with contextlib.suppress(OSError):
        named = [a for a in socket.gethostbyname_ex(socket.gethostname())[2] if a in found]
    return [*named, *(a for a in found if a not in named)] or [LOOPBACK]


def _flatten(entries: list[dict], fields: dict[str, str]) -> None:
    for entry in entries:
        if entry.get("data") is not None:
            fields.setdefault(entry["field"].rstrip(":"), entry["data"])
        _flatten(entry.get("children", []), fields)


def _cgroup_folders() -> list[Path]:
    """Return this process's cgroup folder and those above it (version 2)."""
    line = next((x for x in (read_text("/proc/self/cgroup") or "").splitlines() if x.startswith("0::")), None)
    if line is None:
        return []
    folder = _CGROUP / line[3:].lstrip("/")
    return [f for f in (folder, *folder.parents) if f.is_relative_to(_CGROUP)]


def _cgroup_limit(name: str) -> int | None:
    values = [read_text(folder / name) for folder in _cgroup_folders()]
    return min((int(v) // 2**20 for v in values if v and v.isdigit()), default=None)


def out_of_memory_kills() -> int:
    """Return how often the kernel has ended a process for want of memory in the group that limits this one."""
    folders = _cgroup_folders()
    limited = next(
        (f for f in folders if (read_text(f / "memory.max") or "max") != "max"), folders[0] if folders else None
    )
    lines = (read_text(limited / "memory.events") or "").splitlines() if limited else []
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)


def _chosen(setting: str | None) -> str | None:
    """Return the word in brackets of a line like `always [madvise] never`."""
    return setting.split("[")[1].split("]")[0] if setting and "[" in setting else setting


def _number(text: str | None) -> int | None:
    return int(text) if text and text.lstrip("-").isdigit() else None


def _thousandth(value: int | None) -> float | None:
    return None if value is None else value / 1000


def keep_freed_memory() -> None:
    """Have malloc keep what it frees instead of giving it back to the kernel after each large tensor.

    A fresh page costs more than the arithmetic on it: adding two tensors of 100 MB is 5 to 8 times faster afterwards
    (benchmarks/results/models.md). For processes that compute; where the C library has no mallopt nothing changes.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        m_mmap_threshold, m_trim_threshold = -3, -1  # malloc.h
        libc.mallopt(m_mmap_threshold, 1 << 30)
        libc.mallopt(m_trim_threshold, 2**31 - 1)
