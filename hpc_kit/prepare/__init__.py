"""Tasks of kind "prepare": a shard set made from a source."""
