"""Calibration files of several systems say the same of the same camera."""

import numpy as np
import pytest
import yaml

from superpoint_ros.calibrations import (
    CalibrationFileError,
    read_calibration,
    read_calibration_of,
    read_calibrations,
)
from superpoint_ros.camera import Camera

FX, FY, CX, CY = 458.654, 457.296, 367.215, 248.375
BENDS = (-0.28340811, 0.07395907, 0.00019359, 1.76187114e-05)
FISHEYE = (-0.0132, 0.0087, -0.0062, 0.0018)
PINHOLE_FILES = {
    'camera_calibration': """
image_width: 752
image_height: 480
camera_name: cam0
camera_matrix: {rows: 3, cols: 3, data: [458.654, 0, 367.215, 0, 457.296, 248.375, 0, 0, 1]}
distortion_model: plumb_bob
distortion_coefficients: {rows: 1, cols: 5, data: [-0.28340811, 0.07395907, 0.00019359, 1.76187114e-05, 0]}
rectification_matrix: {rows: 3, cols: 3, data: [1, 0, 0, 0, 1, 0, 0, 0, 1]}
projection_matrix: {rows: 3, cols: 4, data: [458.654, 0, 367.215, 0, 0, 457.296, 248.375, 0, 0, 0, 1, 0]}
""",
    'Kalibr': """
cam0:
  cam_overlaps: [1]
  camera_model: pinhole
  distortion_coeffs: [-0.28340811, 0.07395907, 0.00019359, 1.76187114e-05]
  distortion_model: radtan
  intrinsics: [458.654, 457.296, 367.215, 248.375]
  resolution: [752, 480]
  rostopic: /cam0/image_raw
""",
    'EuRoC': """
sensor_type: camera
T_BS:
  cols: 4
  rows: 4
  data: [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1]
resolution: [752, 480]
camera_model: pinhole
intrinsics: [458.654, 457.296, 367.215, 248.375] #fu, fv, cu, cv
distortion_model: radial-tangential
distortion_coefficients: [-0.28340811, 0.07395907, 0.00019359, 1.76187114e-05]
""",
    'ORB-SLAM3': """%YAML:1.0
File.version: "1.0"
Camera.type: "PinHole"
Camera1.fx: 458.654
Camera1.fy: 457.296
Camera1.cx: 367.215
Camera1.cy: 248.375
Camera1.k1: -0.28340811
Camera1.k2: 0.07395907
Camera1.p1: 0.00019359
Camera1.p2: 1.76187114e-05
Camera.width: 752
Camera.height: 480
Tbc: !!opencv-matrix
   rows: 2
   cols: 2
   dt: f
   data: [1.0, 0.0, 0.0, 1.0]
""",
    'ORB-SLAM2': """%YAML:1.0
Camera.fx: 458.654
Camera.fy: 457.296
Camera.cx: 367.215
Camera.cy: 248.375
Camera.k1: -0.28340811
Camera.k2: 0.07395907
Camera.p1: 0.00019359
Camera.p2: 1.76187114e-05
Camera.width: 752
Camera.height: 480
""",
    'VINS-Fusion': """%YAML:1.0
---
model_type: PINHOLE
camera_name: camera
image_width: 752
image_height: 480
distortion_parameters:
   k1: -0.28340811
   k2: 0.07395907
   p1: 0.00019359
   p2: 1.76187114e-05
projection_parameters:
   fx: 458.654
   fy: 457.296
   cx: 367.215
   cy: 248.375
""",
    'a list': """
cameras:
  - {width: 752, height: 480, fx: 458.654, fy: 457.296, cx: 367.215, cy: 248.375, distortion_model: radtan,
     distortion: [-0.28340811, 0.07395907, 0.00019359, 1.76187114e-05]}
""",
}
FISHEYE_FILES = {
    'Kalibr': """
cam0: {camera_model: pinhole, distortion_model: equidistant, distortion_coeffs: [-0.0132, 0.0087, -0.0062, 0.0018],
       intrinsics: [458.654, 457.296, 367.215, 248.375], resolution: [752, 480]}
""",
    'ORB-SLAM3': """%YAML:1.0
Camera.type: "KannalaBrandt8"
Camera1.fx: 458.654
Camera1.fy: 457.296
Camera1.cx: 367.215
Camera1.cy: 248.375
Camera1.k1: -0.0132
Camera1.k2: 0.0087
Camera1.k3: -0.0062
Camera1.k4: 0.0018
Camera.width: 752
Camera.height: 480
""",
    'VINS-Fusion': """%YAML:1.0
---
model_type: KANNALA_BRANDT
image_width: 752
image_height: 480
projection_parameters: {k2: -0.0132, k3: 0.0087, k4: -0.0062, k5: 0.0018, mu: 458.654, mv: 457.296, u0: 367.215,
                        v0: 248.375}
""",
}


