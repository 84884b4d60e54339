"""Refusal of passwords and tokens in configs, logs and results."""

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from ssl_jax.core.errors import UserError

WHERE = (
    "set it in the environment, which is not written anywhere: AWS_ACCESS_KEY_ID and "
    "AWS_SECRET_ACCESS_KEY, GOOGLE_APPLICATION_CREDENTIALS, AZURE_STORAGE_ACCOUNT_KEY, HF_TOKEN, "
    "or fsspec's FSSPEC_HTTPS and the like"
)
# A user name alone is fine, as in abfs://container@account and hdfs://user@host, but not in HTTP.
_LOGIN = re.compile(
    r"://[^/:@\s]*:(?!/|\d+(?:/|$))\S*@|https?://[^/?#\s]+@",  # a port is not a password
    re.IGNORECASE,
)
_QUERY = re.compile(
    r"://\S*[?&;#][\w.-]*(?:token|secret|passw|pwd|sig|credential|key|auth)[\w.-]*=[^&;#\s]",
    re.IGNORECASE,
)
_TOKEN = re.compile(
    r"(?<![A-Za-z0-9])(?:hf_[A-Za-z0-9]{20}|gh[pousr]_[A-Za-z0-9]{20}|github_pat_\w{20}"
    r"|(?:AKIA|ASIA)[0-9A-Z]{16}|AIza[\w-]{35})"
)


def refuse(value: Any, where: str) -> None:
    """Refuse a text, or a text anywhere in lists and mappings, that holds credentials.

    Otherwise config.json, checkpoints, results, reports and messages would contain them.
    Credentials are a URL with a password (`https://me:pw@host`) or a signature (`?token=...`,
    `&sig=...`), or an access token of a known form (Hugging Face, GitHub, AWS, Google). The message
    does not repeat them.

    Raises:
      UserError: a text holds credentials; the message names `where` and what to use instead.
    """
    if isinstance(value, Mapping):
        for key, entry in value.items():
            refuse(entry, f"{where}.{key}" if where else str(key))
    elif isinstance(value, (tuple, list)):
        for entry in value:
            refuse(entry, where)
    elif isinstance(value, str) and has_credentials(value):
        raise UserError(f"{where} holds a password or an access token; {WHERE}")


def has_credentials(text: str) -> bool:
    """True if a text holds credentials."""
    return any(form.search(t) for t in {text, unquote(text)} for form in (_LOGIN, _QUERY, _TOKEN))
