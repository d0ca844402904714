"""Coarse pedestrians: who they are, how a camera sees them, and the picture of one of them.

A figure is made of tapered limbs, boxes and ellipses. Each is drawn from its signed distance (negative inside), in its
bounding box, so that edges are smooth without supersampling. A figure is 1 high, x = 0 is its middle and y points down.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Literal

import numpy as np

Colour = np.ndarray
"""(3,) float32, RGB in 0..1."""


def palette(*colours: str) -> np.ndarray:
    return np.array([[int(c[i : i + 2], 16) for i in (0, 2, 4)] for c in colours], np.float32) / 255


UPPERS = palette(
    *("1c1c20", "2b2b30", "55585c", "8b8e92", "e8e8e6", "1e2746", "2d4f9a", "7fa6d6", "b3232b", "651b22"),
    *("2f6b3c", "5d6335", "dcb62f", "d88aa6", "6a3f86", "6b4a31", "c9b48c", "d4702c", "2a8a8c"),
)
LOWERS = palette(
    *("18181b", "2a2a2e", "4b4e52", "1d2440", "2f4a7c", "5f7fae"),
    *("b5a27c", "7d7a6c", "d9d8d2", "4f3a2a", "7c2429", "454b2f"),
)
SKINS = palette("f0cdb2", "e0b08c", "c68c62", "9a6842", "6b4428")
HAIRS = palette("17130f", "3a2719", "6e4a2a", "b98d4f", "8c8a88", "a34f25")
BAGS = palette("1a1a1c", "5a3b22", "a82a2a", "27408a", "d0c6ae", "3e6d45", "8a8d92", "d58f2b")
SHOES = palette("161616", "e4e4e2", "5a4030", "a33030", "707478", "2b4f8f")
WALLS = palette("b9b2a6", "8f9aa3", "a58f7a", "c7c8c6", "7e8a78", "9c6f5c", "666d75", "d3c7a8")
GROUNDS = palette("9a9a98", "77787a", "b0a48f", "5f6468", "8c8578", "6d7a5c")


@dataclass(frozen=True)
class DomainStyle:
    """What a domain's cameras and wardrobe have in common."""

    saturation: float
    """Of clothes; 1 leaves the palette as it is."""
    clothes: float
    """Lightness of clothes, a factor."""
    exposure: float
    """Mean exposure of the cameras, a factor."""
    warmth: float
    """Red against blue of the light, as a fraction."""
    tint: float
    """Green of the light, as a fraction."""
    contrast: float
    """About mid-grey."""
    haze: float
    """Share of grey laid over the picture."""
    blur: float
    """Standard deviation, in thousandths of the height."""
    noise: float
    """Standard deviation of a pixel, 0..1."""
    clutter: float
    """Strength of background structure."""
    ground: float
    """Lightness of the background, a factor."""
    cameras_differ: float
    """Spread of light and colour between cameras."""


COMMON = DomainStyle(0.85, 0.95, 0.95, 0.0, 0.0, 1.0, 0.03, 5.0, 0.018, 0.5, 0.95, 1.0)
STYLES = {
    "source": DomainStyle(0.92, 0.97, 0.97, 0.035, -0.007, 1.035, 0.02, 4.0, 0.0145, 0.45, 1.01, 0.965),
    "target": DomainStyle(0.77, 0.915, 0.88, -0.045, 0.021, 0.95, 0.055, 6.0, 0.022, 0.59, 0.87, 1.035),
}


def style_at(name: Literal["source", "target"], gap: float) -> DomainStyle:
    """The style moved off the common one by gap; 1 is the style itself."""
    values = {}
    for setting in fields(DomainStyle):
        common, own = getattr(COMMON, setting.name), getattr(STYLES[name], setting.name)
        values[setting.name] = common + gap * (own - common)
    signed = {"warmth", "tint"}
    return DomainStyle(**{name: value if name in signed else max(value, 0.0) for name, value in values.items()})


