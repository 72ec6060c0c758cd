"""Token mixers: one file each, named in `models/registry.py`."""
