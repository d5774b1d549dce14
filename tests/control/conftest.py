"""Planted latents, made once for all tests of this folder."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from planted_latents import plant


@pytest.fixture(scope="session")
def planted():
    with ThreadPoolExecutor(1) as pool:
        yield plant(pool)
