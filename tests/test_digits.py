"""The two domains of digits: a folder a class, fonts of training and test apart, the same bytes every time."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from rapids_slr.data.check import check_domain
from rapids_slr.data.read import read_domain
from rapids_slr.settings.spec import DomainSpec
from tests.scripts import loaded

FILE = Path(__file__).parents[1] / "benchmarks" / "digits.py"


@pytest.fixture(scope="module")
def digits():
    return loaded(FILE)


def test_both_are_domains_of_the_same_ten_classes(digits, tmp_path):
    for images, train, test in ((digits.printed, 12 * 120, 4 * 120), (digits.handwritten, 1198, 599)):
        count = digits.write(images(), tmp_path / f"{images.__name__}.zip")
        domain = read_domain(DomainSpec(path=str(tmp_path / f"{images.__name__}.zip")))
        assert (len(domain.train), len(domain.gallery), count) == (train, test, train + test)
        assert domain.classes == tuple("0123456789")
        assert check_domain(domain, decode=False) == domain.unused == []
        assert domain.open(domain.train.names[0]).size == (32, 32)


def test_fonts_of_the_test_are_none_of_training(digits):
    assert set(digits.TRAIN_FONTS).isdisjoint(digits.TEST_FONTS)


def test_handwritten_digits_are_those_of_scikit_learn(digits):
    """Means over blocks of an enlarged digit are its pixels, up to the edges that bicubic sharpens."""
    theirs = load_digits()
    for i, (name, image) in enumerate(islice(digits.handwritten(), 30)):
        assert name.split("/")[1] == str(theirs.target[i])
        inner = np.asarray(image, float)[4:28, 4:28].reshape(8, 3, 8, 3).mean(axis=(1, 3)) * 16 / 255
        assert np.abs(inner - theirs.images[i]).mean() < 1


def test_the_same_bytes_every_time(digits, tmp_path):
    for name in ("one.zip", "two.zip"):
        digits.write(islice(digits.printed(), 20), tmp_path / name)
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
