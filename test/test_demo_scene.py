"""The demo's virtual camera: ground truth against brute-force ray casting, pictures against ground truth."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from superpoint_ros.demo.gallery import camera_pose, gallery
from superpoint_ros.demo.scene import Pinhole, Pose, Scene, Surface
from superpoint_ros.demo.sequence import CAMERA, Gallery, remove_recording
from superpoint_ros.recordings import RecordingError

LEVEL = Pose(np.eye(3), np.zeros(3))


@pytest.fixture(scope='module')
def room() -> Scene:
    return gallery()


def cast(scene: Scene, origin: np.ndarray, direction: np.ndarray) -> float:
    """Distance, in lengths of `direction`, to the nearest rectangle that a ray meets, or infinity."""
    nearest = np.inf
    for surface in scene.surfaces:
        normal = np.cross(surface.right, surface.down)
        distance = normal @ (surface.corner - origin) / (normal @ direction)
        offset = origin + distance * direction - surface.corner
        s, t = (offset @ side / (side @ side) for side in (surface.right, surface.down))
        if distance > 0 and 0 <= s <= 1 and 0 <= t <= 1:
            nearest = min(nearest, distance)
    return nearest


@settings(max_examples=20, deadline=None)
@given(time=st.floats(0, 5), seed=st.integers(0, 2**32 - 1))
def test_depth_is_that_of_the_nearest_rectangle_along_the_ray(room: Scene, time: float, seed: int) -> None:
    pose = camera_pose(time)
    pixels = np.random.default_rng(seed).uniform([0, 0], [CAMERA.width - 1, CAMERA.height - 1], (20, 2))
    depths = room.depth(CAMERA, pose, pixels)
    for pixel, depth in zip(pixels, depths, strict=True):
        ray = np.linalg.solve(CAMERA.matrix, [*pixel, 1])
        assert depth == pytest.approx(cast(room, pose.position, pose.rotation @ ray), rel=1e-6)


@settings(max_examples=20, deadline=None)
@given(time=st.floats(0, 4), step=st.floats(0.03, 1.0), seed=st.integers(0, 2**32 - 1))
def test_transfer_follows_the_surface_point_and_sees_what_hides_it(
    room: Scene, time: float, step: float, seed: int
) -> None:
    source, target = camera_pose(time), camera_pose(time + step)
    pixels = np.random.default_rng(seed).uniform([0, 0], [CAMERA.width - 1, CAMERA.height - 1], (20, 2))
    moved, visible = room.transfer(CAMERA, source, target, pixels)
    for pixel, there, seen in zip(pixels, moved, visible, strict=True):
        ray = source.rotation @ np.linalg.solve(CAMERA.matrix, [*pixel, 1])
        point = source.position + cast(room, source.position, ray) * ray
        projected = CAMERA.matrix @ target.rotation.T @ (point - target.position)
        if projected[2] < 0.05:
            assert not seen
            continue
        np.testing.assert_allclose(there, projected[:2] / projected[2], atol=1e-6)
        inside = -0.5 <= there[0] <= CAMERA.width - 0.5 and -0.5 <= there[1] <= CAMERA.height - 0.5
        unhidden = cast(room, target.position, point - target.position) > 0.999
        assert seen == (inside and unhidden)


def test_a_pixel_moves_by_the_focal_length_times_the_shift_over_the_depth() -> None:
    wall = Scene([Surface(np.zeros((8, 8, 3), np.uint8), (-5, -5, 4), (10, 0, 0), (0, 10, 0))])
    camera = Pinhole(64, 48, focal=40.0)
    right = Pose(np.eye(3), np.array([0.2, 0, 0]))
    moved, visible = wall.transfer(camera, LEVEL, right, np.array([[30.0, 20.0], [0.0, 20.0]]))
    np.testing.assert_allclose(moved, [[28, 20], [-2, 20]])
    assert visible.tolist() == [True, False]


def test_a_nearer_rectangle_hides_a_farther_one_in_any_order() -> None:
    white, black = (np.full((16, 16, 3), value, np.uint8) for value in (255, 1))
    near = Surface(white, (-0.5, -0.5, 2), (1, 0, 0), (0, 1, 0))
    far = Surface(black, (-5, -5, 4), (10, 0, 0), (0, 10, 0))
    camera = Pinhole(64, 48, focal=40.0)
    for surfaces in ([near, far], [far, near]):
        picture = Scene(surfaces).render(camera, LEVEL)[..., 0]
        # One metre at two metres' depth covers 20 pixels around the centre (31.5, 23.5).
        assert np.all(picture[14:34, 22:42] == 255)
        assert np.count_nonzero(picture == 255) == 400


def test_transfer_knows_what_a_nearer_rectangle_hides() -> None:
    blank = np.zeros((8, 8, 3), np.uint8)
    panel = Surface(blank, (0.5, -1, 2), (1, 0, 0), (0, 2, 0))
    wall = Surface(blank, (-9, -9, 4), (18, 0, 0), (0, 18, 0))
    camera = Pinhole(64, 48, focal=40.0)
    right = Pose(np.eye(3), np.array([0.4, 0, 0]))
    # The panel covers columns 41.5 to 61.5 at first, 33.5 to 53.5 from the right; the wall moves by 4 columns.
    moved, visible = Scene([panel, wall]).transfer(camera, LEVEL, right, np.array([[40.0, 23], [36, 23], [45, 23]]))
    np.testing.assert_allclose(moved, [[36, 23], [32, 23], [37, 23]])
    assert visible.tolist() == [False, True, True]


@pytest.mark.parametrize('depth', [2.0, 7.0])
def test_a_mark_on_a_texture_appears_where_its_point_projects(depth: float) -> None:
    texture = np.zeros((200, 200, 3), np.uint8)
    texture[80:100, 60:70] = 255
    surface = Surface(texture, (-1, -1, depth), (2, 0, 0.5), (0, 2, 0))
    camera = Pinhole(320, 240, focal=300.0)
    picture = Scene([surface]).render(camera, LEVEL)[..., 0].astype(float)
    centre = surface.corner + 0.325 * surface.right + 0.45 * surface.down
    y, x = np.indices(picture.shape)
    centroid = [np.average(x, weights=picture), np.average(y, weights=picture)]
    np.testing.assert_allclose(centroid, camera.project(centre[None])[0], atol=0.1)


def test_a_frame_is_neither_shifted_nor_early() -> None:
    """Blur and smoothing leave it where an instantaneous picture of the stamped moment is."""
    sequence = Gallery()
    for index in (40, 95):
        sharp = sequence.scene.render(CAMERA, camera_pose(index / 30))
        frame, sharp = (
            cv2.cvtColor(image, cv2.COLOR_BGR2GRAY).astype(np.float32) for image in (sequence.image(index), sharp)
        )
        shift, _ = cv2.phaseCorrelate(sharp, frame, cv2.createHanningWindow((640, 480), cv2.CV_32F))
        np.testing.assert_allclose(shift, 0, atol=0.1)


def test_the_camera_never_leaves_the_gallery() -> None:
    sequence = Gallery()
    for index in (0, 360, 600, 2000):
        assert sequence.image(index).mean() > 30
    for time in (12.4, 25.2):  # about the ends of its way
        poses = [camera_pose(time + step / 30).position for step in range(7)]
        assert np.abs(np.diff(poses, axis=0)).max() < 0.05


def test_only_what_the_demo_wrote_is_removed(tmp_path: Path) -> None:
    digest = '0123456789ab'
    kept = [tmp_path / name / 'holiday.jpg' for name in ('gallery-holiday', f'{digest}-gallery', 'run')]
    for file in kept:
        file.parent.mkdir()
        file.write_text('a picture')
    (tmp_path / 'gallery-1.jpg').write_text('a picture')
    for name in (f'gallery-{digest}', f'gallery-{digest}.partial'):
        (tmp_path / name).mkdir()
        (tmp_path / name / f'gallery-{digest}.partial.mcap').touch()
    path = Gallery(1).bag(tmp_path)
    assert Gallery(1).bag(tmp_path) == path
    assert {file.name for file in tmp_path.glob('gallery-*')} == {path.name, 'gallery-holiday', 'gallery-1.jpg'}
    with pytest.raises(RecordingError, match=r'something else is: .*holiday\.jpg'):
        remove_recording(tmp_path / 'run')
    remove_recording(path)
    assert not path.exists()
    assert all(file.exists() for file in kept)


def test_what_is_behind_the_camera_is_not_drawn() -> None:
    behind = Surface(np.full((16, 16, 3), 255, np.uint8), (-5, -5, -2), (10, 0, 0), (0, 10, 0))
    assert not Scene([behind]).render(Pinhole(64, 48, 40.0), LEVEL).any()


def test_pictures_agree_with_the_ground_truth_to_a_fraction_of_a_pixel() -> None:
    sequence = Gallery()
    before, after = (cv2.cvtColor(sequence.image(index), cv2.COLOR_BGR2GRAY) for index in (95, 97))
    corners = cv2.goodFeaturesToTrack(before, 300, 0.02, 8).reshape(-1, 2)
    truth, visible = sequence.transfer(sequence.stamp(95), sequence.stamp(97), corners)
    guess = truth.astype(np.float32).reshape(-1, 1, 2) + 1
    tracked, status, _ = cv2.calcOpticalFlowPyrLK(before, after, corners, guess, flags=cv2.OPTFLOW_USE_INITIAL_FLOW)
    error = (tracked.reshape(-1, 2) - truth)[visible & (status.ravel() == 1)]
    assert len(error) > 150
    assert np.all(np.abs(np.median(error, axis=0)) < 0.1)
    assert np.median(np.linalg.norm(error, axis=1)) < 0.25


def test_the_bag_is_the_same_for_the_same_seed_and_is_rendered_once(tmp_path: Path) -> None:
    sequence = Gallery(frames=2, seed=3)
    assert np.array_equal(sequence.image(1), Gallery(frames=2, seed=3).image(1))
    assert not np.array_equal(sequence.image(1), Gallery(frames=2, seed=4).image(1))
    bag = sequence.bag(tmp_path)
    written = (bag / 'metadata.yaml').stat().st_mtime_ns
    assert sequence.bag(tmp_path) == bag
    assert (bag / 'metadata.yaml').stat().st_mtime_ns == written
