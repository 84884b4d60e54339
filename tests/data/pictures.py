"""Image files that no library here writes, byte by byte."""

import struct
import zlib

import numpy as np


def tiff(pages: list[np.ndarray], tags: dict[int, tuple[int, ...]] | None = None) -> bytes:
    """A TIFF of pages (H, W, C), nothing packed; of 4 uint8 bands the last is tagged as alpha, as
    GDAL does. `tags` are further ones.
    """
    out, after = bytearray(b"II*\0" + bytes(4)), 4
    for page in pages:
        height, width, bands = page.shape
        kind = {"u": 1, "i": 2, "f": 3}[page.dtype.kind]
        entries = {
            256: (width,),
            257: (height,),
            258: (page.dtype.itemsize * 8,) * bands,
            259: (1,),
            262: (2 if bands > 2 else 1,),
            273: (len(out),),
            277: (bands,),
            278: (height,),
            279: (page.nbytes,),
            339: (kind,) * bands,
        }
        if bands > 3:
            entries[338] = (2,) + (0,) * (bands - 4)
        out += page.astype(page.dtype.newbyteorder("<")).tobytes()
        entries |= tags or {}
        places = {}
        for tag, values in entries.items():
            places[tag] = len(out)
            if len(values) > 1:
                out += struct.pack(f"<{len(values)}I", *values)
        out[after : after + 4] = struct.pack("<I", len(out))
        out += struct.pack("<H", len(entries))
        for tag, values in sorted(entries.items()):
            place = places[tag] if len(values) > 1 else values[0]
            out += struct.pack("<HHII", tag, 4, len(values), place)
        after = len(out)
        out += bytes(4)
    return bytes(out)


def png(width: int, height: int, bits: int, kind: int, row: bytes) -> bytes:
    """A PNG whose rows are all `row`."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    packer = zlib.compressobj(1)
    body = b"".join([*(packer.compress(b"\0" + row) for _ in range(height)), packer.flush()])
    head = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