@dataclass(frozen=True)
class Person:
    """What is the same on every picture of a person."""

    height: float
    girth: float
    skin: Colour
    hair: Colour
    head: str
    """short, long, bald, cap or hood."""
    upper: Colour
    second: Colour
    """Of the pattern."""
    pattern: str
    """plain, rings, bars, checks, blocks, print or sash."""
    fineness: float
    garment: str
    """tee, shirt or coat."""
    lower: Colour
    legs: str
    """trousers, shorts or skirt."""
    shoes: Colour
    bag: str
    """none, backpack, shoulder or hand."""
    bag_colour: Colour
    stoop: float


@dataclass(frozen=True)
class Camera:
    """What is the same on every picture of a camera."""

    exposure: float
    gains: Colour
    """Of red, green and blue."""
    gamma: float
    slant: float
    """Light from the left (below 0) or right."""
    heading: float
    """Direction most people walk in, radians; 0 comes towards the camera."""
    squeeze: float
    """Height of a figure seen from above, as a fraction."""
    wall: Colour
    floor: Colour
    horizon: float
    texture: str
    """panels, bricks or plain."""
    pitch: float


def draw_person_traits(rng: np.random.Generator, style: DomainStyle) -> Person:
    def pick(*options: str, weights: tuple[float, ...]) -> str:
        return options[int(np.searchsorted(np.cumsum(weights) / sum(weights), rng.random()))]

    def tone(colours: np.ndarray, spread: float = 0.05) -> Colour:
        colour = colours[int(rng.random() * len(colours))]
        return (colour + spread * (2 * rng.random(3) - 1)).clip(0.02, 0.98).astype(np.float32)

    def cloth(colours: np.ndarray) -> Colour:
        colour = tone(colours)
        grey = colour.mean()
        return ((grey + style.saturation * (colour - grey)) * style.clothes).clip(0.02, 0.98).astype(np.float32)

    return Person(
        height=0.94 + 0.12 * rng.random(),
        girth=0.85 + 0.35 * rng.random(),
        skin=tone(SKINS, 0.03),
        hair=tone(HAIRS, 0.03),
        head=pick("short", "long", "bald", "cap", "hood", weights=(5, 4, 1, 1.5, 0.8)),
        upper=cloth(UPPERS),
        second=cloth(UPPERS),
        pattern=pick(
            "plain", "rings", "bars", "checks", "blocks", "print", "sash", weights=(7, 2, 1.2, 1.2, 2, 2.5, 0.8)
        ),
        fineness=0.7 + 0.8 * rng.random(),
        garment=pick("tee", "shirt", "coat", weights=(4, 4, 2)),
        lower=cloth(LOWERS),
        legs=pick("trousers", "shorts", "skirt", weights=(6, 2, 1.5)),
        shoes=tone(SHOES),
        bag=pick("none", "backpack", "shoulder", "hand", weights=(4, 3, 2, 1.5)),
        bag_colour=cloth(BAGS),
        stoop=0.03 * rng.random(),
    )


def draw_camera_traits(rng: np.random.Generator, style: DomainStyle) -> Camera:
    def around(centre: float, spread: float) -> float:
        return centre + spread * style.cameras_differ * (2 * rng.random() - 1)

    def backdrop(colours: np.ndarray) -> Colour:
        return (colours[int(rng.random() * len(colours))] * style.ground).clip(0, 1).astype(np.float32)

    warmth, tint = around(style.warmth, 0.13), around(style.tint, 0.06)
    return Camera(
        exposure=style.exposure * 2 ** around(0.0, 0.3),
        gains=np.array([1 + warmth, 1 + tint, 1 - warmth], np.float32),
        gamma=2 ** around(0.0, 0.3),
        slant=around(0.0, 0.35),
        heading=2 * math.pi * rng.random(),
        squeeze=0.88 + 0.12 * rng.random(),
        wall=backdrop(WALLS),
        floor=backdrop(GROUNDS),
        horizon=0.15 + 0.5 * rng.random(),
        texture=("panels", "bricks", "plain")[int(rng.random() * 3)],
        pitch=0.08 + 0.14 * rng.random(),
    )


