"""Image formats: the few that are read, and the names of others, by a file's first bytes."""

from __future__ import annotations

import codecs
import re
from pathlib import Path
from typing import IO

from PIL import Image, ImageFile, UnidentifiedImageError

# Pillow's other readers never run: EPS's starts Ghostscript on the file. JPEG's opens MPO, too,
# the JPEG with previews of cameras and phones
FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "PPM", "GIF")
START = 512  # bytes that tell formats apart
OTHERS = {
    rb"[\s\x04]*%!PS|\xc5\xd0\xd3\xc6": "PostScript (EPS)",
    rb"%PDF": "PDF",
    rb"8BPS": "Photoshop's PSD",
    rb"gimp xcf": "GIMP's XCF",
    rb"\0\0[\x01\x02]\0": "an icon (ICO)",
    rb"icns": "an icon (ICNS)",
    rb"....ftypavi[fs]": "AVIF",
    rb"....ftyp(?:hei|hev|mif1|msf1)": "HEIC",
    rb"....ftyp": "a video (MP4)",
    rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51": "JPEG 2000",
    rb"\0\0\0\x0cJXL |\xff\x0a": "JPEG XL",
    rb"SIMPLE  =": "FITS",
    rb".{128}DICM": "DICOM",
    rb"v/1\x01": "OpenEXR",
    rb"#\?R": "Radiance HDR",
    rb"DDS ": "DDS",
    rb"qoif": "QOI",
    rb"\x8aMNG": "MNG",
    rb"\xd7\xcd\xc6\x9a|\x01\0\0\0.{36} EMF": "a Windows metafile",
    rb"\x93NUMPY": "a NumPy array: name it .npy",
    rb"\x89HDF": "HDF5",
    rb"PK\x03\x04": "a ZIP archive",
    rb"\x1f\x8b": "compressed by gzip",
    rb"version https://git-lfs": "a pointer of Git LFS: fetch the file with git lfs pull",
    rb"(?is).*<svg[\s>]": "SVG",
    rb"(?is)\s*<(?:!doctype html|html)": "HTML: a web page, of a failed download, say",
    rb"(?is)\s*<\?xml": "XML",
    rb"\s*[{[]": "JSON",
    rb"\0{64}": "zeros",
    rb"[\t\n\r\x20-\x7e]+\Z": "text",
    rb"\Z": "empty",
}


def open_known(source: Path | IO[bytes]) -> ImageFile.ImageFile:
    """Open an image of FORMATS undecoded; no other reader sees it.

    Raise UnidentifiedImageError for any other content, which its text names where that is known.
    """
    try:
        return Image.open(source, formats=FORMATS)
    except UnidentifiedImageError as error:
        if isinstance(source, Path):
            start = read_beginning(source)
        else:
            source.seek(0)
            start = source.read(START)
        raise UnidentifiedImageError(name_content(start)) from error


def read_beginning(path: Path) -> bytes:
    """Return the first START bytes of a file."""
    with open(path, "rb") as file:
        return file.read(START)


def name_content(start: bytes) -> str:
    """Return the name of a format that is none of FORMATS by a file's first bytes, '' if unknown.

    An image of FORMATS that can't be opened is damaged, and has none.
    """
    start = start.removeprefix(codecs.BOM_UTF8)
    found = (name for pattern, name in OTHERS.items() if re.match(pattern, start, re.DOTALL))
    return next(found, "")
