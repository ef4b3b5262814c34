"""What is launched and configured fits the nodes. The launch files run where `launch` is, which has no wheel."""

import ast
import importlib.util
import os
import shutil
import signal
import subprocess
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import cv2
import pytest
import yaml

pytest.importorskip('rclpy', reason='needs rclpy')

import rclpy
from ament_index_python import get_packages_with_prefixes
from rcl_interfaces.srv import GetParameters
from ros_processes import PATIENCE, Camera, scene
from sensor_msgs.msg import PointCloud2

from superpoint_ros.nodes.middleware import fast_dds_environment
from superpoint_ros.nodes.parameters import ParameterError
from superpoint_ros.nodes.settings import PARAMETERS, RIG_PARAMETERS, STEREO_PARAMETERS
from superpoint_ros.share import share_directory

CONFIG, LAUNCH = share_directory() / 'config', share_directory() / 'launch'


OF_ONE, OF_ANOTHER = ({'ros__parameters': {'cameras': [name]}} for name in ('down', 'up'))
OF_TWO_ROBOTS = {
    '/other': {'superpoint_rig': {'ros__parameters': {'cameras': ['back']}}},
    '/robot': {'superpoint_rig': {'ros__parameters': {'cameras': ['left']}}},
}


def flat(tree: dict, prefix: str = '') -> dict:
    """Nested parameters by their dotted names."""
    values = {}
    for name, value in tree.items():
        values |= flat(value, f'{prefix}{name}.') if isinstance(value, dict) else {prefix + name: value}
    return values


def test_the_parameter_file_has_every_parameter_at_its_default():
    content = yaml.safe_load((CONFIG / 'frontend.yaml').read_text())
    given = flat(content['/**']['superpoint_frontend']['ros__parameters'])
    assert given == {parameter.name: parameter.default for parameter in PARAMETERS}


@pytest.mark.parametrize(
    ('file', 'node', 'parameters'),
    [('stereo.yaml', 'superpoint_stereo', STEREO_PARAMETERS), ('rig.yaml', 'superpoint_rig', RIG_PARAMETERS)],
)
def test_the_files_of_the_other_nodes_have_what_these_add_at_its_default(file, node, parameters):
    given = flat(yaml.safe_load((CONFIG / file).read_text())['/**'][node]['ros__parameters'])
    defaults = {parameter.name: parameter.default for parameter in parameters}
    assert given == {name: defaults[name] for name in given}
    assert set(defaults) - {parameter.name for parameter in PARAMETERS} <= set(given)


@pytest.mark.parametrize('parameters', [PARAMETERS, STEREO_PARAMETERS, RIG_PARAMETERS])
def test_every_parameter_is_described_and_its_default_is_allowed(parameters):
    assert len({parameter.name for parameter in parameters}) == len(parameters)
    for parameter in parameters:
        assert parameter.description.endswith('.')
        assert parameter.check(parameter.default) == parameter.default
        if isinstance(parameter.default, (int, float)) and not isinstance(parameter.default, bool):
            assert parameter.low < parameter.high


def test_the_fast_dds_profile_has_room_for_several_of_the_largest_messages():
    names = {'d': 'http://www.eprosima.com/XMLSchemas/fastRTPS_Profiles'}
    shared = ElementTree.parse(CONFIG / 'fastdds.xml').find('.//d:transport_descriptor[d:type="SHM"]', names)
    features = 2000 * (32 + 4 * 256)
    assert int(shared.find('d:segment_size', names).text) > 8 * features
    assert int(shared.find('d:maxMessageSize', names).text) > 4 * features


@pytest.mark.parametrize(
    ('environment', 'used'),
    [
        ({}, True),
        ({'RMW_IMPLEMENTATION': 'rmw_fastrtps_cpp'}, True),
        ({'RMW_IMPLEMENTATION': 'rmw_cyclonedds_cpp'}, False),
        ({'ROS_LOCALHOST_ONLY': '0'}, True),
        ({'ROS_LOCALHOST_ONLY': '1'}, False),
        ({'FASTRTPS_DEFAULT_PROFILES_FILE': '/mine.xml'}, False),
        ({'FASTDDS_DEFAULT_PROFILES_FILE': '/mine.xml'}, False),
    ],
)
def test_the_profile_is_used_where_the_user_set_nothing_else(monkeypatch, environment, used):
    profiles = 'FASTRTPS_DEFAULT_PROFILES_FILE', 'FASTDDS_DEFAULT_PROFILES_FILE'
    for name in ('RMW_IMPLEMENTATION', 'ROS_LOCALHOST_ONLY', *profiles):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    # Humble and Jazzy read the first name, Kilted the second.
    profile = dict.fromkeys(profiles, str(CONFIG / 'fastdds.xml'))
    assert fast_dds_environment() == (profile if used else {})


