"""Draws episodes from the policy: it speaks, looks, gets new pixels, and speaks again (equation 1)."""

from medeyes_monai.rollout.batch import rollout
from medeyes_monai.rollout.row import MAX_LOOKS

__all__ = ["MAX_LOOKS", "rollout"]
