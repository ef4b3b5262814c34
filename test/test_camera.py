"""Rays and rectification against the projection they invert, written out by hand."""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from superpoint_ros.camera import Camera, CameraError

WIDTH, HEIGHT = 320, 240
MODELS = {
    'plumb_bob': [-0.283, 0.074, 2e-4, 1.8e-5, 0.0],
    'rational_polynomial': [0.4, 0.1, 1e-4, -2e-4, 0.01, 0.7, 0.2, 0.02],
    'equidistant': [-0.04, 0.01, -0.003, 0.001],
}


def camera_info(model='plumb_bob', d=(), f=200.0, width=WIDTH, height=HEIGHT, **changes):
    k = [f, 0, 160.5, 0, f * 1.01, 118.0, 0, 0, 1]
    fields = {
        'width': width,
        'height': height,
        'distortion_model': model,
        'd': list(d),
        'k': k,
        'r': np.eye(3).ravel().tolist(),
        'p': [*k[:3], 0, *k[3:6], 0, *k[6:], 0],
        'binning_x': 0,
        'binning_y': 0,
        'roi': SimpleNamespace(x_offset=0, y_offset=0, width=0, height=0),
    }
    return SimpleNamespace(**(fields | changes))


def project(rays: np.ndarray, model: str, d: list[float], k: list[float]) -> np.ndarray:
    """[N, 3] -> [N, 2] pixels, from the models' published formulas."""
    x, y = (rays[:, :2] / rays[:, 2:]).astype(np.float64).T
    r2 = x * x + y * y
    if model == 'equidistant':
        r = np.sqrt(r2)
        theta = np.arctan(r)
        bent = theta * (1 + sum(c * theta ** (2 * i + 2) for i, c in enumerate(d)))
        scale = np.divide(bent, r, out=np.ones_like(r), where=r > 0)
        x, y = x * scale, y * scale
    else:
        k1, k2, p1, p2, k3, *denominator = d
        radial = 1 + k1 * r2 + k2 * r2**2 + k3 * r2**3
        radial /= 1 + sum(c * r2 ** (i + 1) for i, c in enumerate(denominator))
        x, y = (
            x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x),
            y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y,
        )
    return np.stack((k[0] * x + k[2], k[4] * y + k[5]), axis=1)


@pytest.mark.parametrize('model', MODELS)
def test_rays_project_back_onto_their_pixels(model):
    info = camera_info(model, MODELS[model])
    x, y = np.meshgrid(np.linspace(0, WIDTH - 1, 17), np.linspace(0, HEIGHT - 1, 13))
    pixels = np.stack((x.ravel(), y.ravel()), axis=1).astype(np.float32)
    rays = Camera.from_info(info).rays(pixels)
    assert rays.dtype == np.float32
    assert (rays[:, 2] == 1).all()
    np.testing.assert_allclose(project(rays, model, MODELS[model], info.k), pixels, atol=0.01)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 85), st.floats(-180, 180)), min_size=1, max_size=20),
    st.sampled_from([[-0.04, 0.01, -0.003, 0.001], [0.1, -0.05, 0.02, -0.003], [0.0, 0.0, 0.0, 0.0]]),
)
def test_fisheye_rays_invert_opencvs_projection_up_to_85_degrees(directions, d):
    info = camera_info('equidistant', d)
    angle, turn = np.radians(directions).T
    ideal = np.tan(angle)[:, None] * np.stack((np.cos(turn), np.sin(turn)), axis=1)
    points = np.insert(ideal, 2, 1, axis=1)[:, None]
    pixels, _ = cv2.fisheye.projectPoints(points, np.zeros(3), np.zeros(3), np.reshape(info.k, (3, 3)), np.float64(d))
    rays = Camera.from_info(info).rays(pixels[:, 0])
    np.testing.assert_allclose(np.arctan(np.linalg.norm(rays[:, :2], axis=1)), angle, atol=1e-5)
    np.testing.assert_allclose(rays[:, :2], ideal, rtol=1e-4, atol=1e-5)


def test_without_distortion_a_ray_is_the_pinhole_ray():
    rays = Camera.from_info(camera_info('plumb_bob', [0, 0, 0, 0, 0])).rays(
        np.float32([[160.5, 118.0], [360.5, 320.0]])
    )
    np.testing.assert_allclose(rays, [[0, 0, 1], [1, 1, 1]], atol=1e-6)