def load(name: str):
    """A launch file as a module."""
    # A folder `launch` on the path is found as an empty package where the real one is missing.
    pytest.importorskip('launch.actions', reason='launch is not installed: it comes with a ROS distribution')
    spec = importlib.util.spec_from_file_location(name.replace('.', '_'), LAUNCH / name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize('name', ['frontend', 'stereo', 'rig'])
def test_launch_files_name_an_executable_and_parameters_that_are_there(name):
    """As text: this holds where `launch` is not installed, too."""
    tree = ast.parse((LAUNCH / f'{name}.launch.py').read_text())
    (call,) = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and ast.unparse(n.func) == 'describe_launch']
    executable, node, params_file = (ast.literal_eval(argument) for argument in call.args[:3])
    assert f"'{executable} = superpoint_ros.nodes." in (Path(__file__).parents[2] / 'setup.py').read_text()
    assert node in yaml.safe_load((CONFIG / params_file).read_text())['/**']


@pytest.mark.parametrize(
    ('camera', 'given', 'expected'),
    [
        ('', {}, [('image', 'image'), ('camera_info', 'camera_info')]),
        ('', {'image': '/cam'}, [('image', '/cam'), ('camera_info', '/camera_info')]),
        ('', {'image': '/cam/image_raw'}, [('image', '/cam/image_raw'), ('camera_info', '/cam/camera_info')]),
        ('', {'image': '/cam/raw', 'camera_info': 'info'}, [('image', '/cam/raw'), ('camera_info', 'info')]),
        (
            'left',
            {'image': '/rig/{camera}/raw/compressed'},
            [('left/image', '/rig/left/raw/compressed'), ('left/camera_info', '/rig/left/camera_info')],
        ),
        (
            'left',
            {'image': '/rig/{camera}/raw', 'camera_info': '{camera}/info', 'image_transport': 'compressed'},
            [('left/image', '/rig/left/raw/compressed'), ('left/camera_info', 'left/info')],
        ),
        ('', {'image': 'a/compressed', 'image_transport': 'compressed'}, [('image', 'a/compressed')]),
    ],
)
def test_topics_are_remapped_for_each_camera(camera, given, expected):
    pytest.importorskip('launch.actions', reason='launch is not installed: it comes with a ROS distribution')
    from superpoint_ros.nodes.launching import remap

    values = {'image': 'image', 'camera_info': '', 'image_transport': ''} | given
    assert remap(camera, values)[: len(expected)] == expected


@pytest.mark.parametrize(
    ('cameras', 'content', 'expected'),
    [
        ('up, down', {'/**': {'superpoint_rig': {'ros__parameters': {'cameras': ['left']}}}}, ['up', 'down']),
        ('', {'/**': {'superpoint_rig': {'ros__parameters': {'cameras': ['left', 'arm/left']}}}}, ['left', 'arm/left']),
        ('', {'/robot/superpoint_rig': {'ros__parameters': {'cameras': ['left']}}}, ['left']),
        ('', {'/**': {'ros__parameters': {'gather': 0.1}}}, ['front', 'left', 'right', 'back']),
        ('', {'/**': {'ros__parameters': None}}, ['front', 'left', 'right', 'back']),
        ('', None, ['front', 'left', 'right', 'back']),
        ('', OF_TWO_ROBOTS, ['left']),
        ('', {'driver': OF_ONE, '/**/superpoint_rig': OF_ANOTHER}, ['up']),
        ('', {'/*/superpoint_rig': OF_ONE, '/robot/superpoint_r*': OF_ANOTHER, '/superpoint_rig': OF_ONE}, ['up']),
    ],
)
def test_a_rigs_cameras_are_those_of_the_parameter_file_unless_named(tmp_path, cameras, content, expected):
    path = tmp_path / 'params.yaml'
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    values = {'cameras': cameras, 'params_file': str(path), 'namespace': 'robot'}
    assert load('rig.launch.py').names(values) == expected


@pytest.mark.parametrize(
    ('cameras', 'in_file', 'reason'),
    [
        ('front,left,', ['up'], "cameras has ''"),
        ('', 'cam0', "a list of names, not 'cam0'"),
        ('', [], 'one camera or more'),
    ],
)
def test_what_are_no_names_of_cameras_is_said(tmp_path, cameras, in_file, reason):
    path = tmp_path / 'params.yaml'
    path.write_text(yaml.safe_dump({'superpoint_rig': {'ros__parameters': {'cameras': in_file}}}))
    with pytest.raises(ParameterError, match=reason):
        load('rig.launch.py').names({'cameras': cameras, 'params_file': str(path), 'namespace': ''})


