"""One image file as 8-bit pixels: scaled by the range of its format, or refused by name and mode."""

from __future__ import annotations

import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from fdfa_cli.data.files import shown, unreadable
from fdfa_cli.door import open_regular
from fdfa_cli.errors import DataCorrupt, FdfaError, UsageError
from fdfa_cli.lazy import numpy

if TYPE_CHECKING:
    from PIL import Image

Result = TypeVar("Result")

#: The formats that Pillow may try. The name of a file proves nothing, and some of the others run programs
#: (EPS) or read further files.
FORMATS = ("BMP", "DIB", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
#: Modes of at most 8 bits a channel, which Pillow converts to one another by their ranges.
EIGHT_BITS = {"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"}
#: TIFF's tags: bits a sample, and which end of the range is black (0: the upper one).
BITS, PHOTOMETRIC = 258, 262


@dataclass(frozen=True)
class Fit:
    """What images are stored as: `channels` of `side`×`side` pixels.

    `only` is the shorter and the longer side that every image must have, None where they are resized.
    """

    channels: int
    side: int
    only: tuple[int, int] | None = None


def sides(path: str) -> tuple[int, int]:
    """The shorter and the longer side of an image, from the head of its file; raises as `decode`."""
    return _examined(path, lambda image: _sides(image))


def decode(path: str, fit: Fit) -> numpy.ndarray:
    """The image C×S×S uint8: turned upright, shorter side resized, centre cut out.

    The first picture of an animation or a file of several pages; transparency is dropped. Raises
    `DataCorrupt` where the file cannot be decoded, or holds numbers whose range is not known, and
    `UsageError` where it has not the sides that `fit` asks for or may not be read.
    """
    return _examined(path, lambda image: _fitted(path, image, fit))


def _examined(path: str, use: Callable[[Image.Image], Result]) -> Result:
    """What `use` makes of the opened image at `path`; whatever goes wrong names `path`."""
    from PIL import Image, UnidentifiedImageError

    try:
        with open_regular(path) as file, Image.open(file, formats=FORMATS) as image:
            return use(image)
    except FdfaError:
        raise
    except UnidentifiedImageError as error:
        raise DataCorrupt(f"{shown(path)} cannot be decoded: it is none of {', '.join(FORMATS)}") from error
    except OSError as error:
        if error.errno is not None:  # the system's; Pillow's own have no number
            raise unreadable(path, error) from error
        raise DataCorrupt(f"{shown(path)} cannot be decoded: {error}") from error
    except Exception as error:  # a decoder that reads a stranger's bytes may raise anything
        raise DataCorrupt(f"{shown(path)} cannot be decoded: {error or type(error).__name__}") from error


def _sides(image: Image.Image) -> tuple[int, int]:
    return min(image.size), max(image.size)


def _fitted(path: str, image: Image.Image, fit: Fit) -> numpy.ndarray:
    """The opened `image` as `decode` gives it."""
    from PIL import Image, ImageOps

    if fit.only is not None and _sides(image) != fit.only:
        raise UsageError(
            f"data.size: the images have no size in common: {shown(path)} has {image.width}×{image.height} "
            f"pixels, the first one {fit.only[0]}×{fit.only[1]}; say at how many pixels a side to store them"
        )
    image.load()
    _turn_upright(image)
    picture = _eight_bits(path, image).convert("RGB" if fit.channels == 3 else "L")
    picture = ImageOps.fit(picture, (fit.side, fit.side), Image.Resampling.BILINEAR)
    return numpy.asarray(picture).reshape(fit.side, fit.side, fit.channels).transpose(2, 0, 1)


def _turn_upright(image: Image.Image) -> None:
    """Turn `image` as its EXIF data says, in place."""
    from PIL import ImageOps

    # Damaged EXIF data says nothing about the orientation: the image then stays as it is stored.
    with suppress(OSError, SyntaxError, ValueError, TypeError, LookupError, AttributeError, struct.error):
        ImageOps.exif_transpose(image, in_place=True)


def _eight_bits(path: str, image: Image.Image) -> Image.Image:
    """`image` in a mode of at most 8 bits a channel, by its format's range."""
    from PIL import Image

    if image.mode in EIGHT_BITS:
        # Without the detour over RGBA, Pillow warns of the transparency that is lost here on purpose.
        return image.convert("RGBA") if "transparency" in image.info else image
    white = _white(image)
    values = numpy.asarray(image).astype(numpy.int64)
    if white is None or values.min() < 0 or values.max() > white:
        kind = "floating-point numbers" if image.mode == "F" else "integers"
        raise DataCorrupt(
            f"{shown(path)} holds {kind} (mode {image.mode!r} of a {image.format} file) of which it is not "
            "known what is black and what is white; store it with 8 or 16 bits a channel"
        )
    if getattr(image, "tag_v2", {}).get(PHOTOMETRIC) == 0:
        values = white - values
    return Image.fromarray(((values * 255 + white // 2) // white).astype(numpy.uint8))


def _white(image: Image.Image) -> int | None:
    """The greatest value that the format of an image of integers allows, None where that is not known."""
    if image.mode == "F":
        return None
    if image.format != "TIFF":
        return 2**16 - 1  # Pillow widens fewer bits to these
    if not image.mode.startswith("I;16"):
        return None
    bits = getattr(image, "tag_v2", {}).get(BITS, 16)
    return int(2 ** (bits[0] if isinstance(bits, tuple) else bits) - 1)
