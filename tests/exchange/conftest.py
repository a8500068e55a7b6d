"""What all exchange tests share."""

import pytest


@pytest.fixture(scope="module", autouse=True)
def hasty_disk():
    """Leave out fsync: durability is tested with the cache, and here hundreds of small files are written."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda handle: None)
        yield
