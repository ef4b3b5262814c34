"""What libraries' errors say, for people."""


def first_line(error: BaseException) -> str:
    """The beginning of its message, before traces and hints, or its kind if it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
