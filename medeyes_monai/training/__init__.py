"""Dual-stream GRPO: loss, trainer, checkpoints."""
