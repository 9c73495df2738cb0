"""Reading and writing images: every picture is a float32 tensor (C, H, W) in [0, 1].

PNG, JPEG, WebP and the like are decoded by Pillow, TIFF by tifffile, .npy and .npz by NumPy; the first
bytes of a file decide, not its name. 8-bit values are divided by 255 and 16-bit values by 65535. Floats are
taken as they are: [0, 1] is expected, and nothing is rescaled or clipped, for a measurement may leave it.
An alpha channel is dropped without compositing where the file format says that it is one.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import warnings
import zipfile
from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps
from torch import Tensor

from invdiff.errors import InputError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".npy")
_EXPECTED = "PNG, JPEG, WebP, TIFF, .npy or .npz"
# Named one by one: among the formats that Pillow knows, some start other programs (EPS: Ghostscript).
_PILLOW_FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM")
_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_MAX_CHANNELS = 4
_ITU_R_601 = (0.299, 0.587, 0.114)
_BITS = {".png": (8, 16), ".tif": (32, 16, 8), ".tiff": (32, 16, 8), ".npy": (32,)}


def read_image(path: str | Path) -> Tensor:
    """One image, (C, H, W) float32: C = 1 for gray, 3 for colour; 8- and 16-bit values mapped to [0, 1].

    Palettes and CMYK become RGB, an EXIF (or TIFF) orientation is applied, alpha is dropped. A .npy holds
    uint8, uint16, bool or floats as (H, W), (H, W, C) or (C, H, W), C at most 4; all its channels are kept.

    Raises InputError for a file that is missing, empty, truncated, not an image, too large for Pillow's guard
    against decompression bombs, that holds NaN or infinity, or that holds more than one image.
    """
    stack = _read_stack(Path(path))
    if len(stack) != 1:
        raise InputError(f"{path}: found {len(stack)} images of {_size(stack)}, expected one image")
    return stack[0]


def read_images(path: str | Path) -> tuple[Tensor, list[str]]:
    """Images of one size, (B, C, H, W) float32 as in `read_image`, and a name for each.

    path: a folder (its image files in natural order, img2 before img10; subfolders are not entered), an
    image, a TIFF of several pages, a .npy of (B, H, W, C) or (B, C, H, W), or of (B, H, W) where neither B
    nor W is 4 or less, or an .npz whose array `images` (or only array) is (B, H, W) or (B, H, W, C).
    A name is the file's without its suffix (with it, where that is needed to tell two files apart); images
    of a stack are numbered. A file in a folder that cannot be read is skipped with a warning that names it;
    where gray and colour images lie together, all become RGB.

    Raises InputError where `read_image` does, for a folder without images, and for images of different sizes.
    """
    path = Path(path)
    if path.is_dir():
        return _read_folder(path)
    stack = _read_stack(path)
    if len(stack) == 1:
        return stack, [path.stem]
    digits = len(str(len(stack) - 1))
    return stack, [f"{path.stem}_{index:0{digits}d}" for index in range(len(stack))]


def to_channels(x: Tensor, channels: int) -> Tensor:
    """x (..., C, H, W) as (..., channels, H, W): RGB to gray by ITU-R BT.601 luma, gray to RGB by repetition.

    Raises InputError for any other pair of channel counts.
    """
    found = x.shape[-3]
    if found == channels:
        return x
    if (found, channels) == (3, 1):
        weights = torch.tensor(_ITU_R_601, dtype=x.dtype, device=x.device).view(3, 1, 1)
        return (x * weights).sum(-3, keepdim=True)
    if (found, channels) == (1, 3):
        return x.repeat_interleave(3, dim=-3)
    raise InputError(f"image: found {found} channels to turn into {channels}, expected 1 (gray) or 3 (RGB)")


def write_image(path: str | Path, x: Tensor, *, bits: int | None = None) -> None:
    """Write x (C, H, W), or (H, W), by the suffix of path; the file appears whole or not at all.

    bits: 8 or 16 for .png (8 by default), 32, 16 or 8 for .tif (32, floats, by default), 32 for .npy (floats,
    (H, W) or (H, W, C)). Integers are clamped to [0, 1] and rounded; floats are written as they are.

    Raises InputError for a suffix, a depth or a shape that cannot be written, for NaN or infinity where
    integers are written, and for a folder that is missing or cannot be written to.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in _BITS:
        raise InputError(f"{path}: cannot write '{suffix}', expected one of {', '.join(_BITS)}")
    bits = bits or _BITS[suffix][0]
    if bits not in _BITS[suffix]:
        raise InputError(f"{path}: found bits={bits}, expected one of {_BITS[suffix]} for {suffix}")
    array = _quantize(path, x, bits)
    if suffix == ".png" and array.ndim == 3 and array.shape[2] != 3:
        raise InputError(f"{path}: found {array.shape[2]} channels, expected 1 or 3 for PNG")
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{suffix}")
    try:
        temporary.touch()  # fails as OSError, which not every encoder does
        _encode(temporary, array)
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or _first_line(error)})") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def grid(x: Tensor, columns: int, *, border: int = 2) -> Tensor:
    """x (B, C, H, W), row by row, as one picture (C, H', W') with `border` white pixels around each."""
    batch, channels, height, width = x.shape
    rows = -(-batch // columns)
    cells = x.new_ones(rows * columns, channels, height + border, width + border)
    cells[:batch, :, :height, :width] = x
    cells = cells.unflatten(0, (rows, columns)).permute(2, 0, 3, 1, 4)
    cells = cells.reshape(channels, rows * (height + border), columns * (width + border))
    return torch.nn.functional.pad(cells, (border, 0, border, 0), value=1.0)


def _read_folder(folder: Path) -> tuple[Tensor, list[str]]:
    paths: list[Path] = []
    images: list[Tensor] = []
    for path in sorted(folder.iterdir(), key=_natural_order):
        if path.suffix.lower() not in SUFFIXES or path.name.startswith("."):
            continue
        try:
            image = read_image(path)
        except InputError as error:
            warnings.warn(f"skipped {error}", stacklevel=3)
            continue
        if images and image.shape[1:] != images[0].shape[1:]:
            expected = f"{_size(images[0])} as in {paths[0].name}"
            raise InputError(f"{path}: found {_size(image)}, expected {expected}")
        paths.append(path)
        images.append(image)
    if not images:
        raise InputError(f"{folder}: no readable image found, expected files ending in {', '.join(SUFFIXES)}")
    if len({len(image) for image in images}) > 1:
        images = [to_channels(image, 3) for image in images]
    names = [path.stem for path in paths]
    return torch.stack(images), names if len(set(names)) == len(names) else [path.name for path in paths]


def _natural_order(path: Path) -> list[tuple[int, str]]:
    """Digits compare as numbers; the name itself comes last, so that img1 and img01 keep a fixed order."""
    parts = re.findall(r"[0-9]+|[^0-9]+", path.name.lower())
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts] + [(-1, path.name)]


