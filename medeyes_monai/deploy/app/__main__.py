"""``python -m medeyes_monai.deploy.app``, and the entry point of a MONAI Application Package."""

from __future__ import annotations

import sys

from medeyes_monai.deploy.app.app import FocusApp
from medeyes_monai.errors import MedEyesError

__all__ = ["main"]

EXIT_ERROR = 2


def main() -> int:
    """Run the application; return 0, or 2 after one line on stderr that says what is wrong."""
    try:
        FocusApp().run()
    except MedEyesError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_ERROR
    return 0


if __name__ == "__main__":
    sys.exit(main())
