"""The directory that a launched command gets first on its PYTHONPATH. It holds `sitecustomize` and nothing else."""
