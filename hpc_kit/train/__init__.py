"""Fitting a model to a shard set and leaving records behind."""
