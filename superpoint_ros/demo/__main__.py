"""Runs the front-end on a recording over ROS 2 topics and says how well it did."""

import argparse
import sys
from pathlib import Path

from superpoint_ros.arguments import at_least, not_negative
from superpoint_ros.calibrations import CalibrationFileError
from superpoint_ros.demo.run import DemoError, Settings, Source, run
from superpoint_ros.demo.sequence import Gallery
from superpoint_ros.demo.summary import table
from superpoint_ros.nodes.recordings import RecordingError
from superpoint_ros.processes import ProcessError, own_domain


def main(arguments: list[str] | None = None) -> None:
    """Run the demo; ends with status 1 and a message when it can't."""
    options = _parse(arguments)
    settings = Settings(options.weights, options.rate, options.domain)
    try:
        if options.input is None:
            gallery = Gallery(options.frames)
            source = Source(gallery.bag(options.output), transfer=gallery.transfer)
        else:
            source = Source(options.input, options.topic, options.camera_info)
        print(f'Playing {source.open()} ...', flush=True)
        summary = run(source, options.output, settings)
    except (DemoError, ProcessError, RecordingError, CalibrationFileError, OSError) as error:
        sys.exit(f'demo: {error}')
    except KeyboardInterrupt:
        sys.exit('demo: stopped')
    print(table(summary))
    print(f'Bag, pictures, figures and logs are in {options.output}.')


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog='demo', description=__doc__)
    parser.add_argument(
        'input', nargs='?', type=Path, help='bag, video or folder of pictures; default: the built-in sequence'
    )
    parser.add_argument(
        '--topic', default='', help='image topic of a bag; default: the one with the most images that are not depth'
    )
    parser.add_argument(
        '--camera-info', type=Path, help='calibration file (YAML) of a recording that has none or a wrong one'
    )
    parser.add_argument('--output', type=Path, default=Path('out/demo'), help='default: %(default)s')
    parser.add_argument('--weights', default='superpoint', help='default: %(default)s')
    parser.add_argument(
        '--rate',
        type=not_negative,
        default=1.0,
        help='speed, 1 as recorded; 0 sends an image when the one before was answered; default: %(default)s',
    )
    parser.add_argument(
        '--frames', type=at_least(1), default=150, help='of the built-in sequence; default: %(default)s'
    )
    parser.add_argument('--domain', type=int, default=own_domain(), help='ROS_DOMAIN_ID; default: any of 1 to 100')
    options = parser.parse_args(arguments)
    if options.input is None and (options.topic or options.camera_info):
        parser.error('--topic and --camera-info are about a recording: name it, too')
    return options


if __name__ == '__main__':
    main()
