"""What goes wrong with a model."""


class ModelError(ValueError):
    """A model that cannot be read, or not with the shapes asked for. One line: what, where, what to do."""


def one_line(error: BaseException) -> str:
    """An error's message on one line."""
    return " ".join(str(error).split())