def test_no_keypoints_have_no_rays():
    for model, d in MODELS.items():
        assert Camera.from_info(camera_info(model, d)).rays(np.zeros((0, 2), np.float32)).shape == (0, 3)


def test_a_pixel_that_no_ray_reaches_has_nan():
    camera = Camera.from_info(camera_info('equidistant', MODELS['equidistant'], f=60.0))
    rays = camera.rays(np.float32([[160, 118], [0, 0]]))  # the corner looks behind the camera
    assert np.isfinite(rays[0]).all()
    assert np.isnan(rays[1]).all()


def test_an_uncalibrated_camera_is_none():
    assert Camera.from_info(camera_info(k=[0.0] * 9, p=[0.0] * 12)) is None


@pytest.mark.parametrize(
    ('changes', 'reason'),
    [
        ({'distortion_model': 'spherical'}, 'spherical'),
        ({'d': [0.1, 0.2, 0.3]}, '3'),
        ({'d': [np.nan, 0, 0, 0, 0]}, 'finite'),
        ({'k': [-5.0, 0, 1, 0, 5, 1, 0, 0, 1]}, 'focal'),
        ({'k': [np.nan, 0, 1, 0, 5, 1, 0, 0, 1]}, 'The k of camera_info'),
        ({'p': [5, 0, 1, 0, 0, np.inf, 1, 0, 0, 0, 1, 0]}, 'The p of camera_info'),
        ({'p': [5, 0, 1, np.nan, 0, 5, 1, 0, 0, 0, 1, 0]}, 'The p of camera_info'),
        ({'r': [1, 0, 0, 0, np.nan, 0, 0, 0, 1]}, 'The r of camera_info'),
        ({'r': [1, 0, 0, 0, 1, 0, 0, 0, 0]}, 'no rotation'),
        ({'r': [2, 0, 0, 0, 2, 0, 0, 0, 2]}, 'no rotation'),
        ({'r': [1, 0, 0, 0, 1, 0, 0, 0, -1]}, 'no rotation'),
    ],
)
def test_an_impossible_calibration_is_refused_with_the_reason(changes, reason):
    with pytest.raises(CameraError, match=reason):
        Camera.from_info(camera_info(**changes))


