"""What a search for the answer to one question found, where, and in what form it leaves the package."""

from medeyes_monai.focus.export import world_of, write_focus
from medeyes_monai.focus.markups import markups_of, read_markups
from medeyes_monai.focus.result import Focus, Grid, Place

__all__ = ["Focus", "Grid", "Place", "markups_of", "read_markups", "world_of", "write_focus"]
