"""The demo from its command to its files, with the front-end and the replay as real processes over DDS."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from rosbags.highlevel import AnyReader
from test_recordings import COUNT, write_bag


def demo(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, '-m', 'superpoint_ros.demo', '--weights', 'superpoint_small', *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)


@pytest.fixture(scope='module')
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that a run on 20 frames of the own sequence wrote."""
    folder = tmp_path_factory.mktemp('demo')
    # Each frame when the one before was answered: what comes out depends on no machine's speed.
    result = demo('--output', str(folder), '--frames', '20', '--rate', '0')
    assert result.returncode == 0, result.stdout + result.stderr
    assert 'frames in / processed / dropped   20 / 20 / 0' in result.stdout
    return folder


@pytest.fixture(scope='module')
def summary(output: Path) -> dict[str, Any]:
    return json.loads((output / 'summary.json').read_text())


def test_summary_has_every_figure(summary: dict[str, Any]) -> None:
    assert list(summary) == [
        'frames_in',
        'frames_processed',
        'frames_dropped',
        'fps',
        'latency_ms',
        'keypoints_mean',
        'matches_mean',
        'inlier_ratio_mean',
        'ground_truth_precision',
        'ground_truth_precision_inliers',
    ]
    assert (summary['frames_in'], summary['frames_processed'], summary['frames_dropped']) == (20, 20, 0)
    latency = summary['latency_ms']
    assert 0 < latency['p50'] <= latency['p95'] <= latency['p99']
    assert summary['fps'] > 0


def test_most_matches_are_where_the_geometry_says(summary: dict[str, Any]) -> None:
    assert 500 <= summary['keypoints_mean'] <= 1000
    assert 300 <= summary['matches_mean'] <= summary['keypoints_mean']
    assert summary['inlier_ratio_mean'] > 0.7
    assert summary['ground_truth_precision'] > 0.7
    assert summary['ground_truth_precision_inliers'] > summary['ground_truth_precision']


def test_bag_holds_the_messages_of_every_frame(output: Path) -> None:
    with AnyReader([output / 'run']) as reader:
        counts = {topic: info.msgcount for topic, info in reader.topics.items()}
        types = {topic: info.msgtype for topic, info in reader.topics.items()}
    assert counts['/features'] == counts['/matches'] == counts['/camera_info'] == counts['/image_header'] == 20
    assert types['/features'] == 'sensor_msgs/msg/PointCloud2'
    assert list((output / 'run').glob('*.mcap'))


def test_video_shows_every_pair_and_the_still_one_of_them(output: Path) -> None:
    (video,) = output.glob('matches.[ma][pv][4i]')
    capture = cv2.VideoCapture(str(video))
    frames = 0
    while capture.read()[0]:
        frames += 1
    assert frames == 19
    assert (capture.get(cv2.CAP_PROP_FRAME_WIDTH), capture.get(cv2.CAP_PROP_FRAME_HEIGHT)) == (640, 480)
    assert cv2.imread(str(output / 'matches.png')).shape == (480, 1280, 3)


def test_what_is_played_is_never_overwritten(tmp_path: Path) -> None:
    pictures = tmp_path / 'run'
    pictures.mkdir()
    cv2.imwrite(str(pictures / '1.png'), np.zeros((48, 64), np.uint8))
    for given, words in ((pictures, 'give another --output'), (tmp_path / 'other', 'something else is')):
        given.mkdir(exist_ok=True)
        cv2.imwrite(str(given / '1.png'), np.zeros((48, 64), np.uint8))
        result = demo(str(given), '--output', str(tmp_path))
        assert result.returncode == 1
        assert words in result.stderr
    assert list(pictures.iterdir()) == [pictures / '1.png']
    pictures.rename(tmp_path / 'elsewhere')
    video = tmp_path / 'matches.avi'
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter_fourcc(*'MJPG'), 20.0, (64, 48))
    writer.write(np.zeros((48, 64, 3), np.uint8))
    writer.release()
    result = demo(str(video), '--output', str(tmp_path))
    assert (result.returncode, 'give another --output' in result.stderr, video.exists()) == (1, True, True)


