"""`python -m hpc_kit`: the same commands where the console script is not on PATH (workers, images)."""

from hpc_kit.cli import main

main()