def _read_stack(path: Path) -> Tensor:
    """All images of one file, (N, C, H, W)."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}, expected an image file ({_EXPECTED})") from error
    if not data:
        raise InputError(f"{path}: found an empty file (0 bytes), expected {_EXPECTED}")
    try:
        return _to_tensor(_decode(data))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except Exception as error:  # decoders meet damage with struct.error, SyntaxError, KeyError, ...
        raise InputError(f"{path}: cannot be read ({_first_line(error)}), expected {_EXPECTED}") from error


def _decode(data: bytes) -> np.ndarray:
    """Values as stored, (N, H, W, C)."""
    if data.startswith(_TIFF_MAGIC):
        return _decode_tiff(data)
    if data.startswith(b"\x93NUMPY"):
        return _channels_last(np.load(io.BytesIO(data), allow_pickle=False))
    if data.startswith(b"PK"):
        return _decode_npz(data)
    return _decode_pillow(data)[None]


def _decode_pillow(data: bytes) -> np.ndarray:
    """(H, W, C)."""
    try:
        with Image.open(io.BytesIO(data), formats=_PILLOW_FORMATS) as opened:
            orientation = opened.getexif().get(ExifTags.Base.Orientation, 1)
            image = ImageOps.exif_transpose(opened)
    except Image.UnidentifiedImageError:
        raise InputError(f"not an image in a known format, expected {_EXPECTED}") from None
    if data.startswith(b"\x89PNG") and data[24] == 16 and image.mode not in ("I;16", "I"):
        return _orient(_decode_png16_colour(data)[None], orientation)[0]
    if image.mode.startswith("I"):
        array = np.asarray(image)
        if array.min() < 0 or array.max() > 65535:
            raise InputError("found 32-bit integers, expected 8 or 16 bits, or floats")
        return array.astype(np.uint16)[..., None]
    if image.mode in ("L", "F"):
        return np.asarray(image)[..., None]
    if image.mode in ("1", "LA"):
        return np.asarray(image.convert("L"))[..., None]
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")  # straight to RGB, Pillow warns about a transparent palette
    return np.asarray(image.convert("RGB"))


def _decode_png16_colour(data: bytes) -> np.ndarray:
    """(H, W, 3): Pillow keeps the upper 8 bits only. It has decoded the file already, which is thus whole."""
    from kornia_rs import io as kornia_io

    mode = {2: "rgb", 6: "rgba"}.get(data[25])
    if mode is None:
        raise InputError("found a 16-bit gray PNG with alpha, expected one without alpha")
    width, height = (int.from_bytes(data[start : start + 4], "big") for start in (16, 20))
    return np.asarray(kornia_io.decode_image_png_u16(data, (height, width), mode))[..., :3]


def _decode_tiff(data: bytes) -> np.ndarray:
    """The first series of pages, (N, H, W, C)."""
    import tifffile

    with tifffile.TiffFile(io.BytesIO(data)) as tiff:
        series, page = tiff.series[0], tiff.series[0].keyframe
        if page.photometric not in (tifffile.PHOTOMETRIC.MINISBLACK, tifffile.PHOTOMETRIC.RGB):
            return _decode_pillow(data)[None]
        try:
            array = series.asarray()
        except ValueError as error:
            if "imagecodecs" not in str(error):
                raise
            return _decode_pillow(data)[None]  # libtiff knows LZW and JPEG; tifffile wants a package for them
        axes, alpha = series.axes, any(extra in (1, 2) for extra in page.extrasamples)
        orientation = page.tags.valueof("Orientation", 1)
    channel = next((axes.index(name) for name in "SC" if name in axes), None)
    array = array[..., None] if channel is None else np.moveaxis(array, channel, -1)
    array = array[..., :-1] if alpha and array.shape[-1] > 1 else array
    return _orient(array.reshape(-1, *array.shape[-3:]), orientation)


def _orient(array: np.ndarray, orientation: int) -> np.ndarray:
    """(N, H, W, C) turned as TIFF 6.0's tag Orientation (1 to 8) says."""
    if orientation in (5, 6, 7, 8):
        array = array.swapaxes(1, 2)
    if orientation in (2, 3, 6, 7):
        array = array[:, :, ::-1]
    if orientation in (3, 4, 7, 8):
        array = array[:, ::-1]
    return array


