"""A recorded walk exported to COLMAP: what the database says, and that pycolmap finds the walk in it."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

pytest.importorskip('rclpy', reason='needs rclpy and Fast DDS')

from feature_bags import PERIOD_NS, K, Walk, camera_info, some_cloud, write_bag
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import Header, String

from superpoint_ros.camera import Camera
from superpoint_ros.exports import colmap
from superpoint_ros.exports.colmap import ExportError, ExportSettings, colmap_camera, export, main, pairs
from superpoint_ros.exports.recorded import read_recorded
from superpoint_ros.frontend import Frontend
from superpoint_ros.messages import encode_features
from superpoint_ros.recordings import RecordingError

pycolmap = pytest.importorskip('pycolmap', reason='an optional extra')

FRAMES = 16


def in_two_levels(frame):
    """Every keypoint once more, a level up."""
    rows = {name: value for name, value in vars(frame).items() if isinstance(value, np.ndarray)}
    doubled = {name: np.concatenate([value, value]) for name, value in rows.items()}
    return replace(frame, **doubled | {'levels': np.repeat(np.array([0, 1], np.uint8), len(frame))})


@pytest.fixture(scope='module')
def walk() -> Walk:
    return Walk(FRAMES)


@pytest.fixture(scope='module')
def messages(walk):
    return walk.messages()


@pytest.fixture(scope='module')
def bag(messages, tmp_path_factory):
    return write_bag(
        tmp_path_factory.mktemp('bags') / 'bag', {'/features': messages}, {'/camera_info': [camera_info()]}
    )


@pytest.fixture(scope='module')
def database(bag, tmp_path_factory):
    out = tmp_path_factory.mktemp('colmap')
    main([str(bag), str(out), '--window', '4'])
    return out / 'database.db'


@pytest.mark.parametrize(('count', 'window'), [(1, 3), (5, 1), (20, 3), (40, 10)])
def test_pairs_are_all_neighbours_and_some_far_ones(count, window):
    found = list(pairs(count, window))
    gaps = {later - earlier for earlier, later in found}
    assert len(set(found)) == len(found)
    assert all(0 <= earlier < later < count for earlier, later in found)
    assert {(a, b) for a in range(count) for b in range(a + 1, min(count, a + window + 1))} <= set(found)
    assert {gap for gap in gaps if gap > window} == {window * 2**n for n in range(1, 9) if window * 2**n < count}


class TestCamera:
    @pytest.mark.parametrize(
        ('model', 'distortion', 'name'),
        [
            ('plumb_bob', (0.0,) * 5, 'PINHOLE'),
            ('plumb_bob', (-0.28, 0.07, 2e-4, 2e-5, 0.0), 'OPENCV'),
            ('plumb_bob', (-0.28, 0.07, 2e-4, 2e-5, 0.01), 'FULL_OPENCV'),
            ('rational_polynomial', (0.2, -0.1, 1e-3, -1e-3, 0.02, 0.1, -0.05, 0.01), 'FULL_OPENCV'),
            ('equidistant', (-0.02, 0.01, -0.003, 0.001), 'OPENCV_FISHEYE'),
        ],
    )
    def test_a_ray_is_seen_half_a_pixel_further(self, model, distortion, name):
        """(0, 0) is the middle of the first pixel here, (0.5, 0.5) there."""
        camera = Camera.from_info(camera_info(model, distortion))
        pixels = np.random.default_rng(0).uniform(60, 420, (50, 2))
        found = colmap_camera(camera)
        assert found.model.name == name
        seen = np.array([found.img_from_cam(ray) for ray in camera.rays(pixels).astype(float)])
        np.testing.assert_allclose(seen, pixels + 0.5, atol=0.05)

    def test_a_lens_that_colmap_lacks_is_refused(self):
        lens = (0.1, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.01, 0.0, 0.0, 0.0)
        with pytest.raises(ValueError, match='rectify'):
            colmap_camera(Camera.from_info(camera_info('rational_polynomial', lens)))


class TestDatabase:
    def test_keypoints_are_half_a_pixel_further_and_images_named_by_their_stamps(self, database, bag):
        opened = pycolmap.Database.open(database)
        images = {image.name: image.image_id for image in opened.read_all_images()}
        frames = read_recorded(bag).frames
        assert list(images) == [f'{(index + 1) * PERIOD_NS}.jpg' for index in range(FRAMES)]
        for frame in frames:
            found = opened.read_keypoints(images[f'{frame.stamp_ns}.jpg'])
            np.testing.assert_allclose(found[:, :2], frame.keypoints + 0.5, atol=1e-5)
        opened.close()

    def test_pairs_of_the_window_hold_right_matches(self, database, walk, bag):
        opened = pycolmap.Database.open(database)
        ids = [image.image_id for image in opened.read_all_images()]
        frames = read_recorded(bag).frames
        similar = [frame.descriptors @ walk.descriptors.T for frame in frames]
        for earlier, later in [(0, 1), (0, 4), (3, 7), (0, 8), (2, 10)]:
            rows = opened.read_two_view_geometry(ids[earlier], ids[later]).inlier_matches
            assert len(rows) >= 20
            one, other = similar[earlier][rows[:, 0]].argmax(axis=1), similar[later][rows[:, 1]].argmax(axis=1)
            assert (one == other).mean() > 0.99
        assert opened.read_two_view_geometry(ids[0], ids[5]) is None or not len(
            opened.read_two_view_geometry(ids[0], ids[5]).inlier_matches
        )
        opened.close()

    def test_an_export_that_is_stopped_leaves_the_one_before(self, bag, tmp_path, monkeypatch):
        def stop(*_):
            raise KeyboardInterrupt

        main([str(bag), str(tmp_path), '--every', '2'])
        before = (tmp_path / 'database.db').read_bytes()
        monkeypatch.setattr(colmap, '_write_pair', stop)
        with pytest.raises(SystemExit) as stopped:
            main([str(bag), str(tmp_path)])
        assert stopped.value.code == 130
        assert [path.name for path in tmp_path.iterdir()] == ['database.db']
        assert (tmp_path / 'database.db').read_bytes() == before

    def test_pairs_with_too_few_inliers_are_left_out(self, database, bag, tmp_path):
        opened = pycolmap.Database.open(database)
        ids = [image.image_id for image in opened.read_all_images()]
        inliers = [len(opened.read_two_view_geometry(ids[a], ids[b]).inlier_matches) for a, b in pairs(FRAMES, 4)]
        opened.close()
        fewest = int(np.median(inliers)) + 1
        counts = export(read_recorded(bag), tmp_path, ExportSettings(window=4, fewest=fewest))
        assert 0 < counts['pairs'] == sum(count >= fewest for count in inliers) < len(inliers)

    def test_features_recorded_before_their_calibration_have_pairs_too(self, bag, tmp_path):
        recorded = read_recorded(bag)
        blind = [replace(frame, rays=np.full_like(frame.rays, np.nan)) for frame in recorded.frames]
        settings = ExportSettings(window=4)
        expected = export(recorded, tmp_path / 'with', settings)
        assert export(replace(recorded, frames=blind), tmp_path / 'without', settings) == expected

    def test_a_corner_of_two_levels_is_matched_level_by_level(self, bag, tmp_path):
        """By descriptors alone the one is as good as the other."""
        recorded = read_recorded(bag)
        twice = [in_two_levels(frame) for frame in recorded.frames[:2]]
        assert export(replace(recorded, frames=twice), tmp_path, ExportSettings()) == {'images': 2, 'pairs': 1}
        opened = pycolmap.Database.open(tmp_path / 'database.db')
        one, other = [image.image_id for image in opened.read_all_images()]
        rows = opened.read_two_view_geometry(one, other).inlier_matches
        opened.close()
        before, after = twice[0].levels[rows[:, 0]], twice[1].levels[rows[:, 1]]
        assert (before == after).all()
        assert set(after) == {0, 1}

    def test_a_lens_that_is_refused_leaves_the_database_as_it_was(self, bag, tmp_path):
        lens = Camera.from_info(camera_info('rational_polynomial', (0.1, *7 * [0.0], 0.01, *3 * [0.0])))
        (tmp_path / 'database.db').write_bytes(b'of another day')
        with pytest.raises(ExportError, match='thin-prism'):
            export(replace(read_recorded(bag), camera=lens), tmp_path, ExportSettings())
        assert (tmp_path / 'database.db').read_bytes() == b'of another day'

    def test_exporting_again_replaces(self, database, bag, tmp_path):
        for every in (2, 4):
            counts = export(read_recorded(bag, every=every), tmp_path, ExportSettings())
            opened = pycolmap.Database.open(tmp_path / 'database.db')
            assert opened.num_images() == counts['images'] == FRAMES // every
            assert opened.num_verified_image_pairs() == counts['pairs']
            opened.close()


def test_pycolmap_finds_the_walk_without_help(database, walk, tmp_path):
    options = pycolmap.IncrementalPipelineOptions(extract_colors=False, num_threads=1, random_seed=0)
    reconstructions = pycolmap.incremental_mapping(database, tmp_path, tmp_path, options)
    best = max(reconstructions.values(), key=lambda found: found.num_reg_images())
    assert best.num_reg_images() == FRAMES
    images = sorted(best.images.values(), key=lambda image: int(image.name.removesuffix('.jpg')))
    found = np.array([image.projection_center() for image in images])
    scale, rotation, shift = similarity(found, walk.positions)
    error = np.linalg.norm(scale * found @ rotation.T + shift - walk.positions, axis=1)
    assert error.max() < 0.01  # of 2.4 m
    fx, fy, cx, cy = best.cameras[1].params
    assert (fx, fy) == pytest.approx((K[0, 0], K[1, 1]), rel=0.01)
    assert (cx, cy) == (K[0, 2] + 0.5, K[1, 2] + 0.5)


def similarity(source: np.ndarray, target: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """Scale, rotation and shift that bring one set of positions to another (Umeyama 1991)."""
    a, b = source - source.mean(axis=0), target - target.mean(axis=0)
    U, S, Vt = np.linalg.svd(b.T @ a)
    D = np.diag([1, 1, np.linalg.det(U @ Vt)])
    scale, rotation = np.trace(np.diag(S) @ D) / (a**2).sum(), U @ D @ Vt
    return scale, rotation, target.mean(axis=0) - scale * rotation @ source.mean(axis=0)


class TestRecorded:
    def test_of_several_cameras_one_has_to_be_named(self, messages, tmp_path):
        two = {'/left/features': messages[:2], '/right/features': messages[2:5], '/points': [some_cloud()]}
        other = camera_info()
        other.width = 100
        infos = {'/left/camera_info': [other], '/right/camera_info': [camera_info()]}
        bag = write_bag(tmp_path / 'bag', two, infos)
        with pytest.raises(RecordingError, match='/left/features, /right/features'):
            read_recorded(bag)
        recorded = read_recorded(bag, '/right/features')
        assert len(recorded.frames) == 3
        assert recorded.camera.width == 640

    def test_each_nth_frame_is_kept_with_its_descriptors_as_they_came(self, bag):
        every, third = read_recorded(bag).frames, read_recorded(bag, every=3).frames
        assert [frame.stamp_ns for frame in third] == [frame.stamp_ns for frame in every[::3]]
        assert {frame.descriptors.dtype for frame in every} == {np.dtype('i1')}

    def test_no_other_cameras_calibration_is_taken(self, messages, tmp_path):
        two = {'/robot/left/features': messages[:2], '/robot/right/features': messages[2:5]}
        bag = write_bag(tmp_path / 'bag', two, {'/robot/right/camera_info': [camera_info()]})
        assert read_recorded(bag, '/robot/left/features').camera is None
        assert read_recorded(bag, '/robot/right/features').camera is not None

    def test_the_picture_of_the_keypoints_is_found_by_their_rays(self, messages, tmp_path):
        """Features of rectified pictures come with the calibration of the raw ones."""
        lens = camera_info('plumb_bob', (-0.2, 0.05, 0.0, 0.0, 0.0))
        bag = write_bag(tmp_path / 'bag', {'/features': messages}, {'/camera_info': [lens]})
        assert read_recorded(bag).camera.model == 'none'
        raw = write_bag(tmp_path / 'raw', {'/features': messages}, {'/camera_info': [camera_info()]})
        np.testing.assert_allclose(read_recorded(raw).camera.K, K)

    @pytest.mark.parametrize(
        ('features', 'infos', 'reason'),
        [({'/points': 1}, True, 'no topic that ends in features'), ({'/features': 1}, False, 'no calibration')],
    )
    def test_what_is_missing_is_said(self, messages, tmp_path, features, infos, reason):
        bag = write_bag(
            tmp_path / 'bag', dict.fromkeys(features, messages[:1]), {'/camera_info': [camera_info()]} if infos else {}
        )
        with pytest.raises(SystemExit, match=reason):
            main([str(bag), str(tmp_path / 'out')])

    def test_descriptors_of_two_lengths_do_not_compare(self, messages, tmp_path):
        other = Walk(1)
        other.descriptors = np.pad(other.descriptors, [(0, 0), (0, 16)])
        features = [*other.messages(), *messages[1:3]]
        bag = write_bag(tmp_path / 'bag', {'/features': features}, {'/camera_info': [camera_info()]})
        with pytest.raises(SystemExit, match='32 and 48 values'):
            main([str(bag), str(tmp_path / 'out')])

    def test_frames_that_show_nothing_in_common_are_an_error(self, messages, tmp_path):
        bag = write_bag(tmp_path / 'bag', {'/features': messages[:1]}, {'/camera_info': [camera_info()]})
        with pytest.raises(SystemExit, match='no two frames'):
            main([str(bag), str(tmp_path / 'out')])

    def test_a_folder_that_is_no_bag(self, tmp_path):
        cv2.imwrite(str(tmp_path / 'picture.png'), np.zeros((4, 4), np.uint8))
        for path in (tmp_path, tmp_path / 'nothing'):
            with pytest.raises(SystemExit, match='is no bag'):
                main([str(path), str(tmp_path / 'out')])

    def test_a_message_that_is_spoilt_is_left_out(self, messages, tmp_path):
        spoilt = String(data='no features')
        bag = write_bag(tmp_path / 'bag', {'/features': [messages[0], spoilt, messages[2]]}, {})
        with pytest.warns(UserWarning, match='/features.*is damaged.*left out'):
            frames = read_recorded(bag).frames
        assert [frame.stamp_ns for frame in frames] == [PERIOD_NS, 3 * PERIOD_NS]

    def test_a_calibration_that_is_none_does_not_hide_the_one_after_it(self, messages, tmp_path):
        infos = [CameraInfo(width=640, height=480), camera_info()]
        bag = write_bag(tmp_path / 'bag', {'/features': messages[:1]}, {'/camera_info': infos})
        np.testing.assert_allclose(read_recorded(bag).camera.K, K)

    def test_a_calibration_that_the_node_did_not_use_is_told_of(self, walk, tmp_path):
        frontend = Frontend(None)
        features = encode_features(frontend.advance(walk.features(0), (640, 480), 1), Header(), 'int8')
        bag = write_bag(tmp_path / 'bag', {'/features': [features]}, {'/camera_info': [camera_info()]})
        with pytest.warns(UserWarning, match='did not use this calibration of 640 x 480 pixels'):
            read_recorded(bag)

    def test_a_calibration_that_is_not_the_one_of_the_rays_is_told_of(self, messages, tmp_path):
        other = camera_info()
        other.k[0] = other.k[4] = other.p[0] = other.p[5] = 300.0
        bag = write_bag(tmp_path / 'bag', {'/features': messages}, {'/camera_info': [other]})
        with pytest.warns(UserWarning, match='of another calibration than the recorded one of 640 x 480 pixels'):
            read_recorded(bag)

    def test_a_bag_that_is_cut_off_gives_what_there_is(self, bag, tmp_path):
        [file] = bag.glob('*.mcap')
        cut = tmp_path / 'cut.mcap'
        cut.write_bytes(file.read_bytes()[: file.stat().st_size * 2 // 3])
        assert 1 <= len(read_recorded(cut).frames) < FRAMES
