"""Log lines of the commands, on standard error and in a file."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

from mlx_personal.errors import from_os_error

_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
# Standard error gets warnings as a line for the user; INFO and DEBUG with -v and -vv.
_LEVELS = (logging.WARNING, logging.INFO, logging.DEBUG)


def configure_logging(verbosity: int, file: Path | None) -> Callable[[], None]:
    """Send the log lines of this package to standard error and to a file.

    Args:
        verbosity: 0 prints warnings on standard error, 1 also INFO, 2 also DEBUG.
        file: File that gets all lines, appended; only its owner can read it. None for no file.

    Returns:
        A function that ends the output.

    Raises:
        UserError: If the file cannot be written.
    """
    logger = logging.getLogger("mlx_personal")
    previous_level = logger.level
    console: logging.Handler = logging.StreamHandler()
    console.setLevel(_LEVELS[min(verbosity, 2)])
    console.setFormatter(logging.Formatter(_FORMAT if verbosity else "mlx-personal: %(message)s"))
    handlers = [console]
    if file is not None:
        handlers.append(_file_handler(file))
    for handler in handlers:
        logger.addHandler(handler)
    logger.setLevel(min(handler.level for handler in handlers))

    def end() -> None:
        for handler in handlers:
            logger.removeHandler(handler)
            handler.close()
        logger.setLevel(previous_level)

    return end


def _file_handler(file: Path) -> logging.Handler:
    try:
        # Created for its owner alone; one that exists already is made private.
        os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
        os.chmod(file, 0o600)
        handler = logging.FileHandler(file, encoding="utf-8")
    except OSError as error:
        raise from_os_error(error, file) from error
    handler.setLevel(logging.DEBUG)
    handler.setFormatter(logging.Formatter(_FORMAT))
    return handler
