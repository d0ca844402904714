"""Two domains of digits for classification, from what scikit-learn and matplotlib bring along; nothing is downloaded.

    python benchmarks/digits.py data/digits        # printed.zip and handwritten.zip, a folder a class

printed      digits of fonts that matplotlib ships (DejaVu, STIX General, Computer Modern), turned, slanted, moved and
             scaled a little; some fonts are for testing alone
handwritten  scikit-learn's `load_digits`, 8 x 8 pixels enlarged to 24 x 24: the test part of the Optical Recognition of
             Handwritten Digits (Alpaydin and Kaynak, UCI, CC BY 4.0); the last third, in its order, is for testing

Light strokes on black, in the middle of 32 x 32 pixels. The same versions of the libraries give the same bytes.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from rapids_slr.data.pack import pack

SIDE, INNER, DRAWN = 32, 24, 96
"""Pixels of an image, of a handwritten digit in it, and of the square that a printed digit is drawn in first."""
TRAIN_FONTS = (
    *("DejaVuSans", "DejaVuSans-Oblique", "DejaVuSansMono", "DejaVuSansMono-BoldOblique", "DejaVuSerif"),
    *("DejaVuSerif-BoldItalic", "STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "cmr10", "cmss10", "cmtt10"),
)
TEST_FONTS = ("DejaVuSans-Bold", "DejaVuSerif-Italic", "STIXGeneralBolIta", "cmb10")
PICTURES = 12
"""Of a digit and font."""
LICENCES = """handwritten: Optical Recognition of Handwritten Digits, E. Alpaydin and C. Kaynak, UCI Machine Learning
Repository, doi:10.24432/C50P49, CC BY 4.0, as scikit-learn ships it; enlarged, unchanged otherwise.
printed: drawn with fonts of matplotlib: DejaVu (Bitstream Vera licence), STIX (SIL OFL 1.1), Computer Modern (BaKoMa).
"""


def printed() -> Iterator[tuple[str, Image.Image]]:
    """Name and picture of every printed digit."""
    from matplotlib import get_data_path

    fonts = Path(get_data_path(), "fonts", "ttf")
    for split, names in (("train", TRAIN_FONTS), ("test", TEST_FONTS)):
        for number, name in enumerate(names):
            font = ImageFont.truetype(str(fonts / f"{name}.ttf"), 80)
            for digit in range(10):
                for picture in range(PICTURES):
                    rng = np.random.default_rng([split == "test", number, digit, picture])
                    yield f"{split}/{digit}/{name}-{picture:02d}.png", drawn(str(digit), font, rng)


def drawn(digit: str, font: ImageFont.FreeTypeFont, rng: np.random.Generator) -> Image.Image:
    """A digit in the middle of a square, then turned up to 12 degrees, slanted, scaled and moved at random."""
    square = Image.new("L", (DRAWN, DRAWN))
    ImageDraw.Draw(square).text((DRAWN / 2, DRAWN / 2), digit, fill=255, font=font, anchor="mm")
    angle, slant = np.deg2rad(rng.uniform(-12, 12)), rng.uniform(-0.2, 0.2)
    scale_x, scale_y = rng.uniform(0.85, 1.15, 2)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    back = np.linalg.inv(turn @ np.array([[scale_x, slant], [0, scale_y]]))  # from the new picture to the square
    middle = np.full(2, DRAWN / 2)
    shift = middle - back @ (middle + rng.uniform(-4, 4, 2))
    affine = (*back[0], shift[0], *back[1], shift[1])
    return square.transform((DRAWN, DRAWN), Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR).resize(
        (SIDE, SIDE), Image.Resampling.BOX
    )


def handwritten() -> Iterator[tuple[str, Image.Image]]:
    """Name and picture of every digit of `load_digits`."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels_NHW = (digits.images * (255 / 16)).round().astype(np.uint8)
    for number, (pixels, digit) in enumerate(zip(pixels_NHW, digits.target, strict=True)):
        split = "train" if number < 2 * len(pixels_NHW) // 3 else "test"
        image = Image.new("L", (SIDE, SIDE))
        digit_image = Image.fromarray(pixels).resize((INNER, INNER), Image.Resampling.BICUBIC)
        image.paste(digit_image, ((SIDE - INNER) // 2, (SIDE - INNER) // 2))
        yield f"{split}/{digit}/{number:04d}.png", image


def write(images: Iterator[tuple[str, Image.Image]], archive: Path) -> int:
    """Write images and their licences into an archive; gives the number of images."""
    with tempfile.TemporaryDirectory() as folder:
        count = 0
        for name, image in images:
            file = Path(folder, name)
            file.parent.mkdir(parents=True, exist_ok=True)
            image.save(file)
            count += 1
        Path(folder, "LICENSE.txt").write_text(LICENCES)
        pack(folder, archive)
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder to write to")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    for domain in (printed, handwritten):
        archive = out / f"{domain.__name__}.zip"
        print(f"{archive}: {write(domain(), archive)} images")


if __name__ == "__main__":
    main()
