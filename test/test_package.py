"""What the package declares is what it contains and imports."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import distribution
from pathlib import Path
from xml.etree import ElementTree

import pytest

import superpoint_ros
from superpoint_ros.share import share_directory

ROOT = Path(__file__).resolve().parents[1]
RUNTIME = ('superpoint_ros', 'training/superpoint_training', 'launch')

# rosdep key and PyPI name of a module that is called otherwise; None where there is none.
ROSDEP_KEY = {
    'cv2': 'python3-opencv',
    'hypothesis': 'python3-hypothesis',
    'jinja2': 'python3-jinja2',
    'markupsafe': 'python3-jinja2',
    'matplotlib': 'python3-matplotlib',
    'numpy': 'python3-numpy',
    'pytest': 'python3-pytest',
    'rosbags': 'python3-rosbags-pip',
    'torch': 'python3-pytorch-pip',
    'tqdm': 'python3-tqdm',
    'yaml': 'python3-yaml',
    'safetensors': None,
    'openvino': None,
    'threadpoolctl': None,
    'triton': None,
    'playwright': None,
    'evo': None,
    'pycolmap': None,
}
PYPI_NAME = {'cv2': 'opencv-python-headless', 'markupsafe': 'jinja2', 'yaml': 'pyyaml'}


def imported(folders: Iterable[str]) -> set[str]:
    """Top-level modules that the sources import, without Python's own and ours."""
    modules: set[str] = set()
    for folder in folders:
        for file in (ROOT / folder).rglob('*.py'):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Import):
                    modules.update(alias.name.partition('.')[0] for alias in node.names)
                elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    modules.add(node.module.partition('.')[0])
    local = {path.stem for folder in ('test', 'examples') for path in (ROOT / folder).rglob('*.py')}
    return modules - set(sys.stdlib_module_names) - {'superpoint_ros', 'superpoint_training'} - local


def declared(*kinds: str) -> set[str]:
    package = ElementTree.parse(ROOT / 'package.xml').getroot()
    return {element.text or '' for kind in kinds for element in package.iter(kind)}


def requirement_names(*extras: str) -> set[str]:
    """PyPI names, lower case, required always or by one of the extras."""
    names = set()
    for requirement in distribution('superpoint_ros').requires or []:
        extra = re.search(r'extra == [\'"](\w+)[\'"]', requirement)
        if extra is None or extra.group(1) in extras:
            names.add(re.split(r'[^\w.-]', requirement, maxsplit=1)[0].lower())
    return names


def keys(modules: set[str]) -> set[str]:
    return {key for module in modules if (key := ROSDEP_KEY.get(module, module))}


def test_package_xml_declares_what_is_imported_and_nothing_else() -> None:
    executables_only = {'ros2launch'}
    assert keys(imported(RUNTIME)) == declared('exec_depend') - executables_only


def test_package_xml_declares_what_the_tests_import() -> None:
    assert keys(imported(['test'])) <= declared('exec_depend', 'test_depend')


def test_the_wheel_requires_what_is_imported() -> None:
    from_pypi = {PYPI_NAME.get(module, module) for module in imported(RUNTIME) if module in ROSDEP_KEY}
    with_torch = {'triton'}  # for CUDA
    assert from_pypi - with_torch <= requirement_names('cpu', 'training', 'backends')
    assert {'ros-jazzy-rclpy', 'ros-jazzy-common-interfaces'} <= requirement_names('ros')


def test_versions_agree() -> None:
    version = ElementTree.parse(ROOT / 'package.xml').getroot().findtext('version')
    assert distribution('superpoint_ros').version == version


@pytest.mark.parametrize('script', distribution('superpoint_ros').entry_points, ids=lambda script: script.name)
def test_every_executable_has_its_function(script) -> None:
    assert callable(script.load())


def test_share_files_and_weights_are_found() -> None:
    share = share_directory()
    assert (share / 'config' / 'frontend.yaml').is_file()
    assert (share / 'launch' / 'frontend.launch.py').is_file()
    weights = sorted((Path(superpoint_ros.__file__).parent / 'weights').glob('*.safetensors'))
    assert {'superpoint', 'superpoint_small'} <= {path.stem for path in weights}


def test_every_import_package_is_installed_with_its_sub_packages() -> None:
    """A folder of modules without `__init__.py` would be left out by pip and colcon."""
    for package in ('superpoint_ros', 'training/superpoint_training'):
        for file in (ROOT / package).rglob('*.py'):
            assert (file.parent / '__init__.py').is_file(), f'{file.parent} lacks __init__.py'


KNOW_ROS = ('superpoint_ros.nodes', 'superpoint_ros.demo', 'superpoint_ros.messages', 'superpoint_ros.processes',
            'superpoint_ros.benchmark.node')  # fmt: skip


def test_all_but_a_few_modules_need_no_ros() -> None:
    """So that exports, benchmark and training run on a workstation without it."""
    files = (ROOT / 'superpoint_ros').rglob('*.py')
    modules = sorted('.'.join(file.relative_to(ROOT).with_suffix('').parts).removesuffix('.__init__') for file in files)
    free = [module for module in modules if not module.startswith(KNOW_ROS)]
    messages = (
        'builtin_interfaces diagnostic_msgs geometry_msgs lifecycle_msgs rcl_interfaces rosgraph_msgs sensor_msgs '
    )
    blocked = f'{messages} std_msgs std_srvs message_filters rclpy launch launch_ros'.split()
    code = f'import sys; sys.modules.update(dict.fromkeys({blocked})); import {", ".join(free)}'
    ended = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert len(free) > 50


@pytest.mark.parametrize('module', ['frontend', 'replay'])
def test_a_node_where_there_is_no_rclpy_says_where_it_comes_from(module) -> None:
    without = f"import sys; sys.modules['rclpy'] = None; import superpoint_ros.nodes.{module}"
    ended = subprocess.run([sys.executable, '-c', without], capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "pip install 'superpoint_ros[ros]'" in ended.stderr.splitlines()[-1]
