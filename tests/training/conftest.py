"""Images for the tests of `AdversarialModel`."""

import pytest


@pytest.fixture(scope="session")
def small_digits(digits):
    """(x float32 (320, 8, 8, 1) in [0, 1], y int64 (320,))."""
    return digits.images[:320, ::4, ::4].astype("float32") / 255, digits.labels[:320]
