"""What the front-end sees of an image, as its calibration and mask say."""

import cv2
import numpy as np
import pytest

pytest.importorskip('rclpy', reason='needs the ROS messages')

from sensor_msgs.msg import CameraInfo

from superpoint_ros.nodes.optics import RECTIFICATIONS, Optics, read_mask

WIDTH, HEIGHT = 160, 120
PIXELS = np.float32([[0, 0], [80, 60], [159, 119]])


def camera_info() -> CameraInfo:
    """A wide lens whose rectified camera, P, has another focal length and centre."""
    return CameraInfo(
        width=WIDTH,
        height=HEIGHT,
        distortion_model='plumb_bob',
        d=[-0.3, 0.08, 0.001, -0.001, 0.0],
        k=[120.0, 0.0, 81.0, 0.0, 121.0, 58.0, 0.0, 0.0, 1.0],
        r=np.eye(3).ravel(),
        p=[100.0, 0.0, 78.0, 0.0, 0.0, 102.0, 61.0, 0.0, 0.0, 0.0, 1.0, 0.0],
    )


def optics(mask: np.ndarray | None = None, calibrated: bool = True) -> tuple[Optics, list[str]]:
    notices: list[str] = []
    made = Optics(mask, lambda cause, message: notices.append(f'{cause}: {message}'))
    if calibrated:
        made.set_info(camera_info())
    return made, notices


def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH), np.uint8)


@pytest.mark.parametrize('rectification', ['rectify', 'rectified'])
def test_a_rectified_image_has_the_rays_of_p_though_camera_info_has_distortion(rectification):
    view = optics()[0].view(picture(), rectification)
    rays = view.camera.rays(PIXELS)
    np.testing.assert_allclose(rays[:, :2], (PIXELS - [78, 61]) / [100, 102], atol=1e-6)


def test_the_rays_of_a_raw_image_are_undistorted():
    rays = optics()[0].view(picture(), 'raw').camera.rays(PIXELS)
    assert np.abs(rays[:, :2] - (PIXELS - [81, 58]) / [120, 121]).max() > 0.05


def test_a_calibration_that_is_given_stays_whatever_comes():
    rays = optics()[0].view(picture(), 'raw').camera.rays(PIXELS)
    given = Optics(None, lambda cause, message: None, camera_info())
    given.set_info(CameraInfo())
    np.testing.assert_array_equal(given.view(picture(), 'raw').camera.rays(PIXELS), rays)
    assert given.status == 'plumb_bob'


def test_only_rectify_changes_the_image():
    image = picture()
    same = {name: np.array_equal(optics()[0].view(image, name).image, image) for name in RECTIFICATIONS}
    assert same == {'raw': True, 'rectify': False, 'rectified': True}


@pytest.mark.parametrize('rectification', RECTIFICATIONS)
def test_without_a_calibration_the_image_is_taken_as_it_is(rectification):
    image = picture()
    view = optics(calibrated=False)[0].view(image, rectification)
    assert view.image is image
    assert view.camera is view.mask is None
    assert not view.is_rectified


def test_rectifying_without_a_calibration_is_warned_of_until_one_comes():
    eyes, notices = optics(calibrated=False)
    for rectification in ('rectify', 'rectified'):
        eyes.view(picture(), rectification)
        assert eyes.warning.endswith(f'though rectification is {rectification}.')
    assert len(notices) == 2
    eyes.view(picture(), 'raw')
    assert eyes.warning == ''
    eyes.view(picture(), 'rectify')
    eyes.set_info(camera_info())
    eyes.view(picture(), 'rectify')
    assert eyes.warning == ''


@pytest.mark.parametrize(
    ('change', 'status', 'reason'),
    [
        ({'width': 640}, 'camera_info of another size', '640x120'),
        ({'distortion_model': 'fun_fair_mirror'}, 'wrong camera_info', 'fun_fair_mirror'),
        ({'d': [0.1] * 3}, 'wrong camera_info', 'takes 4 or 5 coefficients'),
    ],
)
def test_a_calibration_of_no_use_is_warned_of_until_one_fits(change, status, reason):
    eyes, _ = optics(calibrated=False)
    for index in range(2):
        wrong = camera_info()
        for name, value in change.items():
            setattr(wrong, name, value)
        eyes.set_info(wrong)
        assert eyes.view(picture(), 'raw').camera is None
        assert eyes.status == status
        assert reason in eyes.warning
        eyes.set_info([camera_info(), CameraInfo()][index])
        eyes.view(picture(), 'raw')
        assert (eyes.status, eyes.warning) == (['plumb_bob', 'uncalibrated'][index], '')


def test_a_mask_of_another_size_is_not_used_and_said():
    fitting = np.full((HEIGHT, WIDTH), 255, np.uint8)
    assert optics(fitting)[0].view(picture(), 'raw').mask is fitting
    eyes, notices = optics(fitting[:60])
    assert eyes.view(picture(), 'raw').mask is None
    assert eyes.warning == 'The mask has 160x60 pixels, the images have 160x120: it is not used.'
    assert notices == ['mask of another size: The mask has 160x60 pixels, the images have 160x120: it is not used.']


@pytest.mark.parametrize(('name', 'white'), [('mask.jpg', 255), ('mask.png', 255), ('mask.png', 1)])
def test_a_mask_is_what_was_drawn_in_whatever_format(tmp_path, name, white):
    drawn = np.full((120, 160), white, np.uint8)
    cv2.ellipse(drawn, (70, 60), (45, 30), 20, 0, 360, 0, -1)
    cv2.imwrite(str(tmp_path / name), drawn)
    np.testing.assert_array_equal(read_mask(str(tmp_path / name)) != 0, drawn != 0)


def test_a_mask_is_rectified_with_its_image():
    mask = np.full((HEIGHT, WIDTH), 255, np.uint8)
    mask[:20, :20] = 0
    eyes, _ = optics(mask)
    assert eyes.view(picture(), 'rectified').mask is mask
    rectified = eyes.view(picture(), 'rectify').mask
    seen = optics()[0].view(picture(), 'rectify').mask
    assert 0 < (rectified != seen).sum() < 1200
    assert eyes.view(picture(), 'rectify').mask is rectified  # not made anew
    shifted = camera_info()
    shifted.p[2] += 10
    anew, _ = optics(mask, calibrated=False)
    for eye in (eyes, anew):
        eye.set_info(shifted)
    moved = eyes.view(picture(), 'rectify').mask
    np.testing.assert_array_equal(moved, anew.view(picture(), 'rectify').mask)
    assert not np.array_equal(moved, rectified)
