"""Photographs that come with the package; SOURCES.md says from where, and on what terms."""

from pathlib import Path

FOLDER = Path(__file__).parent


def photographs() -> list[Path]:
    """JPEG files that the package ships.

    Raises:
        FileNotFoundError: there are none.
    """
    found = sorted(FOLDER.glob('*.jpg'))
    if not found:
        raise FileNotFoundError(f'no photographs in {FOLDER}: install the package again')
    return found
