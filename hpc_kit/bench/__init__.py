"""Tasks of kind "benchmark": epochs of a training timed so that they can be compared; and comparing them."""
