"""What may not be stored: names and shapes that look like secrets, and text with them taken out. Pure.

Three independent nets, because each has holes:

1. *names*: a variable, flag, query parameter or JSON key called like a secret (`HF_TOKEN`, `--api-key`,
`X-Amz-Signature`); 2. *shapes*: text that looks like a credential wherever it stands (`hf_...`, `AKIA...`,
`-----BEGIN`, `user:password@`); 3. *values*: whatever this process's own secret-named variables hold, found again
inside other text, plain or encoded.

Over-redaction costs a reader one word; under-redaction publishes a credential in a file that is never deleted. So doubt
redacts, with two deliberate exceptions that would make records useless: numbers under a `tokens` flag (language models
count tokens), and digests (lower-case hexadecimal, which commits and images are named by).
"""

from __future__ import annotations

import base64
import itertools
import re
from collections.abc import Iterable, Mapping
from typing import Final
from urllib.parse import quote

REDACTED: Final = "[redacted]"
#: Shorter values of secret-named variables are too likely to be words (`true`, `none`, `1234`) to look for elsewhere.
MIN_KNOWN_SECRET: Final = 6

_SECRET_WORDS: Final = frozenset(
    ("token", "tokens", "secret", "secrets", "password", "passwords", "passwd", "pwd", "passphrase", "apikey",
     "credential", "credentials", "creds", "auth", "authorization", "bearer", "cookie", "cookies", "signature",
     "sig", "jwt", "pat", "sas", "dsn", "webhook", "netrc", "totp", "otp")
)  # fmt: skip
#: Long enough to be recognised inside a word without separators (`MYSECRETVALUE`, `dbpassword2`).
_SECRET_STEMS: Final = ("password", "passwd", "passphrase", "secret", "apikey", "credential", "accesskey", "privatekey")
#: `<word> key` names a secret after these words only: `sort_key` and `kv_key` do not.
_KEY_OWNERS: Final = frozenset(
    ("api", "access", "private", "secret", "encryption", "signing", "account", "shared", "license", "service",
     "storage", "deploy", "master", "auth", "ssh", "hf", "wandb", "openai", "app", "session", "subscription",
     "write", "ingest")
)  # fmt: skip
#: `pass` is a password after these words (and alone); compilers have passes too (`..._GEMM_PASS=1`).
_PASS_OWNERS: Final = frozenset(
    ("", "db", "user", "admin", "root", "redis", "pg", "mysql", "postgres", "ftp", "smtp", "proxy", "http",
     "sudo", "login", "my")
)  # fmt: skip
#: `--eos-token "<s>"` names a vocabulary entry.
_VOCABULARY_OWNERS: Final = frozenset(
    ("bos", "eos", "pad", "unk", "mask", "sep", "cls", "special", "image", "stop", "start", "end", "per", "max",
     "num", "min")
)  # fmt: skip
_WORDS: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
_NUMBER: Final = re.compile(r"[+-]?[0-9][0-9_,]*(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?[kKmMgGbBtT]?")

