"""Slow twins of the losses: value and gradient from raw logits and labels, pixel by pixel.

NumPy and Python in double precision, without segtrain and without torch. A twin takes logits
(N,C,H,W) and labels (N,H,W); it returns the value and its gradient by the logits (N,C,H,W).
"""

import itertools
import math
from dataclasses import dataclass

import numpy as np


@dataclass
class Pixel:
    """Valid pixel: its position, its label, log-probabilities and probabilities (C,)."""

    place: tuple
    label: int
    log_p: np.ndarray
    p: np.ndarray

    @property
    def nll(self) -> float:
        return -self.log_p[self.label]


def valid_pixels(logits: np.ndarray, target: np.ndarray, ignore: int) -> list[Pixel]:
    found = []
    for n, y, x in np.ndindex(target.shape):
        if (label := int(target[n, y, x])) != ignore:
            z = [float(v) for v in logits[n, :, y, x]]
            log_p = np.array([log_probability(z, c) for c in range(len(z))])
            found.append(Pixel((n, y, x), label, log_p, np.exp(log_p)))
    return found


def log_probability(z: list[float], c: int) -> float:
    """log softmax(z)[c]; the same bits whatever the order of the others."""
    others = [v - z[c] for o, v in enumerate(z) if o != c]
    top = max(0.0, *others)
    rest = math.fsum(math.exp(v - top) for v in others)
    return -math.log1p(rest) if top == 0 else -(top + math.log(rest + math.exp(-top)))


def gradient_by_logits(shape: tuple, slopes: list[tuple[Pixel, np.ndarray]]) -> np.ndarray:
    """Return it from the slopes by the log-probabilities: d log_p[c] / d z[o] = (c == o) - p[o]."""
    gradient = np.zeros(shape)
    for pixel, slope in slopes:
        n, y, x = pixel.place
        gradient[n, :, y, x] = slope - pixel.p * slope.sum()
    return gradient


# ---- costs of single pixels: for each pixel its cost and the slope by its log-probabilities


def ce_costs(pixels: list, classes: int, weight=None, label_smoothing=0.0) -> list[tuple]:
    weight = np.ones(classes) if weight is None else np.array(weight, float)
    found = []
    for pixel in pixels:
        slope = -label_smoothing / classes * weight
        slope[pixel.label] -= (1 - label_smoothing) * weight[pixel.label]
        found.append((float(slope @ pixel.log_p), slope))
    return found


def focal_costs(pixels: list, classes: int, gamma=2.0, alpha=None) -> list[tuple]:
    if alpha is None:
        alpha = [1] * classes
    elif not isinstance(alpha, list):
        alpha = [1 - alpha, alpha]
    found = []
    for pixel in pixels:
        miss = -math.expm1(-pixel.nll)  # 1 - p
        factor = alpha[pixel.label] * miss**gamma
        slope = np.zeros(classes)
        ratio = pixel.nll / miss if miss else 1.0
        slope[pixel.label] = -factor * (1 + gamma * pixel.p[pixel.label] * ratio)
        found.append((factor * pixel.nll, slope))
    return found


def ghm_costs(
    pixels: list, classes: int, bins=10, momentum=0.75, moving=None, training=True
) -> list[tuple]:
    """`moving` is a list that holds the moving counts between calls; empty at first."""
    moving = [] if moving is None else moving
    places = [min(int(-math.expm1(-pixel.nll) * bins), bins - 1) for pixel in pixels]
    batch = [places.count(b) for b in range(bins)]
    if training and pixels:
        old = moving or batch
        moving[:] = [momentum * o + (1 - momentum) * c for o, c in zip(old, batch, strict=True)]
    counts = [m or c for m, c in zip(moving or [0] * bins, batch, strict=True)]
    found = []
    for pixel, place in zip(pixels, places, strict=True):
        weight = sum(counts) / (counts[place] * sum(c > 0 for c in batch))
        slope = np.zeros(classes)
        slope[pixel.label] = -weight
        found.append((weight * pixel.nll, slope))
    return found


def poly_costs(pixels: list, classes: int, epsilon=1.0, weight=None) -> list[tuple]:
    found = []
    for pixel in pixels:
        w = weight[pixel.label] if weight else 1.0
        slope = np.zeros(classes)
        slope[pixel.label] = -w * (1 + epsilon * pixel.p[pixel.label])
        found.append((w * (pixel.nll - epsilon * math.expm1(-pixel.nll)), slope))
    return found


def border_costs(pixels: list, classes: int, inner=("ce", {}), **kwargs) -> list[tuple]:
    costs = COSTS[inner[0]](pixels, classes, **inner[1])
    weights = border_weights(pixels, **kwargs)
    return [(w * cost, w * slope) for w, (cost, slope) in zip(weights, costs, strict=True)]


