"""Synthetic floor-plan layouts that look like the real ones: flats of several rooms, and their single rooms.

A scene is a plan in metres: points along walls and over furniture.  A layout stamps the points of the whole plan, or
of one room and what stands just around it, as squares of a fixed pixel size.  Hence a wall is always one stamp thick,
its two faces part as the scale grows, and furniture with few points gets holes, as in the real renderings.
"""

import csv
import dataclasses
import os
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, UInt8
from numpy.random import Generator
from PIL import Image

from imginav_jax.datasets.palette import CLASS_NAMES, COLORS
from imginav_jax.system import signals
from imginav_jax.system.process import workers

Points = Float[np.ndarray, "points 2"]  # metres; or wall coordinates: along a wall from its middle, into the room
Rect = tuple[float, float, float, float]  # x0, y0, x1, y1 in metres, y upwards
Piece = tuple[str, Points]  # class name and points
Pixels = UInt8[np.ndarray, "size size 3"]

VERSION = 1  # to be raised when the same seed draws other layouts
REFERENCE_SIZE = 512  # the image size that pixel measures and scales are given at
FURNITURE_STAMP = 5.0  # pixels
SPACING = 0.035  # metres between neighbouring points: less than a stamp at every scale, so that surfaces are closed
BACKGROUND, WALL, OTHERS = (CLASS_NAMES.index(name) for name in ("background", "wall", "others"))
PAINT_ORDER = "wall others cabinet_shelf_desk chair bed sofa table pier_stool lighting".split()  # noqa: SIM905
FEW_SCENES = 8  # fewer are written sooner than worker processes start


@dataclasses.dataclass(frozen=True)
class SyntheticLayout:
    """One layout: `type` is 'scene' (its room_id '0000') or 'room'; every pixel of `image` is a palette colour."""

    scene_id: str
    type: str
    room_id: str
    image: Pixels


def _box(u0: float, v0: float, u1: float, v1: float) -> Points:
    """A filled rectangle; a line where two sides coincide."""
    us, vs = (np.linspace(a, b, int(np.ceil(abs(b - a) / SPACING)) + 1) for a, b in ((u0, u1), (v0, v1)))
    return np.stack(np.meshgrid(us, vs), -1).reshape(-1, 2)


def _disc(u: float, v: float, radius: float) -> Points:
    square = _box(-radius, -radius, radius, radius)
    return square[np.hypot(*square.T) < 0.97 * radius] + (u, v)  # without the tips on the axes


def _thin_out(rng: Generator, points: Points) -> Points:
    """Mostly the points as they are; else a poorly sampled object: few, scattered points that leave holes."""
    if rng.random() < 0.78:
        return points
    kept = points[rng.random(len(points)) < rng.uniform(0.2, 0.6)]
    return kept + rng.uniform(-0.03, 0.03, kept.shape)


def _inside(points: Points, rect: Rect | Float[np.ndarray, "4"], margin: float) -> Bool[np.ndarray, " points"]:
    return np.all((points >= np.array(rect[:2]) - margin) & (points <= np.array(rect[2:]) + margin), axis=-1)


# --- Furniture: groups of pieces in wall coordinates, for a room of that depth ----------------------------------------
def _maybe(rng: Generator, chance: float, name: str, points: Points) -> list[Piece]:
    return [(name, points)] if rng.random() < chance else []


def _storage(rng: Generator, depth: float) -> list[Piece]:
    """A cabinet against the wall or slightly in it, solid or hollow, at times with a plant beside it."""
    half, thickness, gap = rng.uniform(0.3, 1.1), rng.uniform(0.25, 0.55), rng.uniform(-0.12, 0.1)
    cabinet = _box(-half, gap, half, gap + thickness)
    if rng.random() < 0.2:
        cabinet = cabinet[~_inside(cabinet, (-half, gap, half, gap + thickness), -SPACING / 2)]
    plant = _disc(half + rng.uniform(0.25, 0.5), gap + 0.3, rng.uniform(0.12, 0.25))
    return [("cabinet_shelf_desk", cabinet), *_maybe(rng, 0.25, "others", plant)]