def _decode_npz(data: bytes) -> np.ndarray:
    """(N, H, W, C)."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            name = "images" if "images" in arrays else arrays.files[0] if len(arrays.files) == 1 else None
            if name is None:
                found = ", ".join(arrays.files) or "none"
                raise InputError(f"found arrays {found}, expected one named images")
            array = arrays[name]
    except zipfile.BadZipFile as error:
        raise InputError(f"damaged .npz ({error}), expected an archive with an array named images") from error
    return array[..., None] if array.ndim == 3 else _channels_last(array)


def _channels_last(array: np.ndarray) -> np.ndarray:
    """An image or a stack, with or without channels first or last, as (N, H, W, C)."""
    if array.ndim == 2:
        return array[None, ..., None]
    if array.ndim in (3, 4) and array.shape[-1] <= _MAX_CHANNELS:
        return array.reshape(-1, *array.shape[-3:])
    if array.ndim in (3, 4) and array.shape[-3] <= _MAX_CHANNELS:
        return np.moveaxis(array, -3, -1).reshape(-1, *array.shape[-2:], array.shape[-3])
    if array.ndim == 3:
        return array[..., None]
    raise InputError(f"found an array of shape {array.shape}, expected (H, W), (H, W, C), (C, H, W), a stack")


def _to_tensor(array: np.ndarray) -> Tensor:
    """(N, H, W, C) as stored -> (N, C, H, W) float32."""
    if array.size == 0:
        raise InputError(f"found an array of shape {array.shape}, expected at least one pixel")
    if array.dtype.kind != "f" and array.dtype.name not in ("bool", "uint8", "uint16"):
        raise InputError(f"found values of type {array.dtype}, expected uint8, uint16, bool or floats")
    values = np.ascontiguousarray(array.transpose(0, 3, 1, 2), dtype=np.float32)
    if not np.isfinite(values).all():
        raise InputError("found NaN or infinite values, expected finite ones")
    scale = {"uint8": 255.0, "uint16": 65535.0}.get(array.dtype.name, 1.0)
    return torch.from_numpy(values) / scale


def _quantize(path: Path, x: Tensor, bits: int) -> np.ndarray:
    """x as (H, W) or (H, W, C): uint8, uint16 or, for 32 bits, float32."""
    if x.ndim == 2:
        x = x[None]
    if x.ndim != 3 or not 1 <= x.shape[0] <= _MAX_CHANNELS or x.numel() == 0:
        raise InputError(f"{path}: found shape {tuple(x.shape)}, expected (C, H, W) with C from 1 to 4")
    values = x.detach().to("cpu", torch.float32).permute(1, 2, 0).contiguous().numpy()
    values = values[..., 0] if values.shape[2] == 1 else values
    if bits == 32:
        return values
    if not np.isfinite(values).all():
        raise InputError(f"{path}: found NaN or infinite values, expected finite ones for {bits} bits")
    levels = np.rint(np.clip(values.astype(np.float64), 0, 1) * (2**bits - 1))
    return levels.astype(np.uint8 if bits == 8 else np.uint16)


def _encode(path: Path, array: np.ndarray) -> None:
    if path.suffix == ".npy":
        np.save(path, array)
    elif path.suffix in (".tif", ".tiff"):
        import tifffile

        photometric = "rgb" if array.shape[2:] == (3,) else "minisblack"
        tifffile.imwrite(
            path, array, photometric=photometric, planarconfig="contig" if array.ndim == 3 else None
        )
    elif array.dtype == np.uint16 and array.ndim == 3:
        from kornia_rs import io as kornia_io  # Pillow has no 16-bit RGB

        kornia_io.write_image_png_u16(str(path), array, "rgb")
    else:
        Image.fromarray(array).save(path)


def _size(image: Tensor) -> str:
    return f"{image.shape[-2]}x{image.shape[-1]} (height x width)"


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0].strip() or type(error).__name__