class Canvas:
    """A picture (3, H, W) float32 and the figure coordinates of its pixels."""

    def __init__(self, height: int, width: int) -> None:
        self.pixels = np.empty((3, height, width), np.float32)
        self.place(0.0, 0.5 * width / height, 1.0, 1.0)

    def place(self, top: float, middle: float, tall: float, wide: float) -> None:
        """Put a figure: its top and middle, and its height and width unit, all in heights of the picture."""
        _, height, width = self.pixels.shape
        self.y = (((np.arange(height) + 0.5) / height - top) / tall).astype(np.float32)
        self.x = (((np.arange(width) + 0.5) / height - middle) / wide).astype(np.float32)
        self.edge = 1.2 / (height * wide)  # width of a smooth edge

    def window(self, left: float, top: float, right: float, bottom: float) -> tuple[slice, slice]:
        """Rows and columns of the pixels in a box, an edge's width added."""
        rows = np.searchsorted(self.y, (top - self.edge, bottom + self.edge))
        columns = np.searchsorted(self.x, (left - self.edge, right + self.edge))
        return slice(*rows), slice(*columns)

    def fill(self, window: tuple[slice, slice], distance: np.ndarray, colour: np.ndarray, opacity: float = 1.0) -> None:
        """Paint where the distance is negative; the colour is (3,) or (3, rows, columns)."""
        cover = (0.5 - distance / self.edge).clip(0, opacity)
        part = self.pixels[:, *window]
        part += cover * ((colour if colour.ndim == 3 else colour[:, None, None]) - part)

    def limb(self, start: tuple[float, float], end: tuple[float, float], r0: float, r1: float, colour: Colour) -> None:
        """A capsule from start to end (x, y) whose radius goes from r0 to r1, lighter along its middle."""
        (ax, ay), (bx, by) = start, end
        r = max(r0, r1)
        window = self.window(min(ax, bx) - r, min(ay, by) - r, max(ax, bx) + r, max(ay, by) + r)
        x, y = self.x[None, window[1]] - ax, self.y[window[0], None] - ay
        dx, dy = bx - ax, by - ay
        along = ((x * dx + y * dy) / (dx * dx + dy * dy + 1e-9)).clip(0, 1)
        distance = np.sqrt((x - along * dx) ** 2 + (y - along * dy) ** 2) - (r0 + along * (r1 - r0))
        self.fill(window, distance, rounded(colour, distance, r))

    def ellipse(self, middle: tuple[float, float], rx: float, ry: float, colour: Colour, opacity: float = 1.0) -> None:
        window = self.window(middle[0] - rx, middle[1] - ry, middle[0] + rx, middle[1] + ry)
        x, y = (self.x[None, window[1]] - middle[0]) / rx, (self.y[window[0], None] - middle[1]) / ry
        self.fill(window, (np.sqrt(x * x + y * y) - 1) * min(rx, ry), colour, opacity)

    def box(
        self,
        top: tuple[float, float, float],
        bottom: tuple[float, float, float],
        colour: Colour,
        corner: float = 0.0,
        paint: Person | None = None,
        front: bool = True,
    ) -> None:
        """A trapezium from (x, y, half width) to (x, y, half width); `paint` lays a person's pattern on it."""
        (x0, y0, w0), (x1, y1, w1) = top, bottom
        window = self.window(min(x0 - w0, x1 - w1), y0, max(x0 + w0, x1 + w1), y1)
        y = self.y[window[0], None]
        along = (y - y0) / (y1 - y0)
        half = w0 + along * (w1 - w0)
        x = self.x[None, window[1]] - (x0 + along * (x1 - x0))
        qx, qy = np.abs(x) - half + corner, np.abs(y - (y0 + y1) / 2) - (y1 - y0) / 2 + corner
        distance = np.sqrt(np.maximum(qx, 0) ** 2 + np.maximum(qy, 0) ** 2) + np.minimum(np.maximum(qx, qy), 0) - corner
        shaded = rounded(colour, distance, max(w0, w1))
        if paint is not None:
            share = pattern_share(paint, x / half, y, front)
            if share is not None:
                shaded = shaded + share * (rounded(paint.second, distance, max(w0, w1)) - shaded)
        self.fill(window, distance, shaded)