@pytest.mark.parametrize('name', ['frontend.launch.py', 'stereo.launch.py', 'rig.launch.py', 'demo.launch.py'])
def test_every_launch_argument_is_described(name):
    arguments = load(name).generate_launch_description().get_launch_arguments()
    assert len(arguments) > 5
    for argument in arguments:
        assert len(argument.description) > 15


@pytest.fixture
def launch(tmp_path):
    """Starts a launch file, and gives a camera that talks to the front-end in the namespace `robot`."""
    load('frontend.launch.py')
    ros2 = shutil.which('ros2')
    if ros2 is None or 'superpoint_ros' not in get_packages_with_prefixes():
        pytest.skip('ros2 is not there, or the package is not in a sourced workspace')
    rclpy.init()
    camera, log = Camera(frontend='/robot/superpoint_frontend'), tmp_path / 'log'
    started = []

    def start(file: str, *arguments: str, **environment: str) -> Camera:
        command = [ros2, 'launch', 'superpoint_ros', file, 'namespace:=robot', 'weights:=superpoint_small', *arguments]
        with log.open('w') as output:
            started.append(
                subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=os.environ | environment)
            )
        camera.spin_until(lambda: camera.state() == 'active', 'the node to be active')
        return camera

    yield start
    for process in started:
        process.send_signal(signal.SIGINT)
    statuses = [process.wait(PATIENCE) for process in started]
    camera.destroy_node()
    rclpy.try_shutdown()
    assert not any(statuses), log.read_text()


@pytest.mark.parametrize(
    ('given', 'topic', 'kind'),
    [
        ([], '/cam/image', 'Image'),
        (['image_transport:=compressed', 'use_sim_time:=false'], '/cam/image/compressed', 'CompressedImage'),
    ],
)
def test_launch_walks_the_node_to_active_with_the_parameters_of_file_and_arguments(
    launch, tmp_path, given, topic, kind
):
    params = {'use_sim_time': True, 'image_transport': 'raw', 'max_keypoints': 77}
    path = tmp_path / 'params.yaml'
    path.write_text(yaml.safe_dump({'/**': {'superpoint_frontend': {'ros__parameters': params}}}))
    camera = launch('frontend.launch.py', 'image:=/cam/image', 'respawn:=true', f'params_file:={path}', *given)
    (listener,) = camera.get_subscriptions_info_by_topic(topic)
    assert listener.topic_type == f'sensor_msgs/msg/{kind}'
    assert camera.count_subscribers('/cam/camera_info') == 1
    request = GetParameters.Request(names=['use_sim_time', 'max_keypoints'])
    sim_time, max_keypoints = camera.call(GetParameters, 'get_parameters', request).values
    assert sim_time.bool_value == (not given)
    assert max_keypoints.integer_value == 77


def test_the_demo_plays_to_the_topics_of_the_front_end_and_shows_its_frame(launch, tmp_path):
    cv2.imwrite(str(tmp_path / 'picture.jpg'), scene())
    package, rviz = tmp_path / 'share/ament_index/resource_index/packages/rviz2', tmp_path / 'lib/rviz2/rviz2'
    for file in (package, rviz):
        file.parent.mkdir(parents=True)
        file.touch(0o755)
    told = tmp_path / 'told'
    rviz.write_text(f'#!/bin/sh\necho "$@" profile:$FASTRTPS_DEFAULT_PROFILES_FILE > {told}\n')
    camera = launch(
        'demo.launch.py',
        *(f'input:={tmp_path}', 'image:=/cam/image_raw', 'image_transport:=compressed', 'rviz:=true', 'frame_id:=mast'),
        AMENT_PREFIX_PATH=f'{tmp_path}:{os.environ["AMENT_PREFIX_PATH"]}',
    )
    heard = camera.heard['/robot/features']
    camera.listen(PointCloud2, '/robot/features')
    camera.spin_until(lambda: heard, 'features')
    assert heard[0].header.frame_id == 'mast'
    words = told.read_text()
    assert '-f mast' in words
    assert '__ns:=/robot' in words
    profile = Path(fast_dds_environment().get('FASTRTPS_DEFAULT_PROFILES_FILE', ''))
    assert words.endswith(f'{profile.name}\n')
