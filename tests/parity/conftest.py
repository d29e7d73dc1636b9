import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared(request):
    """Folder of reference data, for tests marked shared_data."""
    return Path(os.environ.get("NEUROATTN_SHARED", request.config.rootpath.parent / "shared"))
