"""The site file as a typed model: one machine, how tasks are started on it and how many at a time."""

from typing import Annotated, Literal

from pydantic import Field

from hpc_kit.spec.document import Strict, read_document
from hpc_kit.spec.shipped import find_shipped

NODE_LOCAL = "HPC_KIT_NODE_LOCAL"  # the variable that tells a task its site's node_local


class Site(Strict):
    """One machine. `slots` is how many tasks run at a time; null: as many as its cores and GPUs hold. `node_local` is
    a folder on each node's own disk, where the ranks of a node share one copy of the data; $VARIABLES are filled in
    on the node."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]
    description: str
    scheduler: Literal["local"]
    slots: Annotated[int, Field(ge=1)] | None = None
    environment: dict[str, str] = {}
    node_local: str | None = None


def load_site(name: str) -> Site:
    """Read the site file `name`: a path, or a site that ships with the package. Raises InputError."""
    return read_document(find_shipped("site_configs", name)).check(Site)
