r"""`publish`: weights into the package, with a model card made from their metadata and an evaluation.

    python -m superpoint_training.publish runs/superpoint.safetensors --results runs/evaluation/results.json \
        --data "5,825 grey pictures from public research sets; their terms ..."
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from superpoint_ros.networks import WEIGHTS_DIRECTORY, encode_network, load_network, resolve_weights
from superpoint_ros.networks.weights import parameter_count
from superpoint_training.failures import TrainingError
from superpoint_training.files import write_whole
from superpoint_training.recipes import RECIPES
from superpoint_training.report import summary_tables

CARD = """# {name}

{parameters:,} parameters, descriptors of {dimension} values, {size:.2f} MB (half precision). Network `{architecture}`:
`{config}`.

| | |
|---|---|
| recipe | {recipe} |
| data | {data} |
| labels | {labels} |
| schedule | {schedule} |
| hardware | {hardware} |
| seed | {seed} |
| losses at the end | {losses} |

Made by {command}.

{evaluations}
## What the figures do not say

One seed. The pairs are few and mostly outdoor; several have a ground truth too coarse for the 1 px column. {rotations}
"""
OF_THE_TRAINING = ('recipe', 'data', 'schedule', 'hardware', 'seed', 'losses')
"""What the card takes from the metadata that a training writes."""
TURNS = """Quarter
turns change nothing, what lies between them was trained; but what is told apart by its orientation alone is not told
apart."""
DOES_NOT_TURN = """Rotations
beyond 45 degrees were not trained and match poorly."""


def evaluation_section(results: dict[str, Any], weights: Path, name: str) -> str:
    """One evaluation as a heading and a table, the weights under their shipped name.

    Those that have this name now are called earlier ones.
    """
    rows = {}
    for key, value in results['detectors'].items():
        rows[name if Path(key).name == weights.name else f'{name}, the earlier one' if key == name else key] = value
    tables = '\n\n'.join(table.markdown() for table in summary_tables(results | {'detectors': rows}))
    return f'## Figures, `{results["protocol"]}`\n\n{tables}\n'


def _command(name: str, recipe: str) -> str:
    if recipe in RECIPES and not RECIPES[recipe].needs_labels:
        files = f'--config config/training/{name}.yaml --frames PICTURES --out {name}.safetensors'
        return f'`python -m superpoint_training.train {recipe} {files}`'
    return (
        '`python -m superpoint_training.route --frames PICTURES --runs runs`; the stages before it are listed in '
        '`training/superpoint_training/route.py`'
    )


def publish(weights: Path, results: Sequence[Path], data: str, folder: Path) -> Path:
    """Copy weights into a folder, which is made, and write their card beside them; returns the card's path.

    Nothing is written unless the card can be made.

    Raises:
        TrainingError: the folder can't be written to.
        WeightsError: the weights can't be read.
        ValueError: the weights do not say how they were trained, or one of the results is no results.json.
    """
    network = load_network(weights, fold=False)
    name, about = weights.stem, network.metadata
    missing = [key for key in OF_THE_TRAINING if key not in about]
    if missing:
        raise ValueError(
            f"'{weights}' does not say its {', '.join(missing)}, which the card is to tell: take a file that `train` "
            'or `train_from_bag` wrote'
        )
    evaluations = []
    for path in results:
        try:
            evaluations.append(evaluation_section(json.loads(path.read_text()), weights, name))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"'{path}' is no results.json of `evaluate`: {error}") from error
    content = encode_network(network, about | {'data_terms': data})
    text = CARD.format(
        name=name,
        parameters=parameter_count(network),
        dimension=network.config.descriptor_dim,
        size=len(content) / 1e6,
        config=about['config'],
        architecture=network.architecture,
        recipe=about['recipe'],
        data=data,
        labels=about['data'],
        schedule=about['schedule'],
        hardware=about['hardware'],
        seed=about['seed'],
        losses=about['losses'],
        command=_command(name, about['recipe']),
        evaluations='\n'.join(evaluations),
        rotations=TURNS if getattr(network.config, 'turning', False) else DOES_NOT_TURN,
    )
    card = folder / f'{name}.md'
    write_whole(folder / weights.name, content)
    write_whole(card, text.encode())
    return card


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 1 for an error."""
    parser = argparse.ArgumentParser(prog='publish', description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument('weights', help='a .safetensors file that `train` wrote; its name becomes the shipped name')
    parser.add_argument(
        '--results', nargs='*', action='extend', type=Path, default=[], help='results.json of `evaluate`'
    )
    parser.add_argument('--data', required=True, help='what the training pictures are, and their terms')
    parser.add_argument('--folder', type=Path, default=WEIGHTS_DIRECTORY, help='default: the package')
    options = parser.parse_args(arguments)
    try:
        print(publish(resolve_weights(options.weights), options.results, options.data, options.folder))
    except (TrainingError, ValueError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
