"""Parts of ``scripts/build_tiny_policy.py`` and ``scripts/build_volume_policy.py``."""
