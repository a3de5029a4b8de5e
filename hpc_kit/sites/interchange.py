"""Parsl's interchange that ends with its driver: `python -m hpc_kit.sites.interchange`.

Parsl's own can outlive a driver that was killed, and hold ports and memory for ever.
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
    threading.Thread(target=_end_with, args=(int(sys.argv[1]),), daemon=True).start()
    runpy.run_module("parsl.executors.high_throughput.interchange", run_name="__main__", alter_sys=True)