def _bed(rng: Generator, depth: float) -> list[Piece]:
    """A bed with a hanging, wavy blanket, at times night stands, their lamps and a bench at the foot."""
    half, length, stand, hang = rng.uniform((0.5, 1.85, 0.35, 0.02), (0.95, 2.15, 0.55, 0.1))
    blanket = _box(-half - hang, rng.uniform(0.4, 0.7) * length, half + hang, rng.uniform(0.85, 1.03) * length)
    blanket[:, 0] += np.sign(blanket[:, 0]) * rng.uniform(0, 0.05, len(blanket))
    pieces = [("bed", np.concatenate([_box(-half, 0.05, half, length), blanket]))]
    for u in (-half - 0.05 - stand / 2, half + 0.05 + stand / 2):
        pieces += _maybe(rng, 0.7, "cabinet_shelf_desk", _box(u - stand / 2, 0.05, u + stand / 2, 0.05 + stand))
        pieces += _maybe(rng, 0.3, "lighting", _disc(u, 0.3, rng.uniform(0.12, 0.16)))
    return pieces + _maybe(rng, 0.3, "pier_stool", _box(-0.6 * half, length + 0.12, 0.6 * half, length + 0.5))


def _sofa(rng: Generator, depth: float) -> list[Piece]:
    """A straight or L-shaped sofa with a coffee table, at times an arm-chair and a stool."""
    half, seat, reach = rng.uniform(0.8, 1.4), rng.uniform(0.75, 0.95), rng.uniform(0.3, 0.6)
    parts = [_box(side * half, 0, side * (half - 0.2), seat + 0.08) for side in (-1, 1)]
    parts.append(_box(half - 0.8, 0, half, seat + max(0, rng.uniform(-1.2, 0.8))))
    start, end = seat + 0.35, seat + rng.uniform(0.8, 1.05)
    top = _disc(0, (start + end) / 2, reach) if rng.random() < 0.3 else _box(-reach, start, reach, end)
    pieces = [("sofa", np.concatenate([_box(-half, 0, half, seat), *parts])), ("table", top)]
    pieces += _maybe(rng, 0.4, "chair", _chair(-half - 0.1, start + 0.3, 0.33))
    return pieces + _maybe(rng, 0.5, "pier_stool", _disc(half * 0.7, end + 0.3, rng.uniform(0.18, 0.3)))


def _chair(u: float, v: float, radius: float) -> Points:
    """A seat round on one side and straight on the other."""
    return np.concatenate([_disc(u, v, radius), _box(u - 0.8 * radius, v - 0.9 * radius, u + 0.8 * radius, v)])


def _dining(rng: Generator, depth: float) -> list[Piece]:
    """A table in the middle of the room with chairs around it and a lamp above."""
    half, reach, middle = rng.uniform(0.35, 0.5), rng.uniform(0.5, 0.95), depth * rng.uniform(0.4, 0.6)
    if rng.random() < 0.25:
        top, angles = _disc(0, middle, half * 1.2), rng.uniform(0, 1) + np.arange(4) * np.pi / 2
        seats = np.stack([np.cos(angles), np.sin(angles)], -1) * half * 1.6
    else:
        top, rows = _box(-half, middle - reach, half, middle + reach), np.linspace(-0.6, 0.6, 2 + (reach > 0.7)) * reach
        seats = [(side * (half + 0.14), v) for side in (-1, 1) for v in rows]
    chairs = [("chair", _chair(u, v + middle, rng.uniform(0.19, 0.25))) for u, v in seats if rng.random() < 0.9]
    return [*chairs, ("table", top), ("lighting", _disc(0, middle, rng.uniform(0.12, 0.25)))]


def _desk(rng: Generator, depth: float) -> list[Piece]:
    half, thickness = rng.uniform(0.45, 0.8), rng.uniform(0.45, 0.6)
    name = "table" if rng.random() < 0.4 else "cabinet_shelf_desk"
    return [(name, _box(-half, 0.03, half, thickness)), ("chair", _chair(0.1, thickness + 0.2, 0.25))]


def _small(rng: Generator, depth: float) -> list[Piece]:
    """Plants or a bench."""
    half, radius = rng.uniform(0.2, 0.7), rng.uniform(0.15, 0.28)
    if rng.random() < 0.4:
        return [("pier_stool", _box(-half, 0.05, half, radius + 0.15))]
    return [("others", np.concatenate([_disc(0, 0.35, radius), _disc(0.05, 0.4 + 1.5 * radius, 0.7 * radius)]))]