def rounded(colour: Colour, distance: np.ndarray, radius: float) -> np.ndarray:
    """A colour (3, rows, columns) that darkens towards the edge, as on a cylinder."""
    return colour[:, None, None] * (0.82 + 0.26 * (-distance / radius).clip(0, 0.8))


def pattern_share(person: Person, u: np.ndarray, y: np.ndarray, front: bool) -> np.ndarray | None:
    """Share of the second colour on the trunk, 0..1; u runs over its width from -1 to 1."""

    def wave(phase: np.ndarray) -> np.ndarray:
        return (0.5 + 1.6 * np.sin(phase)).clip(0, 1)

    match person.pattern:
        case "rings":
            return wave(2 * np.pi * y / (0.075 * person.fineness)) + 0 * u
        case "bars":
            return wave(2 * np.pi * u / (0.5 * person.fineness)) + 0 * y
        case "checks":
            return wave(2 * np.pi * y / (0.1 * person.fineness)) * wave(2 * np.pi * u / (0.6 * person.fineness))
        case "blocks":
            return ((y - 0.3 * person.fineness - 0.03) * 80).clip(0, 1) + 0 * u
        case "print" if front:
            return ((0.45 - np.abs(u)) * 12).clip(0, 1) * ((0.045 * person.fineness - np.abs(y - 0.29)) * 60).clip(0, 1)
        case "sash":
            return ((0.22 - np.abs(u - 5 * (y - 0.33))) * 10).clip(0, 1)
    return None


def paint_backdrop(canvas: Canvas, camera: Camera, style: DomainStyle, rng: np.random.Generator) -> None:
    """Wall and floor of a camera, shifted a little from picture to picture, with clutter."""
    _, height, width = canvas.pixels.shape
    y = ((np.arange(height, dtype=np.float32) + 0.5) / height)[:, None]
    x = ((np.arange(width, dtype=np.float32) + 0.5) / height + rng.random())[None, :]
    horizon = camera.horizon + 0.16 * (rng.random() - 0.5)
    floor = ((y - horizon) * 40).clip(0, 1)
    wall = 1.0 + 0.0 * x
    if camera.texture == "panels":
        wall = wall + 0.25 * style.clutter * np.sign(np.sin(2 * np.pi * x / camera.pitch))
    elif camera.texture == "bricks":
        row = np.floor(y / (0.4 * camera.pitch))
        joints = (np.abs(np.sin(np.pi * (x / camera.pitch + 0.5 * row))) < 0.15) | (
            y / (0.4 * camera.pitch) - row < 0.18
        )
        wall = wall - 0.3 * style.clutter * joints
    lit = (1 + camera.slant * (x - x.mean())) * (0.85 + 0.35 * y)
    spots = smooth_field(rng, height, width, 6, 4) * (0.35 * style.clutter)
    base = (camera.wall[:, None, None] * (1 - floor)) * wall + camera.floor[:, None, None] * floor
    np.multiply(base, lit * (1 + spots), out=canvas.pixels)


def smooth_field(rng: np.random.Generator, height: int, width: int, rows: int, columns: int) -> np.ndarray:
    """Random field (height, width) in -1..1 that varies slowly."""
    return (
        _interpolation(height, rows)
        @ (2 * rng.random((rows, columns), np.float32) - 1)
        @ _interpolation(width, columns).T
    )


@lru_cache(maxsize=32)
def _interpolation(size: int, knots: int) -> np.ndarray:
    """(size, knots) weights of linear interpolation."""
    place = np.linspace(0, knots - 1, size)[:, None]
    return (1 - np.abs(place - np.arange(knots))).clip(0).astype(np.float32)


