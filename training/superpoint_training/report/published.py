"""The papers' own figures, printed beside ours to compare the order of things, never to rank against them."""

from superpoint_training.report.blocks import Block, Table, Text

LABEL = 'published, on HPatches (116 scenes)'

_HPATCHES = """
ORB           .532 1.429 .131 .422 .540 .218   .525 .286 .607 .710 .204
SIFT          .451  .855 .622 .845 .878 .304   .421 .602 .833 .876 .265
BRISK         .566 1.077 .414 .767 .826 .258   .505 .300 .653 .746 .211
SuperPoint    .631 1.109 .491 .833 .893 .318   .593 .509 .834 .900 .281
UnsuperPoint  .645  .832 .579 .855 .903 .424   .612 .493 .843 .905 .383
KP2D          .686  .890 .591 .867 .912 .544   .684 .564 .851 .907 .510
"""
"""Tang et al. 2020, tables 1 and 2 ("Neural outlier rejection for self-supervised keypoint learning")."""

_GOODPOINT = (('GoodPoint', '0.48', '0.59', '0.60'), ('SuperPoint', '0.52', '0.59', '0.47'))
"""Belikov & Potapov 2021."""

_SHAPES = (
    ('MagicPoint', '0.979', '0.971'),
    ('FAST', '0.405', '0.061'),
    ('Harris', '0.678', '0.213'),
    ('Shi-Tomasi', '0.686', '0.157'),
)
"""DeTone et al. 2018, without and with noise."""


def published_pairs() -> list[Block]:
    """What the papers print for homography pairs."""
    rows = [
        [name, *(_full(figure) for figure in figures)] for name, *figures in map(str.split, _HPATCHES.split('\n')[1:-1])
    ]
    small = ['repeatability', 'localisation error, px', '≤ 1 px', '≤ 3 px', '≤ 5 px', 'matching score']
    large = [title for title in small if title != 'localisation error, px']
    return [
        Text(
            'The protocols kp2d-320 and kp2d-640 follow these tables, but the pictures differ: neither the scenes nor '
            'their difficulty are ours. Only the order of SIFT and ORB, and the distance between them, can be held '
            'against the tables above.'
        ),
        Table(
            ['detector', *small, *large], rows, f'{LABEL}: Tang et al. 2020',
            [('320×240, 300 keypoints', len(small)), ('640×480, 1000 keypoints', len(large))],
        ),
        Table(
            ['detector', 'harmonic mean, 3 px', 'harmonic mean, 5 px', 'coverage, 3 px'],
            _GOODPOINT, f'{LABEL}: Belikov & Potapov 2021; coverage on its pairs that differ in light',
        ),
    ]  # fmt: skip


def published_shapes() -> list[Block]:
    """What SuperPoint's paper prints for Synthetic Shapes."""
    return [
        Table(
            ['detector', 'mAP without noise', 'mAP with noise'],
            _SHAPES,
            'published, on Synthetic Shapes: DeTone et al. 2018',
        )
    ]


def _full(figure: str) -> str:
    return f'0{figure}' if figure.startswith('.') else figure