#: Published prefixes and shapes of credentials. Each is specific enough to be wrong about ordinary text almost never.
_SHAPES: Final = re.compile(
    r"""
      (?<![A-Za-z0-9])(?:
      -----BEGIN[ ][A-Z ]+-----[\s\S]*                                  # PEM: everything from the first line on
    | hf_[A-Za-z0-9]{8,} | api_org_[A-Za-z0-9]{8,}                   # Hugging Face
    | gh[pousr]_[A-Za-z0-9]{8,} | github_pat_\w{8,}                  # GitHub
    | gl(?:pat|dt|rt|cbt|ptt|ft|soat)-[\w-]{8,}                        # GitLab
    | (?:sk|rk|pk)[-_](?=[A-Za-z_-]*[0-9])[A-Za-z0-9_-]{8,}            # OpenAI, Anthropic, Stripe
    | (?:AKIA|ASIA|AROA|AIDA|AGPA|ANPA)[A-Z0-9]{12,}                   # AWS key ids
    | xox[abeoprs]-[A-Za-z0-9-]{8,} | xapp-[A-Za-z0-9-]{8,}          # Slack
    | hooks\.slack\.com/[\w/.-]+ | discord(?:app)?\.com/api/webhooks/[\w/.-]+
    | AIza[A-Za-z0-9_-]{16,} | ya29\.[\w.-]{8,} | GOCSPX-[\w-]{8,} # Google
    | eyJ[A-Za-z0-9_-]{6,}\.[A-Za-z0-9_-]{6,}(?:\.[A-Za-z0-9_-]*)?     # JSON web token
    | nvapi-[\w-]{8,} | pypi-[\w-]{16,} | npm_[A-Za-z0-9]{8,}      # NVIDIA, PyPI, npm
    | dckr_pat_[\w-]{8,} | dop_v1_[a-f0-9]{8,}                       # Docker Hub, DigitalOcean
    | (?:ak|as)-[A-Za-z0-9]{20,} | wandb_v[0-9]_\w{8,} | SG\.[\w-]{8,}\.[\w-]{8,}  # Modal, W&B, SendGrid
    | (?i:bearer)[ ]+[A-Za-z0-9._~+/=-]{6,}
    | (?i:basic|token)[ ]+(?=[A-Za-z._~+/=-]*[0-9])[A-Za-z0-9._~+/=-]{6,}  # HTTP authorization values
    )
    """,
    re.VERBOSE,
)
#: `scheme://user:password@`; and the same without a scheme, which must not be mistaken for `image:tag@sha256:…`.
_URL_USERINFO: Final = re.compile(
    r"(?P<scheme>(?<![A-Za-z0-9+.-])[A-Za-z][A-Za-z0-9+.-]{0,30}://)[^/?#\s'\"]+@(?!sha[0-9]+:)"
)
_BARE_USERINFO: Final = re.compile(
    r"(?:(?<![\w/.:-])|(?<=//))[\w.-]{1,64}:[^\s/@:'\"]{1,128}@(?!sha[0-9]+:)(?=[\w.-]+)"
)
#: `name=`, `name: `, `"name": ` in a query string, a connection string, JSON or shell text, and the value that follows.
_NAMED: Final = re.compile(
    r"(?<![A-Za-z0-9_])(?P<name>[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})[\"']?\s{0,8}(?:=|:(?!//))\s{0,8}"
)
_VALUE: Final = re.compile(r"""(?P<mark>["'])(?P<quoted>.*?)(?P=mark)|(?P<bare>[^\s&;,"'}]+)""", re.DOTALL)
#: Headers whose whole line is the secret, spaces and commas included.
_HEADER: Final = re.compile(r"(?P<name>\b(?i:(?:proxy-)?authorization|(?:set-)?cookie)\b[\"']?\s*[:=]\s*)[^\n\"']+")
#: `--password=anything at all`, `HF_TOKEN=no-blank`: the argument is one assignment, so all that follows is the value.
_ASSIGNMENT: Final = re.compile(r"(?P<name>-[^=\s]{0,200}|[^=\s-][^=\s]{0,200}(?==\S*\Z))=(?P<value>[\s\S]+)")
#: A run of letters and digits long enough to be generated. Paths, dots and dashes end a run.
_RUN: Final = re.compile(r"[A-Za-z0-9+/=_]{28,}")
#: A plain absolute path.
_PATH: Final = re.compile(r"~?(?:/[\w.@+ -]+)+/?")


def secret_name(name: str) -> bool:
    """Whether a variable, flag or key is called like a secret."""
    words = [word.lower() for word in _WORDS.findall(name)]
    flat = "".join(words)
    if any(stem in flat for stem in _SECRET_STEMS) or flat.endswith("apitoken"):
        return True
    for index, word in enumerate(words):
        before = words[index - 1] if index else ""
        if word in ("token", "tokens") and before in _VOCABULARY_OWNERS:
            continue
        if word == "pass" and before in _PASS_OWNERS and index == len(words) - 1:
            return True
        if word in _SECRET_WORDS or (word.endswith("token") and len(word) > len("token")):
            return True
        if word in ("key", "keys") and before in _KEY_OWNERS:
            return True
        if word.endswith("key") and word[: -len("key")] in _KEY_OWNERS:
            return True
    return False


def counts_tokens(name: str, value: str) -> bool:
    """Whether `name=value` plainly counts things: `tokens=4096`, `token_budget=1e9`, but not `token=123456`."""
    words = [word.lower() for word in _WORDS.findall(name)]
    counted = "tokens" in words or ("token" in words and words[-1] != "token")
    others = [word for word in words if word not in ("token", "tokens")]
    return counted and _NUMBER.fullmatch(value) is not None and not secret_name("_".join(others))


def secret_shape(text: str) -> bool:
    """Whether the text holds something shaped like a credential, whatever it is called."""
    if _SHAPES.search(text) or _URL_USERINFO.search(text) or _BARE_USERINFO.search(text):
        return True
    return any(_generated(run) for run in _RUN.findall(text))


def _generated(run: str) -> bool:
    """Whether a long run reads as random: both cases and digits mixed throughout. Not so hexadecimal or words."""
    if run.count("/") > len(run) // 12:
        return False
    kinds = ["u" if c.isupper() else "l" if c.islower() else "d" if c.isdigit() else "o" for c in run]
    if not {"u", "l", "d"} <= set(kinds):
        return False
    # CamelCase words change kind about once in five letters, random base 62 about twice in three.
    changes = sum(a != b for a, b in itertools.pairwise(kinds))
    return changes * 3 >= len(run)