def border_weights(pixels: list, w0=10, sigma=5, background=False, weight=None) -> list[float]:
    """Ronneberger et al., equation 2, for connected pixels of a class as the paper's cells."""
    objects = find_objects({p.place: p.label for p in pixels if background or p.label})
    found = []
    for pixel in pixels:
        n, *place = pixel.place
        near = sorted(
            min(math.dist(place, other) for _, *other in places)
            for places in objects
            if places[0][0] == n
        )
        border = math.exp(-(sum(near[:2]) ** 2) / (2 * sigma**2)) if len(near) > 1 else 0.0
        found.append((weight[pixel.label] if weight else 1) + w0 * border)
    return found


def find_objects(labels: dict[tuple, int]) -> list[list[tuple]]:
    """Return the places of each connected component, by sides and corners, of each image."""
    objects, left = [], dict(labels)
    while left:
        place, label = left.popitem()
        places, ahead = [place], [place]
        while ahead:
            n, y, x = ahead.pop()
            for near in itertools.product([n], (y - 1, y, y + 1), (x - 1, x, x + 1)):
                if left.get(near) == label:
                    del left[near]
                    places.append(near)
                    ahead.append(near)
        objects.append(places)
    return objects


COSTS = {
    "ce": ce_costs,
    "focal": focal_costs,
    "ghm": ghm_costs,
    "poly": poly_costs,
    "border": border_costs,
}


def mean_weights(name: str, pixels: list, inner=("ce", {}), **kwargs) -> list[float]:
    """Weights of the pixels in the denominator of a pixel loss."""
    if name == "border":
        both = border_weights(pixels, **kwargs), mean_weights(inner[0], pixels, **inner[1])
        return [border * own for border, own in zip(*both, strict=True)]
    weight = kwargs.get("weight")
    return [weight[pixel.label] if weight else 1.0 for pixel in pixels]


# ---- which pixels count, and how far


