"""Log output of the commands, on standard error and to a file."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

from mlx_personal.errors import from_os_error


def configure_logging(verbosity: int, file: Path | None) -> Callable[[], None]:
    """Print the log lines of this package.

    Args:
        verbosity: 0 prints nothing on standard error, 1 the lines from INFO on, 2 those from DEBUG on.
        file: File that gets the lines from DEBUG on, appended; only its owner can read it. None for no file.

    Returns:
        A function that ends the output.

    Raises:
        UserError: The file cannot be written.
    """
    logger = logging.getLogger("mlx_personal")
    previous_level = logger.level
    handlers: list[logging.Handler] = []
    if verbosity:
        handlers.append(logging.StreamHandler())
        handlers[-1].setLevel(logging.INFO if verbosity == 1 else logging.DEBUG)
    if file is not None:
        try:
            # Created for its owner alone; one that exists already is made so.
            os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
            os.chmod(file, 0o600)
            handlers.append(logging.FileHandler(file, encoding="utf-8"))
        except OSError as error:
            raise from_os_error(error, file) from error
        handlers[-1].setLevel(logging.DEBUG)
    for handler in handlers:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        logger.addHandler(handler)
    if handlers:
        logger.setLevel(min(handler.level for handler in handlers))

    def end() -> None:
        for handler in handlers:
            logger.removeHandler(handler)
            handler.close()
        logger.setLevel(previous_level)

    return end
