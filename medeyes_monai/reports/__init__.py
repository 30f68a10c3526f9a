"""Pictures and pages of gaze paths."""
