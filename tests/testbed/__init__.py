"""What tests start to have a scheduler at hand: stand-ins for PBS and Cobalt."""

from testbed.standins import cobalt, pbs  # noqa: F401
