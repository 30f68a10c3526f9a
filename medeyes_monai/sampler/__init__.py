"""CVS, the Confidence Value Sampler: several expert paths out of one navigator (method, section 3)."""

from medeyes_monai.sampler.episodes import write_episode
from medeyes_monai.sampler.paths import DrawnPath, Nucleus, PathSampler, PathSource, nucleus
from medeyes_monai.sampler.statistics import describe_paths

__all__ = [
    "DrawnPath",
    "Nucleus",
    "PathSampler",
    "PathSource",
    "describe_paths",
    "nucleus",
    "write_episode",
]
