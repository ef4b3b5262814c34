"""Losses as the recipes put them together, and their totals, against loops in float64 over two pairs of views."""

import numpy as np
import pytest
import torch
from pair_losses import batch_of
from test_kp2d_losses import Oracle
from torch import nn

from superpoint_training.examples import PairsConfig
from superpoint_training.recipes.goodpoint import GoodPointTraining, goodpoint_losses
from superpoint_training.recipes.kp2d import KP2DTraining, kp2d_losses
from superpoint_training.recipes.superpoint import SuperPointTraining, superpoint_losses
from superpoint_training.recipes.unsuperpoint import UnsuperPointTraining, unsuperpoint_losses

HOMOGRAPHIES = torch.tensor([
    [[1.0, 0, 5.3], [0, 1, -2.4], [0, 0, 1]],
    [[1.1, 0.05, -3.2], [-0.04, 1.08, 2.7], [-2e-3, -1e-3, 1]],
])  # fmt: skip
QUESTION = torch.tensor([0.1, -0.2, 0.3, 0.4, -0.5])


class Given(nn.Module):
    """Answers a picture of one grey with what it holds for pictures of that width and grey."""

    descriptor_stride = 4

    def __init__(self, answers, outliers=None):
        super().__init__()
        self.answers, self.outliers = answers, outliers

    def forward(self, pictures):
        greys = (pictures[:, 0, 0, 0] * 255).round().long()
        return tuple(part[greys] for part in self.answers[pictures.shape[-1]])


