"""What the tests of data share."""

from __future__ import annotations

import urllib.request

import pytest
from idx_files import COLLECTIONS


@pytest.fixture(params=COLLECTIONS, ids=lambda load: load.__name__)
def load(request):
    return request.param


@pytest.fixture
def requests(monkeypatch, tmp_path) -> list[str]:
    """Keep a test away from the network and the user's cache; list the URLs asked for."""
    asked = []
    urlopen = urllib.request.urlopen

    def only_files(url, **options):
        asked.append(url)
        assert url.startswith("file:"), f"a test asked the network for {url}"
        assert 0 < options.pop("timeout") <= 60
        return urlopen(url, **options)

    monkeypatch.setattr(urllib.request, "urlopen", only_files)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return asked