def test_a_folder_of_the_users_pictures_has_the_given_calibration_and_no_ground_truth(
    output: Path, tmp_path: Path
) -> None:
    video = cv2.VideoCapture(str(next(output.glob('matches.[ma][pv][4i]'))))
    pictures = tmp_path / 'pictures'
    pictures.mkdir()
    for index in range(5):
        cv2.imwrite(str(pictures / f'{index}.png'), video.read()[1])
    calibration = tmp_path / 'camera.yaml'
    calibration.write_text(
        'image_width: 640\nimage_height: 480\ndistortion_model: plumb_bob\n'
        'camera_matrix: {data: [500, 0, 320, 0, 501, 240, 0, 0, 1]}\n'
        'distortion_coefficients: {data: [0.1, 0, 0, 0, 0]}\n'
        'rectification_matrix: {data: [1, 0, 0, 0, 1, 0, 0, 0, 1]}\n'
        'projection_matrix: {data: [500, 0, 320, 0, 0, 501, 240, 0, 0, 0, 1, 0]}\n'
    )
    given = ['--output', str(tmp_path / 'out'), '--rate', '0', '--camera-info', str(calibration)]
    result = demo(str(pictures), *given)
    assert result.returncode == 0, result.stderr
    with AnyReader([tmp_path / 'out' / 'run']) as reader:
        infos = [c for c in reader.connections if c.topic == '/camera_info']
        calibrated = [list(reader.deserialize(raw, c.msgtype).k) for c, _, raw in reader.messages(infos)]
    assert calibrated == [[500, 0, 320, 0, 501, 240, 0, 0, 1]] * 5
    summary = json.loads((tmp_path / 'out' / 'summary.json').read_text())
    assert summary['frames_processed'] == 5
    assert summary['matches_mean'] > 0
    assert summary['ground_truth_precision'] is None


def test_a_bag_that_is_cut_off_is_played_as_far_as_it_goes(tmp_path: Path) -> None:
    file = write_bag(tmp_path / 'bag') / 'bag.mcap'
    file.write_bytes(file.read_bytes()[:2_200_000])
    result = demo(str(tmp_path / 'bag'), '--output', str(tmp_path / 'out'), '--rate', '0')
    assert result.returncode == 0, result.stderr
    assert 3 <= json.loads((tmp_path / 'out' / 'summary.json').read_text())['frames_processed'] < COUNT
    assert 'frames in / processed / dropped' in result.stdout


@pytest.mark.parametrize(
    ('arguments', 'complaint'),
    [
        (['/does/not/exist'], 'There is no /does/not/exist.'),
        (['{tmp_path}'], 'holds no pictures'),
        (['superpoint_ros/photographs', '--camera-info', '/no/camera.yaml'], '/no/camera.yaml'),
        (['--frames', '2', '--weights', '/no/weights.safetensors'], '/no/weights.safetensors'),
    ],
)
def test_what_went_wrong_is_said_in_a_line(arguments: list[str], complaint: str, tmp_path: Path) -> None:
    given = [argument.format(tmp_path=tmp_path) for argument in arguments]
    result = demo(*given, '--output', str(tmp_path / 'out'))
    assert result.returncode == 1
    assert complaint in result.stderr
    assert 'Traceback' not in result.stderr


def test_what_is_about_a_recording_needs_one() -> None:
    result = demo('--camera-info', 'camera.yaml')
    assert result.returncode == 2
    assert 'name it, too' in result.stderr


def test_a_program_that_is_terminated_takes_its_processes_along(tmp_path):
    """`timeout` and service managers end a program by SIGTERM, of which Python dies without a word to anybody."""
    code = f"""
import time
from pathlib import Path
from superpoint_ros.processes import Process, isolate
isolate(99)
with Process('http.server', ['0', '--bind', '127.0.0.1'], Path({str(tmp_path / 'log')!r})) as child:
    print(child.pid, flush=True)
    time.sleep(60)
"""
    program = subprocess.Popen(
        [sys.executable, '-c', code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert program.stdout is not None
    child = int(program.stdout.readline())
    os.kill(child, 0)
    program.terminate()
    program.wait(30)
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)
