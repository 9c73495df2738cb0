"""Tags of a photograph, which a file tells beside its pixels: date, camera, copyright, place.

They are EXIF, whose directories are those of a TIFF (Adobe, TIFF 6.0, Section 2,
https://www.itu.int/itudoc/itu-t/com16/tiff-fx/docs/tiff6.pdf), XMP, the texts of a PNG, and the
comment and the IPTC of a JPEG (https://iptc.org/std/photometadata/specification), which a JPEG alone
is given. A picture is upright once it is read, and in sRGB: its tags are made to say so, they tell
the size that is written, and the small picture inside goes. All others stay as they are. An XMP that
lists other pictures in the file goes, too, for these are not written.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from PIL import ExifTags, Image, TiffImagePlugin

from invdiff.io.quiet import quiet
from invdiff.summary import one_line

Base = ExifTags.Base
IFD = ExifTags.IFD

# Of a TIFF, what tells of the picture and not of how it is stored.
DESCRIPTIVE = (
    Base.ImageDescription,
    Base.Make,
    Base.Model,
    Base.XResolution,
    Base.YResolution,
    Base.ResolutionUnit,
    Base.Software,
    Base.DateTime,
    Base.Artist,
    Base.HostComputer,
    Base.Rating,
    Base.Copyright,
    Base.XPTitle,
    Base.XPComment,
    Base.XPAuthor,
    Base.XPKeywords,
    Base.XPSubject,
    IFD.Exif,
    IFD.GPSInfo,
)
# Descriptions that say how programs stored pixels, and the name of the one that does it here.
OF_PROGRAMS = ("ImageJ=", "{", "<", "tifffile")
_RESOLUTION = (Base.XResolution, Base.YResolution, Base.ResolutionUnit)
_NO_UNIT = 1  # of a resolution, which then is none
MOST_IN_JPEG = 65_000  # bytes
UPRIGHT = 1  # of the tag Orientation
SRGB = 1  # of the tag ColorSpace
LISTS_OTHERS = b"Container:Directory"  # an XMP of several pictures in one file
PNG_XMP = "XML:com.adobe.xmp"

_PNG = b"\x89PNG\r\n\x1a\n"
_TIFF = (b"II*\0", b"MM\0*")
_EXIF = b"Exif\0\0"
_OF_IPTC = 0x0404  # among the resources of Photoshop
_IPTC = b"Photoshop 3.0\0" + b"8BIM" + struct.pack(">H", _OF_IPTC) + bytes(2)  # without a name
_BY_PILLOW = (b"\xff\xd8\xff", b"RIFF", _PNG)  # JPEG, WebP, PNG
_PNG_TAGS = (b"eXIf", b"tEXt", b"iTXt", b"zTXt")
_SHORT = 3  # types of numbers
_LONG = 4
_ENTRY = 12  # bytes


@dataclass(frozen=True)
class Tags:
    """What a file tells of a photograph.

    Attributes:
        exif: the block of EXIF, which is a TIFF without pixels; empty for none.
        xmp: the packet of XMP.
        texts: of a PNG, each a keyword and what it says.
        comment: of a JPEG.
        iptc: of a JPEG: the records of IPTC, without what Photoshop tells beside them.

    Example:
        >>> Tags(texts=(("Author", "A. N. Other"),)).texts[0][0]
        'Author'
    """

    exif: bytes = b""
    xmp: bytes = b""
    texts: tuple[tuple[str, str], ...] = ()
    comment: bytes = b""
    iptc: bytes = b""

    def __repr__(self) -> str:
        """Return one line."""
        return one_line(self)

    @property
    def app13(self) -> bytes:
        """The segment of IPTC as a JPEG has it, with its marker; empty for none."""
        if not self.iptc:
            return b""
        block = _IPTC + struct.pack(">I", len(self.iptc)) + self.iptc + bytes(len(self.iptc) % 2)
        return b"\xff\xed" + struct.pack(">H", 2 + len(block)) + block

    @property
    def app1(self) -> bytes:
        """The block of EXIF as JPEG and WebP have it; empty for none."""
        return _EXIF + self.exif if self.exif else b""

    def of_size(self, height: int, width: int) -> Tags:
        """Return the tags of a picture of so many pixels."""
        if not self.exif:
            return self
        return replace(self, exif=_told(self.exif, height, width))


def read_tags(data: bytes) -> Tags | None:
    """Return the tags in the bytes of a file; None where there are none, or they cannot be read.

    Example:
        >>> exif = Image.Exif()
        >>> exif[Base.Orientation] = 6
        >>> exif[Base.Copyright] = "A. N. Other"
        >>> file = io.BytesIO()
        >>> Image.new("RGB", (2, 2)).save(file, "JPEG", exif=exif)
        >>> sorted(exif_of(read_tags(file.getvalue()).exif).items())
        [(274, 1), (33432, 'A. N. Other')]
    """
    try:
        with quiet():
            found = _read(data)
    except Exception:  # damaged tags are none
        return None
    return None if found == Tags() else found


def _read(data: bytes) -> Tags:
    if data.startswith(_TIFF):
        exif = exif_of(data)
        block = _block(exif)
        return Tags(_told(block) if block else b"", _of_one_picture(exif.get(Base.XMLPacket)))
    is_png = data.startswith(_PNG)
    if not data.startswith(_BY_PILLOW) or (is_png and not any(tag in data for tag in _PNG_TAGS)):
        return Tags()
    with Image.open(io.BytesIO(data), formats=("JPEG", "WEBP", "PNG")) as image:
        texts = tuple((key, str(value)) for key, value in getattr(image, "text", {}).items())
        block = image.info.get("exif", b"").removeprefix(_EXIF)
        return Tags(
            _told(block) if block else b"",
            _of_one_picture(image.info.get("xmp")),
            tuple(text for text in texts if text[0] != PNG_XMP),
            _bytes(image.info.get("comment")),
            _bytes(image.info.get("photoshop", {}).get(_OF_IPTC)),
        )


def _bytes(value: object) -> bytes:
    return value if isinstance(value, bytes) else b""


def exif_of(block: bytes) -> Image.Exif:
    """Return a block of EXIF, or a TIFF, as Pillow reads it."""
    exif = Image.Exif()
    exif.load(_EXIF + block)
    return exif


def _of_one_picture(xmp: object) -> bytes:
    """A packet of XMP, if it lists no other pictures, without its orientation."""
    packet = xmp.encode() if isinstance(xmp, str) else xmp
    if not isinstance(packet, bytes) or LISTS_OTHERS in packet:
        return b""
    return packet.replace(b"tiff:Orientation", b"tiff:WasTurnedFrom")


class _Entry(NamedTuple):
    """A tag in a directory.

    Attributes:
        tag: its number.
        kind: of number.
        place: of its value in the block, where that has four bytes or less.
        order: of the bytes, as `struct` writes it.
    """

    tag: int
    kind: int
    place: int
    order: str

    def number(self, block: bytes) -> int:
        """Return its value, or where that is."""
        form = "H" if self.kind == _SHORT else "I"
        return int(struct.unpack_from(self.order + form, block, self.place)[0])


def _directory(block: bytes, place: int | None = None) -> Iterator[_Entry]:
    """The entries of a directory of a block, by default the first."""
    order = "<" if block.startswith(b"II") else ">"
    if place is None:
        (place,) = struct.unpack_from(order + "I", block, 4)
    (count,) = struct.unpack_from(order + "H", block, place)
    for i in range(count):
        start = place + 2 + _ENTRY * i
        tag, kind = struct.unpack_from(order + "HH", block, start)
        yield _Entry(tag, kind, start + 8, order)


def _told(block: bytes, height: int | None = None, width: int | None = None) -> bytes:
    """A block that tells of an upright picture in sRGB, of its size, without a small picture."""
    first = list(_directory(block))
    details = [
        entry
        for found in first
        if found.tag == IFD.Exif
        for entry in _directory(block, found.number(block))
    ]
    told = {
        Base.Orientation: UPRIGHT,
        Base.ColorSpace: SRGB,
        Base.ExifImageWidth: width,
        Base.ExifImageHeight: height,
    }
    changed = bytearray(block)
    for entry in [*first, *details]:
        value = told.get(Base(entry.tag)) if entry.tag in told else None
        if value is not None and entry.kind in (_SHORT, _LONG):
            fits = value < 2**16 or entry.kind == _LONG
            form = "H" if entry.kind == _SHORT else "I"
            struct.pack_into(entry.order + form, changed, entry.place, value if fits else 0)
    if first:  # the second directory has the small picture
        struct.pack_into("4x", changed, first[-1].place + 4)
    return bytes(changed)


def _block(exif: Image.Exif) -> bytes:
    """A block of what a TIFF tells of its picture, empty where that is nothing."""
    header = b"II*\0" + struct.pack("<I", 8)
    found = _descriptive(exif, header)
    return header + found.tobytes(8) if len(found) else b""


def _descriptive(exif: Image.Exif, header: bytes) -> TiffImagePlugin.ImageFileDirectory_v2:
    """A directory of what tells of the picture."""
    found = TiffImagePlugin.ImageFileDirectory_v2(header)
    has_no_unit = exif.get(Base.ResolutionUnit) == _NO_UNIT
    for tag in DESCRIPTIVE:
        value: Any = dict(exif.get_ifd(tag)) if isinstance(tag, IFD) else exif.get(tag)
        of_program = isinstance(value, str) and value.startswith(OF_PROGRAMS)
        if not value or of_program or (tag in _RESOLUTION and has_no_unit):
            continue
        if isinstance(value, Mapping):
            found[tag] = {key: _encoded(of) for key, of in value.items()}
        else:
            found[tag] = _encoded(value)
    return found


def _encoded(value: Any) -> Any:
    """A value that Pillow writes as it read it: it reads texts as Latin 1, and writes ASCII."""
    if isinstance(value, str) and not value.isascii():
        return value.encode("latin-1", "replace")
    return value


def fitting_jpeg(tags: Tags) -> Tags:
    """Return the tags that a JPEG file holds, which has at most 64 KB of each kind."""
    return Tags(
        tags.exif if len(tags.exif) < MOST_IN_JPEG else b"",
        tags.xmp if len(tags.xmp) < MOST_IN_JPEG else b"",
        comment=tags.comment if len(tags.comment) < MOST_IN_JPEG else b"",
        iptc=tags.iptc if len(tags.iptc) < MOST_IN_JPEG else b"",
    )


def in_png(png: bytes, tags: Tags) -> bytes:
    """Return a PNG with tags.

    Example:
        >>> file = io.BytesIO()
        >>> Image.new("L", (2, 2)).save(file, "PNG")
        >>> read_tags(in_png(file.getvalue(), Tags(texts=(("Author", "A. N. Other"),)))).texts
        (('Author', 'A. N. Other'),)
    """
    if tags.exif:
        png = with_chunk(png, b"eXIf" + tags.exif)
    texts = (*tags.texts, (PNG_XMP, tags.xmp.decode(errors="replace"))) if tags.xmp else tags.texts
    for keyword, text in texts:
        # Not compressed, in no language: https://www.w3.org/TR/png-3/#11iTXt
        name = keyword.encode("latin-1", "replace")
        png = with_chunk(png, b"iTXt" + name + bytes(5) + text.encode())
    return png


def with_chunk(png: bytes, content: bytes) -> bytes:
    """Return a PNG with a chunk behind its header.

    Args:
        png: the file.
        content: the chunk's type, of four letters, and its data.
    """
    header = 8 + 25  # signature and IHDR
    length = len(content) - 4
    chunk = length.to_bytes(4, "big") + content + zlib.crc32(content).to_bytes(4, "big")
    return png[:header] + chunk + png[header:]


def into_tiff(path: Path, tags: Tags) -> None:
    """Write tags into a TIFF file: a new first directory at its end, with what the old one has.

    A BigTIFF is left as it is.
    """
    tiff = path.read_bytes()
    if not tiff.startswith(_TIFF):
        return
    order = "<" if tiff.startswith(b"II") else ">"
    added = _descriptive(exif_of(tags.exif), tiff[:8]) if tags.exif else None
    if added is None:
        added = TiffImagePlugin.ImageFileDirectory_v2(tiff[:8])
    if tags.xmp:
        added[Base.XMLPacket] = tags.xmp
    if not len(added):
        return
    tiff += bytes(len(tiff) % 2)
    place = len(tiff)
    tiff += added.tobytes(place)
    old = list(_directory(tiff))
    pages = tiff[old[-1].place + 4 : old[-1].place + 8]
    entries = {entry.tag: tiff[entry.place - 8 : entry.place + 4] for entry in old}
    new = {entry.tag: tiff[entry.place - 8 : entry.place + 4] for entry in _directory(tiff, place)}
    if any(pages):  # what describes the stack stays
        new.pop(Base.ImageDescription, None)
    entries |= new
    tiff += bytes(len(tiff) % 2)
    first = struct.pack(order + "I", len(tiff))
    listed = b"".join(entries[tag] for tag in sorted(entries))
    tiff += struct.pack(order + "H", len(entries)) + listed + pages
    path.write_bytes(tiff[:4] + first + tiff[8:])