def blurred(pixels: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur of (3, H, W) by a standard deviation in pixels; the border is repeated outwards."""
    radius = min(int(3 * sigma + 0.5), pixels.shape[2] - 1)
    if radius == 0:
        return pixels
    weights = np.exp(-0.5 * (np.arange(radius + 1) / sigma) ** 2).astype(np.float32)
    weights /= weights[0] + 2 * weights[1:].sum()
    for axis in (1, 2):
        size = pixels.shape[axis]
        padded = np.pad(pixels, [(radius, radius) if at == axis else (0, 0) for at in range(3)], mode="edge")
        taps = np.moveaxis(padded, axis, 0)
        total = taps[radius : radius + size] * weights[0]
        for step in range(1, radius + 1):
            pair = taps[radius - step : radius - step + size] + taps[radius + step : radius + step + size]
            total += pair * weights[step]
        pixels = np.moveaxis(total, 0, axis)
    return pixels


def paint_figure(canvas: Canvas, person: Person, heading: float, phase: float, stride: float) -> None:
    """A person who walks in a direction (0: towards the camera, pi/2: to the right), at a phase of the step."""
    pose = pose_of(person, heading, phase, stride)
    near = 1.0 if pose.across <= 0 else -1.0  # which arm and leg are nearer to the camera
    canvas.ellipse((0, 0.975), 0.16, 0.018, np.zeros(3, np.float32), 0.35)  # shadow
    # From the back to the front: what is painted later covers what was painted before.
    if person.bag == "backpack" and abs(pose.across) > 0.35 and pose.towards > -0.8:  # seen beside the trunk
        x = -math.copysign(pose.shoulder + 0.02, pose.across) * abs(pose.across) + pose.lean
        canvas.box((x, 0.19, 0.045), (x, 0.41, 0.05), person.bag_colour, 0.02)
    paint_leg(canvas, person, pose, -near, shade=0.86)
    paint_leg(canvas, person, pose, near, shade=1.0)
    paint_arm(canvas, person, pose, -near, shade=0.85)
    paint_trunk(canvas, person, pose)
    paint_bag(canvas, person, pose)
    hand = paint_arm(canvas, person, pose, near, shade=0.95)
    if person.bag == "hand":
        canvas.box((hand[0], hand[1] + 0.02, 0.035), (hand[0], hand[1] + 0.13, 0.05), person.bag_colour, 0.01)
    paint_head(canvas, person, pose)


@dataclass(frozen=True)
class Pose:
    """How a person stands to the camera, in plain floats: those of NumPy would turn the float32 pixels into float64."""

    towards: float
    """Cosine of the heading: 1 comes towards the camera, -1 goes away."""
    across: float
    """Sine of the heading: 1 walks to the right."""
    front: bool
    """Whether the chest is seen."""
    turn: float
    """How wide the trunk looks."""
    swing: float
    """How far a leg is ahead of the middle, the other as far behind."""
    lean: float
    """How far the shoulders are ahead of the hips."""
    shoulder: float
    """Half widths."""
    hip: float


def pose_of(person: Person, heading: float, phase: float, stride: float) -> Pose:
    towards, across = math.cos(heading), math.sin(heading)
    turn = math.hypot(towards, 0.62 * across)
    return Pose(
        towards,
        across,
        front=towards > -0.1,
        turn=turn,
        swing=stride * math.sin(phase),
        lean=across * person.stoop,
        shoulder=0.1 * turn * person.girth,
        hip=0.08 * turn * (0.4 + 0.6 * person.girth),
    )


def paint_leg(canvas: Canvas, person: Person, pose: Pose, which: float, shade: float) -> None:
    """The leg whose step is `which`, -1 or 1, times the swing."""
    g, step, towards, across = person.girth, which * pose.swing, pose.towards, pose.across
    top = (which * 0.043 * towards * g, 0.5)
    foot = (top[0] * 1.1 + step * across, 0.945 - 0.035 * abs(pose.swing) + 0.05 * which * pose.swing * towards)
    knee = ((top[0] + foot[0]) / 2 + 0.02 * across * (step > 0), (top[1] + foot[1]) / 2 - 0.01)
    shin = (person.lower if person.legs == "trousers" else person.skin) * shade
    thigh = (person.skin if person.legs == "skirt" else person.lower) * shade
    canvas.limb(knee, foot, 0.038 * g, 0.028, shin)
    canvas.limb(top, knee, 0.05 * g, 0.042 * g, thigh)
    canvas.limb(foot, (foot[0] + 0.04 * across, foot[1] + 0.018), 0.026, 0.02, person.shoes * shade)


def paint_arm(canvas: Canvas, person: Person, pose: Pose, which: float, shade: float) -> tuple[float, float]:
    """The arm on the side of a leg, which swings against it. Returns where the hand is."""
    g, step, towards, across = person.girth, which * pose.swing, pose.towards, pose.across
    x = which * 0.94 * pose.shoulder * (0.25 + 0.75 * abs(towards)) * (1 if towards >= 0 else -1) + pose.lean
    elbow = (x + which * 0.02 * towards - step * across * 0.45, 0.335)
    hand = (elbow[0] - step * across * 0.5 + 0.015 * across, 0.48 - 0.06 * abs(pose.swing))
    canvas.limb(elbow, hand, 0.027, 0.023, (person.skin if person.garment == "tee" else person.upper) * shade)
    canvas.limb((x, 0.2), elbow, 0.034 * g, 0.029 * g, person.upper * shade)
    canvas.limb(hand, (hand[0], hand[1] + 0.012), 0.02, 0.018, person.skin * shade)
    return hand


def paint_trunk(canvas: Canvas, person: Person, pose: Pose) -> None:
    """Skirt or seat of the trousers, and what is worn above."""
    hip = pose.hip
    if person.legs == "skirt":
        canvas.box((0, 0.47, hip), (0.3 * pose.swing * pose.across, 0.67, hip * 1.45), person.lower, 0.01)
    else:
        canvas.box((0, 0.46, hip), (0, 0.55, hip * 1.02), person.lower, 0.02)
    hem, flare = (0.68, 1.25) if person.garment == "coat" else (0.515, 1.08)
    canvas.box((pose.lean, 0.155, pose.shoulder), (0, hem, hip * flare), person.upper, 0.045, person, pose.front)


def paint_bag(canvas: Canvas, person: Person, pose: Pose) -> None:
    """What a bag lays on the trunk: a backpack, or its straps from before; a shoulder bag and its strap."""
    shoulder, hip, colour = pose.shoulder, pose.hip, person.bag_colour
    if person.bag == "backpack" and pose.towards < -0.1:
        canvas.box((pose.lean, 0.19, 0.075 * pose.turn), (pose.lean, 0.42, 0.085 * pose.turn), colour, 0.025)
    elif person.bag == "backpack" and pose.towards > 0.25:
        for which in (-1, 1):
            canvas.limb((which * 0.6 * shoulder, 0.165), (which * 0.62 * shoulder, 0.36), 0.011, 0.011, colour)
    elif person.bag == "shoulder":
        sign = 1.0 if pose.front else -1.0
        canvas.limb((-sign * 0.6 * shoulder, 0.165), (sign * hip, 0.45), 0.01, 0.01, colour)
        canvas.box((sign * hip * 1.15, 0.44, 0.045), (sign * hip * 1.2, 0.56, 0.05), colour, 0.015)


def paint_head(canvas: Canvas, person: Person, pose: Pose) -> None:
    across = pose.across
    head = (pose.lean * 1.8 + 0.012 * across, 0.078)
    canvas.limb((pose.lean, 0.165), head, 0.03, 0.03, person.skin * 0.85)  # the neck, in the shadow of the chin
    if person.head == "long" and pose.front:
        canvas.box((head[0] - 0.014 * across, 0.03, 0.05), (head[0] - 0.02 * across, 0.175, 0.056), person.hair, 0.03)
    canvas.ellipse(head, 0.047, 0.062, person.skin)
    paint_hair(canvas, person, head, pose.towards, across)


def paint_hair(canvas: Canvas, person: Person, head: tuple[float, float], towards: float, across: float) -> None:
    x, y = head
    behind = towards < -0.3
    match person.head:
        case "short" | "long":
            if behind:
                canvas.ellipse((x, y - 0.008), 0.051, 0.062, person.hair)
                if person.head == "long":
                    canvas.box((x, y, 0.05), (x, 0.2, 0.055), person.hair, 0.03)
            else:
                canvas.ellipse((x - 0.014 * across, y - 0.036), 0.05, 0.036, person.hair)
                if abs(across) > 0.3:
                    canvas.ellipse((x - 0.034 * across, y - 0.006), 0.022 * abs(across), 0.045, person.hair)
        case "cap":
            canvas.ellipse((x, y - 0.036), 0.052, 0.036, person.second)
            canvas.limb((x, y - 0.02), (x + 0.055 * across, y - 0.016), 0.012, 0.01, person.second * 0.8)
        case "hood":
            canvas.ellipse((x - 0.012 * across, y - 0.006), 0.058, 0.07, person.upper * 0.9)
            if not behind:
                canvas.ellipse((x + 0.014 * across, y + 0.006), 0.036, 0.046, person.skin)


def picture(
    person: Person,
    camera: Camera,
    style: DomainStyle,
    rng: np.random.Generator,
    passer_by: Person,
    height: int,
    width: int,
) -> np.ndarray:
    """One picture (H, W, 3) uint8: pose, crop, light, occlusion and noise come from the generator.

    Args:
        passer_by: somebody else, who stands beside or before the person on some of the pictures.
    """
    canvas = Canvas(height, width)
    middle = 0.5 * width / height
    paint_backdrop(canvas, camera, style, rng)

    heading = camera.heading + 0.9 * rng.standard_normal() + (math.pi if rng.random() < 0.3 else 0.0)
    phase, stride = 2 * math.pi * rng.random(), 0.05 + 0.12 * rng.random()
    tall = (0.93 + 0.1 * (2 * rng.random() - 1)) * person.height
    top = 0.5 - 0.5 * tall * camera.squeeze + 0.07 * (2 * rng.random() - 1)
    centre = middle + 0.06 * (2 * rng.random() - 1)
    company, side = rng.random(), (1 if rng.random() < 0.5 else -1)
    aside = (top + 0.06 * (rng.random() - 0.7), middle + side * (0.24 + 0.1 * rng.random()), tall * 0.95, tall)
    other_heading, other_phase = heading + rng.standard_normal(), 2 * math.pi * rng.random()
    if company < 0.18:  # somebody behind
        canvas.place(*aside)
        paint_figure(canvas, passer_by, other_heading, other_phase, stride)
    canvas.place(top, centre, tall * camera.squeeze, tall)
    paint_figure(canvas, person, heading, phase, stride)
    if company > 0.88:  # somebody in front
        canvas.place(*aside)
        paint_figure(canvas, passer_by, other_heading, other_phase, stride)
    paint_occluder(canvas, camera, rng)

    pixels: np.ndarray = canvas.pixels
    x = np.linspace(-0.5, 0.5, width, dtype=np.float32)
    light = camera.exposure * 2 ** (0.22 * rng.standard_normal()) * (1 + camera.slant * x)
    shade = 1 + 0.25 * smooth_field(rng, height, width, 4, 3)
    pixels *= camera.gains[:, None, None] * light * shade
    pixels = blurred(pixels, style.blur * (0.7 + 0.6 * rng.random()) * height / 1000)
    pixels = pixels.clip(0, 1) ** camera.gamma
    pixels = (pixels - 0.5) * style.contrast + 0.5
    pixels += style.haze * (0.6 - pixels)
    pixels += style.noise * rng.standard_normal(pixels.shape, np.float32)
    return (pixels.clip(0, 1) * 255 + 0.5).astype(np.uint8).transpose(1, 2, 0)


def paint_occluder(canvas: Canvas, camera: Camera, rng: np.random.Generator) -> None:
    """A post, or something low in front of the legs, on a sixth of the pictures."""
    kind, place, size, tone = rng.random(4).tolist()
    _, height, width = canvas.pixels.shape
    half = 0.5 * width / height
    canvas.place(0.0, half, 1.0, 1.0)
    colour = (camera.floor * (0.4 + 0.8 * tone)).astype(np.float32)
    if kind < 0.08:
        x = half * (2 * place - 1)
        canvas.box((x, -0.1, 0.02 + 0.04 * size), (x, 1.1, 0.02 + 0.04 * size), colour)
    elif kind < 0.17:
        x = half * (1.6 * place - 0.8)
        canvas.box((x, 0.66 + 0.16 * size, 0.9 * half), (x, 1.1, 0.9 * half), colour, 0.04)
