"""What can be wrong with storage, in our words: the reason and the fix for what a driver raises.

Drivers raise what their service's library raises, so this goes by the service's own codes and by the names of classes:
no library of a service is imported for it. Pure.
"""

from collections.abc import Iterator, Mapping, Sequence

from learners.errors import first_line
from orchestrator.storage.address import scrubbed


class StorageFault(Exception):
    """Storage did not do what it was asked.

    Args:
        reason: what is wrong, in a few words, without the address.
        fix: what its owner can do.
    """

    def __init__(self, reason: str, fix: str) -> None:
        super().__init__(reason, fix)
        self.reason, self.fix = reason, fix

    def __str__(self) -> str:
        return self.reason


_ALLOW = "allow these credentials to list, read, write and delete there"
_ENVIRONMENT = (
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, name a profile with AWS_PROFILE, or give the machine a role"
)
_NETWORK = "look at the network, and at AWS_ENDPOINT_URL where the storage is not Amazon's"

BY_CODE: Mapping[str, tuple[str, str]] = {
    "NoSuchBucket": ("the bucket does not exist", "make it, or correct the address"),
    "AccessDenied": ("these credentials have no permission", _ALLOW),
    "403": ("these credentials have no permission", _ALLOW),
    "InvalidAccessKeyId": ("the access key is not known there", _ENVIRONMENT),
    "SignatureDoesNotMatch": ("the secret key is not that of the access key", _ENVIRONMENT),
    "ExpiredToken": ("the credentials have expired", "renew them"),
    "InvalidToken": ("the session token is not accepted", "renew it"),
    "QuotaExceeded": ("the storage is full", "make room there"),
}
"""By the code that S3 and its like answer with."""

BY_CLASS: Sequence[tuple[tuple[str, ...], tuple[str, str]]] = (
    (
        ("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError"),
        ("there are no credentials", _ENVIRONMENT),
    ),
    (("ProfileNotFound",), ("there is no such profile", _ENVIRONMENT)),
    (("PermissionError",), ("these credentials have no permission", _ALLOW)),
    (("FileNotFoundError",), ("it is not there", "correct the address")),
    (("TimeoutError", "ConnectTimeoutError", "ReadTimeoutError"), ("it does not answer in time", _NETWORK)),
    (("ConnectionError", "HTTPClientError", "ClientConnectionError"), ("it cannot be reached", _NETWORK)),
)
"""By the name of the class of what was raised, or of one that it comes from."""


def fault_of(error: Exception) -> StorageFault:
    """Of what a driver raised."""
    chain = list(_causes(error))
    for cause in chain:
        known = BY_CODE.get(_code(cause))
        if known is not None:
            return StorageFault(*known)
    for names, known in BY_CLASS:
        if any(kind.__name__ in names for cause in chain for kind in type(cause).__mro__):
            return StorageFault(*known)
    return StorageFault(scrubbed(first_line(error)), "look at the storage")


def missing_driver(scheme: str, error: ImportError | ValueError) -> StorageFault:
    """There is no way to storage of this kind."""
    if scheme in ("s3", "s3a"):
        return StorageFault("the package s3fs is not installed", "install it with `pip install 'paceline[s3]'`")
    if isinstance(error, ImportError):
        return StorageFault(
            f"the driver for {scheme}:// is not installed", f"{first_line(error)} (see docs/storage.md)"
        )
    return StorageFault(f"no driver for {scheme}:// is known", "correct the address, such as s3://bucket/runs/mine")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error, and what it was raised from."""
    for _ in range(8):  # chains may be circles
        if error is None:
            return
        yield error
        error = error.__cause__


def _code(error: BaseException) -> str:
    """That the service answered with; empty where it did not answer."""
    response = getattr(error, "response", None)
    inner = response.get("Error") if isinstance(response, Mapping) else None
    return str(inner.get("Code", "")) if isinstance(inner, Mapping) else ""