def ohem_keep(pixels: list, thresh=0.7, n_min_factor=16) -> list[float]:
    hard = [float(pixel.nll > -math.log(thresh)) for pixel in pixels]
    n_min = max(1, len(pixels) // n_min_factor)
    return hard if sum(hard) >= n_min else k_largest(pixels, n_min)


def topk_keep(pixels: list, keep=0.2) -> list[float]:
    k = round(keep * len(pixels)) if isinstance(keep, float) else keep
    return k_largest(pixels, min(max(k, 1), len(pixels)))


def k_largest(pixels: list, k: int) -> list[float]:
    """Return 1 for the k largest, 0 for the rest; those tied at the k-th share what is left."""
    keep, left = [0.0] * len(pixels), k
    order = sorted(range(len(pixels)), key=lambda i: -pixels[i].nll)
    for _, ties in itertools.groupby(order, key=lambda i: pixels[i].nll):
        ties = list(ties)
        share = min(1.0, left / len(ties))
        left -= share * len(ties)
        for i in ties:
            keep[i] = share
    return keep


KEEP = {"ohem": ohem_keep, "topk": topk_keep}


# ---- twins


def pixel_twin(name: str):
    """Twin of a pixel loss that keeps every pixel."""

    def twin(logits, target, ignore=255, **kwargs):
        pixels = valid_pixels(logits, target, ignore)
        costs = COSTS[name](pixels, logits.shape[1], **kwargs)
        total = sum(mean_weights(name, pixels, **kwargs))
        return weighted_sum(logits.shape, pixels, costs, [1 / (total or 1)] * len(pixels))

    return twin


def mining_twin(name: str):
    """Twin of a mining; `inner` is the name and the arguments of the loss that it averages."""

    def twin(logits, target, ignore=255, weight=None, per_image=False, inner=("ce", {}), **kwargs):
        pixels = valid_pixels(logits, target, ignore)
        costs = COSTS[inner[0]](pixels, logits.shape[1], **inner[1])
        weight = weight or [1] * logits.shape[1]
        kept = [k for group in groups_of(pixels, per_image) for k in KEEP[name](group, **kwargs)]
        keep = [k * weight[p.label] for k, p in zip(kept, pixels, strict=True)]
        inner_weights = mean_weights(inner[0], pixels, **inner[1])
        total = sum(k * w for k, w in zip(keep, inner_weights, strict=True))
        return weighted_sum(logits.shape, pixels, costs, [k / total for k in keep])

    return twin


def weighted_sum(shape: tuple, pixels: list, costs: list[tuple], factors: list[float]) -> tuple:
    value = sum(f * cost for f, (cost, _) in zip(factors, costs, strict=True))
    slopes = [
        (pixel, f * slope) for pixel, f, (_, slope) in zip(pixels, factors, costs, strict=True)
    ]
    return value, gradient_by_logits(shape, slopes)


def groups_of(pixels: list, per_image: bool) -> list[list[Pixel]]:
    """All pixels together, or those of each image that has any."""
    if not per_image:
        return [pixels] if pixels else []
    by_image = itertools.groupby(pixels, key=lambda pixel: pixel.place[0])
    return [list(group) for _, group in by_image]


def chosen_classes(group: list[Pixel], num_classes: int, classes: str, background: bool) -> list:
    present = {pixel.label for pixel in group}
    chosen = range(num_classes) if classes == "all" else sorted(present)
    return [c for c in chosen if c or background]


def over_groups(losses_of_group):
    """Twin of a loss that is a mean over groups of pixels, of those with a chosen class.

    `losses_of_group(group, chosen, **kwargs)` yields parts of the loss of a group: a share, the
    classes c of the part with a list of slopes by p[c] of the group's pixels, and the value.
    """

    def twin(logits, target, ignore=255, classes="present", per_image=False, background=True,
             **kwargs):  # fmt: skip
        num_classes, pixels = logits.shape[1], valid_pixels(logits, target, ignore)
        groups = [
            (group, chosen) for group in groups_of(pixels, per_image)
            if (chosen := chosen_classes(group, num_classes, classes, background))
        ]  # fmt: skip
        value, slopes = 0.0, []
        for group, chosen in groups:
            by_log_p = [np.zeros(num_classes) for _ in group]
            for share, loss, by_class in losses_of_group(group, chosen, **kwargs):
                value += share / len(groups) * loss
                for c, by_p in by_class.items():
                    for pixel, slope, s in zip(group, by_log_p, by_p, strict=True):
                        slope[c] += share / len(groups) * s * pixel.p[c]
            slopes += zip(group, by_log_p, strict=True)
        return value, gradient_by_logits(logits.shape, slopes)

    return twin


def region_losses(fraction):
    """Losses 1 - upper / lower of one class each, or of weighted sums over classes.

    `fraction(p, t, power, **kwargs)` is upper and lower of a class, and their slopes by each p, and
    the part of smooth that both get.
    """

    def losses(group, chosen, average="macro", smooth=1e-5, squared=False, gamma=1.0, **kwargs):
        truth = {c: [float(pixel.label == c) for pixel in group] for c in chosen}
        parts = {
            c: fraction([pixel.p[c] for pixel in group], truth[c], 2 if squared else 1, **kwargs)
            for c in chosen
        }
        weights = dict.fromkeys(chosen, 1.0)
        if average == "generalised":  # smooth is in units of the rarest class
            sizes = {c: sum(truth[c]) for c in chosen}
            least = min((size for size in sizes.values() if size), default=1)
            weights = {c: least**2 / (size or least) ** 2 for c, size in sizes.items()}
        for together in [[c] for c in chosen] if average == "macro" else [chosen]:
            added = smooth * parts[together[0]][4]
            upper = added + sum(weights[c] * parts[c][0] for c in together)
            lower = added + sum(weights[c] * parts[c][1] for c in together)
            unmatched = 1 - upper / lower
            factor = 1.0
            if gamma != 1:
                unmatched = max(unmatched, 0)
                factor = unmatched ** (1 / gamma - 1) / gamma if unmatched else 0.0
                unmatched = unmatched ** (1 / gamma)
            by_class = {
                c: [
                    -factor * weights[c] * (u * lower - upper * v) / lower**2
                    for u, v in zip(parts[c][2], parts[c][3], strict=True)
                ]
                for c in together
            }
            yield 1 / len(chosen) if average == "macro" else 1.0, unmatched, by_class

    return losses


def tversky_fraction(p, t, power, alpha=0.3, beta=0.7):
    both = sum(a * b for a, b in zip(p, t, strict=True))
    only_p, only_t = sum(a**power for a in p) - both, sum(t) - both
    by_lower = [
        b + alpha * (power * a ** (power - 1) - b) - beta * b for a, b in zip(p, t, strict=True)
    ]
    return both, both + alpha * only_p + beta * only_t, t, by_lower, 0.5


def dice_fraction(p, t, power):
    upper = 2 * sum(a * b for a, b in zip(p, t, strict=True))
    by_lower = [power * a ** (power - 1) for a in p]
    return upper, sum(a**power for a in p) + sum(t), [2 * b for b in t], by_lower, 1


def jaccard_fraction(p, t, power):
    both = sum(a * b for a, b in zip(p, t, strict=True))
    by_lower = [power * a ** (power - 1) - b for a, b in zip(p, t, strict=True)]
    return both, sum(a**power for a in p) + sum(t) - both, t, by_lower, 0.5


def lovasz_losses(group, chosen):
    for c in chosen:
        loss, slopes = lovasz_of_class(group, c)
        yield 1 / len(chosen), loss, {c: slopes}


def lovasz_of_class(group, c):
    """Errors from the largest on, each times what it adds to the Jaccard loss of those before."""
    signs = [-1 if pixel.label == c else 1 for pixel in group]
    errors = [
        pixel.p[c] if s > 0 else 1 - pixel.p[c] for pixel, s in zip(group, signs, strict=True)
    ]
    in_class = signs.count(-1)
    loss, slopes, missed, added, before = 0.0, [0.0] * len(group), 0, 0, 0.0
    for i in sorted(range(len(group)), key=lambda i: -errors[i]):
        missed += signs[i] < 0
        added += signs[i] > 0
        jaccard = 1 - (in_class - missed) / (in_class + added)
        loss += errors[i] * (jaccard - before)
        slopes[i] = signs[i] * (jaccard - before)
        before = jaccard
    return loss, slopes


def lovasz_twin(logits, target, ignore=255, per_image=True, **kwargs):
    return over_groups(lovasz_losses)(logits, target, ignore, per_image=per_image, **kwargs)


# ---- skeletons

CROSS = [(0, 0), (0, 1), (0, -1), (1, 0), (-1, 0)]
SQUARE = list(itertools.product((-1, 0, 1), repeat=2))


def skeleton(values: dict[tuple, float], iterations: int) -> dict[tuple, tuple[float, dict]]:
    """Return the soft skeleton of values by place: for each its value and slopes by the values.

    A minimum or maximum is always the value of some place, so maps of places are thinned.
    """
    found = {place: (0.0, {}) for place in values}
    level = {place: place for place in values}
    for _ in range(iterations + 1):
        thinner = {q: min(near(q, CROSS, level), key=values.__getitem__) for q in values}
        opened = {q: max(near(q, SQUARE, thinner), key=values.__getitem__) for q in values}
        for q, (s, slopes) in found.items():
            removed = values[level[q]] - values[opened[q]]
            if removed > 0:
                slopes = {place: slope * (1 - removed) for place, slope in slopes.items()}
                for place, sign in ((level[q], 1), (opened[q], -1)):
                    slopes[place] = slopes.get(place, 0) + sign * (1 - s)
                found[q] = s + (1 - s) * removed, slopes
        level = thinner
    return found


def near(place: tuple, steps: list[tuple], level: dict[tuple, tuple]) -> list[tuple]:
    n, y, x = place
    return [level[n, y + v, x + h] for v, h in steps if (n, y + v, x + h) in level]


def cldice_losses(group, chosen, iterations=3, smooth=1.0):
    places = [pixel.place for pixel in group]
    for c in chosen:
        p = {pixel.place: float(pixel.p[c]) for pixel in group}
        t = {pixel.place: float(pixel.label == c) for pixel in group}
        thin_p, thin_t = skeleton(p, iterations), skeleton(t, iterations)
        of_p = sum(s for s, _ in thin_p.values()) + smooth
        of_t = sum(s for s, _ in thin_t.values()) + smooth
        precision = (sum(s * t[q] for q, (s, _) in thin_p.items()) + smooth) / of_p
        sensitivity = (sum(s * p[q] for q, (s, _) in thin_t.items()) + smooth) / of_t
        both = precision + sensitivity
        by_precision, by_sensitivity = -2 * (sensitivity / both) ** 2, -2 * (precision / both) ** 2
        by_p = {q: by_sensitivity * s / of_t for q, (s, _) in thin_t.items()}
        for q, (_, slopes) in thin_p.items():
            for place, slope in slopes.items():
                by_p[place] += by_precision * (t[q] - precision) / of_p * slope
        loss = 1 - 2 * precision * sensitivity / both
        yield 1 / len(chosen), loss, {c: [by_p[q] for q in places]}


def cldice_twin(logits, target, ignore=255, background=False, **kwargs):
    return over_groups(cldice_losses)(logits, target, ignore, background=background, **kwargs)


TWINS = {
    "ce": pixel_twin("ce"),
    "focal": pixel_twin("focal"),
    "ghm": pixel_twin("ghm"),
    "poly": pixel_twin("poly"),
    "border": pixel_twin("border"),
    "ohem": mining_twin("ohem"),
    "topk": mining_twin("topk"),
    "dice": over_groups(region_losses(dice_fraction)),
    "tversky": over_groups(region_losses(tversky_fraction)),
    "jaccard": over_groups(region_losses(jaccard_fraction)),
    "lovasz": lovasz_twin,
    "cldice": cldice_twin,
}


def sum_twin(parts: list[tuple], logits, target, ignore=255) -> tuple:
    """Return the weighted sum of (weight, name, arguments): value and gradient."""
    found = [(w, TWINS[name](logits, target, ignore, **kwargs)) for w, name, kwargs in parts]
    return sum(w * value for w, (value, _) in found), sum(w * slope for w, (_, slope) in found)