NARROW_PROGRAMS = ((_storage, _small), (_desk, _storage))  # groups at a wall, the opposite one and one beside
PROGRAMS = ((_bed, _storage), (_bed, _storage, _desk), (_sofa, _storage, _small), (_dining, _small, _storage))


def _half_length(room: Rect, side: int) -> float:
    return (room[2] - room[0] if side < 2 else room[3] - room[1]) / 2


def _from_wall(room: Rect, side: int, shift: float, points: Points) -> Points:
    """Metres from the wall coordinates of side 0 south, 1 north, 2 west or 3 east."""
    x0, y0, x1, y1 = room
    u, v = points.T
    if side < 2:
        return np.stack([(x0 + x1) / 2 + shift + u, y1 - v if side else y0 + v], -1)
    return np.stack([x1 - v if side == 3 else x0 + v, (y0 + y1) / 2 + shift + u], -1)


def _furnish(rng: Generator, room: Rect, inset: float) -> list[Piece]:
    """One to three groups against different walls, `inset` inside the outline, and perhaps a lamp in the middle."""
    programs = NARROW_PROGRAMS if min(_half_length(room, 0), _half_length(room, 2)) < 1.4 else PROGRAMS
    program, first, pieces = programs[rng.integers(len(programs))], int(rng.integers(4)), []
    for group, side in zip(program[: rng.integers(1, 4)], (first, first ^ 1, (first + 2) % 4), strict=False):
        reach = 0.6 if group in (_storage, _small) else 1.4
        shift = rng.uniform(-0.8, 0.8) * max(0, _half_length(room, side) - reach)
        for name, points in group(rng, 2 * _half_length(room, side ^ 2)):
            placed = _from_wall(room, side, shift, _thin_out(rng, points + np.array((0, inset))))
            pieces.append((name, placed[_inside(placed, room, 0.05 - inset)]))
    lamp = _disc(rng.normal(0, 0.3), _half_length(room, 2), rng.uniform(0.12, 0.28))
    return pieces + _maybe(rng, 0.35, "lighting", _thin_out(rng, _from_wall(room, 0, 0, lamp)))


