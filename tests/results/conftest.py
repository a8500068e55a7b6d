"""The made-up features that reports are tested on, too."""

from reporting.conftest import features, make_run

__all__ = ["features", "make_run"]
