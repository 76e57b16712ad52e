"""Access to the Hugging Face hub by its own client, whose failures become errors for users."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

from mlx_personal.errors import UserError, from_os_error


@contextlib.contextmanager
def hub_access(location: str, missing: str, alternative: str) -> Iterator[None]:
    """Raise a `UserError` for every failure of the hub's client inside the `with` block, and silence its log.

    Args:
        location: What is downloaded.
        missing: What it means that it is not on the hub.
        alternative: What to do instead, beginning with `or`.

    Raises:
        UserError: If the block fails.
    """
    from huggingface_hub import errors

    hub_logger = logging.getLogger("huggingface_hub")
    level = hub_logger.level
    hub_logger.setLevel(logging.CRITICAL)  # it logs each error that it also raises
    try:
        yield
    except UserError:
        raise
    except errors.GatedRepoError as error:
        hint = f"accept their terms on the hub, {alternative}"
        raise UserError("its owners require a login", location, hint) from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.RemoteEntryNotFoundError) as error:
        raise UserError(missing, location, alternative.removeprefix("or ")) from error
    except Exception as error:  # without a network the hub's client raises errors of its HTTP library
        if isinstance(error, OSError) and error.errno:
            raise from_os_error(error, location) from error
        hint = f"check the network, {alternative}"
        raise UserError("cannot be fetched from the hub", location, hint) from error
    finally:
        hub_logger.setLevel(level)
