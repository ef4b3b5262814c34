"""Every network, from its own tensors through the engines and the detector: shapes, conventions, weights on disk."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from torch import nn

from superpoint_ros.detector import Detector
from superpoint_ros.engines import load_engine, openvino
from superpoint_ros.keypoints import KeypointSettings, select_cell_keypoints
from superpoint_ros.networks import (
    KP2D,
    CellNetwork,
    GoodPoint,
    GoodPointConfig,
    KP2DConfig,
    SuperPoint,
    SuperPointConfig,
    UnsuperPoint,
    UnsuperPointConfig,
    WeightsError,
    cell_centres,
    fold_batch_norm,
    load_network,
    save_network,
    score_map,
)
from superpoint_ros.networks.family import soft_peak
from superpoint_ros.networks.kp2d import OutlierNetwork
from superpoint_ros.networks.layers import FineLogits

WIDTHS = (4, 4, 6, 6, 8, 8, 8, 8)
MAKERS = {
    'superpoint': lambda head: SuperPoint(SuperPointConfig(WIDTHS, 8, 12, head)),
    'goodpoint': lambda head: GoodPoint(GoodPointConfig(WIDTHS, 8, 12, head)),
    'unsuperpoint': lambda head: UnsuperPoint(UnsuperPointConfig(WIDTHS, 8, 12, head)),
    'kp2d': lambda head: KP2D(KP2DConfig(WIDTHS, 8, 12, outlier_width=4, detector_head=head)),
    'kp2d coarse': lambda head: KP2D(
        KP2DConfig(WIDTHS, 8, 12, cross_ratio=1.0, upsample=False, outlier_width=0, detector_head=head)
    ),
}
FAMILIES = list(MAKERS)
CELLS = FAMILIES[2:]
CONFIGURATIONS = [('torch', 'float32', 1e-4), ('torch', 'bfloat16', 0.1)]
if openvino is not None:
    CONFIGURATIONS += [('openvino', 'float32', 1e-4), ('openvino', 'auto', 0.1)]
ENGINES = ['torch', *(['openvino'] if openvino is not None else [])]


def make(family, head='skip'):
    """Random weights and, unlike a fresh network's, random BatchNorm statistics."""
    torch.manual_seed(0)
    network = MAKERS[family](head).eval().requires_grad_(False)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0, 0.5)
            nn.init.uniform_(module.running_var, 0.3, 3)
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.normal_(module.bias, 0, 0.3)
    return network


@cache
def detector_of(family, engine):
    return Detector(make(family), KeypointSettings(levels=1), engine=engine, device='cpu', precision='float32')


def picture(height, width, seed=0):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 4 + 1, width // 4 + 1), dtype=np.uint8)
    return np.kron(coarse, np.ones((4, 4), np.uint8))[:height, :width]