def camera_of(text: str, folder) -> Camera:
    (folder / 'camera.yaml').write_text(text)
    return Camera.from_info(read_calibration(folder / 'camera.yaml'))


@pytest.mark.parametrize('system', PINHOLE_FILES)
def test_a_pinhole_is_the_same_in_all_files(tmp_path, system):
    camera = camera_of(PINHOLE_FILES[system], tmp_path)
    assert (camera.width, camera.height, camera.model) == (752, 480, 'plumb_bob')
    np.testing.assert_array_equal(camera.K, [[FX, 0, CX], [0, FY, CY], [0, 0, 1]])
    np.testing.assert_array_equal(camera.distortion, [*BENDS, 0])
    np.testing.assert_array_equal(camera.rectified.K, camera.K)


@pytest.mark.parametrize('system', FISHEYE_FILES)
def test_a_fisheye_is_the_same_in_all_files(tmp_path, system):
    camera = camera_of(FISHEYE_FILES[system], tmp_path)
    assert camera.model == 'equidistant'
    np.testing.assert_array_equal(camera.K, [[FX, 0, CX], [0, FY, CY], [0, 0, 1]])
    np.testing.assert_array_equal(camera.distortion, FISHEYE)


def test_the_cameras_of_one_file_come_in_their_order(tmp_path):
    kalibr = FISHEYE_FILES['Kalibr']
    orb_slam = PINHOLE_FILES['ORB-SLAM3']
    files = {
        'chain.yaml': kalibr + kalibr.replace('cam0', 'cam1').replace('458.654', '300') + 'cam3: {}\n',
        'pair.yaml': orb_slam + '\n'.join(
            line.replace('Camera1', 'Camera2').replace('458.654', '300')
            for line in orb_slam.splitlines() if line.startswith('Camera1')
        ),
    }  # fmt: skip
    for name, text in files.items():
        (tmp_path / name).write_text(text)
        assert [found.k[0] for found in read_calibrations(tmp_path / name)] == [FX, 300]


def test_a_camera_of_several_has_its_own_file_or_its_place_in_one(tmp_path):
    lens = {'width': 64, 'height': 48, 'cx': 32, 'cy': 24, 'distortion_model': 'none', 'distortion': []}
    cameras = [lens | {'fx': fx, 'fy': fx} for fx in (100, 200)]
    for name, of in (('both', cameras), ('left', cameras[:1]), ('right', cameras[1:])):
        (tmp_path / f'{name}.yaml').write_text(yaml.safe_dump({'cameras': of}))
    for path in (tmp_path / 'both.yaml', tmp_path / '{camera}.yaml'):
        for name, fx in (('left', 100), ('right', 200)):
            assert read_calibration_of(name, ['left', 'right'], str(path)).k[0] == fx
    assert read_calibration_of('', [''], str(tmp_path / 'both.yaml')).k[0] == 100
    with pytest.raises(CalibrationFileError, match='is of 1, and there are 2 cameras: left, right'):
        read_calibration_of('right', ['left', 'right'], str(tmp_path / 'right.yaml'))


def test_the_rectification_of_ros_is_kept(tmp_path):
    text = PINHOLE_FILES['camera_calibration'].replace('[458.654, 0, 367.215, 0, 0,', '[400, 0, 320, -44, 0,')
    camera = camera_of(text.replace('[1, 0, 0, 0, 1, 0, 0, 0, 1]', '[0, 1, 0, -1, 0, 0, 0, 0, 1]'), tmp_path)
    assert camera.baseline == pytest.approx(0.11)
    assert (camera.P[0, 0], camera.R[0, 1]) == (400, 1)


@pytest.mark.parametrize(
    ('text', 'reason'),
    [
        (PINHOLE_FILES['Kalibr'].replace('camera_model: pinhole', 'camera_model: omni'), "'omni' is no pinhole"),
        (PINHOLE_FILES['VINS-Fusion'].replace('PINHOLE', 'MEI'), "lens model 'MEI' is not known; known are"),
        ('model_type: MEI\nimage_width: 8\nimage_height: 8\nprojection_parameters: {gamma1: 1}', "'MEI' is not known"),
        (PINHOLE_FILES['camera_calibration'].replace(', 0, 0, 1]', ']', 1), 'cannot reshape'),
        (PINHOLE_FILES['ORB-SLAM2'].replace('Camera.width', 'Camera.fps'), "lacks or garbles 'Camera.width'"),
        (PINHOLE_FILES['EuRoC'].replace('458.654', 'wide'), 'wide'),
        ('just: words', 'VINS-Fusion have'),
        ('just words', 'holds no names'),
        ('[', 'is not YAML'),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path, text, reason):
    with pytest.raises(CalibrationFileError, match=reason) as error:
        camera_of(text, tmp_path)
    assert str(tmp_path / 'camera.yaml') in str(error.value)
