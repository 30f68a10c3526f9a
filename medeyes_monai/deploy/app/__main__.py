"""``python -m medeyes_monai.deploy.app``, and the entry point of a MONAI Application Package."""

from __future__ import annotations

from medeyes_monai.deploy.app.app import FocusApp

if __name__ == "__main__":
    FocusApp().run()
