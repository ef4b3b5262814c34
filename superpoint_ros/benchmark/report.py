"""The benchmark's figures as text."""

from __future__ import annotations

from typing import Any

from superpoint_ros.benchmark.stages import EXTRA_STAGES, STAGES

Row = dict[str, float]


def format_report(report: dict[str, Any]) -> str:
    """Tables of stages, by size and by batch, for each of the weights, and what they are compared with."""
    lines = [_machine(report), f'messages {report["machine"]["messages"]}']
    for result in report['weights'].values():
        lines += ['', *_format_weights(result)]
    lines += ['', 'peers and plain code look at one size of an image, on the CPU']
    lines += [f'{"peers, ms":32}{"p50":>9}{"p95":>9}{"p99":>9}   keypoints']
    for name, peer in report['peers'].items():
        lines.append(_row(f'{name}, brute-force matching', peer['end_to_end'], 32) + f'{peer["keypoints_mean"]:12.0f}')
    return '\n'.join(lines)


def _machine(report: dict[str, Any]) -> str:
    machine = report['machine']
    width, height = report['size']
    return (
        f'{machine["processor"]}, {machine["cores"]} cores, GPU: {machine["gpu"] or "none"}; '
        f'{width} x {height}, {report["pictures"]}'
    )


def _format_weights(result: dict[str, Any]) -> list[str]:
    frontend, plain = result['frontend'], result.get('plain')
    counts = [frontend[f'{name}_mean'] for name in ('keypoints', 'matches', 'inliers')]
    lines = [
        result['description'],
        '{:.0f} keypoints, {:.0f} matches, {:.0f} inliers a frame; '.format(*counts)
        + f'at most {result["peak_memory_mb"]} MB',
        f'{"ms":14}{"p50":>9}{"p95":>9}{"p99":>9}' + f'{"plain p50":>12}{"p95":>9}{"p99":>9}' * bool(plain),
    ]
    for stage in STAGES:
        columns = [times['stages'].get(stage) for times in (frontend, plain) if times]
        if any(columns):
            lines.append(_row(stage, columns[0]) + ''.join(_row('', column, 3) for column in columns[1:]))
    for label, key in (('image to match', 'passage'), ('end to end', 'end_to_end')):
        totals = [times[key] for times in (frontend, plain) if times]
        lines.append(_row(label, totals[0]) + ''.join(_row('', total, 3) for total in totals[1:]))
    lines += [_row(f'+ {stage}', frontend['stages'].get(stage)) for stage in EXTRA_STAGES]
    lines.append(_row('in all', frontend['in_all']))
    lines.append(f'from end to end, without {" and ".join(EXTRA_STAGES)}, as the peers are timed:')
    lines.append(f'{frontend["beside_network"]:.1%} of the time is not the network')
    lines += [f'{ratio:.2f} times as fast as {name}' for name, ratio in result['times_as_fast_as'].items()]
    for row in result.get('sizes', ()):
        (width, height), found = row['size'], row['found']
        label = f'{width} x {height}, {found:.0f} of {row["keypoints"]} keypoints'
        lines.append(_row(label, row['end_to_end'], 40) + f'   network {row["stages"]["network"]["p50"]:.2f}')
    for row in result.get('levels', ()):
        lines.append(_row(f'{row["levels"]} level{"s" * (row["levels"] > 1)}', row['end_to_end'], 40))
    for row in result.get('batches', ()):
        lines.append(_row(f'{row["images"]} at once, ms an image', row['ms_an_image'], 40))
    if ceiling := result.get('ceiling'):
        lines.append(
            '{batch} at once through the network alone: {images_per_second} images a second, {share:.0%} of the '
            '{ceiling_tflops:.3g} Tflop/s of a convolution'.format(**ceiling)
        )
    if eager := result.get('eager'):
        lines.append(_row('image to match in eager torch', eager, 40))
        lines.append(f'{eager["p50"] / frontend["passage"]["p50"]:.2f} times as fast as that')
    return lines


def _row(name: str, times: Row | None, width: int = 14) -> str:
    """Percentiles; dashes where a stage is not run by itself."""
    cells = [f'{times[key]:.2f}' if times else '-' for key in ('p50', 'p95', 'p99')]
    return f'{name:{width}}' + ''.join(f'{cell:>9}' for cell in cells)


def format_node_report(report: dict[str, Any]) -> str:
    """A row for each camera rate."""
    lines = [_machine(report)]
    for weights, result in report['node'].items():
        set_to = ', '.join(f'{name} {value}' for name, value in result['parameters'].items())
        lines += [
            '',
            f'{weights} ({set_to})',
            'camera Hz   images  dropped   p50 ms   p95 ms   p99 ms  cores busy   memory MB',
        ]
        for run in result['rates']:
            latency = run['latency_ms'] or dict.fromkeys(('p50', 'p95', 'p99'), float('nan'))
            lines.append(
                f'{run["camera_hz"]:9.1f}{run["images"]:9}{run["dropped"]:9}{_row("", latency, 0)}'
                f'{run["cpu_cores"]:12.2f}{run["memory_mb"]:12.1f}'
            )
        lines.append(f'memory grew by {result["memory_growth_mb"]:.1f} MB')
    return '\n'.join(lines)
