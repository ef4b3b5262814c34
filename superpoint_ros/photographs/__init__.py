"""Photographs that come with the package; SOURCES.md says from where, and on what terms."""

from pathlib import Path


def photographs() -> list[Path]:
    """JPEG files that the package ships.

    Raises:
        FileNotFoundError: there are none.
    """
    folder = Path(__file__).parent
    found = sorted(folder.glob('*.jpg'))
    if not found:
        raise FileNotFoundError(f'no photographs in {folder}: install the package again')
    return found
