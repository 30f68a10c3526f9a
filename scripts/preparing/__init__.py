"""Parts of ``scripts/prepare_expert_paths.py``."""
