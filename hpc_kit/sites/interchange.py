"""Parsl's interchange in a session of its own: `python -m hpc_kit.sites.interchange DRIVER_PID`.

It ends with its driver (Parsl's own can outlive one that was killed, and hold ports and memory for ever) and
does not see the terminal's Ctrl-C, so that the driver can end its tasks in order.
"""

import os
import runpy
import sys
import threading
import time


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(0)


if __name__ == "__main__":
    os.setsid()
    threading.Thread(target=_end_with, args=(int(sys.argv[1]),), daemon=True).start()
    runpy.run_module("parsl.executors.high_throughput.interchange", run_name="__main__", alter_sys=True)
