"""Factors to pixels: glyphs, textures, scenes and styles, vectorised in torch on one core.

Every shape is one signed-distance template, made once from the font; a picture samples it under rotation, scale and
shift and clamps the distance to get an antialiased mask. The same factors give the same pixels, up to the font
rasteriser (FreeType inside Pillow), which may differ by an edge pixel between versions.
"""
from __future__ import annotations

import functools
import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from clipnotes.pocket.world import CANVAS, COLOURS, GLYPHS, NEW_STYLES, SCENES, STYLES, TEXTURES

TEMPLATE = 48  # pixels a side of a signed-distance template
PALETTE = torch.tensor(list(COLOURS.values()))  # [colours, 3]
NOISE = torch.from_numpy(np.random.default_rng(0).random((64, 64), dtype=np.float32))  # wraps around
AXIS = (torch.arange(CANVAS) + 0.5) / CANVAS * 2 - 1  # pixel centres in [-1, 1]


@functools.cache
def glyph_templates():
    """Signed distance to the outline of every shape, in units of half a template: float32 [S, 1, 48, 48]."""
    import matplotlib
    from PIL import Image, ImageDraw, ImageFont
    from scipy.ndimage import distance_transform_edt

    side = 2 * TEMPLATE
    path = str(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf")
    ruler = ImageFont.truetype(path, 200)
    templates = []
    for character in GLYPHS.values():
        left, top, right, bottom = ruler.getbbox(character)
        font = ImageFont.truetype(path, int(200 * 0.86 * side / max(right - left, bottom - top)))
        canvas = Image.new("L", (side, side))
        draw = ImageDraw.Draw(canvas)
        left, top, right, bottom = font.getbbox(character)
        draw.text(((side - left - right) / 2, (side - top - bottom) / 2), character, font=font, fill=255)
        inside = np.asarray(canvas) > 127
        distance = distance_transform_edt(inside) - distance_transform_edt(~inside)
        templates.append(distance.reshape(TEMPLATE, 2, TEMPLATE, 2).mean((1, 3)) / TEMPLATE)
    return torch.from_numpy(np.stack(templates)).float().unsqueeze(1)


def column(values):
    """A value a picture, shaped to broadcast over pixels: [N] -> float32 [N, 1, 1]."""
    return torch.as_tensor(np.ascontiguousarray(values), dtype=torch.float32)[:, None, None]


def shape_masks(shape, size, x, y, angle):
    """Coverage of N shapes and the coordinates inside each: mask [N, 40, 40], u and v [N, 40, 40] in [-1, 1]."""
    size, x, y, angle = column(np.maximum(size, 1e-3)), column(x), column(y), column(angle)
    dx, dy = AXIS[None, None, :] - x, AXIS[None, :, None] - y
    cos, sin = torch.cos(angle) / size, torch.sin(angle) / size
    u, v = dx * cos + dy * sin, dy * cos - dx * sin
    distance = F.grid_sample(glyph_templates()[torch.from_numpy(shape)], torch.stack([u, v], -1),
                             padding_mode="border", align_corners=False)[:, 0]
    beyond = (torch.maximum(u.abs(), v.abs()) - 1).clamp(min=0)  # how far outside the template
    return (0.5 + (distance - beyond) * size * (CANVAS / 2)).clamp(0, 1), u, v


# --- textures: how much of the second colour shows at (u, v) ------------------------------------------------------

def soft(wave):
    return (0.5 + 2 * wave).clamp(0, 1)


def saw(x):
    """Distance to the nearest integer, doubled: a triangle wave in [0, 1]."""
    return (x - x.round()).abs() * 2


def smooth_noise(u, v, offset):
    """Values in [0, 1] that vary over a distance of about one."""
    x, y = u + 31 * offset, v + 17 * offset
    i, j = x.floor(), y.floor()
    a, b = x - i, y - j
    a, b = a * a * (3 - 2 * a), b * b * (3 - 2 * b)
    i, j = i.long(), j.long()

    def corner(di, dj):
        return NOISE[(i + di) % 64, (j + dj) % 64]

    return torch.lerp(torch.lerp(corner(0, 0), corner(1, 0), a), torch.lerp(corner(0, 1), corner(1, 1), a), b)


def pixel_noise(u, v, offset):
    return NOISE[(u * 8 + 31 * offset).floor().long() % 64, (v * 8 + 17 * offset).floor().long() % 64]


def brick_lines(u, v, width=0.8):
    row = v.floor()
    return soft(torch.maximum(saw(v + 0.5), saw(u / 2 + row * 0.5) * 1.1 - 0.1) - width)


def scales(u, v):
    row = v.floor()
    centre_u = (u + row * 0.5).round() - row * 0.5
    return soft(0.62 - torch.hypot(u - centre_u, v - row))


TEXTURE_FUNCTIONS = {  # (u, v, luck) -> [n, 40, 40] in [0, 1]; u and v run over about (-2.5, 2.5) inside the shape
    "plain": lambda u, v, luck: torch.zeros_like(u),
    "striped": lambda u, v, luck: soft(torch.sin(math.pi * (u + luck))),
    "dotted": lambda u, v, luck: soft(0.32 - torch.hypot(u - u.round(), v - v.round())),
    "checkered": lambda u, v, luck: soft(torch.sin(math.pi * u) * torch.sin(math.pi * v)),
    "zigzag": lambda u, v, luck: soft(torch.sin(math.pi * (v + saw(u * 0.6 + luck)))),
    "wavy": lambda u, v, luck: soft(torch.sin(math.pi * (v + 0.6 * torch.sin(2 * u + 6 * luck)))),
    "grid": lambda u, v, luck: soft(torch.maximum(saw(u + luck), saw(v + luck)) - 0.7),
    "brick": lambda u, v, luck: brick_lines(u, v * 1.4),
    "speckled": lambda u, v, luck: soft(pixel_noise(u, v, luck) - 0.7),
    "shaded": lambda u, v, luck: (0.5 + 0.28 * (u * torch.cos(6 * luck) + v * torch.sin(6 * luck))).clamp(0, 1),
    "ringed": lambda u, v, luck: soft(torch.sin(math.pi * 1.2 * torch.hypot(u, v) + 6 * luck)),
    "rayed": lambda u, v, luck: soft(torch.sin(8 * torch.atan2(v, u) + 6 * luck)),
    "crosshatched": lambda u, v, luck: soft(torch.maximum(saw(u + v), saw(u - v)) - 0.75),
    "argyle": lambda u, v, luck: soft(torch.sin(math.pi * (u + 0.6 * v)) * torch.sin(math.pi * (u - 0.6 * v))),
    "patchy": lambda u, v, luck: soft(2 * smooth_noise(u, v, luck) - 1),
    "scaly": lambda u, v, luck: scales(u, v * 1.3),
}


def by_kind(kind, functions, order, *tensors):
    """Call the function of each kind on the rows that are of that kind and put the rows back in place."""
    kind, out = torch.from_numpy(kind), None
    for index in kind.unique().tolist():
        rows = torch.nonzero(kind == index)[:, 0]
        part = functions[order[index]](*(t[rows] for t in tensors))
        if out is None:
            out = torch.empty(len(kind), *part.shape[1:])
        out[rows] = part
    return out


# --- scenes: RGB backgrounds over (x, y) --------------------------------------------------------------------------

def paint(low, high, t):
    """Blend two colours by t [n, 40, 40] -> [n, 3, 40, 40]; a colour is (r, g, b) or [n, 3, 1, 1]."""
    low, high = (torch.tensor(c)[None, :, None, None] if isinstance(c, tuple) else c for c in (low, high))
    return low + (high - low) * t[:, None]


def over(front, back, mask):
    return back + (front - back) * mask[:, None]


def above(y, line):
    return soft((line - y) * 6)


def plain_wall(x, y, a, b):
    hue = torch.stack([saw(a + shift) for shift in (0.0, 0.33, 0.66)], 1)  # [n, 3, 1, 1]
    return (0.25 + 0.6 * b)[:, None] + 0.35 * (hue - 0.5) + 0.08 * y[:, None]


def sky(x, y, a, b):
    clouds = soft((smooth_noise(x * 2, y * 3, a) - 0.62) * 1.2)
    return paint(paint((.30, .55, .95), (.70, .85, 1.), (y + 1) / 2), (.97, .97, 1.), clouds * b)


def sea(x, y, a, b):
    return paint((.05, .25, .50), (.25, .60, .75), 0.5 + 0.5 * torch.sin(9 * y + 2 * torch.sin(3 * x + 6 * a)))


def beach(x, y, a, b):
    sand = paint((.86, .76, .52), (.95, .88, .68), pixel_noise(x, y, a))
    return over(sea(x, y, a, b), sand, above(y, -0.3 + 0.5 * b + 0.1 * torch.sin(4 * x + 6 * a)))


def desert(x, y, a, b):
    dunes = paint((.80, .58, .30), (.93, .76, .48), soft(torch.sin(5 * y + 3 * torch.sin(2 * x + 6 * a)) / 2))
    return over(paint((.45, .70, .95), (.90, .88, .80), (y + 1) / 1.5), dunes, above(y, -0.5 + 0.5 * b))


def meadow(x, y, a, b):
    grass = paint((.20, .50, .15), (.50, .75, .25), pixel_noise(x * 2, y / 2, a))
    return over(sky(x, y, a, b), grass, above(y, -0.6 + 0.5 * b + 0.1 * torch.sin(2 * x + 6 * a)))


def forest(x, y, a, b):
    leaves = paint((.05, .22, .08), (.20, .45, .15), smooth_noise(x * 5, y * 5, a))
    return paint(leaves, (.25, .16, .08), soft(torch.sin(9 * x + 6 * b) - 0.9 + 0.5 * y))


def mountains(x, y, a, b):
    ridge = -0.2 + 0.5 * b + 0.5 * (saw(x * 0.8 + a) - 0.5) + 0.25 * saw(x * 1.9 + 2 * a)
    rock = paint((.35, .36, .42), (.95, .95, .98), soft((ridge - y + 0.25) * 1.5))
    return over(sky(x, y, a, b), rock, above(y, ridge))


def snow_field(x, y, a, b):
    flakes = soft((pixel_noise(x, y, a) - 0.9) * 6)
    ground = above(y, -0.2 + 0.5 * b)
    return paint(over(paint((.55, .62, .72), (.75, .80, .88), (y + 1) / 2),
                      paint((.85, .88, .94), (.97, .98, 1.), smooth_noise(x * 3, y * 3, b)), ground), (1., 1., 1.), flakes)


def city(x, y, a, b):
    height = NOISE[(x * 3 + 31 * a).floor().long() % 64, 5].expand_as(y) * 1.2 - 0.8
    windows = soft((saw(x * 9) + saw(y * 5) - 1.45) * 3)
    houses = paint((.28, .30, .36), (.95, .85, .45), windows)
    return over(paint((.55, .68, .85), (.85, .82, .78), (y + 1) / 2), houses, above(y, height * (0.5 + b)))


def road(x, y, a, b):
    side = paint((.30, .45, .20), (.55, .60, .35), smooth_noise(x * 4, y * 4, a))
    width = 0.15 + 0.6 * (y + 1) / 2
    lane = paint((.30, .30, .32), (.95, .92, .80), soft(0.05 - (x - 0.4 * (b - 0.5)).abs()) * soft(torch.sin(12 * y)))
    return over(side, lane, soft((width - (x - 0.4 * (b - 0.5)).abs()) * -6))


def night(x, y, a, b):
    moon = soft((0.25 - torch.hypot(x - 1.4 * (a - 0.5), y + 0.6)) * 8)
    stars = soft((pixel_noise(x * 1.5, y * 1.5, b) - 0.97) * 20)
    return paint(paint((.03, .04, .15), (.12, .14, .32), (y + 1) / 2), (.95, .93, .75), torch.maximum(moon, stars))


def sunset(x, y, a, b):
    glow = paint((.35, .15, .45), (1., .60, .20), ((y + 1.2) / 2).clamp(0, 1))
    disc = soft((0.3 - torch.hypot(x - (a - 0.5), y - 0.3 * b)) * 8)
    return over(paint(glow, (1., .9, .5), disc), paint((.15, .08, .15), (.35, .15, .2), -y), above(y, 0.3 + 0.4 * b))


def brick_wall(x, y, a, b):
    return paint(paint((.55, .25, .18), (.72, .38, .28), smooth_noise(x * 3, y * 5, a)), (.80, .76, .70),
                 brick_lines(x * 3 + a, y * 4 + b))


def wooden_floor(x, y, a, b):
    grain = 0.5 + 0.5 * torch.sin(3 * y + 14 * x + 4 * smooth_noise(x * 6, y, a))
    return paint(paint((.55, .36, .18), (.75, .54, .32), grain), (.28, .17, .08), soft(saw(x * 2 + b) - 0.9))


def squared_paper(x, y, a, b):
    return paint((.96, .95, .90), (.60, .70, .88), soft(torch.maximum(saw(x * 4 + a), saw(y * 4 + b)) - 0.85))


def space(x, y, a, b):
    stars = soft((pixel_noise(x * 1.5, y * 1.5, a) - 0.93) * 12)
    nebula = paint((.02, .01, .05), (.40, .10, .45), (smooth_noise(x * 1.5, y * 1.5, b) - 0.4).clamp(0, 1))
    return paint(nebula, (1., 1., 1.), stars)


def fire(x, y, a, b):
    heat = (0.35 + 0.6 * y + 0.9 * (smooth_noise(x * 3, y * 1.5 + 2 * a, b) - 0.4)).clamp(0, 1)
    return paint(paint((.15, .02, .02), (.95, .30, .05), (2 * heat).clamp(0, 1)), (1., .9, .35), (2 * heat - 1).clamp(0, 1))


SCENE_FUNCTIONS = {  # (x, y, a, b) -> [n, 3, 40, 40]
    "plain wall": plain_wall, "sky": sky, "sea": sea, "beach": beach, "desert": desert, "meadow": meadow, "forest": forest,
    "mountains": mountains, "snow field": snow_field, "city": city, "road": road, "night": night, "sunset": sunset,
    "brick wall": brick_wall, "wooden floor": wooden_floor, "squared paper": squared_paper, "space": space, "fire": fire,
}


# --- styles: RGB to RGB -------------------------------------------------------------------------------------------

def edges(image):
    """Strength of luminance edges, [n, 1, 40, 40] in [0, 1]."""
    grey = F.pad(image.mean(1, keepdim=True), (1, 1, 1, 1), mode="replicate")
    gx = grey[:, :, 1:-1, 2:] - grey[:, :, 1:-1, :-2]
    gy = grey[:, :, 2:, 1:-1] - grey[:, :, :-2, 1:-1]
    return (2.5 * torch.hypot(gx, gy)).clamp(0, 1)


def blur(image):
    return F.avg_pool2d(F.pad(image, (1, 1, 1, 1), mode="replicate"), 3, 1)


def pixel_art(image, mask):
    coarse = F.interpolate(F.adaptive_avg_pool2d(image, 20), CANVAS)
    return (coarse * 4).round() / 4


def sketch(image, mask):
    return 0.95 - 0.85 * torch.maximum(edges(image), 0.25 * mask[:, None]).expand(-1, 3, -1, -1)


def neon(image, mask):
    lines = torch.maximum(edges(mask[:, None]), 0.4 * edges(image))
    tint = image / image.amax(1, keepdim=True).clamp(min=0.1)
    return 0.04 + (lines + 0.5 * blur(lines)) * (0.25 + 0.75 * tint)


def blueprint(image, mask):
    lines = torch.maximum(edges(image), 0.2 * mask[:, None])
    grid = soft(torch.maximum(saw(AXIS * 4)[None, :], saw(AXIS * 4)[:, None]) - 0.9) * 0.2
    return paint((.08, .20, .50), (.90, .95, 1.), torch.maximum(lines[:, 0], grid))


def chalk(image, mask):
    lines = torch.maximum(edges(image), edges(mask[:, None])) * (0.55 + 0.45 * NOISE[:CANVAS, :CANVAS])
    tint = image / image.amax(1, keepdim=True).clamp(min=0.1)
    return torch.tensor((.10, .18, .14))[:, None, None] + lines * (0.2 + 0.7 * tint)


def stained_glass(image, mask):
    return 1.3 * image * (1 - edges(image))


STYLE_FUNCTIONS = {  # (image [n, 3, 40, 40], mask of the shape [n, 40, 40]) -> [n, 3, 40, 40]
    "photo": lambda image, mask: image,
    "blurred": lambda image, mask: blur(blur(image)),
    "faded": lambda image, mask: 0.55 + 0.4 * image,
    "pixel art": pixel_art,
    "sketch": sketch,
    "neon": neon,
    "blueprint": blueprint,
    "chalk": chalk,
    "stained glass": stained_glass,
}


# --- the whole picture --------------------------------------------------------------------------------------------

def draw(f):
    """Pixels of N pictures: uint8 array [N, 40, 40, 3] from `world.Factors`."""
    luck = torch.as_tensor(f.luck, dtype=torch.float32)[:, :, None, None]  # [N, 8, 1, 1]
    n = len(f)
    x, y = AXIS.expand(n, CANVAS, CANVAS), AXIS[:, None].expand(n, CANVAS, CANVAS)
    image = by_kind(f.scene, SCENE_FUNCTIONS, SCENES, x, y, luck[:, 0], luck[:, 1])

    for slot in np.moveaxis(f.others, 1, 0):  # [N, 5]
        rows = np.flatnonzero(slot[:, 2] > 0)
        if len(rows):
            shape, colour, size, sx, sy = slot[rows].T
            mask, _, _ = shape_masks(shape.astype(int), size, sx, sy, np.zeros(len(rows)))
            image[rows] = over(PALETTE[colour.astype(int)][:, :, None, None], image[rows], mask)

    mask, u, v = shape_masks(f.shape, f.size, f.x, f.y, f.angle)
    mask = mask * (column(f.size) > 0)
    zoom = (2.2 + luck[:, 2]) * column(f.size).clamp(min=1)  # a close-up shows no coarser texture
    texture = by_kind(f.texture, TEXTURE_FUNCTIONS, TEXTURES, u * zoom, v * zoom, luck[:, 3])
    jitter = 0.16 * (luck[:, 4:7] - 0.5)  # [N, 3, 1, 1]
    colour, colour2 = (PALETTE[torch.from_numpy(c)][:, :, None, None] + jitter for c in (f.colour, f.colour2))
    image = over(paint(colour, colour2, texture), image, mask)

    image = by_kind(f.style, STYLE_FUNCTIONS, STYLES + NEW_STYLES, image, mask)
    image = image * (0.8 + 0.4 * luck[:, 7:8])  # exposure
    generator = torch.Generator().manual_seed(int(f.luck[0, 0] * 2**31))
    image = image + torch.randn(image.shape, generator=generator) * column(f.noise)[:, None]
    return (image.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