@settings(deadline=None)
@given(left=st.integers(0, 50), top=st.integers(0, 50), binning=st.integers(1, 4))
def test_crop_and_binning_leave_the_ray_of_a_scene_point_where_it_is(left, top, binning):
    full = Camera.from_info(camera_info('plumb_bob', MODELS['plumb_bob']))
    roi = SimpleNamespace(x_offset=left, y_offset=top, width=160, height=120)
    part = Camera.from_info(
        camera_info('plumb_bob', MODELS['plumb_bob'], roi=roi, binning_x=binning, binning_y=binning)
    )
    assert (part.width, part.height) == (160 // binning, 120 // binning)
    pixels = np.float32([[5, 7], [30, 20]])
    # A bin covers `binning` pixels; its centre is the mean of theirs.
    in_full = np.float32([left, top]) + pixels * binning + (binning - 1) / 2
    np.testing.assert_allclose(part.rays(pixels), full.rays(in_full), atol=1e-5)


@pytest.mark.parametrize('model', MODELS)
def test_rectified_pixels_see_the_same_rays(model):
    """A picture that shows a function of the ray shows, rectified, that function of the pinhole's ray."""
    info = camera_info(model, MODELS[model])
    camera = Camera.from_info(info)
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    pixels = np.stack((x.ravel(), y.ravel()), axis=1)

    def shade(rays):
        return (127 + 60 * np.sin(6 * rays[:, 0]) + 60 * np.cos(5 * rays[:, 1])).reshape(HEIGHT, WIDTH)

    rectified = camera.rectify(shade(camera.rays(pixels)).astype(np.uint8))
    seen = camera.rectified_mask > 0
    assert seen.mean() > 0.5
    difference = np.abs(rectified - shade(camera.rectified.rays(pixels)))[seen]
    assert difference.max() < 4
    assert camera.rectified.model == 'none'


def test_rectification_uses_p_and_r():
    turn = cv2.Rodrigues(np.float64([0, 0.1, 0]))[0]
    p = [150.0, 0, 150, 0, 0, 150, 110, 0, 0, 0, 1, 0]
    camera = Camera.from_info(camera_info('plumb_bob', MODELS['plumb_bob'], r=turn.ravel().tolist(), p=p))
    assert camera.rectified.focal == 150
    spot = np.zeros((HEIGHT, WIDTH), np.uint8)
    spot[90:93, 200:203] = 255
    y, x = np.nonzero(camera.rectify(spot) > 100)
    ray = turn @ camera.rays(np.float32([[201, 91]]))[0]
    np.testing.assert_allclose([x.mean(), y.mean()], 150 * ray[:2] / ray[2] + [150, 110], atol=0.6)


def test_the_mask_leaves_out_the_edge_that_rectifying_makes():
    # It asks for pixels outside the picture.
    barrel = Camera.from_info(camera_info('plumb_bob', [0.3, 0, 0, 0, 0]))
    unseen = barrel.rectify(np.full((HEIGHT, WIDTH), 255, np.uint8)) == 0
    assert unseen.any()
    near_unseen = cv2.dilate(unseen.astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
    assert not (barrel.rectified_mask[near_unseen] > 0).any()
    assert Camera.from_info(camera_info()).rectified_mask.all()


@pytest.mark.parametrize('yaw', [0.0, 0.2])
def test_a_rectified_picture_does_not_show_the_scene_twice_where_the_lens_model_turns_back(yaw):
    """KITTI's lens, fitted to what it sees, and a view twice as wide."""
    R = cv2.Rodrigues(np.array([0, yaw, 0]))[0]
    K = np.array([[984.2, 0, 690], [0, 980.8, 233.2], [0, 0, 1]])
    P = K.copy()
    P[:2, :2] /= 2
    camera = Camera(K, np.array([-0.3728, 0.2037, 0.0022, 0.0014, -0.0723]), 'plumb_bob', 1392, 512, R, P)
    spot = np.zeros((512, 1392), np.uint8)
    spot[448:457, 1363:1372] = 255  # the middle is shown at (1104, 337), and beyond the fold at (1367, 401) again
    y, x = np.nonzero(camera.rectify(spot) > 60)
    np.testing.assert_allclose([x.mean(), y.mean()], camera.rectify_points(np.array([[1367.0, 452]]))[0], atol=1)
    assert np.ptp(x) < 30
    seen = camera.rectified_mask > 0
    y, x = np.mgrid[0:512, 0:1392]
    rays = np.stack([(x - P[0, 2]) / P[0, 0], (y - P[1, 2]) / P[1, 1], np.ones(x.shape)], axis=2)[seen] @ R
    rays = rays[:, :2] / rays[:, 2:]
    np.testing.assert_allclose(camera.rays(camera.project(rays))[:, :2], rays, atol=0.01)
    assert seen.mean() > 0.3


def test_what_is_behind_the_camera_is_not_in_a_rectified_picture():
    back = cv2.Rodrigues(np.array([0, 3.0, 0]))[0]
    info = camera_info('plumb_bob', MODELS['plumb_bob'], r=back.ravel().tolist())
    camera = Camera.from_info(info)
    assert not camera.rectify(np.full((HEIGHT, WIDTH), 255, np.uint8)).any()
    assert not camera.rectified_mask.any()


@pytest.mark.parametrize('model', MODELS)
def test_projection_inverts_rays_and_knows_how_fast_pixels_move(model):
    camera = Camera.from_info(camera_info(model, MODELS[model]))
    pixels = np.random.default_rng(0).uniform([20, 20], [WIDTH - 20, HEIGHT - 20], (50, 2))
    rays = camera.rays(pixels)[:, :2].astype(float)
    np.testing.assert_allclose(camera.project(rays), pixels, atol=0.01)
    assert camera.project(rays[:0]).shape == (0, 2)
    assert camera.pixels_per_ray(rays[:0]).shape == (0, 2, 2)
    step = np.array([0.002, -0.001])
    moved = camera.project(rays + step) - camera.project(rays - step)
    np.testing.assert_allclose(camera.pixels_per_ray(rays) @ (2 * step), moved, atol=0.01)


def test_focal_is_the_mean_of_both():
    assert Camera.from_info(camera_info(f=100.0)).focal == pytest.approx(100.5)
