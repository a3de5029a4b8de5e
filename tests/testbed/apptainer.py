"""A real Apptainer on a machine whose release has no package of it: Debian's own, in a root file system of its own,
and a wrapper on PATH. Needs root on Debian or Ubuntu to install; docs/testbed.md tells how it differs from a site.

By hand: `python tests/testbed/apptainer.py up`.
"""

import shutil
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # when it is run by hand

from testbed import debian

ROOT = Path("/opt/apptainer-root")
FUSE = Path("/dev/fuse")
WRAPPER = Path("/usr/local/bin/apptainer")
INSIDE = "apptainer,ca-certificates,squashfs-tools,squashfuse,fuse2fs,fakeroot,tzdata,util-linux"
# Each line was seen to be needed: Apptainer must find / to be a mount point, so the root is bound on itself and
# pivoted to; `apptainer build` asks for CAP_SYS_RESOURCE, which root may lack and has in a user namespace.
# Somebody else than root makes that namespace first, to be allowed to mount.
SCRIPT = """#!/bin/sh
# Runs the Apptainer of {root} on this machine's files; made by tests/testbed/apptainer.py.
R={root}
export R
inner='
mount --bind "$R" "$R"
for d in $(ls / | grep -vE "^(bin|boot|etc|lib.*|sbin|usr|var|run|lost.found)$"); do
    [ -d "/$d" ] || continue
    case "$R" in "/$d"/*) continue;; esac
    mkdir -p "$R/$d" 2>/dev/null; mount --rbind "/$d" "$R/$d"
done
for f in hosts passwd group resolv.conf localtime; do [ -e "$R/etc/$f" ] && mount --bind "/etc/$f" "$R/etc/$f"; done
mkdir -p "$R/.old" 2>/dev/null; cd "$R"; pivot_root . .old
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
'
if [ "$(id -u)" = 0 ]; then
    inner="$inner"'exec unshare -m -U --map-users=0,0,65536 --map-groups=0,0,65536 /bin/sh -c \\
        "cd \\"\\$0\\" 2>/dev/null || cd /; exec /usr/bin/apptainer \\"\\$@\\"" "$0" "$@"'
    exec unshare -m --propagation private sh -c "$inner" "$PWD" "$@"
fi
me=$(id -u); mine=$(id -g); export me mine
inner="$inner"'exec unshare -U --map-user="$me" --map-group="$mine" /bin/sh -c \\
    "cd \\"\\$0\\" 2>/dev/null || cd /; exec /usr/bin/apptainer \\"\\$@\\"" "$0" "$@"'
exec unshare -m -U -r --propagation private sh -c "$inner" "$PWD" "$@"
"""


def missing() -> str:
    """Return why there is no Apptainer here and none can be installed; "" where there is or can be one."""
    return "" if shutil.which("apptainer") else debian.missing("Apptainer")


def install() -> None:
    """Put an apptainer on PATH unless one is there. Takes under a minute."""
    if shutil.which("apptainer"):
        return
    debian.install(("mmdebstrap", "mksquashfs"), ("mmdebstrap", "squashfs-tools"))
    if not (ROOT / "usr/bin/apptainer").exists():
        shutil.rmtree(ROOT, ignore_errors=True)
        late = 'Acquire::Check-Valid-Until "false"'  # a mirror's release file can look expired
        words = ["--quiet", "--variant=apt", f"--aptopt={late}", f"--include={INSIDE}", "sid", str(ROOT)]
        done = subprocess.run(["mmdebstrap", *words], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"mmdebstrap: {done.stderr[-500:]}")
        for name in ("hosts", "resolv.conf", "localtime"):
            (ROOT / "etc" / name).touch()
        for folder in Path("/").iterdir():
            (ROOT / folder.name).mkdir(exist_ok=True) if folder.is_dir() and not folder.is_symlink() else None
        (ROOT / ".old").mkdir(exist_ok=True)
    WRAPPER.write_text(SCRIPT.format(root=ROOT))
    WRAPPER.chmod(0o755)
    if FUSE.exists():  # as on every machine on which users start containers
        FUSE.chmod(0o666)
    subprocess.run(["apptainer", "--version"], check=True, capture_output=True)


if __name__ == "__main__":
    if sys.argv[1:] != ["up"]:
        sys.exit(__doc__)
    install()
