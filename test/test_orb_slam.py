"""The C++ of docs/orb_slam.md, compiled against stand-ins for OpenCV and ROS, reads what Python wrote."""

import re
import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='needs rclpy and Fast DDS')

from std_msgs.msg import Header
from test_messages import make_frame

from superpoint_ros.messages import encode_features, read_features

ROOT = Path(__file__).resolve().parents[1]
COMPILER = shutil.which('g++') or shutil.which('clang++')

OPENCV = """
#pragma once
#include <vector>
#define CV_32F 5
namespace cv {
struct Point2f { float x = 0, y = 0; };
struct KeyPoint { Point2f pt; float size = 0, angle = -1, response = 0; int octave = 0, class_id = -1; };
struct Mat {
  int rows = 0, cols = 0;
  std::vector<float> values;
  void create(int r, int c, int) { rows = r; cols = c; values.resize(r * c); }
  template <class T> T * ptr(int row) { return values.data() + row * cols; }
};
}
"""

CLOUD = """
#pragma once
#include <cstdint>
#include <string>
#include <vector>
namespace sensor_msgs::msg {
struct PointField {
  static constexpr uint8_t FLOAT32 = 7;
  std::string name; uint32_t offset = 0; uint8_t datatype = 0; uint32_t count = 0;
};
struct PointCloud2 { uint32_t width = 0, point_step = 0; std::vector<PointField> fields; std::vector<uint8_t> data; };
}
"""

ITERATOR = """
#pragma once
#include <cstring>
#include <sensor_msgs/msg/point_cloud2.hpp>
namespace sensor_msgs {
template <class T> struct PointCloud2ConstIterator {
  PointCloud2ConstIterator(const msg::PointCloud2 & cloud, const std::string & name) : step(cloud.point_step) {
    for (const auto & field : cloud.fields) { if (field.name == name) { at = cloud.data.data() + field.offset; } }
  }
  T operator*() const { T value; std::memcpy(&value, at, sizeof(T)); return value; }
  PointCloud2ConstIterator & operator++() { at += step; return *this; }
  const uint8_t * at = nullptr; uint32_t step;
};
}
"""

MAIN = """
#include <iostream>
#include "snippet.hpp"
template <class T> T take() { T value; std::cin.read(reinterpret_cast<char *>(&value), sizeof(T)); return value; }
int main() {
  sensor_msgs::msg::PointCloud2 cloud;
  cloud.width = take<uint32_t>();
  cloud.point_step = take<uint32_t>();
  for (uint32_t left = take<uint32_t>(); left > 0; --left) {
    sensor_msgs::msg::PointField field;
    field.name.resize(take<uint32_t>());
    std::cin.read(&field.name[0], field.name.size());
    field.offset = take<uint32_t>();
    field.datatype = static_cast<uint8_t>(take<uint32_t>());
    field.count = take<uint32_t>();
    cloud.fields.push_back(field);
  }
  cloud.data.resize(cloud.width * cloud.point_step);
  std::cin.read(reinterpret_cast<char *>(cloud.data.data()), cloud.data.size());
  std::cout.precision(9);
  FrameFeatures frame = read_features(cloud, 500, 400, 320, 240);
  for (int row = 0; row < frame.descriptors.rows; ++row) {
    const cv::KeyPoint & key = frame.keys[row], & straight = frame.undistorted[row];
    std::cout << key.pt.x << ' ' << key.pt.y << ' ' << key.response << ' ' << key.octave << ' '
              << straight.pt.x << ' ' << straight.pt.y << ' ' << frame.tracks[row];
    for (int i = 0; i < frame.descriptors.cols; ++i) { std::cout << ' ' << frame.descriptors.ptr<float>(row)[i]; }
    std::cout << std::endl;
  }
}
"""


@pytest.fixture(scope='module')
def program(tmp_path_factory) -> Path:
    if COMPILER is None:
        pytest.skip('needs a C++ compiler')
    folder = tmp_path_factory.mktemp('orb_slam')
    [snippet] = re.findall(r'^```cpp\n(.*?)^```', (ROOT / 'docs/orb_slam.md').read_text(), re.MULTILINE | re.DOTALL)
    files = {
        'opencv2/core.hpp': OPENCV,
        'sensor_msgs/msg/point_cloud2.hpp': CLOUD,
        'sensor_msgs/point_cloud2_iterator.hpp': ITERATOR,
        'snippet.hpp': snippet,
        'main.cpp': MAIN,
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    command = [COMPILER, '-std=c++17', '-Wall', '-Wextra', '-Werror', f'-I{folder}', 'main.cpp', '-o', 'program']
    subprocess.run(command, cwd=folder, check=True)
    return folder / 'program'


@pytest.mark.parametrize('descriptor_type', ['float32', 'int8'])
@pytest.mark.parametrize('count', [0, 7])
def test_it_reads_what_python_wrote(program, descriptor_type, count):
    message = encode_features(make_frame(count), Header(), descriptor_type)
    data = struct.pack('<III', message.width, message.point_step, len(message.fields))
    for field in message.fields:
        name = field.name.encode()
        data += struct.pack('<I', len(name)) + name + struct.pack('<III', field.offset, field.datatype, field.count)
    ran = subprocess.run([program], input=data + bytes(message.data), capture_output=True, check=True)
    rows = [np.array(line.split(), float) for line in ran.stdout.decode().splitlines()]
    features = read_features(message)
    assert len(rows) == count
    for row, found in enumerate(rows):
        np.testing.assert_allclose(found[:2], features.keypoints[row], rtol=1e-6)
        np.testing.assert_allclose(found[2:4], [features.scores[row], features.levels[row]], rtol=1e-6)
        np.testing.assert_allclose(found[4:6], features.rays[row, :2] * [500, 400] + [320, 240], rtol=1e-5)
        assert found[6] == features.track_ids[row]
        np.testing.assert_allclose(found[7:], features.descriptors[row], atol=1e-6)
