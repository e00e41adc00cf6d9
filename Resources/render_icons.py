"""Draws the extension's icons, so that none is drawn by hand. Run: `python Resources/render_icons.py`.

Shapes are signed distances (negative inside) on a 0..1 square, blended with one pixel of antialiasing.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
TARGETS = {
    ROOT / "Resources" / "DBSAM.png": 128,
    ROOT / "DBSAMSegment" / "Resources" / "Icons" / "DBSAMSegment.png": 128,
    ROOT / "DBSAMSegment" / "Resources" / "Icons" / "SegmentEditorDBSAM.png": 64,
}
BACKGROUND, TISSUE, ORGAN, OUTLINE, BOX = (
    (0.11, 0.14, 0.19),
    (0.27, 0.31, 0.37),
    (0.36, 0.66, 0.53),
    (0.72, 0.93, 0.82),
    (1.00, 0.80, 0.22),
)


def rounded_box(x: np.ndarray, y: np.ndarray, half: float, radius: float) -> np.ndarray:
    """Distance to a square around the middle with round corners."""
    dx, dy = np.abs(x - 0.5) - half + radius, np.abs(y - 0.5) - half + radius
    outside = np.hypot(np.maximum(dx, 0), np.maximum(dy, 0))
    return outside + np.minimum(np.maximum(dx, dy), 0) - radius


def organ(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Distance to a bean: two discs with a smooth union, as a kidney looks on a slice."""
    first, second = np.hypot(x - 0.45, y - 0.43) - 0.145, np.hypot(x - 0.545, y - 0.585) - 0.13
    blend = np.clip(0.5 + 0.5 * (second - first) / 0.12, 0, 1)
    return second * (1 - blend) + first * blend - 0.12 * blend * (1 - blend)


def draw(size: int) -> np.ndarray:
    """(size, size, 4) uint8 icon."""
    y, x = (np.indices((size, size)) + 0.5) / size
    pixel = 1.0 / size
    color = np.zeros((size, size, 3))
    alpha = np.zeros((size, size))

    def paint(distance: np.ndarray, rgb: tuple[float, float, float]) -> None:
        cover = np.clip(0.5 - distance / pixel, 0, 1)
        color[:] = color * (1 - cover[..., None]) + np.array(rgb) * cover[..., None]
        alpha[:] = np.maximum(alpha, cover)

    paint(rounded_box(x, y, 0.48, 0.12), BACKGROUND)
    paint(np.hypot((x - 0.5) / 1.05, (y - 0.5) / 0.95) - 0.39, TISSUE)
    paint(organ(x, y), ORGAN)
    width = max(0.016, 0.8 * pixel)
    paint(np.abs(organ(x, y)) - width, OUTLINE)
    left, top, right, bottom = 0.255, 0.235, 0.725, 0.765
    width = max(0.014, 0.7 * pixel)
    edges = np.maximum(np.maximum(left - x, x - right), np.maximum(top - y, y - bottom))
    paint(np.abs(edges) - width, BOX)
    for corner_x in (left, right):
        for corner_y in (top, bottom):
            paint(np.hypot(x - corner_x, y - corner_y) - 0.05, BOX)
    return np.rint(np.dstack([color, alpha]) * 255).astype(np.uint8)


def write_png(path: Path, rgba: np.ndarray) -> None:
    """Writes an 8-bit RGBA PNG."""
    height, width = rgba.shape[:2]
    rows = b"".join(b"\x00" + row.tobytes() for row in rgba)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")
    )


if __name__ == "__main__":
    for target, size in TARGETS.items():
        write_png(target, draw(size))
        print(target.relative_to(ROOT))
