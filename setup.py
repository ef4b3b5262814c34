from pathlib import Path

from setuptools import find_packages, setup

PACKAGE = 'superpoint_ros'
SHARE = Path('share') / PACKAGE


def share_files(folder: str) -> list[tuple[str, list[str]]]:
    """The files under a folder, each to be installed at the same place below share/superpoint_ros."""
    files = [path for path in sorted(Path(folder).rglob('*.*')) if path.suffix != '.pyc' and path.is_file()]
    return [(str(SHARE / path.parent), [str(path)]) for path in files]


setup(
    name=PACKAGE,
    version='0.1.0',
    description='Learned keypoints, descriptors, tracks and matches from camera images on ROS 2 topics',
    license='Apache-2.0',
    maintainer='superpoint_ros maintainers',
    maintainer_email='maintainers@superpoint-ros.invalid',
    python_requires='>=3.10',
    packages=[
        *find_packages(include=[f'{PACKAGE}*']),
        *find_packages('training', include=['superpoint_training*']),
    ],
    package_dir={'superpoint_training': 'training/superpoint_training'},
    package_data={
        PACKAGE: ['weights/*.safetensors', 'weights/*.md', 'photographs/*'],
        'superpoint_training.report': ['templates/*'],
    },
    data_files=[
        ('share/ament_index/resource_index/packages', [f'resource/{PACKAGE}']),
        (str(SHARE), ['package.xml']),
        *share_files('launch'),
        *share_files('config'),
        *share_files('examples'),
    ],
    install_requires=[
        'numpy>=1.21',
        'opencv-python-headless>=4.6',
        'PyYAML',
        'rosbags>=0.10',
        'safetensors>=0.4',
        'torch>=2.3',  # before, streams beside a CUDA graph's own took memory that is not the graph's
    ],
    extras_require={
        # rclpy and the messages for machines without a ROS distribution.
        'ros': ['ros-jazzy-rclpy[fastrtps]', 'ros-jazzy-common-interfaces'],
        'cpu': ['openvino>=2024.4', 'threadpoolctl'],
        'training': ['jinja2', 'matplotlib', 'tensorboard', 'tqdm'],
        'backends': ['evo', 'pycolmap'],  # measuring trajectories; COLMAP's database and mapper
        'test': [
            'pytest',
            'hypothesis',
            'mypy',
            'playwright',
            'pytest-xdist',
            'ruff',
            'types-PyYAML',
            'triton>=3.6; platform_system == "Linux"',  # interprets the kernels on a CPU
        ],
    },
    zip_safe=False,
    entry_points={
        'console_scripts': [
            'frontend = superpoint_ros.nodes.frontend:main',
            'stereo_frontend = superpoint_ros.nodes.stereo:main',
            'rig_frontend = superpoint_ros.nodes.rig:main',
            'replay = superpoint_ros.nodes.replay:main',
            'export_colmap = superpoint_ros.exports.colmap:main',
            'export_vocabulary = superpoint_ros.exports.vocabulary:main',
            'benchmark = superpoint_ros.benchmark.__main__:main',
            'demo = superpoint_ros.demo.__main__:main',
            'train = superpoint_training.train:main',
            'train_from_bag = superpoint_training.train_from_bag:main',
            'label = superpoint_training.label:main',
            'route = superpoint_training.route:main',
            'evaluate = superpoint_training.evaluate:main',
            'publish = superpoint_training.publish:main',
        ],
    },
)