class View:
    """What a batch and a network say about the first (a) or second (b) view of a pair, in float64."""

    def __init__(self, network, batch, pair, name):
        self.valid = batch[f'valid_{name}'][pair].numpy()
        self.size = 8 * np.array(self.valid.shape[::-1])
        self.labels = batch[f'cells_{name}'][pair].numpy()
        self.expected = doubles(batch[f'expected_{name}'][pair])
        self.given = doubles(batch[f'points_{name}'][pair, batch['points_valid'][pair]])
        grey = int(batch[f'image_{name}'][pair, 0, 0, 0])
        answer, *offsets, self.dense = (doubles(part[grey]) for part in network.answers[self.size[0]])
        if offsets:
            self.scores, self.counted = answer.ravel(), np.flatnonzero(self.valid)
            self.relative = offsets[0].reshape(-1, 2) / 8 + 0.5
            self.points = offsets[0].reshape(-1, 2) + centres(*self.valid.shape, 8)
        else:
            self.shares = np.exp(answer) / np.exp(answer).sum(0)
            self.heatmap = np.empty(self.size[::-1])
            for channel in range(64):
                self.heatmap[channel // 8 :: 8, channel % 8 :: 8] = self.shares[channel]

    def shows(self, point):
        return all(0 <= at <= side - 1 for at, side in zip(point, self.size, strict=True))

    def counts(self, point):
        return self.shows(point) and self.valid[round(point[1]) // 8, round(point[0]) // 8]

    def describe(self, point):
        return described(self.dense, point, self.size[0])

    def keypoints(self, side):
        for top, left in np.ndindex(*self.size[::-1] // side):
            square = self.heatmap[top * side :, left * side :][:side, :side]
            y, x = np.unravel_index(square.argmax(), square.shape)
            yield np.array([left * side + x, top * side + y])


def doubles(tensor):
    return tensor.double().numpy()


def centres(rows, columns, stride):
    return [np.array([x, y]) * stride + (stride - 1) / 2 for y in range(rows) for x in range(columns)]


def move(homography, point):
    x, y, depth = homography @ [*point, 1]
    return np.array([x, y]) / depth


def apart(point, other):
    return np.hypot(*(point - other))


def bilinear(values, place):
    rows, columns = values.shape[-2:]
    x, y = np.clip(place, 0, [columns - 1, rows - 1])
    left, top = min(int(x), columns - 2), min(int(y), rows - 2)
    upper, lower = (values[..., row, left : left + 2] @ [left + 1 - x, x - left] for row in (top, top + 1))
    return upper * (top + 1 - y) + lower * (y - top)


def described(dense, point, width):
    sampled = bilinear(dense, (point + 0.5) * dense.shape[-1] / width - 0.5)
    return sampled / np.linalg.norm(sampled)


def blurred(heatmap, sigma):
    """By a Gaussian of height 1, and its sum."""
    steps = np.arange(-round(3 * sigma), round(3 * sigma) + 1)
    bell = np.exp(-(steps[:, None] ** 2 + steps**2) / (2 * sigma**2))
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(heatmap, len(steps) // 2), bell.shape)
    return (windows * bell).sum((2, 3)), bell.sum()


def mean(values):
    return float(np.mean(values)) if len(values) else 0.0


def some(*shape, scale=1.0, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * scale


def batch_with(rows=4, columns=6):
    """First views of greys 0 and 1, second ones of 2 and 3; the first pair's picture has no texture."""
    greys = torch.arange(4, dtype=torch.uint8).reshape(2, 2, 1, 1, 1).expand(2, 2, 1, 8 * rows, 8 * columns)
    textured = torch.tensor([False, True])
    batch = {'described': textured, 'points_valid': (some(2, 20, seed=4) < 0.8) & textured[:, None]}
    for seed, name in enumerate('ab'):
        batch[f'valid_{name}'] = some(2, rows, columns, seed=10 + seed) < 0.85
        batch[f'cells_{name}'] = some(2, rows, columns, scale=65, seed=20 + seed).long()
        batch[f'expected_{name}'] = some(2, 8 * rows, 8 * columns, scale=0.031, seed=25 + seed)
        batch[f'points_{name}'] = some(2, 20, 2, seed=30 + seed) * torch.tensor([columns, rows]) * 8 - 0.5
    moved = [[move(each, centre) for centre in centres(rows, columns, 8)] for each in doubles(HOMOGRAPHIES)]
    return batch_of(*greys, HOMOGRAPHIES) | batch | {'centres_in_b': torch.tensor(np.array(moved)).float()}


def descriptor_maps(rows, columns, stride):
    """Waves that the second view shows where the homography leads to, and noise."""
    first = centres(rows, columns, stride)
    views = [first] * 2 + [[move(np.linalg.inv(each), centre) for centre in first] for each in doubles(HOMOGRAPHIES)]
    rng = np.random.default_rng(0)
    waves = np.sin(np.array(views) @ rng.normal(0, 0.15, (2, 6)) + rng.uniform(0, 6, 6))
    noisy = waves + rng.normal(0, 0.3, waves.shape)
    return torch.tensor(noisy).float().transpose(1, 2).reshape(4, 6, rows, columns)


def assert_losses(losses, network, batch, config, weights, of_pair):
    """All are means over both pairs of views, the total is weighted, and none is 0 or like another by accident."""
    by_pair = []
    for pair, homography in enumerate(doubles(batch['a_to_b'])):
        by_pair.append(of_pair(*(View(network, batch, pair, name) for name in 'ab'), homography))
        by_pair[-1]['descriptor'] *= int(batch['described'][pair])
    expected = {name: mean([pair[name] for pair in by_pair]) for name in by_pair[0]}
    assert min(np.diff([0, *sorted(map(abs, expected.values()))])) > 1e-4, expected
    total = sum(weight * expected[name] for name, weight in weights.items())
    actual = {name: value.item() for name, value in losses(network, batch, config).items()}
    assert actual == pytest.approx(expected | {'total': total}, rel=1e-4)


def info_nce(first, second, points, temperature, rivals=None):
    losses = []
    for i, point in enumerate(points):
        others = [j for j in range(len(points)) if j == i or apart(point, points[j]) >= 8]
        forth = [first[i] @ second[j] for j in others] + ([] if rivals is None else [first[i] @ rivals[i]])
        back = [first[j] @ second[i] for j in others]
        for row in (forth, back):
            losses.append(np.log(np.exp(np.array(row) / temperature).sum()) - first[i] @ second[i] / temperature)
    return mean(losses)


def info_nce_at(first, second, points, others, temperature):
    pairs = map(first.describe, points), map(second.describe, others)
    return info_nce(*map(list, pairs), others, temperature)


def cell_network(outliers=None):
    return Given({48: (some(4, 4, 6), some(4, 4, 6, 2, scale=7, seed=6) - 3.5, descriptor_maps(8, 12, 4))}, outliers)


def correspondences(first, second, homography):
    """Of the first's keypoints that both show: which, where in the second, the nearest there, how far from it."""
    for i in first.counted:
        moved = move(homography, first.points[i])
        if second.shows(moved):
            nearest = min(second.counted, key=lambda j: apart(moved, second.points[j]))
            yield i, moved, nearest, apart(moved, second.points[nearest])


def losses_of_cells(first, second, homography, radius):
    """What KP2D has from UnsuperPoint: distance, consistency of scores, scores by distance."""
    near = [(i, j, d) for i, _, j, d in correspondences(first, second, homography) if d <= radius]
    middle = mean([d for *_, d in near])
    consistency = mean([(first.scores[i] - second.scores[j]) ** 2 for i, j, _ in near])
    return middle, consistency, mean([(first.scores[i] + second.scores[j]) / 2 * (d - middle) for i, j, d in near])


def info_nce_of_cells(first, second, homography, config):
    seen = list(correspondences(first, second, homography))
    points, moved = [first.points[i] for i, *_ in seen], [there for _, there, *_ in seen]
    return info_nce_at(first, second, points, moved, config.temperature)


def triplets(first, second, homography, config):
    losses = []
    for i, moved, *_ in correspondences(first, second, homography):
        anchor = first.describe(first.points[i])
        negatives = [second.points[j] for j in second.counted if apart(moved, second.points[j]) >= config.radius]
        hardest = min(np.linalg.norm(anchor - second.describe(point)) for point in negatives)
        losses.append(max(0, np.linalg.norm(anchor - second.describe(moved)) - hardest + config.margin))
    return mean(losses)


def outliers_of(first, second, homography, config):
    errors = []
    seen = sorted(correspondences(first, second, homography), key=lambda each: first.scores[each[0]])
    assert len(seen) > config.outlier_matches
    for i, moved, *_ in seen[: config.outlier_matches]:
        anchor = first.describe(first.points[i])
        distances = {j: np.linalg.norm(anchor - second.describe(second.points[j])) for j in second.counted}
        nearest = min(distances, key=distances.get)
        places = [(point + 0.5) / first.size * 2 - 1 for point in (first.points[i], second.points[nearest])]
        answer = np.concatenate([*places, [distances[nearest]]]) @ doubles(QUESTION)
        errors.append((answer - (1 if apart(moved, second.points[nearest]) > config.radius else -1)) ** 2)
    return mean(errors)


@pytest.mark.parametrize('loss', ['triplet', 'info_nce'])
def test_kp2d_adds_up_its_losses_of_what_counts_in_both_views(loss):
    weights = {'location': 0.7, 'descriptor': 1.9, 'point': 1.3, 'consistency': 2.3, 'outlier': 0.4}
    config = KP2DTraining(
        **{f'{name}_weight': weight for name, weight in weights.items()},
        descriptor_loss=loss, radius=5.0, margin=0.3, temperature=0.2, outlier_matches=6,
    )  # fmt: skip

    def of_pair(*pair):
        location, consistency, point = losses_of_cells(*pair, config.radius)
        descriptor = (triplets if loss == 'triplet' else info_nce_of_cells)(*pair, config)
        return {
            'location': location, 'consistency': consistency, 'point': point, 'descriptor': descriptor,
            'outlier': outliers_of(*pair, config),
        }  # fmt: skip

    network = cell_network(Oracle(lambda asked: torch.einsum('c,bcn->bn', QUESTION, asked)))
    assert_losses(kp2d_losses, network, batch_with(), config, weights, of_pair)


def hinges(first, second, homography, config):
    losses = []
    for i, moved, *_ in correspondences(first, second, homography):
        for point in second.points[second.counted]:
            dot = first.describe(first.points[i]) @ second.describe(point)
            pull = config.positive_weight * max(0, config.positive_margin - dot)
            losses.append(pull if apart(moved, point) <= 8 else max(0, dot - config.negative_margin))
    return mean(losses)


def unevenness(view):
    ramp = np.linspace(0, 1, len(view.counted))[:, None]
    return ((np.sort(view.relative[view.counted], axis=0) - ramp) ** 2).sum() / len(ramp)


def correlation(view):
    r = np.corrcoef([view.describe(point) for point in view.points[view.counted]], rowvar=False)
    return (r**2)[~np.eye(len(r), dtype=bool)].mean()


@pytest.mark.parametrize('loss', ['hinge', 'info_nce'])
def test_unsuperpoint_adds_up_its_losses_of_what_counts_in_both_views(loss):
    weights = {'position': 0.7, 'score': 1.9, 'point': 1.3, 'uniform': 2.3, 'descriptor': 0.4, 'decorrelation': 3.1}
    config = UnsuperPointTraining(
        **{f'{name}_weight': weight for name, weight in weights.items()}, descriptor_loss=loss, radius=5.0,
        positive_weight=2.0, positive_margin=0.9, negative_margin=0.1, temperature=0.2,
    )  # fmt: skip

    def of_pair(first, second, homography):
        position, score, point = losses_of_cells(first, second, homography, config.radius)
        descriptor = (hinges if loss == 'hinge' else info_nce_of_cells)(first, second, homography, config)
        return {
            'position': position, 'score': score, 'point': point, 'descriptor': descriptor,
            'uniform': (unevenness(first) + unevenness(second)) / 2,
            'decorrelation': correlation(first) + correlation(second),
        }  # fmt: skip

    assert_losses(unsuperpoint_losses, cell_network(), batch_with(), config, weights, of_pair)


def agreement(first, second, homography, config):
    """What GoodPoint's keypoints come to: their loss, the descriptors', and the share of them agreed on."""
    points, others = (list(view.keypoints(side)) for view, side in ((first, config.cell), (second, config.other_cell)))
    counted = [j for j, other in enumerate(others) if second.counts(other)]
    logarithms, correct, wrong, random = [], [], [], []
    for i, (point, moved) in enumerate((point, move(homography, point)) for point in points):
        if not (first.counts(point) and second.counts(moved)):
            continue
        similarity = [first.describe(point) @ second.describe(other) for other in others]
        partner = max(counted, key=similarity.__getitem__)
        separation = apart(moved, others[partner])
        if separation <= min(config.radius, *(apart(moved, others[j]) for j in counted)):
            halfway = (moved + others[partner]) / 2
            targets = (first, move(np.linalg.inv(homography), halfway)), (second, halfway)
            logarithms += [np.log(view.heatmap[round(y), round(x)] + 1e-7) for view, (x, y) in targets]
            correct.append(1 - similarity[partner])
        if separation > config.wrong_distance:
            wrong.append(max(0, similarity[partner]))
        random.append(max(0, similarity[(i * len(others) // len(points) + len(others) // 2) % len(others)]))
    assert len(correct) + len(wrong) < len(random)
    return -mean(logarithms), mean(correct) + mean(wrong) + mean(random), len(correct) / len(random)


def heatmaps_apart(first, second, homography, sigma):
    own, other = (each / total for each, total in (blurred(view.heatmap, sigma) for view in (first, second)))
    errors = []
    for y, x in np.ndindex(own.shape):
        moved = move(homography, (x, y))
        if first.counts((x, y)) and second.counts(moved):
            errors.append((own[y, x] - other[round(moved[1]), round(moved[0])]) ** 2)
    return mean(errors)


def info_nce_of_squares(first, second, homography, config):
    pairs = [(move(np.linalg.inv(homography), other), other) for other in second.keypoints(config.other_cell)]
    shared = [pair for pair in pairs if first.counts(pair[0]) and second.counts(pair[1])]
    points, others = zip(*shared, *zip(first.given, second.given, strict=True), strict=True)
    return info_nce_at(first, second, points, others, config.temperature)


@pytest.mark.parametrize('loss', ['three_part', 'info_nce'])
def test_goodpoint_adds_up_its_losses_of_what_counts_in_both_views(loss):
    weights = {'keypoint': 0.7, 'heatmap': 190.0, 'descriptor': 1.3}
    config = GoodPointTraining(
        **{f'{name}_weight': weight for name, weight in weights.items()}, descriptor_loss=loss, temperature=0.2,
        cell=16, other_cell=8, radius=4.0, wrong_distance=12.0, heatmap_sigma=0.7,
    )  # fmt: skip

    def of_pair(*pair):
        keypoint, descriptor, share = agreement(*pair, config)
        if loss == 'info_nce':
            descriptor = info_nce_of_squares(*pair, config)
        heatmap = heatmaps_apart(*pair, config.heatmap_sigma)
        return {'keypoint': keypoint, 'heatmap': heatmap, 'descriptor': descriptor, 'agreed': share}

    network = Given({96: (some(4, 64, 8, 12, scale=14), descriptor_maps(8, 12, 8))})
    assert_losses(goodpoint_losses, network, batch_with(8, 12), config, weights, of_pair)


def unlikeliness(view):
    """Of the labels."""
    return mean([-np.log(view.shares[:, y, x][view.labels[y, x]]) for y, x in np.argwhere(view.valid)])


def dense_hinges(first, second, homography):
    losses, places = [], centres(*first.valid.shape, 8)
    for point in places:
        for other in places:
            if second.counts(np.floor(other)):
                dot = max(0, first.describe(point) @ second.describe(other))
                losses.append(0.05 * (1 - dot) if apart(move(homography, point), other) <= 8 else max(0, dot - 0.2))
    return mean(losses) * len(places)


def unrepeated(first, second, homography, config):
    near = np.minimum(blurred(second.heatmap, config.repeatability_sigma)[0], 1)
    worth = []
    for y, x in np.ndindex(near.shape):
        moved = move(homography, (x, y))
        corners = np.floor(moved) + np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
        if first.counts((x, y)) and all(map(second.counts, corners)):
            worth.append(first.heatmap[y, x] * (bilinear(near, moved) - config.repeatability_price))
    return -64 * mean(worth)


@pytest.mark.parametrize('loss', ['info_nce', 'dense_hinge'])
def test_superpoint_adds_up_its_losses_of_what_counts_in_both_views(loss):
    weights = {'detector': 0.7, 'descriptor': 1.9, 'repeatability': 1.3}
    config = SuperPointTraining(
        **{f'{name}_weight': weight for name, weight in weights.items()}, descriptor_loss=loss, temperature=0.2,
        repeatability_price=0.3, repeatability_sigma=1.0,
    )  # fmt: skip

    def of_pair(first, second, homography):
        back = unrepeated(second, first, np.linalg.inv(homography), config)
        if loss == 'dense_hinge':
            descriptor = dense_hinges(first, second, homography)
        else:
            descriptor = info_nce_at(first, second, first.given, second.given, config.temperature)
        return {
            'detector': (unlikeliness(first) + unlikeliness(second)) / 2, 'descriptor': descriptor,
            'repeatability': (unrepeated(first, second, homography, config) + back) / 2,
        }  # fmt: skip

    network = Given({48: (some(4, 65, 4, 6, scale=9), descriptor_maps(4, 6, 8))})
    assert_losses(superpoint_losses, network, batch_with(), config, weights, of_pair)


def test_superpoint_learns_how_many_keypoints_pixels_are_expected_to_have():
    weights = {'detector': 0.7, 'descriptor': 1.9}
    config = SuperPointTraining(
        pairs=PairsConfig(label_sigma=0.7), detector_weight=0.7, descriptor_weight=1.9, temperature=0.2
    )

    def disagreement(view):
        costs = []
        for row, column in np.argwhere(view.valid):
            expected = view.expected[8 * row :, 8 * column :][:8, :8].ravel()
            expected = np.append(expected, max(0, 1 - expected.sum())) / max(1, expected.sum())
            costs.append(-expected @ np.log(view.shares[:, row, column]))
        return mean(costs)

    def of_pair(first, second, homography):
        descriptor = info_nce_at(first, second, first.given, second.given, config.temperature)
        return {'detector': (disagreement(first) + disagreement(second)) / 2, 'descriptor': descriptor}

    network = Given({48: (some(4, 65, 4, 6, scale=9), descriptor_maps(4, 6, 8))})
    assert_losses(superpoint_losses, network, batch_with(), config, weights, of_pair)


def test_superpoint_compares_points_in_the_level_of_like_size_and_tells_them_from_the_other():
    config = SuperPointTraining(level_negatives=True, detector_weight=0.7, descriptor_weight=1.9, temperature=0.2)
    smaller = descriptor_maps(4, 4, 12) + some(4, 6, 4, 4, seed=9)
    network = Given({48: (some(4, 65, 6, 6, scale=9), descriptor_maps(6, 6, 8)), 32: (smaller, smaller)})
    used = set()

    def of_pair(first, second, homography):
        like, rivals = [], []
        for point, other in zip(first.given, second.given, strict=True):
            corner, right, down = (move(homography, point + offset) for offset in ([0, 0], [1e-3, 0], [0, 1e-3]))
            larger = np.sqrt(abs(np.linalg.det([right - corner, down - corner]))) / 1e-3
            both = [second.describe(other), described(doubles(smaller[3]), other, 48)]
            nearer = int(abs(np.log(larger * 32 / 48)) < abs(np.log(larger)))
            like.append(both[nearer])
            rivals.append(both[1 - nearer])
            used.add(nearer)
        descriptor = info_nce([*map(first.describe, first.given)], like, second.given, 0.2, rivals)
        return {'detector': (unlikeliness(first) + unlikeliness(second)) / 2, 'descriptor': descriptor}

    assert_losses(superpoint_losses, network, batch_with(6, 6), config, {'detector': 0.7, 'descriptor': 1.9}, of_pair)
    assert used == {0, 1}
