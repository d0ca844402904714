from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from rapids_slr.data.drawn.appearance import APPEARANCES, alter
from rapids_slr.data.read import read_domain
from rapids_slr.settings.spec import DomainSpec
from tests.conftest import shared_data


def cross(mode: str = "L") -> Image.Image:
    pixels = np.full((60, 60), 255, np.uint8)
    pixels[28:31] = pixels[:, 28:31] = 0
    return Image.fromarray(pixels).convert(mode)


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "RGBA", "P"])
def test_the_same_name_gives_the_same_pixels_and_another_name_others(mode):
    image = cross(mode)
    first, again, other = (np.asarray(alter(image, name, APPEARANCES["mid"])) for name in ("a", "a", "b"))
    assert first.shape == ((60, 60) if mode in ("1", "L") else (60, 60, 3))
    np.testing.assert_array_equal(first, again)
    assert (first != other).mean() > 0.5


def test_strokes_grow_and_contrast_falls():
    altered = np.asarray(alter(cross(), "a", APPEARANCES["mid"]), float)
    look = APPEARANCES["mid"]
    assert altered[5:20, 5:20].mean() == pytest.approx(look.light, abs=25)
    assert altered[29].mean() == pytest.approx(look.dark, abs=25)
    assert (altered[:, 10] < 130).sum() > 3  # the stroke was 3 pixels wide


def test_hard_is_mid_inverted():
    mid, hard = (np.asarray(alter(cross(), "a", APPEARANCES[name]), float) for name in ("mid", "hard"))
    np.testing.assert_allclose(mid + hard, 255, atol=1)


def test_a_domain_takes_the_look_that_its_spec_states():
    path = str(shared_data("omniglot-small/target.zip"))
    plain, mid = (read_domain(DomainSpec.model_validate({"path": path, "appearance": a})) for a in (None, "mid"))
    name = plain.train.names[0]
    assert mid.train.names == plain.train.names
    assert plain.open(name).mode == "1"
    np.testing.assert_array_equal(
        np.asarray(mid.open(name)), np.asarray(alter(plain.open(name), name, APPEARANCES["mid"]))
    )