def known_secrets(environ: Mapping[str, str]) -> frozenset[str]:
    """What the secret-named variables of `environ` hold: plain, percent-encoded, hexadecimal, base64. Never stored."""
    out: set[str] = set()
    for name, value in environ.items():
        # A secret's *file* may be named: its path is no secret. Base64 can begin with a slash too, hence the second
        # look.
        a_path = _PATH.fullmatch(value) is not None and not _generated(value)
        if a_path or not secret_name(name) or len(value) < MIN_KNOWN_SECRET or _NUMBER.fullmatch(value):
            continue
        raw = value.encode("utf-8", "surrogateescape")
        out |= {value, quote(raw, safe=""), raw.hex()}
        out |= {base64.b64encode(raw).decode().rstrip("="), base64.urlsafe_b64encode(raw).decode().rstrip("=")}
    return frozenset(out)


def holds_known(text: str, known: Iterable[str]) -> bool:
    """Whether any known secret stands somewhere inside the text."""
    return any(secret in text for secret in known)


def looks_secret(name: str, value: str, known: Iterable[str] = ()) -> bool:
    """Whether the value of a *variable* may not be stored. Stricter than arguments: no exception for token counts."""
    if not value:
        return False
    return secret_name(name) or secret_shape(value) or holds_known(value, known) or bool(_secret_spans(value))


def _secret_spans(text: str) -> list[tuple[int, int]]:
    """Where the values of secret-named pairs stand. A pair inside another one's value is found as well."""
    spans: list[tuple[int, int]] = []
    for named in _NAMED.finditer(text):
        if (spans and named.start() < spans[-1][1]) or not secret_name(named["name"]):
            continue
        value = _VALUE.match(text, named.end())
        if value is None:
            continue
        kind = "bare" if value["mark"] is None else "quoted"
        if value[kind] and not counts_tokens(named["name"], value[kind]):
            spans.append(value.span(kind))
    return spans


def redact_text(text: str, known: Iterable[str] = ()) -> str:
    """The text with every secret-looking part replaced by `[redacted]`; anything else stays byte for byte."""
    for secret in sorted(known, key=len, reverse=True):
        text = text.replace(secret, REDACTED)
    text = _URL_USERINFO.sub(rf"\g<scheme>{REDACTED}@", text)
    text = _BARE_USERINFO.sub(f"{REDACTED}@", text)
    text = _HEADER.sub(rf"\g<name>{REDACTED}", text)
    for begin, end in reversed(_secret_spans(text)):
        text = text[:begin] + REDACTED + text[end:]
    text = _SHAPES.sub(REDACTED, text)
    return _RUN.sub(lambda match: REDACTED if _generated(match[0]) else match[0], text)


def redact_argv(argv: Iterable[str], environ: Mapping[str, str] | None = None) -> tuple[list[str], bool]:
    """Arguments as they may stand in a record, and whether anything was taken out.

    Args:
        argv: the command, verbatim.
        environ: where given, the values of its secret-named variables are taken out of the arguments too.
    """
    known = known_secrets(environ) if environ else frozenset()
    out: list[str] = []
    changed, taken_by = False, ""
    for argument in argv:
        if taken_by and not _is_flag(argument):
            kept = argument if counts_tokens(taken_by, argument) else REDACTED
            if taken_by in _USER_FLAGS:
                kept = REDACTED if ":" in argument else redact_text(argument, known)
            taken_by = ""
        else:
            kept = _redact_argument(argument, known)
            taken_by = argument if _takes_secret(argument) else ""
        changed = changed or kept != argument
        out.append(kept)
    return out, changed


def _redact_argument(argument: str, known: frozenset[str]) -> str:
    match = _ASSIGNMENT.fullmatch(argument)
    if match and "://" not in match["name"] and secret_name(match["name"]):
        return argument if counts_tokens(match["name"], match["value"]) else f"{match['name']}={REDACTED}"
    return redact_text(argument, known)


#: curl's and its imitators': `-u name:password`.
_USER_FLAGS: Final = ("-u", "--user", "--proxy-user")


def _is_flag(argument: str) -> bool:
    return argument.startswith("--") or re.fullmatch(r"-[A-Za-z]", argument) is not None


def _takes_secret(argument: str) -> bool:
    """Whether this argument names a secret whose value is the next argument."""
    if argument in _USER_FLAGS:
        return True
    return argument.startswith("-") and "=" not in argument and " " not in argument and secret_name(argument)
