"""The exceptions that a caller of this package may want to catch, one for each boundary."""

__all__ = [
    "CheckpointError",
    "ConfigError",
    "ExpertError",
    "GeometryError",
    "MedEyesError",
    "NumericsError",
    "ProtocolError",
    "UnreadableImageError",
]


class MedEyesError(Exception):
    """Base of every error that this package raises on purpose."""


class ConfigError(MedEyesError, ValueError):
    """A configuration, a datalist or an argument does not say something that can be run."""


class UnreadableImageError(MedEyesError, OSError):
    """A file cannot be read as an image within the limits that were set."""


class GeometryError(MedEyesError, ValueError):
    """A box, a mask or an affine does not describe a region of space."""


class ProtocolError(MedEyesError, ValueError):
    """A trajectory cannot be written as text; malformed text is no error, see ``protocol.parse``."""


class ExpertError(MedEyesError, RuntimeError):
    """An expert broke its contract or could not be reached."""


class CheckpointError(MedEyesError, RuntimeError):
    """Weights or a training state are missing, damaged, or belong to something else."""


class NumericsError(MedEyesError, RuntimeError):
    """Scores, a loss, gradients or weights are not finite, and going on would spoil what follows."""