# --- Plans ------------------------------------------------------------------------------------------------------------
def _subdivide(rng: Generator, count: int) -> list[Rect]:
    """`count` adjoining rooms: rectangles split from one block, without two corners and with some fronts set back."""
    area, aspect = (count + 2) * rng.uniform(13, 20), rng.uniform(0.65, 1.5)
    outline = (0.0, 0.0, float(np.sqrt(area * aspect)), float(np.sqrt(area / aspect)))
    blocks: list[Rect] = [outline]
    while len(blocks) < count + 2:
        x0, y0, x1, y1 = blocks.pop(int(np.argmax([(b[2] - b[0]) * (b[3] - b[1]) for b in blocks])))
        x, y = np.array((x0, y0)) + rng.uniform(0.36, 0.64) * np.array((x1 - x0, y1 - y0))
        blocks += [(x0, y0, x, y1), (x, y0, x1, y1)] if x1 - x0 > y1 - y0 else [(x0, y0, x1, y), (x0, y, x1, y1)]
    for corner in rng.permutation(4)[:2]:
        x, y = outline[corner // 2 * 2], outline[corner % 2 * 2 + 1]
        blocks.remove(min(blocks, key=lambda b: abs(b[0] + b[2] - 2 * x) + abs(b[1] + b[3] - 2 * y)))
    inwards = rng.uniform(0.2, 0.9, (count, 4)) * (rng.random((count, 4)) < 0.3) * (1, 1, -1, -1)
    rooms = np.array(blocks) + inwards * (np.array(blocks) == outline)
    return [(x0, y0, x1, y1) for x0, y0, x1, y1 in rooms.tolist()]


def _extras(rng: Generator, room: Rect, thickness: float) -> Iterator[Points]:
    """What else the real walls have: stubs, solid blocks, and rough clutter along a wall."""
    side, face = int(rng.integers(4)), thickness / 2
    reach = _half_length(room, side) - 0.4
    shift = rng.uniform(-1, 1) * max(0, reach - 0.2)
    if rng.random() < 0.35:
        yield _from_wall(room, side, shift, _box(0, face, 0, rng.uniform(0.3, 0.8)))
    if rng.random() < 0.25:
        depth, half = rng.choice((-1, 1)) * rng.uniform(0.3, 0.55), rng.uniform(0.15, 0.6)
        yield _from_wall(room, side ^ 1, shift, _box(-half, face, half, depth))
    if rng.random() < 0.06:
        strip = _box(-reach, face, reach, face + rng.uniform(0.15, 0.35))
        yield _from_wall(room, side, 0, strip[rng.random(len(strip)) < rng.uniform(0.1, 0.4)])


def _build_walls(rng: Generator, rooms: list[Rect], thickness: float) -> Points:
    """The inner faces of every room and some outer ones, which coincide with a neighbour's inner face; gaps; extras."""
    sides, lines = [(room, side) for room in rooms for side in range(4)], []
    for room, side in sides:
        for half in (thickness / 2, -thickness / 2)[: 1 + (rng.random() < 0.45)]:
            reach = _half_length(room, side) - half
            lines.append(_from_wall(room, side, 0, _box(-reach, half, reach, half)))
    walls = np.concatenate(lines)
    for room, side in sides:
        if rng.random() < 0.4:  # a door or a wide passage, through both faces
            half = rng.uniform(0.35, 0.5) if rng.random() < 0.8 else rng.uniform(0.6, 1.0)
            shift = rng.uniform(-1, 1) * max(0, _half_length(room, side) - half - 0.4)
            gap = np.sort(_from_wall(room, side, shift, np.array([(-half, -0.35), (half, 0.35)])), axis=0)
            walls = walls[~_inside(walls, gap.ravel(), 0)]
    walls = walls[rng.random(len(walls)) > rng.choice((0.0, 0.02))]  # a missing point leaves a nick
    return np.concatenate([walls, *(extra for room in rooms for extra in _extras(rng, room, thickness))])


# --- Rendering --------------------------------------------------------------------------------------------------------
def _dilate(mask: Bool[np.ndarray, "height width"], stamp: int) -> None:
    """Grows every True pixel in place to a square of `stamp` pixels, towards larger indices."""
    grown = 1
    while grown < stamp:
        step = min(grown, stamp - grown)
        mask[step:] |= mask[:-step]
        mask[:, step:] |= mask[:, :-step]
        grown += step


def _add_fringe(labels: UInt8[np.ndarray, "size size"], width: int) -> None:
    """Grey along the upper right edges of furniture, in place: wall grey on the background, dark grey on walls."""
    furniture = (labels != BACKGROUND) & (labels != WALL)
    target, beside = labels[width:, width:], furniture[:-width, :-width]
    target[beside & (target == WALL)] = OTHERS
    target[beside & (target == BACKGROUND)] = WALL


def _extent(pieces: list[Piece]) -> Float[np.ndarray, "corner=2 axis=2"]:
    points = np.concatenate([points for _, points in pieces])
    return np.stack([points.min(0), points.max(0)])


def _render(rng: Generator, pieces: list[Piece], scale: float, stamp: float, size: int) -> Pixels:
    """Walls of `stamp` pixels, `scale` pixels a metre, both at REFERENCE_SIZE; mostly in the lower left corner."""
    low, high = _extent(pieces)
    spare, ratio = REFERENCE_SIZE - stamp - (high - low) * scale, size / REFERENCE_SIZE
    offset = np.minimum(rng.uniform(0, 10, 2), spare) if rng.random() < 0.6 else rng.uniform(0, 1, 2) * spare
    labels = np.full((size, size), BACKGROUND, np.uint8)
    for name in PAINT_ORDER:
        width = max(1, round((stamp if name == "wall" else FURNITURE_STAMP) * ratio))
        points = np.concatenate([np.empty((0, 2)), *(points for other, points in pieces if other == name)])
        if len(points):
            column, row = np.clip(((points - low) * scale + offset) * ratio, 0, size - width).astype(np.intp).T
            window = np.s_[row.min() : row.max() + width, column.min() : column.max() + width]
            mask = np.zeros((size, size), bool)
            mask[row, column] = True
            _dilate(mask[window], width)
            labels[window][mask[window]] = CLASS_NAMES.index(name)
    if rng.random() < 0.5:
        _add_fringe(labels, max(1, round(2 * ratio)))
    return COLORS[labels[::-1]]  # up to here rows went upwards


def _begin(seed: int, index: int) -> tuple[Generator, int]:
    """Returns a scene's generator and the number of its room layouts, which is the first draw."""
    rng = np.random.default_rng((seed, index))
    return rng, int(rng.integers(2, 5))


def generate_scene(seed: int, index: int, size: int) -> list[SyntheticLayout]:
    """Draws a scene: a 'scene' layout, then 2-4 'room' layouts of the same plan, each in its own frame, enlarged.

    The result depends on the arguments alone, the plan and the number of rooms on `seed` and `index` alone.
    Raises ValueError for a negative `seed` or `index`.
    """
    rng, shown = _begin(seed, index)
    rooms = _subdivide(rng, shown + int(rng.integers(1, 5)))
    thickness, stamp = rng.uniform(0.1, 0.32), rng.uniform(8, 10)
    walls = _build_walls(rng, rooms, thickness)
    furniture = [_furnish(rng, room, thickness / 2) for room in rooms]
    space, scene_id = REFERENCE_SIZE - stamp, f"synthetic_{index:06d}"
    flat: list[Piece] = [("wall", walls), *(piece for pieces in furniture for piece in pieces)]
    scale = space / np.ptp(_extent(flat), 0).max() * min(1, rng.uniform(0.6, 1.6))
    layouts = [SyntheticLayout(scene_id, "scene", "0000", _render(rng, flat, scale, stamp, size))]
    for room in np.sort(rng.permutation(len(rooms))[:shown]).tolist():
        around = 0.2 if rng.random() < 0.5 else rng.uniform(0.3, 1.0)
        pieces: list[Piece] = [("wall", walls[_inside(walls, rooms[room], around)]), *furniture[room]]
        fit = space / np.ptp(_extent(pieces), 0).max()
        zoom = min(fit, max(1.1 * scale, rng.uniform(0.4, 1.4) * fit), rng.uniform(75, 130))
        layouts.append(SyntheticLayout(scene_id, "room", str(3001 + room), _render(rng, pieces, zoom, stamp, size)))
    return layouts


# --- Files ------------------------------------------------------------------------------------------------------------
def _write_scene(directory: Path, size: int, seed: int, index: int, limit: int) -> list[tuple[str, ...]]:
    """Writes the first `limit` layouts of a scene and returns their rows of the manifest."""
    rows = []
    for layout in generate_scene(seed, index, size)[:limit]:
        path = f"layouts/{layout.scene_id}_{layout.type}_{layout.room_id}.png"
        Image.fromarray(layout.image).save(directory / path, compress_level=1)
        rows.append((layout.scene_id, layout.type, layout.room_id, path, "false"))
    return rows


def write_manifest(
    directory: Path, count: int, size: int, seed: int, on_written: Callable[[int], None] = lambda _: None
) -> Path:
    """Writes the first `count` >= 0 layouts to `directory`/layouts and a manifest beside them, whose path it returns.

    Uses every available core, by processes that import the caller's main module anew; the bytes are the same
    whatever their number.  `on_written` gets the number of layouts newly finished, `count` in sum.
    Raises ValueError as `generate_scene` does and OSError when a file cannot be written.
    """
    (directory / "layouts").mkdir(parents=True, exist_ok=True)
    limits, rows, left = [], [], count
    while left > 0:  # the last scene is cut off
        limits.append(min(left, 1 + _begin(seed, len(limits))[1]))
        left -= limits[-1]
    write, scenes = partial(_write_scene, directory, size, seed), range(len(limits))
    few = len(os.sched_getaffinity(0)) == 1 or len(limits) < FEW_SCENES
    with nullcontext() if few else workers.open_pool() as pool:
        with signals.withheld():  # from the processes, which end with this one
            written = map(write, scenes, limits) if pool is None else pool.map(write, scenes, limits, chunksize=4)
        try:
            for scene_rows in written:
                rows += scene_rows
                on_written(len(scene_rows))
        except BrokenProcessPool:
            raise OSError("a process that drew layouts was ended from outside; is there enough memory?") from None
    with (manifest := directory / "layouts.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("scene_id", "type", "room_id", "layout_path", "is_empty"), *rows])
    return manifest