@pytest.mark.parametrize('head', ['plain', 'skip'])
@pytest.mark.parametrize('family', FAMILIES)
def test_outputs_have_the_promised_shapes(family, head):
    network = make(family, head)
    output = network(torch.rand(2, 1, 24, 40))
    stride = network.descriptor_stride
    assert output[-1].shape == (2, 12, 24 // stride, 40 // stride)
    if isinstance(network, CellNetwork):
        scores, offsets, _ = output
        assert scores.shape == (2, 3, 5)
        assert ((scores > 0) & (scores < 1)).all()
        assert offsets.shape == (2, 3, 5, 2)
    else:
        assert score_map(output[0]).shape == (2, 24, 40)
    assert all(tensor.isfinite().all() for tensor in output)


def test_without_a_dustbin_the_probabilities_of_a_cell_add_up_to_one():
    scores = score_map(make('goodpoint')(torch.rand(1, 1, 24, 40))[0])
    sums = scores.reshape(1, 3, 8, 5, 8).sum((2, 4))
    torch.testing.assert_close(sums, torch.ones_like(sums))


def test_a_fresh_goodpoint_prefers_no_pixel_of_a_cell():
    """Its score map moves with the picture, by single pixels, but for what the borders of cells cut."""
    torch.manual_seed(0)
    network = GoodPoint(GoodPointConfig(WIDTHS, 8, 12, 'skip', 'none')).eval()
    scene = torch.from_numpy(picture(64, 80))[None, None].float() / 255
    logits, moved = (
        nn.functional.pixel_shuffle(network(view)[0], 8)[0, 0] for view in (scene[..., :64], scene[..., 3:67])
    )
    torch.testing.assert_close(logits[8:-8, 11:-8], moved[8:-8, 8:-11])
    assert logits.std() > 1e-3


@pytest.mark.parametrize(('family', 'reach'), [('unsuperpoint', 4.0), ('kp2d', 7.0), ('kp2d coarse', 3.5)])
def test_a_keypoint_reaches_as_far_from_its_cells_centre_as_its_paper_says(family, reach):
    """The position head is driven to its ends; KP2D's then lie beyond the borders of the cell, at 4."""
    network = make(family, 'plain')
    for sign in (-1, 1):
        nn.init.constant_(network.position[1].bias, sign * 1e3)
        offsets = network(torch.rand(1, 1, 16, 16))[1]
        torch.testing.assert_close(offsets, torch.full_like(offsets, sign * reach))


def test_the_soft_peak_of_a_sure_pixel_is_that_pixel():
    values = torch.full((1, 64, 1, 2), -50.0)
    values[0, 3 * 8 + 6, 0, 0] = 50
    values[0, 0, 0, 1] = 50
    height, where = soft_peak(values)
    assert where.tolist() == [[[[2.5, -0.5], [-3.5, -3.5]]]]
    torch.testing.assert_close(height, torch.full((1, 1, 2), 50 - np.log(64)))


@pytest.mark.parametrize('family', CELLS)
def test_the_surest_keypoints_do_not_tie(family):
    network = make(family, 'plain')
    scores = []
    for sureness in (17.0, 20.0, 24.0):
        nn.init.zeros_(network.score[1].weight)
        nn.init.constant_(network.score[1].bias, sureness)
        scores.append(float(network(torch.rand(1, 1, 8, 8))[0]))
    assert 0.999 < scores[0] < scores[1] < scores[2] < 1


@pytest.mark.parametrize('family', CELLS)
def test_heads_with_skips_start_at_the_peak_of_their_cell(family):
    """With the coarse heads silent the keypoint is where the fine values peak: nothing is half a pixel off."""
    network = make(family)
    for head in (network.score, network.position):
        nn.init.zeros_(head[1].weight)
        nn.init.zeros_(head[1].bias)

    class Given(nn.Module):
        def forward(self, _):
            values = torch.full((1, 64, 2, 2), -50.0)
            values[0, 5 * 8 + 1] = 50
            return values

    network.skips = Given()
    scores, offsets, _ = network(torch.rand(1, 1, 16, 16))
    torch.testing.assert_close(offsets, torch.tensor([-2.5, 1.5]).expand(1, 2, 2, 2), atol=0.05, rtol=0)
    assert (scores > 0.99).all()


def test_fine_values_are_aligned_with_their_pixels():
    """Each resolution's features hold the pixel rows; a cell must then hold its own rows in raster order."""
    fine = FineLogits((1, 1, 1), kernel=1).requires_grad_(False)
    for conv in fine:
        nn.init.zeros_(conv.weight)
        nn.init.zeros_(conv.bias)
    nn.init.ones_(fine[0].weight)
    rows = torch.arange(16.0)[None, None, :, None].expand(1, 1, 16, 24)
    in_cells = fine([rows, torch.zeros(1, 1, 8, 12), torch.zeros(1, 1, 4, 6)])
    assert in_cells.shape == (1, 64, 2, 3)
    assert in_cells[0, :, 1, 2].tolist() == [8.0 + index // 8 for index in range(64)]


@pytest.mark.parametrize('sides', [(1, 2, 4), (2, 4)])
@pytest.mark.parametrize('kernel', [1, 3])
@pytest.mark.parametrize('turning', [False, True])
def test_fine_values_by_cells_are_those_by_pixels(sides, kernel, turning):
    torch.manual_seed(0)
    holder = nn.Sequential(FineLogits([4 * side for side in sides], kernel, turning, sides))
    features = [torch.rand(2, 4 * side, 16 // side, 24 // side) for side in sides]
    by_cells = fold_batch_norm(holder)
    assert {conv.stride for conv in by_cells[0]} == {(8 // side, 8 // side) for side in sides}
    torch.testing.assert_close(by_cells(features), holder(features))


def test_cell_centres_follow_the_pixel_convention():
    assert cell_centres(2, 3)[1, 2].tolist() == [8 * 2.5 - 0.5, 8 * 1.5 - 0.5]


@pytest.mark.parametrize('family', FAMILIES)
def test_folding_batch_norm_is_exact(family):
    network, image = make(family), torch.rand(1, 1, 48, 64)
    folded = fold_batch_norm(network)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    for expected, actual in zip(network(image), folded(image), strict=True):
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize('family', FAMILIES)
def test_weights_say_which_network_they_are(family, tmp_path):
    network = make(family)
    save_network(network.half().float(), tmp_path / 'w.safetensors', {'recipe': 'none'})
    loaded = load_network(tmp_path / 'w.safetensors', fold=False)
    assert type(loaded) is type(network)
    assert loaded.config == network.config
    assert loaded.metadata['architecture'] == family.split()[0]
    image = torch.rand(1, 1, 16, 24)
    for expected, actual in zip(network(image), loaded(image), strict=True):
        torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize('config', [UnsuperPointConfig, KP2DConfig, GoodPointConfig])
@pytest.mark.parametrize(
    'field', [{'widths': (4,) * 7}, {'norm': 'layer'}, {'detector_head': 'deep'}, {'head_width': 0}]
)
def test_shapes_that_make_no_sense_are_refused_by_name(config, field):
    with pytest.raises(ValueError, match=next(iter(field))):
        replace(config(), **field)


@pytest.mark.parametrize(('engine', 'precision', 'tolerance'), CONFIGURATIONS)
@pytest.mark.parametrize('family', FAMILIES)
def test_every_engine_gives_the_networks_own_maps_at_every_size(family, engine, precision, tolerance):
    network = make(family)
    runner = load_engine(network, engine, 'cpu', precision)
    images = [picture(*size) for size in ((64, 96), (8, 8), (64, 96), (40, 24))]
    for image, maps in zip(images, runner.maps(images), strict=True):
        scores, *offsets, descriptors = network(torch.from_numpy(image)[None, None].float() / 255)
        if not offsets:
            scores = score_map(scores)
            assert maps.offsets is None
        else:
            assert maps.offsets.dtype == np.float32
            np.testing.assert_allclose(maps.offsets, offsets[0][0].numpy(), atol=tolerance * 8)
        assert maps.scores.dtype == np.float32
        np.testing.assert_allclose(maps.scores, scores[0].numpy(), atol=tolerance * float(scores.max()))
        expected = descriptors[0].permute(1, 2, 0).numpy()
        assert maps.descriptors.shape == expected.shape
        np.testing.assert_allclose(maps.descriptors, expected, atol=tolerance * float(np.abs(expected).max()))


@pytest.mark.skipif(openvino is None, reason='OpenVINO is not installed')
@pytest.mark.parametrize('family', ['goodpoint', 'unsuperpoint', 'kp2d'])
def test_int8_is_passed_over_for_leaky_networks_and_refused_when_asked_for(family, monkeypatch):
    monkeypatch.setattr('superpoint_ros.engines.multiplies_int8', lambda: True)
    assert 'int8' not in load_engine(make(family), 'openvino', 'cpu').description
    with pytest.raises(ValueError, match='leaky'):
        load_engine(make(family), 'openvino', 'cpu', 'int8')


def cell_oracle(scores, offsets, shape, settings, mask):
    """One by one, in Python floats: keypoints (x, y) and scores, best first."""
    found = []
    for row in range(len(scores)):
        for column in range(len(scores[0])):
            x = 8 * (column + 0.5) - 0.5 + float(offsets[row, column, 0])
            y = 8 * (row + 0.5) - 0.5 + float(offsets[row, column, 1])
            u, v = int(np.floor(x + 0.5)), int(np.floor(y + 0.5))
            edge = settings.border
            inside = edge <= u < shape[1] - edge and edge <= v < shape[0] - edge
            if inside and scores[row, column] > settings.detection_threshold and (mask is None or mask[v, u]):
                found.append((-scores[row, column], x, y))
    found.sort(key=lambda point: point[0])
    return found[: settings.max_keypoints]


@pytest.mark.parametrize('border', [0, 5])
@pytest.mark.parametrize('seed', range(4))
def test_selection_of_cell_keypoints_equals_that_of_the_oracle(seed, border):
    rng = np.random.default_rng(seed)
    scores = rng.random((4, 6), dtype=np.float32).round(1)  # with ties
    offsets = rng.uniform(-7, 7, (4, 6, 2)).astype(np.float32)
    shape = (29, 43)
    mask = rng.integers(0, 2, shape, dtype=np.uint8) if seed % 2 else None
    settings = KeypointSettings(max_keypoints=9, detection_threshold=0.15, border=border)
    keypoints, best = select_cell_keypoints(scores, offsets, 8, shape, settings, mask)
    expected = cell_oracle(scores, offsets, shape, settings, mask)
    assert keypoints.dtype == best.dtype == np.float32
    np.testing.assert_allclose(
        keypoints.reshape(-1, 2), [point[1:] for point in expected] or np.zeros((0, 2)), atol=1e-4
    )
    np.testing.assert_array_equal(best, [-point[0] for point in expected])


def test_spreading_takes_the_best_of_every_region_first():
    scores = np.linspace(0.5, 0.9, 24, dtype=np.float32).reshape(4, 6)
    settings = KeypointSettings(max_keypoints=2, border=0, spread=24)
    keypoints, _ = select_cell_keypoints(scores, np.zeros((4, 6, 2), np.float32), 8, (32, 48), settings)
    assert len({(x // 24, y // 24) for x, y in keypoints}) == 2


@pytest.mark.parametrize('engine', ENGINES)
@pytest.mark.parametrize('family', FAMILIES)
@pytest.mark.parametrize('shape', [(1, 1), (1, 50), (61, 83), (64, 64)])
def test_features_of_an_image_of_any_size_lie_in_it_sorted_normalised_and_typed(family, engine, shape):
    detector = detector_of(family, engine)
    detector.settings = KeypointSettings(max_keypoints=20, detection_threshold=0.0, border=0)
    features = detector.detect(picture(*shape))
    assert (min(shape) > 8) <= len(features) <= 20  # a keypoint of a cell may lie beyond a very small image
    arrays = features.keypoints, features.scores, features.descriptors
    assert {array.dtype for array in arrays} == {np.dtype(np.float32)}
    assert (np.diff(features.scores) <= 0).all()
    assert (features.keypoints >= -0.5).all()
    assert (features.keypoints <= np.array(shape[::-1]) - 0.5).all()
    assert features.descriptors.shape == (len(features), 12)
    np.testing.assert_allclose(np.linalg.norm(features.descriptors, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize('engine', ENGINES)
@pytest.mark.parametrize('family', FAMILIES)
def test_a_batch_of_unequal_sizes_equals_its_images_one_by_one(family, engine):
    detector = detector_of(family, engine)
    detector.settings = KeypointSettings(max_keypoints=30, detection_threshold=0.0)
    images = [picture(40, 56, 1), picture(40, 56, 2), picture(33, 31, 3)]
    masks = [None, np.zeros((40, 56), bool), None]
    batch = detector.detect_batch(images, masks)
    assert len(batch[1]) == 0
    for features, image, mask in zip(batch, images, masks, strict=True):
        alone = detector.detect(image, mask)
        for name in ('keypoints', 'scores', 'descriptors'):
            np.testing.assert_allclose(getattr(features, name), getattr(alone, name), atol=1e-4)


class PositionNetwork(CellNetwork):
    """A keypoint at a fixed place of each cell; the fine descriptor map holds its own entries' x and y, and 1."""

    descriptor_stride = 4

    def __init__(self):
        super().__init__()
        self.config = KP2DConfig(descriptor_dim=3)

    def forward(self, image):
        brightness = nn.functional.avg_pool2d(image, 8)[:, 0]
        offsets = torch.stack([torch.full_like(brightness, 2.25), torch.full_like(brightness, -5.5)], dim=-1)
        fine = nn.functional.avg_pool2d(image, 4)
        x = torch.cumsum(torch.ones_like(fine), 3) * 4 - 2.5
        y = torch.cumsum(torch.ones_like(fine), 2) * 4 - 2.5
        return brightness, offsets, torch.cat([x, y, torch.ones_like(x)], 1)


@pytest.mark.parametrize('engine', ENGINES)
def test_descriptors_of_a_fine_map_are_sampled_at_the_keypoints(engine):
    """The keypoints lie beyond the border of their cells, and off the lattice."""
    detector = Detector(PositionNetwork(), KeypointSettings(levels=1), engine=engine, device='cpu', precision='float32')
    features = detector.detect(np.full((45, 61), 200, np.uint8))
    assert len(features) > 20
    cells = (features.keypoints - [2.25, -5.5] - 3.5) / 8
    np.testing.assert_allclose(cells, cells.round(), atol=1e-5)
    inside = ((features.keypoints > 4) & (features.keypoints < [56, 40])).all(axis=1)
    measured = features.descriptors[:, :2] / features.descriptors[:, 2:]
    np.testing.assert_allclose(measured[inside], features.keypoints[inside], atol=1e-3)


def test_cells_beyond_the_image_give_nothing():
    """The last cells lie in the padding but for one row and column; their keypoints are left out, the others stay."""
    scores, offsets = np.full((2, 2), 0.5, np.float32), np.zeros((2, 2, 2), np.float32)
    offsets[1, 1] = [-4, -4]
    keypoints, _ = select_cell_keypoints(scores, offsets, 8, (9, 9), KeypointSettings(border=0))
    assert keypoints.tolist() == [[3.5, 3.5], [7.5, 7.5]]


def test_the_outlier_network_does_not_look_at_what_does_not_count():
    torch.manual_seed(0)
    network = OutlierNetwork(8)
    matches, valid = torch.randn(2, 5, 9), torch.rand(2, 9) < 0.6
    judged = network(matches, valid)
    other = torch.where(valid[:, None], matches, torch.randn(2, 5, 9) * 100)
    torch.testing.assert_close(network(other, valid)[valid], judged[valid])
    assert judged.abs().max() < 1
    assert network(matches, torch.zeros_like(valid)).isfinite().all()


def test_unknown_architectures_name_those_known(tmp_path):
    network = make('kp2d')
    network.__class__ = type('Unknown', (KP2D,), {'architecture': 'r2d2'})
    save_network(network, tmp_path / 'w.safetensors', {})
    with pytest.raises(WeightsError, match='superpoint, goodpoint, unsuperpoint, kp2d'):
        load_network(tmp_path / 'w.safetensors')
