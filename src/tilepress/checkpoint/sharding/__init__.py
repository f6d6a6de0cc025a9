"""The shard of a model that one tensor-parallel rank holds."""
